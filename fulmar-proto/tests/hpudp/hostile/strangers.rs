//! Requests from addresses that nobody has proved to have: what they are told, what they are sent, what they cost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fulmar_proto::hpudp::{Command, Config, Counter, Endpoint, Event, Reason, Tag};
use fulmar_proto::sim::Rng;
use fulmar_proto::{Endpoint as _, Meta};

use super::memory::measured;
use super::{MALLORY, MS, crc32};
use crate::common::{Pair, Strangers, kind, link, packet, seed};

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

pub(super) fn session_req(id: u32, size: u64, key: Option<[u8; 32]>, name: &[u8]) -> Vec<u8> {
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

pub(super) fn stranger(n: u32) -> SocketAddr {
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
