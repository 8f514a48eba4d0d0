//! Marks and limits of the real binary, seen from the outside: what a plain socket receives, and what the sender says
//! it does.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use common::{Receiver, both_done, send, skip};
use socket2::{Domain, Protocol, Socket, Type};

#[test]
fn a_mark_is_on_the_first_datagram() {
    // Raw, to see the header of IP.
    let Ok(mut raw) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) else {
        return skip("raw sockets need a privilege: the mark of the binary is not looked at");
    };
    raw.set_read_timeout(Some(LIMIT)).unwrap();
    raw.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("f");
    fs::write(&source, "x").unwrap();
    for (mark, dscp) in [
        ("cs0", 0),
        ("cs1", 8),
        ("af11", 10),
        ("ef", 46),
        ("le", 1),
        ("63", 63),
    ] {
        let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = nobody.local_addr().unwrap();
        let sender = send(&[&source], &to.to_string(), &["--dscp", mark]);
        let header = loop {
            let mut packet = [0; 2000];
            let len = raw.read(&mut packet).unwrap();
            let udp = usize::from(packet[0] & 15) * 4;
            if len > udp + 4 && packet[udp + 2..udp + 4] == to.port().to_be_bytes() {
                break packet;
            }
        };
        sender.stop();
        assert_eq!(header[1], dscp << 2, "{mark}");
    }
}

#[test]
fn a_marked_transfer_arrives_under_its_limit() {
    for (listen, limit) in [
        ("127.0.0.1:0", "16M"),
        ("[::1]:0", "00:00-12:00=16M,12:00-24:00=16M"),
        ("[::]:0", "*=16M"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let (source, into) = (place.path().join("f"), place.path().join("in"));
        fs::create_dir(&into).unwrap();
        fs::write(&source, vec![7; 1_500_000]).unwrap();
        let receiver = Receiver::start_at(listen, &into, &["--once", "--dscp", "af11"]);
        let to = receiver.address.replace("[::]", "127.0.0.1");
        let sender = send(&[&source], &to, &["--dscp", "le", "--bwlimit", limit]);
        let (sent, _) = both_done(sender, receiver.end);
        assert_eq!(fs::read(into.join("f")).unwrap(), vec![7; 1_500_000]);
        let paces: Vec<u64> = sent
            .events
            .iter()
            .filter_map(|event| event["pacing_bps"].as_u64())
            .collect();
        assert!(
            !paces.is_empty() && paces.iter().all(|pace| *pace <= 16_000_000),
            "{paces:?}"
        );
    }
}

const LIMIT: Duration = Duration::from_secs(60);
