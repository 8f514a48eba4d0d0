//! The sending half of one session: from SESSION_REQ to the end of its linger (4, 6, 7, 9, 10, 11).
//!
//! The application supplies the file in whole blocks, ahead of need; blocks stay in the window as plaintext with
//! the stamps of their packets until the receiver has them, so that a repair is the same bytes again, sealed to the
//! same ciphertext, and never a second reading of the file (19.1). It does *not* read files, hash, or choose rates:
//! [`rate`](super::rate) and [`parity`](super::parity) do that.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::{
    BLOCK, CHUNK_PLAIN, CHUNK_SEALED, Config, Control, DATAGRAM_MAX, HEADER, Layout, Parity,
    WINDOW_BLOCKS,
};
use super::feedback::{Feedback, Marks};
use super::packet::{
    Extension, Header, Heartbeat, Kind, SessionReq, control, exact, feature, flag,
};
use super::parity::{self, Path};
use super::rate::{Controller, Report};
use super::session::{Counter, Shared, Timer};
use super::{Event, Failure, Phase, Reason, Request, Snapshot, Tag, blocks, keys};
use crate::crypto::{Sealer, Secret};
use crate::engine::{Bitrate, Pacer, RangeSet, RttEstimator, SendWindow, Timers};
use crate::fec::{BlockEncoder, Scheme};

/// One file on its way out.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) tag: Tag,
    pub(super) peer: SocketAddr,
    id: u32,
    request: Request,
    /// SESSION_REQ, resent verbatim (4.6).
    asked: Vec<u8>,
    retry: Duration,
    secret: Option<Secret>,
    sealer: Option<Sealer>,
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
    /// Repairs sent since the last new packet.
    streak: u32,
    parities: VecDeque<(u64, u8)>,
    encoder: BlockEncoder,
    tail_encoder: Option<BlockEncoder>,
    marks: Marks,
    feedback: Feedback,
    controller: Controller,
    pacer: Pacer,
    rtt: RttEstimator,
    parity_now: u8,
    timers: Timers<Timer>,
    outgoing: VecDeque<Vec<u8>>,
    /// When `poll_transmit` may have something again; `None` while only a heartbeat or the application can tell.
    wake: Option<Instant>,
    /// Between batches of repairs at the end, under the published rules.
    repair_gate: Option<Instant>,
    probe_due: bool,
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
#[derive(Debug)]
struct Sent {
    /// k chunks, the last one padded with zeros.
    bytes: Vec<u8>,
    /// Stamp of each chunk's packet; 0 before it was sent.
    stamps: Vec<u64>,
    /// When each chunk left last, in milliseconds from the start and one; 0 if never again after the first time.
    resent: Vec<u32>,
    /// Parity indices used; each is sealed once.
    parity_used: u8,
    reinforced: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    data: u64,
    parities: u64,
    retransmitted: u64,
}

impl Sender {
    /// Asks the receiver. `secret` is this side's fresh key, used if the request wants encryption; `base` a random
    /// number, the origin of the stamps.
    pub(super) fn new(
        now: Instant,
        tag: Tag,
        request: Request,
        id: u32,
        secret: Secret,
        base: u64,
        shared: &mut Shared<'_>,
    ) -> Self {
        let secret = request.encrypt.then_some(secret);
        let chunk = if request.encrypt {
            CHUNK_SEALED
        } else {
            CHUNK_PLAIN
        };
        let config = shared.config;
        let asked = SessionReq {
            size: request.size,
            hash: request.hash,
            rate: 0,
            key: secret.as_ref().map(Secret::public),
            name: request.name.clone().into_bytes(),
            nul_counted: false,
            extension: config.extensions.then(|| Extension {
                features: feature::ALL,
                ..Extension::default()
            }),
        }
        .encode(id);
        let controller = Controller::new(config);
        let rate = Bitrate::from_bytes_per_sec(controller.rate() as u64);
        let mut timers = Timers::new();
        timers.set(Timer::Request, now + config.request_retry);
        timers.set(Timer::Patience, now + config.request_timeout);
        timers.set(Timer::Progress, now + PROGRESS);
        let mut it = Self {
            tag,
            peer: request.to,
            id,
            outgoing: VecDeque::from([asked.clone()]),
            asked,
            retry: config.request_retry,
            state: if secret.is_some() {
                State::Requesting
            } else {
                State::Streaming
            },
            secret,
            sealer: None,
            answered: false,
            proved: false,
            extension: None,
            layout: None,
            chunk,
            total: request.size.div_ceil(chunk as u64),
            request,
            window: SendWindow::with_capacity(WINDOW_BLOCKS as usize),
            spare: Vec::new(),
            wanted: 0,
            next: 0,
            contiguous: 0,
            repairs: RangeSet::new(),
            streak: 0,
            parities: VecDeque::new(),
            encoder: BlockEncoder::new(Scheme::Rs8 { k: BLOCK as u16 }, chunk),
            tail_encoder: None,
            marks: Marks::new(now, base),
            feedback: Feedback::new(config.burst),
            controller,
            pacer: Pacer::new(rate, PACER_BURST),
            rtt: RttEstimator::new(Duration::from_millis(200)),
            parity_now: START_PARITY,
            timers,
            wake: Some(now),
            repair_gate: None,
            probe_due: false,
            doubtful_since: None,
            started: now,
            heard: None,
            counts: Counts::default(),
        };
        it.ask(shared);
        it
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Lingering | State::Closed)
    }

    fn all_sent(&self) -> bool {
        self.next >= self.total
    }

    /// Asks the application for blocks, as far ahead as the window allows.
    fn ask(&mut self, shared: &mut Shared<'_>) {
        let block_bytes = BLOCK * self.chunk as u64;
        let end = self.total.div_ceil(BLOCK);
        while self.wanted < end
            && self.wanted < self.next / BLOCK + READ_AHEAD
            && self.wanted - self.contiguous / BLOCK < WINDOW_BLOCKS
        {
            let offset = self.wanted * block_bytes;
            let len = (self.request.size - offset).min(block_bytes) as usize;
            let buffer = self.spare.pop().unwrap_or_default();
            shared.events.push_back(Event::Want {
                tag: self.tag,
                offset,
                len,
                buffer,
            });
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
        let block = self.window.next();
        let want = (self.request.size.saturating_sub(offset)).min(BLOCK * self.chunk as u64);
        let k = blocks::k(self.total, block.min(self.total.saturating_sub(1) / BLOCK)) as usize;
        if offset != block * BLOCK * self.chunk as u64 || bytes.len() as u64 != want || want == 0 {
            self.on_abort(now, Reason::INVALID, shared);
            return;
        }
        bytes.resize(k * self.chunk, 0);
        let sent = Sent {
            bytes,
            stamps: vec![0; k],
            resent: vec![0; k],
            parity_used: 0,
            reinforced: None,
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
        self.outgoing
            .push_back(control(Kind::Reject, self.id, &[reason.0], 0));
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
            (Kind::SessionAccept, State::Requesting) => {
                self.on_session_accept(now, payload, datagram, shared)
            }
            (Kind::Complete, State::Lingering) => {
                self.outgoing
                    .push_back(control(Kind::AckClose, self.id, &[], 0));
                self.outgoing.truncate(4);
            }
            (Kind::Complete | Kind::AckClose, State::Streaming | State::Probing) => {
                self.on_complete(now, shared)
            }
            (Kind::AckClose, State::Lingering) => self.close(shared),
            (Kind::Reject, State::Requesting | State::Streaming | State::Probing) => {
                let reason = Reason(payload.first().copied().unwrap_or(0));
                // A mismatch can only be known once everything was sent (19.4), and a receiver that answered has
                // this session and no other.
                let early = reason == Reason::HASH_MISMATCH && !self.all_sent();
                let late = reason == Reason::COLLISION && self.proved;
                if early || late {
                    shared.counters.add(Counter::Unexpected, 1);
                    return;
                }
                self.end(now, Err(Failure::Refused(reason)), shared);
                self.timers.set(Timer::Linger, now);
            }
            _ => shared.counters.add(Counter::Unexpected, 1),
        }
    }

    fn on_session_accept(
        &mut self,
        now: Instant,
        payload: &[u8],
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) {
        let (Some(secret), Some(key)) = (&self.secret, payload.first_chunk::<32>()) else {
            return;
        };
        let Some(mut sealer) = keys::sealer(secret, key, self.id) else {
            self.end(now, Err(Failure::BadKey), shared);
            return;
        };
        if shared.guard {
            sealer.guard();
        }
        self.sealer = Some(sealer);
        self.secret = None;
        self.extension = Extension::parse(datagram, datagram.len() - HEADER - payload.len())
            .filter(|_| shared.config.extensions);
        self.state = State::Streaming;
        self.proved = true;
        self.timers.stop(Timer::Request);
        self.connected(now, self.extension.is_some(), shared);
    }

    fn connected(&mut self, now: Instant, extended: bool, shared: &mut Shared<'_>) {
        self.answered = true;
        self.timers.stop(Timer::Patience);
        self.timers.set(Timer::Silence, now + FIRST_SILENCE);
        self.wake = Some(now);
        let (tag, encrypted) = (self.tag, self.sealer.is_some());
        shared.events.push_back(Event::Connected {
            tag,
            encrypted,
            extended,
        });
    }

    /// The receiver says that it has the file. Believed when everything was sent and a heartbeat bears it out, or
    /// when it insists (11, 19.4).
    fn on_complete(&mut self, now: Instant, shared: &mut Shared<'_>) {
        let borne_out = self.contiguous + 1 >= self.total;
        let insisted = self.all_sent()
            && now.duration_since(*self.doubtful_since.get_or_insert(now)) >= INSIST;
        if !self.all_sent() || !(borne_out || insisted) {
            shared.counters.add(Counter::Unexpected, 1);
            return;
        }
        if !self.answered {
            self.connected(now, self.extension.is_some(), shared);
        }
        self.contiguous = self.total;
        self.outgoing
            .push_back(control(Kind::AckClose, self.id, &[], 0));
        self.end(now, Ok(()), shared);
    }

    /// Everything a heartbeat tells (7, 8, 9).
    pub(super) fn on_heartbeat(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) -> bool {
        if self.is_over() || self.state == State::Requesting {
            return false;
        }
        let Some(beat) = self.plausible(header, datagram) else {
            shared.counters.add(Counter::Implausible, 1);
            return false;
        };
        if beat.echo == 0 {
            // Somebody answers, and knows none of our packets: anyone can say that, so it settles nothing.
            if !self.answered {
                self.heard = Some(now);
                self.connected(now, beat.extension.is_some(), shared);
            }
            return false;
        }
        if !self.proved {
            self.proved = true;
            self.timers.stop(Timer::Request);
            self.extension = beat.extension.filter(|_| shared.config.extensions);
        }
        if !self.answered {
            self.connected(now, self.extension.is_some(), shared);
        }
        if self.extension.is_some() && beat.extension.is_none() {
            // Damaged: this receiver always adds its block, and the block guards the rest.
            shared.counters.add(Counter::Malformed, 1);
            return false;
        }
        self.heard = Some(now);
        if self.state == State::Probing {
            self.state = State::Streaming;
            self.timers.stop(Timer::Patience);
        }
        let fresh = self
            .feedback
            .on_heartbeat(now, &beat, &mut self.marks, &mut self.rtt);
        let silence = (self.feedback.interval(false) * 5)
            .max(self.rtt.smoothed().unwrap_or_default() * 4)
            .max(SILENCE);
        self.timers.set(Timer::Silence, now + silence);
        if beat.contiguous > 0 && beat.contiguous + 1 > self.contiguous {
            self.contiguous = beat.contiguous + 1;
            self.free(shared);
        }
        if self.contiguous < self.total {
            // Whoever said that everything had come was not this receiver.
            self.doubtful_since = None;
        }
        let first_time = self.book_nacks(now, &beat);
        self.feedback.infer_loss(first_time, self.counts.data);
        self.steer(now, &beat, fresh);
        self.ask(shared);
        self.wake = Some(now);
        true
    }

    /// A heartbeat from another address than the peer's: taken only when it echoes a stamp that was never echoed
    /// before, which only the receiver can know.
    pub(super) fn on_heartbeat_from_elsewhere(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) -> bool {
        let news = self
            .plausible(header, datagram)
            .is_some_and(|beat| beat.echo > self.feedback.echoed());
        news && self.on_heartbeat(now, header, datagram, shared)
    }

    /// Reads a heartbeat in the field order in which it can be true (7.2).
    fn plausible(&mut self, header: &Header, datagram: &[u8]) -> Option<Heartbeat> {
        let orders = match self.layout {
            Some(Layout::Text) => &[Layout::Text][..],
            Some(Layout::Reference) => &[Layout::Reference],
            None => &[Layout::Text, Layout::Reference],
        };
        let reads = orders
            .iter()
            .filter_map(|&order| Some((order, Heartbeat::parse(header, datagram, order)?)));
        let mut fits = reads.filter(|(_, beat)| self.is_plausible(beat));
        let (order, beat) = fits.next()?;
        if fits.next().is_none() {
            self.layout = Some(order);
        }
        Some(beat)
    }

    fn is_plausible(&self, beat: &Heartbeat) -> bool {
        if beat.echo == 0 {
            return beat.dispersion == 0 && beat.contiguous == 0 && beat.nacks.is_empty();
        }
        let claims = beat.contiguous == 0 || beat.contiguous < self.next;
        let sent = beat.nacks.iter().all(|seq| *seq < self.next);
        claims && sent && self.marks.issued(beat.echo)
    }

    fn free(&mut self, shared: &mut Shared<'_>) {
        while let Some(sent) = self.window.pop_below(self.contiguous / BLOCK) {
            if self.spare.len() < READ_AHEAD as usize {
                self.spare.push(sent.bytes);
            }
        }
        self.repairs.remove_below(self.contiguous);
        self.ask(shared);
    }

    /// Queues what is missing, each chunk at most once in 1.25 round trips. Returns how many were named for the
    /// first time.
    fn book_nacks(&mut self, now: Instant, beat: &Heartbeat) -> u64 {
        let cooldown = self.rtt.smoothed().map_or(COOLDOWN, |rtt| rtt * 5 / 4);
        let mut first_time = 0;
        let mut holes: Option<(u64, u64)> = None;
        for &seq in &beat.nacks {
            let Some(sent) = self.window.get(seq / BLOCK) else {
                continue;
            };
            let at = (seq % BLOCK) as usize;
            first_time += u64::from(sent.resent[at] == 0);
            let last = match sent.resent[at] {
                0 => self.marks.time_of(sent.stamps[at]),
                ms => self.started + Duration::from_millis(u64::from(ms)),
            };
            if now.saturating_duration_since(last) < cooldown {
                continue;
            }
            self.repairs.insert(seq..seq + 1);
            match &mut holes {
                Some((block, count)) if *block == seq / BLOCK => *count += 1,
                _ => {
                    if let Some((block, count)) = holes.replace((seq / BLOCK, 1)) {
                        self.reinforce(now, block, count, cooldown);
                    }
                }
            }
        }
        if let Some((block, count)) = holes {
            self.reinforce(now, block, count, cooldown);
        }
        // Nothing named, and yet not everything there: the tail was lost whole (11).
        if beat.nacks.is_empty() && self.all_sent() && self.contiguous < self.total {
            let from = if beat.contiguous == 0 {
                0
            } else {
                beat.contiguous + 1
            };
            for seq in from..self.total.min(from + TAIL) {
                let Some(sent) = self.window.get(seq / BLOCK) else {
                    break;
                };
                let at = (seq % BLOCK) as usize;
                let last = match sent.resent[at] {
                    0 => self.marks.time_of(sent.stamps[at]),
                    ms => self.started + Duration::from_millis(u64::from(ms)),
                };
                if now.saturating_duration_since(last) >= cooldown + self.feedback.interval(true) {
                    self.repairs.insert(seq..seq + 1);
                }
            }
        }
        first_time
    }

    /// At the end of a file a repair that is lost costs a round trip with nothing else to send: send fresh parity
    /// along, enough for what this round will lose.
    fn reinforce(&mut self, now: Instant, block: u64, holes: u64, cooldown: Duration) {
        let p = self.feedback.loss().min(0.8);
        if !self.all_sent() || self.extension.is_none() || p < 0.005 {
            return;
        }
        let k = blocks::k(self.total, block);
        let Some(sent) = self.window.get_mut(block) else {
            return;
        };
        if sent
            .reinforced
            .is_some_and(|at| now.duration_since(at) < cooldown)
        {
            return;
        }
        sent.reinforced = Some(now);
        let holes = holes as f64;
        let extra = (holes * p / (1.0 - p) + 1.5 * (holes * p).sqrt() / (1.0 - p)).ceil();
        let free = (255 - k).saturating_sub(u64::from(sent.parity_used));
        let extra = (extra as u64).min(free) as u8;
        self.parities
            .extend((sent.parity_used..sent.parity_used + extra).map(|index| (block, index)));
        sent.parity_used += extra;
    }

    /// Feeds the controller and takes over its rate.
    fn steer(&mut self, now: Instant, beat: &Heartbeat, fresh: Option<Duration>) {
        if let Some(bandwidth) = self.feedback.dispersion(beat) {
            self.controller.on_dispersion(bandwidth);
        }
        let rate = self.controller.rate();
        // Delivery is believed up to twice what was sent (hostile receivers claim more).
        let delivery = f64::from(beat.delivery).min(2.0 * rate);
        let delta = self.feedback.take_delta(beat, delivery, self.wire_share());
        let report = Report {
            now,
            delivery,
            loss: self.feedback.reported_loss(),
            nacks: beat.nacks.len(),
            rtt: fresh,
            smoothed_rtt: self.rtt.smoothed(),
            min_rtt: self.rtt.min(),
            sent: delta.sent,
            sent_over: delta.sent_over,
            received: delta.received,
            received_over: delta.received_over,
            echoed: self.feedback.echoed(),
            issued: self.marks.last(),
            interval: self.feedback.interval(false),
        };
        self.controller.on_report(&report);
        self.pacer.set_rate(
            now,
            Bitrate::from_bytes_per_sec(self.controller.rate() as u64),
        );
    }

    /// Wire bytes per file byte sent for the first time.
    fn wire_share(&self) -> f64 {
        let all = self.counts.data + self.counts.parities;
        all as f64 / self.counts.data.max(1) as f64 * DATAGRAM_MAX as f64 / self.chunk as f64
    }

    pub(super) fn on_timeout(&mut self, now: Instant, shared: &mut Shared<'_>) {
        let config = shared.config;
        if self.timers.expire(Timer::Request, now) && !self.proved {
            self.retry = (self.retry * 2).min(config.request_retry_max);
            self.timers.set(Timer::Request, now + self.retry);
            self.outgoing.push_back(self.asked.clone());
        }
        if self.timers.expire(Timer::Patience, now) {
            let failure = if self.answered {
                Failure::Silent
            } else {
                Failure::NoAnswer
            };
            self.end(now, Err(failure), shared);
            self.timers.set(Timer::Linger, now);
        }
        if self.timers.expire(Timer::Silence, now) && !self.is_over() {
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

    /// Appends up to `max` datagrams, all as long as the first but for the last; returns the first one's length.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        max: usize,
        buf: &mut Vec<u8>,
        shared: &mut Shared<'_>,
    ) -> Option<usize> {
        if let Some(bytes) = self.outgoing.pop_front() {
            self.pacer.spend(now, bytes.len() as u64);
            buf.extend_from_slice(&bytes);
            return Some(bytes.len());
        }
        if std::mem::take(&mut self.probe_due) {
            return self.probe(now, buf);
        }
        self.wake = None;
        if self.state != State::Streaming {
            return None;
        }
        let start = buf.len();
        let allowed = self.allowed(now, max)?;
        let mut segment = None;
        for _ in 0..allowed {
            let before = buf.len();
            if !self.next_packet(now, buf, shared.config) {
                break;
            }
            let len = buf.len() - before;
            segment.get_or_insert(len);
            if len < DATAGRAM_MAX {
                break;
            }
        }
        self.ask(shared);
        if buf.len() > start {
            self.pacer.spend(now, (buf.len() - start) as u64);
            self.wake = Some(now);
        }
        segment
    }

    /// How many packets may leave now; sets the wake-up when none.
    fn allowed(&mut self, now: Instant, max: usize) -> Option<usize> {
        if self.next < self.feedback.burst().min(self.total) && self.window.next() > 0 {
            return Some(max.min((self.feedback.burst() - self.next) as usize).max(1));
        }
        if !self.has_something() {
            return None;
        }
        if self.heard.is_none() && self.marks.sent() >= UNHEARD {
            return None;
        }
        let room = match self.controller {
            Controller::Delivery(_) => self.room(now),
            Controller::Hpudp(_) | Controller::Fixed(_) => usize::MAX,
        };
        if room == 0 {
            // Packets that are gone for good leave the count with time.
            self.wake = Some(now + Duration::from_millis(5));
            return None;
        }
        let rate = self.pacer.rate();
        let quantum = rate
            .bytes_in(QUANTUM)
            .clamp(DATAGRAM_MAX as u64, QUANTUM_MAX);
        if let Some(at) = self.pacer.ready_at(now, quantum) {
            self.wake = Some(at);
            return None;
        }
        let budget = (self.pacer.budget(now) / DATAGRAM_MAX as u64).max(1);
        Some(max.min(room).min(budget as usize))
    }

    fn has_something(&self) -> bool {
        !self.parities.is_empty()
            || !self.repairs.is_empty()
            || self.next < (self.window.next() * BLOCK).min(self.total)
    }

    /// Packets that may still be put in flight: what the path holds, what its queue may hold, what the feedback has
    /// not told yet; and never so much that the receiver's socket would overflow.
    fn room(&self, now: Instant) -> usize {
        let Some(min_rtt) = self.rtt.min().filter(|_| self.extension.is_some()) else {
            return usize::MAX;
        };
        let packets = self.controller.rate() / DATAGRAM_MAX as f64;
        let span =
            min_rtt + self.controller.delay_budget(min_rtt) + self.feedback.interval(true) * 4;
        let mut cap = packets * span.as_secs_f64() + 16.0;
        let socket = self
            .extension
            .map_or(0, |extension| extension.socket_datagrams);
        if socket > 0 {
            cap = cap.min(packets * min_rtt.as_secs_f64() + f64::from(socket) / 2.0);
        }
        let patience =
            self.rtt.smoothed().unwrap_or(min_rtt) * 2 + self.feedback.interval(true) * 4 + STALL;
        let flying = self.marks.in_flight(now, patience);
        (cap as usize).max(16).saturating_sub(flying as usize)
    }

    /// Three repairs, then something new, so that a flood of them cannot stop progress (9, lesson D).
    fn next_packet(&mut self, now: Instant, buf: &mut Vec<u8>, config: &Config) -> bool {
        let fresh = self.next < (self.window.next() * BLOCK).min(self.total);
        if (self.streak < 3 || !fresh) && self.repair(now, buf, config) {
            self.streak += 1;
            return true;
        }
        self.streak = 0;
        while let Some((block, index)) = self.parities.pop_front() {
            if self.parity(now, block, index, buf) {
                return true;
            }
        }
        if fresh {
            let seq = self.next;
            self.next += 1;
            self.counts.data += 1;
            self.data(now, seq, buf);
            self.end_of_block(seq, config);
            return true;
        }
        self.repair(now, buf, config)
    }

    fn repair(&mut self, now: Instant, buf: &mut Vec<u8>, config: &Config) -> bool {
        if self.repair_gate.is_some_and(|at| now < at) {
            self.wake = self.repair_gate;
            return false;
        }
        while let Some(seq) = self.repairs.pop_first() {
            if self.data(now, seq, buf) {
                self.counts.retransmitted += 1;
                let batch = config.control == Control::Hpudp && self.all_sent();
                if batch && self.counts.retransmitted.is_multiple_of(TEARDOWN_BATCH) {
                    self.repair_gate = Some(now + TEARDOWN_PAUSE);
                }
                return true;
            }
        }
        false
    }

    /// After a block's last chunk comes its parity (6.1).
    fn end_of_block(&mut self, seq: u64, config: &Config) {
        let block = seq / BLOCK;
        let k = blocks::k(self.total, block);
        if seq + 1 != block * BLOCK + k {
            return;
        }
        let m = match (config.parity, self.feedback.knows_loss()) {
            (Parity::Table, true) => parity::table(self.feedback.reported_loss(), k),
            (_, false) => ((k * u64::from(START_PARITY)).div_ceil(100)).max(2) as u8,
            (Parity::Adaptive, true) => {
                let path = Path {
                    loss: self.feedback.loss(),
                    rate: self.controller.rate(),
                    rtt: self.rtt.smoothed().unwrap_or(COOLDOWN),
                    interval: self.feedback.interval(true),
                    room: config.block_memory as f64,
                    left: self.total - seq - 1,
                };
                parity::adaptive(&path, k)
            }
        };
        self.parity_now = m;
        let m = m.min((255 - k) as u8);
        if let Some(sent) = self.window.get_mut(block) {
            self.parities
                .extend((sent.parity_used..sent.parity_used + m).map(|index| (block, index)));
            sent.parity_used += m;
        }
    }

    /// One DATA packet, for the first time or again. A sealed one is the same bytes each time; a plain one gets a
    /// new stamp, and so measures the round trip. `false` when the chunk is no longer in the window.
    fn data(&mut self, now: Instant, seq: u64, buf: &mut Vec<u8>) -> bool {
        let (sealed, total, chunk) = (self.sealer.is_some(), self.total, self.chunk);
        let Some(sent) = self.window.get_mut(seq / BLOCK) else {
            return false;
        };
        let issued = self.marks.issue(now);
        let at = (seq % BLOCK) as usize;
        let again = sent.stamps[at] != 0;
        if again {
            let ms = now.duration_since(self.started).as_millis() + 1;
            sent.resent[at] = u32::try_from(ms).unwrap_or(u32::MAX);
        }
        if !again || !sealed {
            sent.stamps[at] = issued;
        } else {
            self.marks.resend(sent.stamps[at]);
        }
        let mut flags = if seq + 1 == total { flag::END } else { 0 };
        if seq < self.feedback.burst() && (sealed || !again) {
            flags |= flag::CALIBRATION;
        }
        let left = self.request.size - seq * chunk as u64;
        let len = usize::try_from(left).map_or(chunk, |left| left.min(chunk));
        let payload = &sent.bytes[at * chunk..at * chunk + len];
        let header = Header {
            kind: Kind::Data,
            session: self.id,
            seq,
            block: seq / BLOCK,
            len: len as u16,
            flags,
            stamp: sent.stamps[at],
        };
        append(header, payload, self.sealer.as_mut(), buf);
        true
    }

    /// One PARITY packet, computed now; `false` when the block is no longer needed.
    fn parity(&mut self, now: Instant, block: u64, index: u8, buf: &mut Vec<u8>) -> bool {
        let k = blocks::k(self.total, block);
        let Some(sent) = self.window.get(block) else {
            return false;
        };
        let encoder = if k == BLOCK {
            &mut self.encoder
        } else {
            let chunk = self.chunk;
            self.tail_encoder
                .get_or_insert_with(|| BlockEncoder::new(Scheme::Rs8 { k: k as u16 }, chunk))
        };
        let tail = block == (self.total - 1) / BLOCK;
        let last = tail && index + 1 == sent.parity_used;
        let header = Header {
            kind: Kind::Parity,
            session: self.id,
            seq: u64::from(index),
            block,
            len: self.chunk as u16,
            flags: if last { flag::END } else { 0 },
            stamp: self.marks.issue(now),
        };
        let mut payload = [0; CHUNK_PLAIN];
        let payload = &mut payload[..self.chunk];
        encoder.parity(index, &sent.bytes, payload);
        self.counts.parities += 1;
        append(header, payload, self.sealer.as_mut(), buf);
        true
    }

    /// The lowest chunk the receiver may lack, again (10).
    fn probe(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<usize> {
        let before = buf.len();
        let seq = self.contiguous.min(self.total.saturating_sub(1));
        if self.next > seq && self.data(now, seq, buf) {
            self.counts.retransmitted += 1;
            self.pacer.spend(now, (buf.len() - before) as u64);
            return Some(buf.len() - before);
        }
        None
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
        self.parities = VecDeque::new();
        self.sealer = None;
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

/// Header, payload and, if sealed, tag: the bytes of one packet at the end of `buf`.
fn append(mut header: Header, payload: &[u8], sealer: Option<&mut Sealer>, buf: &mut Vec<u8>) {
    if sealer.is_some() {
        header.flags |= flag::SEALED;
    }
    let head = header.encode();
    buf.extend_from_slice(&head);
    let start = buf.len();
    buf.extend_from_slice(payload);
    if let Some(sealer) = sealer {
        let tag = sealer.seal(keys::nonce(&header), &head, &mut buf[start..]);
        buf.extend_from_slice(&tag);
    }
}

/// Percent of parity before any loss is known (6.2).
const START_PARITY: u8 = 5;
/// Blocks asked for ahead of the next chunk to send: 8.7 MB.
const READ_AHEAD: u64 = 64;
/// Credit the pacer may save up (8.6).
const PACER_BURST: Duration = Duration::from_millis(2);
/// The pacer sleeps until this much time's worth of bytes may leave at once; the kernel takes up to 46 datagrams.
const QUANTUM: Duration = Duration::from_micros(250);
const QUANTUM_MAX: u64 = 46 * DATAGRAM_MAX as u64;
/// Packets before the first heartbeat: about a second's worth at the starting rate (4.6).
const UNHEARD: u64 = 2_000_000 / DATAGRAM_MAX as u64;
/// Cooldown of a repair while the round trip is unknown (9).
const COOLDOWN: Duration = Duration::from_millis(200);
/// Chunks of a lost tail sent again at a time (11).
const TAIL: u64 = 167;
/// Under the published rules the last repairs leave in batches of ten, two milliseconds apart (11).
const TEARDOWN_BATCH: u64 = 10;
const TEARDOWN_PAUSE: Duration = Duration::from_millis(2);
/// Silence before the first heartbeat, and the least later, that makes a sender probe (10).
const FIRST_SILENCE: Duration = Duration::from_millis(1500);
const SILENCE: Duration = Duration::from_millis(500);
/// A completion without a heartbeat that bears it out is believed when it is repeated this much later.
const INSIST: Duration = Duration::from_millis(900);
/// Beyond two round trips, how long a packet counts as in flight.
const STALL: Duration = Duration::from_millis(20);
/// How often the application hears.
const PROGRESS: Duration = Duration::from_millis(100);
