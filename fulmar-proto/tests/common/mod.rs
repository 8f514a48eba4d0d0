//! Two hosts, a link each way and the applications behind them: what the HP-UDP tests that need to see every byte on
//! the wire share. One host may be scripted: an endpoint the test wrote by hand.
#![allow(dead_code, clippy::disallowed_methods)]

pub(crate) mod duo;
mod host;
pub(crate) mod reference;
pub(crate) mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use fulmar_proto::hpudp::{
    Command, Config, Event, Failure, Reason, Request, Snapshot, Tag, Trust, Via, Wish,
};
use fulmar_proto::sim::{Content, LinkConfig, LinkId, Loss, Net, NodeId, Rng};

pub(crate) use host::{Host, Sent};

/// What a receiving application does with an offer that is not the file it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strangers {
    /// Never decides.
    Ignored,
    /// Takes every file, stores every byte, and finds every hash wrong.
    Accepted,
}

/// The applications of both hosts, and what they saw of the one file that matters.
pub(crate) struct Apps {
    pub(crate) content: Content,
    pub(crate) strangers: Strangers,
    /// The sender's application gives the file to whoever asks.
    pub(crate) serving: bool,
    /// How long hashing and the disk take after the last byte.
    pub(crate) verifying: Duration,
    /// Since the start of time: when the receiver's disk takes nothing.
    pub(crate) stalled: Option<Range<Duration>>,
    started: Instant,
    unwritten: Vec<Command>,
    verify_at: Option<(Instant, Tag)>,
    tag: Option<Tag>,
    /// Sizes that strangers claimed.
    claims: BTreeMap<Tag, u64>,
    /// The hash that came with the file is another one.
    misled: bool,
    pub(crate) connected: Option<(bool, bool)>,
    pub(crate) sent: Option<Result<(), Failure>>,
    pub(crate) received: Option<Result<(), Failure>>,
    pub(crate) sent_at: Option<Instant>,
    pub(crate) received_at: Option<Instant>,
    pub(crate) sender: Snapshot,
    pub(crate) receiver: Snapshot,
    pub(crate) events: u64,
    pub(crate) offers: u64,
    /// Sessions of the file that ended before a packet came.
    pub(crate) forgotten: u64,
}

impl Apps {
    /// Every byte came, exactly once and exactly as sent.
    pub(crate) fn exact(&self) -> bool {
        self.content.is_exact() && !self.misled
    }

    fn sender(&mut self, now: Instant, event: Event) -> Option<Command> {
        match event {
            Event::Want {
                tag,
                offset,
                len,
                buffer,
            } => return Some(self.content.supply(tag, offset, len, buffer)),
            Event::Connected {
                encrypted,
                extended,
                ..
            } => self.connected = Some((encrypted, extended)),
            Event::Progress { snapshot, .. } => self.sender = snapshot,
            Event::Finished {
                snapshot, result, ..
            } => {
                assert_eq!(self.sent, None, "finished twice");
                (self.sender, self.sent, self.sent_at) = (snapshot, Some(result), Some(now));
            }
            // A stranger's request reached the sender: it is as much a receiver as anyone.
            Event::Offered { tag, .. } => {
                return Some(Command::Abort {
                    tag,
                    reason: Reason::NOT_FOUND,
                });
            }
            Event::Asked { tag, .. } if self.serving => {
                return Some(Command::Serve {
                    tag,
                    size: self.content.size(),
                    hash: self.content.hash(),
                    bundle: false,
                });
            }
            Event::Asked { tag, .. } | Event::ListAsked { tag, .. } => {
                return Some(Command::Abort {
                    tag,
                    reason: Reason::NOT_FOUND,
                });
            }
            Event::Closed { .. }
            | Event::Chunk { .. }
            | Event::Listing { .. }
            | Event::Received { .. } => {}
        }
        None
    }

    fn receiver(&mut self, now: Instant, event: Event) -> Option<Command> {
        match event {
            Event::Offered {
                tag, size, hash, ..
            } => {
                self.offers += 1;
                // A push tells the hash later.
                let named = hash.is_none_or(|hash| hash == self.content.hash());
                if named && size == self.content.size() && self.tag.is_none() {
                    self.tag = Some(tag);
                } else if self.strangers == Strangers::Ignored {
                    return None;
                }
                assert_eq!(self.claims.insert(tag, size), None, "a tag twice");
                return Some(Command::Accept { tag });
            }
            Event::Chunk { tag, offset, bytes } => {
                let claim = *self
                    .claims
                    .get(&tag)
                    .expect("chunks of accepted offers only");
                let len = bytes.len();
                let end = offset + len as u64;
                assert!(end <= claim && len > 0, "bytes beyond the file");
                let stored = if self.tag == Some(tag) {
                    self.content.store(tag, offset, bytes)
                } else {
                    let buffer = bytes;
                    Command::Stored { tag, buffer, len }
                };
                if self.is_stalled(now) {
                    self.unwritten.push(stored);
                    return None;
                }
                return Some(stored);
            }
            Event::Received { tag, hash } if self.tag == Some(tag) => {
                self.misled |= hash != self.content.hash();
                self.verify_at = Some((now + self.verifying, tag));
            }
            Event::Received { tag, .. } => {
                return Some(Command::Abort {
                    tag,
                    reason: Reason::HASH_MISMATCH,
                });
            }
            Event::Progress { tag, snapshot } if self.tag == Some(tag) => self.receiver = snapshot,
            Event::Finished {
                tag,
                snapshot,
                result,
            } if self.tag == Some(tag) => {
                assert_eq!(self.received, None, "finished twice");
                if snapshot.data + snapshot.parities == 0 && result == Err(Failure::Silent) {
                    // Nothing came of it; the sender may ask again.
                    self.tag = None;
                    self.forgotten += 1;
                    return None;
                }
                self.received_at = Some(now);
                (self.receiver, self.received) = (snapshot, Some(result));
            }
            Event::Closed { tag } => {
                self.claims.remove(&tag);
            }
            Event::Asked { tag, .. } | Event::ListAsked { tag, .. } => {
                return Some(Command::Abort {
                    tag,
                    reason: Reason::NOT_FOUND,
                });
            }
            Event::Progress { .. }
            | Event::Finished { .. }
            | Event::Want { .. }
            | Event::Listing { .. }
            | Event::Connected { .. } => {}
        }
        None
    }

    fn is_stalled(&self, now: Instant) -> bool {
        let at = now.duration_since(self.started);
        self.stalled.as_ref().is_some_and(|span| span.contains(&at))
    }

    /// What a disk that works again has written.
    fn written(&mut self, now: Instant) -> Option<Command> {
        let works = !self.is_stalled(now);
        works.then(|| self.unwritten.pop()).flatten()
    }

    fn verified(&mut self, now: Instant) -> Option<Command> {
        let (_, tag) = self.verify_at.take_if(|(at, _)| *at <= now)?;
        Some(if self.exact() {
            Command::Verified { tag }
        } else {
            Command::Abort {
                tag,
                reason: Reason::HASH_MISMATCH,
            }
        })
    }
}

/// A sends one file to B.
pub(crate) struct Pair {
    pub(crate) net: Net<Host>,
    pub(crate) a: NodeId,
    pub(crate) b: NodeId,
    pub(crate) up: LinkId,
    pub(crate) down: LinkId,
    pub(crate) apps: Apps,
}

pub(crate) const A: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
    9000,
);
pub(crate) const B: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
    9000,
);

impl Pair {
    pub(crate) fn new(
        start: Instant,
        seed: u64,
        hosts: (Host, Host),
        links: (LinkConfig, LinkConfig),
        size: u64,
    ) -> Self {
        let mut net = Net::new(start, seed);
        let a = net.add_node(A, hosts.0);
        let b = net.add_node(B, hosts.1);
        let (up, down) = net.connect(a, b, links.0, links.1);
        let apps = Apps {
            content: Content::new(size, Rng::new(seed ^ 0xf11e).next_u64()),
            strangers: Strangers::Ignored,
            serving: false,
            verifying: Duration::ZERO,
            stalled: None,
            started: start,
            unwritten: Vec::new(),
            verify_at: None,
            tag: None,
            claims: BTreeMap::new(),
            misled: false,
            connected: None,
            sent: None,
            received: None,
            sent_at: None,
            received_at: None,
            sender: Snapshot::default(),
            receiver: Snapshot::default(),
            events: 0,
            offers: 0,
            forgotten: 0,
        };
        Self {
            net,
            a,
            b,
            up,
            down,
            apps,
        }
    }

    /// Two of ours over this link each way.
    pub(crate) fn fulmars(
        seed: u64,
        config: (Config, Config),
        link: LinkConfig,
        size: u64,
    ) -> Self {
        let start = Instant::now();
        let mut rng = Rng::new(seed ^ 0x5eed);
        let hosts = (
            Host::fulmar(start, config.0, &mut rng),
            Host::fulmar(start, config.1, &mut rng),
        );
        Self::new(start, seed, hosts, (link.clone(), link), size)
    }

    pub(crate) fn send(&mut self, encrypt: bool) {
        let content = &self.apps.content;
        let request = Request {
            encrypt,
            ..Request::new(B, "file", content.size(), content.hash())
        };
        let tag = Tag(1);
        self.net.command(self.a, Command::Send { tag, request });
        self.pump();
    }

    pub(crate) fn push(&mut self, encrypt: bool) {
        let content = &self.apps.content;
        let request = Request {
            encrypt,
            via: Via::Push,
            ..Request::new(B, "file", content.size(), content.hash())
        };
        let tag = Tag(1);
        self.net.command(self.a, Command::Send { tag, request });
        self.pump();
    }

    /// B fetches it.
    pub(crate) fn pull(&mut self, encrypt: bool) {
        let wish = Wish {
            to: A,
            name: "file".to_owned(),
            encrypt,
            trust: Trust::Anyone,
            bundle: false,
        };
        let tag = Tag(1);
        self.net.command(self.b, Command::Pull { tag, wish });
        self.pump();
    }

    /// Runs until both applications know how it ended.
    pub(crate) fn finish(&mut self, limit: Duration) -> &mut Self {
        self.run_until(limit, |it| {
            it.apps.sent.is_some() && it.apps.received.is_some()
        });
        self
    }

    pub(crate) fn run_for(&mut self, time: Duration) -> &mut Self {
        self.run_until(time, |_| false);
        self
    }

    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = self.net.now() + limit;
        self.net.alarm(end);
        while !done(self) {
            if self.net.now() >= end || !self.net.step() {
                return done(self);
            }
            self.pump();
        }
        true
    }

    fn pump(&mut self) {
        let now = self.net.now();
        loop {
            let (at_a, at_b) = (self.net.events(self.a), self.net.events(self.b));
            let mut quiet = at_a.is_empty() && at_b.is_empty();
            for event in at_a {
                self.apps.events += 1;
                if let Some(command) = self.apps.sender(now, event) {
                    self.net.command(self.a, command);
                }
            }
            for event in at_b {
                self.apps.events += 1;
                if let Some(command) = self.apps.receiver(now, event) {
                    self.net.command(self.b, command);
                }
            }
            if let Some(command) = self.apps.written(now) {
                self.net.command(self.b, command);
                quiet = false;
            } else if let Some(command) = self.apps.verified(now) {
                self.net.command(self.b, command);
                quiet = false;
            } else if let Some((at, _)) = self.apps.verify_at {
                self.net.alarm(at);
            }
            if quiet {
                return;
            }
        }
    }

    pub(crate) fn assert_done(&self, what: &str) {
        assert_eq!(
            (self.apps.sent, self.apps.received, self.apps.exact()),
            (Some(Ok(())), Some(Ok(())), true),
            "{what}: after {:?}\n{:?}\n{:?}\n{:?}\n{:?}",
            self.net.elapsed(),
            self.apps.sender,
            self.apps.receiver,
            self.net.link(self.up).stats(),
            self.net.link(self.down).stats(),
        );
    }
}

pub(crate) fn link(mbit: u64, rtt_ms: u64, loss: f64) -> LinkConfig {
    let rate = fulmar_proto::engine::Bitrate::from_bits_per_sec(mbit * 1_000_000);
    LinkConfig {
        delay: Duration::from_micros(rtt_ms * 500),
        rate: Some(rate),
        // Deep: what is lost is lost on the wire, as often as the test says and no oftener.
        queue: (4 * rate.bytes_in(Duration::from_millis(rtt_ms)) as usize).max(256 * 1428),
        loss: if loss > 0.0 {
            Loss::Independent(loss)
        } else {
            Loss::None
        },
        ..LinkConfig::default()
    }
}

/// The seed of this run: `SEED`, or the one given. Printed, so that a failure can be replayed.
pub(crate) fn seed(or: u64) -> u64 {
    let seed = std::env::var("SEED").map_or(or, |seed| seed.parse().expect("SEED is a number"));
    println!("SEED={seed}");
    seed
}

/// A header and a payload, written by hand: type, session, sequence, block, PayloadLen, flags, stamp.
pub(crate) fn packet(
    kind: u8,
    id: u32,
    (seq, block): (u64, u64),
    len: usize,
    flags: u8,
    stamp: u64,
    body: &[u8],
) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(id.to_be_bytes());
    out.extend(seq.to_be_bytes());
    out.extend(block.to_be_bytes());
    out.extend((len as u16).to_be_bytes());
    out.push(flags);
    out.extend(stamp.to_be_bytes());
    out.extend(body);
    out
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) mod kind {
    pub(crate) const SESSION_REQ: u8 = 0x00;
    pub(crate) const DATA: u8 = 0x01;
    pub(crate) const PARITY: u8 = 0x02;
    pub(crate) const HEARTBEAT: u8 = 0x03;
    pub(crate) const REJECT: u8 = 0x04;
    pub(crate) const COMPLETE: u8 = 0x05;
    pub(crate) const ACK_CLOSE: u8 = 0x06;
    pub(crate) const SESSION_ACCEPT: u8 = 0x0a;
}
