//! A peer of the known implementation's lineage that sends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::super::{B, kind, packet, u16_at, u32_at, u64_at};
use super::{MS, REF_TAG, SECRET, nonce, session_key, transmit};
use fulmar_proto::crypto::{Nonce, Sealer, Secret, Suite};
use fulmar_proto::hpudp::{Command, Event, Snapshot};
use fulmar_proto::sim::Content;
use fulmar_proto::{Endpoint, Meta, Transmit};

/// A sender of the same lineage: the NUL counted, no extension, headerless parity of 1372 bytes behind each block, new
/// stamps on everything sent again, and heartbeats understood in its own field order only.
pub(crate) struct RefSender {
    id: u32,
    size: u64,
    content: Content,
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

/// Its clock: nanoseconds since 1970, even numbers and all.
const WALL: u64 = 1_750_000_000_000_000_000;

impl RefSender {
    pub(crate) fn new(start: Instant, size: u64, content: u64, dialect: Dialect) -> Self {
        Self {
            id: 0xc0ff_ee01,
            size,
            content: Content::new(size, content),
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
                body.extend(self.content.hash().to_be_bytes());
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
        body.extend(self.content.hash().to_be_bytes());
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
        self.content.read(offset, &mut bytes);
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
        Content::new(1368, self.content.hash() ^ block).read(0, &mut parity);
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
