//! An honest transfer, and somebody beside it or in its way.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fulmar_proto::hpudp::{Config, Counter, Failure, Reason};
use fulmar_proto::sim::{LinkConfig, Rng};

use super::strangers::session_req;
use super::{MALLORY, MS};
use crate::common::{A, B, Pair, kind, link, packet, seed, u32_at};

pub(super) fn pair(seed: u64, encrypt: bool, size: u64, loss: f64) -> Pair {
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
pub(super) fn digests(pair: &Pair) -> (u64, u64) {
    (pair.net.node(pair.a).digest, pair.net.node(pair.b).digest)
}

/// The session number of the honest transfer, read off the wire.
pub(super) fn session_id(pair: &mut Pair) -> u32 {
    pair.net.node_mut(pair.a).tapping = true;
    pair.run_until(Duration::from_secs(1), |pair| {
        !pair.net.node(pair.a).sent.is_empty()
    });
    let host = pair.net.node_mut(pair.a);
    host.tapping = false;
    u32_at(&std::mem::take(&mut host.sent)[0].bytes, 1)
}

/// One packet of each type that says the worst it can, for a session whose number is known.
pub(super) fn worst(id: u32, encrypt: bool, rng: &mut Rng) -> Vec<Vec<u8>> {
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
pub(super) fn worst_heartbeats(id: u32, rng: &mut Rng) -> Vec<Vec<u8>> {
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
