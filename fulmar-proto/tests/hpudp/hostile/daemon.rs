//! Strangers who forge their address before a daemon, daemons and receivers that lie.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use fulmar_proto::Endpoint as _;
use fulmar_proto::crypto::Secret;
use fulmar_proto::hpudp::{Command, Config, Counter, Reason, Tag, Trust, Via, Wish};
use fulmar_proto::sim::Rng;
use proptest::prelude::*;

use super::handshake::{WAYS, repair_sum, with_block};
use super::{MALLORY, SECOND};
use crate::common::duo::{CLIENT, DAEMON, Deal, Duo, MS};
use crate::common::server::{Server, daemon};
use crate::common::{B, kind, packet, seed, u16_at, u32_at};

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
        assert_eq!(
            (duo.content.bytes(), duo.ends[CLIENT].sessions()),
            (0, 0),
            "{what}"
        );
    }
}

/// Whatever is said after a PULL_REQ from a forged address, whatever the daemon serves: three bytes for one.
#[test]
fn a_spoofed_pull_draws_no_more_than_three_times_its_bytes() {
    let mut rng = Rng::new(seed(1));
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
            let mut rng = Rng::new(seed(1));
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
            assert_eq!((honest, duo.content.wrong()), (Some(Ok(())), 0), "{via:?}");
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
    let mut rng = Rng::new(seed(1));
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
                let end = 32 + usize::from(u16_at(bytes, 21));
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
        assert_eq!(duo.content.wrong(), 0);
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
