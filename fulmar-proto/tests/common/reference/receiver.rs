//! A peer of the known implementation's lineage that receives.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::super::{A, kind, packet, u16_at, u32_at, u64_at};
use super::{MS, REF_TAG, SECOND, SECRET, nonce, session_key, transmit};
use fulmar_proto::crypto::{Nonce, Opener, Secret, Suite};
use fulmar_proto::hpudp::{Command, Event, Snapshot, Via};
use fulmar_proto::{Endpoint, Meta, Transmit};

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
