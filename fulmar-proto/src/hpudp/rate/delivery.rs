//! The default: fills what the path has, whatever the path loses by itself, and shares it (8.8).
//!
//! [`Delivery`] separates what we cause from what we do not. It works in rounds of one round trip. Each round
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
//! It does *not* know other flows: it infers them from queue and loss.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Limits, ROUND_MIN, Report, Round, Seen, margin};

/// Ours. See the module's text.
#[derive(Debug)]
pub(in crate::hpudp) struct Delivery {
    pub(super) rate: f64,
    pub(super) limits: Limits,
    mode: Mode,
    /// Loss and queueing delay (seconds) that are there when we are not the cause.
    base_loss: f64,
    pub(super) base_delay: f64,
    /// Packets the loss baseline was measured with.
    base_sent: f64,
    /// Most that the loss baseline may drift up to without another deep Settle.
    loss_ceiling: f64,
    /// Congestion has been seen, so the capacity is known and growth goes by small steps.
    found: bool,
    /// Loss that made us settle.
    suspect: f64,
    /// What went on, and at which rate, when loss without a queue was first seen.
    interrupted: Option<(Mode, f64)>,
    /// Delivered wire bytes a second of the last rounds.
    delivered: VecDeque<f64>,
    round: Round,
    /// The first round is over.
    begun: bool,
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

impl Delivery {
    pub(super) fn new(start: f64, limits: Limits) -> Self {
        Self {
            rate: limits.clamp(start),
            limits,
            mode: Mode::Startup,
            base_loss: 0.0,
            base_delay: 0.0,
            base_sent: 0.0,
            loss_ceiling: 0.0,
            found: false,
            suspect: 0.0,
            interrupted: None,
            delivered: VecDeque::with_capacity(MEMORY),
            round: Round::default(),
            begun: false,
            calm: 0,
            calm_before: 0,
            settled_at: None,
        }
    }

    /// The burst showed where the capacity lies: near it, growth goes by small steps.
    pub(super) fn on_dispersion(&mut self, bandwidth: f64, issued: u64) {
        if self.mode == Mode::Startup && bandwidth > self.rate {
            self.rate = self.limits.clamp(TRUST * bandwidth);
            self.mode = Mode::Cruise;
            self.found = true;
            self.calm = CALM;
            self.round.until = issued;
        }
    }

    pub(super) fn on_report(&mut self, report: &Report) {
        self.round.add(report);
        let round = &self.round;
        let over = match self.mode {
            Mode::Startup => round.sent_over >= step(report.min_rtt).as_secs_f64(),
            Mode::Settle { .. } | Mode::Measure { .. } | Mode::Cruise => {
                report.echoed >= round.until
            }
        };
        if !(round.counts() && over) {
            return;
        }
        let round = self.round.next(report);
        self.end_round(&round, report);
        self.rate = self.limits.clamp(self.rate);
    }

    fn end_round(&mut self, round: &Round, report: &Report) {
        let Seen {
            loss,
            arrived,
            left,
            delay,
            growth,
            limit,
            ..
        } = round.seen(report.min_rtt);
        let fast = self.mode == Mode::Cruise && self.calm > CALM;
        let seen = if fast { delay + growth } else { delay };
        let queued = seen > self.base_delay + limit;
        let busy = left > 0.7 * self.rate;
        let (sent, received) = round.before;
        let first = !std::mem::replace(&mut self.begun, true);
        if first && !queued && self.mode == Mode::Cruise && sent >= ROUND_MIN {
            // The packets before the burst was answered for left slower than anything the path has shown: what they
            // lost is its own.
            self.rebase((1.0 - received / sent).clamp(0.0, 1.0), sent);
        }
        let known = self.base_loss.max(self.loss_ceiling);
        let lossy = loss > known + margin(known, round.sent);
        // A round in which we had little to send shows no capacity; and what arrived cannot have outrun what left
        // for long: a compressed burst of arrivals is no capacity either.
        if busy || self.mode == Mode::Startup {
            self.remember(arrived.min(left * 1.05));
        }
        self.found |= queued;
        match self.mode {
            Mode::Startup if queued || lossy && self.base_sent > 0.0 => {
                self.interrupted = (!queued).then_some((self.mode, self.rate));
                // Where nothing was ever sent more slowly, nothing is known of the path: find out in one step.
                let known = self.calm > 0 || self.settled_at.is_some();
                self.settle(report, loss, delay, lossy || !known);
            }
            Mode::Startup => {
                // What slower packets lose is the path's own.
                let packets = self.base_sent + round.sent;
                let lost = self.base_loss * self.base_sent + loss * round.sent;
                self.rebase(lost / packets, packets);
                // These packets left at this rate and no queue grew: twice as many may.
                if round.received_over <= STRETCH * round.sent_over && 2.0 * left > self.rate {
                    self.rate = 2.0 * left;
                    self.calm += 1;
                }
            }
            Mode::Settle { deep } => {
                self.rate = self.capacity();
                self.mode = Mode::Measure { deep };
            }
            Mode::Measure { deep } => {
                self.base_delay += (delay - self.base_delay) * 0.5;
                self.found |= loss < 0.5 * self.suspect;
                if deep || loss + margin(loss, round.sent) < self.base_loss {
                    self.rebase(loss, round.sent);
                }
                if deep {
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
                if first && !queued {
                    self.interrupted = Some((self.mode, self.rate));
                    self.calm_before = self.calm;
                }
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
        (self.base_loss, self.base_sent) = (loss, sent);
        self.loss_ceiling = loss + 2.0 * (loss * (1.0 - loss) / sent).sqrt();
    }

    /// Goes on as before if what interrupted it was the path's own loss, and nothing queues.
    fn restart(&mut self, sent: f64, idle: bool) {
        let innocent = self.suspect <= self.base_loss + margin(self.base_loss, sent);
        if let Some((mode, rate)) = self.interrupted.take()
            && idle
            && innocent
        {
            (self.mode, self.rate) = (mode, rate);
        }
    }

    fn grow(&mut self) {
        self.calm += 1;
        let share = (0.1 * (1e6 / self.rate).sqrt()).clamp(0.01, 0.1);
        let boost = 1.5f64.powi(self.calm.saturating_sub(CALM).min(8) as i32);
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

/// How much of what left makes a step of Startup.
fn step(min_rtt: Option<Duration>) -> Duration {
    let eighth = min_rtt.map_or(Duration::ZERO, |rtt| rtt / 8);
    eighth.max(Duration::from_millis(2))
}

/// Rounds whose best delivery rate is the capacity.
const MEMORY: usize = 6;
/// Growth a round while nothing shows where the capacity lies, and the most it ever is.
const EAGER: f64 = 0.25;
/// Rounds without congestion after which growth gets faster.
const CALM: u32 = 4;
/// Packets that take this much longer to come than they took to leave show that Startup is near the capacity.
const STRETCH: f64 = 1.1;
/// How much of the burst's bandwidth to use at once.
const TRUST: f64 = 0.9;
/// A lossy path's baseline is measured anew this often.
const RECHECK: Duration = Duration::from_secs(10);
