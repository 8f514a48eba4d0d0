//! Hostile bytes around pushes, pulls, bundles, identities and lists: each handshake packet lost, repeated or changed,
//! strangers who forge their address, daemons and receivers that lie.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use common::duo::{CLIENT, DAEMON, Deal, Duo, MS};
use common::server::{Server, daemon, host};
use common::{A, B, kind, packet, u32_at};
use fulmar_proto::Endpoint as _;
use fulmar_proto::crypto::{Secret, sha256};
use fulmar_proto::hpudp::{Command, Config, Counter, Reason, Tag, Trust, Via, Wish};
use fulmar_proto::sim::Rng;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const MALLORY: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 66)),
    666,
);
const WAYS: [Via; 3] = [Via::Direct, Via::Push, Via::Pull];

fn v5() -> Config {
    Config {
        extensions: false,
        port: 9000,
        ..Config::default()
    }
}

/// Every way to begin, plain, sealed, and as a bundle.
fn deals(size: u64) -> Vec<Deal> {
    let kinds = [(false, false), (true, false), (false, true), (true, true)];
    let ways = WAYS.into_iter();
    ways.flat_map(|via| {
        kinds.map(|(encrypt, bundle)| Deal {
            via,
            encrypt,
            bundle,
            size,
            ..Deal::default()
        })
    })
    .collect()
}

#[test]
fn any_one_packet_may_be_lost_or_come_twice() {
    for size in [0, 1, 30_000] {
        for deal in deals(size) {
            for old in [false, true] {
                if old && (deal.bundle || size == 0) {
                    continue;
                }
                for side in [CLIENT, DAEMON] {
                    for copies in [0, 2] {
                        for nth in 0..12 {
                            let server = if old { v5() } else { daemon() };
                            let mut duo = Duo::new(Config::default(), server, deal.clone());
                            duo.run(40 * SECOND, |whose, number, _| {
                                if whose == side && number == nth {
                                    copies
                                } else {
                                    1
                                }
                            });
                            duo.assert_done(&format!(
                                "packet {nth} of {side} {copies} times, old {old}"
                            ));
                        }
                    }
                }
            }
        }
    }
}

/// One byte of one handshake packet changed, its checksum made right again: whoever demands an identity ends without a
/// byte out of place, and nobody ends with success and other keys than the peer's.
#[test]
fn a_changed_handshake_is_never_a_weaker_session() {
    let key = Trust::Key(sha256(&host().public()));
    for via in WAYS {
        for trust in [Trust::Anyone, key] {
            for side in [CLIENT, DAEMON] {
                for at in (1..130).step_by(3) {
                    let deal = Deal {
                        via,
                        trust,
                        encrypt: true,
                        size: 3_000,
                        ..Deal::default()
                    };
                    let mut duo = Duo::new(Config::default(), daemon(), deal);
                    let mut changed = 0;
                    duo.run(30 * SECOND, |whose, _, bytes| {
                        let handshake = matches!(bytes[0], 0x00 | 0x07..=0x0a);
                        if whose == side && handshake && at < bytes.len() {
                            let was = bytes.clone();
                            bytes[at] ^= 0x04;
                            repair_sum(bytes);
                            changed += u32::from(was != *bytes);
                        }
                        1
                    });
                    let fine = duo.results == [Some(Ok(())); 2];
                    // Who knows nothing of the peer may be brought to ask as v5.0 does, and is told so (18.4.5).
                    let told = trust == Trust::Anyone && duo.connected == Some((false, None));
                    assert!(
                        changed == 0 || !fine || told,
                        "{via:?} {trust:?}, byte {at} of {side}"
                    );
                    assert_eq!(duo.wrong, 0);
                }
            }
        }
    }
}

/// The extension cut off one packet, or off both.
#[test]
fn a_stripped_extension_is_refused_by_who_knows_the_peer() {
    let key = Trust::Key(sha256(&host().public()));
    for via in WAYS {
        for (client, server) in [(true, false), (false, true), (true, true)] {
            for trust in [Trust::Anyone, Trust::AnyKey, key] {
                let deal = Deal {
                    via,
                    trust,
                    encrypt: true,
                    size: 3_000,
                    ..Deal::default()
                };
                let mut duo = Duo::new(Config::default(), daemon(), deal);
                duo.run(40 * SECOND, |whose, _, bytes| {
                    if (whose == CLIENT && client) || (whose == DAEMON && server) {
                        strip(bytes);
                    }
                    1
                });
                let what = format!("{via:?} {trust:?}, client {client}, server {server}");
                if trust == Trust::Anyone {
                    // Both sides agree that there is none (then it is v5.0), or they cannot talk.
                    let fine = duo.results == [Some(Ok(())); 2];
                    assert!(!fine || client, "{what}");
                } else {
                    assert_ne!(duo.results[CLIENT], Some(Ok(())), "{what}");
                    assert_eq!(duo.bytes, 0, "{what}");
                }
            }
        }
    }
}

/// In a session with bound keys, unsigned, reflected and repeated control packets say nothing: what the honest sides say,
/// and when, is the same.
#[test]
fn forged_control_packets_go_unnoticed_in_a_bound_session() {
    for via in WAYS {
        let run = |attack: bool| {
            let deal = Deal {
                via,
                encrypt: true,
                size: 400_000,
                ..Deal::default()
            };
            let mut duo = Duo::new(Config::default(), daemon(), deal);
            let mut log: [Vec<(Duration, Vec<u8>)>; 2] = Default::default();
            let start = duo.now;
            let mut id = 0;
            let mut heard: Vec<(usize, Duration, Vec<u8>)> = Vec::new();
            for round in 1..4_000u32 {
                let at = start + round * 5 * MS - duo.now;
                let clock = duo.now - start;
                duo.run(at, |whose, _, bytes| {
                    id = u32_at(bytes, 1);
                    log[whose].push((clock, bytes.clone()));
                    if matches!(bytes[0], 0x03..=0x06) && heard.len() < 200 {
                        heard.push((whose, clock, bytes.clone()));
                    }
                    1
                });
                if duo.results.iter().all(Option::is_some) {
                    break;
                }
                // Before the keys are agreed a refusal counts.
                let agreed = log
                    .iter()
                    .flatten()
                    .any(|(_, bytes)| bytes[0] == kind::HEARTBEAT);
                if !attack || !agreed {
                    continue;
                }
                for (to, from) in [(CLIENT, B), (DAEMON, A)] {
                    for reason in [1, 2, 3, 5, 8, 0xf1] {
                        duo.inject(
                            to,
                            from,
                            &packet(kind::REJECT, id, (0, 0), 1, 0, 0, &[reason]),
                        );
                    }
                    for kind in [kind::COMPLETE, kind::ACK_CLOSE] {
                        duo.inject(to, from, &packet(kind, id, (0, 0), 0, 0, 0, &[]));
                    }
                    // One who copies a packet and overtakes it is believed until it arrives (4.8).
                    let arrived = (duo.now - start).saturating_sub(40 * MS);
                    for (whose, _, bytes) in heard.iter().filter(|it| it.1 < arrived) {
                        // Reflected to who said it. (What was said before and is said again is an old heartbeat.)
                        if *whose == to {
                            duo.inject(to, from, bytes);
                        }
                        duo.inject(to, MALLORY, bytes);
                    }
                }
            }
            duo.assert_done(&format!("{via:?}"));
            log
        };
        assert!(run(false) == run(true), "{via:?}: the honest sides noticed");
    }
}

#[test]
fn forged_answers_to_a_waiting_client_do_nothing_from_elsewhere() {
    for via in [Via::Push, Via::Pull] {
        let deal = Deal {
            via,
            encrypt: true,
            size: 3_000,
            ..Deal::default()
        };
        let mut duo = Duo::new(Config::default(), daemon(), deal);
        let mut id = 0;
        // The daemon does not hear the first second of it.
        duo.run(SECOND, |_, _, bytes| {
            id = u32_at(bytes, 1);
            0
        });
        let key = Secret::from_bytes([3; 32]).public();
        let accept = [&9000u16.to_be_bytes()[..], &key].concat();
        for from in [MALLORY, SocketAddr::new(MALLORY.ip(), 9000)] {
            duo.inject(CLIENT, from, &packet(0x09, id, (0, 0), 34, 4, 0, &accept));
            duo.inject(CLIENT, from, &grant(id, Some(key), 3_000, b"file"));
            duo.inject(
                CLIENT,
                from,
                &packet(kind::REJECT, id, (0, 0), 1, 0, 0, &[3]),
            );
            duo.inject(
                CLIENT,
                from,
                &packet(kind::SESSION_ACCEPT, id, (0, 0), 32, 4, 0, &key),
            );
        }
        duo.run(40 * SECOND, |_, _, _| 1);
        duo.assert_done(&format!("{via:?}"));
    }
}

/// The right address is on the path: a forged answer may end the session, but not well.
#[test]
fn a_daemon_that_answers_a_pull_with_something_else_is_refused() {
    let key = Secret::from_bytes([3; 32]).public();
    let bundle = with_block(
        grant(0, Some(key), 3_000, b"file"),
        &[1, 4, 0, 0, 0, 15, 7, 0],
    );
    let cases = [
        ("another name", true, grant(0, Some(key), 3_000, b"other")),
        ("a path", true, grant(0, Some(key), 3_000, b"../file")),
        ("no name", true, grant(0, Some(key), 3_000, b"")),
        ("no key", true, grant(0, None, 3_000, b"file")),
        (
            "a key nobody asked for",
            false,
            grant(0, Some(key), 3_000, b"file"),
        ),
        (
            "all-zero key",
            true,
            grant(0, Some([0; 32]), 3_000, b"file"),
        ),
        (
            "too large",
            true,
            grant(0, Some(key), (1 << 40) + 1, b"file"),
        ),
        (
            "no bytes, without the extension",
            true,
            grant(0, Some(key), 0, b"file"),
        ),
        ("a bundle", true, bundle),
    ];
    for (what, encrypt, mut answer) in cases {
        let deal = Deal {
            via: Via::Pull,
            encrypt,
            size: 3_000,
            ..Deal::default()
        };
        let mut duo = Duo::new(Config::default(), daemon(), deal);
        let mut id = 0;
        duo.run(100 * MS, |_, _, bytes| {
            id = u32_at(bytes, 1);
            0
        });
        answer[1..5].copy_from_slice(&id.to_be_bytes());
        repair_sum(&mut answer);
        duo.inject(CLIENT, SocketAddr::new(B.ip(), 4711), &answer);
        duo.run(SECOND, |_, _, _| 0);
        assert!(matches!(duo.results[CLIENT], Some(Err(_))), "{what}");
        assert_eq!((duo.bytes, duo.ends[CLIENT].sessions()), (0, 0), "{what}");
    }
}

/// Whatever is said after a PULL_REQ from a forged address, whatever the daemon serves: three bytes for one.
#[test]
fn a_spoofed_pull_draws_no_more_than_three_times_its_bytes() {
    let mut rng = Rng::new(common::seed(1));
    let key = Secret::from_bytes([3; 32]).public();
    for round in 0..1_500u32 {
        let size = [0, 1, 1368, 5_000, 1 << 30][rng.below(5) as usize];
        let mut server = Server::new(size);
        let victim = SocketAddr::from(([198, 18, 0, (round % 250) as u8], 999));
        let id = rng.next_u64() as u32;
        let sealed = rng.chance(0.5).then_some(key);
        let mut request = pull_req(id, sealed, b"file");
        if rng.chance(0.6) {
            request = with_block(request, &[1, 4, 0, 0, 0, 15]);
        }
        if rng.chance(0.5) {
            request.resize(1000 + rng.below(400) as usize, 0);
        }
        server.hear(victim, &request);
        for _ in 0..rng.below(40) {
            server.pass(Duration::from_millis(rng.below(700)));
            let echo =
                [0, 1, 1 << 60, (1 << 61) | 1, rng.next_u64() | 1, u64::MAX][rng.below(6) as usize];
            let front = [0, 1, 99, u64::MAX][rng.below(4) as usize];
            let beat = heartbeat(id, echo, front, rng.below(3), rng.chance(0.5));
            match rng.below(8) {
                0 => server.hear(victim, &request),
                1 => server.hear(victim, &packet(kind::COMPLETE, id, (0, 0), 0, 0, 0, &[])),
                2 => server.hear(victim, &packet(kind::ACK_CLOSE, id, (0, 0), 0, 0, 0, &[])),
                3 => server.hear(victim, &packet(0x0d, id ^ 1, (0, 0), 0, 0, 0, &[])),
                4 => server.hear(MALLORY, &beat),
                _ => server.hear(victim, &beat),
            }
        }
        server.pass(60 * SECOND);
        assert_eq!(server.endpoint.sessions(), 0, "everything ends");
        assert!(
            server.wanted <= 140_000 * 40,
            "the disk is asked for a block each"
        );
    }
}

/// A flood of forged pulls and pushes: the table stays a table, no more than a block of memory each, and an honest client
/// that asks again gets in and through.
#[test]
fn floods_lock_no_honest_client_out() {
    for via in [Via::Push, Via::Pull] {
        for encrypt in [false, true] {
            let deal = Deal {
                via,
                encrypt,
                size: 200_000,
                ..Deal::default()
            };
            let mut duo = Duo::new(Config::default(), daemon(), deal);
            let mut rng = Rng::new(common::seed(1));
            let mut most = 0;
            for round in 0..6_000u32 {
                let from = SocketAddr::from(([198, 18, (round >> 8) as u8, round as u8], 1024));
                let id = rng.next_u64() as u32;
                let request = match round % 3 {
                    0 => pull_req(id, None, b"stranger"),
                    1 => push_req(id, 1 << 40, b"stranger"),
                    _ => packet(0x0d, id, (0, 0), 0, 0, 0, &[]),
                };
                duo.inject(DAEMON, from, &request);
                duo.run(MS, |_, _, _| 1);
                most = most.max(duo.ends[DAEMON].sessions());
            }
            assert!(most <= 300, "{most} sessions");
            duo.run(30 * SECOND, |_, _, _| 1);
            let honest = duo.results[duo.receiver()];
            assert_eq!((honest, duo.wrong), (Some(Ok(())), 0), "{via:?}");
        }
    }
}

/// What a daemon reads from its disk for strangers who have shown nothing.
#[test]
fn a_stranger_costs_a_block_of_reading() {
    let mut server = Server::new(1 << 40);
    for n in 0..256u32 {
        let from = SocketAddr::from(([198, 18, 0, n as u8], 999));
        server.hear(from, &pull_req(n, None, b"file"));
    }
    assert!(server.wanted <= 256 * 136_800, "{} bytes", server.wanted);
}

/// A pull that lost its place asks again and is served (4.1.4).
#[test]
fn who_was_displaced_may_ask_again() {
    let mut server = Server::new(5_000);
    let asks = |server: &mut Server, n: u32| {
        let from = SocketAddr::from(([198, 18, (n >> 8) as u8, n as u8], 999));
        server.hear(from, &pull_req(n, None, b"file"));
    };
    for n in 0..2_000 {
        asks(&mut server, n);
    }
    server.said.clear();
    for n in 0..2_000 {
        asks(&mut server, n);
    }
    let refused = server.said.iter().filter(|(_, it)| it[0] == kind::REJECT);
    assert_eq!(refused.count(), 0, "told that their own number is taken");
}

/// One busy session beside 256 half-open ones: nobody else is looked at when a packet comes or leaves. Counted in the
/// deadlines that are due, not in time: a half-open session has one, seconds away.
#[test]
fn half_open_strangers_are_not_woken_by_a_busy_session() {
    let deal = Deal {
        via: Via::Push,
        encrypt: true,
        size: 2_000_000,
        ..Deal::default()
    };
    let run = |strangers: u32| {
        let mut duo = Duo::new(Config::default(), daemon(), deal.clone());
        for n in 0..strangers {
            let from = SocketAddr::from(([198, 18, 0, n as u8], 1024));
            duo.inject(DAEMON, from, &push_req(n, 1 << 30, b"stranger"));
        }
        let mut said = 0;
        duo.run(20 * SECOND, |whose, _, _| {
            said += u64::from(whose == DAEMON);
            1
        });
        duo.assert_done("beside strangers");
        said
    };
    assert_eq!(
        run(0),
        run(256),
        "the busy session's own packets are the same"
    );
}

/// A receiver that lies about what it had gets no more than it asked for: no panic, nothing beyond the file, an end.
#[test]
fn lies_about_what_was_had_harm_only_the_liar() {
    let mut rng = Rng::new(common::seed(1));
    for round in 0..60 {
        let deal = Deal {
            via: WAYS[round % 3],
            encrypt: false,
            size: 3_000_000,
            ..Deal::default()
        };
        let mut duo = Duo::new(Config::default(), daemon(), deal);
        let liar = duo.receiver();
        duo.run(60 * SECOND, |whose, number, bytes| {
            if whose == liar && bytes[0] == kind::HEARTBEAT && number % 3 == 0 {
                let end = 32 + usize::from(common::u16_at(bytes, 21));
                let block = bytes.split_off(end.min(bytes.len()));
                if block.len() < 10 {
                    bytes.extend(block);
                    return 1;
                }
                // Its own fields, with another list behind the features.
                let fields = &block[6..block.len() - 6];
                let count = [1, 3, 31][rng.below(3) as usize];
                let mut list = vec![8, count * 8];
                for _ in 0..count {
                    let values = [0, 1, 5, 21, 22, u32::MAX, rng.next_u64() as u32];
                    list.extend(values[rng.below(7) as usize].to_be_bytes());
                    list.extend(values[rng.below(7) as usize].to_be_bytes());
                }
                let fields = [fields, &list].concat();
                *bytes = with_block(std::mem::take(bytes), &fields);
                if bytes.len() > 1400 {
                    return 0;
                }
            }
            1
        });
        assert_eq!(duo.wrong, 0);
        duo.run(60 * SECOND, |_, _, _| 1);
        let fine = duo.results[1 - liar] == Some(Ok(()));
        let there = duo.results[liar] == Some(Ok(()));
        assert!(
            !fine || there,
            "success at the sender alone: {:?}",
            duo.results
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What is had may be said at any time and in any shape: the file is whole in the end, and no more is counted than
    /// there is.
    #[test]
    fn what_was_had_keeps_the_file_exact(
        via in 0usize..3, encrypt: bool, bundle: bool, loss in 0u64..4, seed: u64,
        had in prop::collection::vec(
            (0u64..3_000_000, prop::collection::vec((0u64..3_200_000, 0u64..1_500_000), 0..6)), 0..5),
    ) {
        let mut had: Vec<_> = had
            .into_iter()
            .map(|(after, list)| {
                let ranges = list.into_iter().map(|(start, len)| start..start + len).collect();
                (after, ranges)
            })
            .collect();
        had.sort_by_key(|(after, _): &(u64, Vec<_>)| *after);
        let deal = Deal {
            via: WAYS[via], encrypt, bundle, size: 3_000_000, had: VecDeque::from(had), ..Deal::default()
        };
        let mut duo = Duo::new(Config::default(), daemon(), deal);
        let mut rng = Rng::new(seed);
        let loss = loss as f64 * 0.08;
        duo.run(90 * SECOND, |_, _, _| usize::from(!rng.chance(loss)));
        duo.assert_done("had");
    }
}

#[test]
fn refused_packets_are_counted_not_answered() {
    let mut server = Server::new(1);
    for bytes in [
        packet(0x0e, 7, (0, 0), 0, 0, 0, &[]),
        packet(0x09, 7, (0, 0), 2, 0, 0, &[0, 0]),
        packet(0x0d, 7, (0, 1), 0, 0, 0, &[]),
        packet(0x0d, 7, (0, 0), 1, 0, 0, &[1]),
    ] {
        server.hear(MALLORY, &bytes);
    }
    server.pass(SECOND);
    assert_eq!((server.said.len(), server.endpoint.sessions()), (0, 0));
    let counters = server.endpoint.counters();
    assert_eq!(counters.get(Counter::Malformed), 2);
    assert_eq!(counters.get(Counter::Stray), 2);
    let wish = Wish {
        to: B,
        name: "file".to_owned(),
        encrypt: false,
        trust: Trust::Anyone,
        bundle: false,
    };
    let tag = Tag(5);
    server
        .endpoint
        .handle_command(server.now, Command::Pull { tag, wish });
    let reason = Reason::DISCONNECT;
    server
        .endpoint
        .handle_command(server.now, Command::Abort { tag, reason });
    assert_eq!(server.endpoint.sessions(), 0);
}

fn named(name: &[u8]) -> Vec<u8> {
    [name, &[0]].concat()
}

fn pull_req(id: u32, key: Option<[u8; 32]>, name: &[u8]) -> Vec<u8> {
    let body = [key.as_ref().map_or(&[][..], |key| key), &named(name)].concat();
    let flags = if key.is_some() { 4 } else { 0 };
    packet(0x07, id, (0, 0), body.len(), flags, 0, &body)
}

fn push_req(id: u32, size: u64, name: &[u8]) -> Vec<u8> {
    let body = [&size.to_be_bytes()[..], &named(name)].concat();
    packet(0x08, id, (0, 0), body.len(), 0, 0, &body)
}

/// The SESSION_REQ that answers a pull.
fn grant(id: u32, key: Option<[u8; 32]>, size: u64, name: &[u8]) -> Vec<u8> {
    let mut body = size.to_be_bytes().to_vec();
    body.extend([1; 8]);
    body.extend([0; 4]);
    body.extend(key.iter().flatten());
    body.extend(name);
    let flags = if key.is_some() { 4 } else { 0 };
    let len = body.len();
    body.push(0);
    packet(kind::SESSION_REQ, id, (0, 0), len, flags, 0, &body)
}

fn heartbeat(id: u32, echo: u64, front: u64, holes: u64, reference: bool) -> Vec<u8> {
    let mut body = vec![0; 10];
    let times = [echo.to_be_bytes(), [0; 8]].concat();
    let fronts = [&front.to_be_bytes()[..], &(holes as u16).to_be_bytes()].concat();
    let order = if reference {
        [fronts, times]
    } else {
        [times, fronts]
    };
    body.extend(order.concat());
    body.extend((0..holes).flat_map(u64::to_be_bytes));
    packet(kind::HEARTBEAT, id, (0, 0), body.len(), 0, 0, &body)
}

/// The extension block with these fields, and its checksum.
fn with_block(mut bytes: Vec<u8>, fields: &[u8]) -> Vec<u8> {
    bytes.extend(b"HPX1");
    bytes.extend((fields.len() as u16 + 12).to_be_bytes());
    bytes.extend(fields);
    bytes.extend([5, 4]);
    let sum = crc32(&bytes);
    bytes.extend(sum.to_be_bytes());
    bytes
}

/// Where a packet's extension block begins, and where its checksum stands.
fn block(bytes: &[u8]) -> Option<(usize, usize)> {
    let at = bytes.windows(4).position(|it| it == b"HPX1")?;
    let end = at + usize::from(common::u16_at(bytes, at + 4));
    (end <= bytes.len() && end >= at + 12).then_some((at, end - 4))
}

fn repair_sum(bytes: &mut [u8]) {
    if let Some((_, at)) = block(bytes) {
        let sum = crc32(&bytes[..at]).to_be_bytes();
        bytes[at..at + 4].copy_from_slice(&sum);
    }
}

/// Takes the extension off a handshake packet.
fn strip(bytes: &mut Vec<u8>) {
    if matches!(bytes[0], 0x00 | 0x07..=0x0a)
        && let Some((at, _)) = block(bytes)
    {
        bytes.truncate(at);
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}
