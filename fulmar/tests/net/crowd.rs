//! One daemon and everybody at once: forty honest clients on links that lose, and strangers who ask under addresses that
//! are not theirs.
//!
//! `CRASH=long` moves files of 50 MB instead of 4.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use fulmar::demo::Relay;
use fulmar_proto::engine::Bitrate;
use fulmar_proto::sim::{LinkConfig, Loss};

use crate::common::{End, Ended, Receiver, get, inbox, names_in, put, random_file, same};

#[test]
fn twenty_puts_and_twenty_gets_at_5_percent_loss_all_get_their_share() {
    let long = std::env::var("CRASH").is_ok_and(|value| value == "long");
    let size = if long { 50_000_000 } else { 4_000_000 };
    let place = tempfile::tempdir().unwrap();
    let [shelf, here, back] = ["shelf", "here", "back"].map(|name| inbox(place.path(), name));
    for client in 0..CLIENTS {
        random_file(&here.join(format!("put{client}")), size, client);
        random_file(&shelf.join(format!("get{client}")), size, CLIENTS + client);
    }
    let daemon = Receiver::serve(&shelf, &[]);
    // All of them together are what two cores carry beside other work: who gets how much should not be up to those.
    let link = LinkConfig {
        rate: Some(Bitrate::from_bits_per_sec(8_000_000)),
        queue: 1 << 16,
        delay: Duration::from_millis(10),
        loss: Loss::Independent(0.05),
        ..LinkConfig::PERFECT
    };
    let to: SocketAddr = daemon.address.parse().unwrap();
    let relays: Vec<Relay> = (0..2 * CLIENTS)
        .map(|seed| Relay::start(to, link.clone(), link.clone(), seed).unwrap())
        .collect();
    let clients: Vec<End> = relays
        .iter()
        .zip(0..)
        .map(|(relay, number)| {
            let (daemon, client) = (relay.addr().to_string(), number % CLIENTS);
            if number < CLIENTS {
                put(&here.join(format!("put{client}")), &daemon, &[])
            } else {
                get(&daemon, &format!("get{client}"), &back, &[])
            }
        })
        .collect();
    let ended: Vec<Ended> = clients
        .into_iter()
        .map(|client| client.finish_within(PATIENCE))
        .collect();
    let failed = ended.iter().filter(|it| it.code() != Some(0));
    let failed: Vec<_> = failed
        .map(|it| (&it.said, it.events.iter().rev().nth(1)))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:#?}",
        failed.len(),
        ended.len()
    );
    for client in 0..CLIENTS {
        let (put, get) = (format!("put{client}"), format!("get{client}"));
        assert!(same(&here.join(&put), &shelf.join(&put)), "{put}");
        assert!(same(&shelf.join(&get), &back.join(&get)), "{get}");
    }
    for (what, ended) in [
        ("puts", &ended[..CLIENTS as usize]),
        ("gets", &ended[CLIENTS as usize..]),
    ] {
        let rates = ended
            .iter()
            .map(|it| it.all("done")[0]["average_bps"].as_u64().unwrap());
        let (mean, slowest) = (rates.clone().sum::<u64>() / CLIENTS, rates.min().unwrap());
        println!("{what}: {mean} bit/s on average, the slowest {slowest}");
        assert!(4 * slowest >= mean, "{what}: {slowest} of {mean} bit/s");
    }
    let lost: u64 = relays
        .into_iter()
        .map(|relay| relay.stop())
        .map(|it| it.up.lost + it.down.lost)
        .sum();
    assert!(
        lost > 40 * size / 1352 / 25,
        "only {lost} datagrams were lost"
    );
    assert_eq!(daemon.end.stop().code(), Some(0));
}

#[test]
fn whoever_asks_under_another_address_draws_little_and_keeps_nobody_out() {
    let place = tempfile::tempdir().unwrap();
    let [shelf, here, back] = ["shelf", "here", "back"].map(|name| inbox(place.path(), name));
    random_file(&shelf.join("give"), 8_000_000, 1);
    random_file(&here.join("take"), 8_000_000, 2);
    let daemon = Receiver::serve(&shelf, &[]);
    let to: SocketAddr = daemon.address.parse().unwrap();
    let victims: Vec<Victim> = (0..64).map(|_| Victim::new(to)).collect();
    // Before anybody else is there, while they are, and once they are gone.
    flood(&victims, 0..1_000);
    let mut clients = [
        put(&here.join("take"), &daemon.address, &["--max-rate", "100M"]),
        get(&daemon.address, "give", &back, &[]),
    ];
    let mut next = 1_000;
    while clients.iter_mut().any(End::is_running) {
        flood(&victims, next..next + 80);
        next += 80;
    }
    for client in clients {
        let ended = client.finish();
        assert_eq!(ended.code(), Some(0), "{ended:#?}");
    }
    // Nor do they wait: what asks in vain is forgotten, or makes room.
    let again = get(&daemon.address, "give", &inbox(place.path(), "again"), &[]).finish();
    assert_eq!(again.code(), Some(0), "{again:#?}");
    for (number, victim) in victims.iter().enumerate() {
        let (paid, drawn) = victim.count();
        assert!(
            drawn <= 3 * paid,
            "victim {number}: {drawn} bytes for {paid}"
        );
    }
    let drawn: u64 = victims.iter().map(|it| it.count().1).sum();
    println!("{next} datagrams drew {drawn} bytes");
    assert!(
        drawn > 0,
        "nobody was answered: the requests were no requests"
    );
    assert!(same(&here.join("take"), &shelf.join("take")));
    assert!(same(&shelf.join("give"), &back.join("give")));
    assert_eq!(names_in(&shelf), ["give", "take"]);
    let ended = daemon.end.stop();
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    assert!(ended.peak < 96 << 10, "{} KiB", ended.peak);
}

/// Whoever has the address that a request bears. It hears the answers, and whoever wrote the request does not: none of
/// its packets depends on them.
struct Victim {
    socket: UdpSocket,
    to: SocketAddr,
    paid: std::cell::Cell<u64>,
    drawn: std::cell::Cell<u64>,
}

impl Victim {
    fn new(to: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            to,
            paid: 0.into(),
            drawn: 0.into(),
        }
    }

    fn pay(&self, packet: &[u8]) {
        self.paid.set(self.paid.get() + packet.len() as u64);
        // What the kernel has no room for was paid for all the same.
        let _ = self.socket.send_to(packet, self.to);
    }

    /// Bytes to the daemon in this name, and bytes that came of it.
    fn count(&self) -> (u64, u64) {
        let mut buf = [0; 2_000];
        while let Ok((len, _)) = self.socket.recv_from(&mut buf) {
            self.drawn.set(self.drawn.get() + len as u64);
        }
        (self.paid.get(), self.drawn.get())
    }
}

/// Requests to push and to pull, short and padded, and heartbeats for sessions that they might have begun.
fn flood(victims: &[Victim], numbers: std::ops::Range<u32>) {
    for number in numbers {
        let victim = &victims[number as usize % victims.len()];
        let id = 0x5000_0000 + number / 8;
        match number % 8 {
            0 => victim.pay(&push(id, &format!("spam {number}"), 1 << 30)),
            1 => victim.pay(&push(id, "take", 8_000_000)),
            2 => victim.pay(&packet(PULL_REQ, id, b"give\0", 0)),
            3 => victim.pay(&packet(PULL_REQ, id, b"give\0", 1_000)),
            4 => victim.pay(&packet(PULL_REQ, id, b"no such file\0", 0)),
            _ => victim.pay(&heartbeat(id, u64::from(number % 8) * 3)),
        }
        victim.count();
        // Faster, and a request has lost its place to the next ones before it is a session.
        thread::sleep(Duration::from_micros(500));
    }
}

/// PUSH_REQ (3.3), in the clear.
fn push(id: u32, name: &str, size: u64) -> Vec<u8> {
    let payload = [&size.to_be_bytes()[..], name.as_bytes(), &[0]].concat();
    packet(PUSH_REQ, id, &payload, 0)
}

/// A heartbeat (7.2) of somebody who is glad of everything, and echoes nothing, for nothing has come.
fn heartbeat(id: u32, holes: u64) -> Vec<u8> {
    let mut payload = vec![0xff; 8];
    payload.extend([0; 10]);
    payload.extend(u16::try_from(holes).unwrap().to_be_bytes());
    payload.extend([0; 16]);
    payload.extend((1..=holes).flat_map(|seq| seq.to_be_bytes()));
    packet(HEARTBEAT, id, &payload, 0)
}

/// A header (2.1), a payload, and so many bytes that do not count.
fn packet(kind: u8, id: u32, payload: &[u8], padding: usize) -> Vec<u8> {
    let mut packet = vec![0; 32];
    packet[0] = kind;
    packet[1..5].copy_from_slice(&id.to_be_bytes());
    packet[21..23].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

const CLIENTS: u64 = 20;
/// For forty files of 50 MB on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
const HEARTBEAT: u8 = 0x03;
const PULL_REQ: u8 = 0x07;
const PUSH_REQ: u8 = 0x08;
