//! Whole transfers between two processes of the real binary, over loopback and over a bad link: what arrives, what both
//! ends say of it, how they exit, how much memory they need.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::{Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use fulmar::demo::Relay;
use fulmar::transfer::ReceiveOptions;
use fulmar_proto::hpudp::{BLOCK, CHUNK_PLAIN};
use fulmar_proto::sim::{LinkConfig, Loss};
use rustix::process::Signal;

use common::{
    End, Receiver, both_done, hash, inbox, is_partial, names_in, random_file, same, send, skip,
    wait_for_partial,
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
        let to = format!("{to}:{port}");
        let mut sent = Vec::new();
        for source in &files {
            let one = send(&[source], &to, options).finish();
            assert_eq!(one.code(), Some(0), "{options:?}: {one:#?}");
            assert!(one.all("single_files").is_empty(), "{one:#?}");
            sent.push(one.all("done")[0].clone());
        }
        let received = receiver.end.stop();
        assert_eq!(received.code(), Some(130), "{received:#?}");
        assert!(
            received
                .said
                .contains("5 files received, 0 failed, 0 refused")
        );

        let there = received.all("done");
        assert_eq!(there.len(), files.len());
        for (((name, size), source), (here, there)) in
            FILES.iter().zip(&files).zip(sent.iter().zip(there))
        {
            for event in [here, there] {
                assert_eq!(event["file"], *name);
                assert_eq!(
                    (&event["size"], &event["done"]),
                    (&(*size).into(), &(*size).into())
                );
                assert_eq!((&event["files"], &event["resumed"]), (&1.into(), &0.into()));
                assert_eq!(event["hash"], blake3(source));
                assert_eq!(event["encrypted"], !options.contains(&"--plain"));
            }
            assert_eq!(Path::new(here["path"].as_str().unwrap()), source);
            assert_eq!(Path::new(there["path"].as_str().unwrap()), into.join(name));
            assert!(same(source, &into.join(name)), "{name} {options:?}");
        }
        assert_eq!(names_in(&into).len(), files.len(), "{:?}", names_in(&into));
    }

    // All of them in one session: all are there at once.
    let into = inbox(place.path(), "in one");
    let receiver = Receiver::start(&into, &["--once"]);
    let (sent, received) = both_done(send(&files, &receiver.address, &[]), receiver.end);
    for event in [sent.all("done")[0], received.all("done")[0]] {
        assert_eq!(
            (&event["file"], &event["files"]),
            (&"5 items".into(), &5.into())
        );
    }
    assert_eq!(sent.all("done")[0]["path"], serde_json::Value::Null);
    assert!(
        files
            .iter()
            .all(|source| same(source, &into.join(source.file_name().unwrap())))
    );
}

#[test]
fn a_refused_file_ends_the_sender_and_not_the_receiver() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let files =
        ["first", "taken", "third"].map(|name| random_file(&place.path().join(name), 200_000, 2));
    fs::write(into.join("taken"), "was here first").unwrap();
    let receiver = Receiver::start(&into, &[]);
    // What is sent in one go arrives in one go, or not at all.
    let sent = send(&files, &receiver.address, &[]).finish();
    sent.failed_with(6, "exists");
    assert_eq!(sent.all("done").len(), 0);
    assert_eq!(names_in(&into), ["taken"]);
    assert_eq!(fs::read(into.join("taken")).unwrap(), b"was here first");

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
            .contains("1 files received, 0 failed, 1 refused")
    );
    assert_eq!(names_in(&into), ["taken", "third"]);
    assert!(same(&files[2], &into.join("third")));
}

/// A receiver without the extension, which is any program that speaks v5.0 only.
#[test]
fn a_v5_receiver_gets_single_files_said_once_and_a_known_host_is_no_such_receiver() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let files = ["a", "b"].map(|name| random_file(&place.path().join(name), 300_000, 7));
    let mut options = ReceiveOptions::default();
    options.config.extensions = false;
    let loopback = "127.0.0.1:0".parse().unwrap();
    let receiver = fulmar::transfer::Receiver::bind(&into, loopback, options).unwrap();
    let to = receiver.local_addr().to_string();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _raised = Raised(&over);
        let receiving = scope.spawn(|| receiver.run(|_| (), &over));
        let key = format!("SHA256:{}", "A".repeat(43));
        for demand in [&["--require-auth"][..], &["--host-key", &key]] {
            let refused = send(&files, &to, demand).finish();
            refused.failed_with(4, "it shows no key");
            assert!(names_in(&into).is_empty());
        }
        // Who waits for one takes what is meant for a daemon too.
        for (verb, file) in [("send", &files[..1]), ("put", &files[1..])] {
            let mut command = common::fulmar();
            let sent = End::spawn(command.arg(verb).args(file).arg(&to)).finish();
            assert_eq!(sent.code(), Some(0), "{sent:#?}");
            assert_eq!(sent.all("single_files").len(), 1, "{sent:#?}");
            assert_eq!(sent.all("done")[0]["hash"], hash(&file[0]));
        }
        fs::remove_file(into.join("b")).unwrap();
        fs::remove_file(into.join("a")).unwrap();
        let sent = send(&files, &to, &[]).finish();
        assert_eq!(sent.code(), Some(0), "{sent:#?}");
        assert_eq!(sent.all("single_files").len(), 1, "{sent:#?}");
        assert_eq!(sent.all("done").len(), 2, "{sent:#?}");
        over.store(true, Relaxed);
        receiving.join().unwrap().unwrap();
    });
    assert!(
        files
            .iter()
            .all(|source| same(source, &into.join(source.file_name().unwrap())))
    );
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
        assert!(names_in(&into).iter().all(|name| is_partial(name)));
        // It goes on.
        let receiver = Receiver::start(&into, &["--once"]);
        both_done(send(&[&source], &receiver.address, &[]), receiver.end);
        assert_eq!(names_in(&into), ["f"]);
        assert!(same(&source, &into.join("f")));
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

/// Raises a flag when it goes out of scope, so that a failure ends the thread that looks at it.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What `b3sum` prints.
fn blake3(path: &Path) -> String {
    blake3::hash(&fs::read(path).unwrap()).to_string()
}
