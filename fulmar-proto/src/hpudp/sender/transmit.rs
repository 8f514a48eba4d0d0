//! What leaves next, and when: pacing, turns between repairs, parity and new chunks, the bytes of each packet.
//!
//! It does *not* decide what is missing.

use std::time::{Duration, Instant};

use super::super::config::{BLOCK, CHUNK_PLAIN, Config, Control, DATAGRAM_MAX, Parity};
use super::super::packet::{Header, Kind, flag};
use super::super::parity;
use super::super::rate::Controller;
use super::super::session::Shared;
use super::super::{blocks, keys};
use super::{COOLDOWN, START_PARITY, Sender, State};
use crate::crypto::Sealer;
use crate::fec::{BlockEncoder, Scheme};

impl Sender {
    /// Appends up to `max` datagrams, all as long as the first but for the last; returns the first one's length.
    pub(in crate::hpudp) fn poll_transmit(
        &mut self,
        now: Instant,
        max: usize,
        buf: &mut Vec<u8>,
        shared: &mut Shared<'_>,
    ) -> Option<usize> {
        while let Some(bytes) = self.outgoing.pop_front() {
            if !self.gate.as_mut().is_none_or(|gate| gate.say(bytes.len())) {
                continue;
            }
            self.pacer.spend(now, bytes.len() as u64);
            buf.extend_from_slice(&bytes);
            self.paths.next();
            return Some(bytes.len());
        }
        let gated = self
            .gate
            .is_some_and(|gate| gate.room() < DATAGRAM_MAX || self.state == State::Requesting);
        if gated {
            self.probe_due = false;
            self.wake = None;
            return None;
        }
        if std::mem::take(&mut self.probe_due) {
            self.paths.next_of_all();
            return self.probe(now, buf, shared.config);
        }
        self.wake = None;
        if self.state != State::Streaming {
            return None;
        }
        let start = buf.len();
        let mut allowed = self.allowed(now, max)?;
        if self.looks(now) {
            allowed = 1;
        } else if self.proved {
            self.paths.next();
        }
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
            if let Some(gate) = &mut self.gate {
                gate.say(buf.len() - start);
            }
            self.pacer.spend(now, (buf.len() - start) as u64);
            self.wake = Some(now);
        }
        segment
    }

    /// Whether one packet is to try a path that has not shown that it works. One that nobody has seen, so that its stamp
    /// tells which path it came by; and none of the burst, which measures one path.
    fn looks(&mut self, now: Instant) -> bool {
        let fresh = self.next < (self.window.next() * BLOCK).min(self.total);
        let free =
            self.proved && self.paths.is_open() && fresh && self.next >= self.feedback.burst();
        let looks = free && self.paths.look(now, DATAGRAM_MAX);
        if looks {
            // Something new is due then, and not another repair.
            self.streak = u32::MAX;
        }
        looks
    }

    /// How many packets may leave now; sets the wake-up when none.
    fn allowed(&mut self, now: Instant, max: usize) -> Option<usize> {
        if self.next < self.feedback.burst().min(self.total) && self.window.next() > 0 {
            return Some(max.min((self.feedback.burst() - self.next) as usize).max(1));
        }
        self.pass_holes();
        if !self.has_something() {
            return None;
        }
        if self.gate.is_some() {
            // One packet, to see whether its stamp comes back (19.5.4).
            return (self.next == 0).then_some(1);
        }
        if self.heard.is_none() && self.marks.sent() - self.unheard_from >= UNHEARD {
            return None;
        }
        let room = match self.controller {
            Controller::Delivery(_) | Controller::Low(_) => self.room(now),
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

    /// Moves on over blocks that were never asked of the application because the receiver had them, even if its latest
    /// heartbeat, an old one that came late, does not say so.
    fn pass_holes(&mut self) {
        while let Some(sent) = self.window.get(self.next / BLOCK)
            && sent.bytes.is_empty()
            && self.next < self.total
        {
            self.next = ((self.next / BLOCK + 1) * BLOCK).min(self.total);
        }
    }

    fn has_something(&self) -> bool {
        !self.parities.is_empty()
            || !self.repairs.is_empty()
            || !self.copies.is_empty()
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
        let socket = self.extension.as_ref();
        let socket = socket.map_or(0, |extension| extension.socket_datagrams);
        if socket > 0 {
            cap = cap.min(packets * min_rtt.as_secs_f64() + f64::from(socket) / 2.0);
        }
        let patience =
            self.rtt.smoothed().unwrap_or(min_rtt) * 2 + self.feedback.interval(true) * 4 + STALL;
        let flying = self.marks.in_flight(now, patience);
        let cap = (cap as usize).max(16);
        let by_path = cap.saturating_sub(flying as usize);
        // What the receiver has no room for it drops: give packets up much later than the path alone would.
        let Some(room) = self.feedback.room() else {
            return by_path;
        };
        let unanswered = self.marks.in_flight(now, patience + ROOM_STALL);
        by_path.min((room as usize).saturating_sub(unanswered as usize))
    }

    /// Three repairs, then something new, so that a flood of them cannot stop progress (9, lesson D).
    fn next_packet(&mut self, now: Instant, buf: &mut Vec<u8>, config: &Config) -> bool {
        let fresh = self.next < (self.window.next() * BLOCK).min(self.total);
        // Once everything was sent, a block's repairs and parity leave together, so that they are answered together.
        let parity_first = !fresh
            && matches!((self.parities.front(), self.repairs.first()),
                (Some((block, _)), Some(seq)) if *block < seq / BLOCK);
        if !parity_first && (self.streak < 3 || !fresh) && self.repair(now, buf, config) {
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
            self.fresh(now, buf, config);
            return true;
        }
        self.repair(now, buf, config)
    }

    /// The next chunk, for the first time.
    fn fresh(&mut self, now: Instant, buf: &mut Vec<u8>, config: &Config) {
        let seq = self.next;
        self.next += 1;
        self.counts.data += 1;
        self.data(now, seq, buf);
        self.end_of_block(seq, config);
        if self.next.is_multiple_of(BLOCK) {
            self.next = (self.had.next_gap(self.next / BLOCK) * BLOCK).min(self.total);
            self.pass_holes();
        }
    }

    fn repair(&mut self, now: Instant, buf: &mut Vec<u8>, config: &Config) -> bool {
        if self.repair_gate.is_some_and(|at| now < at) {
            self.wake = self.repair_gate;
            return false;
        }
        while let Some(seq) = self.repairs.pop_first().or_else(|| self.copies.pop_front()) {
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
            (Parity::Table, true) => u64::from(parity::table(self.feedback.reported_loss(), k)),
            (Parity::Adaptive, true) if self.is_tail() => {
                parity::enough(k, self.feedback.loss(), self.idle()) - k
            }
            (Parity::Adaptive, true) if self.extension.is_none() => {
                let interval = self.feedback.interval(true);
                let packets = self.controller.rate() / DATAGRAM_MAX as f64;
                u64::from(parity::unasked(self.feedback.loss(), packets, interval, k))
            }
            (Parity::Adaptive, true) => 0,
            (Parity::Adaptive, false) if self.extension.is_some() && !self.is_tail() => 0,
            (_, false) => (k * u64::from(START_PARITY)).div_ceil(100).max(2),
        };
        self.parity_now = m.min(255 - k) as u8;
        self.add_parity(block, m);
    }

    /// Queues parity of a block that was not used yet, as far as there is any.
    pub(super) fn add_parity(&mut self, block: u64, count: u64) {
        let k = blocks::k(self.total, block);
        let Some(sent) = self.window.get_mut(block) else {
            return;
        };
        let free = (255 - k).saturating_sub(u64::from(sent.parity_used));
        let count = count.min(free) as u8;
        self.parities
            .extend((sent.parity_used..sent.parity_used + count).map(|index| (block, index)));
        sent.parity_used += count;
    }

    /// Packets that leave in the time in which a loss is noticed: what one more round trip at the end is worth.
    pub(super) fn flight(&self) -> f64 {
        let answer = self.rtt.smoothed().unwrap_or(COOLDOWN) + self.feedback.interval(true);
        let round = answer + self.reorder();
        self.controller.rate() / DATAGRAM_MAX as f64 * round.as_secs_f64()
    }

    /// How much later than a packet sent after it one may arrive (9.5).
    pub(super) fn reorder(&self) -> Duration {
        let eighth = self.rtt.min().map_or(REORDER_MAX, |rtt| rtt / 8);
        eighth.clamp(REORDER_MIN, REORDER_MAX)
    }

    /// Whether everything else will have left by the time that a loss of now can be repaired, so that repairing it
    /// makes the transfer longer.
    pub(super) fn is_tail(&self) -> bool {
        self.idle() > 0.0
    }

    /// Packets that could have left in the time for which a loss of now makes the transfer longer: those of a flight,
    /// but for all that leaves meanwhile.
    pub(super) fn idle(&self) -> f64 {
        let extra = self.parities.len() + self.copies.len();
        let spared = self.had.iter().map(|it| {
            (it.end * BLOCK)
                .min(self.total)
                .saturating_sub((it.start * BLOCK).max(self.next))
        });
        let unsent = (self.total - self.next).saturating_sub(spared.sum());
        let left = unsent + self.repairs.len() + extra as u64;
        let arriving = (1.0 - self.feedback.loss()).max(0.1);
        (self.flight() - left as f64 / arriving).max(0.0)
    }

    /// One DATA packet, for the first time or again. A sealed one is the same bytes each time; a plain one gets a
    /// new stamp, and so measures the round trip. `false` when the chunk is no longer in the window.
    fn data(&mut self, now: Instant, seq: u64, buf: &mut Vec<u8>) -> bool {
        let (sealed, total, chunk) = (self.sealer.is_some(), self.total, self.chunk);
        let sent = self.window.get_mut(seq / BLOCK);
        let Some(sent) = sent.filter(|it| !it.bytes.is_empty()) else {
            return false;
        };
        let issued = self.marks.issue(now);
        let at = (seq % BLOCK) as usize;
        let again = sent.stamps[at] != 0;
        sent.last = issued;
        if again {
            sent.resent[at] = issued;
        }
        if !again || !sealed {
            sent.stamps[at] = issued;
        } else {
            self.marks.resend(sent.stamps[at]);
        }
        self.paths.leave(sent.stamps[at], again && sealed);
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
        let sent = self.window.get_mut(block);
        let Some(sent) = sent.filter(|it| !it.bytes.is_empty()) else {
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
        sent.last = header.stamp;
        self.paths.leave(header.stamp, false);
        let mut payload = [0; CHUNK_PLAIN];
        let payload = &mut payload[..self.chunk];
        encoder.parity(index, &sent.bytes, payload);
        self.counts.parities += 1;
        append(header, payload, self.sealer.as_mut(), buf);
        true
    }

    /// The lowest chunk the receiver may lack, again (10). Where the receiver may have moved it must be a packet whose
    /// stamp nobody has seen, which a sealed chunk sent again is not.
    fn probe(&mut self, now: Instant, buf: &mut Vec<u8>, config: &Config) -> Option<usize> {
        let before = buf.len();
        if self.moved_at.is_some() && self.sealer.is_some() && self.news(now, buf, config) {
            self.pacer.spend(now, (buf.len() - before) as u64);
            return Some(buf.len() - before);
        }
        let seq = self.contiguous.min(self.total.saturating_sub(1));
        if self.next > seq && self.data(now, seq, buf) {
            if let Some(gate) = &mut self.gate {
                gate.say(buf.len() - before);
            }
            self.counts.retransmitted += 1;
            self.pacer.spend(now, (buf.len() - before) as u64);
            return Some(buf.len() - before);
        }
        None
    }

    /// A packet that was never sent before: the next chunk, or more parity for the first block that is not whole.
    fn news(&mut self, now: Instant, buf: &mut Vec<u8>, config: &Config) -> bool {
        if self.next < (self.window.next() * BLOCK).min(self.total) {
            self.fresh(now, buf, config);
            return true;
        }
        let block = self.contiguous.min(self.total.saturating_sub(1)) / BLOCK;
        let k = blocks::k(self.total, block);
        match self.window.get_mut(block) {
            Some(sent) if !sent.bytes.is_empty() && u64::from(sent.parity_used) < 255 - k => {
                let index = sent.parity_used;
                sent.parity_used += 1;
                self.parity(now, block, index, buf)
            }
            Some(_) | None => false,
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
    match sealer {
        Some(sealer) => sealer.seal_onto(keys::nonce(&header), &head, payload, buf),
        None => buf.extend_from_slice(payload),
    }
}

/// The pacer sleeps until this much time's worth of bytes may leave at once; the kernel takes up to 46 datagrams.
const QUANTUM: Duration = Duration::from_micros(250);
const QUANTUM_MAX: u64 = 46 * DATAGRAM_MAX as u64;
/// Packets before the first heartbeat: about a second's worth at the starting rate (4.6).
const UNHEARD: u64 = 2_000_000 / DATAGRAM_MAX as u64;
/// Under the published rules the last repairs leave in batches of ten, two milliseconds apart (11).
const TEARDOWN_BATCH: u64 = 10;
const TEARDOWN_PAUSE: Duration = Duration::from_millis(2);
/// Reordering that is expected: an eighth of a round trip, within these bounds.
const REORDER_MIN: Duration = Duration::from_millis(1);
const REORDER_MAX: Duration = Duration::from_millis(25);
/// Beyond two round trips, how long a packet counts as in flight.
const STALL: Duration = Duration::from_millis(20);
/// The same where it is the receiver's room that limits.
const ROOM_STALL: Duration = Duration::from_millis(250);
