//! The receiving half of one session: from SESSION_REQ to the end of its linger (3.2, 4, 7, 10, 11).
//!
//! Packets are opened in place, chunks go to [`Blocks`], whole blocks go up, heartbeats go back. It does *not* touch
//! files: the application stores, verifies and says so.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::blocks::{Arrival, Blocks, Run};
use super::config::{BLOCK, CHUNK_PLAIN, CHUNK_SEALED, Config, DATAGRAM_MAX, HEADER, Layout, TAG};
use super::packet::{
    EXTENSION_MAX, Extension, Feedback, Header, Heartbeat, Kind, SessionReq, control, exact,
    feature, flag,
};
use super::session::{Counter, Ledger, Shared, Timer, table_interval};
use super::{Event, Failure, Phase, Reason, Snapshot, Tag, blocks, keys};
use crate::crypto::{Opener, Secret};
use crate::engine::{Bitrate, Timers};

/// One file on its way in.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) tag: Tag,
    pub(super) peer: SocketAddr,
    id: u32,
    request: SessionReq,
    layout: Layout,
    /// The sender reads our extension block.
    extended: bool,
    state: State,
    opener: Option<Opener>,
    /// SESSION_ACCEPT, resent verbatim to a repeated request (4.6).
    accept: Option<Vec<u8>>,
    chunk: usize,
    blocks: Blocks,
    timers: Timers<Timer>,
    outgoing: VecDeque<Vec<u8>>,
    ledger: Ledger,
    started: Instant,
    arrivals: Arrivals,
    beat: Beat,
    train: Train,
    /// File bytes that came before the application accepted; a block's worth.
    early: Vec<Run>,
    unstored: usize,
    stored_since_beat: u64,
    duplicates: u64,
    parities: u64,
    data: u64,
    answered_at: Option<Instant>,
    /// How it ended, as far as the sender should know.
    verdict: Option<Result<(), Reason>>,
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

/// What came, counted for feedback.
#[derive(Debug)]
struct Arrivals {
    count: u64,
    /// When the last of them came; and the last one of all, though there may have been no room for it.
    last: Instant,
    seen: Instant,
    /// Stamp of the packet that came last, and the highest one with its time.
    echo: u64,
    highest: u64,
    highest_at: Instant,
    /// New file bytes, rebuilt ones included, since the last heartbeat.
    fresh: u64,
}

/// The heartbeat in the making.
#[derive(Debug)]
struct Beat {
    due: bool,
    last: Instant,
    /// New file bytes a second over the last interval, and smoothed over about ten.
    delivery: f64,
    smooth: f64,
    loss: u16,
    /// Where the next list of missing chunks starts, so that a list too long for one heartbeat is told whole.
    cursor: u64,
    /// Bytes of the last one.
    len: usize,
    /// Nothing had come since the one before.
    idle: bool,
}

/// The calibration burst as it came (4.7).
#[derive(Debug, Default)]
struct Train {
    /// Chunk and arrival of the first and the latest packet.
    first: Option<(u64, Instant)>,
    last: Option<(u64, Instant)>,
    count: u64,
    ended: bool,
}

impl Receiver {
    /// A session for a request that was found valid. `secret` is this side's fresh key.
    pub(super) fn new(
        now: Instant,
        tag: Tag,
        peer: SocketAddr,
        id: u32,
        request: SessionReq,
        secret: &Secret,
        shared: &mut Shared<'_>,
    ) -> Result<Self, Failure> {
        let mut opener = None;
        let mut accept = None;
        let extended = shared.config.extensions && request.extension.is_some();
        if let Some(key) = &request.key {
            opener = Some(keys::opener(secret, key, id).ok_or(Failure::BadKey)?);
            let mut bytes = control(Kind::SessionAccept, id, &secret.public(), flag::SEALED);
            if extended {
                extension(shared.config, None).encode(&mut bytes);
            }
            accept = Some(bytes);
        }
        let chunk = if opener.is_some() {
            CHUNK_SEALED
        } else {
            CHUNK_PLAIN
        };
        let dialect = if request.nul_counted {
            Layout::Reference
        } else {
            Layout::Text
        };
        let mut timers = Timers::new();
        timers.set(Timer::Inactivity, now + shared.config.inactivity);
        let it = Self {
            tag,
            peer,
            id,
            layout: shared.config.layout.unwrap_or(dialect),
            extended,
            state: State::Offered,
            opener,
            accept,
            chunk,
            blocks: Blocks::new(request.size, chunk),
            request,
            timers,
            outgoing: VecDeque::new(),
            ledger: Ledger::default(),
            started: now,
            arrivals: Arrivals {
                count: 0,
                last: now,
                seen: now,
                echo: 0,
                highest: 0,
                highest_at: now,
                fresh: 0,
            },
            beat: Beat {
                due: false,
                last: now,
                delivery: 0.0,
                smooth: 0.0,
                loss: 0,
                cursor: 0,
                len: 0,
                idle: true,
            },
            train: Train::default(),
            early: Vec::new(),
            unstored: 0,
            stored_since_beat: 0,
            duplicates: 0,
            parities: 0,
            data: 0,
            answered_at: None,
            verdict: None,
            accepts: 0,
        };
        shared.events.push_back(Event::Offered {
            tag,
            from: peer,
            name: it.request.name.clone(),
            size: it.request.size,
            hash: it.request.hash,
            encrypted: it.opener.is_some(),
        });
        Ok(it)
    }

    /// A datagram of so many bytes came from the peer's address, whatever is in it.
    pub(super) fn hear(&mut self, len: usize) {
        self.ledger.hear(len);
    }

    /// Whether a request is the one this session came from, sent again (4.1).
    pub(super) fn is_repeat(&self, request: &SessionReq) -> bool {
        self.request == *request
    }

    /// Whether it still waits for its first valid packet.
    pub(super) fn is_half_open(&self) -> bool {
        let waiting = matches!(self.state, State::Offered | State::Receiving);
        waiting && self.arrivals.count == 0
    }

    /// Whether anything happened under its number that another session must not be mistaken for.
    pub(super) fn is_used(&self) -> bool {
        self.arrivals.count > 0 || self.verdict.is_some()
    }

    /// Another session took its place.
    pub(super) fn on_displaced(&mut self, now: Instant, shared: &mut Shared<'_>) {
        self.end(now, Err(Failure::Silent), shared);
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
        match self.state {
            State::Offered => {}
            State::Receiving => self.answer(now),
            State::Verifying | State::Complete { .. } | State::Lingering | State::Closed => {
                self.remind(now)
            }
        }
    }

    /// Answers the request; at most once in 100 ms, whatever comes.
    fn answer(&mut self, now: Instant) {
        if !self.may_answer(now) {
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

    fn may_answer(&mut self, now: Instant) -> bool {
        let free = self
            .answered_at
            .is_none_or(|at| now.duration_since(at) >= ANSWER_SPACING);
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
        let first = if self.accept.is_some() {
            ACCEPT_AGAIN
        } else {
            FIRST_BEATS
        };
        self.timers.set(Timer::Heartbeat, now + first);
        if self.arrivals.count > 0 {
            self.timers.set(Timer::Progress, now + PROGRESS);
        }
        self.timers
            .set(Timer::Inactivity, now + self.inactivity(shared.config));
        if self.blocks.complete() {
            self.verify(now, shared);
        }
    }

    /// The application ended the session.
    pub(super) fn on_abort(&mut self, now: Instant, reason: Reason, shared: &mut Shared<'_>) {
        if self.is_over() {
            return;
        }
        self.outgoing
            .push_back(control(Kind::Reject, self.id, &[reason.0], 0));
        self.verdict = Some(Err(reason));
        self.end(now, Err(Failure::Aborted(reason)), shared);
    }

    /// The application verified the file and made it durable.
    pub(super) fn on_verified(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if self.state != State::Verifying {
            return;
        }
        self.state = State::Complete { resent: 0 };
        self.verdict = Some(Ok(()));
        // The last heartbeat says that nothing is missing, which is what makes the completion believable.
        self.push_beat(now, shared);
        self.outgoing
            .push_back(control(Kind::Complete, self.id, &[], 0));
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

    /// Stored bytes make room for more.
    pub(super) fn on_stored(&mut self, len: usize) {
        self.unstored = self.unstored.saturating_sub(len);
        self.stored_since_beat += len as u64;
    }

    /// DATA or PARITY. `datagram` is the whole of it; opened in place. `false` when it is not authentic or makes no
    /// sense for this session.
    pub(super) fn on_packet(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &mut [u8],
        shared: &mut Shared<'_>,
    ) -> bool {
        match self.state {
            State::Offered | State::Receiving => {}
            State::Verifying | State::Complete { .. } => {
                shared.counters.add(Counter::Late, 1);
                // Late or not: what is not authentic moves no session to another address.
                let authentic = self.open(header, datagram).is_some();
                if authentic {
                    self.remind(now);
                }
                return authentic;
            }
            State::Lingering => {
                shared.counters.add(Counter::Late, 1);
                self.remind(now);
                return false;
            }
            State::Closed => return false,
        }
        let Some(body) = self.open(header, datagram) else {
            shared.counters.add(Counter::Refused, 1);
            return false;
        };
        if self.opener.is_some() {
            self.ledger.prove();
        }
        self.arrivals.seen = now;
        if self.unstored > shared.config.unstored_memory || !self.early.is_empty() {
            // Storage is behind, or the application has not decided. What is dropped here is asked for again, and its absence slows the sender.
            shared.counters.add(Counter::Backpressure, 1);
            return true;
        }
        self.note(now, header);
        let mut runs = std::mem::take(shared.runs);
        let arrival = match header.kind {
            Kind::Parity => {
                self.parities += 1;
                self.blocks.parity(
                    now,
                    header.block,
                    header.seq as u8,
                    body,
                    shared.pool,
                    &mut runs,
                )
            }
            _ => {
                self.data += 1;
                self.blocks
                    .data(now, header.seq, body, shared.pool, &mut runs)
            }
        };
        match arrival {
            Arrival::New(bytes) => self.arrivals.fresh += bytes,
            Arrival::Duplicate => self.duplicates += 1,
            Arrival::Refused => shared.counters.add(Counter::Refused, 1),
        }
        if self.state == State::Offered {
            self.early.append(&mut runs);
        } else {
            self.hand_up(&mut runs, shared);
        }
        *shared.runs = runs;
        if self.blocks.complete() && self.state == State::Receiving {
            self.verify(now, shared);
        }
        true
    }

    fn hand_up(&mut self, runs: &mut Vec<Run>, shared: &mut Shared<'_>) {
        for Run { offset, bytes } in runs.drain(..) {
            self.unstored += bytes.len();
            shared.events.push_back(Event::Chunk {
                tag: self.tag,
                offset,
                bytes,
            });
        }
    }

    /// Checks a packet against the session and opens it; the plaintext, if it is one of ours (2.4).
    fn open<'a>(&self, header: &Header, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
        let total = self.blocks.total();
        let want = match header.kind {
            Kind::Parity => {
                let last = total.checked_sub(1)? / BLOCK;
                if header.block > last || header.seq > 255 - blocks::k(total, header.block) {
                    return None;
                }
                self.chunk
            }
            _ => {
                if header.seq >= total || header.block != header.seq / BLOCK {
                    return None;
                }
                self.blocks.chunk_len(header.seq)
            }
        };
        let (head, body) = datagram.split_at_mut_checked(HEADER)?;
        match &self.opener {
            None if header.sealed() => None,
            None => (usize::from(header.len) == want).then(|| body.get(..want))?,
            // Without the flag it would be a plaintext injected into a sealed session (2.4).
            Some(_) if !header.sealed() => None,
            Some(opener) => {
                if header.sealed_plaintext_len(body.len())? != want {
                    return None;
                }
                let sealed = body.get_mut(..want + TAG)?;
                opener
                    .open(keys::nonce(header), head, sealed)
                    .map(|plain| &*plain)
            }
        }
    }

    /// Books an authentic packet for feedback and timers.
    fn note(&mut self, now: Instant, header: &Header) {
        let first = self.arrivals.count == 0;
        self.arrivals.count += 1;
        self.arrivals.last = now;
        if header.stamp != 0 {
            self.arrivals.echo = header.stamp;
            if header.stamp > self.arrivals.highest {
                self.arrivals.highest = header.stamp;
                self.arrivals.highest_at = now;
            }
        }
        let train = &mut self.train;
        if header.flags & flag::CALIBRATION != 0 && !train.ended {
            train.count += 1;
            train.first.get_or_insert((header.seq, now));
            train.last = Some((header.seq, now));
            if train.count == TRAIN {
                train.ended = true;
                self.beat.due = self.state == State::Receiving;
            }
        } else if !train.ended && header.kind == Kind::Data {
            train.ended = true;
            self.beat.due = self.state == State::Receiving;
        }
        if self.state == State::Receiving && first {
            self.timers.set(Timer::Progress, now + PROGRESS);
        }
        if self.state == State::Receiving && (first || self.beat.idle) {
            self.beat.idle = false;
            let at = self.beat.last.max(now) + self.interval();
            let sooner = self
                .timers
                .when(Timer::Heartbeat)
                .is_none_or(|due| at < due);
            if sooner {
                self.timers.set(Timer::Heartbeat, at);
            }
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
                    self.outgoing
                        .push_back(control(Kind::AckClose, self.id, &[], 0));
                    self.state = State::Lingering;
                    self.timers
                        .set(Timer::Linger, now + Duration::from_millis(20));
                    self.timers.stop(Timer::Complete);
                } else {
                    self.linger(now, shared);
                }
            }
            (Kind::Complete, State::Complete { .. } | State::Lingering)
                if self.verdict == Some(Ok(())) =>
            {
                if self.may_answer(now) {
                    self.outgoing
                        .push_back(control(Kind::AckClose, self.id, &[], 0));
                }
            }
            (Kind::Complete, State::Receiving | State::Verifying) => self.answer(now),
            (Kind::Reject, State::Offered | State::Receiving) => {
                let reason = Reason(payload.first().copied().unwrap_or(0));
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
            let dead = self.arrivals.seen + self.inactivity(shared.config);
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
                self.outgoing
                    .push_back(control(Kind::Complete, self.id, &[], 0));
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
                buf.extend_from_slice(&bytes);
                return true;
            }
        }
        if !std::mem::take(&mut self.beat.due)
            || !matches!(self.state, State::Receiving | State::Verifying)
        {
            return false;
        }
        let before = buf.len();
        self.write_beat(now, buf, shared);
        let may = self.ledger.say(buf.len() - before);
        if !may {
            buf.truncate(before);
        }
        may
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if !self.outgoing.is_empty() || self.beat.due {
            return Some(self.started);
        }
        self.timers.next().map(|(at, _)| at)
    }

    fn verify(&mut self, now: Instant, shared: &mut Shared<'_>) {
        self.state = State::Verifying;
        self.timers.stop(Timer::Inactivity);
        self.beat.due = true;
        self.timers.set(Timer::Heartbeat, now + table_interval(0.0));
        shared.events.push_back(Event::Received { tag: self.tag });
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

    /// How it ended, as the packet that says so; `None` while it has not, or when nobody need know.
    pub(super) fn verdict(&self) -> Option<Vec<u8>> {
        Some(match self.verdict? {
            Ok(()) => control(Kind::Complete, self.id, &[], 0),
            Err(reason) => control(Kind::Reject, self.id, &[reason.0], 0),
        })
    }

    /// A straggler shows that the sender does not know how it ended: tell it again, seldom.
    fn remind(&mut self, now: Instant) {
        let Some(bytes) = self.verdict() else { return };
        if self.may_answer(now) {
            self.outgoing.push_back(bytes);
        }
    }

    fn push_beat(&mut self, now: Instant, shared: &mut Shared<'_>) {
        let mut bytes = Vec::with_capacity(128);
        self.write_beat(now, &mut bytes, shared);
        self.outgoing.push_back(bytes);
    }

    fn write_beat(&mut self, now: Instant, buf: &mut Vec<u8>, shared: &mut Shared<'_>) {
        let elapsed = now.duration_since(self.beat.last).as_secs_f64().max(1e-4);
        let fresh = std::mem::take(&mut self.arrivals.fresh);
        self.beat.delivery = fresh as f64 / elapsed;
        let weight = (elapsed / 0.02).min(1.0);
        self.beat.smooth += (self.beat.delivery - self.beat.smooth) * weight;
        let flush = std::mem::take(&mut self.stored_since_beat) as f64 / elapsed;
        self.beat.idle = fresh == 0;
        self.beat.last = now;
        if let Some(loss) = self.blocks.take_loss() {
            self.beat.loss = loss;
        }
        let contiguous = self.blocks.contiguous();
        let nacks = if self.state == State::Receiving {
            self.missing(now, contiguous)
        } else {
            Vec::new()
        };
        let beat = Heartbeat {
            delivery: saturate(self.beat.delivery),
            flush: saturate(flush),
            loss: self.beat.loss,
            echo: self.arrivals.echo,
            dispersion: self.train.dispersion(),
            contiguous: contiguous.saturating_sub(1),
            nacks,
            // Before anything has come there is nothing to feed back, and every byte counts (E1).
            extension: self.extended.then(|| {
                let feedback = (self.arrivals.count > 0).then(|| self.feedback(now));
                extension(shared.config, feedback)
            }),
        };
        let before = buf.len();
        beat.encode(self.id, self.layout, buf);
        self.beat.len = buf.len() - before;
        if matches!(self.state, State::Receiving | State::Verifying) {
            let next = if self.arrivals.count == 0 {
                FIRST_BEATS
            } else {
                self.interval()
            };
            self.timers.set(Timer::Heartbeat, now + next);
        }
    }

    fn missing(&mut self, now: Instant, contiguous: u64) -> Vec<u64> {
        let mut list = Vec::new();
        let interval = self.interval();
        let fixed = HEADER + 36 + if self.extended { EXTENSION_MAX } else { 0 };
        let limit = self.ledger.room().min(DATAGRAM_MAX).saturating_sub(fixed) / 8;
        if !self.extended {
            self.blocks
                .missing(now, contiguous, interval * 2, limit, &mut list);
            return list;
        }
        let quiet = (interval * 2).max(QUIET);
        let from = self.beat.cursor.max(contiguous);
        self.blocks.missing(now, from, quiet, limit, &mut list);
        if list.len() < limit && from > contiguous {
            let mut wrapped = Vec::new();
            self.blocks
                .missing(now, contiguous, quiet, limit - list.len(), &mut wrapped);
            list.extend(wrapped.into_iter().take_while(|seq| *seq < from));
        }
        self.beat.cursor = list.last().map_or(0, |seq| seq + 1);
        list
    }

    fn feedback(&self, now: Instant) -> Feedback {
        let held = now.duration_since(self.arrivals.highest_at).as_micros();
        Feedback {
            received: self.arrivals.count,
            at: u64::try_from(self.arrivals.last.duration_since(self.started).as_nanos())
                .unwrap_or(u64::MAX),
            highest: self.arrivals.highest,
            held: u32::try_from(held).unwrap_or(u32::MAX),
        }
    }

    /// Time to the next heartbeat: the table's (7.1); between two fulmars as short as one 64th of the arriving
    /// bytes pays for, and not shorter than a millisecond.
    fn interval(&self) -> Duration {
        let table = table_interval(self.beat.delivery);
        if !self.extended || self.beat.idle && self.beat.smooth < 1.0 {
            return table;
        }
        let cost = (self.beat.len.max(HEADER + 36) + 28) as f64;
        let pays = Duration::try_from_secs_f64(FEEDBACK_COST * cost / self.beat.smooth.max(1.0))
            .unwrap_or(table);
        pays.clamp(Duration::from_millis(1), table)
    }

    fn inactivity(&self, config: &Config) -> Duration {
        config
            .inactivity
            .max(table_interval(self.beat.delivery) * 5)
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
            size: self.request.size,
            done: self.blocks.bytes_in(),
            elapsed: now.duration_since(self.started),
            goodput: Bitrate::from_bytes_per_sec(self.beat.smooth as u64),
            loss: f64::from(self.beat.loss) / 10_000.0,
            data: self.data,
            parities: self.parities,
            repaired: self.blocks.rebuilt(),
            retransmitted: self.blocks.late(),
            duplicates: self.duplicates,
            encrypted: self.request.key.is_some(),
            ..Snapshot::default()
        }
    }
}

impl Train {
    /// Time the whole burst took or would have taken: what lies between the first and the last packet that came,
    /// scaled to the chunks lost before and behind them. 0 when fewer than two came in order.
    fn dispersion(&self) -> u64 {
        let (Some((from, first)), Some((to, last))) = (self.first, self.last) else {
            return 0;
        };
        if to <= from || !self.ended {
            return 0;
        }
        let nanos =
            last.duration_since(first).as_nanos() * u128::from(TRAIN - 1) / u128::from(to - from);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

fn extension(config: &Config, feedback: Option<Feedback>) -> Extension {
    Extension {
        features: feature::ALL,
        socket_datagrams: config.socket_datagrams,
        feedback,
    }
}

fn saturate(rate: f64) -> u32 {
    rate.min(f64::from(u32::MAX)) as u32
}

/// Packets of a calibration burst (4.7).
const TRAIN: u64 = 10;
/// Spacing of heartbeats before the first valid packet: they go to an address that proved nothing (19.5).
const FIRST_BEATS: Duration = Duration::from_secs(1);
/// Spacing of the first repetition of SESSION_ACCEPT.
const ACCEPT_AGAIN: Duration = Duration::from_millis(150);
/// Answers to repeated requests and stragglers are not sent more often.
const ANSWER_SPACING: Duration = Duration::from_millis(100);
/// How often the application hears.
const PROGRESS: Duration = Duration::from_millis(100);
/// A block quiet for this long, at least, is asked for again although its successors have not come.
const QUIET: Duration = Duration::from_millis(10);
/// One heartbeat byte per this many arriving ones.
const FEEDBACK_COST: f64 = 64.0;
/// Control packets that may wait.
const OUTGOING: usize = 8;
