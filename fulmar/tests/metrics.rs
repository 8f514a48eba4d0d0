//! `fulmar recv --metrics` of the real binary: what it counts, and what nobody can do to it.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use common::{Receiver, inbox, random_file, send};
use fulmar_proto::sim::Rng;

#[test]
fn what_happened_is_counted() {
    let place = tempfile::tempdir().unwrap();
    let (into, source) = (
        inbox(place.path(), "in"),
        random_file(&place.path().join("f"), 3_000_000, 1),
    );
    let (receiver, metrics) = start(&into);
    let before = scrape(metrics);
    assert_eq!(before["fulmar_hpudp_socket_received_datagrams_total"], 0);
    assert_eq!(before["fulmar_hpudp_sessions{state=\"receiving\"}"], 0);

    assert_eq!(
        send(&[&source], &receiver.address, &[]).finish().code(),
        Some(0)
    );
    // Under its name it is refused.
    assert_eq!(
        send(&[&source], &receiver.address, &[]).finish().code(),
        Some(6)
    );
    let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..7 {
        noise
            .send_to(b"nothing that means anything", &receiver.address)
            .unwrap();
    }
    let mut after = scrape(metrics);
    for _ in 0..1000 {
        if after["fulmar_hpudp_malformed_total"] >= 7 {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        after = scrape(metrics);
    }
    assert_eq!(after["fulmar_hpudp_malformed_total"], 7);
    assert_eq!(after["fulmar_hpudp_rejects_total{reason=\"exists\"}"], 1);
    assert_eq!(after["fulmar_hpudp_rejects_total{reason=\"busy\"}"], 0);
    assert!(after["fulmar_hpudp_socket_received_bytes_total"] > 3_000_000);
    assert!(after["fulmar_hpudp_datagrams_total"] > 2000);
    // The answers to both requests came before anything was proved; neither was more than three times as long.
    let unproved = after["fulmar_hpudp_unproved_bytes_total"];
    assert!((32..1000).contains(&unproved), "{unproved}");
    for (name, value) in &before {
        let counter = name.split('{').next().unwrap().ends_with("_total");
        assert!(!counter || after[name] >= *value, "{name} fell");
    }
    assert_eq!(
        before.len(),
        after.len(),
        "what there is does not depend on what happens"
    );
    assert_eq!(receiver.end.stop().code(), Some(130));
    assert!(TcpStream::connect(metrics).is_err());
}

#[test]
fn whoever_asks_badly_keeps_nobody_else_from_asking() {
    let place = tempfile::tempdir().unwrap();
    let (mut receiver, metrics) = start(&inbox(place.path(), "in"));
    assert!(ask(metrics, b"GET /health HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nok\n"));

    let mut rng = Rng::new(5);
    for turn in 0..200 {
        let mut noise = vec![0; rng.below(3000) as usize];
        rng.fill(&mut noise);
        if turn % 2 == 0 {
            noise.splice(0..0, *b"GET /metrics HTTP/1.1\r\n");
        }
        let mut stream = TcpStream::connect(metrics).unwrap();
        let _ = stream.write_all(&noise);
        if turn % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    assert!(ask(metrics, &[b'a'; 100_000]).starts_with("HTTP/1.1 431 "));
    assert!(ask(metrics, b"DELETE /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(ask(metrics, b"GET /secret HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));

    // Many that say nothing, and some that say a byte now and then: the one behind them is served all the same.
    let idle: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(metrics).unwrap())
        .collect();
    for mut stream in &idle {
        let _ = stream.write_all(b"GET");
    }
    assert!(scrape(metrics).len() > 20);
    drop(idle);
    assert!(receiver.end.is_running());
    let ended = receiver.end.stop();
    assert!(!ended.said.contains("panicked"), "{}", ended.said);
}

#[test]
fn an_address_that_is_taken_is_said() {
    let place = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fulmar"));
    command
        .arg("recv")
        .arg(place.path())
        .args(["--listen", "127.0.0.1:0", "--metrics", &at]);
    common::End::spawn(&mut command)
        .finish()
        .failed_with(1, &format!("cannot serve metrics at {at}"));
}

/// Offers by the thousand, none of which is more than a datagram, are ten lines a second (E4).
#[test]
fn a_flood_of_offers_is_no_flood_of_lines() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    fs::write(into.join("f"), "taken").unwrap();
    let (receiver, metrics) = start(&into);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let start = std::time::Instant::now();
    for number in 1..=2000u32 {
        stranger.send_to(&offer(number), &receiver.address).unwrap();
        if number % 50 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    let told = "fulmar_hpudp_rejects_total{reason=\"exists\"}";
    for _ in 0..1000 {
        if scrape(metrics)[told] >= 500 {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert!(scrape(metrics)[told] >= 500);
    let ended = receiver.end.stop();
    let (lines, seconds) = (ended.all("failed").len() as u64, start.elapsed().as_secs());
    // The signal that ends it is said as well.
    assert!(
        lines <= 10 * (seconds + 2) + 1,
        "{lines} lines in {seconds} s"
    );
    let left_out: u64 = ended
        .all("unsaid")
        .iter()
        .map(|event| event["count"].as_u64().unwrap())
        .sum();
    assert!(
        lines >= 5 && lines + left_out > 500,
        "{lines} and {left_out}"
    );
}

fn start(into: &std::path::Path) -> (Receiver, SocketAddr) {
    let mut receiver = Receiver::start(into, &["--metrics", "127.0.0.1:0"]);
    let listen = receiver.end.wait_for("metrics")["listen"].clone();
    (receiver, listen.as_str().unwrap().parse().unwrap())
}

/// Every sample by its name and labels.
fn scrape(at: SocketAddr) -> BTreeMap<String, u64> {
    let answer = ask(at, b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    body.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn ask(at: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let _ = stream.write_all(request);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// SESSION_REQ of a plain file of five bytes called `f` (HP-UDP 3.2).
fn offer(id: u32) -> Vec<u8> {
    let payload = [
        &5u64.to_be_bytes()[..],
        &7u64.to_be_bytes(),
        &[0; 4],
        b"f\0",
    ]
    .concat();
    let mut packet = vec![0; 32];
    packet[1..5].copy_from_slice(&id.to_be_bytes());
    packet[21..23].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend(payload);
    packet
}

const LIMIT: Duration = Duration::from_secs(60);
