//! What a sender knows about its packets: when each left, which arrived, how fast and how many did not.
//!
//! [`Marks`] issues the stamps and remembers how many packets had left by each, so that one echoed stamp tells how
//! many had been sent when that packet was. [`Feedback`] compares that with what the receiver counts. Against a
//! receiver without our extension it makes do with the published fields. It does *not* decide anything.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::{DATAGRAM_MAX, WINDOW};
use super::packet::Heartbeat;
use super::session::table_interval;
use crate::engine::RttEstimator;

/// Stamps issued and packets sent (7.4).
#[derive(Debug)]
pub(super) struct Marks {
    base: u64,
    started: Instant,
    last: u64,
    sent: u64,
    queue: VecDeque<Mark>,
    acked: Mark,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    stamp: u64,
    /// Packets that had left by then, this one included.
    sent: u64,
    /// The packet left again under the same stamp: an echo no longer tells when (Karn).
    again: bool,
}

impl Marks {
    /// `base` is random; the stamps' origin lies between 2^60 and 2^62, so nobody off the path can guess one.
    pub(super) fn new(now: Instant, base: u64) -> Self {
        let base = (base % (3 << 60) + (1 << 60)) & !1;
        Self {
            base,
            started: now,
            last: base,
            sent: 0,
            queue: VecDeque::new(),
            acked: Mark {
                stamp: base,
                ..Mark::default()
            },
        }
    }

    /// A stamp for a packet that leaves now: odd, and higher than any before. A packet sent again under its old
    /// stamp takes one too, which nobody will ever echo.
    pub(super) fn issue(&mut self, now: Instant) -> u64 {
        self.last = (self.stamp_at(now) | 1).max((self.last + 1) | 1);
        self.sent += 1;
        if self.queue.len() as u64 >= 4 * WINDOW {
            self.queue.pop_front();
        }
        self.queue.push_back(Mark {
            stamp: self.last,
            sent: self.sent,
            again: false,
        });
        self.last
    }

    /// A packet leaves again under the stamp it had.
    pub(super) fn resend(&mut self, stamp: u64) {
        if let Ok(at) = self.queue.binary_search_by_key(&stamp, |mark| mark.stamp) {
            self.queue[at].again = true;
        }
    }

    /// The last stamp issued.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Packets sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether a stamp can be an echo: one of those not yet echoed, or one in the range of those that were.
    pub(super) fn issued(&self, stamp: u64) -> bool {
        if stamp <= self.acked.stamp {
            return stamp > self.base && stamp & 1 == 1;
        }
        self.queue
            .binary_search_by_key(&stamp, |mark| mark.stamp)
            .is_ok()
    }

    /// When the packet of a stamp left.
    pub(super) fn time_of(&self, stamp: u64) -> Instant {
        self.started + Duration::from_nanos(stamp.saturating_sub(self.base))
    }

    /// The stamp of a packet that leaves at an instant.
    pub(super) fn stamp_at(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.started).as_nanos();
        self.base + u64::try_from(elapsed).unwrap_or(u64::MAX >> 2)
    }

    /// Takes an echo higher than any before: packets sent, and time passed at this side, since the last one,
    /// and whether it measures the round trip.
    fn ack(&mut self, stamp: u64) -> Option<(u64, Duration, bool)> {
        if stamp <= self.acked.stamp {
            return None;
        }
        let at = self
            .queue
            .binary_search_by_key(&stamp, |mark| mark.stamp)
            .ok()?;
        let mark = self.queue[at];
        self.queue.drain(..=at);
        let before = std::mem::replace(&mut self.acked, mark);
        Some((
            mark.sent - before.sent,
            Duration::from_nanos(mark.stamp - before.stamp),
            !mark.again,
        ))
    }

    /// Packets sent after the last one known to have arrived, leaving out those older than `patience`: a packet
    /// that is lost does not stay in flight for ever.
    pub(super) fn in_flight(&self, now: Instant, patience: Duration) -> u64 {
        let horizon = now.checked_sub(patience).map_or(0, |at| self.stamp_at(at));
        let gone = self.queue.partition_point(|mark| mark.stamp <= horizon);
        let settled = gone
            .checked_sub(1)
            .map_or(self.acked.sent, |at| self.queue[at].sent);
        self.sent - settled
    }
}

/// What one heartbeat adds: packets that left between two echoes, and those that came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delta {
    pub(super) sent: f64,
    pub(super) sent_over: Duration,
    pub(super) received: f64,
    pub(super) received_over: Duration,
}

/// The receiver's view, heartbeat by heartbeat.
#[derive(Debug, Default)]
pub(super) struct Feedback {
    burst: u64,
    last_beat: Option<Instant>,
    /// Measured spacing of heartbeats, seconds.
    spacing: Option<f64>,
    delivery: f64,
    echoed: u64,
    /// Sent since the counts were last compared.
    open: Delta,
    counted: Option<(u64, u64)>,
    exact: bool,
    loss: f64,
    knows_loss: bool,
    reported: f64,
    ever_reported: bool,
    inferred: f64,
    data_before: u64,
    dispersed: bool,
    room: Option<u32>,
    /// Sent and received since the counts were last compared, path by path: where there are several, what the slower
    /// ones still have on the way is not lost.
    by_path: Option<(f64, f64)>,
    /// The most that a heartbeat said had come, and whether the last one said less.
    newest: u64,
    stale: bool,
}

impl Feedback {
    /// For a session that starts with a burst of so many packets.
    pub(super) fn new(burst: u64) -> Self {
        Self {
            burst,
            ..Self::default()
        }
    }

    /// Packets of the calibration burst.
    pub(super) fn burst(&self) -> u64 {
        self.burst
    }

    /// Datagrams the receiver has room for beyond those it has answered for, if it tells.
    pub(super) fn room(&self) -> Option<u32> {
        self.room
    }

    /// File bytes a second at the receiver, as last reported.
    pub(super) fn delivery(&self) -> f64 {
        self.delivery
    }

    /// The highest stamp known to have arrived.
    pub(super) fn echoed(&self) -> u64 {
        self.echoed
    }

    /// Raw loss, 0 to 1, as exactly as is known.
    pub(super) fn loss(&self) -> f64 {
        if self.exact {
            self.loss
        } else {
            self.reported_loss()
        }
    }

    /// Whether [`loss`](Self::loss) rests on anything.
    pub(super) fn knows_loss(&self) -> bool {
        self.knows_loss
    }

    /// Loss by the published fields: what the receiver reports, or what its NACKs show if it never does (8.5).
    pub(super) fn reported_loss(&self) -> f64 {
        if self.ever_reported || self.exact {
            self.reported
        } else {
            self.reported.max(self.inferred)
        }
    }

    /// Spacing of heartbeats: as measured, or as the table has it for the rate last reported.
    pub(super) fn interval(&self, measured: bool) -> Duration {
        let table = table_interval(self.delivery);
        match self.spacing.filter(|_| measured) {
            Some(spacing) => Duration::from_secs_f64(spacing).min(table),
            None => table,
        }
    }

    /// Takes the echo; returns the round trip if this heartbeat measured one (7.4).
    pub(super) fn on_heartbeat(
        &mut self,
        now: Instant,
        beat: &Heartbeat,
        marks: &mut Marks,
        rtt: &mut RttEstimator,
    ) -> Option<Duration> {
        if let Some(before) = self.last_beat.replace(now) {
            let gap = now.duration_since(before).as_secs_f64().clamp(1e-3, 1.0);
            let old = self.spacing.unwrap_or(gap);
            self.spacing = Some(old + (gap - old) / 8.0);
        }
        self.delivery = f64::from(beat.delivery);
        self.reported = f64::from(beat.loss) / 10_000.0;
        self.ever_reported |= beat.loss > 0;
        let counts = beat
            .extension
            .as_ref()
            .and_then(|extension| extension.feedback);
        self.room = counts.map(|counts| counts.room);
        let received = counts.map_or(0, |counts| counts.received);
        self.stale = received < self.newest;
        self.newest = self.newest.max(received);
        let (stamp, held) = match counts {
            Some(counts) => (
                counts.highest,
                Duration::from_micros(u64::from(counts.held)),
            ),
            None => (beat.echo, Duration::ZERO),
        };
        let (sent, over, once) = marks.ack(stamp)?;
        self.echoed = stamp;
        self.open.sent += sent as f64;
        self.open.sent_over += over;
        let sample = now
            .saturating_duration_since(marks.time_of(stamp))
            .saturating_sub(held);
        if sample >= RTT_MAX || !once {
            return None;
        }
        let sample = sample.max(RTT_MIN);
        rtt.sample(now, sample);
        Some(sample)
    }

    /// Adds what the heartbeat just taken tells of single paths.
    pub(super) fn count(&mut self, sent: f64, came: f64) {
        let (sent_before, came_before) = self.by_path.unwrap_or_default();
        self.by_path = Some((sent_before + sent, came_before + came));
    }

    /// Whether the heartbeat just taken is older than one that came before it.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Packets sent and received since last asked. `delivery` is the reported rate as far as it is believed,
    /// `wire_share` wire bytes per file byte.
    pub(super) fn take_delta(&mut self, beat: &Heartbeat, delivery: f64, wire_share: f64) -> Delta {
        if self.open.sent == 0.0 {
            return Delta::default();
        }
        match beat
            .extension
            .as_ref()
            .and_then(|extension| extension.feedback)
        {
            Some(counts) => {
                let Some((received, at)) = self.counted.replace((counts.received, counts.at))
                else {
                    self.open = Delta::default();
                    return Delta::default();
                };
                let mut open = std::mem::take(&mut self.open);
                self.exact = true;
                let mut came = counts.received.saturating_sub(received) as f64;
                if let Some((sent, by_path)) = self.by_path.take() {
                    (open.sent, came) = (sent, by_path);
                }
                // More than was sent cannot have come; duplicates on the path look like that.
                let came = came.min(open.sent * 2.0);
                self.note_loss(1.0 - came / open.sent, open.sent);
                let received_over = Duration::from_nanos(counts.at.saturating_sub(at));
                Delta {
                    received: came,
                    received_over,
                    ..open
                }
            }
            None => {
                if delivery <= 0.0 {
                    return Delta::default();
                }
                let open = std::mem::take(&mut self.open);
                let loss = self.reported_loss();
                let received = open.sent * (1.0 - loss);
                let rate = delivery * wire_share * (1.0 - loss);
                self.knows_loss = true;
                let over = received * DATAGRAM_MAX as f64 / rate.max(1.0);
                let received_over = Duration::try_from_secs_f64(over).unwrap_or(Duration::MAX);
                Delta {
                    received,
                    received_over,
                    ..open
                }
            }
        }
    }

    /// A receiver that asks for repairs and never reports loss: its requests show it (8.5).
    pub(super) fn infer_loss(&mut self, first_time: u64, data_sent: u64) {
        let sent = data_sent - std::mem::replace(&mut self.data_before, data_sent);
        if sent > 0 {
            let sample = (first_time as f64 / sent as f64).min(1.0);
            self.inferred += (sample - self.inferred) / 4.0;
        }
    }

    /// Bandwidth the burst showed, in wire bytes a second, the first time a receiver tells (4.7). Under 50 us it
    /// shows how hosts bundle packets, not what the path carries.
    pub(super) fn dispersion(&mut self, beat: &Heartbeat) -> Option<f64> {
        if self.dispersed || beat.dispersion == 0 || self.burst < 2 {
            return None;
        }
        self.dispersed = true;
        let spaces = (self.burst - 1) as f64;
        (beat.dispersion >= DISPERSION_MIN)
            .then(|| spaces * DATAGRAM_MAX as f64 * 1e9 / beat.dispersion as f64)
    }

    fn note_loss(&mut self, sample: f64, packets: f64) {
        let sample = sample.clamp(0.0, 1.0);
        let weight = if self.knows_loss {
            (packets / 500.0).min(1.0)
        } else {
            1.0
        };
        self.loss += (sample - self.loss) * weight;
        self.knows_loss |= packets >= 20.0;
    }
}

/// Round trips outside these bounds are not believed, or not believed to be so short (7.4).
const RTT_MIN: Duration = Duration::from_millis(1);
const RTT_MAX: Duration = Duration::from_secs(10);
const DISPERSION_MIN: u64 = 50_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn stamps_rise_are_odd_and_cannot_be_guessed_from_the_clock() {
        let start = Instant::now();
        let mut marks = Marks::new(start, u64::MAX);
        let mut before = 0;
        for step in [0u64, 0, 0, 1, 1, 5, 1_000_000] {
            let stamp = marks.issue(start + Duration::from_nanos(step));
            assert!(
                stamp > before && stamp & 1 == 1 && stamp >= 1 << 60,
                "{stamp:x}"
            );
            before = stamp;
        }
        assert!(!marks.issued(before + 2), "never issued");
        assert!(!marks.issued(before - 1), "even");
        assert!(marks.issued(before));
    }

    #[test]
    fn an_echo_tells_how_many_had_left() {
        let start = Instant::now();
        let mut marks = Marks::new(start, 0);
        let at = |ms| start + Duration::from_millis(ms);
        let stamps: Vec<u64> = (0..100).map(|ms| marks.issue(at(ms))).collect();
        assert_eq!(
            marks.ack(stamps[49]).unwrap(),
            (50, Duration::from_nanos(49_000_001), true)
        );
        assert_eq!(
            marks.ack(stamps[30]),
            None,
            "an older echo tells nothing new"
        );
        marks.resend(stamps[99]);
        let (sent, _, once) = marks.ack(stamps[99]).unwrap();
        assert!(
            sent == 50 && !once,
            "Karn: sent twice, so it measures nothing"
        );
        let more: Vec<u64> = (100..110).map(|ms| marks.issue(at(ms))).collect();
        assert_eq!(marks.in_flight(at(110), Duration::from_secs(1)), 10);
        assert_eq!(
            marks.in_flight(at(114), Duration::from_micros(9_500)),
            5,
            "the older half is given up"
        );
        assert!(marks.issued(more[0]) && marks.issued(stamps[0]));
    }
}
