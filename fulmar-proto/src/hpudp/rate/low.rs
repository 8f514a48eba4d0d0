//! The scavenger: takes what other traffic leaves (8.10).
//!
//! [`Low`] keeps its queue at half of what [`Delivery`](super::Delivery) takes for congestion, so that it gives way
//! before a fair flow notices it: below that target it grows, the less the nearer; above it, and at any loss beyond
//! the path's usual, it shrinks in proportion. After some rounds without a queue growth gets faster, up to doubling, so
//! that a link that falls free is soon taken. It does *not* use the burst: what a burst shows is not known to be free.

use super::super::config::DATAGRAM_MAX;
use super::{Limits, Report, Round, Seen, margin};

/// See the module's text.
#[derive(Debug)]
pub(in crate::hpudp) struct Low {
    pub(super) rate: f64,
    pub(super) limits: Limits,
    round: Round,
    /// Share usually lost.
    loss: f64,
    /// Rounds without a queue.
    calm: i32,
    /// The last round ended in a decrease.
    decreased: bool,
    /// What came through then.
    ceiling: f64,
}

impl Low {
    pub(super) fn new(start: f64, limits: Limits) -> Self {
        Self {
            rate: limits.clamp(start),
            limits,
            round: Round::default(),
            loss: 0.0,
            calm: 0,
            decreased: false,
            ceiling: 0.0,
        }
    }

    pub(super) fn on_report(&mut self, report: &Report) {
        self.round.add(report);
        let counts = self.round.sent >= ROUND_MIN && self.round.received_over > 0.0;
        if !counts || report.echoed < self.round.until {
            return;
        }
        let seen = self.round.next(report).seen(report.min_rtt);
        let lossy = seen.loss > self.loss + margin(self.loss, seen.sent);
        self.loss += (seen.loss - self.loss) * seen.sent / (seen.sent + MEMORY);
        // The packets of the round after a decrease left before it.
        if !std::mem::take(&mut self.decreased) {
            let rtt = report.smoothed_rtt.map_or(1.0, |rtt| rtt.as_secs_f64());
            let packet = DATAGRAM_MAX as f64 / rtt.max(1e-3);
            self.rate = self.limits.clamp(self.next(&seen, lossy, packet));
        }
    }

    /// The rate from now on. `packet` is one in a round trip, the least growth.
    fn next(&mut self, seen: &Seen, lossy: bool, packet: f64) -> f64 {
        // 1 without a queue, 0 at the target, below that beyond it.
        let room = 1.0 - (seen.delay + seen.growth) / (seen.limit * TARGET);
        self.calm = if room > 0.5 && !lossy {
            self.calm + 1
        } else {
            0
        };
        if lossy || room < 0.0 {
            self.decreased = true;
            let cut = if lossy { 0.5 } else { -room * YIELD };
            // More than comes through was never ours.
            self.ceiling = seen.arrived.min(self.rate);
            return self.ceiling * (1.0 - cut.min(0.5));
        }
        // What we had no bytes for shows nothing.
        if seen.left < 0.7 * self.rate {
            return self.rate;
        }
        // What a queue stood at before is approached slowly, until it has long been gone.
        let near = self.rate > 0.8 * self.ceiling;
        let calm = self.calm - if near { 4 * CALM } else { CALM };
        let boost = 1.5f64.powi(calm.clamp(0, 20));
        self.rate + (self.rate * (STEP * boost).min(1.0)).max(packet) * room
    }
}

/// Packets without which a round does not end: at the least rate they are half a second.
const ROUND_MIN: f64 = 4.0;
/// The queue it lets stand, as a share of what counts as congestion.
const TARGET: f64 = 0.5;
/// Decrease for each target's worth of queue beyond the target, at most a half.
const YIELD: f64 = 0.25;
/// Growth a round without a queue.
const STEP: f64 = 0.02;
/// Rounds without a queue after which growth gets faster.
const CALM: i32 = 8;
/// Packets over which the usual loss is averaged.
const MEMORY: f64 = 4000.0;
