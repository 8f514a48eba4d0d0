//! Peers of the known implementation's lineage, written byte by byte and not with our encoder: a receiver and a sender,
//! each of which listens, calls, or is a daemon or its client.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{A, B, fill, kind, packet, u16_at, u32_at, u64_at};
use fulmar_proto::crypto::{Nonce, Opener, Sealer, Secret, Suite, hkdf_sha256};
use fulmar_proto::hpudp::{Command, Event, Snapshot, Tag, Via};
use fulmar_proto::{Endpoint, Meta, Transmit};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A receiver of the known implementation's lineage: heartbeats in its own field order, loss always reported as 0, the
/// echo repeated, holes named at once and every time, chunk 0 never named, parity not understood, no extension.
pub(crate) struct RefReceiver {
    peer: SocketAddr,
    id: u32,
    size: u64,
    hash: u64,
    accepted: bool,
    have: BTreeSet<u64>,
    highest: u64,
    contiguous: u64,
    fresh: u64,
    echo: u64,
    train: Option<(Instant, Instant)>,
    beat: Option<Instant>,
    last_beat: Instant,
    complete: Option<(Instant, u32)>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    /// Copies of chunk 0 to ignore, as if lost.
    pub(crate) deaf_to_first: u32,
    role: Role,
    sealed: bool,
    key: Option<[u8; 16]>,
    chunk: u64,
    /// When PULL_REQ leaves next.
    ask: Option<Instant>,
}

/// How a receiver comes by its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Waits,
    /// Files are pushed to it.
    Daemon,
    /// It pulls.
    Pulls,
}

const REF_TAG: Tag = Tag(77);

impl RefReceiver {
    pub(crate) fn new(start: Instant, role: Role, sealed: bool) -> Self {
        Self {
            peer: A,
            id: 0,
            size: 0,
            hash: 0,
            accepted: false,
            have: BTreeSet::new(),
            highest: 0,
            contiguous: 0,
            fresh: 0,
            echo: 0,
            train: None,
            beat: None,
            last_beat: start,
            complete: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
            deaf_to_first: 0,
            role,
            sealed,
            key: None,
            chunk: if sealed { 1352 } else { 1368 },
            ask: (role == Role::Pulls).then_some(start),
        }
    }

    fn total(&self) -> u64 {
        self.size.div_ceil(self.chunk)
    }

    fn on_data(&mut self, now: Instant, bytes: &[u8]) {
        let (seq, len) = (u64_at(bytes, 5), usize::from(u16_at(bytes, 21)));
        assert_eq!(u64_at(bytes, 13), seq / 100, "block of a chunk");
        assert!(seq < self.total(), "chunk beyond the end");
        let tag = if self.sealed { 16 } else { 0 };
        assert_eq!(bytes.len(), 32 + len + tag, "nothing beyond the payload");
        assert_eq!(bytes[23] & 4, if self.sealed { 4 } else { 0 }, "sealed");
        let last = seq + 1 == self.total();
        assert_eq!(bytes[23] & 1 == 1, last, "EndOfFile on the last chunk");
        if seq == 0 && self.deaf_to_first > 0 {
            self.deaf_to_first -= 1;
            return;
        }
        self.echo = u64_at(bytes, 24);
        if bytes[23] & 2 != 0 {
            let first = self.train.map_or(now, |(first, _)| first);
            self.train = Some((first, now));
        }
        self.highest = self.highest.max(seq);
        if self.have.insert(seq) {
            self.fresh += len as u64;
            self.events.push_back(Event::Chunk {
                tag: REF_TAG,
                offset: seq * self.chunk,
                bytes: self.open(bytes),
            });
            while self.have.contains(&(self.contiguous + 1)) {
                self.contiguous += 1;
            }
            if self.have.len() as u64 == self.total() {
                self.events.push_back(Event::Received {
                    tag: REF_TAG,
                    hash: self.hash,
                });
            }
        }
    }

    fn open(&self, bytes: &[u8]) -> Vec<u8> {
        let Some(key) = self.key else {
            return bytes[32..].to_vec();
        };
        let opener = Opener::new(Suite::Aes128Gcm, &key).expect("16 bytes");
        let nonce = Nonce(nonce(self.id, u64_at(bytes, 5)));
        let mut body = bytes[32..].to_vec();
        let plain = opener.open(nonce, &bytes[..32], &mut body);
        plain.expect("sealed under the session's key").to_vec()
    }

    /// PULL_REQ as that host says it: no padding, the NUL counted.
    fn ask(&mut self) {
        self.id = 0xc0ff_ee02;
        let mut body = Vec::new();
        if self.sealed {
            body.extend(Secret::from_bytes(SECRET).public());
        }
        body.extend(b"file\0");
        let flags = if self.sealed { 4 } else { 0 };
        let bytes = packet(0x07, self.id, (0, 0), body.len(), flags, 0, &body);
        self.out.push_back(bytes);
    }

    /// PUSH_REQ, answered as often as it comes.
    fn on_push(&mut self, bytes: &[u8]) {
        assert_eq!(bytes[23], if self.sealed { 4 } else { 0 });
        let named = 40 + if self.sealed { 32 } else { 0 };
        let end = 32 + usize::from(u16_at(bytes, 21));
        assert_eq!(&bytes[named..end], b"file\0", "the NUL is counted");
        (self.id, self.size) = (u32_at(bytes, 1), u64_at(bytes, 32));
        let mut body = 9000u16.to_be_bytes().to_vec();
        if self.sealed {
            self.key = Some(session_key(self.id, &bytes[40..72]));
            body.extend(Secret::from_bytes(SECRET).public());
        }
        let flags = if self.sealed { 4 } else { 0 };
        let accept = packet(0x09, self.id, (0, 0), body.len(), flags, 0, &body);
        self.out.push_back(accept);
    }

    fn heartbeat(&mut self, now: Instant) -> Vec<u8> {
        let elapsed = now.duration_since(self.last_beat).as_secs_f64().max(1e-3);
        let rate = (std::mem::take(&mut self.fresh) as f64 / elapsed) as u32;
        self.last_beat = now;
        let interval = if rate < 10_000_000 { 100 } else { 50 };
        self.beat = Some(now + interval * MS);
        let front = if self.have.contains(&0) {
            self.contiguous
        } else {
            0
        };
        let holes: Vec<u64> = (front + 1..=self.highest.min(front + 1000))
            .filter(|seq| !self.have.contains(seq))
            .take(166)
            .collect();
        let dispersion = self
            .train
            .map_or(0, |(first, last)| (last - first).as_nanos() as u64);
        let mut body = rate.to_be_bytes().to_vec();
        body.extend(rate.to_be_bytes());
        body.extend([0, 0]);
        body.extend(front.to_be_bytes());
        body.extend((holes.len() as u16).to_be_bytes());
        body.extend(self.echo.to_be_bytes());
        body.extend(dispersion.to_be_bytes());
        body.extend(holes.iter().flat_map(|seq| seq.to_be_bytes()));
        packet(kind::HEARTBEAT, self.id, (0, 0), body.len(), 0, 0, &body)
    }
}

impl Endpoint for RefReceiver {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, _: Meta, bytes: &mut [u8]) {
        match bytes[0] {
            0x08 if self.role == Role::Daemon => self.on_push(bytes),
            kind::SESSION_REQ if !self.accepted => {
                let keyed = self.role == Role::Pulls && self.sealed;
                assert_eq!(
                    bytes[23],
                    if keyed { 4 } else { 0 },
                    "a key where it belongs"
                );
                if self.role != Role::Waits {
                    assert_eq!(u32_at(bytes, 1), self.id, "the number asked under");
                }
                if keyed {
                    self.key = Some(session_key(self.id, &bytes[52..84]));
                }
                self.ask = None;
                let len = usize::from(u16_at(bytes, 21));
                let name = &bytes[if keyed { 84 } else { 52 }..32 + len];
                assert!(
                    !name.contains(&0) && bytes[32 + len] == 0,
                    "NUL not counted"
                );
                (self.id, self.size) = (u32_at(bytes, 1), u64_at(bytes, 32));
                self.hash = u64_at(bytes, 40);
                self.accepted = true;
                self.beat = Some(now + 100 * MS);
                self.events.push_back(Event::Offered {
                    tag: REF_TAG,
                    from: self.peer,
                    name: name.to_vec(),
                    size: self.size,
                    hash: Some(self.hash),
                    encrypted: self.sealed,
                    via: Via::Direct,
                    bundle: false,
                    identity: None,
                    paths: false,
                });
            }
            kind::DATA if self.accepted && u32_at(bytes, 1) == self.id => self.on_data(now, bytes),
            kind::ACK_CLOSE if self.complete.take().is_some() => {
                self.beat = None;
            }
            _ => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.ask.is_some_and(|at| at <= now) {
            self.ask();
            self.ask = Some(now + 500 * MS);
        }
        if self.beat.is_some_and(|at| at <= now) {
            let beat = self.heartbeat(now);
            self.out.push_back(beat);
        }
        if let Some((_, count)) = self.complete.take_if(|(at, _)| *at <= now) {
            self.out
                .push_back(packet(kind::COMPLETE, self.id, (0, 0), 0, 0, 0, &[]));
            self.complete = (count < 3).then(|| (now + SECOND, count + 1));
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        if let Command::Verified { tag } = command {
            self.beat = None;
            self.complete = Some((now, 0));
            self.events.push_back(Event::Finished {
                tag,
                snapshot: Snapshot::default(),
                result: Ok(()),
            });
        }
    }

    fn poll_transmit(&mut self, _: Instant, _: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        transmit(self.peer, self.out.pop_front()?, buf)
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let complete = self.complete.map(|(at, _)| at);
        [self.beat, complete, self.ask].into_iter().flatten().min()
    }
}

fn transmit(to: SocketAddr, bytes: Vec<u8>, buf: &mut Vec<u8>) -> Option<Transmit> {
    buf.extend_from_slice(&bytes);
    Some(Transmit {
        to,
        socket: 0,
        from_ip: None,
        ecn: None,
        len: bytes.len(),
        segment: None,
    })
}

/// A sender of the same lineage: the NUL counted, no extension, headerless parity of 1372 bytes behind each block, new
/// stamps on everything sent again, and heartbeats understood in its own field order only.
pub(crate) struct RefSender {
    id: u32,
    size: u64,
    content: u64,
    dialect: Dialect,
    chunk: u64,
    /// PUSH_ACCEPT has come.
    accepted: bool,
    secret: Option<[u8; 16]>,
    started: Instant,
    /// When the request leaves next; never again once answered.
    request: Option<Instant>,
    next: u64,
    ready: Option<Instant>,
    repairs: VecDeque<u64>,
    /// When each repair last left.
    resent: BTreeMap<u64, Instant>,
    contiguous: u64,
    /// When silence makes it send the lowest chunk it knows nothing of.
    probe: Option<Instant>,
    stamps: BTreeSet<u64>,
    announce: Option<Instant>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// As published by its author: plain.
    Plain,
    /// Late: encrypted, and PayloadLen counts the tag.
    LateSealed,
    /// The roles of completion reversed: the sender says when it is done.
    Reversed,
    /// Pushes to a daemon, in the clear.
    Push,
    /// Encrypted; its SESSION_REQ has flags 0 and no key.
    PushSealed,
    /// Encrypted; its SESSION_REQ shows the key of PUSH_REQ again.
    PushSealedAgain,
    /// Pushes as v5.2 does: hash and rate in PUSH_REQ, no SESSION_REQ.
    Push52,
    /// A daemon that is pulled from, as the client wants it.
    Serves,
}

impl Dialect {
    fn sealed(self) -> bool {
        matches!(
            self,
            Self::LateSealed | Self::PushSealed | Self::PushSealedAgain
        )
    }

    fn pushes(self) -> bool {
        use Dialect::{Push, Push52, PushSealed, PushSealedAgain};
        matches!(self, Push | Push52 | PushSealed | PushSealedAgain)
    }
}

const SECRET: [u8; 32] = [0x42; 32];

/// The key of a session between that host and whoever sent this (5.2).
fn session_key(id: u32, theirs: &[u8]) -> [u8; 16] {
    let theirs = theirs.try_into().expect("32 bytes");
    let secret = Secret::from_bytes(SECRET);
    let shared = secret.agree(&theirs).expect("an honest key");
    let mut key = [0; 16];
    hkdf_sha256(
        shared.as_bytes(),
        &id.to_be_bytes(),
        b"hp-udp-aes128-v5",
        &mut key,
    );
    key
}

/// Of a DATA packet (5.4).
fn nonce(id: u32, seq: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&id.to_be_bytes());
    nonce[4..].copy_from_slice(&seq.to_be_bytes());
    nonce[4] = kind::DATA;
    nonce
}

/// Its clock: nanoseconds since 1970, even numbers and all.
const WALL: u64 = 1_750_000_000_000_000_000;

impl RefSender {
    pub(crate) fn new(start: Instant, size: u64, content: u64, dialect: Dialect) -> Self {
        Self {
            id: 0xc0ff_ee01,
            size,
            content,
            dialect,
            chunk: if dialect.sealed() { 1352 } else { 1368 },
            accepted: false,
            secret: None,
            started: start,
            request: (dialect != Dialect::Serves).then_some(start),
            next: 0,
            ready: matches!(dialect, Dialect::Plain | Dialect::Reversed).then_some(start),
            repairs: VecDeque::new(),
            resent: BTreeMap::new(),
            contiguous: 0,
            probe: None,
            stamps: BTreeSet::new(),
            announce: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    fn total(&self) -> u64 {
        self.size.div_ceil(self.chunk)
    }

    fn ask(&mut self) {
        let sealed = self.dialect.sealed();
        let mut body = self.size.to_be_bytes().to_vec();
        if self.dialect.pushes() && !self.accepted {
            if sealed {
                body.extend(Secret::from_bytes(SECRET).public());
            }
            if self.dialect == Dialect::Push52 {
                body.extend(self.content.to_be_bytes());
                body.extend([0; 4]);
            }
            body.extend(b"file\0");
            return self.say(0x08, sealed, &body);
        }
        let keyed = if self.dialect == Dialect::Serves {
            self.secret.is_some()
        } else {
            sealed && self.dialect != Dialect::PushSealed
        };
        body.extend(self.content.to_be_bytes());
        body.extend([0; 4]);
        if keyed {
            body.extend(Secret::from_bytes(SECRET).public());
        }
        body.extend(b"file\0");
        self.say(kind::SESSION_REQ, keyed, &body);
    }

    fn say(&mut self, kind: u8, keyed: bool, body: &[u8]) {
        let flags = if keyed { 4 } else { 0 };
        let bytes = packet(kind, self.id, (0, 0), body.len(), flags, 0, body);
        self.out.push_back(bytes);
    }

    fn on_push_accept(&mut self, now: Instant, bytes: &[u8]) {
        let sealed = self.dialect.sealed();
        let told = if self.dialect == Dialect::Push52 {
            0
        } else {
            2
        };
        let (port, key) = bytes[32..].split_at(told);
        assert!(
            port.is_empty() || port == 9000u16.to_be_bytes(),
            "its own port"
        );
        assert_eq!(key.len(), if sealed { 32 } else { 0 }, "and nothing else");
        if sealed {
            self.secret = Some(session_key(self.id, key));
        }
        self.accepted = true;
        self.request = (self.dialect != Dialect::Push52).then_some(now);
        self.ready = Some(now);
        self.probe = Some(now + 1_500 * MS);
    }

    fn on_pull(&mut self, now: Instant, bytes: &[u8]) {
        assert!(bytes.len() >= 1000, "padded (19.5.5)");
        self.id = u32_at(bytes, 1);
        let sealed = bytes[23] & 4 != 0;
        let named = if sealed { 64 } else { 32 };
        assert_eq!(
            &bytes[named..32 + usize::from(u16_at(bytes, 21))],
            b"file\0"
        );
        if sealed {
            self.secret = Some(session_key(self.id, &bytes[32..64]));
            self.chunk = 1352;
        }
        self.request = Some(now);
        self.ready = Some(now);
    }

    fn data(&mut self, now: Instant, seq: u64) -> Vec<u8> {
        let offset = seq * self.chunk;
        let mut bytes = vec![0; (self.size - offset).min(self.chunk) as usize];
        fill(self.content, offset, &mut bytes);
        let mut stamp = WALL + now.duration_since(self.started).as_nanos() as u64;
        while !self.stamps.insert(stamp) {
            stamp += 1;
        }
        let end = u8::from(seq + 1 == self.total());
        let burst = if seq < 10 && self.contiguous == 0 {
            2
        } else {
            0
        };
        let Some(key) = self.secret else {
            let len = bytes.len();
            return packet(
                kind::DATA,
                self.id,
                (seq, seq / 100),
                len,
                end | burst,
                stamp,
                &bytes,
            );
        };
        let counted = if self.dialect == Dialect::LateSealed {
            16
        } else {
            0
        };
        let len = bytes.len() + counted;
        let flags = 4 | end | burst;
        let header = packet(
            kind::DATA,
            self.id,
            (seq, seq / 100),
            len,
            flags,
            stamp,
            &[],
        );
        // A sealer for each packet: this lineage seals one nonce again and again, which ours would not let it.
        let mut sealer = Sealer::new(Suite::Aes128Gcm, &key).expect("16 bytes");
        let tag = sealer.seal(Nonce(nonce(self.id, seq)), &header, &mut bytes);
        [header, bytes, tag.to_vec()].concat()
    }

    /// Parity as it leaves that host: four bytes of prefix, no header, and so a SESSION_REQ to whoever reads it.
    fn junk(&self, block: u64) -> Vec<u8> {
        let mut bytes = vec![0, 100, 0, 5];
        let mut parity = vec![0; 1368];
        fill(self.content ^ block, 0, &mut parity);
        bytes.extend(parity);
        bytes
    }

    fn on_heartbeat(&mut self, now: Instant, bytes: &[u8]) {
        let body = &bytes[32..];
        let count = usize::from(u16_at(body, 18));
        let (contiguous, echo) = (u64_at(body, 10), u64_at(body, 20));
        assert_eq!(
            bytes.len(),
            32 + 36 + 8 * count,
            "no extension, and its own field order"
        );
        assert_eq!(usize::from(u16_at(bytes, 21)), 36 + 8 * count);
        assert!(echo == 0 || self.stamps.contains(&echo), "an echo of ours");
        assert!(contiguous < self.total() && u16_at(body, 8) <= 10_000);
        self.request = None;
        self.probe = Some(now + 500 * MS);
        self.contiguous = self.contiguous.max(contiguous);
        for at in 0..count {
            let seq = u64_at(body, 36 + 8 * at);
            assert!(seq < self.next, "asked for what was never sent");
            let due = self
                .resent
                .get(&seq)
                .is_none_or(|at| now.duration_since(*at) > 50 * MS);
            if due {
                self.resent.insert(seq, now);
                self.repairs.push_back(seq);
            }
        }
        if self.next == self.total() && count == 0 && self.contiguous + 1 < self.total() {
            let from = if self.contiguous == 0 {
                0
            } else {
                self.contiguous + 1
            };
            self.repairs.extend(from..self.total().min(from + 20));
        }
        self.ready.get_or_insert(now);
        if self.dialect == Dialect::Reversed && self.contiguous + 1 == self.total() {
            self.announce.get_or_insert(now);
        }
    }

    fn finish(&mut self) {
        self.ready = None;
        self.announce = None;
        self.probe = None;
        self.repairs.clear();
        self.events.push_back(Event::Finished {
            tag: REF_TAG,
            snapshot: Snapshot::default(),
            result: Ok(()),
        });
        self.size = 0;
    }
}

impl Endpoint for RefSender {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, _: Meta, bytes: &mut [u8]) {
        if bytes[0] == 0x07 && self.dialect == Dialect::Serves {
            if self.ready.is_none() && self.size > 0 {
                self.on_pull(now, bytes);
            }
            return;
        }
        assert_eq!(u32_at(bytes, 1), self.id, "a packet of another session");
        if self.size == 0 {
            // Done, and lingering.
            if bytes[0] == kind::COMPLETE {
                self.out
                    .push_back(packet(kind::ACK_CLOSE, self.id, (0, 0), 0, 0, 0, &[]));
            }
            return;
        }
        match bytes[0] {
            kind::HEARTBEAT => self.on_heartbeat(now, bytes),
            0x09 if self.dialect.pushes() => {
                if !self.accepted {
                    self.on_push_accept(now, bytes);
                }
            }
            kind::SESSION_ACCEPT if self.secret.is_none() => {
                assert_eq!((bytes.len(), bytes[23]), (64, 4), "a key and nothing else");
                self.secret = Some(session_key(self.id, &bytes[32..]));
                self.request = None;
                self.ready = Some(now);
                self.probe = Some(now + 1_500 * MS);
            }
            kind::SESSION_ACCEPT => {}
            kind::COMPLETE => {
                self.out
                    .push_back(packet(kind::ACK_CLOSE, self.id, (0, 0), 0, 0, 0, &[]));
                self.finish();
            }
            kind::ACK_CLOSE if self.dialect == Dialect::Reversed => self.finish(),
            other => panic!("type {other} to a sender"),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.request.is_some_and(|at| at <= now) {
            self.ask();
            self.request = Some(now + 500 * MS);
        }
        if self.announce.is_some_and(|at| at <= now) {
            self.out
                .push_back(packet(kind::COMPLETE, self.id, (0, 0), 0, 0, 0, &[]));
            self.announce = Some(now + 200 * MS);
        }
        if self.probe.is_some_and(|at| at <= now) {
            self.repairs.push_back(self.contiguous);
            self.probe = Some(now + 500 * MS);
        }
        if self.ready.is_some_and(|at| at <= now) {
            // 2 MB/s, and no more than half a megabyte before anyone answers.
            self.ready = Some(now + Duration::from_micros(700));
            if let Some(seq) = self.repairs.pop_front() {
                let bytes = self.data(now, seq);
                self.out.push_back(bytes);
            } else if self.next < self.total() && (self.request.is_none() || self.next < 350) {
                let bytes = self.data(now, self.next);
                self.out.push_back(bytes);
                self.next += 1;
                if self.next.is_multiple_of(100) {
                    self.out.push_back(self.junk(self.next / 100));
                }
            } else {
                self.ready = Some(now + 5 * MS);
            }
        }
    }

    fn handle_command(&mut self, _: Instant, _: Command) {}

    fn poll_transmit(&mut self, _: Instant, _: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        transmit(B, self.out.pop_front()?, buf)
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.request, self.ready, self.announce, self.probe]
            .into_iter()
            .flatten()
            .min()
    }
}
