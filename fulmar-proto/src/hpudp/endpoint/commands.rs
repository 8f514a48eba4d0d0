//! What the application asks of an endpoint: sessions begun, requests answered, limits set.
//!
//! It does *not* know what a session does with a command that is for it alone.

use std::net::SocketAddr;
use std::time::Instant;

use super::super::config::{DATAGRAM_MAX, FILE_MAX};
use super::super::packet::{Kind, control};
use super::super::pull::{Lister, Pull};
use super::super::sender::{self, Sender};
use super::super::{Command, Reason, Request, Tag, Trust, Via, Wish};
use super::Endpoint;
use super::roster::{Key, Session};
use crate::crypto::Secret;
use crate::engine::Bitrate;
use crate::hpudp::Counter;

impl Endpoint {
    /// Takes one request of the application.
    pub(super) fn on_command(&mut self, now: Instant, command: Command) {
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

    fn send(&mut self, now: Instant, tag: Tag, request: Request) {
        let start = self.start(None);
        let key = Key::new(request.to, start.id);
        let mut shared = self.common.shared();
        let sender = Sender::call(now, tag, request, start, &mut shared);
        self.enrol(key, Session::Sender(Box::new(sender)));
        self.share_limit(now);
    }

    /// Divides what this endpoint may send among the sessions that send.
    pub(super) fn share_limit(&mut self, now: Instant) {
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
    pub(super) fn start(&mut self, id: Option<u32>) -> sender::Start {
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
            let mut ended = self.ended.range(Key::least(id)..);
            let reserved = ended.next().is_some_and(|(key, _)| key.number == id);
            if !reserved && self.roster.of_number(id).next().is_none() {
                return id;
            }
        }
    }
}

/// Bytes a second that a session may send under any limit: a packet, or its peer would think it dead.
const LEAST_SHARE: u64 = DATAGRAM_MAX as u64;
