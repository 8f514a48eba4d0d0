//! A pull before it is a transfer: [`Pull`] at the client, until the daemon's SESSION_REQ comes, and [`Asked`] at the
//! daemon, until the application says whether there is such a file (3.5, 4.5, 19.5.4); and its little sister, the list
//! of what there is: [`Lister`] and [`ListAsked`] (18.6).
//!
//! It does *not* move data: a granted pull becomes a receiver here and a sender there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::{Config, DATAGRAM_MAX, HEADER};
use super::packet::{Extension, Header, Kind, ListReq, ListRes, PullReq, exact, feature};
use super::sender::DOUBT;
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
    /// Copies of it that left.
    asks: u32,
    /// A refusal that one of the later copies may have drawn (4.6.7).
    doubt: Option<Reason>,
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
                features: feature::asking(config.sockets),
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
            asks: 1,
            doubt: None,
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
            Some(&[reason]) => {
                let reason = Reason(reason);
                let again = matches!(reason, Reason::COLLISION | Reason::BUSY) && self.asks > 1;
                if again && self.doubt.is_none() {
                    self.doubt = Some(reason);
                    self.timers.stop(Timer::Request);
                    self.timers.set(Timer::Patience, now + DOUBT);
                    return;
                }
                self.end(now, Failure::Refused(reason), shared);
            }
            Some(_) | None => shared.counters.add(Counter::Malformed, 1),
        }
    }

    /// The end before the beginning.
    pub(super) fn end(&mut self, now: Instant, failure: Failure, shared: &mut Shared<'_>) {
        let elapsed = now.duration_since(self.started);
        fail(self.tag, elapsed, self.wish.encrypt, failure, shared);
        self.closed = true;
    }

    pub(super) fn on_timeout(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if self.timers.expire(Timer::Request, now) {
            self.retry = (self.retry * 2).min(shared.config.request_retry_max);
            self.timers.set(Timer::Request, now + self.retry);
            self.asks += 1;
            self.due = true;
        }
        if self.timers.expire(Timer::Patience, now) {
            let failure = self.doubt.map_or(Failure::NoAnswer, Failure::Refused);
            self.end(now, failure, shared);
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

/// A list asked for (18.6).
#[derive(Debug)]
pub(super) struct Lister {
    pub(super) tag: Tag,
    first: u64,
    /// LIST_REQ, resent verbatim.
    asked: Vec<u8>,
    due: bool,
    /// Requests that may still leave.
    tries: u32,
    again: Instant,
    started: Instant,
    closed: bool,
}

impl Lister {
    /// Asks for the entries from `first` on.
    pub(super) fn new(now: Instant, tag: Tag, number: u32, first: u64) -> Self {
        Self {
            tag,
            first,
            asked: ListReq { first }.encode(number, PAD),
            due: true,
            tries: LIST_TRIES - 1,
            again: now + LIST_AGAIN,
            started: now,
            closed: false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// LIST_RES, or SESSION_REJECT from a daemon that shows nothing.
    pub(super) fn on_answer(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) {
        if header.kind == Kind::Reject {
            return match exact(header, datagram) {
                Some(&[reason]) => self.end(now, Failure::Refused(Reason(reason)), shared),
                Some(_) | None => shared.counters.add(Counter::Malformed, 1),
            };
        }
        // Who knows of no pages sends the first one whatever was asked, and no total.
        let known = ListRes::parse(header, datagram)
            .filter(|it| it.first == self.first || (it.first == 0 && it.total == 0));
        let Some(ListRes { first, total, text }) = known else {
            return shared.counters.add(Counter::Malformed, 1);
        };
        let tag = self.tag;
        shared.events.push_back(Event::Listing {
            tag,
            first,
            total,
            text,
        });
        shared.events.push_back(Event::Closed { tag });
        self.closed = true;
    }

    /// There is no list.
    pub(super) fn end(&mut self, now: Instant, failure: Failure, shared: &mut Shared<'_>) {
        let elapsed = now.duration_since(self.started);
        fail(self.tag, elapsed, false, failure, shared);
        self.closed = true;
    }

    pub(super) fn on_timeout(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if now < self.again {
            return;
        }
        match self.tries.checked_sub(1) {
            Some(left) => {
                self.tries = left;
                self.due = true;
                self.again = now + LIST_AGAIN;
            }
            None => self.end(now, Failure::NoAnswer, shared),
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
        Some(if self.due { self.started } else { self.again })
    }
}

/// A peer that asked for the list, until the application has told it.
#[derive(Debug)]
pub(super) struct ListAsked {
    pub(super) tag: Tag,
    first: u64,
    /// What its address has paid for.
    pub(super) ledger: Ledger,
    until: Instant,
    closed: bool,
}

impl ListAsked {
    pub(super) fn new(
        now: Instant,
        tag: Tag,
        from: SocketAddr,
        first: u64,
        paid: usize,
        shared: &mut Shared<'_>,
    ) -> Self {
        shared
            .events
            .push_back(Event::ListAsked { tag, from, first });
        let mut ledger = Ledger::default();
        ledger.hear(paid);
        Self {
            tag,
            first,
            ledger,
            until: now + LIST_AGAIN,
            closed: false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// LIST_RES with as many whole lines as fit in a packet and are paid for. `None` when not one is, for an empty list
    /// would be a lie.
    pub(super) fn answer(
        &mut self,
        number: u32,
        total: u64,
        text: &[u8],
        shared: &mut Shared<'_>,
    ) -> Option<Vec<u8>> {
        self.close(shared);
        let room = self.ledger.room().min(DATAGRAM_MAX).checked_sub(HEADER)?;
        let fits = match text.get(..room) {
            Some(head) => head.iter().rposition(|byte| *byte == b'\n')? + 1,
            None => text.len(),
        };
        let answer = ListRes {
            first: self.first,
            total,
            text: text[..fits].to_vec(),
        };
        Some(answer.encode(number))
    }

    /// Nobody waits for an answer any more, or it was given.
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

/// Tells the application that what it asked for did not begin.
fn fail(tag: Tag, elapsed: Duration, encrypted: bool, failure: Failure, shared: &mut Shared<'_>) {
    let snapshot = Snapshot {
        elapsed,
        encrypted,
        ..Snapshot::default()
    };
    shared.events.push_back(Event::Finished {
        tag,
        snapshot,
        result: Err(failure),
    });
    shared.events.push_back(Event::Closed { tag });
}

/// LIST_REQs sent before "unsupported", and their spacing (18.6).
const LIST_TRIES: u32 = 3;
const LIST_AGAIN: Duration = Duration::from_secs(2);
/// Bytes of a PULL_REQ or LIST_REQ: three times as many pay for the daemon's answer and its first chunk (19.5.5).
const PAD: usize = 1000;
