//! Hostile bytes against HP-UDP: forged, damaged and absurd datagrams at both roles, beside an honest transfer.
//!
//! What v5.0 can promise depends on where the attacker stands. *Off the path*, with a wrong address, a wrong session
//! number or stamps that it has to guess, it changes nothing at all, and the tests say so literally: the honest sides
//! send the same bytes at the same instants with and without the attack. *On the path* it can do nothing to the
//! contents of a sealed session; of a plain one it can spoil the file, which is then refused, never accepted. Ending
//! a session with a forged control packet remains possible there, because v5.0 authenticates none.
//!
//! `SEED=n` replays; `HOSTILE=n` multiplies the size of the smoke.
#![allow(clippy::disallowed_methods)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{A, B, Host, Pair, Sent, Strangers, kind, link, packet, seed, u32_at, u64_at};
use fulmar_proto::crypto::Secret;
use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{
    Command, Config, Control, Counter, Endpoint, Event, Failure, Reason, Tag,
};
use fulmar_proto::sim::{LinkConfig, Rng, hostile};
use fulmar_proto::{Endpoint as _, Meta, Transmit};

const MS: Duration = Duration::from_millis(1);

/// Elsewhere: an address nobody has.
const MALLORY: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 66)),
    666,
);

fn pair(seed: u64, encrypt: bool, size: u64, loss: f64) -> Pair {
    let config = Config::default();
    // Without loss means without: not in the queue either.
    let queue = if loss == 0.0 { usize::MAX } else { 1 << 18 };
    let link = LinkConfig {
        queue,
        ..link(100, 20, loss)
    };
    let mut pair = Pair::fulmars(seed, (config.clone(), config), link, size);
    pair.net.node_mut(pair.a).watched = Some(B);
    pair.net.node_mut(pair.b).watched = Some(A);
    pair.send(encrypt);
    pair
}

/// What the honest sides said to each other, and when, in two numbers.
fn digests(pair: &Pair) -> (u64, u64) {
    (pair.net.node(pair.a).digest, pair.net.node(pair.b).digest)
}

/// The session number of the honest transfer, read off the wire.
fn session_id(pair: &mut Pair) -> u32 {
    pair.net.node_mut(pair.a).tapping = true;
    pair.run_until(Duration::from_secs(1), |pair| {
        !pair.net.node(pair.a).sent.is_empty()
    });
    let host = pair.net.node_mut(pair.a);
    host.tapping = false;
    u32_at(&std::mem::take(&mut host.sent)[0].bytes, 1)
}

/// One packet of each type that says the worst it can, for a session whose number is known.
fn worst(id: u32, encrypt: bool, rng: &mut Rng) -> Vec<Vec<u8>> {
    let chunk = if encrypt { 1352 } else { 1368 };
    let flags = if encrypt { 4 } else { 0 };
    let mut body = vec![0; 1368];
    rng.fill(&mut body);
    let mut out = Vec::new();
    for seq in [0, 1, 99, 100, 700, 262_143, 262_144, 1 << 56, u64::MAX] {
        for flags in [flags, flags ^ 4, flags | 3] {
            let stamp = rng.next_u64();
            out.push(packet(
                kind::DATA,
                id,
                (seq, seq / 100),
                chunk,
                flags,
                stamp,
                &body,
            ));
        }
    }
    for block in [0, 1, 7, 2620, 2621, 1 << 48, 1 << 56, u64::MAX] {
        for index in [0, 1, 155, 156, 255, 256, u64::MAX - 99, u64::MAX] {
            let stamp = rng.next_u64();
            out.push(packet(
                kind::PARITY,
                id,
                (index, block),
                chunk,
                flags,
                stamp,
                &body,
            ));
        }
    }
    out.extend(worst_heartbeats(id, rng));
    for reason in [1, 2, 3, 5, 6, 8, 0xf1] {
        out.push(packet(kind::REJECT, id, (0, 0), 1, 0, 0, &[reason]));
    }
    out.push(packet(kind::COMPLETE, id, (0, 0), 0, 0, 0, &[]));
    out.push(packet(kind::ACK_CLOSE, id, (0, 0), 0, 0, 0, &[]));
    for key in [[0; 32], [7; 32]] {
        out.push(packet(kind::SESSION_ACCEPT, id, (0, 0), 32, 4, 0, &key));
    }
    out
}

/// Heartbeats that claim everything, in both field orders, without one stamp that was ever issued.
fn worst_heartbeats(id: u32, rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for contiguous in [0u64, 1, 50, 500, 1 << 40, u64::MAX - 1, u64::MAX] {
        for count in [0u16, 1, 166] {
            for echo in [0u64, 1, 1 << 60, rng.next_u64() | 1, u64::MAX] {
                for reference in [false, true] {
                    let mut body = u32::MAX.to_be_bytes().to_vec();
                    body.extend(u32::MAX.to_be_bytes());
                    body.extend([0, 0]);
                    let times = [echo.to_be_bytes(), [0; 8]].concat();
                    let front = [&contiguous.to_be_bytes()[..], &count.to_be_bytes()].concat();
                    let order = if reference {
                        [front, times]
                    } else {
                        [times, front]
                    };
                    body.extend(order.concat());
                    for nack in 0..u64::from(count) {
                        body.extend((nack * 3).to_be_bytes());
                    }
                    out.push(packet(kind::HEARTBEAT, id, (0, 0), body.len(), 0, 0, &body));
                }
            }
        }
    }
    out
}

/// Runs a transfer twice, once with the attack at every `every` of its life, and demands that the honest sides did
/// not notice.
fn assert_unnoticed(
    name: &str,
    encrypt: bool,
    loss: f64,
    mut attack: impl FnMut(&mut Pair, u32, &mut Rng),
) {
    let seed = seed(1);
    let run = |attack: &mut dyn FnMut(&mut Pair, u32, &mut Rng)| {
        let mut rng = Rng::new(seed);
        let mut pair = pair(seed, encrypt, 1_500_000, loss);
        pair.apps.verifying = 60 * MS;
        let id = session_id(&mut pair);
        let mut rounds = 0;
        while pair.apps.sent.is_none() || pair.apps.received.is_none() {
            pair.run_for(7 * MS);
            attack(&mut pair, id, &mut rng);
            rounds += 1;
            assert!(rounds < 3_000, "{name}: no end");
        }
        // Into the linger, and beyond it.
        for _ in 0..10 {
            pair.run_for(9 * MS);
            attack(&mut pair, id, &mut rng);
        }
        pair.run_for(Duration::from_secs(20));
        pair.assert_done(name);
        (digests(&pair), pair.apps.sent_at, pair.apps.received_at)
    };
    let start = |(digests, sent, received): (_, Option<Instant>, Option<Instant>)| {
        (
            digests,
            sent.zip(received)
                .map(|(sent, received)| received.max(sent) - received.min(sent)),
        )
    };
    let calm = start(run(&mut |_, _, _| {}));
    assert_eq!(
        calm,
        start(run(&mut attack)),
        "{name}: the honest sides noticed"
    );
}

#[test]
fn a_wrong_address_has_no_effect() {
    for encrypt in [false, true] {
        assert_unnoticed("wrong address", encrypt, 0.01, |pair, id, rng| {
            let other_port = SocketAddr::new(A.ip(), 9001);
            for bytes in worst(id, encrypt, rng) {
                pair.net.inject(pair.b, MALLORY, &bytes);
                pair.net.inject(pair.b, other_port, &bytes);
                pair.net.inject(pair.a, MALLORY, &bytes);
            }
        });
    }
}

/// One who listens and says again, later and from elsewhere, what arrived. (What was lost, and is said again from
/// elsewhere, is news, and moves the session there until its sender speaks again: an address that changes while only
/// repairs are sent looks no different.)
#[test]
fn replays_from_elsewhere_have_no_effect() {
    for encrypt in [false, true] {
        let name = "replays";
        assert_unnoticed(name, encrypt, 0.0, |pair, _, _| {
            let late = pair.net.elapsed().saturating_sub(40 * MS);
            for (from, to) in [(pair.a, pair.b), (pair.b, pair.a)] {
                pair.net.node_mut(from).tapping = true;
                let log = pair.net.node(from).sent.clone();
                for said in log.into_iter().filter(|said| said.at < late) {
                    pair.net.inject(to, MALLORY, &said.bytes);
                }
            }
        });
    }
}

/// One who stands on the path, copies each heartbeat and overtakes it from another address: the receiver may have
/// moved, so a packet looks for it there, twice a second. The flow does not go there, and goes on where it was.
#[test]
fn a_copied_heartbeat_does_not_turn_the_flow_on_a_victim() {
    for encrypt in [false, true] {
        let mut pair = pair(seed(1), encrypt, 3_000_000, 0.01);
        pair.net.node_mut(pair.a).tapping = true;
        pair.net.node_mut(pair.b).tapping = true;
        let mut copied = 0;
        while pair.apps.sent.is_none() {
            assert!(pair.net.elapsed() < Duration::from_secs(60), "no end");
            pair.run_for(3 * MS);
            let said = &pair.net.node(pair.b).sent;
            let beats = said[copied..]
                .iter()
                .filter(|it| it.bytes[0] == kind::HEARTBEAT);
            let beats: Vec<_> = beats.map(|it| it.bytes.clone()).collect();
            copied = said.len();
            for bytes in beats {
                pair.net.inject(pair.a, MALLORY, &bytes);
            }
        }
        pair.finish(Duration::from_secs(60));
        pair.assert_done("beside a copyist");
        let turned = pair.net.node(pair.a).sent.iter();
        let turned = turned.filter(|it| it.to == MALLORY).count();
        let seconds = pair.net.elapsed().as_secs() as usize;
        println!("{turned} packets to the victim in {seconds} s");
        assert!(turned <= 2 * (seconds + 1) + 1, "{turned} in {seconds} s");
        assert!(pair.net.node(pair.a).count(Counter::Rebound) > 10);
    }
}

#[test]
fn a_wrong_session_number_has_no_effect() {
    for encrypt in [false, true] {
        assert_unnoticed("wrong number", encrypt, 0.01, |pair, id, rng| {
            for id in [id ^ 1, id.swap_bytes() ^ 0x5a, 0, u32::MAX] {
                for bytes in worst(id, encrypt, rng) {
                    pair.net.inject(pair.b, A, &bytes);
                    pair.net.inject(pair.a, B, &bytes);
                }
            }
        });
    }
}

/// Off the path even the right address and number do not make a heartbeat: its echo cannot be guessed.
#[test]
fn a_heartbeat_with_guessed_stamps_has_no_effect() {
    for encrypt in [false, true] {
        assert_unnoticed("guessed stamps", encrypt, 0.01, |pair, id, rng| {
            for bytes in worst_heartbeats(id, rng) {
                pair.net.inject(pair.a, B, &bytes);
            }
        });
    }
}

/// On the path of a sealed session: whatever is said about the contents, nobody hears it.
#[test]
fn forged_chunks_have_no_effect_on_a_sealed_session() {
    assert_unnoticed("forged chunks", true, 0.01, |pair, id, rng| {
        // Once everything is there a straggler is told so, seldom; that is an answer and no effect.
        if pair.apps.received.is_some() {
            return;
        }
        for bytes in worst(id, true, rng) {
            if matches!(bytes[0], kind::DATA | kind::PARITY) {
                pair.net.inject(pair.b, A, &bytes);
            }
        }
    });
}

/// A completion that no heartbeat bears out, however often it is repeated, is not believed while the receiver says that
/// it lacks something.
#[test]
fn a_forged_completion_is_not_success() {
    for encrypt in [false, true] {
        let seed = seed(1);
        let config = Config::default();
        let link = link(20, 300, 0.2);
        let mut pair = Pair::fulmars(seed, (config.clone(), config), link, 1_500_000);
        pair.send(encrypt);
        let id = session_id(&mut pair);
        while pair.apps.sent.is_none() {
            // Until then nobody has said anything to the contrary.
            let contradicted = pair.apps.sender.rtt.is_some();
            for kind in [kind::COMPLETE, kind::ACK_CLOSE]
                .into_iter()
                .filter(|_| contradicted)
            {
                pair.net
                    .inject(pair.a, B, &packet(kind, id, (0, 0), 0, 0, 0, &[]));
            }
            pair.run_for(7 * MS);
        }
        assert!(
            pair.apps.exact(),
            "the sender said {:?} after {:?}; {:?}",
            pair.apps.sent,
            pair.net.elapsed(),
            pair.apps.receiver
        );
        pair.finish(Duration::from_secs(60));
        pair.assert_done("in the end");
    }
}

/// A request under a number in use is refused (4.1). The refusal goes to the honest sender, who knows better.
#[test]
fn a_second_request_under_its_number_does_not_end_a_session() {
    for encrypt in [false, true] {
        assert_unnoticed("collision", encrypt, 0.01, |pair, id, _| {
            // Before the receiver has shown that it has the session, a refusal is one.
            if pair.net.elapsed() > 100 * MS {
                let collision = packet(kind::REJECT, id, (0, 0), 1, 0, 0, &[1]);
                pair.net.inject(pair.a, B, &collision);
            }
        });
        let mut pair = pair(seed(1), encrypt, 1_500_000, 0.01);
        let id = session_id(&mut pair);
        pair.run_for(100 * MS);
        for size in [0, 1, 1 << 40, u64::MAX] {
            pair.net
                .inject(pair.b, A, &session_req(id, size, None, b"x"));
        }
        pair.finish(Duration::from_secs(60));
        pair.assert_done("requests under its number");
        assert_eq!(pair.apps.offers, 1);
    }
}

/// On the path of a plain session contents can be forged. The hash over the whole file is what stands against it: the
/// file is refused, and both sides know.
#[test]
fn a_spoiled_plain_file_is_refused_and_never_passes() {
    for forge in [kind::DATA, kind::PARITY] {
        for seed in [seed(1), 2, 3] {
            let mut rng = Rng::new(seed);
            let mut pair = pair(seed, false, 1_500_000, 0.01);
            let id = session_id(&mut pair);
            let total = 1_500_000u64.div_ceil(1368);
            let mut body = [0; 1368];
            while pair.apps.sent.is_none() || pair.apps.received.is_none() {
                assert!(pair.net.elapsed() < Duration::from_secs(60), "no end");
                pair.run_for(MS);
                rng.fill(&mut body);
                let block = rng.below(total / 100);
                let seq = match forge {
                    kind::DATA => block * 100 + rng.below(100),
                    _ => rng.below(20),
                };
                let stamp = rng.next_u64();
                let bytes = packet(forge, id, (seq, block), 1368, 0, stamp, &body);
                pair.net.inject(pair.b, A, &bytes);
            }
            let mismatch = Reason::HASH_MISMATCH;
            assert_eq!(
                (pair.apps.sent, pair.apps.received, pair.apps.exact()),
                (
                    Some(Err(Failure::Refused(mismatch))),
                    Some(Err(Failure::Aborted(mismatch))),
                    false
                ),
                "SEED={seed}, type {forge}"
            );
        }
    }
}

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
        // A plain request that somebody copied takes plain chunks: all such sessions together fill what is there for
        // incomplete blocks, and no more.
        let blocks = if encrypt {
            0
        } else {
            Config::default().block_memory as isize
        };
        assert!(
            peak < calm + blocks + (4 << 20),
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
fn surgery(out: &mut [u8], rng: &mut Rng) {
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

/// A receiver that lies: a heartbeat every millisecond, each claiming 4 GB/s, no loss, and either the first chunks
/// missing or everything there. Its echoes are true, or nothing would be believed at all.
struct Liar {
    /// Claims to lack as many chunks as fit, and never anything above.
    needy: bool,
    id: u32,
    echo: u64,
    highest: u64,
    beat: Option<Instant>,
    due: bool,
}

impl fulmar_proto::Endpoint for Liar {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, _: Meta, bytes: &mut [u8]) {
        if bytes[0] == kind::DATA {
            self.id = u32_at(bytes, 1);
            self.highest = self.highest.max(u64_at(bytes, 5));
            self.echo = u64_at(bytes, 24);
            self.beat.get_or_insert(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.due = self.beat.is_some_and(|at| at <= now);
        if self.due {
            self.beat = Some(now + MS);
        }
    }

    fn handle_command(&mut self, _: Instant, _: Command) {}

    fn poll_transmit(&mut self, _: Instant, _: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        if !std::mem::take(&mut self.due) {
            return None;
        }
        let holes = if self.needy { self.highest.min(166) } else { 0 };
        let front = if self.needy { 0 } else { self.highest };
        let mut body = [u32::MAX.to_be_bytes(); 2].concat();
        body.extend([0, 0]);
        body.extend(self.echo.to_be_bytes());
        body.extend([0; 8]);
        body.extend(front.to_be_bytes());
        body.extend((holes as u16).to_be_bytes());
        body.extend((0..holes).flat_map(u64::to_be_bytes));
        let bytes = packet(kind::HEARTBEAT, self.id, (0, 0), body.len(), 0, 0, &body);
        buf.extend_from_slice(&bytes);
        Some(Transmit {
            to: A,
            from_ip: None,
            ecn: None,
            len: bytes.len(),
            segment: None,
        })
    }

    fn poll_event(&mut self) -> Option<Event> {
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.beat
    }
}

/// E6: a repair leaves once in a round trip and a quarter however often it is asked for, memory is the window's, and a
/// limit is a limit. Without one, a receiver that claims everything can make the sender overrun the path: nothing in
/// v5.0 tells its claims from those of a faster path.
#[test]
fn a_lying_receiver_gains_nothing() {
    for control in [Control::Delivery, Control::Hpudp] {
        for needy in [true, false] {
            for max_rate in [None, Some(Bitrate::from_bits_per_sec(40_000_000))] {
                let ((), peak, _) = measured(|| lie(control, needy, max_rate));
                println!("{control:?}, needy {needy}, limit {max_rate:?}: peak {peak} bytes");
                // 65,500 chunks, and the marks of four times as many packets while their ring doubles.
                assert!(peak < 128 << 20, "{peak} bytes");
            }
        }
    }
}

fn lie(control: Control, needy: bool, max_rate: Option<Bitrate>) {
    let start = Instant::now();
    let config = Config {
        control,
        max_rate,
        ..Config::default()
    };
    let liar = Liar {
        needy,
        id: 0,
        echo: 0,
        highest: 0,
        beat: None,
        due: false,
    };
    let sender = Host::fulmar(start, config, &mut Rng::new(seed(1)));
    let hosts = (sender, Host::scripted(start, Box::new(liar)));
    let link = link(100, 20, 0.0);
    let mut pair = Pair::new(start, 1, hosts, (link.clone(), link), 1 << 40);
    pair.send(false);
    let mut repairs = BTreeMap::<u64, Vec<Duration>>::new();
    for _ in 0..500 {
        pair.run_for(10 * MS);
        let host = pair.net.node_mut(pair.a);
        host.tapping = true;
        for sent in host.sent.drain(..) {
            let seq = u64_at(&sent.bytes, 5);
            if sent.bytes[0] == kind::DATA && seq < 166 {
                repairs.entry(seq).or_default().push(sent.at);
            }
        }
    }
    let offered = pair.net.link(pair.up).stats().bytes_offered;
    let rate = offered as f64 * 8.0 / 5.0 / 1e6;
    println!("{rate:.0} Mbit/s offered to a path of 100");
    if let Some(limit) = max_rate {
        let limit = limit.bits_per_sec() as f64 / 1e6;
        assert!(rate < 1.05 * limit, "{rate} Mbit/s");
    }
    for (seq, times) in repairs {
        let soonest = times.windows(2).map(|pair| pair[1] - pair[0]).min();
        assert!(
            soonest.is_none_or(|gap| gap >= 20 * MS),
            "chunk {seq} after {soonest:?}"
        );
    }
}

/// One endpoint without a network, whose application accepts whatever is offered, stores it and finds it wrong. Keeps
/// the ledger of E1: at no moment may an address have been sent more than three times what came from it.
struct Lone {
    endpoint: Endpoint,
    now: Instant,
    accepting: bool,
    ledger: BTreeMap<SocketAddr, (usize, usize)>,
    replies: Vec<Vec<u8>>,
    offers: Vec<Vec<u8>>,
    events: usize,
    /// Bytes handed up.
    stored: u64,
    buf: Vec<u8>,
}

impl Lone {
    fn new(config: Config) -> Self {
        Self {
            endpoint: Endpoint::new(config, [9; 32]),
            now: Instant::now(),
            accepting: true,
            ledger: BTreeMap::new(),
            replies: Vec::new(),
            offers: Vec::new(),
            events: 0,
            stored: 0,
            buf: Vec::new(),
        }
    }

    fn hear(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.ledger.entry(from).or_default().0 += bytes.len();
        self.buf.clear();
        self.buf.extend_from_slice(bytes);
        let meta = Meta {
            from,
            to_ip: None,
            ecn: None,
        };
        self.endpoint.handle_datagram(self.now, meta, &mut self.buf);
        self.drain();
    }

    fn accept(&mut self, tag: Tag) {
        self.endpoint
            .handle_command(self.now, Command::Accept { tag });
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.endpoint.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.endpoint.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        loop {
            while let Some(event) = self.endpoint.poll_event() {
                self.events += 1;
                let command = match event {
                    Event::Offered { tag, name, .. } => {
                        self.offers.push(name);
                        self.accepting.then_some(Command::Accept { tag })
                    }
                    Event::Chunk { tag, bytes, .. } => {
                        self.stored += bytes.len() as u64;
                        Some(Command::Stored {
                            tag,
                            len: bytes.len(),
                            buffer: bytes,
                        })
                    }
                    Event::Received { tag, .. } => Some(Command::Abort {
                        tag,
                        reason: Reason::HASH_MISMATCH,
                    }),
                    Event::Asked { tag, .. } | Event::ListAsked { tag, .. } => {
                        Some(Command::Abort {
                            tag,
                            reason: Reason::NOT_FOUND,
                        })
                    }
                    Event::Connected { .. }
                    | Event::Want { .. }
                    | Event::Listing { .. }
                    | Event::Progress { .. }
                    | Event::Finished { .. }
                    | Event::Closed { .. } => None,
                };
                if let Some(command) = command {
                    self.endpoint.handle_command(self.now, command);
                }
            }
            self.buf.clear();
            let Some(transmit) = self.endpoint.poll_transmit(self.now, 1, &mut self.buf) else {
                return;
            };
            let (heard, said) = self.ledger.entry(transmit.to).or_default();
            *said += transmit.len;
            assert!(
                *said <= 3 * *heard,
                "{said} bytes to {} for {heard}: {:02x?}",
                transmit.to,
                self.buf
            );
            if self.replies.len() < 1000 {
                self.replies.push(self.buf.clone());
            }
        }
    }
}

fn session_req(id: u32, size: u64, key: Option<[u8; 32]>, name: &[u8]) -> Vec<u8> {
    let mut body = size.to_be_bytes().to_vec();
    body.extend(0x5eed_u64.to_be_bytes());
    body.extend([0; 4]);
    body.extend(key.unwrap_or_default().iter().take(key.map_or(0, |_| 32)));
    body.extend(name);
    let flags = if key.is_some() { 4 } else { 0 };
    packet(
        kind::SESSION_REQ,
        id,
        (0, 0),
        body.len(),
        flags,
        0,
        &[&body[..], &[0]].concat(),
    )
}

/// The same with our extension block, which makes the answers longer.
fn extended(mut request: Vec<u8>) -> Vec<u8> {
    request.extend(b"HPX1\x00\x12\x01\x04\x00\x00\x00\x07\x05\x04");
    let sum = crc32(&request);
    request.extend(sum.to_be_bytes());
    request
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

fn stranger(n: u32) -> SocketAddr {
    let [a, b, c, _] = n.to_be_bytes();
    SocketAddr::from(([198, a ^ 18, b, c], 1024 + (n & 0xff) as u16))
}

#[test]
fn requests_that_cannot_be_are_refused_or_passed_over() {
    let long = [b'n'; 256];
    type Row<'a> = (&'a str, u64, Option<[u8; 32]>, &'a [u8], Option<u8>);
    let table: [Row<'_>; 10] = [
        ("no bytes", 0, None, b"f", Some(0xf0)),
        ("too large by one", (1 << 40) + 1, None, b"f", Some(0xf0)),
        ("all ones", u64::MAX, None, b"f", Some(0xf0)),
        ("half of all", 1 << 63, Some([7; 32]), b"f", Some(0xf0)),
        ("no name", 1, None, b"", Some(0xf0)),
        ("bytes behind the NUL", 1, None, b"f\0f", None),
        ("a long name", 1, None, &long, Some(0xf0)),
        ("a key of zeros", 1, Some([0; 32]), b"f", None),
        (
            "a key of small order",
            1,
            Some(std::array::from_fn(|i| u8::from(i == 0))),
            b"f",
            None,
        ),
        ("cut short", 1, None, b"cut", None),
    ];
    for (what, size, key, name, reject) in table {
        let mut lone = Lone::new(Config::default());
        let mut bytes = session_req(7, size, key, name);
        if what == "cut short" {
            bytes.truncate(bytes.len() - 2);
        }
        for _ in 0..3 {
            lone.hear(MALLORY, &bytes);
        }
        lone.pass(Duration::from_secs(20));
        let want: Vec<_> = reject
            .map(|reason| packet(kind::REJECT, 7, (0, 0), 1, 0, 0, &[reason]))
            .into_iter()
            .collect();
        assert_eq!(lone.replies, vec![want; 3].concat(), "{what}");
        assert_eq!((lone.endpoint.sessions(), lone.events), (0, 0), "{what}");
    }
}

/// Names are the application's to judge: whatever comes before the NUL arrives as it was sent.
#[test]
fn hostile_names_reach_the_application_as_they_are() {
    let names: [&[u8]; 8] = [
        b"..",
        b"../../etc/passwd",
        b"C:\\x",
        b"\xff\xfe",
        b"a\nb\x1b[2J",
        "\u{202e}gpj.exe".as_bytes(),
        b"x.tmp",
        &[b'n'; 255],
    ];
    let mut lone = Lone::new(Config::default());
    for (id, name) in names.into_iter().enumerate() {
        lone.hear(MALLORY, &session_req(id as u32, 5, None, name));
    }
    assert_eq!(lone.offers, names);
}

#[test]
fn strangers_are_sent_at_most_three_times_what_they_sent() {
    let mut rng = Rng::new(seed(1));
    let body = [0x5a; 1368];
    for round in 0..2_000u32 {
        let mut lone = Lone::new(Config::default());
        lone.accepting = rng.chance(0.9);
        let key = rng.chance(0.4).then(|| {
            let mut key = [0; 32];
            rng.fill(&mut key);
            key
        });
        let sealed = if key.is_some() { 4 } else { 0 };
        let size = [1, 1368, 2000, 500_000, 1 << 40][rng.below(5) as usize];
        let name = &b"a file"[..1 + rng.below(6) as usize];
        let request = session_req(round, size, key, name);
        let request = if rng.chance(0.5) {
            extended(request)
        } else {
            request
        };
        lone.hear(MALLORY, &request);
        for _ in 0..rng.below(12) {
            lone.pass(Duration::from_millis(rng.below(2000)));
            let total = size.div_ceil(if key.is_some() { 1352 } else { 1368 });
            let seq =
                [0, total - 1, rng.below(total), 262_143.min(total - 1)][rng.below(4) as usize];
            let len = (size - (seq * 1368).min(size)).min(1368) as usize;
            let junk = match rng.below(6) {
                0 => request.clone(),
                1 => packet(kind::PARITY, round, (0, seq / 100), 1368, sealed, 1, &body),
                2 => packet(kind::COMPLETE, round, (0, 0), 0, 0, 0, &[]),
                3 => packet(kind::ACK_CLOSE, round, (0, 0), 0, 0, 0, &[]),
                _ => packet(
                    kind::DATA,
                    round,
                    (seq, seq / 100),
                    len,
                    sealed,
                    1,
                    &body[..len],
                ),
            };
            lone.hear(MALLORY, &junk);
        }
        lone.pass(Duration::from_secs(40));
        assert_eq!(lone.endpoint.sessions(), 0, "everything ends");
    }
}

/// 0-RTT data overtakes the application's decision. It waits, or is asked for again; it is not handed up before.
#[test]
fn nothing_is_handed_up_before_the_application_accepts() {
    for size in [1u64, 5 * 1368, 137_000, 500_000] {
        let mut lone = Lone::new(Config::default());
        lone.accepting = false;
        lone.hear(MALLORY, &session_req(1, size, None, b"f"));
        let body = [0x5a; 1368];
        let chunk = |seq: u64| {
            let len = (size - seq * 1368).min(1368) as usize;
            packet(
                kind::DATA,
                1,
                (seq, seq / 100),
                len,
                0,
                seq + 1,
                &body[..len],
            )
        };
        let total = size.div_ceil(1368);
        for seq in 0..total {
            lone.hear(MALLORY, &chunk(seq));
        }
        assert_eq!(lone.events, 1, "the offer and nothing else");
        lone.accept(Tag(1 << 63));
        for seq in 0..total {
            lone.hear(MALLORY, &chunk(seq));
        }
        assert_eq!(lone.stored, size);
    }
}

/// Requests from everywhere, without end: the table stays small, and a sender that means it gets in and through.
#[test]
fn a_flood_of_requests_locks_nobody_out() {
    for encrypt in [false, true] {
        let seed = seed(1);
        let mut rng = Rng::new(seed);
        let (outcome, peak, kept) = measured(|| {
            let config = Config::default();
            let mut pair = Pair::fulmars(
                seed,
                (config.clone(), config),
                link(100, 60, 0.01),
                3_000_000,
            );
            pair.apps.strangers = Strangers::Accepted;
            let mut most = 0;
            for round in 0..6_000u32 {
                if round == 1_000 {
                    pair.send(encrypt);
                }
                let key = rng.chance(0.1).then_some([9; 32]);
                let request = session_req(rng.next_u64() as u32, 1 << 40, key, b"stranger");
                pair.net.inject(pair.b, stranger(round), &request);
                pair.run_for(MS);
                most = most.max(pair.net.node(pair.b).endpoint().sessions());
            }
            pair.assert_done("a transfer in the flood");
            let busy = pair.net.node(pair.b).count(Counter::Busy);
            println!(
                "at most {most} sessions, {} offers, {busy} told busy",
                pair.apps.offers
            );
            assert!(most <= 1024, "{most} sessions");
            pair.run_for(Duration::from_secs(40));
            assert_eq!(pair.net.node(pair.b).endpoint().sessions(), 0);
            most
        });
        println!("peak {peak}, kept {kept}, {outcome}");
        assert!(peak < 48 << 20 && kept.abs() < 1 << 16, "{peak} {kept}");
    }
}

/// A single lane is a single lane, and a request without data does not hold it.
#[test]
fn only_a_session_that_brings_data_takes_a_place() {
    let config = Config {
        sessions: 1,
        ..Config::default()
    };
    let mut lone = Lone::new(config);
    let body = [0x5a; 1368];
    let data = |id| packet(kind::DATA, id, (0, 0), 1368, 0, 1, &body);
    for n in 0..5 {
        lone.hear(stranger(n), &session_req(n, 1 << 20, None, b"f"));
    }
    assert_eq!(lone.offers.len(), 5, "none of them has the place yet");
    lone.hear(stranger(3), &data(3));
    lone.hear(stranger(4), &data(4));
    let busy = |id| packet(kind::REJECT, id, (0, 0), 1, 0, 0, &[3]);
    assert!(lone.replies.contains(&busy(4)), "the second one is told");
    assert!(!lone.replies.contains(&busy(3)), "the first one has it");
    lone.hear(stranger(9), &session_req(9, 1 << 20, None, b"f"));
    assert!(lone.replies.contains(&busy(9)), "so has nobody else");
}

#[test]
fn a_claim_of_a_terabyte_costs_nothing() {
    for key in [None, Some([9; 32])] {
        let mut lone = Lone::new(Config::default());
        // The first session also pays for tables that any session needs.
        lone.hear(stranger(0), &session_req(1, 1, key, b"small"));
        let ((), peak, kept) = measured(|| {
            lone.hear(stranger(1), &session_req(2, 1 << 40, key, b"large"));
            lone.pass(Duration::from_secs(1));
        });
        println!("1 TB: peak {peak}, kept {kept} bytes");
        assert_eq!(lone.endpoint.sessions(), 2);
        assert!(peak < 64 << 10, "{peak} bytes for a claim");
        if key.is_some() {
            continue;
        }
        // Chunks from all over the file: those beyond the window are refused, those within it cost a block each, as
        // far as the budget goes.
        let body = [0x5a; 1368];
        let ((), peak, _) = measured(|| {
            let total = (1u64 << 40).div_ceil(1368);
            for seq in (0..total).step_by(99_991) {
                lone.hear(
                    stranger(1),
                    &packet(kind::DATA, 2, (seq, seq / 100), 1368, 0, 1, &body),
                );
                let block = seq / 100;
                lone.hear(
                    stranger(1),
                    &packet(kind::PARITY, 2, (3, block), 1368, 0, 1, &body),
                );
            }
        });
        println!("chunks from all over: peak {peak} bytes");
        assert!(peak < 1 << 20, "{peak} bytes");
        let ((), peak, _) = measured(|| {
            for seq in (0..262_144).step_by(50) {
                lone.hear(
                    stranger(1),
                    &packet(kind::DATA, 2, (seq, seq / 100), 1368, 0, 1, &body),
                );
            }
        });
        println!("a chunk or two of every block: peak {peak} bytes");
        let budget = Config::default().block_memory as isize;
        assert!(peak < budget + (6 << 20), "{peak} bytes");
    }
}

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

#[global_allocator]
static COUNTING: Counting = Counting;

/// The system's allocator, with a count for each thread: every test runs on one of its own.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters, and nobody who reads them.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise about the layout is the one System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `ptr` came from `alloc` above, so from System, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Runs `body`; its result, the most bytes it held beyond those before it, and those it left behind.
fn measured<T>(body: impl FnOnce() -> T) -> (T, isize, isize) {
    let before = LIVE.get();
    PEAK.set(before);
    let out = body();
    (out, PEAK.get() - before, LIVE.get() - before)
}
