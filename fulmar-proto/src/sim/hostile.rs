//! Bodies of the fuzz targets: any bytes, played against the parsers or against a pair of endpoints.
//!
//! `cargo fuzz` runs them on bytes of its own making, the tests on the committed corpus. [`endpoint_hpudp`] reads its
//! bytes as a play for two hosts and an attacker between them: what is delivered, lost, repeated, damaged or forged,
//! what the applications do, and how time passes. After every scene it demands of both endpoints what holds whatever
//! happened. It does *not* expect a transfer to succeed: the play may well kill it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crypto::{Secret, sha256};
use crate::engine::{Endpoint as _, Meta, RangeSet};
use crate::hpudp::{
    Command, Config, Control, DATAGRAM_MAX, Endpoint, Event, Layout, Parity, Reason, Request, Tag,
    Trust, Via, Wish, read_and_write_back,
};

/// HP-UDP packets: parsed, written and parsed again.
pub fn parse_hpudp(bytes: &[u8]) {
    read_and_write_back(bytes);
}

/// Two HP-UDP endpoints and an attacker, directed by `bytes`. `start` is any instant.
///
/// # Panics
/// When an endpoint breaks its contract.
pub fn endpoint_hpudp(start: Instant, bytes: &[u8]) {
    let mut script = Script { bytes };
    let (a, b) = (config(script.byte()), config(script.byte()));
    let mut play = Play {
        now: start,
        hosts: [Host::new(a, 1), Host::new(b, 2)],
        flying: [VecDeque::new(), VecDeque::new()],
        heard: VecDeque::new(),
        end: start + PLAY_MAX,
    };
    for _ in 0..SCENES {
        if script.bytes.is_empty() {
            return;
        }
        play.scene(&mut script);
        play.settle();
    }
}

struct Play {
    now: Instant,
    hosts: [Host; 2],
    /// Datagrams on their way to each host.
    flying: [VecDeque<Vec<u8>>; 2],
    /// What was said lately, for repetition.
    heard: VecDeque<Vec<u8>>,
    end: Instant,
}

struct Host {
    endpoint: Endpoint,
    /// Files it was offered or sends, by the name of the session.
    files: BTreeMap<Tag, File>,
    /// The application answers what it is asked.
    answering: bool,
    sends: u64,
}

struct File {
    size: u64,
    handed_up: RangeSet,
    finished: bool,
    received: bool,
    /// It was asked for, and its session may end before it was one.
    asked: bool,
    /// What the application claims to have had.
    had: RangeSet,
}

struct Script<'a> {
    bytes: &'a [u8],
}

impl Play {
    fn scene(&mut self, script: &mut Script<'_>) {
        let op = script.byte();
        let to = usize::from(op >> 7);
        match op % 10 {
            0 => self.pass(Duration::from_millis(u64::from(script.word()))),
            1 | 2 => self.deliver(to, usize::from(script.byte())),
            3 => {
                let lost = usize::from(script.byte()).min(self.flying[to].len());
                self.flying[to].drain(..lost);
            }
            4 => {
                let from = source(to, script.byte());
                let len = usize::from(script.word() % 1500);
                let mut bytes = script.take(len).to_vec();
                self.hear(to, from, &mut bytes);
            }
            5 | 6 => {
                let from = source(to, script.byte());
                let which = usize::from(script.byte());
                let mut bytes = match self.heard.len() {
                    0 => return,
                    len => self.heard[which % len].clone(),
                };
                script.damage(&mut bytes);
                self.hear(to, from, &mut bytes);
            }
            7 => {
                let (size, terms) = (script.byte(), script.byte());
                self.send(to, size, terms);
            }
            8 => {
                let (which, what) = (script.byte(), script.byte());
                self.hosts[to].meddle(self.now, which, what);
            }
            _ => self.hosts[to].answering ^= true,
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = (self.now + time).min(self.end);
        while let Some(at) = self.next().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.settle();
        }
        self.now = until;
    }

    fn next(&self) -> Option<Instant> {
        let deadlines = self.hosts.iter().map(|host| host.endpoint.poll_timeout());
        deadlines.flatten().min()
    }

    fn deliver(&mut self, to: usize, count: usize) {
        for _ in 0..count {
            let Some(mut bytes) = self.flying[to].pop_front() else {
                return;
            };
            self.hear(to, source(to, 0), &mut bytes);
            self.settle();
        }
    }

    fn hear(&mut self, to: usize, from: SocketAddr, bytes: &mut [u8]) {
        let meta = Meta {
            from,
            socket: 0,
            to_ip: None,
            ecn: None,
        };
        self.hosts[to]
            .endpoint
            .handle_datagram(self.now, meta, bytes);
    }

    fn send(&mut self, from: usize, size: u8, terms: u8) {
        let host = &mut self.hosts[from];
        if host.sends == SENDS {
            return;
        }
        host.sends += 1;
        let tag = Tag(host.sends);
        let (to, name) = (address(1 - from), "play");
        if size >= LISTS {
            host.files.insert(tag, File::asked(0));
            let first = u64::from(terms);
            let command = Command::List { tag, to, first };
            return host.endpoint.handle_command(self.now, command);
        }
        let size = SIZES[usize::from(size) % SIZES.len()];
        host.files.insert(tag, File::new(size));
        let (encrypt, bundle) = (terms & 1 == 1, terms & 2 == 2);
        let known = sha256(&identity().public());
        let trusts = [
            Trust::Anyone,
            Trust::AnyKey,
            Trust::Key(known),
            Trust::Key([1; 32]),
        ];
        let trust = trusts[usize::from(terms >> 2) % trusts.len()];
        // Every way to begin takes its turn: offered, pushed, pulled from the other side.
        let via = [Via::Direct, Via::Push, Via::Pull][(host.sends % 3) as usize];
        let command = match via {
            Via::Direct | Via::Push => Command::Send {
                tag,
                request: Request {
                    encrypt,
                    via,
                    trust,
                    bundle,
                    ..Request::new(to, name, size, 0x5eed)
                },
            },
            Via::Pull => Command::Pull {
                tag,
                wish: Wish {
                    to,
                    name: name.to_owned(),
                    encrypt,
                    trust,
                    bundle,
                },
            },
        };
        host.endpoint.handle_command(self.now, command);
    }

    /// Runs both hosts until nothing is due, and holds them to their contract.
    fn settle(&mut self) {
        for at in 0..2 {
            let mut rounds = 0;
            loop {
                let host = &mut self.hosts[at];
                if host
                    .endpoint
                    .poll_timeout()
                    .is_some_and(|due| due <= self.now)
                {
                    host.endpoint.handle_timeout(self.now);
                }
                host.drain_events(self.now);
                let sent = self.drain_packets(at);
                self.hosts[at].drain_events(self.now);
                let due = self.hosts[at].endpoint.poll_timeout();
                if !sent && due.is_none_or(|due| due > self.now) {
                    break;
                }
                rounds += 1;
                assert!(rounds < 10_000, "a host spins");
            }
            assert!(self.hosts[at].endpoint.sessions() <= SESSIONS, "sessions");
        }
    }

    fn drain_packets(&mut self, at: usize) -> bool {
        let mut buf = Vec::new();
        let mut sent = false;
        let host = &mut self.hosts[at];
        while let Some(transmit) = host.endpoint.poll_transmit(self.now, 16, &mut buf) {
            sent = true;
            assert_eq!(transmit.len, buf.len(), "length of a transmission");
            let segment = transmit.segment.unwrap_or(transmit.len);
            assert!((1..=DATAGRAM_MAX).contains(&segment), "segment {segment}");
            for bytes in buf.chunks(segment) {
                if self.heard.len() == HEARD {
                    self.heard.pop_front();
                }
                self.heard.push_back(bytes.to_vec());
                let to = &mut self.flying[1 - at];
                if transmit.to == address(1 - at) && to.len() < FLYING {
                    to.push_back(bytes.to_vec());
                }
            }
            buf.clear();
        }
        sent
    }
}

impl Host {
    fn new(config: Config, seed: u8) -> Self {
        let mut endpoint = Endpoint::new(config, [seed; 32]);
        endpoint.guard_nonces();
        Self {
            endpoint,
            files: BTreeMap::new(),
            answering: true,
            sends: 0,
        }
    }

    fn drain_events(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            if let Some(command) = self.answer(event) {
                self.endpoint.handle_command(now, command);
            }
        }
    }

    fn answer(&mut self, event: Event) -> Option<Command> {
        if let Event::Listing { tag, text, .. } = event {
            assert!(
                self.files[&tag].asked && text.len() <= DATAGRAM_MAX,
                "a list"
            );
            return None;
        }
        if let Event::Offered { tag, size, via, .. } = event {
            let known = self.files.insert(tag, File::new(size));
            assert_eq!(known.is_some(), via == Via::Pull, "{tag:?} offered twice");
            return self.answering.then_some(Command::Accept { tag });
        }
        if let Event::ListAsked { tag, first, .. } = event {
            let known = self.files.insert(tag, File::asked(0));
            assert!(known.is_none(), "{tag:?} asked twice");
            let lines = (first..200).map(|at| format!("file{at}\t{at}\n"));
            let text = lines.collect::<String>().into_bytes();
            return self.answering.then_some(Command::Listing {
                tag,
                total: 200,
                text,
            });
        }
        if let Event::Asked { tag, bundle, .. } = event {
            let size = SIZES[(tag.0 % SIZES.len() as u64) as usize];
            // Who is not granted what it asked for is forgotten without more ado.
            let known = self.files.insert(tag, File::asked(size));
            assert!(known.is_none(), "{tag:?} asked twice");
            return self.answering.then_some(Command::Serve {
                tag,
                size,
                hash: 0x5eed,
                bundle,
            });
        }
        let tag = tag_of(&event);
        let file = self.files.get_mut(&tag);
        let file = file.unwrap_or_else(|| panic!("an event of no session: {event:?}"));
        match event {
            Event::Want {
                offset,
                len,
                mut buffer,
                ..
            } => {
                assert!(
                    !file.finished && offset + len as u64 <= file.size,
                    "wants more"
                );
                buffer.clear();
                buffer.resize(len, offset as u8);
                let bytes = buffer;
                self.answering
                    .then_some(Command::Supply { tag, offset, bytes })
            }
            Event::Chunk { offset, bytes, .. } => {
                let len = bytes.len();
                let run = offset..offset + len as u64;
                assert!(
                    len > 0 && run.end <= file.size && !file.finished,
                    "a chunk {run:?}"
                );
                let gap = file.handed_up.gaps(run.clone()).next();
                assert_eq!(gap, Some(run.clone()), "a byte handed up twice");
                file.handed_up.insert(run);
                let buffer = bytes;
                self.answering
                    .then_some(Command::Stored { tag, buffer, len })
            }
            Event::Received { .. } => {
                let mut there = file.handed_up.clone();
                file.had.iter().for_each(|range| there.insert(range));
                let whole = there.gaps(0..file.size).next().is_none();
                assert!(whole && !file.finished, "received, and not whole");
                assert!(
                    !std::mem::replace(&mut file.received, true),
                    "received twice"
                );
                self.answering.then_some(Command::Verified { tag })
            }
            Event::Finished { .. } => {
                assert!(!file.finished, "finished twice");
                file.finished = true;
                None
            }
            Event::Closed { .. } => {
                assert!(file.finished || file.asked, "closed before it finished");
                self.files.remove(&tag);
                None
            }
            Event::Progress { snapshot, .. } => {
                assert!(
                    snapshot.done <= file.size.max(snapshot.size),
                    "more than all"
                );
                None
            }
            Event::Connected { .. }
            | Event::Offered { .. }
            | Event::Asked { .. }
            | Event::Listing { .. }
            | Event::ListAsked { .. } => None,
        }
    }

    /// A command out of turn.
    fn meddle(&mut self, now: Instant, which: u8, what: u8) {
        let count = self.files.len().max(1);
        let tag = self.files.keys().nth(usize::from(which) % count).copied();
        let tag = tag.unwrap_or_else(|| Tag(u64::from(which)));
        let command = match what % 8 {
            0 => Command::Accept { tag },
            1 => Command::Verified { tag },
            2 => Command::Stored {
                tag,
                buffer: Vec::new(),
                len: usize::from(what) << 12,
            },
            3 => Command::Supply {
                tag,
                offset: u64::from(what) << 10,
                bytes: vec![what; usize::from(what)],
            },
            6 | 7 => {
                // Two ranges of any kind, one of them possibly the end.
                let at = u64::from(what) * 5_000;
                let ranges = vec![at / 3..at, at * 2..u64::from(which) << 13];
                if let Some(file) = self.files.get_mut(&tag) {
                    let sane = ranges.iter().filter(|range| range.start < range.end);
                    sane.for_each(|range| file.had.insert(range.clone()));
                }
                Command::Have { tag, ranges }
            }
            _ => Command::Abort {
                tag,
                reason: Reason(what),
            },
        };
        self.endpoint.handle_command(now, command);
    }
}

impl File {
    fn new(size: u64) -> Self {
        Self {
            size,
            handed_up: RangeSet::new(),
            finished: false,
            received: false,
            asked: false,
            had: RangeSet::new(),
        }
    }

    fn asked(size: u64) -> Self {
        Self {
            asked: true,
            ..Self::new(size)
        }
    }
}

impl<'a> Script<'a> {
    /// The next byte; zero at the end.
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// As many as are left of the next `len` bytes.
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        head
    }

    /// Up to seven edits: a byte replaced, a word replaced, or the end cut.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.byte() % 8 {
            let (how, at) = (self.byte(), usize::from(self.word()));
            let at = at % bytes.len().max(1);
            match how % 4 {
                0 => bytes.truncate(at),
                1 => {
                    let value = self.take(8);
                    let end = bytes.len().min(at + value.len());
                    bytes[at..end].copy_from_slice(&value[..end - at]);
                }
                _ => {
                    let value = self.byte();
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = value;
                    }
                }
            }
        }
    }
}

fn config(bits: u8) -> Config {
    let on = |bit: u8| bits >> bit & 1 == 1;
    Config {
        extensions: !on(0),
        control: match (on(1), on(2)) {
            (false, _) => Control::Delivery,
            (true, false) => Control::Hpudp,
            (true, true) => Control::Fixed,
        },
        parity: if on(3) {
            Parity::Table
        } else {
            Parity::Adaptive
        },
        layout: on(4).then_some(Layout::Reference),
        // Small enough to be filled.
        block_memory: if on(5) { 400_000 } else { 24 << 20 },
        unstored_memory: if on(5) { 300_000 } else { 12 << 20 },
        sessions: if on(6) { 1 } else { 64 },
        require_encryption: on(7),
        host_key: (!on(3)).then(|| Arc::new(identity())),
        ..Config::default()
    }
}

/// Whoever has an identity has this one.
fn identity() -> Secret {
    Secret::from_bytes([0x1d; 32])
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8], 9000))
}

/// Where a datagram to a host claims to come from: the other host, most often.
fn source(to: usize, which: u8) -> SocketAddr {
    match which % 8 {
        0..6 => address(1 - to),
        other => SocketAddr::from(([192, 0, 2, other], 1024 + u16::from(which))),
    }
}

fn tag_of(event: &Event) -> Tag {
    match event {
        Event::Connected { tag, .. }
        | Event::Want { tag, .. }
        | Event::Offered { tag, .. }
        | Event::Chunk { tag, .. }
        | Event::Received { tag, .. }
        | Event::Asked { tag, .. }
        | Event::Listing { tag, .. }
        | Event::ListAsked { tag, .. }
        | Event::Progress { tag, .. }
        | Event::Finished { tag, .. }
        | Event::Closed { tag } => *tag,
    }
}

/// Sizes of files: the edges, and one of several blocks.
const SIZES: [u64; 8] = [0, 1, 1352, 1368, 1369, 136_801, 300_000, 700_000];
/// From here on a size is none: the list is asked for.
const LISTS: u8 = 224;
/// Files a host sends at most.
const SENDS: u64 = 8;
/// Scenes of a play, and the virtual time it may take.
const SCENES: usize = 400;
const PLAY_MAX: Duration = Duration::from_secs(300);
/// Datagrams remembered for repetition, and on their way to one host.
const HEARD: usize = 64;
const FLYING: usize = 4096;
/// Sessions no endpoint may exceed.
const SESSIONS: usize = 1024;
