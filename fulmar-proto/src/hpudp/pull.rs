//! A pull before it is a transfer: [`Pull`] at the client, until the daemon's SESSION_REQ comes, and [`Asked`] at the
//! daemon, until the application says whether there is such a file (3.5, 4.5, 19.5.4).
//!
//! It does *not* move data: a granted pull becomes a receiver here and a sender there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::Config;
use super::packet::{Extension, Header, PullReq, exact, feature};
use super::session::{Counter, Shared, Timer};
use super::{Event, Failure, Reason, Snapshot, Tag, Wish};
use crate::crypto::Secret;
use crate::engine::{Ledger, Timers};

/// A file asked for.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) tag: Tag,
    pub(super) wish: Wish,
    /// PULL_REQ, resent verbatim (4.6).
    pub(super) asked: Vec<u8>,
    pub(super) secret: Secret,
    due: bool,
    retry: Duration,
    timers: Timers<Timer>,
    started: Instant,
    closed: bool,
}

impl Pull {
    pub(super) fn new(
        now: Instant,
        tag: Tag,
        wish: Wish,
        id: u32,
        secret: Secret,
        config: &Config,
    ) -> Self {
        let asked = PullReq {
            key: wish.encrypt.then(|| secret.public()),
            name: wish.name.clone().into_bytes(),
            extension: config.extensions.then(|| Extension {
                features: feature::ALL,
                socket_datagrams: config.socket_datagrams,
                bundle: wish.bundle,
                ..Extension::default()
            }),
        }
        .encode(id, PAD);
        let mut timers = Timers::new();
        timers.set(Timer::Request, now + config.request_retry);
        timers.set(Timer::Patience, now + config.call_timeout);
        Self {
            tag,
            wish,
            asked,
            secret,
            due: true,
            retry: config.request_retry,
            timers,
            started: now,
            closed: false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// SESSION_REJECT: there is no key yet that it could be signed with.
    pub(super) fn on_reject(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) {
        match exact(header, datagram) {
            Some(&[reason]) => self.end(now, Failure::Refused(Reason(reason)), shared),
            Some(_) | None => shared.counters.add(Counter::Malformed, 1),
        }
    }

    /// The end before the beginning.
    pub(super) fn end(&mut self, now: Instant, failure: Failure, shared: &mut Shared<'_>) {
        let snapshot = Snapshot {
            elapsed: now.duration_since(self.started),
            encrypted: self.wish.encrypt,
            ..Snapshot::default()
        };
        let tag = self.tag;
        shared.events.push_back(Event::Finished {
            tag,
            snapshot,
            result: Err(failure),
        });
        shared.events.push_back(Event::Closed { tag });
        self.closed = true;
    }

    pub(super) fn on_timeout(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if self.timers.expire(Timer::Request, now) {
            self.retry = (self.retry * 2).min(shared.config.request_retry_max);
            self.timers.set(Timer::Request, now + self.retry);
            self.due = true;
        }
        if self.timers.expire(Timer::Patience, now) {
            self.end(now, Failure::NoAnswer, shared);
        }
    }

    pub(super) fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> bool {
        let due = std::mem::take(&mut self.due);
        if due {
            buf.extend_from_slice(&self.asked);
        }
        due
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.due {
            return Some(self.started);
        }
        self.timers.next().map(|(at, _)| at)
    }
}

/// A peer that asked for a file, while the application looks for it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) tag: Tag,
    pub(super) request: PullReq,
    /// PULL_REQ as it came.
    pub(super) raw: Vec<u8>,
    /// What its address has paid for.
    pub(super) ledger: Ledger,
    until: Instant,
    closed: bool,
}

impl Asked {
    pub(super) fn new(
        now: Instant,
        tag: Tag,
        from: SocketAddr,
        request: PullReq,
        raw: &[u8],
        shared: &mut Shared<'_>,
    ) -> Self {
        shared.events.push_back(Event::Asked {
            tag,
            from,
            name: request.name.clone(),
            encrypted: request.key.is_some(),
            bundle: request.extension.as_ref().is_some_and(|it| it.bundle),
        });
        let mut ledger = Ledger::default();
        ledger.hear(raw.len());
        Self {
            tag,
            request,
            raw: raw.to_vec(),
            ledger,
            until: now + shared.config.call_timeout,
            closed: false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Nobody waits for an answer any more, or it was refused.
    pub(super) fn close(&mut self, shared: &mut Shared<'_>) {
        self.closed = true;
        shared.events.push_back(Event::Closed { tag: self.tag });
    }

    pub(super) fn on_timeout(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if self.until <= now {
            self.close(shared);
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.until
    }
}

/// Bytes of a PULL_REQ: three times as many pay for the daemon's answer and its first chunk (19.5.5).
const PAD: usize = 1000;
