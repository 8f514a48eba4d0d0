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

use common::{A, B, Pair, Sent, Strangers, kind, link, packet, seed, u32_at, u64_at};
use fulmar_proto::hpudp::{
    Command, Config, Counter, Endpoint, Event, Failure, Reason, Request, Tag,
};
use fulmar_proto::sim::Rng;
use fulmar_proto::{Endpoint as _, Meta};

const MS: Duration = Duration::from_millis(1);

/// Elsewhere: an address nobody has.
const MALLORY: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 66)),
    666,
);

fn pair(seed: u64, encrypt: bool, size: u64) -> Pair {
    let config = Config::default();
    let mut pair = Pair::fulmars(seed, (config.clone(), config), link(100, 20, 0.01), size);
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
    size: u64,
    verifying: Duration,
    mut attack: impl FnMut(&mut Pair, u32, &mut Rng),
) {
    let seed = seed(1);
    let run = |attack: &mut dyn FnMut(&mut Pair, u32, &mut Rng)| {
        let mut rng = Rng::new(seed);
        let mut pair = pair(seed, encrypt, size);
        pair.apps.verifying = verifying;
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
        assert_unnoticed(
            "wrong address",
            encrypt,
            1_500_000,
            60 * MS,
            |pair, id, rng| {
                let other_port = SocketAddr::new(A.ip(), 9001);
                for bytes in worst(id, encrypt, rng) {
                    pair.net.inject(pair.b, MALLORY, &bytes);
                    pair.net.inject(pair.b, other_port, &bytes);
                    pair.net.inject(pair.a, MALLORY, &bytes);
                }
            },
        );
    }
}

#[test]
fn a_wrong_session_number_has_no_effect() {
    for encrypt in [false, true] {
        assert_unnoticed(
            "wrong number",
            encrypt,
            1_500_000,
            60 * MS,
            |pair, id, rng| {
                for id in [id ^ 1, id.swap_bytes() ^ 0x5a, 0, u32::MAX] {
                    for bytes in worst(id, encrypt, rng) {
                        pair.net.inject(pair.b, A, &bytes);
                        pair.net.inject(pair.a, B, &bytes);
                    }
                }
            },
        );
    }
}

/// Off the path even the right address and number do not make a heartbeat: its echo cannot be guessed.
#[test]
fn a_heartbeat_with_guessed_stamps_has_no_effect() {
    for encrypt in [false, true] {
        assert_unnoticed(
            "guessed stamps",
            encrypt,
            1_500_000,
            60 * MS,
            |pair, id, rng| {
                for bytes in worst_heartbeats(id, rng) {
                    pair.net.inject(pair.a, B, &bytes);
                }
            },
        );
    }
}

/// On the path of a sealed session: whatever is said about the contents, nobody hears it.
#[test]
fn forged_chunks_have_no_effect_on_a_sealed_session() {
    assert_unnoticed(
        "forged chunks",
        true,
        1_500_000,
        60 * MS,
        |pair, id, rng| {
            // Once everything is there a straggler is told so, seldom; that is an answer and no effect.
            if pair.apps.received.is_some() {
                return;
            }
            for bytes in worst(id, true, rng) {
                if matches!(bytes[0], kind::DATA | kind::PARITY) {
                    pair.net.inject(pair.b, A, &bytes);
                }
            }
        },
    );
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
