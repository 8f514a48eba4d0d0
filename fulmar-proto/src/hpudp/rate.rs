//! How fast to send: the published rules, and ours.
//!
//! **[`Hpudp`]** follows clause 8 line by line. It reads raw loss as congestion, so any steady random loss above 5 %
//! pins it to its floor; it is kept for comparison and for those who need it.
//!
//! **[`Delivery`]** separates what we cause from what we do not. It works in rounds of one round trip. Each round
//! compares what was sent with what arrived: the delivery rate, the share lost, and how much longer the fastest
//! packet took than the fastest ever. Two baselines stand for the path itself: the loss and the delay that were
//! there *while we sent less than the path carries*. Only what exceeds the baselines counts as congestion:
//!
//! ```text
//!  Startup ──x2 a round──► congested ─► Settle: one round below the delivery rate, deep enough to empty the queue
//!     ▲                        ▲             │
//!     │ the loss was not ours  │             ▼
//!     └────────────────────────┼──── Measure: the packets sent while settled show the baselines anew
//!                              │             │
//!                     Cruise ◄─┴─────────────┘   + a few per cent a round until congested again,
//!                                                25 % while congestion was never seen
//! ```
//!
//! *Why random loss does not slow it:* after Settle, loss that is still there was not ours. It becomes the
//! baseline, and the rate returns to `delivered / (1 - baseline)`, which undoes the decrease exactly.
//! *Why it backs off:* at a bottleneck of capacity R a sender above R sees delivery stay at R while queue or loss
//! grow. Settle sends below R, so the excess vanishes, the baseline stays, and the rate returns to what was
//! delivered: R. If the baseline is too high, `b' = 1 - (1 - b) / (1 - d/n)` after a decrease by `d` of one of `n`
//! equal flows: it shrinks at every Settle until nothing is dropped, so no fixed point with standing loss exists.
//! *Why flows share:* a decrease returns every flow to its delivered share and keeps their ratio; the increase is
//! concave in the rate (`~ sqrt(rate)`), so each cycle moves the ratio towards one.
//!
//! This module does *not* pace, count packets or choose parity; it turns reports into a rate.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::{CHUNK_PLAIN, Config, Control, DATAGRAM_MAX};

/// What one heartbeat tells the controllers. Rates are in bytes a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) now: Instant,
    /// File bytes a second, as the receiver measured it (E).
    pub(super) delivery: f64,
    /// Raw loss as the receiver reports it, or as inferred from its NACKs (L), 0 to 1.
    pub(super) loss: f64,
    /// NACKs it carries (N).
    pub(super) nacks: usize,
    /// A round trip measured with this heartbeat.
    pub(super) rtt: Option<Duration>,
    pub(super) smoothed_rtt: Option<Duration>,
    pub(super) min_rtt: Option<Duration>,
    /// Packets that left between the previous and this heartbeat's echo, and how long that took.
    pub(super) sent: f64,
    pub(super) sent_over: Duration,
    /// Packets that arrived between them, and how long that took at the receiver.
    pub(super) received: f64,
    pub(super) received_over: Duration,
    /// Highest stamp known to have arrived, and the last one issued.
    pub(super) echoed: u64,
    pub(super) issued: u64,
    /// Expected time to the next heartbeat.
    pub(super) interval: Duration,
}

/// The controller in force.
#[derive(Debug)]
pub(super) enum Controller {
    Delivery(Delivery),
    Hpudp(Hpudp),
    Fixed(f64),
}

impl Controller {
    pub(super) fn new(config: &Config) -> Self {
        let start = config.start_rate.bytes_per_sec() as f64;
        let max = config
            .max_rate
            .map_or(f64::INFINITY, |rate| rate.bytes_per_sec() as f64);
        let limits = Limits {
            min: config.min_rate.bytes_per_sec() as f64,
            max,
        };
        match config.control {
            Control::Delivery => Self::Delivery(Delivery::new(start, limits)),
            Control::Hpudp => Self::Hpudp(Hpudp::new(start, limits)),
            Control::Fixed => Self::Fixed(if max.is_finite() { max } else { start }),
        }
    }

    /// Bytes of UDP payload a second.
    pub(super) fn rate(&self) -> f64 {
        match self {
            Self::Delivery(it) => it.rate,
            Self::Hpudp(it) => it.rate,
            Self::Fixed(rate) => *rate,
        }
    }

    /// From now on the rate is at most so many bytes a second. A fixed rate stays what it is: the sender's cap holds
    /// without its controller.
    pub(super) fn set_max(&mut self, max: f64) {
        let (rate, limits) = match self {
            Self::Delivery(it) => (&mut it.rate, &mut it.limits),
            Self::Hpudp(it) => (&mut it.rate, &mut it.limits),
            Self::Fixed(_) => return,
        };
        limits.max = max;
        *rate = limits.clamp(*rate);
    }

    pub(super) fn on_report(&mut self, report: &Report) {
        match self {
            Self::Delivery(it) => it.on_report(report),
            Self::Hpudp(it) => it.on_report(report),
            Self::Fixed(_) => {}
        }
    }

    /// The calibration burst showed this bandwidth (4.7).
    pub(super) fn on_dispersion(&mut self, bandwidth: f64) {
        match self {
            Self::Delivery(it) => it.on_dispersion(bandwidth),
            Self::Hpudp(it) => it.peak = it.peak.max(bandwidth),
            Self::Fixed(_) => {}
        }
    }

    /// Queueing delay this controller tolerates, on which the cap of bytes in flight is built.
    pub(super) fn delay_budget(&self, min_rtt: Duration) -> Duration {
        match self {
            Self::Delivery(it) => Duration::from_secs_f64(it.base_delay) + delay_limit(min_rtt) * 2,
            Self::Hpudp(_) | Self::Fixed(_) => Duration::from_secs(1),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    min: f64,
    max: f64,
}

impl Limits {
    fn clamp(self, rate: f64) -> f64 {
        rate.min(self.max).max(self.min)
    }
}

/// Ours. See the module's text.
#[derive(Debug)]
pub(super) struct Delivery {
    rate: f64,
    limits: Limits,
    mode: Mode,
    /// Loss and queueing delay (seconds) that are there when we are not the cause.
    base_loss: f64,
    base_delay: f64,
    /// Most that the loss baseline may drift up to without another deep Settle.
    loss_ceiling: f64,
    /// Congestion has been seen, so the capacity is known and growth goes by small steps.
    found: bool,
    /// Loss that made us settle.
    suspect: f64,
    /// Rate at which Startup was interrupted.
    interrupted: Option<f64>,
    /// Delivered wire bytes a second of the last rounds.
    delivered: VecDeque<f64>,
    round: Round,
    /// Rounds of growth since the last congestion.
    calm: u32,
    calm_before: u32,
    settled_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Startup,
    /// One round below capacity; `deep` at half of it.
    Settle {
        deep: bool,
    },
    /// The round in which the packets of Settle are answered for.
    Measure {
        deep: bool,
    },
    Cruise,
}

#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Ends when this stamp is known to have arrived.
    until: u64,
    sent: f64,
    sent_over: f64,
    received: f64,
    received_over: f64,
    min_rtt: Option<Duration>,
}

impl Delivery {
    fn new(start: f64, limits: Limits) -> Self {
        Self {
            rate: limits.clamp(start),
            limits,
            mode: Mode::Startup,
            base_loss: 0.0,
            base_delay: 0.0,
            loss_ceiling: 0.0,
            found: false,
            suspect: 0.0,
            interrupted: None,
            delivered: VecDeque::with_capacity(MEMORY),
            round: Round::default(),
            calm: 0,
            calm_before: 0,
            settled_at: None,
        }
    }

    fn on_dispersion(&mut self, bandwidth: f64) {
        if self.mode == Mode::Startup && bandwidth > self.rate {
            self.rate = self.limits.clamp(TRUST * bandwidth);
            self.mode = Mode::Cruise;
        }
    }

    fn on_report(&mut self, report: &Report) {
        let round = &mut self.round;
        round.sent += report.sent;
        round.sent_over += report.sent_over.as_secs_f64();
        round.received += report.received;
        round.received_over += report.received_over.as_secs_f64();
        round.min_rtt = [round.min_rtt, report.rtt].into_iter().flatten().min();
        let over =
            report.echoed >= round.until && round.sent >= ROUND_MIN && round.received_over > 0.0;
        if !over {
            return;
        }
        let round = std::mem::replace(
            &mut self.round,
            Round {
                until: report.issued,
                ..Round::default()
            },
        );
        self.end_round(&round, report);
        self.rate = self.limits.clamp(self.rate);
    }

    fn end_round(&mut self, round: &Round, report: &Report) {
        let datagram = DATAGRAM_MAX as f64;
        let loss = (1.0 - round.received / round.sent).clamp(0.0, 1.0);
        let arrived = round.received * datagram / round.received_over;
        let left = round.sent * datagram / round.sent_over.max(1e-6);
        let min_rtt = report.min_rtt.unwrap_or(Duration::from_millis(1));
        let delay = round
            .min_rtt
            .map_or(0.0, |rtt| rtt.saturating_sub(min_rtt).as_secs_f64());
        let limit = delay_limit(min_rtt).as_secs_f64();
        let lossy = loss > self.base_loss + margin(self.base_loss, round.sent);
        let queued = delay > self.base_delay + limit;
        let busy = left > 0.7 * self.rate;
        // A round in which we had little to send shows no capacity; and what arrived cannot have outrun what left
        // for long: a compressed burst of arrivals is no capacity either.
        if busy {
            self.remember(arrived.min(left * 1.05));
        }
        self.found |= queued;
        match self.mode {
            Mode::Startup if lossy || queued => {
                self.interrupted = Some(self.rate);
                // Nothing is known of the path yet: find out in one step.
                self.settle(report, loss, delay, lossy);
            }
            Mode::Startup => {
                if busy {
                    self.rate *= 2.0;
                }
            }
            Mode::Settle { deep } => {
                self.rate = self.capacity();
                self.mode = Mode::Measure { deep };
            }
            Mode::Measure { deep } => {
                self.base_delay += (delay - self.base_delay) * 0.5;
                self.found |= loss < 0.5 * self.suspect;
                if deep {
                    self.rebase(loss, round.sent);
                    // Not our loss: what growth had earned stands.
                    self.calm = self.calm_before;
                } else if lossy {
                    // The decrease did not cure it. A decrease that nobody can overlook will tell whose loss it is.
                    return self.settle(report, loss, delay, true);
                }
                self.rate = self.capacity();
                self.mode = Mode::Cruise;
                self.restart(round.sent, delay <= limit);
            }
            Mode::Cruise if lossy || queued => {
                let first = self.settled_at.is_none();
                self.settle(report, loss, delay, first && lossy);
            }
            Mode::Cruise => {
                let refined =
                    self.base_loss + (loss - self.base_loss) * round.sent / (round.sent + 1000.0);
                self.base_loss = refined.min(self.loss_ceiling);
                self.base_delay = self.base_delay.min(delay);
                if busy {
                    self.grow();
                }
                let stale = self
                    .settled_at
                    .is_some_and(|at| report.now.duration_since(at) > RECHECK);
                if stale && self.base_loss > 0.01 {
                    self.settle(report, loss, delay, false);
                }
            }
        }
    }

    /// Sends less than the path carries for one round: enough less to drain what queued, or, to learn whose the
    /// loss is, half.
    fn settle(&mut self, report: &Report, loss: f64, delay: f64, deep: bool) {
        let rtt = report.smoothed_rtt.map_or(0.1, |rtt| rtt.as_secs_f64());
        let cut = (delay / rtt).clamp(if deep { 0.5 } else { 0.08 }, 0.5);
        self.rate = self.capacity() * (1.0 - cut);
        self.mode = Mode::Settle { deep };
        self.settled_at = Some(report.now);
        self.suspect = loss;
        if !deep {
            self.calm_before = self.calm;
        }
        self.calm = 0;
    }

    /// What was lost at half the rate was not our doing.
    fn rebase(&mut self, loss: f64, sent: f64) {
        self.base_loss = loss;
        self.loss_ceiling = loss + 2.0 * (loss * (1.0 - loss) / sent).sqrt();
    }

    /// Goes on with Startup if what interrupted it was the path's own loss, and nothing queues.
    fn restart(&mut self, sent: f64, idle: bool) {
        let innocent = self.suspect <= self.base_loss + margin(self.base_loss, sent);
        if let Some(rate) = self.interrupted.take()
            && idle
            && innocent
        {
            self.rate = rate;
            self.mode = Mode::Startup;
        }
    }

    fn grow(&mut self) {
        self.calm += 1;
        let share = (0.1 * (1e6 / self.rate).sqrt()).clamp(0.01, 0.1);
        let boost = 1.5f64.powi(self.calm.saturating_sub(4).min(8) as i32);
        let step = if self.found { share * boost } else { EAGER };
        self.rate *= 1.0 + step.min(EAGER);
    }

    fn remember(&mut self, arrived: f64) {
        if self.delivered.len() == MEMORY {
            self.delivered.pop_front();
        }
        self.delivered.push_back(arrived);
    }

    /// Rate at which the path, as lossy as its baseline, delivers what it delivered at best of late.
    fn capacity(&self) -> f64 {
        let best = self.delivered.iter().copied().fold(0.0, f64::max);
        if best == 0.0 {
            self.rate
        } else {
            best / (1.0 - self.base_loss).max(0.02)
        }
    }
}

/// How much more loss than the baseline a round of `sent` packets must show before it means anything: three
/// standard deviations and one packet, at least 2 %.
fn margin(base: f64, sent: f64) -> f64 {
    let p = base.max(0.01);
    (3.0 * (p * (1.0 - p) / sent).sqrt() + 1.5 / sent).max(0.02)
}

/// Queueing delay that counts as congestion.
fn delay_limit(min_rtt: Duration) -> Duration {
    (min_rtt / 8).clamp(Duration::from_millis(2), Duration::from_millis(15))
}

/// Rounds whose best delivery rate is the capacity.
const MEMORY: usize = 6;
/// Packets without which a round does not end.
const ROUND_MIN: f64 = 16.0;
/// Growth a round while nothing shows where the capacity lies, and the most it ever is.
const EAGER: f64 = 0.25;
/// How much of the burst's bandwidth to use at once.
const TRUST: f64 = 0.9;
/// A lossy path's baseline is measured anew this often.
const RECHECK: Duration = Duration::from_secs(10);

/// The published controller (8).
#[derive(Debug)]
pub(super) struct Hpudp {
    rate: f64,
    limits: Limits,
    second_phase: bool,
    peak: f64,
    smoothed: Option<f64>,
    streak: u32,
    collapses: u32,
    increased_at: Option<Instant>,
}

impl Hpudp {
    fn new(start: f64, limits: Limits) -> Self {
        Self {
            rate: limits.clamp(start),
            limits,
            second_phase: false,
            peak: 0.0,
            smoothed: None,
            streak: 0,
            collapses: 0,
            increased_at: None,
        }
    }

    /// 8.2, row by row.
    fn on_report(&mut self, report: &Report) {
        let delivered = report.delivery;
        let smoothed = self
            .smoothed
            .map_or(delivered, |old| 0.3 * delivered + 0.7 * old);
        self.smoothed = Some(smoothed);
        self.peak = self.peak.max(delivered);
        if report.nacks > 0 && delivered < 0.25 * self.rate {
            self.second_phase = true;
            self.streak = 0;
            self.collapses += 1;
            // Without this later addition (8.4) row 1 can hold for ever at a rate the path cannot carry.
            if self.collapses >= 5 {
                self.rate = 0.85 * self.peak;
                self.collapses = 0;
            }
        } else {
            self.collapses = 0;
            self.by_loss(report, smoothed);
        }
        if self.peak > 0.0 {
            let ceiling = if self.second_phase { 1.5 } else { 4.0 };
            self.rate = self.rate.min(self.peak * ceiling);
        }
        self.rate = self.limits.clamp(self.rate);
    }

    fn by_loss(&mut self, report: &Report, smoothed: f64) {
        if report.loss < 0.01 {
            self.streak = 0;
            // Once per round trip; once per heartbeat while that is unknown (8.3).
            let gate = report.smoothed_rtt.unwrap_or(Duration::ZERO);
            let open = self
                .increased_at
                .is_none_or(|at| report.now.duration_since(at) >= gate);
            if open {
                self.increased_at = Some(report.now);
                if self.second_phase {
                    let rtt = report
                        .smoothed_rtt
                        .unwrap_or(report.interval)
                        .as_secs_f64()
                        .max(0.001);
                    self.rate += CHUNK_PLAIN as f64 / rtt;
                } else {
                    self.rate *= 1.25;
                }
            }
        } else if report.loss <= 0.05 {
            self.second_phase = true;
            self.streak = 0;
        } else {
            self.streak += 1;
            if self.streak >= 2 {
                self.rate = 0.85 * smoothed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    fn report(now: Instant, delivery: f64, loss: f64, nacks: usize) -> Report {
        Report {
            now,
            delivery,
            loss,
            nacks,
            rtt: None,
            smoothed_rtt: Some(Duration::from_millis(50)),
            min_rtt: Some(Duration::from_millis(50)),
            sent: 0.0,
            sent_over: Duration::ZERO,
            received: 0.0,
            received_over: Duration::ZERO,
            echoed: 0,
            issued: 0,
            interval: Duration::from_millis(100),
        }
    }

    const LIMITS: Limits = Limits {
        min: 10_000.0,
        max: f64::INFINITY,
    };

    #[test]
    fn published_rules_row_by_row() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut it = Hpudp::new(2e6, LIMITS);
        it.on_report(&report(at(0), 2e6, 0.0, 0));
        assert_eq!(it.rate, 2.5e6, "row 2, phase 1");
        it.on_report(&report(at(10), 2e6, 0.0, 0));
        assert_eq!(it.rate, 2.5e6, "row 2 is gated by the round trip");
        it.on_report(&report(at(60), 2e6, 0.03, 0));
        assert_eq!(
            (it.rate, it.second_phase),
            (2.5e6, true),
            "row 3 holds and ends phase 1"
        );
        it.on_report(&report(at(120), 2e6, 0.0, 0));
        assert_eq!(it.rate, 2.5e6 + 1368.0 / 0.05, "row 2, phase 2");
        let held = it.rate;
        it.on_report(&report(at(180), 2e6, 0.06, 0));
        assert_eq!(it.rate, held, "row 4 waits for a second signal");
        it.on_report(&report(at(181), 2e6, 0.06, 0));
        assert!(
            (it.rate - 0.85 * 2e6).abs() < 1.0,
            "row 4 falls to 0.85 of the smoothed delivery"
        );
        let held = it.rate;
        for _ in 0..4 {
            it.on_report(&report(at(300), 1e5, 0.0, 3));
            assert_eq!(it.rate, held, "row 1 holds");
        }
        it.on_report(&report(at(300), 1e5, 0.0, 3));
        assert!(
            (it.rate - 0.85 * 2e6).abs() < 1.0,
            "8.4: five collapses fall to 0.85 of the peak"
        );
    }

    #[test]
    fn published_rules_sink_to_the_floor_under_steady_random_loss() {
        let start = Instant::now();
        let mut it = Hpudp::new(2e6, LIMITS);
        for beat in 0..200u64 {
            let delivered = it.rate * 0.9;
            it.on_report(&report(
                start + Duration::from_millis(100 * beat),
                delivered,
                0.10,
                0,
            ));
        }
        assert!(
            it.rate <= 10_001.0,
            "this is why there is a second controller: {}",
            it.rate
        );
    }

    #[test]
    fn ceiling_follows_the_peak() {
        let start = Instant::now();
        let mut it = Hpudp::new(2e6, LIMITS);
        for beat in 0..20u64 {
            it.on_report(&report(
                start + Duration::from_millis(100 * beat),
                1e6,
                0.0,
                0,
            ));
        }
        assert_eq!(it.rate, 4e6, "4 x peak in phase 1");
        it.on_report(&report(start + Duration::from_secs(9), 1e6, 0.02, 0));
        assert_eq!(it.rate, 1.5e6, "1.5 x peak in phase 2");
    }
}
