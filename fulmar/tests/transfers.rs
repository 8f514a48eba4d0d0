//! Whole transfers between two processes of the real binary, over loopback and over a bad link: what arrives, what both
//! ends say of it, how they exit, how much memory they need.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::{Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fulmar::demo::Relay;
use fulmar_proto::hpudp::{BLOCK, CHUNK_PLAIN};
use fulmar_proto::sim::{LinkConfig, Loss};
use rustix::process::Signal;

use common::{
    Receiver, both_done, hash, inbox, names_in, random_file, same, send, skip, wait_for_partial,
};

/// No byte, one, a chunk, a block and a bit, and several thousand chunks; names as people choose them.
const FILES: [(&str, u64); 5] = [
    ("nothing", 0),
    ("one byte", 1),
    ("naïve résumé.tar.gz", CHUNK_PLAIN as u64),
    ("写真 🐦.jpg", 137_000),
    ("-large", 20_000_000),
];

#[test]
fn everything_arrives_in_every_way() {
    let place = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = FILES
        .iter()
        .map(|(name, size)| random_file(&place.path().join(name), *size, 1))
        .collect();
    assert!(FILES[3].1 > BLOCK * CHUNK_PLAIN as u64);
    let ways: [(&str, &str, &[&str]); 5] = [
        ("127.0.0.1:0", "127.0.0.1", &[]),
        ("127.0.0.1:0", "localhost", &["--plain"]),
        (
            "127.0.0.1:0",
            "127.0.0.1",
            &["--policy", "fixed", "--rate", "200Mbit", "--fec", "table"],
        ),
        ("[::1]:0", "[::1]", &["--plain", "--fec", "table"]),
        // A socket for both families; and the peer's address must not change with the family.
        (
            "[::]:0",
            "127.0.0.1",
            &["--policy", "hpudp", "--fec", "table"],
        ),
    ];
    for (number, (listen, to, options)) in ways.into_iter().enumerate() {
        if listen.starts_with('[') && UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            skip("this machine has no IPv6");
            continue;
        }
        let into = inbox(place.path(), &format!("in {number}"));
        let receiver = Receiver::start_at(listen, &into, &[]);
        let (_, port) = receiver.address.rsplit_once(':').unwrap();
        let sent = send(&files, &format!("{to}:{port}"), options).finish();
        assert_eq!(sent.code(), Some(0), "{options:?}: {sent:#?}");
        let received = receiver.end.stop();
        assert_eq!(received.code(), Some(130), "{received:#?}");
        assert!(
            received
                .said
                .contains("5 files received, 0 failed, 0 refused")
        );

        let (here, there) = (sent.all("done"), received.all("done"));
        assert_eq!((here.len(), there.len()), (files.len(), files.len()));
        for (((name, size), source), (here, there)) in
            FILES.iter().zip(&files).zip(here.iter().zip(&there))
        {
            for event in [here, there] {
                assert_eq!(event["file"], *name);
                assert_eq!(
                    (&event["size"], &event["done"]),
                    (&(*size).into(), &(*size).into())
                );
                assert_eq!(event["hash"], hash(source));
                assert_eq!(event["encrypted"], !options.contains(&"--plain"));
            }
            assert_eq!(Path::new(here["path"].as_str().unwrap()), source);
            assert_eq!(Path::new(there["path"].as_str().unwrap()), into.join(name));
            assert!(same(source, &into.join(name)), "{name} {options:?}");
        }
        assert_eq!(names_in(&into).len(), files.len(), "{:?}", names_in(&into));
    }
}

#[test]
fn a_refused_file_ends_the_sender_and_not_the_receiver() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let files =
        ["first", "taken", "third"].map(|name| random_file(&place.path().join(name), 200_000, 2));
    fs::write(into.join("taken"), "was here first").unwrap();
    let receiver = Receiver::start(&into, &[]);
    let sent = send(&files, &receiver.address, &[]).finish();
    sent.failed_with(6, "exists");
    assert_eq!(sent.all("done").len(), 1);
    assert_eq!(names_in(&into), ["first", "taken"]);
    assert_eq!(fs::read(into.join("taken")).unwrap(), b"was here first");

    // A receiver for one file waits for one that it can take.
    let again = send(&files[2..], &receiver.address, &[]).finish();
    assert_eq!(again.code(), Some(0), "{again:#?}");
    let received = receiver.end.stop();
    let refused = received.all("failed")[0];
    assert_eq!(
        (&refused["file"], &refused["exit"]),
        (&"taken".into(), &6.into())
    );
    assert!(
        received
            .said
            .contains("2 files received, 0 failed, 1 refused")
    );
    assert_eq!(names_in(&into), ["first", "taken", "third"]);
    assert!(same(&files[2], &into.join("third")));
}

#[test]
fn nobody_there_is_exit_3_and_says_where_it_looked() {
    let place = tempfile::tempdir().unwrap();
    let source = random_file(&place.path().join("f"), 10, 3);
    // The kernel answers that nobody has this port, which proves nothing: the next moment somebody may.
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = closed.local_addr().unwrap().to_string();
    drop(closed);
    let ended = send(&[source], &to, &[]).finish();
    ended.failed_with(3, "no answer");
    assert!(ended.said.contains(&to), "{ended:#?}");
}

#[test]
fn an_interrupted_end_tells_the_other_one() {
    let place = tempfile::tempdir().unwrap();
    let source = random_file(&place.path().join("f"), 20_000_000, 4);
    for (number, sender_stops) in [true, false].into_iter().enumerate() {
        let into = inbox(place.path(), &number.to_string());
        let receiver = Receiver::start(&into, &["--once"]);
        let sender = send(&[&source], &receiver.address, &["--max-rate", "16M"]);
        wait_for_partial(&into);
        let (sent, received) = if sender_stops {
            sender.signal(Signal::INT);
            let (sent, received) = (sender.finish(), receiver.end.finish());
            sent.failed_with(130, "stopped by the user");
            received.failed_with(6, "the other side gave up");
            (sent, received)
        } else {
            receiver.end.signal(Signal::INT);
            let (sent, received) = (sender.finish(), receiver.end.finish());
            received.failed_with(130, "no file was received");
            sent.failed_with(6, "the other side gave up");
            (sent, received)
        };
        assert!(sent.all("done").is_empty() && received.all("done").is_empty());
        assert_eq!(names_in(&into), [""; 0]);
    }
}

#[test]
fn memory_has_a_bound_that_no_file_and_no_link_moves() {
    let place = tempfile::tempdir().unwrap();
    let source = random_file(&place.path().join("f"), 300_000_000, 5);
    let bad = LinkConfig {
        delay: Duration::from_millis(10),
        loss: Loss::Independent(0.02),
        ..LinkConfig::PERFECT
    };
    for lossy in [false, true] {
        let into = inbox(place.path(), if lossy { "lossy" } else { "loopback" });
        let receiver = Receiver::start(&into, &["--once"]);
        let server = receiver.address.parse().unwrap();
        let relay = lossy.then(|| Relay::start(server, bad.clone(), bad.clone(), 5).unwrap());
        let to = relay.as_ref().map_or_else(
            || receiver.address.clone(),
            |relay| relay.addr().to_string(),
        );
        let (sent, received) = both_done(send(&[&source], &to, &[]), receiver.end);
        let link = relay.map(|relay| relay.stop().up);
        println!(
            "lossy {lossy}: sender {} KiB, receiver {} KiB, {} s, {link:?}",
            sent.peak,
            received.peak,
            sent.all("done")[0]["elapsed_s"]
        );
        assert!(same(&source, &into.join("f")));
        assert!(
            (1..64 << 10).contains(&received.peak),
            "{} KiB",
            received.peak
        );
        assert!((1..160 << 10).contains(&sent.peak), "{} KiB", sent.peak);
        if let Some(link) = link {
            assert!(link.lost > 1000, "{link:?}");
        }
        fs::remove_file(into.join("f")).unwrap();
    }
}
