//! The receiving half of one session: from SESSION_REQ to the end of its linger (3.2, 4, 7, 10, 11).
//!
//! Packets are opened in place, chunks go to [`Blocks`], whole blocks go up, heartbeats go back. It does *not* touch
//! files: the application stores, verifies and says so.

mod beat;
mod intake;
mod opening;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use beat::{Arrivals, Arrived, Beat, Train};
pub(super) use opening::{Offer, Start};

use super::blocks::{Blocks, Run};
use super::config::{Config, Layout};
use super::keys::Control;
use super::packet::{Header, Kind, exact, signed};
use super::paths::{Path, Paths};
use super::session::{Counter, Shared, Timer, table_interval};
use super::{Event, Failure, Phase, Reason, Snapshot, Tag, Via};
use crate::crypto::Opener;
use crate::engine::{Bitrate, Ledger, Timers};

/// One file on its way in.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) tag: Tag,
    pub(super) peer: SocketAddr,
    paths: Paths<Arrived>,
    id: u32,
    offer: Offer,
    /// The datagram that began it: the same one again is no other session.
    raw: Vec<u8>,
    layout: Layout,
    /// The sender reads our extension block.
    extended: bool,
    state: State,
    opener: Option<Opener>,
    control: Option<Control>,
    /// SESSION_ACCEPT or PUSH_ACCEPT, resent verbatim to a repeated request (4.6).
    accept: Option<Vec<u8>>,
    chunk: usize,
    blocks: Blocks,
    timers: Timers<Timer>,
    outgoing: VecDeque<Vec<u8>>,
    started: Instant,
    arrivals: Arrivals,
    beat: Beat,
    train: Train,
    /// File bytes that came before the application accepted; a block's worth.
    early: Vec<Run>,
    unstored: usize,
    stored_since_beat: u64,
    /// The last heartbeat told of little room.
    throttled: bool,
    duplicates: u64,
    parities: u64,
    data: u64,
    answered_at: Option<Instant>,
    /// When an authentic packet, or the request, came last, stored or not.
    heard: Instant,
    /// What the sender's address has paid for.
    ledger: Ledger,
    /// How it ended, as far as the sender should know.
    verdict: Option<(Result<(), Reason>, Vec<u8>)>,
    /// Copies of SESSION_ACCEPT sent since the last request.
    accepts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The application has not decided.
    Offered,
    Receiving,
    /// Everything is there; the application verifies.
    Verifying,
    /// TRANSFER_COMPLETE was sent this many times more than once.
    Complete {
        resent: u32,
    },
    /// Over for the user; stragglers are told how it ended.
    Lingering,
    Closed,
}

impl Receiver {
    /// A datagram of so many bytes came from the peer's address, whatever is in it.
    pub(super) fn hear(&mut self, len: usize) {
        self.ledger.hear(len);
    }

    /// Whether a request is the one this session came from, sent again (4.1).
    pub(super) fn is_repeat(&self, datagram: &[u8]) -> bool {
        self.raw == datagram
    }

    /// Whether a control packet comes from the peer, as far as the session can tell (18.7.4).
    pub(super) fn is_genuine(&self, datagram: &[u8]) -> bool {
        self.control.as_ref().is_none_or(|it| it.check(datagram))
    }

    fn close_ack(&mut self) {
        let signer = self.control.as_mut().map(|it| &mut it.signer);
        self.outgoing
            .push_back(signed(Kind::AckClose, self.id, &[], signer));
    }

    /// The application has these bytes from an earlier session.
    pub(super) fn on_have(&mut self, now: Instant, ranges: &[Range<u64>], shared: &mut Shared<'_>) {
        if !self.extended || self.state != State::Receiving {
            return;
        }
        for range in ranges {
            self.blocks.have(range.clone(), shared.pool);
        }
        self.beat.due = true;
        self.verify_if_whole(now, shared);
    }

    /// How it began.
    pub(super) fn via(&self) -> Via {
        self.offer.via
    }

    /// Whether it still waits for its first valid packet.
    pub(super) fn is_half_open(&self) -> bool {
        let waiting = matches!(self.state, State::Offered | State::Receiving);
        self.offer.via != Via::Pull && waiting && self.arrivals.count == 0
    }

    /// Whether it has brought nothing and waits for something, or lingers after it was refused: a newcomer may have its
    /// place in the table.
    pub(super) fn is_idle(&self) -> bool {
        let refused = self.is_over() && self.is_refused();
        self.is_half_open() || (refused && self.via() != Via::Pull && self.arrivals.count == 0)
    }

    /// Whether anything happened under its number that another session must not be mistaken for.
    pub(super) fn is_used(&self) -> bool {
        self.arrivals.count > 0 || matches!(self.verdict, Some((Ok(()), _)))
    }

    /// Another session took its place.
    pub(super) fn on_displaced(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if !self.is_over() {
            self.end(now, Err(Failure::Silent), shared);
        }
        self.close(shared);
    }

    /// Over for the user, though stragglers may still be answered.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Lingering | State::Closed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    pub(super) fn encrypted(&self) -> bool {
        self.opener.is_some()
    }

    /// A repeated SESSION_REQ: the same answer again.
    pub(super) fn on_repeat(&mut self, now: Instant) {
        self.heard = now;
        match self.state {
            State::Offered => {}
            State::Receiving => self.answer(now),
            State::Verifying | State::Complete { .. } | State::Lingering | State::Closed => {
                // Nothing had to come, or all was there: without the answer the verdict means nothing to the sender.
                let unheard = self.arrivals.count == 0 && !self.is_refused();
                let answer = self.accept.clone().filter(|_| unheard);
                if self.may_answer(now, REMIND_SPACING) {
                    self.outgoing.extend(answer);
                    self.outgoing.extend(self.verdict());
                }
            }
        }
    }

    fn is_refused(&self) -> bool {
        matches!(self.verdict, Some((Err(_), _)))
    }

    /// Answers the request; at most once in 20 ms, and never with more than three times what came (E1).
    fn answer(&mut self, now: Instant) {
        if !self.may_answer(now, ANSWER_SPACING) {
            return;
        }
        match &self.accept {
            Some(bytes) => {
                self.accepts = 1;
                self.outgoing.push_back(bytes.clone());
            }
            None => self.beat.due = true,
        }
    }

    /// Until the first packet a sealed session's sender may not have had the answer. Two more copies are still less
    /// than three times what the request weighed (E1); after that only a repeated request draws another.
    fn repeat_accept(&mut self, now: Instant) {
        let Some(bytes) = self.accept.as_ref().filter(|_| self.arrivals.count == 0) else {
            return;
        };
        self.beat.due = false;
        if self.accepts < 3 {
            self.accepts += 1;
            self.outgoing.push_back(bytes.clone());
            self.timers.set(Timer::Heartbeat, now + ACCEPT_AGAIN * 2);
        }
    }

    fn may_answer(&mut self, now: Instant, spacing: Duration) -> bool {
        let free = self
            .answered_at
            .is_none_or(|at| now.duration_since(at) >= spacing);
        if free {
            self.answered_at = Some(now);
        }
        free && self.outgoing.len() < OUTGOING
    }

    /// The application accepted the offer.
    pub(super) fn on_accept(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if self.state != State::Offered {
            return;
        }
        self.state = State::Receiving;
        let mut early = std::mem::take(&mut self.early);
        self.hand_up(&mut early, shared);
        self.answer(now);
        let first = match (&self.accept, self.offer.via) {
            (Some(_), _) => ACCEPT_AGAIN,
            // The daemon waits for it, and has answered us.
            (None, Via::Pull) => table_interval(0.0),
            (None, Via::Direct | Via::Push) => FIRST_BEATS,
        };
        self.timers.set(Timer::Heartbeat, now + first);
        if self.arrivals.count > 0 {
            self.timers.set(Timer::Progress, now + PROGRESS);
        }
        self.timers
            .set(Timer::Inactivity, now + self.inactivity(shared.config));
        self.verify_if_whole(now, shared);
    }

    /// The application ended the session.
    pub(super) fn on_abort(&mut self, now: Instant, reason: Reason, shared: &mut Shared<'_>) {
        // What is verified stays so.
        if self.is_over() || matches!(self.state, State::Complete { .. }) {
            return;
        }
        shared.rejects.count(reason);
        self.rule(Err(reason));
        self.end(now, Err(Failure::Aborted(reason)), shared);
    }

    /// The application verified the file and made it durable.
    pub(super) fn on_verified(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if self.state != State::Verifying {
            return;
        }
        self.state = State::Complete { resent: 0 };
        // The last heartbeat says that nothing is missing, which is what makes the completion believable.
        self.push_beat(now, shared);
        self.rule(Ok(()));
        self.timers.stop(Timer::Heartbeat);
        self.timers.stop(Timer::Inactivity);
        self.timers.set(
            Timer::Complete,
            now + self.complete_spacing(shared.config, 0),
        );
        let snapshot = self.snapshot(now);
        shared.events.push_back(Event::Finished {
            tag: self.tag,
            snapshot,
            result: Ok(()),
        });
    }

    /// Stored bytes make room for more; a sender that was told of little hears when there is plenty again.
    pub(super) fn on_stored(&mut self, len: usize, config: &Config) {
        self.unstored = self.unstored.saturating_sub(len);
        self.stored_since_beat += len as u64;
        if self.throttled && self.unstored <= config.unstored_memory / 8 {
            self.throttled = false;
            self.beat.due = self.extended && self.state == State::Receiving;
        }
    }

    /// A sender's own control packets: its completion (a later daemon's habit), its end, its refusal.
    pub(super) fn on_control(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) {
        let Some(payload) = exact(header, datagram) else {
            shared.counters.add(Counter::Malformed, 1);
            return;
        };
        match (header.kind, self.state) {
            (Kind::AckClose, State::Complete { .. }) => {
                if self.extended {
                    // The echo lets the sender go at once; ours then has nothing to wait for either.
                    self.close_ack();
                    self.state = State::Lingering;
                    self.timers
                        .set(Timer::Linger, now + Duration::from_millis(20));
                    self.timers.stop(Timer::Complete);
                } else {
                    self.linger(now, shared);
                }
            }
            (Kind::Complete, State::Complete { .. } | State::Lingering)
                if matches!(self.verdict, Some((Ok(()), _))) =>
            {
                if self.may_answer(now, REMIND_SPACING) {
                    self.close_ack();
                }
            }
            (Kind::Complete, State::Receiving | State::Verifying) => self.answer(now),
            (Kind::Reject, State::Offered | State::Receiving) => {
                let reason = Reason(payload.first().copied().unwrap_or(0));
                // A daemon of v5.0 may take our second PULL_REQ for another's (4.6.7).
                let again = matches!(reason, Reason::COLLISION | Reason::BUSY);
                if again && self.offer.via == Via::Pull && !self.extended {
                    shared.counters.add(Counter::Unexpected, 1);
                    return;
                }
                self.end(now, Err(Failure::Refused(reason)), shared);
            }
            _ => shared.counters.add(Counter::Unexpected, 1),
        }
    }

    pub(super) fn on_timeout(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if self.timers.expire(Timer::Heartbeat, now) {
            self.beat.due = true;
            self.repeat_accept(now);
        }
        if self.timers.expire(Timer::Progress, now) {
            self.timers.set(Timer::Progress, now + PROGRESS);
            let snapshot = self.snapshot(now);
            shared.events.push_back(Event::Progress {
                tag: self.tag,
                snapshot,
            });
        }
        if self.timers.expire(Timer::Inactivity, now) {
            if self.throttled {
                // It is silent because it was told that there is no room.
                self.heard = now;
            }
            let dead = self.heard + self.inactivity(shared.config);
            if dead <= now && self.is_half_open() {
                // Its sender may not have had the answer; when it asks again it is welcome.
                self.end(now, Err(Failure::Silent), shared);
                self.close(shared);
            } else if dead <= now {
                self.end(now, Err(Failure::Silent), shared);
            } else {
                self.timers.set(Timer::Inactivity, dead);
            }
        }
        if self.timers.expire(Timer::Complete, now)
            && let State::Complete { resent } = self.state
        {
            // Faster retries between two fulmars add up to the same patience.
            let limit = if self.extended {
                shared.config.complete_retries + 3
            } else {
                shared.config.complete_retries
            };
            if resent >= limit {
                self.linger(now, shared);
            } else {
                self.state = State::Complete { resent: resent + 1 };
                self.outgoing.extend(self.verdict());
                self.timers.set(
                    Timer::Complete,
                    now + self.complete_spacing(shared.config, resent + 1),
                );
            }
        }
        if self.timers.expire(Timer::Linger, now) {
            self.close(shared);
        }
    }

    fn close(&mut self, shared: &mut Shared<'_>) {
        self.state = State::Closed;
        self.timers = Timers::new();
        shared.events.push_back(Event::Closed { tag: self.tag });
    }

    /// Appends one datagram, if one is due.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        shared: &mut Shared<'_>,
    ) -> bool {
        while let Some(bytes) = self.outgoing.pop_front() {
            if self.ledger.say(bytes.len()) {
                self.choose_path(now);
                buf.extend_from_slice(&bytes);
                return true;
            }
        }
        let telling = matches!(self.state, State::Receiving | State::Verifying);
        if !std::mem::take(&mut self.beat.due) || !telling {
            return false;
        }
        let before = buf.len();
        self.choose_path(now);
        self.write_beat(now, buf, shared);
        let paid = self.ledger.say(buf.len() - before);
        if !paid {
            buf.truncate(before);
        }
        paid
    }

    /// Live paths in turn; and one that is not is shown to the sender from time to time.
    fn choose_path(&mut self, now: Instant) {
        if !self.paths.look(now, 0) {
            self.paths.next();
        }
    }

    /// Whether a packet that came by this path may be one of its peer's.
    pub(super) fn may_use(&self, path: Path) -> bool {
        self.paths.is_open() && self.paths.may_be(path)
    }

    /// Where what was polled goes.
    pub(super) fn path(&self) -> Path {
        self.paths.current()
    }

    /// Its sender has another address now.
    pub(super) fn on_moved(&mut self, peer: SocketAddr) {
        self.peer = peer;
        self.paths.move_to(peer);
    }

    pub(super) fn is_proved(&self) -> bool {
        self.ledger.is_proved()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if !self.outgoing.is_empty() || self.beat.due {
            return Some(self.started);
        }
        self.timers.next().map(|(at, _)| at)
    }

    /// Everything is there, and what it must be is known.
    pub(super) fn verify_if_whole(&mut self, now: Instant, shared: &mut Shared<'_>) {
        let Some(hash) = self.offer.hash else { return };
        if self.state != State::Receiving || !self.blocks.complete() {
            return;
        }
        self.state = State::Verifying;
        self.timers.stop(Timer::Inactivity);
        self.beat.due = true;
        self.timers.set(Timer::Heartbeat, now + table_interval(0.0));
        shared.events.push_back(Event::Received {
            tag: self.tag,
            hash,
        });
    }

    fn end(&mut self, now: Instant, result: Result<(), Failure>, shared: &mut Shared<'_>) {
        let snapshot = Snapshot {
            phase: Phase::Lingering,
            ..self.snapshot(now)
        };
        shared.events.push_back(Event::Finished {
            tag: self.tag,
            snapshot,
            result,
        });
        self.linger(now, shared);
    }

    fn linger(&mut self, now: Instant, shared: &mut Shared<'_>) {
        self.blocks.clear(shared.pool);
        self.early = Vec::new();
        self.opener = None;
        self.state = State::Lingering;
        self.timers = Timers::new();
        self.beat.due = false;
        self.timers.set(Timer::Linger, now + shared.config.linger);
    }

    /// How it ended, as the packet that says so, always the same; `None` while it has not, or when nobody need know.
    pub(super) fn verdict(&self) -> Option<Vec<u8>> {
        self.verdict.as_ref().map(|(_, bytes)| bytes.clone())
    }

    /// Settles how it ended, and says so.
    fn rule(&mut self, verdict: Result<(), Reason>) {
        let signer = self.control.as_mut().map(|it| &mut it.signer);
        let bytes = match verdict {
            Ok(()) => signed(Kind::Complete, self.id, &[], signer),
            Err(reason) => signed(Kind::Reject, self.id, &[reason.0], signer),
        };
        self.outgoing.push_back(bytes.clone());
        self.verdict = Some((verdict, bytes));
    }

    /// A straggler shows that the sender does not know how it ended: tell it again, seldom.
    pub(super) fn remind(&mut self, now: Instant) {
        let Some(bytes) = self.verdict() else { return };
        if self.may_answer(now, REMIND_SPACING) {
            self.outgoing.push_back(bytes);
        }
    }

    fn inactivity(&self, config: &Config) -> Duration {
        // A sender that finds its receiver silent looks for it this long: to be gone by then would be a waste (10).
        let probing = config.probe_timeout + 4 * config.probe_interval;
        config
            .inactivity
            .max(table_interval(self.beat.delivery) * 5)
            .max(probing)
    }

    fn complete_spacing(&self, config: &Config, resent: u32) -> Duration {
        if self.extended {
            (config.complete_spacing / 8 * (1 << resent.min(3))).min(config.complete_spacing)
        } else {
            config.complete_spacing
        }
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            phase: match self.state {
                State::Offered => Phase::Connecting,
                State::Receiving => Phase::Transferring,
                State::Verifying => Phase::Verifying,
                State::Complete { .. } | State::Lingering | State::Closed => Phase::Lingering,
            },
            size: self.offer.size,
            done: self.blocks.bytes_in(),
            elapsed: now.duration_since(self.started),
            goodput: Bitrate::from_bytes_per_sec(self.beat.smooth as u64),
            loss: f64::from(self.beat.loss) / 10_000.0,
            data: self.data,
            parities: self.parities,
            repaired: self.blocks.rebuilt(),
            retransmitted: self.blocks.late(),
            duplicates: self.duplicates,
            encrypted: self.offer.key.is_some(),
            ..Snapshot::default()
        }
    }
}

/// Spacing of heartbeats before the first valid packet: they go to an address that proved nothing (19.5).
const FIRST_BEATS: Duration = Duration::from_secs(1);
/// Spacing of the first repetition of SESSION_ACCEPT.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);
/// Answers to repeated requests are not sent more often.
const ANSWER_SPACING: Duration = Duration::from_millis(20);
/// Nor are answers to stragglers, after the end.
pub(super) const REMIND_SPACING: Duration = Duration::from_millis(100);
/// How often the application hears.
const PROGRESS: Duration = Duration::from_millis(100);
/// Control packets that may wait.
const OUTGOING: usize = 8;
