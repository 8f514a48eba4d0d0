//! The inputs of the fuzz targets, played on every run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fulmar_proto::crypto::Secret;
use fulmar_proto::hpudp::Config;
use fulmar_proto::sim::{Rng, hostile};

use super::damage::surgery;
use crate::common::{Pair, Sent, kind, link, packet, seed};

/// The inputs that fuzzing starts from, and those that once failed.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = format!("{}/../fuzz/corpora/{target}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(&directory).expect("the corpus is committed");
    let mut out: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("a readable directory").path();
            let bytes = std::fs::read(&path).expect("a readable file");
            (path.display().to_string(), bytes)
        })
        .collect();
    out.sort();
    assert!(out.len() >= 8, "only {} inputs in {directory}", out.len());
    out
}

#[test]
fn the_corpus_plays_without_a_fault() {
    for (name, bytes) in corpus("parse_hpudp") {
        println!("{name}");
        hostile::parse_hpudp(&bytes);
    }
    let start = Instant::now();
    for (name, bytes) in corpus("endpoint_hpudp") {
        println!("{name}");
        hostile::endpoint_hpudp(start, &bytes);
    }
}

/// The fuzz targets without a fuzzer: plays drawn at random, and plays of the corpus with something changed.
#[test]
fn plays_at_random() {
    let seed = seed(1);
    let factor: u64 = std::env::var("HOSTILE").map_or(1, |n| n.parse().expect("a number"));
    let plays = corpus("endpoint_hpudp");
    let packets = corpus("parse_hpudp");
    let start = Instant::now();
    for round in 0..3_000 * factor {
        let seed = seed.wrapping_mul(1_000_003) + round;
        let mut rng = Rng::new(seed);
        let mut bytes = match rng.below(3) {
            0 => vec![0; rng.below(600) as usize],
            _ => plays[rng.below(plays.len() as u64) as usize].1.clone(),
        };
        if rng.chance(0.3) {
            let at = rng.below(bytes.len() as u64 + 1) as usize;
            let other = &plays[rng.below(plays.len() as u64) as usize].1;
            bytes.truncate(at);
            bytes.extend(other);
        }
        let all = bytes.iter().all(|&byte| byte == 0);
        for byte in &mut bytes {
            if all || rng.chance(0.02) {
                *byte = rng.next_u64() as u8;
            }
        }
        let played = std::panic::catch_unwind(|| hostile::endpoint_hpudp(start, &bytes));
        assert!(played.is_ok(), "play {seed}: {bytes:02x?}");
        for _ in 0..20 {
            let (_, packet) = &packets[rng.below(packets.len() as u64) as usize];
            let mut packet = packet.clone();
            surgery(&mut packet, &mut rng);
            hostile::parse_hpudp(&packet);
        }
    }
}

/// Writes the corpus anew: packets of every type as two hosts said them, and plays in which a file is sent.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_corpus() {
    let root = format!("{}/../fuzz/corpora", env!("CARGO_MANIFEST_DIR"));
    let write = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::write(format!("{root}/{target}/{name}"), bytes).expect("a writable tree");
    };
    let ways = ["", "push-", "pull-"];
    let kinds = ways.into_iter().flat_map(|way| [(way, false), (way, true)]);
    for (way, encrypt) in kinds {
        for extensions in [false, true] {
            let config = Config {
                extensions,
                host_key: Some(std::sync::Arc::new(Secret::from_bytes([7; 32]))),
                port: 9000,
                ..Config::default()
            };
            let link = link(20, 40, 0.2);
            let mut pair = Pair::fulmars(1, (config.clone(), config), link, 150_000);
            pair.apps.serving = true;
            pair.net.node_mut(pair.a).tapping = true;
            pair.net.node_mut(pair.b).tapping = true;
            match way {
                "push-" => pair.push(encrypt),
                "pull-" => pair.pull(encrypt),
                _ => pair.send(encrypt),
            }
            pair.finish(Duration::from_secs(60));
            pair.run_for(Duration::from_secs(10));
            let said = [pair.a, pair.b].map(|node| pair.net.node(node).sent.clone());
            let mut counts = BTreeMap::<u8, u32>::new();
            for Sent { bytes, .. } in said.into_iter().flatten() {
                let count = counts.entry(bytes[0]).or_default();
                *count += 1;
                let kind = bytes[0];
                // The handshakes are what differs.
                let told = way.is_empty() || matches!(kind, 0x00 | 0x07..=0x09);
                // The first is the simplest one, a later one has more in it.
                if told && [1, 9].contains(count) {
                    let sealed = if encrypt { "sealed" } else { "plain" };
                    let dialect = if extensions { "hpx1" } else { "v5" };
                    let name = format!("{kind:02x}-{way}{sealed}-{dialect}-{count}");
                    write("parse_hpudp", &name, &bytes);
                }
            }
        }
    }
    let list = packet(0x0d, 7, (3, 0), 0, 0, 0, &[0; 968]);
    write("parse_hpudp", "0d-third", &list);
    let lines = b"name\t12\nother\t3\n";
    let list = packet(0x0e, 7, (3, 500), lines.len(), 0, 0, lines);
    write("parse_hpudp", "0e-lines", &list);
    write(
        "parse_hpudp",
        "04-full-disk",
        &packet(kind::REJECT, 7, (0, 0), 1, 0, 0, &[0xf1]),
    );
    // See `sim::hostile` for what the bytes mean: two configurations, then scene after scene.
    let flow = [0x81, 200, 0x01, 200, 0x00, 0, 40].repeat(12);
    for (name, configs) in [("default", [0, 0]), ("v5", [1, 1]), ("tight", [0x6a, 0x68])] {
        for (kind, encrypt) in [("plain", 0), ("sealed", 1)] {
            for (size, which) in [("byte", 1), ("block", 5), ("blocks", 7)] {
                let mut play = configs.to_vec();
                play.extend([0x07, which, encrypt]);
                play.extend(&flow);
                play.extend([0x00, 0x20, 0x00, 0x81, 255, 0x01, 255]);
                write("endpoint_hpudp", &format!("{name}-{kind}-{size}"), &play);
            }
        }
    }
    // Bit 0 of the terms encrypts, bit 1 makes a bundle, the next two demand an identity; the second file of a host is
    // pulled, the third offered. 0x88 with 6 or 7 below 8 claims to have had something.
    for (name, terms) in [("bundle", 3u8), ("known-key", 0x09), ("other-key", 0x0d)] {
        let mut play = vec![0, 0];
        for round in 0..3 {
            play.extend([0x07, 7, terms]);
            play.extend(&flow[..28]);
            play.extend([0x88, round, 14, 0x08, round, 31]);
            play.extend(&flow);
        }
        play.extend([0x00, 0x20, 0x00, 0x81, 255, 0x01, 255]);
        write("endpoint_hpudp", name, &play);
    }
    let lists = [
        &[0, 0, 0x07, 230, 0, 0x07, 230, 60, 0x87, 230, 199][..],
        &flow,
    ]
    .concat();
    write("endpoint_hpudp", "lists", &lists);
    let mut lost = vec![0, 0, 0x07, 6, 1];
    for _ in 0..8 {
        lost.extend([0x83, 7, 0x81, 60, 0x03, 1, 0x01, 9, 0x00, 0, 90]);
    }
    write("endpoint_hpudp", "lossy", &lost);
    let mut forged = vec![0, 0, 0x07, 6, 1];
    for round in 0..8 {
        forged.extend([0x81, 30, 0x01, 9, 0x00, 0, 60]);
        forged.extend([
            0x85, 6, round, 2, 1, 0, 5, 255, 255, 255, 255, 255, 255, 255, 255, 2, 0, 0, 2,
        ]);
        forged.extend([0x05, 7, round, 1, 2, 0, 0, 3]);
    }
    write("endpoint_hpudp", "forged", &forged);
    let meddled = [
        &[0, 0, 0x07, 6, 0][..],
        &flow[..21],
        &[0x88, 0, 5, 0x08, 0, 1, 0x09, 0x89],
    ]
    .concat();
    write("endpoint_hpudp", "meddled", &[&meddled[..], &flow].concat());
}
