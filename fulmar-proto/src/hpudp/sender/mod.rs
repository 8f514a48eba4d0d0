//! The sending half of one session: from SESSION_REQ to the end of its linger (4, 6, 7, 9, 10, 11).
//!
//! The application supplies the file in whole blocks, ahead of need; blocks stay in the window as plaintext with
//! the stamps of their packets until the receiver has them, so that a repair is the same bytes again, sealed to the
//! same ciphertext, and never a second reading of the file (19.1). It does *not* read files, hash, or choose rates:
//! [`rate`](super::rate) and [`parity`](super::parity) do that.

mod flights;
mod heartbeat;
mod opening;
mod transmit;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(super) use opening::Start;

use flights::Flight;

use super::config::{BLOCK, Layout, WINDOW_BLOCKS, WINDOW_BLOCKS_EXTENDED};
use super::feedback::{Feedback, Marks};
use super::keys::{Control, Keys, Role};
use super::packet::{Extension, Header, Kind, exact, signed};
use super::paths::{Path, Paths};
use super::rate::Controller;
use super::session::{Counter, Shared, Timer};
use super::{Event, Failure, Phase, Reason, Request, Snapshot, Tag, Via, blocks};
use crate::crypto::{Sealer, Secret};
use crate::engine::{
    Bitrate, Ledger, Pacer, RangeSet, ReplayWindow, RttEstimator, SendWindow, Timers,
};
use crate::fec::BlockEncoder;

/// One file on its way out.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) tag: Tag,
    pub(super) peer: SocketAddr,
    paths: Paths<Flight>,
    /// Signed packets that came, once there may be several paths: a copy of one shows no path.
    seen: Option<ReplayWindow>,
    id: u32,
    request: Request,
    /// SESSION_REQ or PUSH_REQ, resent verbatim (4.6); empty when nothing need be asked any more.
    asked: Vec<u8>,
    /// What an address that asked for a file, and has shown nothing yet, may draw (19.5.4).
    gate: Option<Ledger>,
    /// PULL_REQ as it came.
    wish: Vec<u8>,
    /// The static key the receiver proves to hold.
    identity: Option<[u8; 32]>,
    control: Option<Control>,
    /// Blocks asked of the application that it has not supplied.
    awaited: VecDeque<u64>,
    /// Blocks the receiver had before the session.
    had: RangeSet,
    retry: Duration,
    /// Copies of it that left.
    asks: u32,
    /// A refusal that one of the later copies may have drawn (4.6.7).
    doubt: Option<Reason>,
    /// The request has an extension block; and it has to begin anew without, under another number (18.4.5).
    extends: bool,
    anew: bool,
    secret: Option<Secret>,
    sealer: Option<Sealer>,
    /// The key in the receiver's answer.
    peer_key: Option<[u8; 32]>,
    /// Packets sent before the receiver started over.
    unheard_from: u64,
    state: State,
    /// The receiver answered; with which extension block.
    answered: bool,
    /// And showed that it got something of ours: a key it answered with a key, or a stamp it echoed.
    proved: bool,
    extension: Option<Extension>,
    layout: Option<Layout>,
    chunk: usize,
    total: u64,
    window: SendWindow<Sent>,
    spare: Vec<Vec<u8>>,
    /// Next block to ask the application for.
    wanted: u64,
    /// Next chunk to send for the first time.
    next: u64,
    /// Chunks known to be at the receiver, from the first on without a hole.
    contiguous: u64,
    repairs: RangeSet,
    /// Chunks to send again once more (6.7).
    copies: VecDeque<u64>,
    /// Repairs sent since the last new packet.
    streak: u32,
    parities: VecDeque<(u64, u8)>,
    encoder: BlockEncoder,
    tail_encoder: Option<BlockEncoder>,
    marks: Marks,
    feedback: Feedback,
    controller: Controller,
    pacer: Pacer,
    /// Set from outside; above it nothing leaves, whatever the controller says.
    cap: Option<Bitrate>,
    rtt: RttEstimator,
    parity_now: u8,
    timers: Timers<Timer>,
    outgoing: VecDeque<Vec<u8>>,
    /// When `poll_transmit` may have something again; `None` while only a heartbeat or the application can tell.
    wake: Option<Instant>,
    /// Between batches of repairs at the end, under the published rules.
    repair_gate: Option<Instant>,
    probe_due: bool,
    /// The receiver's address changed: the last stamp issued before. Only a later one, echoed, shows that the receiver
    /// is there; until then one packet at a time looks for it.
    moved_at: Option<u64>,
    /// Where it was last known to be, and when a packet last looked for it elsewhere.
    home: SocketAddr,
    looked_at: Option<Instant>,
    /// When the receiver's completion first came without a heartbeat that bears it out.
    doubtful_since: Option<Instant>,
    started: Instant,
    heard: Option<Instant>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No data before SESSION_ACCEPT.
    Requesting,
    Streaming,
    /// The receiver is silent; one packet every half second looks for it.
    Probing,
    Lingering,
    Closed,
}

/// A block in the window.
#[derive(Debug, Default)]
struct Sent {
    /// k chunks, the last one padded with zeros; none if the receiver had the block before the session.
    bytes: Vec<u8>,
    /// Stamp of each chunk's packet; 0 before it was sent.
    stamps: Vec<u64>,
    /// Stamp under which each chunk would have left last, had it not kept its first; 0 if it left once.
    resent: Vec<u64>,
    /// The same of the last packet of the block, parity too.
    last: u64,
    /// Parity indices used; each is sealed once.
    parity_used: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    data: u64,
    parities: u64,
    retransmitted: u64,
}

impl Sender {
    /// A datagram of so many bytes came from the peer's address.
    pub(super) fn hear(&mut self, now: Instant, len: usize) {
        if let Some(gate) = &mut self.gate {
            gate.hear(len);
            self.wake = Some(now);
        }
    }

    /// The daemon wants the rest at another port.
    pub(super) fn on_port(&mut self, peer: SocketAddr) {
        self.peer = peer;
        self.paths.move_to(peer);
        self.home = peer;
    }

    /// Whether it is a push that began at this address, wherever the daemon wants the rest (4.5.4).
    pub(super) fn was_asked_at(&self, address: SocketAddr) -> bool {
        self.request.via == Via::Push && self.request.to == address
    }

    /// Whether a request for a file is the one this session answers.
    pub(super) fn is_repeat(&self, datagram: &[u8]) -> bool {
        self.wish == datagram
    }

    /// Whether a peer asked for it.
    pub(super) fn is_served(&self) -> bool {
        self.request.via == Via::Pull
    }

    /// Whether the peer was chosen by this side, or has proved where it is.
    pub(super) fn is_proved(&self) -> bool {
        self.gate.is_none()
    }

    /// Whether who asked for it has shown nothing yet.
    pub(super) fn is_half_open(&self) -> bool {
        !self.is_proved() && !self.is_over()
    }

    /// Another session took its place.
    pub(super) fn on_displaced(&mut self, now: Instant, shared: &mut Shared<'_>) {
        self.end(now, Err(Failure::Silent), shared);
        self.close(shared);
    }

    /// The same request for a file again: its sender may not have had the answer.
    pub(super) fn on_repeat(&mut self) {
        if self.gate.is_some() && self.outgoing.is_empty() {
            self.outgoing.push_back(self.asked.clone());
        }
    }

    /// Whether a control packet comes from the peer, as far as the session can tell (18.7.4).
    pub(super) fn is_genuine(&mut self, now: Instant, path: Path, datagram: &[u8]) -> bool {
        let Some(control) = &mut self.control else {
            return true;
        };
        let Some(count) = control.count(datagram) else {
            return false;
        };
        if self.gate.take().is_some() {
            // Its key took a number that we sent there.
            self.wake = Some(now);
        }
        if self.seen.as_mut().is_some_and(|seen| seen.accept(count)) {
            self.paths.hear(now, path, datagram.len());
        }
        true
    }

    /// Whether a packet that came by this path may be one of its peer's.
    pub(super) fn may_use(&self, path: Path) -> bool {
        self.paths.is_open() && self.paths.may_be(path)
    }

    /// Where what was polled goes.
    pub(super) fn path(&self) -> Path {
        self.paths.current()
    }

    fn install(&mut self, keys: &Keys, shared: &Shared<'_>) {
        self.sealer = keys.sealer();
        self.control = keys.control(Role::Sender);
        if shared.guard
            && let Some(sealer) = &mut self.sealer
        {
            sealer.guard();
        }
    }

    fn say(&mut self, kind: Kind, payload: &[u8]) {
        let signer = self.control.as_mut().map(|it| &mut it.signer);
        self.outgoing
            .push_back(signed(kind, self.id, payload, signer));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Lingering | State::Closed)
    }

    /// Sends no faster than `cap` from now on.
    pub(super) fn set_cap(&mut self, now: Instant, cap: Option<Bitrate>) {
        if self.cap != cap {
            self.cap = cap;
            self.controller
                .set_max(cap.map_or(f64::INFINITY, |cap| cap.bytes_per_sec() as f64));
            self.pace(now);
            // Whatever it waited for was reckoned at another rate.
            self.wake = self.wake.map(|wake| wake.min(now));
        }
    }

    /// Takes over the controller's rate.
    fn pace(&mut self, now: Instant) {
        let rate = Bitrate::from_bytes_per_sec(self.controller.rate() as u64);
        self.pacer
            .set_rate(now, self.cap.map_or(rate, |cap| rate.min(cap)));
    }

    fn all_sent(&self) -> bool {
        self.next >= self.total
    }

    /// Blocks that may wait for the receiver's word (9.1).
    fn window_blocks(&self) -> u64 {
        match self.extension {
            Some(_) => WINDOW_BLOCKS_EXTENDED,
            None => WINDOW_BLOCKS,
        }
    }

    /// Asks the application for blocks, as far ahead as the window allows.
    fn ask(&mut self, shared: &mut Shared<'_>) {
        let block_bytes = BLOCK * self.chunk as u64;
        let end = self.total.div_ceil(BLOCK);
        // Who has shown nothing costs one block, however many there are of them.
        let ahead = self.gate.map_or(READ_AHEAD, |_| 1);
        loop {
            let front = self.contiguous / BLOCK;
            self.wanted = self.had.next_gap(self.wanted.max(front));
            if self.wanted >= end
                || self.wanted >= self.next / BLOCK + ahead
                || self.wanted - front >= self.window_blocks()
            {
                return;
            }
            let offset = self.wanted * block_bytes;
            let len = (self.request.size - offset).min(block_bytes) as usize;
            let buffer = self.spare.pop().unwrap_or_default();
            shared.events.push_back(Event::Want {
                tag: self.tag,
                offset,
                len,
                buffer,
            });
            self.awaited.push_back(self.wanted);
            self.wanted += 1;
        }
    }

    /// The application's answer. Bytes that were not asked for end the session: the file would arrive wrong.
    pub(super) fn on_supply(
        &mut self,
        now: Instant,
        offset: u64,
        mut bytes: Vec<u8>,
        shared: &mut Shared<'_>,
    ) {
        if self.is_over() {
            return;
        }
        let want = (self.request.size.saturating_sub(offset)).min(BLOCK * self.chunk as u64);
        let asked = self.awaited.pop_front();
        let Some(block) = asked.filter(|block| {
            offset == block * BLOCK * self.chunk as u64 && bytes.len() as u64 == want
        }) else {
            self.on_abort(now, Reason::INVALID, shared);
            return;
        };
        if block < self.window.base() {
            // It turned out to be there already.
            return;
        }
        while self.window.next() < block && self.window.push(Sent::default()).is_some() {}
        let k = blocks::k(self.total, block) as usize;
        bytes.resize(k * self.chunk, 0);
        let sent = Sent {
            bytes,
            stamps: vec![0; k],
            resent: vec![0; k],
            last: 0,
            parity_used: 0,
        };
        if self.window.push(sent).is_none() {
            self.on_abort(now, Reason::INVALID, shared);
        }
        self.wake = Some(now);
    }

    pub(super) fn on_abort(&mut self, now: Instant, reason: Reason, shared: &mut Shared<'_>) {
        if self.is_over() {
            return;
        }
        shared.rejects.count(reason);
        self.say(Kind::Reject, &[reason.0]);
        self.end(now, Err(Failure::Aborted(reason)), shared);
        self.timers
            .set(Timer::Linger, now + Duration::from_millis(20));
    }

    /// SESSION_ACCEPT, TRANSFER_COMPLETE, ACK_CLOSE and SESSION_REJECT.
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
            (Kind::SessionAccept, State::Requesting | State::Streaming | State::Probing) => {
                self.on_session_accept(now, payload, datagram, shared)
            }
            (Kind::Complete, State::Lingering) => {
                self.say(Kind::AckClose, &[]);
                self.outgoing.truncate(4);
            }
            (Kind::Complete | Kind::AckClose, State::Streaming | State::Probing) => {
                self.on_complete(now, shared)
            }
            (Kind::AckClose, State::Lingering) => self.close(shared),
            (Kind::Reject, State::Requesting | State::Streaming | State::Probing) => {
                let reason = Reason(payload.first().copied().unwrap_or(0));
                self.on_reject(now, reason, shared);
            }
            _ => shared.counters.add(Counter::Unexpected, 1),
        }
    }

    /// SESSION_REJECT, which may be the answer to a copy of the request that a peer of v5.0 took for another (4.6.7).
    fn on_reject(&mut self, now: Instant, reason: Reason, shared: &mut Shared<'_>) {
        // A mismatch can only be known once everything was sent (19.4).
        let early = reason == Reason::HASH_MISMATCH && !self.all_sent();
        // A receiver that answered has this session and no other; one that knows repeated requests may still find
        // that it has no room.
        let copied = self.asks > 1 && self.extension.is_none();
        let again = match reason {
            Reason::COLLISION => true,
            Reason::BUSY => copied && self.request.via == Via::Push,
            _ => false,
        };
        if early || again && (self.answered || self.proved) {
            shared.counters.add(Counter::Unexpected, 1);
            return;
        }
        if again && copied && self.doubt.is_none() {
            self.doubt = Some(reason);
            self.timers.stop(Timer::Request);
            self.timers.set(Timer::Patience, now + DOUBT);
            return;
        }
        self.end(now, Err(Failure::Refused(reason)), shared);
        self.timers.set(Timer::Linger, now);
    }

    /// The receiver says that it has the file. Believed when everything was sent and a heartbeat bears it out, or
    /// when none contradicts it for a while (11, 19.4).
    fn on_complete(&mut self, now: Instant, shared: &mut Shared<'_>) {
        // A heartbeat cannot tell "chunk 0" from "nothing", so a file of one chunk has no better witness.
        let borne_out = self.contiguous >= self.total || self.total <= 1;
        let insisted = self.all_sent()
            && now.duration_since(*self.doubtful_since.get_or_insert(now)) >= INSIST;
        if !self.all_sent() || !(borne_out || insisted) {
            shared.counters.add(Counter::Unexpected, 1);
            return;
        }
        self.complete(now, shared);
    }

    fn complete(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if !self.answered {
            self.connected(now, self.extension.is_some(), shared);
        }
        self.contiguous = self.total;
        self.say(Kind::AckClose, &[]);
        self.end(now, Ok(()), shared);
        // The receiver asks again sooner, and its echo may be lost: whoever waits for us need not wait for that (18.5.6).
        if let Some(rtt) = self.rtt.smoothed().filter(|_| self.extension.is_some()) {
            let linger = (2 * rtt + LINGER_EXTENDED).min(shared.config.linger);
            self.timers.set(Timer::Linger, now + linger);
        }
    }

    pub(super) fn on_timeout(&mut self, now: Instant, shared: &mut Shared<'_>) {
        let config = shared.config;
        if self.timers.expire(Timer::Request, now) && !self.proved {
            self.retry = (self.retry * 2).min(config.request_retry_max);
            self.timers.set(Timer::Request, now + self.retry);
            let waited = now.duration_since(self.started);
            self.anew = waited >= config.request_timeout * 5 / 6 && self.may_begin_anew();
            if !self.asked.is_empty() && !self.anew {
                self.asks += 1;
                self.outgoing.push_back(self.asked.clone());
            }
            // Behind the gate the one packet that may be out is as easily lost as the answer.
            self.probe_due |= self.gate.is_some() && self.next > 0;
        }
        if self.timers.expire(Timer::Patience, now) {
            let failure = match self.doubt {
                Some(reason) => Failure::Refused(reason),
                None if self.answered => Failure::Silent,
                None => Failure::NoAnswer,
            };
            self.end(now, Err(failure), shared);
            self.timers.set(Timer::Linger, now);
        }
        if self.timers.expire(Timer::Silence, now) && !self.is_over() {
            // It said that it has everything, has not contradicted itself since, and is gone.
            let insisted = |at| now.duration_since(at) >= INSIST;
            if self.all_sent() && self.doubtful_since.is_some_and(insisted) {
                return self.complete(now, shared);
            }
            if self.state == State::Streaming {
                self.state = State::Probing;
                self.timers.set(Timer::Patience, now + config.probe_timeout);
            }
            self.probe_due = true;
            self.timers.set(Timer::Silence, now + config.probe_interval);
        }
        if self.timers.expire(Timer::Progress, now) && !self.is_over() {
            self.timers.set(Timer::Progress, now + PROGRESS);
            let snapshot = self.snapshot(now);
            shared.events.push_back(Event::Progress {
                tag: self.tag,
                snapshot,
            });
        }
        if self.timers.expire(Timer::Linger, now) {
            self.close(shared);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if !self.outgoing.is_empty() || self.probe_due {
            return Some(self.started);
        }
        let timer = self.timers.next().map(|(at, _)| at);
        [timer, self.wake].into_iter().flatten().min()
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
        self.state = State::Lingering;
        self.timers = Timers::new();
        self.timers.set(Timer::Linger, now + shared.config.linger);
        self.window = SendWindow::with_capacity(1);
        self.spare = Vec::new();
        self.repairs = RangeSet::new();
        self.copies = VecDeque::new();
        self.parities = VecDeque::new();
        self.awaited = VecDeque::new();
        self.had = RangeSet::new();
        self.sealer = None;
        self.secret = None;
        self.probe_due = false;
        self.wake = None;
    }

    fn close(&mut self, shared: &mut Shared<'_>) {
        self.state = State::Closed;
        self.timers = Timers::new();
        shared.events.push_back(Event::Closed { tag: self.tag });
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            phase: match self.state {
                _ if !self.answered => Phase::Connecting,
                State::Requesting => Phase::Connecting,
                State::Probing => Phase::Probing,
                State::Streaming if self.contiguous >= self.total => Phase::Verifying,
                State::Streaming if self.all_sent() => Phase::Repairing,
                State::Streaming => Phase::Transferring,
                State::Lingering | State::Closed => Phase::Lingering,
            },
            size: self.request.size,
            done: (self.contiguous * self.chunk as u64).min(self.request.size),
            elapsed: now.duration_since(self.started),
            goodput: Bitrate::from_bytes_per_sec(self.feedback.delivery() as u64),
            pacing: self.pacer.rate(),
            rtt: self.rtt.smoothed(),
            min_rtt: self.rtt.min(),
            loss: self.feedback.loss(),
            parity: self.parity_now,
            data: self.counts.data,
            parities: self.counts.parities,
            retransmitted: self.counts.retransmitted,
            encrypted: self.request.encrypt,
            ..Snapshot::default()
        }
    }
}

/// Percent of parity before any loss is known (6.2).
const START_PARITY: u8 = 5;
/// Blocks asked for ahead of the next chunk to send: 3.3 MB, which a processor still holds in its cache.
const READ_AHEAD: u64 = 24;
/// Credit the pacer may save up (8.6).
const PACER_BURST: Duration = Duration::from_millis(2);
/// Cooldown of a repair while the round trip is unknown (9).
const COOLDOWN: Duration = Duration::from_millis(200);
/// Silence before the first heartbeat, and the least later, that makes a sender probe (10).
const FIRST_SILENCE: Duration = Duration::from_millis(1500);
/// How long the answer to the first copy of a request may come after the refusal of another.
pub(super) const DOUBT: Duration = Duration::from_millis(250);
/// With the extension a sender lingers this long beyond two round trips: twice the time after which it is asked again.
const LINGER_EXTENDED: Duration = Duration::from_millis(250);
/// A completion without a heartbeat that bears it out is believed when it is repeated this much later.
const INSIST: Duration = Duration::from_millis(900);
/// How often the application hears.
const PROGRESS: Duration = Duration::from_millis(100);
