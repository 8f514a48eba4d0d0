//! All sessions behind one socket: routing by peer and number, turns in sending, what the application asks.
//!
//! [`admission`] judges strangers' requests, [`roster`] keeps the sessions, [`addresses`] finds those whose peer speaks
//! from elsewhere, [`commands`] does what the application asks. It does *not* know what a session does with a packet.

mod addresses;
mod admission;
mod commands;
mod roster;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use roster::{Key, Roster, Session};

use super::config::Config;
use super::keys::Entropy;
use super::packet::{Header, Kind};
use super::paths::Path;
use super::session::{Common, Counter, Shared};
use super::{Command, Event, Tag};
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

    fn new_tag(&mut self) -> Tag {
        let tag = Tag(self.next_tag);
        self.next_tag += 1;
        tag
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
    fn on_session(
        &mut self,
        now: Instant,
        (key, path): (Key, Path),
        header: &Header,
        payload: &mut [u8],
    ) {
        let newcomer = self.with(now, key, |session, shared| {
            let newcomer = session.is_half_open();
            if path.peer == key.peer {
                session.hear(now, payload.len());
            }
            session.on_datagram(now, path, header, payload, shared);
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
            Kind::SessionReq | Kind::PushReq | Kind::PullReq | Kind::ListReq => {
                return self.on_asked(now, meta.from, &header, payload);
            }
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
        let path = Path {
            socket: meta.socket,
            peer: meta.from,
        };
        if self.roster.contains(key) {
            return self.on_session(now, (key, path), &header, payload);
        }
        let elsewhere = self.at_either_port(key);
        if let Some(key) = elsewhere.or_else(|| self.at_other_path(path, &header)) {
            return self.on_session(now, (key, path), &header, payload);
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
        self.on_command(now, command);
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
                socket: 0,
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
                segment.map(|segment| (segment, session.path()))
            });
            let len = buf.len() - start;
            if let Some((segment, path)) = segment.flatten()
                && len > 0
            {
                let segment = (segment < len).then_some(segment);
                return Some(Transmit {
                    to: path.map_or(key.peer, |path| path.peer),
                    socket: path.map_or(0, |path| path.socket),
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
                socket: 0,
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
