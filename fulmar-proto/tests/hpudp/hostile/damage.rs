//! Damaged packets by the hundred thousand, made of what the honest sides are saying.

use std::net::SocketAddr;
use std::time::Duration;

use fulmar_proto::sim::Rng;

use super::honest::pair;
use super::memory::measured;
use super::strangers::stranger;
use super::{MALLORY, MS};
use crate::common::{A, B, Pair, Sent, Strangers, kind, seed};

/// Hundreds of thousands of damaged packets at both roles, made of what the honest sides are saying: nothing panics,
/// nothing grows, and the transfer beside them is exact.
#[test]
fn a_million_damaged_packets() {
    let seed = seed(1);
    let factor: u64 = std::env::var("HOSTILE").map_or(1, |n| n.parse().expect("a number"));
    let mut thrown = 0;
    for (round, encrypt) in [false, true, false, true].into_iter().enumerate() {
        let seed = seed + round as u64;
        let strangers = if round < 2 {
            Strangers::Ignored
        } else {
            Strangers::Accepted
        };
        let (_, calm, _) = measured(|| smoke(seed, encrypt, strangers, 0));
        let (count, peak, kept) = measured(|| smoke(seed, encrypt, strangers, 250_000 * factor));
        println!(
            "encrypt {encrypt}, {strangers:?}: {count} packets, peak {peak} bytes, {calm} without"
        );
        thrown += count;
        assert!(
            peak < calm + (4 << 20),
            "{peak} bytes, {calm} without the attack"
        );
        assert!(kept.abs() < 64 << 10, "{kept} bytes kept");
    }
    assert!(thrown >= 1_000_000 * factor);
}

/// One transfer and `count` damaged packets beside it. How many were thrown.
fn smoke(seed: u64, encrypt: bool, strangers: Strangers, count: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut pair = pair(seed, encrypt, 20_000_000, 0.01);
    pair.apps.strangers = strangers;
    for node in [pair.a, pair.b] {
        pair.net.node_mut(node).tapping = true;
    }
    // What is on the wire, and where it belongs.
    let mut said: Vec<Sent> = Vec::new();
    let (mut thrown, mut most) = (0, 0);
    let limit = Duration::from_secs(100);
    let done = |pair: &Pair| pair.apps.sent.is_some() && pair.apps.received.is_some();
    while !done(&pair) {
        pair.run_for(MS);
        for node in [pair.a, pair.b] {
            // What is thrown has arrived long ago. One who copies a packet and overtakes it stands on the path, and
            // is believed until the packet itself arrives.
            let old = pair.net.elapsed().saturating_sub(MS * 200);
            let log = &mut pair.net.node_mut(node).sent;
            let fresh: Vec<_> = log.drain(..log.partition_point(|it| it.at < old)).collect();
            // A sample, old and new: the rare types stay among them.
            for sent in fresh {
                let chunk = matches!(sent.bytes[0], kind::DATA | kind::PARITY);
                if said.len() < 64 || (!chunk && said.len() < 512) {
                    said.push(sent);
                } else if rng.chance(0.1) {
                    let at = rng.below(said.len() as u64) as usize;
                    if matches!(said[at].bytes[0], kind::DATA | kind::PARITY) == chunk {
                        said[at] = sent;
                    }
                }
            }
        }
        let batch = if said.is_empty() { 0 } else { count / 1_700 };
        for _ in 0..batch.min(count - thrown) {
            let whose = said[rng.below(said.len() as u64) as usize].clone();
            let bytes = damaged(&whose.bytes, &said, &mut rng);
            let to = if rng.chance(0.9) == (whose.to == B) {
                pair.b
            } else {
                pair.a
            };
            let honest = if to == pair.b { A } else { B };
            let from = match rng.below(4) {
                0 if harmless(&bytes, encrypt, to == pair.b) => honest,
                0 | 1 => SocketAddr::new(honest.ip(), 9000 + rng.below(3) as u16 + 1),
                2 => MALLORY,
                _ => stranger(rng.below(5_000) as u32),
            };
            pair.net.inject(to, from, &bytes);
            thrown += 1;
        }
        for node in [pair.a, pair.b] {
            most = most.max(pair.net.node(node).endpoint().sessions());
        }
        assert!(pair.net.elapsed() < limit, "SEED={seed}: no end");
    }
    while thrown < count && !said.is_empty() {
        pair.run_for(MS);
        for _ in 0..(count - thrown).min(500) {
            let bytes = damaged(
                &said[rng.below(said.len() as u64) as usize].bytes,
                &said,
                &mut rng,
            );
            pair.net
                .inject(pair.b, stranger(rng.below(5_000) as u32), &bytes);
            thrown += 1;
        }
        pair.net.node_mut(pair.b).sent.clear();
    }
    pair.assert_done(&format!("SEED={seed}"));
    assert!(most <= 400, "{most} sessions");
    let events = pair.apps.events;
    assert!(events < 60_000 + count, "{events} events");
    pair.run_for(Duration::from_secs(60));
    for node in [pair.a, pair.b] {
        assert_eq!(
            pair.net.node(node).endpoint().sessions(),
            0,
            "everything ends"
        );
    }
    thrown
}

/// Whether v5.0 can be expected to bear a packet from the right address and under the right number: not if it is a
/// plain chunk or a control packet, which nothing authenticates.
fn harmless(bytes: &[u8], encrypt: bool, to_receiver: bool) -> bool {
    let Some(&first) = bytes.first() else {
        return true;
    };
    match first {
        kind::DATA | kind::PARITY => encrypt && to_receiver,
        kind::SESSION_REQ => to_receiver,
        kind::HEARTBEAT
        | kind::REJECT
        | kind::COMPLETE
        | kind::ACK_CLOSE
        | kind::SESSION_ACCEPT => bytes.len() < 32,
        _ => true,
    }
}

/// One to three things wrong with a packet.
fn damaged(bytes: &[u8], others: &[Sent], rng: &mut Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=rng.below(3) {
        match rng.below(8) {
            0 => {
                for _ in 0..=rng.below(8) {
                    let at = rng.below(out.len() as u64) as usize;
                    if let Some(byte) = out.get_mut(at) {
                        *byte ^= 1 << rng.below(8);
                    }
                }
            }
            1 => out.truncate(rng.below(out.len() as u64 + 1) as usize),
            2 => {
                let more = [1, 16, 100, 1500][rng.below(4) as usize];
                let mut tail = vec![0; more];
                rng.fill(&mut tail);
                out.extend(tail);
            }
            3..5 => surgery(&mut out, rng),
            5 => {
                let at = (rng.below(out.len() as u64) as usize / 2) * 2;
                put(&mut out, at, &interesting(rng).to_be_bytes());
            }
            6 => {
                let other = &others[rng.below(others.len() as u64) as usize].bytes;
                let at = rng.below(out.len().min(other.len()) as u64) as usize;
                out.truncate(at);
                out.extend(&other[at..]);
            }
            _ => {
                if let Some(first) = out.first_mut() {
                    *first = rng.below(16) as u8;
                }
            }
        }
    }
    out
}

/// One header field, set to what a parser least expects.
pub(super) fn surgery(out: &mut [u8], rng: &mut Rng) {
    let value = interesting(rng);
    match rng.below(6) {
        0 => put(out, 1, &(value as u32).to_be_bytes()),
        1 => put(out, 5, &value.to_be_bytes()),
        2 => put(out, 13, &value.to_be_bytes()),
        3 => put(out, 21, &(value as u16).to_be_bytes()),
        4 => put(out, 23, &[value as u8]),
        _ => put(out, 24, &value.to_be_bytes()),
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn interesting(rng: &mut Rng) -> u64 {
    let near = [
        0,
        1,
        100,
        255,
        1352,
        1368,
        1 << 16,
        1 << 32,
        1 << 40,
        1 << 48,
        1 << 56,
        1 << 63,
    ];
    let value: u64 = near[rng.below(near.len() as u64) as usize];
    match rng.below(4) {
        0 => value,
        1 => value.wrapping_sub(1 + rng.below(2)),
        2 => value + rng.below(300),
        _ => rng.next_u64() >> rng.below(64),
    }
}
