//! Peers that speak HP-UDP otherwise than we do: written out byte by byte, not with our encoder. And ours among
//! themselves with the extension off, with the published controller, and with hosts that die and return.
#![allow(clippy::disallowed_methods)]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{A, B, Host, Pair, fill, kind, link, packet, seed, u16_at, u32_at, u64_at};
use fulmar_proto::crypto::{Nonce, Sealer, Secret, Suite, hkdf_sha256};
use fulmar_proto::hpudp::{
    Command, Config, Control, Counter, Event, Failure, Layout, Parity, Snapshot, Tag, Via,
};
use fulmar_proto::sim::{LinkConfig, Loss, Rng};
use fulmar_proto::{Endpoint, Meta, Transmit};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A receiver of the known implementation's lineage: heartbeats in its own field order, loss always reported as 0, the
/// echo repeated, holes named at once and every time, chunk 0 never named, parity not understood, no extension.
struct RefReceiver {
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
    deaf_to_first: u32,
}

const REF_TAG: Tag = Tag(77);

impl RefReceiver {
    fn new(start: Instant) -> Self {
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
        }
    }

    fn total(&self) -> u64 {
        self.size.div_ceil(1368)
    }

    fn on_data(&mut self, now: Instant, bytes: &[u8]) {
        let (seq, len) = (u64_at(bytes, 5), usize::from(u16_at(bytes, 21)));
        assert_eq!(u64_at(bytes, 13), seq / 100, "block of a chunk");
        assert!(seq < self.total(), "chunk beyond the end");
        assert_eq!(bytes.len(), 32 + len, "nothing beyond the payload");
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
                offset: seq * 1368,
                bytes: bytes[32..].to_vec(),
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
            kind::SESSION_REQ if !self.accepted => {
                assert_eq!(bytes[23], 0, "a plain session");
                let len = usize::from(u16_at(bytes, 21));
                let name = &bytes[52..32 + len];
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
                    encrypted: false,
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
        [self.beat, complete].into_iter().flatten().min()
    }
}

fn transmit(to: SocketAddr, bytes: Vec<u8>, buf: &mut Vec<u8>) -> Option<Transmit> {
    buf.extend_from_slice(&bytes);
    Some(Transmit {
        to,
        from_ip: None,
        ecn: None,
        len: bytes.len(),
        segment: None,
    })
}

fn to_reference(seed: u64, size: u64, link: LinkConfig, deaf_to_first: u32) -> Pair {
    let start = Instant::now();
    let sender = Host::fulmar(start, Config::default(), &mut Rng::new(seed));
    let mut receiver = RefReceiver::new(start);
    receiver.deaf_to_first = deaf_to_first;
    let hosts = (sender, Host::scripted(start, Box::new(receiver)));
    let mut pair = Pair::new(start, seed, hosts, (link.clone(), link), size);
    pair.send(false);
    pair
}

#[test]
fn a_file_reaches_the_reference_receiver() {
    for loss in [0.0, 0.05, 0.2] {
        for size in [1, 1368, 1369, 136_800, 3_000_000] {
            let mut pair = to_reference(seed(1), size, link(50, 40, loss), 0);
            pair.finish(300 * SECOND);
            pair.assert_done(&format!("{size} bytes at loss {loss}"));
            assert_eq!(pair.apps.connected, Some((false, false)), "no extension");
        }
    }
}

/// Its list of holes starts at chunk 1 (7.3), so nothing asks for chunk 0. With a file larger than the window nothing
/// else goes on either, until the sender offers it unasked (9).
#[test]
fn chunk_0_is_repaired_though_nobody_asks_for_it() {
    for size in [3_000_000, 66_000 * 1368] {
        let mut pair = to_reference(seed(1), size, link(1000, 10, 0.0), 3);
        pair.finish(120 * SECOND);
        pair.assert_done(&format!("{size} bytes"));
    }
}

/// A sender of the same lineage: the NUL counted, no extension, headerless parity of 1372 bytes behind each block, new
/// stamps on everything sent again, and heartbeats understood in its own field order only.
struct RefSender {
    id: u32,
    size: u64,
    content: u64,
    dialect: Dialect,
    chunk: u64,
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
enum Dialect {
    /// As published by its author: plain.
    Plain,
    /// Late: encrypted, and PayloadLen counts the tag.
    LateSealed,
    /// The roles of completion reversed: the sender says when it is done.
    Reversed,
}

const SENDER_SECRET: [u8; 32] = [0x42; 32];
/// Its clock: nanoseconds since 1970, even numbers and all.
const WALL: u64 = 1_750_000_000_000_000_000;

impl RefSender {
    fn new(start: Instant, size: u64, content: u64, dialect: Dialect) -> Self {
        Self {
            id: 0xc0ff_ee01,
            size,
            content,
            dialect,
            chunk: if dialect == Dialect::LateSealed {
                1352
            } else {
                1368
            },
            secret: None,
            started: start,
            request: Some(start),
            next: 0,
            ready: (dialect != Dialect::LateSealed).then_some(start),
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
        let sealed = self.dialect == Dialect::LateSealed;
        let mut body = self.size.to_be_bytes().to_vec();
        body.extend(self.content.to_be_bytes());
        body.extend([0; 4]);
        if sealed {
            body.extend(Secret::from_bytes(SENDER_SECRET).public());
        }
        body.extend(b"file\0");
        let flags = if sealed { 4 } else { 0 };
        self.out.push_back(packet(
            kind::SESSION_REQ,
            self.id,
            (0, 0),
            body.len(),
            flags,
            0,
            &body,
        ));
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
        let len = bytes.len() + 16;
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
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.id.to_be_bytes());
        nonce[4..].copy_from_slice(&seq.to_be_bytes());
        nonce[4] = kind::DATA;
        // A sealer for each packet: this lineage seals one nonce again and again, which ours would not let it.
        let mut sealer = Sealer::new(Suite::Aes128Gcm, &key).expect("16 bytes");
        let tag = sealer.seal(Nonce(nonce), &header, &mut bytes);
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
            kind::SESSION_ACCEPT if self.secret.is_none() => {
                assert_eq!((bytes.len(), bytes[23]), (64, 4), "a key and nothing else");
                let key: [u8; 32] = bytes[32..].try_into().expect("32 bytes");
                let secret = Secret::from_bytes(SENDER_SECRET);
                let shared = secret.agree(&key).expect("an honest key");
                let mut key = [0; 16];
                let salt = self.id.to_be_bytes();
                hkdf_sha256(shared.as_bytes(), &salt, b"hp-udp-aes128-v5", &mut key);
                self.secret = Some(key);
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

fn from_reference(seed: u64, size: u64, dialect: Dialect, loss: f64) -> Pair {
    let start = Instant::now();
    let content = Rng::new(seed ^ 0xf11e).next_u64();
    let sender = RefSender::new(start, size, content, dialect);
    let hosts = (
        Host::scripted(start, Box::new(sender)),
        Host::fulmar(start, Config::default(), &mut Rng::new(seed)),
    );
    let link = link(50, 40, loss);
    Pair::new(start, seed, hosts, (link.clone(), link), size)
}

#[test]
fn a_file_comes_from_the_reference_sender() {
    for dialect in [Dialect::Plain, Dialect::LateSealed] {
        for loss in [0.0, 0.05, 0.2] {
            for size in [1, 1352, 1368, 1369, 136_800, 1_000_000] {
                let mut pair = from_reference(seed(1), size, dialect, loss);
                pair.finish(300 * SECOND);
                pair.assert_done(&format!("{dialect:?}, {size} bytes at loss {loss}"));
                let junk = pair.net.node(pair.b).count(Counter::Malformed);
                assert!(size < 500_000 || junk > 0, "the junk reached the parser");
                assert_eq!(pair.apps.offers, 1, "and made no session");
            }
        }
    }
}

/// The sender announces the end (11): our receiver answers ACK_CLOSE, but not before the file is verified.
#[test]
fn a_completion_by_the_sender_is_acknowledged_once_verified() {
    for loss in [0.0, 0.2] {
        let mut pair = from_reference(seed(1), 300_000, Dialect::Reversed, loss);
        pair.apps.verifying = 700 * MS;
        pair.net.node_mut(pair.b).tapping = true;
        pair.finish(100 * SECOND);
        pair.assert_done("reversed");
        let verified =
            pair.apps.received_at.expect("it was") - (pair.net.now() - pair.net.elapsed());
        let closes = pair.net.node(pair.b).sent.iter();
        let first = closes
            .filter(|sent| matches!(sent.bytes[0], kind::ACK_CLOSE | kind::COMPLETE))
            .map(|sent| sent.at)
            .min();
        assert!(
            first.is_some_and(|at| at >= verified),
            "{first:?} before {verified:?}"
        );
    }
}

fn v5() -> Config {
    Config {
        extensions: false,
        ..Config::default()
    }
}

#[test]
fn either_side_may_be_without_the_extension() {
    for (sender, receiver) in [
        (v5(), Config::default()),
        (Config::default(), v5()),
        (v5(), v5()),
    ] {
        let extended = sender.extensions && receiver.extensions;
        for encrypt in [false, true] {
            for loss in [0.0, 0.05, 0.2] {
                for size in [1, 1369, 2_000_000] {
                    let config = (sender.clone(), receiver.clone());
                    let mut pair = Pair::fulmars(seed(1), config, link(50, 40, loss), size);
                    pair.send(encrypt);
                    pair.finish(300 * SECOND);
                    pair.assert_done(&format!("{size} bytes, encrypt {encrypt}, loss {loss}"));
                    assert_eq!(pair.apps.connected, Some((encrypt, extended)));
                }
            }
        }
    }
}

#[test]
fn either_field_order_can_be_forced() {
    for layout in [Layout::Text, Layout::Reference] {
        for receiver in [Config::default(), v5()] {
            let receiver = Config {
                layout: Some(layout),
                ..receiver
            };
            let config = (Config::default(), receiver);
            let mut pair = Pair::fulmars(seed(1), config, link(50, 40, 0.05), 1_000_000);
            pair.send(true);
            pair.finish(100 * SECOND);
            pair.assert_done(&format!("{layout:?}"));
        }
    }
}

#[test]
fn the_published_controller_and_parity_finish() {
    let published = Config {
        control: Control::Hpudp,
        parity: Parity::Table,
        ..Config::default()
    };
    for extensions in [true, false] {
        for loss in [0.0, 0.005, 0.01, 0.03] {
            let sender = Config {
                extensions,
                ..published.clone()
            };
            let config = (sender, Config::default());
            let mut pair = Pair::fulmars(seed(1), config, link(50, 40, loss), 5_000_000);
            pair.send(true);
            pair.finish(100 * SECOND);
            pair.assert_done(&format!("loss {loss}, extensions {extensions}"));
        }
    }
}

/// 19.1: a sealed packet leaves again as the same bytes or not at all. The sealer's guard watches the nonces besides.
#[test]
fn sealed_packets_leave_again_byte_for_byte() {
    for (loss, outages) in [(0.0, vec![]), (0.2, vec![300 * MS..3 * SECOND])] {
        let config = (Config::default(), Config::default());
        let link = LinkConfig {
            outages,
            ..link(20, 60, loss)
        };
        let mut pair = Pair::fulmars(seed(1), config, link, 3_000_000);
        pair.net.node_mut(pair.a).tapping = true;
        pair.send(true);
        pair.finish(300 * SECOND);
        pair.assert_done("sealed");
        let mut first: BTreeMap<(u8, u64, u64), Vec<u8>> = BTreeMap::new();
        let mut again = 0;
        for sent in &pair.net.node(pair.a).sent {
            let bytes = &sent.bytes;
            if !matches!(bytes[0], kind::DATA | kind::PARITY) {
                continue;
            }
            assert_ne!(bytes[23] & 4, 0, "an unsealed chunk in a sealed session");
            let name = (bytes[0], u64_at(bytes, 5), u64_at(bytes, 13));
            match first.get(&name) {
                Some(was) => {
                    again += 1;
                    assert!(was == bytes, "{name:?} was sealed twice");
                }
                None => {
                    first.insert(name, bytes.clone());
                }
            }
        }
        assert!(again > 20 || loss == 0.0, "{again} packets sent again");
    }
}

/// The link is cut for good at many instants of a transfer's life; both sides must know in bounded time.
fn cut(pair: &mut Pair, which: &[fulmar_proto::sim::LinkId]) {
    for &id in which {
        let link = pair.net.link_mut(id);
        let config = link.config().clone();
        link.set_config(LinkConfig {
            loss: Loss::Independent(1.0),
            ..config
        });
    }
}

#[test]
fn a_peer_that_dies_leaves_a_failure_in_bounded_time() {
    let mut rng = Rng::new(seed(1));
    for round in 0..60 {
        let encrypt = round % 2 == 0;
        let config = Config {
            extensions: round % 3 != 0,
            ..Config::default()
        };
        let patience = config.probe_timeout.max(config.inactivity) + 3 * SECOND;
        let link = link(20, 40, 0.02);
        let mut pair = Pair::fulmars(round, (config.clone(), config), link, 4_000_000);
        pair.send(encrypt);
        // It takes about 1.7 s.
        pair.run_for(Duration::from_micros(60_000 + rng.below(1_400_000)));
        match round % 4 {
            // Killed: nobody at the address, or another process that knows nothing of it.
            0 => {
                let (up, down) = (pair.up, pair.down);
                cut(&mut pair, &[up, down]);
            }
            1 => {
                let now = pair.net.now();
                *pair.net.node_mut(pair.b) = Host::fulmar(now, Config::default(), &mut rng);
                pair.apps.received = Some(Err(Failure::Silent));
            }
            2 => {
                let now = pair.net.now();
                *pair.net.node_mut(pair.a) = Host::fulmar(now, Config::default(), &mut rng);
                pair.apps.sent = Some(Err(Failure::Silent));
            }
            // Half a path.
            _ => {
                let id = if round % 8 == 3 { pair.up } else { pair.down };
                cut(&mut pair, &[id]);
            }
        }
        let died = pair.net.now();
        pair.finish(60 * SECOND);
        let told = match pair.apps.connected {
            Some(_) => Failure::Silent,
            None => Failure::NoAnswer,
        };
        let ended = (pair.apps.sent, pair.apps.received);
        let sender = ended.0 == Some(Err(told)) || round % 4 == 2;
        let forgotten = ended.1.is_none() && pair.apps.forgotten > 0;
        let receiver = ended.1 == Some(Err(Failure::Silent)) || forgotten;
        assert!(sender && receiver, "round {round}: {ended:?}");
        let latest = [pair.apps.sent_at, pair.apps.received_at]
            .into_iter()
            .flatten()
            .max();
        let took = latest.map(|at| at.duration_since(died));
        assert!(took <= Some(2 * patience), "round {round}: {took:?}");
        pair.run_for(20 * SECOND);
        for node in [pair.a, pair.b] {
            assert_eq!(
                pair.net.node(node).endpoint().sessions(),
                0,
                "round {round}"
            );
        }
    }
}

/// What the probe is for (10): the path comes back, and the transfer with it.
#[test]
fn an_outage_within_the_probe_window_is_survived() {
    for seconds in [3, 8] {
        for encrypt in [false, true] {
            for extensions in [true, false] {
                for start in [5, 100, 700, 1_300] {
                    for (up, down) in [(true, true), (true, false), (false, true)] {
                        let config = Config {
                            extensions,
                            ..Config::default()
                        };
                        let config = (config.clone(), config);
                        let link = link(20, 40, 0.02);
                        let mut pair = Pair::fulmars(seed(1), config, link.clone(), 4_000_000);
                        let outages = vec![start * MS..start * MS + seconds * SECOND];
                        for (id, out) in [(pair.up, up), (pair.down, down)] {
                            if out {
                                let outages = outages.clone();
                                let link = link.clone();
                                pair.net
                                    .link_mut(id)
                                    .set_config(LinkConfig { outages, ..link });
                            }
                        }
                        pair.send(encrypt);
                        pair.finish(100 * SECOND);
                        pair.assert_done(&format!(
                            "{seconds} s out after {start} ms (up {up}, down {down}), encrypt {encrypt}, extensions {extensions}"
                        ));
                    }
                }
            }
        }
    }
}

/// A NAT that forgets in mid-transfer. A sealed session follows either side. A plain one follows its receiver, which
/// proves itself by an echo; a sender has no way to (v5.0), so both sides find the other silent.
#[test]
fn a_rebound_nat_is_followed_as_far_as_it_can_be_proved() {
    for encrypt in [false, true] {
        for extensions in [true, false] {
            for at in [100, 500, 900, 1_650, 1_700] {
                for sender_side in [true, false] {
                    let config = Config {
                        extensions,
                        ..Config::default()
                    };
                    let config = (config.clone(), config);
                    let link = link(20, 40, 0.01);
                    let mut pair = Pair::fulmars(seed(1), config, link.clone(), 4_200_000);
                    let id = if sender_side { pair.up } else { pair.down };
                    let rebinds = vec![at * MS];
                    pair.net
                        .link_mut(id)
                        .set_config(LinkConfig { rebinds, ..link });
                    pair.send(encrypt);
                    pair.finish(100 * SECOND);
                    let what = format!(
                        "encrypt {encrypt}, extensions {extensions}, {at} ms, sender {sender_side}"
                    );
                    if encrypt || !sender_side {
                        pair.assert_done(&what);
                    } else {
                        let silent = Some(Err(Failure::Silent));
                        assert_eq!(
                            (pair.apps.sent, pair.apps.received),
                            (silent, silent),
                            "{what}"
                        );
                    }
                }
            }
        }
    }
}

/// A disk that takes nothing for longer than any timer: the receiver says so by its silence on the front, the sender
/// keeps looking, and both go on when it is back.
#[test]
fn a_disk_that_stalls_is_waited_for() {
    for encrypt in [false, true] {
        for extensions in [true, false] {
            for stall in [3, 20] {
                let config = Config {
                    extensions,
                    unstored_memory: 1 << 20,
                    ..Config::default()
                };
                let config = (config.clone(), config);
                let mut pair = Pair::fulmars(seed(1), config, link(50, 40, 0.01), 4_000_000);
                pair.apps.stalled = Some(300 * MS..300 * MS + stall * SECOND);
                pair.send(encrypt);
                pair.finish(100 * SECOND);
                pair.assert_done(&format!(
                    "{stall} s, encrypt {encrypt}, extensions {extensions}"
                ));
            }
        }
    }
}
