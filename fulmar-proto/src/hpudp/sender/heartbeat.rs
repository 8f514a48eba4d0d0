//! What a heartbeat does to a sender: what may be forgotten, what must be sent again, how fast to go on (7, 8, 9).
//!
//! It does *not* send: repairs are queued and leave in their turn.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::super::config::{BLOCK, Config, DATAGRAM_MAX, Layout, WINDOW};
use super::super::packet::{Extension, Header, Heartbeat, feature};
use super::super::parity;
use super::super::paths::Path;
use super::super::rate::Report;
use super::super::session::{Counter, Proof, Shared, Timer};
use super::{COOLDOWN, READ_AHEAD, Sender, State};
use crate::engine::RangeSet;
use crate::hpudp::{Failure, Via};

impl Sender {
    /// Everything a heartbeat tells (7, 8, 9).
    pub(in crate::hpudp) fn on_heartbeat(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) {
        if self.state == State::Requesting && self.request.bundle && self.peer_key.is_none() {
            // Who takes a bundle says so first; this one takes a file (18.8).
            let waits = self.request.via == Via::Direct && !self.request.encrypt;
            // One that knows bundles has answered, and its answer was lost.
            let takes_files = |beat: &Heartbeat| {
                let knows = beat.extension.as_ref();
                !knows.is_some_and(|it| it.has(feature::KEYS))
            };
            if waits
                && self
                    .plausible(header, datagram)
                    .is_some_and(|it| takes_files(&it))
            {
                self.refuse(now, Failure::NoBundles, shared);
            }
            return;
        }
        if self.is_over() || self.state == State::Requesting {
            return;
        }
        let Some(beat) = self.plausible(header, datagram) else {
            shared.counters.add(Counter::Implausible, 1);
            return;
        };
        if beat.echo == 0 {
            // Somebody answers, and knows none of our packets: anyone can say that, so it settles nothing.
            if !self.answered {
                self.heard = Some(now);
                self.connected(now, self.extends && beat.extension.is_some(), shared);
            }
            return;
        }
        if !self.proved {
            self.proved = true;
            self.secret = None;
            self.timers.stop(Timer::Request);
            self.gate = None;
            self.extension = beat.extension.clone().filter(|_| self.extends);
        }
        if !self.answered {
            self.connected(now, self.extension.is_some(), shared);
        }
        if self.extension.is_some() && beat.extension.is_none() {
            // Damaged: this receiver always adds its block, and the block guards the rest.
            shared.counters.add(Counter::Malformed, 1);
            return;
        }
        if self.moved_at.is_some_and(|mark| beat.echo <= mark) {
            return;
        }
        if let Some(extension) = &beat.extension {
            self.note_had(extension);
        }
        self.moved_at = None;
        self.home = self.peer;
        self.heard = Some(now);
        if self.state == State::Probing {
            self.state = State::Streaming;
            self.timers.stop(Timer::Patience);
        }
        let fresh = self
            .feedback
            .on_heartbeat(now, &beat, &mut self.marks, &mut self.rtt);
        self.note_paths(now, &beat);
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
        let first_time = self.book(now, &beat, shared.config);
        self.feedback.infer_loss(first_time, self.counts.data);
        self.steer(now, &beat, fresh);
        self.ask(shared);
        self.wake = Some(now);
    }

    /// A heartbeat from another address than the peer's: taken only when it echoes a stamp that was never echoed
    /// before, which only the receiver can know; or the last one, once the receiver has fallen silent where it was.
    pub(in crate::hpudp) fn on_heartbeat_from_elsewhere(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) -> Proof {
        let path = Path {
            socket: 0,
            peer: from,
        };
        if !self.is_genuine(now, path, datagram) {
            shared.counters.add(Counter::Refused, 1);
            return Proof::None;
        }
        let active = self.proved && !self.is_over();
        let lost = self.state == State::Probing && self.moved_at.is_none();
        let echoed = self.feedback.echoed();
        let takes = self.plausible(header, datagram).is_some_and(|beat| {
            let exact = beat.extension.as_ref().and_then(|it| it.feedback);
            let last = exact.map_or(beat.echo, |it| it.highest) == echoed;
            let whole = self.extension.is_none() || beat.extension.is_some();
            whole && (beat.echo > echoed || last && (lost || from == self.home))
        });
        if active && takes {
            return Proof::Fresh;
        }
        shared.counters.add(Counter::Implausible, 1);
        Proof::None
    }

    /// The receiver seems to be there now.
    pub(in crate::hpudp) fn on_moved(&mut self, now: Instant, peer: SocketAddr, config: &Config) {
        self.peer = peer;
        self.paths.move_to(peer);
        if peer == self.home {
            // It never was anywhere else.
            self.moved_at = None;
            return;
        }
        self.moved_at = Some(self.marks.last());
        if self.state == State::Streaming {
            self.state = State::Probing;
            self.timers.set(Timer::Patience, now + config.probe_timeout);
        }
        self.timers.set(Timer::Silence, now + config.probe_interval);
        let rested = self
            .looked_at
            .is_none_or(|at| now.duration_since(at) >= config.probe_interval);
        if rested {
            self.looked_at = Some(now);
            self.probe_due = true;
        }
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
            let missing = !beat.nacks.is_empty() || !beat.runs.is_empty();
            return beat.dispersion == 0 && beat.contiguous == 0 && !missing;
        }
        // Chunks count as sent that the receiver had before.
        let reach = match &beat.extension {
            Some(extension) if !extension.had.is_empty() => {
                self.beyond(&self.ranges(extension), self.next)
            }
            Some(_) | None => self.next,
        };
        let claims = beat.contiguous == 0 || beat.contiguous < reach;
        let sent = beat.nacks.iter().all(|seq| *seq < reach)
            && beat.runs.iter().all(|run| run.end <= reach);
        claims && sent && self.marks.issued(beat.echo)
    }

    /// The blocks a heartbeat says were there before the session.
    fn ranges(&self, extension: &Extension) -> RangeSet {
        let last = self.total.div_ceil(BLOCK);
        let mut had = RangeSet::new();
        for &(first, count) in &extension.had {
            let first = u64::from(first);
            let end = (first + u64::from(count)).min(last);
            if first < end {
                had.insert(first..end);
            }
        }
        had
    }

    /// The first chunk from `next` on that is in none of these blocks.
    fn beyond(&self, had: &RangeSet, next: u64) -> u64 {
        let block = next / BLOCK;
        match had.next_gap(block) {
            gap if gap > block => (gap * BLOCK).min(self.total),
            _ => next,
        }
    }

    fn note_had(&mut self, extension: &Extension) {
        if extension.had.is_empty() && self.had.is_empty() {
            return;
        }
        self.had = self.ranges(extension);
        self.next = self.beyond(&self.had, self.next);
        // What is left of the list lies ahead of the receiver's front: repairs asked for earlier are void.
        for range in self.had.iter() {
            self.repairs
                .remove(range.start * BLOCK..(range.end * BLOCK).min(self.total));
        }
    }

    fn free(&mut self, shared: &mut Shared<'_>) {
        while let Some(sent) = self.window.pop_below(self.contiguous / BLOCK) {
            if self.spare.len() < READ_AHEAD as usize {
                self.spare.push(sent.bytes);
            }
        }
        self.window.skip_to(self.contiguous / BLOCK);
        self.repairs.remove_below(self.contiguous);
        self.ask(shared);
    }

    /// What came by which path.
    fn note_paths(&mut self, now: Instant, beat: &Heartbeat) {
        let Some(extension) = beat.extension.as_ref().filter(|_| self.paths.is_open()) else {
            return;
        };
        let counted = self.paths.on_report(now, &extension.paths, &self.marks);
        self.feedback.count(counted.sent, counted.came);
        self.paths
            .judge(now, &self.marks, self.feedback.interval(true));
    }

    /// Queues what is missing and not on its way. Returns how many chunks were named for the first time.
    fn book(&mut self, now: Instant, beat: &Heartbeat, config: &Config) -> u64 {
        if self.paths.is_open() && self.feedback.is_stale() {
            // Overtaken on another path, by one that knows better.
            return 0;
        }
        let proof = self.proof(now, beat);
        let held = self.window.base() * BLOCK..self.next;
        let named = beat.nacks.iter().map(|&seq| seq..seq + 1);
        let named = named.chain(beat.runs.iter().cloned());
        let mut first_time = 0;
        // Holes queued of the block now looked at.
        let mut holes: Vec<u64> = Vec::new();
        for seq in named.flat_map(|run| run.start.max(held.start)..run.end.min(held.end)) {
            let Some(sent) = self.window.get(seq / BLOCK) else {
                continue;
            };
            let at = (seq % BLOCK) as usize;
            if sent.bytes.is_empty() {
                continue;
            }
            first_time += u64::from(sent.resent[at] == 0);
            let late = proof.lost(sent.stamps[at].max(sent.resent[at]), sent.last);
            if !late || self.repairs.contains(seq) {
                continue;
            }
            self.repairs.insert(seq..seq + 1);
            if holes
                .first()
                .is_some_and(|first| first / BLOCK != seq / BLOCK)
            {
                self.reinforce(&holes, config);
                holes.clear();
            }
            holes.push(seq);
        }
        self.reinforce(&holes, config);
        // Nothing named, and yet not everything there: the tail was lost whole (11).
        let named = !beat.nacks.is_empty() || !beat.runs.is_empty();
        if !named && self.all_sent() && self.contiguous < self.total {
            let from = if beat.contiguous == 0 {
                0
            } else {
                beat.contiguous + 1
            };
            self.offer(from..self.total.min(from + TAIL), &proof);
        }
        // A front of 0 says "nothing" and "chunk 0" alike, and the known implementation never asks for chunk 0.
        if beat.contiguous == 0 && self.next > BLOCK && self.extension.is_none() {
            self.offer(0..1, &proof);
        }
        first_time
    }

    /// When a chunk that a heartbeat names must have left to be lost: so long before a packet that arrived that
    /// reordering cannot explain it, or so long ago that an answer to it would be here (9.5).
    fn proof(&self, now: Instant, beat: &Heartbeat) -> Proven {
        let smoothed = self.rtt.smoothed();
        let slowest = self.paths.slowest().unwrap_or_default();
        let cooldown = smoothed.map_or(COOLDOWN, |rtt| (rtt * 5 / 4).max(slowest));
        let ago = |span: Duration| {
            now.checked_sub(span)
                .map_or(0, |at| self.marks.stamp_at(at))
        };
        let counts = beat.extension.as_ref().and_then(|it| it.feedback);
        // An older heartbeat that was overtaken speaks of its own time.
        let highest = counts.map_or(0, |it| it.highest.min(self.feedback.echoed()));
        let highest = match self.paths.is_open() {
            true => highest.min(self.paths.overtaken()),
            false => highest,
        };
        Proven {
            overtaken: highest.saturating_sub(self.reorder().as_nanos() as u64),
            named: ago(cooldown),
            unnamed: ago(cooldown + self.feedback.interval(true)),
        }
    }

    /// Queues chunks nobody asked for, if they left so long ago that an answer would be here.
    fn offer(&mut self, chunks: Range<u64>, proof: &Proven) {
        for seq in chunks {
            let Some(sent) = self.window.get(seq / BLOCK) else {
                return;
            };
            let at = (seq % BLOCK) as usize;
            if sent.stamps[at].max(sent.resent[at]) <= proof.unnamed {
                self.repairs.insert(seq..seq + 1);
            }
        }
    }

    /// Where a repair that is lost would leave the pipe idle for a round trip, more goes along, as much as that is
    /// worth: parity of the block, or copies where the receiver holds the block no longer in memory (6.7).
    fn reinforce(&mut self, holes: &[u64], config: &Config) {
        let Some(block) = holes.first().map(|seq| seq / BLOCK) else {
            return;
        };
        let end = (block + self.window_blocks()) * BLOCK;
        let (loss, flight) = (self.feedback.loss(), self.flight());
        let full = self.next as f64 + flight >= end as f64;
        let idle = if full { flight } else { self.idle() };
        if self.extension.is_none() || idle <= 0.0 {
            return;
        }
        let held = (config.block_memory / self.chunk) as u64;
        if self.next - block * BLOCK <= held {
            let need = holes.len() as u64;
            return self.add_parity(block, parity::enough(need, loss, idle) - need);
        }
        for _ in 1..parity::enough(1, loss, idle) {
            let room = (WINDOW as usize).saturating_sub(self.copies.len());
            self.copies.extend(holes.iter().take(room));
        }
    }

    /// Feeds the controller and takes over its rate.
    fn steer(&mut self, now: Instant, beat: &Heartbeat, fresh: Option<Duration>) {
        // Of several paths the burst measured one.
        if !self.paths.is_open()
            && let Some(bandwidth) = self.feedback.dispersion(beat)
        {
            self.controller.on_dispersion(bandwidth, self.marks.last());
        }
        let rate = self.controller.rate();
        // Delivery is believed up to twice what was sent (hostile receivers claim more).
        let delivery = f64::from(beat.delivery).min(2.0 * rate);
        let delta = self.feedback.take_delta(beat, delivery, self.wire_share());
        let report = Report {
            now,
            delivery,
            loss: self.feedback.reported_loss(),
            nacks: beat.nacks.len() + beat.runs.len(),
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
        self.pace(now);
    }

    /// Wire bytes per file byte sent for the first time.
    fn wire_share(&self) -> f64 {
        let all = self.counts.data + self.counts.parities;
        all as f64 / self.counts.data.max(1) as f64 * DATAGRAM_MAX as f64 / self.chunk as f64
    }
}

/// Stamps up to which what left is known to be lost.
#[derive(Clone, Copy, Debug)]
struct Proven {
    /// If the heartbeat names it, by the order of packets; by time; and by time if it does not.
    overtaken: u64,
    named: u64,
    unnamed: u64,
}

impl Proven {
    /// Whether a chunk that left under one stamp, and whose block had its last packet under another, is lost. Order is
    /// judged by blocks: before all that was sent for one is answered for, nobody knows what it lacks.
    fn lost(&self, chunk: u64, block: u64) -> bool {
        block <= self.overtaken || chunk <= self.named
    }
}

/// Chunks of a lost tail sent again at a time (11).
const TAIL: u64 = 167;
const SILENCE: Duration = Duration::from_millis(500);
