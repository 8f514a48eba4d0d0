//! All sessions behind one socket: routing by peer and number, turns in sending, what the application asks.
//!
//! [`admission`] judges strangers' requests, [`roster`] keeps the sessions. It does *not* know what a session does with
//! a packet.

mod admission;
mod roster;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use roster::{Key, Roster, Session};

use super::config::{Config, DATAGRAM_MAX, FILE_MAX};
use super::keys::Entropy;
use super::packet::{Header, Kind, control};
use super::pull::{Lister, Pull};
use super::sender::{self, Sender};
use super::session::{Common, Counter, Proof, Shared};
use super::{Command, Event, Reason, Request, Tag, Trust, Via, Wish};
use crate::crypto::Secret;
use crate::engine::{self, Bitrate, Counters, Figure, Meta, Transmit};

/// All HP-UDP sessions of one socket, sending and receiving.
#[derive(Debug)]
pub struct Endpoint {
    common: Common,
    entropy: Entropy,
    roster: Roster,
    tags: BTreeMap<Tag, Key>,
    /// Ended sessions: their numbers may not be used again for a while (4.1), and a sender that has not heard how it
    /// ended is still told.
    ended: BTreeMap<Key, Ended>,
    /// Refusals and verdicts on their way: they need no session.
    replies: VecDeque<(SocketAddr, Vec<u8>)>,
    replied_at: Option<Instant>,
    next_tag: u64,
    /// What all senders together may use, and how many share it.
    limit: Option<Bitrate>,
    sharing: usize,
}

#[derive(Debug)]
struct Ended {
    until: Instant,
    verdict: Option<Vec<u8>>,
    /// A straggler draws no answer before.
    quiet_until: Instant,
}

/// What a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The peer asks or offers, and has proved nothing.
    Unproved,
    Sending,
    Receiving,
    Lingering,
}

impl Endpoint {
    /// An endpoint that draws all its randomness from `seed`: a driver passes 32 bytes of entropy, a simulation its
    /// own. Two endpoints with one seed on a network would share their keys.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        Self {
            common: Common::new(config),
            entropy: Entropy::new(seed),
            roster: Roster::new(),
            tags: BTreeMap::new(),
            ended: BTreeMap::new(),
            replies: VecDeque::new(),
            replied_at: None,
            next_tag: 1 << 63,
            limit: None,
            sharing: 0,
        }
    }

    /// Makes every session from now on remember its nonces and panic at a second use, in release builds too: for
    /// simulations.
    pub fn guard_nonces(&mut self) {
        self.common.guard = true;
    }

    /// The parameters in force.
    pub fn config(&self) -> &Config {
        &self.common.config
    }

    /// What happened how often, over all sessions.
    pub fn counters(&self) -> &Counters<Counter> {
        &self.common.counters
    }

    /// Sessions that live, lingering ones included.
    pub fn sessions(&self) -> usize {
        self.roster.len()
    }

    /// Calls one session with the rest of the endpoint at hand, and buries it if it closed.
    fn with<R>(
        &mut self,
        now: Instant,
        key: Key,
        call: impl FnOnce(&mut Session, &mut Shared<'_>) -> R,
    ) -> Option<R> {
        let mut shared = self.common.shared();
        let (result, closed) = self
            .roster
            .change(key, |session| call(session, &mut shared))?;
        if closed && let Some(session) = self.roster.remove(key) {
            self.tags.remove(&session.tag());
            // A number under which nothing happened may ask again.
            if session.is_used() {
                self.bury(now, key, session.verdict());
            }
        }
        Some(result)
    }

    fn enrol(&mut self, key: Key, session: Session) {
        self.tags.insert(session.tag(), key);
        self.roster.insert(key, session);
    }

    fn bury(&mut self, now: Instant, key: Key, verdict: Option<Vec<u8>>) {
        self.ended.retain(|_, ended| ended.until > now);
        if self.ended.len() < ENDED {
            let patience = verdict.as_ref().map(|_| self.common.config.probe_timeout);
            let until = now + self.common.config.reserve.max(patience.unwrap_or_default());
            let ended = Ended {
                until,
                verdict,
                quiet_until: now,
            };
            self.ended.insert(key, ended);
        }
    }

    /// A chunk of an ended session: its sender has not heard the end.
    fn on_straggler(&mut self, now: Instant, key: Key) -> bool {
        let Some(ended) = self.ended.get_mut(&key).filter(|ended| ended.until > now) else {
            return false;
        };
        if let Some(verdict) = ended.verdict.clone().filter(|_| ended.quiet_until <= now) {
            ended.quiet_until = now + STRAGGLERS;
            self.reply(now, key.peer, verdict);
        }
        true
    }

    fn send(&mut self, now: Instant, tag: Tag, request: Request) {
        let start = self.start(None);
        let key = Key::new(request.to, start.id);
        let mut shared = self.common.shared();
        let sender = Sender::call(now, tag, request, start, &mut shared);
        self.enrol(key, Session::Sender(Box::new(sender)));
        self.share_limit(now);
    }

    /// Divides what this endpoint may send among the sessions that send.
    fn share_limit(&mut self, now: Instant) {
        self.sharing = self.roster.sending();
        let share = self.limit.map(|limit| {
            let share = limit.bytes_per_sec() / (self.sharing as u64).max(1);
            Bitrate::from_bytes_per_sec(share.max(LEAST_SHARE))
        });
        let config = &self.common.config;
        let cap = [share, config.max_rate].into_iter().flatten().min();
        self.roster.each_sender(|it| it.set_cap(now, cap));
    }

    fn pull(&mut self, now: Instant, tag: Tag, wish: Wish) {
        let start = self.start(None);
        let key = Key::new(wish.to, start.id);
        let pull = Pull::new(now, tag, wish, start.id, start.secret, &self.common.config);
        self.enrol(key, Session::Pull(Box::new(pull)));
    }

    fn list(&mut self, now: Instant, tag: Tag, to: SocketAddr, first: u64) {
        let number = self.fresh_id();
        let lister = Lister::new(now, tag, number, first);
        self.enrol(Key::new(to, number), Session::Lister(Box::new(lister)));
    }

    /// The application grants what a peer asked for.
    fn serve(&mut self, now: Instant, key: Key, size: u64, hash: u64, bundle: bool) {
        let start = self.start(Some(key.number));
        let Some(Session::Asked(asked)) = self.roster.get(key) else {
            return;
        };
        let welcome = asked.request.extension.as_ref().is_some_and(|it| it.bundle);
        let request = Request {
            to: key.peer,
            name: String::from_utf8_lossy(&asked.request.name).into_owned(),
            size,
            hash,
            encrypt: asked.request.key.is_some(),
            via: Via::Pull,
            trust: Trust::Anyone,
            bundle,
        };
        if size > FILE_MAX || (bundle && !welcome) {
            return self.turn_down(now, key, Reason::INVALID);
        }
        let mut shared = self.common.shared();
        let session = match Sender::serve(now, asked, request, start, &mut shared) {
            Ok(sender) => Session::Sender(Box::new(sender)),
            Err(_) => {
                self.common.counters.add(Counter::Malformed, 1);
                return self.turn_down(now, key, Reason::INVALID);
            }
        };
        self.enrol(key, session);
        self.share_limit(now);
    }

    /// What a peer asked for is not to be had.
    fn turn_down(&mut self, now: Instant, key: Key, reason: Reason) {
        self.common.rejects.count(reason);
        self.with(now, key, |session, shared| match session {
            Session::Asked(it) => it.close(shared),
            Session::ListAsked(it) => it.close(shared),
            Session::Sender(_) | Session::Receiver(_) | Session::Pull(_) | Session::Lister(_) => {}
        });
        let reject = control(Kind::Reject, key.number, &[reason.0], 0);
        self.reply(now, key.peer, reject);
    }

    /// The application tells a peer what there is.
    fn tell_list(&mut self, now: Instant, key: Key, total: u64, text: &[u8]) {
        let answer = self.with(now, key, |session, shared| match session {
            Session::ListAsked(it) => it.answer(key.number, total, text, shared),
            Session::Sender(_)
            | Session::Receiver(_)
            | Session::Pull(_)
            | Session::Asked(_)
            | Session::Lister(_) => None,
        });
        if let Some(answer) = answer.flatten() {
            self.reply(now, key.peer, answer);
        }
    }

    /// Number, key and stamps of a new session; the number is the peer's if it chose one.
    fn start(&mut self, id: Option<u32>) -> sender::Start {
        let id = id.unwrap_or_else(|| self.fresh_id());
        sender::Start {
            id,
            secret: Secret::from_bytes(self.entropy.bytes()),
            base: self.entropy.u64(),
        }
    }

    /// A sender whom nobody answers asks again under another number (18.4.5).
    fn begin_anew(&mut self, now: Instant, key: Key) {
        let start = self.start(None);
        let new = Key::new(key.peer, start.id);
        if let Some(mut session) = self.roster.remove(key) {
            if let Session::Sender(it) = &mut session {
                it.begin_anew(now, start, &self.common.config);
            }
            self.enrol(new, session);
        }
    }

    fn fresh_id(&mut self) -> u32 {
        loop {
            let id = self.entropy.u64() as u32;
            let mut ended = self.ended.range(Key::least(id)..);
            let reserved = ended.next().is_some_and(|(key, _)| key.number == id);
            if !reserved && self.roster.of_number(id).next().is_none() {
                return id;
            }
        }
    }

    fn new_tag(&mut self) -> Tag {
        let tag = Tag(self.next_tag);
        self.next_tag += 1;
        tag
    }

    /// The push whose daemon speaks from the port it was asked at, though it wants the data at another (4.5.4).
    fn at_either_port(&self, key: Key) -> Option<Key> {
        let mut known = self.roster.of_number(key.number);
        let push = known.find(|(_, session)| match session {
            Session::Sender(it) => it.was_asked_at(key.peer),
            Session::Receiver(_)
            | Session::Pull(_)
            | Session::Asked(_)
            | Session::Lister(_)
            | Session::ListAsked(_) => false,
        });
        push.map(|(key, _)| key)
    }

    /// A packet of a session whose peer has another address now: a rebound NAT. A sealed packet that opens and is news,
    /// or a heartbeat that echoes a stamp only its receiver can know, proves it (E7); nothing else does.
    fn on_rebound(&mut self, now: Instant, from: SocketAddr, header: &Header, datagram: &mut [u8]) {
        let found = self.roster.of_number(header.session).find(|(_, session)| {
            match (session, header.kind) {
                (Session::Sender(_), Kind::Heartbeat) => true,
                (Session::Receiver(it), Kind::Data | Kind::Parity) => {
                    it.encrypted() && !it.is_half_open() && !it.is_over()
                }
                _ => false,
            }
        });
        let Some(old) = found.map(|(key, _)| key) else {
            self.common.counters.add(Counter::Stray, 1);
            return;
        };
        let proved = self.with(now, old, |session, shared| match session {
            Session::Sender(it) => {
                it.on_heartbeat_from_elsewhere(now, from, header, datagram, shared)
            }
            Session::Receiver(it) => it.on_packet(now, from, header, datagram, shared),
            Session::Pull(_) | Session::Asked(_) | Session::Lister(_) | Session::ListAsked(_) => {
                Proof::None
            }
        });
        match proved {
            Some(Proof::Fresh) => {
                let new = Key::new(from, header.session);
                if let Some(mut session) = self.roster.remove(old) {
                    match &mut session {
                        Session::Sender(it) => it.on_moved(now, from, &self.common.config),
                        Session::Receiver(it) => it.peer = from,
                        Session::Pull(_)
                        | Session::Asked(_)
                        | Session::Lister(_)
                        | Session::ListAsked(_) => {}
                    }
                    self.enrol(new, session);
                    self.common.counters.add(Counter::Rebound, 1);
                    self.with(now, new, |session, shared| {
                        if let Session::Sender(it) = session {
                            it.on_heartbeat(now, header, datagram, shared);
                        }
                    });
                }
            }
            // A sender whose address changed at the very end has nothing new to say; how it ended it may know.
            Some(Proof::Old) => {
                if let Some(verdict) = self.roster.get(old).and_then(Session::verdict) {
                    self.reply(now, from, verdict);
                }
            }
            Some(Proof::None) | None => {}
        }
    }

    /// PUSH_ACCEPT. The daemon may name another port, and may answer from either (4.5.4).
    fn on_push_accept(&mut self, now: Instant, from: SocketAddr, header: &Header, datagram: &[u8]) {
        let key = Key::new(from, header.session);
        let port = self.with(now, key, |session, shared| match session {
            Session::Sender(it) => it.on_push_accept(now, header, datagram, shared),
            Session::Receiver(_)
            | Session::Pull(_)
            | Session::Asked(_)
            | Session::Lister(_)
            | Session::ListAsked(_) => {
                shared.counters.add(Counter::Unexpected, 1);
                None
            }
        });
        let Some(port) = port else {
            return self.common.counters.add(Counter::Stray, 1);
        };
        let Some(port) = port.filter(|port| *port != 0 && *port != from.port()) else {
            return;
        };
        if let Some(mut session) = self.roster.remove(key) {
            let new = Key::new(SocketAddr::new(from.ip(), port), key.number);
            if let Session::Sender(it) = &mut session {
                it.on_port(new.peer);
            }
            self.enrol(new, session);
        }
    }

    /// A packet that belongs to no session; forgotten when too many wait.
    fn reply(&mut self, now: Instant, to: SocketAddr, bytes: Vec<u8>) {
        if self.replies.len() < REPLIES {
            self.replied_at = Some(now);
            self.common
                .counters
                .add(Counter::Unproved, bytes.len() as u64);
            self.replies.push_back((to, bytes));
        }
    }

    /// What belongs to a session that there is.
    fn on_session(&mut self, now: Instant, key: Key, header: &Header, payload: &mut [u8]) {
        let newcomer = self.with(now, key, |session, shared| {
            let newcomer = session.is_half_open();
            session.hear(now, payload.len());
            session.on_datagram(now, header, payload, shared);
            newcomer && !session.is_half_open()
        });
        if newcomer == Some(true) {
            self.seat(now, key);
        }
    }
}

impl engine::Endpoint for Endpoint {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, meta: Meta, payload: &mut [u8]) {
        self.common.counters.add(Counter::Datagrams, 1);
        let Some((header, _)) = Header::parse(payload) else {
            self.common.counters.add(Counter::Malformed, 1);
            return;
        };
        match header.kind {
            Kind::SessionReq => return self.on_request(now, meta.from, &header, payload),
            Kind::PushReq => return self.on_push(now, meta.from, &header, payload),
            Kind::PullReq => return self.on_pull(now, meta.from, &header, payload),
            Kind::ListReq => return self.on_list(now, meta.from, &header, payload),
            Kind::PushAccept => return self.on_push_accept(now, meta.from, &header, payload),
            Kind::Data
            | Kind::Parity
            | Kind::Heartbeat
            | Kind::Reject
            | Kind::Complete
            | Kind::AckClose
            | Kind::ListRes
            | Kind::SessionAccept => {}
        }
        let key = Key::new(meta.from, header.session);
        if self.roster.contains(key) {
            return self.on_session(now, key, &header, payload);
        }
        if let Some(key) = self.at_either_port(key) {
            return self.on_session(now, key, &header, payload);
        }
        let chunk = matches!(header.kind, Kind::Data | Kind::Parity);
        if chunk && self.on_straggler(now, key) {
            return self.common.counters.add(Counter::Late, 1);
        }
        self.on_rebound(now, meta.from, &header, payload);
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.limit.is_some() && self.sharing != self.roster.sending() {
            // Some sessions have ended since, and leave their shares to the others.
            self.share_limit(now);
        }
        self.roster.wake(now);
        for at in 0..self.roster.ready_count() {
            if let Some(key) = self.roster.ready(at) {
                let anew = self.with(now, key, |session, shared| {
                    session.on_timeout(now, shared);
                    session.begins_anew()
                });
                if anew == Some(true) {
                    self.begin_anew(now, key);
                }
            }
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        let tag = match &command {
            Command::Send { tag, .. }
            | Command::Pull { tag, .. }
            | Command::Serve { tag, .. }
            | Command::List { tag, .. }
            | Command::Listing { tag, .. }
            | Command::Have { tag, .. }
            | Command::Supply { tag, .. }
            | Command::Accept { tag }
            | Command::Stored { tag, .. }
            | Command::Verified { tag }
            | Command::Abort { tag, .. } => *tag,
            Command::Limit { rate } => {
                self.limit = *rate;
                return self.share_limit(now);
            }
        };
        // Buffers come home even to a session that has gone.
        let command = match command {
            Command::Send { tag, request } => return self.send(now, tag, request),
            Command::Pull { tag, wish } => return self.pull(now, tag, wish),
            Command::List { tag, to, first } => return self.list(now, tag, to, first),
            Command::Stored { tag, buffer, len } => {
                self.common.pool.recycle(buffer);
                let buffer = Vec::new();
                Command::Stored { tag, buffer, len }
            }
            other @ (Command::Serve { .. }
            | Command::Listing { .. }
            | Command::Have { .. }
            | Command::Limit { .. }
            | Command::Supply { .. }
            | Command::Accept { .. }
            | Command::Verified { .. }
            | Command::Abort { .. }) => other,
        };
        let Some(&key) = self.tags.get(&tag) else {
            return;
        };
        match (self.roster.get(key), command) {
            (
                Some(Session::Asked(_)),
                Command::Serve {
                    size, hash, bundle, ..
                },
            ) => self.serve(now, key, size, hash, bundle),
            (Some(Session::ListAsked(_)), Command::Listing { total, text, .. }) => {
                self.tell_list(now, key, total, &text);
            }
            (Some(Session::Asked(_) | Session::ListAsked(_)), Command::Abort { reason, .. }) => {
                self.turn_down(now, key, reason)
            }
            (_, command) => {
                self.with(now, key, |session, shared| {
                    session.on_command(now, command, shared)
                });
            }
        }
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if let Some((to, bytes)) = self.replies.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(Transmit {
                to,
                from_ip: None,
                ecn: None,
                len: bytes.len(),
                segment: None,
            });
        }
        let start = buf.len();
        self.roster.wake(now);
        for _ in 0..self.roster.ready_count() {
            let key = self.roster.turn()?;
            let segment = self.with(now, key, |session, shared| {
                let (before, proved) = (buf.len(), session.is_proved());
                let segment = session.poll_transmit(now, max_segments, buf, shared);
                if !proved {
                    let len = buf.len() - before;
                    shared.counters.add(Counter::Unproved, len as u64);
                }
                segment
            });
            let len = buf.len() - start;
            if let Some(segment) = segment.flatten()
                && len > 0
            {
                let segment = (segment < len).then_some(segment);
                return Some(Transmit {
                    to: key.peer,
                    from_ip: None,
                    ecn: None,
                    len,
                    segment,
                });
            }
        }
        None
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.common.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let replies = self.replied_at.filter(|_| !self.replies.is_empty());
        [self.roster.next_deadline(), replies]
            .into_iter()
            .flatten()
            .min()
    }

    fn figures(&self) -> Vec<Figure> {
        let mut sessions = [0; Role::NAMED.len()];
        self.roster
            .iter()
            .for_each(|session| sessions[Role::of(session) as usize] += 1);
        let sessions = Role::NAMED
            .iter()
            .zip(sessions)
            .map(|(&(_, state), value)| Figure {
                name: "sessions",
                help: "Sessions now, by what they do.",
                gauge: true,
                label: Some(("state", state)),
                value,
            });
        sessions
            .chain(self.common.rejects.figures())
            .chain(self.common.counters.figures())
            .collect()
    }
}

impl Role {
    /// In order.
    const NAMED: [(Self, &'static str); 4] = [
        (Self::Unproved, "unproved"),
        (Self::Sending, "sending"),
        (Self::Receiving, "receiving"),
        (Self::Lingering, "lingering"),
    ];

    fn of(session: &Session) -> Self {
        match session {
            it if it.is_half_open() => Self::Unproved,
            Session::Sender(it) if !it.is_over() => Self::Sending,
            Session::Receiver(it) if !it.is_over() => Self::Receiving,
            Session::Pull(_) | Session::Lister(_) => Self::Receiving,
            Session::Sender(_)
            | Session::Receiver(_)
            | Session::Asked(_)
            | Session::ListAsked(_) => Self::Lingering,
        }
    }
}

/// Ended sessions that are remembered.
const ENDED: usize = 1024;
/// Bytes a second that a session may send under any limit: a packet, or its peer would think it dead.
const LEAST_SHARE: u64 = DATAGRAM_MAX as u64;
/// Stragglers of one ended session are not answered more often.
const STRAGGLERS: Duration = Duration::from_millis(100);
/// Such answers that wait to leave.
const REPLIES: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::super::packet::PushReq;
    use super::*;
    use crate::engine::Endpoint as _;

    fn drain(endpoint: &mut Endpoint, now: Instant) {
        let mut buf = Vec::new();
        while endpoint.poll_transmit(now, 16, &mut buf).is_some() {
            buf.clear();
        }
    }

    /// What a packet costs is the sessions it wakes, whoever waits beside them.
    #[test]
    fn a_packet_wakes_one_session_and_the_half_open_sleep() {
        let mut now = Instant::now();
        let mut endpoint = Endpoint::new(Config::default(), [1; 32]);
        let ask = |endpoint: &mut Endpoint, now, number: u32| {
            let from = SocketAddr::from(([198, 18, 0, number as u8], 99));
            let request = PushReq {
                size: 1 << 30,
                hash: Some(1),
                key: None,
                name: b"file".to_vec(),
                extension: None,
            };
            let mut bytes = request.encode(number);
            // As v5.2 says it, with the hash before the name: no more is needed before data.
            bytes.splice(40..40, [1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
            bytes[22] += 12;
            let meta = Meta {
                from,
                to_ip: None,
                ecn: None,
            };
            endpoint.handle_datagram(now, meta, &mut bytes);
            while let Some(event) = endpoint.poll_event() {
                if let Event::Offered { tag, .. } = event {
                    endpoint.handle_command(now, Command::Accept { tag });
                }
            }
            meta
        };
        for number in 0..255 {
            ask(&mut endpoint, now, number);
        }
        drain(&mut endpoint, now);
        let meta = ask(&mut endpoint, now, 255);
        drain(&mut endpoint, now);
        // Once the answers were repeated, nothing is left to do for those that wait.
        for _ in 0..100 {
            now += Duration::from_millis(2);
            endpoint.handle_timeout(now);
            drain(&mut endpoint, now);
        }
        assert_eq!(endpoint.roster.half_open().len(), 256);
        let mut most = 0;
        for seq in 0..500u64 {
            now += Duration::from_micros(100);
            let header = Header {
                seq,
                block: seq / 100,
                stamp: seq + 1,
                ..Header::control(Kind::Data, 255, 1368, 0)
            };
            let mut bytes = [&header.encode()[..], &[7; 1368]].concat();
            endpoint.handle_datagram(now, meta, &mut bytes);
            endpoint.roster.wake(now);
            most = most.max(endpoint.roster.ready_count());
            drain(&mut endpoint, now);
        }
        assert_eq!((endpoint.roster.seated(), most), (1, 1));
        assert_eq!(endpoint.roster.half_open().len(), 255);
        // All are gone after their time, and leave nothing.
        for _ in 0..10_000 {
            let Some(at) = endpoint.poll_timeout() else {
                break;
            };
            now = now.max(at);
            endpoint.handle_timeout(now);
            drain(&mut endpoint, now);
        }
        assert_eq!((endpoint.sessions(), endpoint.roster.seated()), (0, 0));
        assert!(endpoint.tags.is_empty() && endpoint.roster.half_open().is_empty());
    }
}
