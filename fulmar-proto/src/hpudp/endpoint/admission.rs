//! What strangers ask for: who gets a place, who waits for one, who is told no (4.1, 4.2, 4.5, 19.5).
//!
//! It does *not* decide what the application decides: whether a file is wanted, or is to be had.

use std::net::SocketAddr;
use std::time::Instant;

use super::super::config::NAME_MAX;
use super::super::packet::{Header, Kind, ListReq, PullReq, PushReq, SessionReq, control};
use super::super::pull::{Asked, ListAsked};
use super::super::receiver::{self, Offer, Receiver};
use super::Endpoint;
use super::roster::{Key, Session};
use crate::crypto::Secret;
use crate::hpudp::{Counter, Failure, Reason, Via};

impl Endpoint {
    /// A request of any kind, from anybody.
    pub(super) fn on_asked(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        datagram: &[u8],
    ) {
        let key = Key::new(from, header.session);
        let read = match header.kind {
            Kind::SessionReq => SessionReq::parse(header, datagram)
                .map(|request| self.on_request(now, key, request, datagram)),
            Kind::PushReq => PushReq::parse(header, datagram)
                .map(|request| self.on_push(now, key, request, datagram)),
            Kind::PullReq => PullReq::parse(header, datagram)
                .map(|request| self.on_pull(now, key, request, datagram)),
            Kind::ListReq => ListReq::parse(header, datagram)
                .map(|request| self.on_list(now, key, request, datagram.len())),
            Kind::Data
            | Kind::Parity
            | Kind::Heartbeat
            | Kind::Reject
            | Kind::Complete
            | Kind::AckClose
            | Kind::PushAccept
            | Kind::SessionAccept
            | Kind::ListRes => None,
        };
        if read.is_none() {
            self.common.counters.add(Counter::Malformed, 1);
        }
    }

    /// SESSION_REQ: an offer, the second word of a push, or the answer to a pull.
    fn on_request(&mut self, now: Instant, key: Key, request: SessionReq, datagram: &[u8]) {
        let known = self.with(now, key, |session, shared| match session {
            Session::Receiver(it) if it.is_repeat(datagram) => {
                it.hear(datagram.len());
                it.on_repeat(now);
                true
            }
            Session::Receiver(it) => it.on_push_data(now, &request, datagram, shared),
            Session::Sender(_)
            | Session::Pull(_)
            | Session::Asked(_)
            | Session::Lister(_)
            | Session::ListAsked(_) => false,
        });
        if known == Some(true) {
            return;
        }
        if request.is_signed() {
            // Only the second word of a push is, and this is none.
            return self.common.counters.add(Counter::Refused, 1);
        }
        if let Some(asked) = self.pull_answered(key) {
            return self.on_granted(now, asked, key.peer, request, datagram);
        }
        let offer = Offer::from_request(request, Via::Direct);
        self.on_offer(now, key, offer, datagram);
    }

    fn on_push(&mut self, now: Instant, key: Key, request: PushReq, datagram: &[u8]) {
        let known = self.with(now, key, |session, shared| match session {
            Session::Receiver(it) if it.is_repeat(datagram) => {
                it.hear(datagram.len());
                it.on_repeat(now);
            }
            // Another request under one number: more likely damage than a collision.
            Session::Receiver(_)
            | Session::Sender(_)
            | Session::Pull(_)
            | Session::Asked(_)
            | Session::Lister(_)
            | Session::ListAsked(_) => shared.counters.add(Counter::Unexpected, 1),
        });
        if known.is_none() {
            self.on_offer(now, key, Offer::from_push(request), datagram);
        }
    }

    fn on_offer(&mut self, now: Instant, key: Key, offer: Offer, datagram: &[u8]) {
        let admitted = self
            .is_free(now, key)
            .and_then(|()| offer.check(&self.common.config))
            .and_then(|()| self.make_room(now));
        if let Err(reason) = admitted {
            return self.refuse(now, key, reason);
        }
        let secret = Secret::from_bytes(self.entropy.bytes());
        let start = receiver::Start {
            now,
            tag: self.new_tag(),
            peer: key.peer,
            id: key.number,
            raw: datagram,
            secret: &secret,
            pull: None,
        };
        match Receiver::new(&start, offer, &mut self.common.shared()) {
            Ok(mut receiver) => {
                receiver.hear(datagram.len());
                self.enrol(key, Session::Receiver(Box::new(receiver)));
            }
            Err(_) => self.common.counters.add(Counter::Malformed, 1),
        }
    }

    /// PULL_REQ.
    fn on_pull(&mut self, now: Instant, key: Key, request: PullReq, datagram: &[u8]) {
        let known = self.with(now, key, |session, shared| match session {
            Session::Asked(it) if it.raw == datagram => it.ledger.hear(datagram.len()),
            Session::Sender(it) if it.is_repeat(datagram) => {
                it.hear(now, datagram.len());
                it.on_repeat();
            }
            Session::Asked(_)
            | Session::Sender(_)
            | Session::Receiver(_)
            | Session::Pull(_)
            | Session::Lister(_)
            | Session::ListAsked(_) => shared.counters.add(Counter::Unexpected, 1),
        });
        if known.is_some() {
            return;
        }
        let named = !request.name.is_empty() && request.name.len() <= NAME_MAX;
        let sealed = !self.common.config.require_encryption || request.key.is_some();
        let admitted = self
            .is_free(now, key)
            .and_then(|()| named.then_some(()).ok_or(Reason::INVALID))
            .and_then(|()| sealed.then_some(()).ok_or(Reason::NEEDS_ENCRYPTION))
            .and_then(|()| self.make_room(now));
        if let Err(reason) = admitted {
            return self.refuse(now, key, reason);
        }
        let tag = self.new_tag();
        let mut shared = self.common.shared();
        let asked = Asked::new(now, tag, key.peer, request, datagram, &mut shared);
        self.enrol(key, Session::Asked(Box::new(asked)));
    }

    /// LIST_REQ: never busy, and never in the way of a transfer (18.6).
    fn on_list(&mut self, now: Instant, key: Key, request: ListReq, len: usize) {
        let known = self.with(now, key, |session, shared| match session {
            Session::ListAsked(it) => it.ledger.hear(len),
            Session::Sender(_)
            | Session::Receiver(_)
            | Session::Pull(_)
            | Session::Asked(_)
            | Session::Lister(_) => shared.counters.add(Counter::Unexpected, 1),
        });
        if known.is_some() || !self.displace(now) {
            return;
        }
        let tag = self.new_tag();
        let mut shared = self.common.shared();
        let asked = ListAsked::new(now, tag, key.peer, request.first, len, &mut shared);
        self.enrol(key, Session::ListAsked(Box::new(asked)));
    }

    /// The pull that this SESSION_REQ answers: the daemon may answer from another port (4.5.5).
    fn pull_answered(&self, key: Key) -> Option<Key> {
        let mut known = self.roster.of_number(key.number);
        let pull = known.find(|(at, session)| {
            matches!(session, Session::Pull(_)) && at.peer.ip() == key.peer.ip()
        });
        pull.map(|(at, _)| at)
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
        let Some(Session::Pull(pull)) = self.roster.get(asked) else {
            return;
        };
        let offer = Offer::from_request(request, Via::Pull);
        let start = receiver::Start {
            now,
            tag: pull.tag,
            peer: from,
            id: asked.number,
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
                self.roster.remove(asked);
                let key = Key::new(from, asked.number);
                self.enrol(key, Session::Receiver(Box::new(receiver)));
            }
            Err(failure) => {
                self.refuse(now, Key::new(from, asked.number), Reason::DISCONNECT);
                self.with(now, asked, |session, shared| {
                    if let Session::Pull(it) = session {
                        it.end(now, failure, shared);
                    }
                });
            }
        }
    }

    fn refuse(&mut self, now: Instant, key: Key, reason: Reason) {
        self.common.rejects.count(reason);
        let reject = control(Kind::Reject, key.number, &[reason.0], 0);
        self.reply(now, key.peer, reject);
    }

    /// Whether a number may be used (4.1).
    fn is_free(&self, now: Instant, key: Key) -> Result<(), Reason> {
        let reserved = self.ended.get(&key).is_some_and(|ended| ended.until > now);
        if self.roster.contains(key) || reserved {
            return Err(Reason::COLLISION);
        }
        Ok(())
    }

    /// Room for one more request (E2). Sessions that bring data take the places; requests that have not yet brought
    /// any wait in a table of their own, where when it is full a newcomer displaces one at random, because the
    /// addresses of a flood are forged and tell nobody apart.
    fn make_room(&mut self, now: Instant) -> Result<(), Reason> {
        let made = self.roster.seated() < self.common.config.sessions && self.displace(now);
        if !made {
            self.common.counters.add(Counter::Busy, 1);
        }
        made.then_some(()).ok_or(Reason::BUSY)
    }

    fn displace(&mut self, now: Instant) -> bool {
        let count = self.roster.half_open().len();
        if count < HALF_OPEN && self.roster.len() < SESSIONS {
            return true;
        }
        let at = self.entropy.below(count);
        let Some(&key) = self.roster.half_open().get(at) else {
            return false;
        };
        self.with(now, key, |session, shared| match session {
            Session::Receiver(it) => it.on_displaced(now, shared),
            Session::Sender(it) => it.on_displaced(now, shared),
            Session::Asked(it) => it.close(shared),
            Session::ListAsked(it) => it.close(shared),
            Session::Pull(_) | Session::Lister(_) => {}
        });
        true
    }

    /// A session that was half-open has brought data: it takes a place, or learns that there is none.
    pub(super) fn seat(&mut self, now: Instant, key: Key) {
        if self.roster.seated() <= self.common.config.sessions {
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
            Session::Receiver(_)
            | Session::Sender(_)
            | Session::Pull(_)
            | Session::Asked(_)
            | Session::Lister(_)
            | Session::ListAsked(_) => false,
        });
        if newcomer == Some(true) {
            self.common.counters.add(Counter::Busy, 1);
        }
    }
}

/// Sessions of any kind and state at once.
const SESSIONS: usize = 1024;
/// Requests whose sender has shown nothing yet.
const HALF_OPEN: usize = 256;
