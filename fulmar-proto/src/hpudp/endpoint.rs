//! All sessions behind one socket: routing by peer and number, admission, turns in sending.
//!
//! It does *not* know what a session does with a packet.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::config::{Config, DATAGRAM_MAX, FILE_MAX, NAME_MAX};
use super::keys::Entropy;
use super::packet::{Header, Kind, PullReq, PushReq, SessionReq, control};
use super::pull::{Asked, Pull};
use super::receiver::{self, Offer, Receiver};
use super::sender::{self, Sender};
use super::session::{Common, Counter, Proof, Shared};
use super::{Command, Event, Failure, Reason, Request, Tag, Via, Wish};
use crate::crypto::Secret;
use crate::engine::{self, Bitrate, Counters, Figure, Meta, Transmit};

/// All HP-UDP sessions of one socket, sending and receiving.
#[derive(Debug)]
pub struct Endpoint {
    common: Common,
    entropy: Entropy,
    sessions: BTreeMap<Key, Session>,
    tags: BTreeMap<Tag, Key>,
    /// Ended sessions: their numbers may not be used again for a while (4.1), and a sender that has not heard how it
    /// ended is still told.
    ended: BTreeMap<Key, Ended>,
    /// Refusals and verdicts on their way: they need no session.
    replies: VecDeque<(SocketAddr, Vec<u8>)>,
    replied_at: Option<Instant>,
    next_tag: u64,
    /// What all senders together may use.
    limit: Option<Bitrate>,
    /// Who sent last.
    turn: Option<Key>,
}

/// A session is known by its peer and its number (2.4).
type Key = (SocketAddr, u32);

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
    Sending,
    Offered,
    Receiving,
    Lingering,
}

impl Role {
    /// In order.
    const NAMED: [(Self, &'static str); 4] = [
        (Self::Sending, "sending"),
        (Self::Offered, "offered"),
        (Self::Receiving, "receiving"),
        (Self::Lingering, "lingering"),
    ];
}

#[derive(Debug)]
enum Session {
    Sender(Box<Sender>),
    Receiver(Box<Receiver>),
    /// A file this side asked for.
    Pull(Box<Pull>),
    /// A file the peer asked for.
    Asked(Box<Asked>),
}

impl Endpoint {
    /// An endpoint that draws all its randomness from `seed`: a driver passes 32 bytes of entropy, a simulation its
    /// own. Two endpoints with one seed on a network would share their keys.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        Self {
            common: Common::new(config),
            entropy: Entropy::new(seed),
            sessions: BTreeMap::new(),
            tags: BTreeMap::new(),
            ended: BTreeMap::new(),
            replies: VecDeque::new(),
            replied_at: None,
            next_tag: 1 << 63,
            limit: None,
            turn: None,
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
        self.sessions.len()
    }

    /// Calls one session with the rest of the endpoint at hand, and buries it if it closed.
    fn with<R>(
        &mut self,
        now: Instant,
        key: Key,
        call: impl FnOnce(&mut Session, &mut Shared<'_>) -> R,
    ) -> Option<R> {
        let session = self.sessions.get_mut(&key)?;
        let mut shared = self.common.shared();
        let result = call(session, &mut shared);
        if session.is_closed() {
            let (verdict, used) = match session {
                Session::Receiver(it) => (it.verdict(), it.is_used()),
                Session::Sender(_) => (None, true),
                Session::Pull(_) | Session::Asked(_) => (None, false),
            };
            self.tags.remove(&session.tag());
            self.sessions.remove(&key);
            // A number under which nothing happened may ask again.
            if used {
                self.bury(now, key, verdict);
            }
        }
        Some(result)
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
            self.reply(now, key.0, verdict);
        }
        true
    }

    fn send(&mut self, now: Instant, tag: Tag, request: Request) {
        let start = self.start(None);
        let key = (request.to, start.id);
        let mut shared = self.common.shared();
        let sender = Sender::call(now, tag, request, start, &mut shared);
        self.tags.insert(tag, key);
        self.sessions.insert(key, Session::Sender(Box::new(sender)));
        self.share_limit(now);
    }

    /// Divides what this endpoint may send among the sessions that send.
    fn share_limit(&mut self, now: Instant) {
        let senders = self
            .sessions
            .values_mut()
            .filter_map(|session| match session {
                Session::Sender(it) if !it.is_over() => Some(it),
                Session::Sender(_)
                | Session::Receiver(_)
                | Session::Pull(_)
                | Session::Asked(_) => None,
            });
        let senders: Vec<_> = senders.collect();
        let config = &self.common.config;
        let share = self.limit.map(|limit| {
            let share = limit.bytes_per_sec() / (senders.len() as u64).max(1);
            Bitrate::from_bytes_per_sec(share.max(LEAST_SHARE))
        });
        let cap = [share, config.max_rate].into_iter().flatten().min();
        senders.into_iter().for_each(|it| it.set_cap(now, cap));
    }

    fn pull(&mut self, now: Instant, tag: Tag, wish: Wish) {
        let start = self.start(None);
        let key = (wish.to, start.id);
        let pull = Pull::new(now, tag, wish, start.id, start.secret, &self.common.config);
        self.tags.insert(tag, key);
        self.sessions.insert(key, Session::Pull(Box::new(pull)));
    }

    /// The application grants what a peer asked for.
    fn serve(&mut self, now: Instant, key: Key, size: u64, hash: u64, bundle: bool) {
        let start = self.start(Some(key.1));
        let Some(Session::Asked(asked)) = self.sessions.get(&key) else {
            return;
        };
        let welcome = asked.request.extension.as_ref().is_some_and(|it| it.bundle);
        let request = Request {
            to: key.0,
            name: String::from_utf8_lossy(&asked.request.name).into_owned(),
            size,
            hash,
            encrypt: asked.request.key.is_some(),
            via: Via::Pull,
            trust: super::Trust::Anyone,
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
        self.sessions.insert(key, session);
        self.share_limit(now);
    }

    /// What a peer asked for is not to be had.
    fn turn_down(&mut self, now: Instant, key: Key, reason: Reason) {
        self.common.rejects.count(reason);
        self.with(now, key, |session, shared| {
            if let Session::Asked(it) = session {
                it.close(shared);
            }
        });
        self.reply(now, key.0, control(Kind::Reject, key.1, &[reason.0], 0));
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

    fn fresh_id(&mut self) -> u32 {
        loop {
            let id = self.entropy.u64() as u32;
            let mut known = self.sessions.keys().chain(self.ended.keys());
            if known.all(|key| key.1 != id) {
                return id;
            }
        }
    }

    /// SESSION_REQ: an offer, the second word of a push, or the answer to a pull.
    fn on_request(&mut self, now: Instant, from: SocketAddr, header: &Header, datagram: &[u8]) {
        let Some(request) = SessionReq::parse(header, datagram) else {
            self.common.counters.add(Counter::Malformed, 1);
            return;
        };
        let key = (from, header.session);
        if let Some(Session::Receiver(it)) = self.sessions.get_mut(&key) {
            if it.is_repeat(datagram) {
                it.hear(datagram.len());
                return it.on_repeat(now);
            }
            if it.on_push_data(now, &request) {
                return it.hear(datagram.len());
            }
        }
        if let Some(asked) = self.pull_answered(key) {
            return self.on_granted(now, asked, from, request, datagram);
        }
        let offer = Offer::from_request(request, Via::Direct);
        self.on_offer(now, key, offer, datagram);
    }

    fn on_push(&mut self, now: Instant, from: SocketAddr, header: &Header, datagram: &[u8]) {
        let Some(request) = PushReq::parse(header, datagram) else {
            self.common.counters.add(Counter::Malformed, 1);
            return;
        };
        let key = (from, header.session);
        if let Some(session) = self.sessions.get_mut(&key) {
            match session {
                Session::Receiver(it) if it.is_repeat(datagram) => {
                    it.hear(datagram.len());
                    it.on_repeat(now);
                }
                // Another request under one number: more likely damage than a collision.
                Session::Receiver(_)
                | Session::Sender(_)
                | Session::Pull(_)
                | Session::Asked(_) => {
                    self.common.counters.add(Counter::Unexpected, 1);
                }
            }
            return;
        }
        self.on_offer(now, key, Offer::from_push(request), datagram);
    }

    fn on_offer(&mut self, now: Instant, key: Key, offer: Offer, datagram: &[u8]) {
        let admitted = self
            .is_free(now, key)
            .and_then(|()| offer.check(&self.common.config))
            .and_then(|()| self.make_room(now));
        if let Err(reason) = admitted {
            self.common.rejects.count(reason);
            return self.reply(now, key.0, control(Kind::Reject, key.1, &[reason.0], 0));
        }
        let secret = Secret::from_bytes(self.entropy.bytes());
        let tag = self.new_tag();
        let start = receiver::Start {
            now,
            tag,
            peer: key.0,
            id: key.1,
            raw: datagram,
            secret: &secret,
            pull: None,
        };
        match Receiver::new(&start, offer, &mut self.common.shared()) {
            Ok(mut receiver) => {
                receiver.hear(datagram.len());
                self.tags.insert(tag, key);
                let session = Session::Receiver(Box::new(receiver));
                self.sessions.insert(key, session);
            }
            Err(_) => self.common.counters.add(Counter::Malformed, 1),
        }
    }

    /// PULL_REQ.
    fn on_pull(&mut self, now: Instant, from: SocketAddr, header: &Header, datagram: &[u8]) {
        let Some(request) = PullReq::parse(header, datagram) else {
            self.common.counters.add(Counter::Malformed, 1);
            return;
        };
        let key = (from, header.session);
        match self.sessions.get_mut(&key) {
            Some(Session::Asked(it)) if it.raw == datagram => {
                return it.ledger.hear(datagram.len());
            }
            Some(Session::Sender(it)) if it.is_repeat(datagram) => {
                it.hear(now, datagram.len());
                return it.on_repeat();
            }
            Some(_) => return self.common.counters.add(Counter::Unexpected, 1),
            None => {}
        }
        let named = !request.name.is_empty() && request.name.len() <= NAME_MAX;
        let sealed = !self.common.config.require_encryption || request.key.is_some();
        let admitted = self
            .is_free(now, key)
            .and_then(|()| named.then_some(()).ok_or(Reason::INVALID))
            .and_then(|()| sealed.then_some(()).ok_or(Reason::NEEDS_ENCRYPTION))
            .and_then(|()| self.make_room(now));
        if let Err(reason) = admitted {
            self.common.rejects.count(reason);
            return self.reply(now, from, control(Kind::Reject, key.1, &[reason.0], 0));
        }
        let tag = self.new_tag();
        let mut shared = self.common.shared();
        let asked = Asked::new(now, tag, from, request, datagram, &mut shared);
        self.tags.insert(tag, key);
        self.sessions.insert(key, Session::Asked(Box::new(asked)));
    }

    /// The pull that this SESSION_REQ answers: the daemon may answer from another port (4.5.5).
    fn pull_answered(&self, key: Key) -> Option<Key> {
        let waiting = |(at, session): &(&Key, &Session)| {
            let ours = matches!(session, Session::Pull(_));
            ours && at.1 == key.1 && at.0.ip() == key.0.ip()
        };
        self.sessions.iter().find(waiting).map(|(at, _)| *at)
    }

    /// The daemon sends what was asked for.
    fn on_granted(
        &mut self,
        now: Instant,
        asked: Key,
        from: SocketAddr,
        request: SessionReq,
        datagram: &[u8],
    ) {
        let Some(Session::Pull(pull)) = self.sessions.get(&asked) else {
            return;
        };
        let offer = Offer::from_request(request, Via::Pull);
        let start = receiver::Start {
            now,
            tag: pull.tag,
            peer: from,
            id: asked.1,
            raw: datagram,
            secret: &pull.secret,
            pull: Some(pull),
        };
        let started = match offer.check(&self.common.config) {
            Ok(()) => Receiver::new(&start, offer, &mut self.common.shared()),
            Err(reason) => Err(Failure::Aborted(reason)),
        };
        match started {
            Ok(mut receiver) => {
                receiver.hear(datagram.len());
                let key = (from, asked.1);
                self.sessions.remove(&asked);
                self.tags.insert(receiver.tag, key);
                self.sessions
                    .insert(key, Session::Receiver(Box::new(receiver)));
            }
            Err(failure) => {
                let reason = Reason::DISCONNECT.0;
                self.reply(now, from, control(Kind::Reject, asked.1, &[reason], 0));
                self.with(now, asked, |session, shared| {
                    if let Session::Pull(it) = session {
                        it.end(now, failure, shared);
                    }
                });
            }
        }
    }

    fn new_tag(&mut self) -> Tag {
        let tag = Tag(self.next_tag);
        self.next_tag += 1;
        tag
    }

    /// Whether a number may be used (4.1).
    fn is_free(&self, now: Instant, key: Key) -> Result<(), Reason> {
        let reserved = self.ended.get(&key).is_some_and(|ended| ended.until > now);
        if self.sessions.contains_key(&key) || reserved {
            return Err(Reason::COLLISION);
        }
        Ok(())
    }

    /// Room for one more request (E2). Sessions that bring data take the places; requests that have not yet brought
    /// any wait in a table of their own, where when it is full a newcomer displaces one at random, because the
    /// addresses of a flood are forged and tell nobody apart.
    fn make_room(&mut self, now: Instant) -> Result<(), Reason> {
        let made = self.places_taken() < self.common.config.sessions && self.displace(now);
        if !made {
            self.common.counters.add(Counter::Busy, 1);
        }
        made.then_some(()).ok_or(Reason::BUSY)
    }

    fn displace(&mut self, now: Instant) -> bool {
        let waiting = |(_, session): &(&Key, &Session)| session.is_half_open();
        let count = self.sessions.iter().filter(waiting).count();
        if count < HALF_OPEN && self.sessions.len() < SESSIONS {
            return true;
        }
        let at = self.entropy.below(count);
        let Some((&key, _)) = self.sessions.iter().filter(waiting).nth(at) else {
            return false;
        };
        self.with(now, key, |session, shared| match session {
            Session::Receiver(it) => it.on_displaced(now, shared),
            Session::Sender(it) => it.on_displaced(now, shared),
            Session::Asked(it) => it.close(shared),
            Session::Pull(_) => {}
        });
        true
    }

    fn places_taken(&self) -> usize {
        let sessions = self.sessions.values();
        let places = sessions.filter(|session| match session {
            Session::Receiver(it) => it.via() != Via::Pull && !it.is_half_open() && !it.is_over(),
            Session::Sender(it) => it.is_served() && !it.is_half_open() && !it.is_over(),
            Session::Pull(_) | Session::Asked(_) => false,
        });
        places.count()
    }

    /// A session that was half-open has brought data: it takes a place, or learns that there is none.
    fn seat(&mut self, now: Instant, key: Key) {
        if self.places_taken() <= self.common.config.sessions {
            return;
        }
        let newcomer = self.with(now, key, |session, shared| match session {
            Session::Receiver(it) if !it.is_half_open() => {
                it.on_abort(now, Reason::BUSY, shared);
                true
            }
            Session::Sender(it) if !it.is_half_open() => {
                it.on_abort(now, Reason::BUSY, shared);
                true
            }
            Session::Receiver(_) | Session::Sender(_) | Session::Pull(_) | Session::Asked(_) => {
                false
            }
        });
        if newcomer == Some(true) {
            self.common.counters.add(Counter::Busy, 1);
        }
    }

    /// A packet of a session whose peer has another address now: a rebound NAT. A sealed packet that opens and is news,
    /// or a heartbeat that echoes a stamp only its receiver can know, proves it (E7); nothing else does.
    fn on_rebound(&mut self, now: Instant, from: SocketAddr, header: &Header, datagram: &mut [u8]) {
        let found = self.sessions.iter().find(|(key, session)| {
            key.1 == header.session
                && match (session, header.kind) {
                    (Session::Sender(_), Kind::Heartbeat) => true,
                    (Session::Receiver(it), Kind::Data | Kind::Parity) => {
                        it.encrypted() && !it.is_half_open() && !it.is_over()
                    }
                    _ => false,
                }
        });
        let Some(old) = found.map(|(key, _)| *key) else {
            self.common.counters.add(Counter::Stray, 1);
            return;
        };
        let proved = self.with(now, old, |session, shared| match session {
            Session::Sender(it) => {
                it.on_heartbeat_from_elsewhere(now, from, header, datagram, shared)
            }
            Session::Receiver(it) => it.on_packet(now, from, header, datagram, shared),
            Session::Pull(_) | Session::Asked(_) => Proof::None,
        });
        match proved {
            Some(Proof::Fresh) => {
                let new = (from, header.session);
                if let Some(mut session) = self.sessions.remove(&old) {
                    match &mut session {
                        Session::Sender(it) => it.on_moved(now, from, &self.common.config),
                        Session::Receiver(it) => it.peer = from,
                        Session::Pull(_) | Session::Asked(_) => {}
                    }
                    self.tags.insert(session.tag(), new);
                    self.sessions.insert(new, session);
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
                if let Some(Session::Receiver(it)) = self.sessions.get(&old)
                    && let Some(verdict) = it.verdict()
                {
                    self.reply(now, from, verdict);
                }
            }
            Some(Proof::None) | None => {}
        }
    }

    /// PUSH_ACCEPT. The daemon may name another port, and may answer from either (4.5.4).
    fn on_push_accept(&mut self, now: Instant, from: SocketAddr, header: &Header, datagram: &[u8]) {
        let key = (from, header.session);
        let port = self.with(now, key, |session, shared| match session {
            Session::Sender(it) => it.on_push_accept(now, header, datagram, shared),
            Session::Receiver(_) | Session::Pull(_) | Session::Asked(_) => {
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
        if let Some(mut session) = self.sessions.remove(&key) {
            let new = (SocketAddr::new(from.ip(), port), key.1);
            if let Session::Sender(it) = &mut session {
                it.on_port(new.0);
            }
            self.tags.insert(session.tag(), new);
            self.sessions.insert(new, session);
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

    /// The session whose turn it is after `before`, round and round.
    fn key_after(&self, before: Option<Key>) -> Option<Key> {
        let from = before.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.sessions.range((from, Bound::Unbounded)).next();
        next.map(|(key, _)| *key)
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
            Kind::PushAccept => return self.on_push_accept(now, meta.from, &header, payload),
            Kind::Data
            | Kind::Parity
            | Kind::Heartbeat
            | Kind::Reject
            | Kind::Complete
            | Kind::AckClose
            | Kind::SessionAccept => {}
        }
        let key = (meta.from, header.session);
        if !self.sessions.contains_key(&key) {
            let chunk = matches!(header.kind, Kind::Data | Kind::Parity);
            if chunk && self.on_straggler(now, key) {
                self.common.counters.add(Counter::Late, 1);
                return;
            }
            return self.on_rebound(now, meta.from, &header, payload);
        }
        let newcomer = self.with(now, key, |session, shared| {
            let newcomer = session.is_half_open();
            match session {
                Session::Receiver(it) => it.hear(payload.len()),
                Session::Sender(it) => it.hear(now, payload.len()),
                Session::Pull(_) | Session::Asked(_) => {}
            }
            session.on_datagram(now, &header, payload, shared);
            newcomer && !session.is_half_open()
        });
        if newcomer == Some(true) {
            self.seat(now, key);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.limit.is_some() {
            // Some sessions may have ended since, and leave their shares to the others.
            self.share_limit(now);
        }
        let mut at = self.key_after(None);
        while let Some(key) = at {
            self.with(now, key, |session, shared| match session {
                Session::Sender(it) => it.on_timeout(now, shared),
                Session::Receiver(it) => it.on_timeout(now, shared),
                Session::Pull(it) => it.on_timeout(now, shared),
                Session::Asked(it) => it.on_timeout(now, shared),
            });
            at = self.key_after(Some(key));
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        let tag = match &command {
            Command::Send { tag, .. }
            | Command::Pull { tag, .. }
            | Command::Serve { tag, .. }
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
        if let Command::Send { tag, request } = command {
            return self.send(now, tag, request);
        }
        if let Command::Pull { tag, wish } = command {
            return self.pull(now, tag, wish);
        }
        // Buffers come home even to a session that has gone.
        let command = if let Command::Stored { tag, buffer, len } = command {
            self.common.pool.recycle(buffer);
            Command::Stored {
                tag,
                buffer: Vec::new(),
                len,
            }
        } else {
            command
        };
        let Some(&key) = self.tags.get(&tag) else {
            return;
        };
        if let Some(Session::Asked(_)) = self.sessions.get(&key) {
            return match command {
                Command::Serve {
                    size, hash, bundle, ..
                } => self.serve(now, key, size, hash, bundle),
                Command::Abort { reason, .. } => self.turn_down(now, key, reason),
                Command::Send { .. }
                | Command::Pull { .. }
                | Command::Have { .. }
                | Command::Limit { .. }
                | Command::Supply { .. }
                | Command::Accept { .. }
                | Command::Stored { .. }
                | Command::Verified { .. } => {}
            };
        }
        self.with(now, key, |session, shared| {
            session.on_command(now, command, shared)
        });
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
        for _ in 0..self.sessions.len() {
            let key = self.key_after(self.turn).or_else(|| self.key_after(None))?;
            self.turn = Some(key);
            let segment = self.with(now, key, |session, shared| match session {
                Session::Sender(it) => it.poll_transmit(now, max_segments, buf, shared),
                Session::Receiver(it) => it.poll_transmit(now, buf, shared).then_some(usize::MAX),
                Session::Pull(it) => it.poll_transmit(buf).then_some(usize::MAX),
                Session::Asked(_) => None,
            });
            let len = buf.len() - start;
            if let Some(segment) = segment.flatten()
                && len > 0
            {
                let segment = (segment < len).then_some(segment);
                return Some(Transmit {
                    to: key.0,
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
        let sessions = self.sessions.values().filter_map(|session| match session {
            Session::Sender(it) => it.deadline(),
            Session::Receiver(it) => it.deadline(),
            Session::Pull(it) => it.deadline(),
            Session::Asked(it) => Some(it.deadline()),
        });
        let replies = self.replied_at.filter(|_| !self.replies.is_empty());
        sessions.chain(replies).min()
    }

    fn figures(&self) -> Vec<Figure> {
        let mut sessions = [0; Role::NAMED.len()];
        self.sessions
            .values()
            .for_each(|session| sessions[session.role() as usize] += 1);
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

impl Session {
    /// What it does, for whoever counts sessions.
    fn role(&self) -> Role {
        match self {
            Self::Sender(it) if !it.is_over() => Role::Sending,
            Self::Receiver(it) if it.is_half_open() => Role::Offered,
            Self::Receiver(it) if !it.is_over() => Role::Receiving,
            Self::Pull(_) => Role::Receiving,
            Self::Asked(_) => Role::Offered,
            Self::Sender(_) | Self::Receiver(_) => Role::Lingering,
        }
    }

    fn tag(&self) -> Tag {
        match self {
            Self::Sender(it) => it.tag,
            Self::Receiver(it) => it.tag,
            Self::Pull(it) => it.tag,
            Self::Asked(it) => it.tag,
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Sender(it) => it.is_closed(),
            Self::Receiver(it) => it.is_closed(),
            Self::Pull(it) => it.is_closed(),
            Self::Asked(it) => it.is_closed(),
        }
    }

    fn is_half_open(&self) -> bool {
        match self {
            Self::Sender(it) => it.is_half_open(),
            Self::Receiver(it) => it.is_half_open(),
            Self::Pull(_) => false,
            Self::Asked(_) => true,
        }
    }

    fn on_datagram(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &mut [u8],
        shared: &mut Shared<'_>,
    ) {
        if !self.is_genuine(now, header, datagram) {
            return shared.counters.add(Counter::Refused, 1);
        }
        match (self, header.kind) {
            (Self::Pull(it), Kind::Reject) => it.on_reject(now, header, datagram, shared),
            (Self::Receiver(it), Kind::Data | Kind::Parity) => {
                if it.on_packet(now, it.peer, header, datagram, shared) != Proof::None {
                    it.remind(now);
                }
            }
            (Self::Receiver(it), Kind::Complete | Kind::AckClose | Kind::Reject) => {
                it.on_control(now, header, datagram, shared);
            }
            (Self::Sender(it), Kind::Heartbeat) => {
                it.on_heartbeat(now, header, datagram, shared);
            }
            (
                Self::Sender(it),
                Kind::SessionAccept | Kind::Complete | Kind::AckClose | Kind::Reject,
            ) => {
                it.on_control(now, header, datagram, shared);
            }
            _ => shared.counters.add(Counter::Unexpected, 1),
        }
    }

    /// Whether a control packet was made by the peer, where that can be known (18.7.4).
    fn is_genuine(&mut self, now: Instant, header: &Header, datagram: &[u8]) -> bool {
        let control = matches!(
            header.kind,
            Kind::Heartbeat | Kind::Reject | Kind::Complete | Kind::AckClose
        );
        match self {
            Self::Sender(it) if control => it.is_genuine(now, datagram),
            Self::Receiver(it) if control => it.is_genuine(datagram),
            Self::Sender(_) | Self::Receiver(_) | Self::Pull(_) | Self::Asked(_) => true,
        }
    }

    fn on_command(&mut self, now: Instant, command: Command, shared: &mut Shared<'_>) {
        match (self, command) {
            (Self::Pull(it), Command::Abort { reason, .. }) => {
                it.end(now, Failure::Aborted(reason), shared);
            }
            (Self::Receiver(it), Command::Have { ranges, .. }) => it.on_have(now, &ranges, shared),
            (Self::Sender(it), Command::Supply { offset, bytes, .. }) => {
                it.on_supply(now, offset, bytes, shared)
            }
            (Self::Sender(it), Command::Abort { reason, .. }) => it.on_abort(now, reason, shared),
            (Self::Receiver(it), Command::Accept { .. }) => it.on_accept(now, shared),
            (Self::Receiver(it), Command::Stored { len, .. }) => it.on_stored(len, shared.config),
            (Self::Receiver(it), Command::Verified { .. }) => it.on_verified(now, shared),
            (Self::Receiver(it), Command::Abort { reason, .. }) => it.on_abort(now, reason, shared),
            // An answer to a question of the other role: late, after its session's name was used again.
            (Self::Sender(_) | Self::Receiver(_) | Self::Pull(_) | Self::Asked(_), _) => {}
        }
    }
}

/// Sessions of any kind and state at once.
const SESSIONS: usize = 1024;
/// Receiving sessions that have brought no data.
const HALF_OPEN: usize = 256;
/// Ended sessions that are remembered.
const ENDED: usize = 1024;
/// Bytes a second that a session may send under any limit: a packet, or its peer would think it dead.
const LEAST_SHARE: u64 = DATAGRAM_MAX as u64;
/// Stragglers of one ended session are not answered more often.
const STRAGGLERS: Duration = Duration::from_millis(100);
/// Such answers that wait to leave.
const REPLIES: usize = 64;
