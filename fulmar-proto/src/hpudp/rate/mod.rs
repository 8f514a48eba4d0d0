//! How fast to send: ours, a scavenger's rules, and the published ones.
//!
//! **[`Delivery`]** fills what the path has and shares it; random loss does not slow it. **[`Low`]** takes what others
//! leave. **[`Hpudp`]** follows clause 8 line by line: it reads raw loss as congestion, so any steady random loss above
//! 5 % pins it to its floor; it is kept for comparison and for those who need it.
//!
//! This module does *not* pace, count packets or choose parity; it turns reports into a rate.

mod delivery;
mod low;
mod published;

use std::time::{Duration, Instant};

use delivery::Delivery;
use low::Low;
use published::Hpudp;

use super::config::{Config, Control, DATAGRAM_MAX};

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
    Low(Low),
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
            Control::Low => Self::Low(Low::new(start, limits)),
            Control::Fixed => Self::Fixed(if max.is_finite() { max } else { start }),
        }
    }

    /// Bytes of UDP payload a second.
    pub(super) fn rate(&self) -> f64 {
        match self {
            Self::Delivery(it) => it.rate,
            Self::Hpudp(it) => it.rate,
            Self::Low(it) => it.rate,
            Self::Fixed(rate) => *rate,
        }
    }

    /// From now on the rate is at most so many bytes a second. A fixed rate stays what it is: the sender's cap holds
    /// without its controller.
    pub(super) fn set_max(&mut self, max: f64) {
        let (rate, limits) = match self {
            Self::Delivery(it) => (&mut it.rate, &mut it.limits),
            Self::Hpudp(it) => (&mut it.rate, &mut it.limits),
            Self::Low(it) => (&mut it.rate, &mut it.limits),
            Self::Fixed(_) => return,
        };
        limits.max = max;
        *rate = limits.clamp(*rate);
    }

    pub(super) fn on_report(&mut self, report: &Report) {
        match self {
            Self::Delivery(it) => it.on_report(report),
            Self::Hpudp(it) => it.on_report(report),
            Self::Low(it) => it.on_report(report),
            Self::Fixed(_) => {}
        }
    }

    /// The calibration burst showed this bandwidth (4.7); `issued` is the last stamp.
    pub(super) fn on_dispersion(&mut self, bandwidth: f64, issued: u64) {
        match self {
            Self::Delivery(it) => it.on_dispersion(bandwidth, issued),
            Self::Hpudp(it) => it.peak = it.peak.max(bandwidth),
            Self::Low(_) | Self::Fixed(_) => {}
        }
    }

    /// Queueing delay this controller tolerates, on which the cap of bytes in flight is built.
    pub(super) fn delay_budget(&self, min_rtt: Duration) -> Duration {
        match self {
            Self::Delivery(it) => Duration::from_secs_f64(it.base_delay) + delay_limit(min_rtt) * 2,
            Self::Low(_) => delay_limit(min_rtt) * 2,
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

/// Packets compared so far, sent and received; times in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Ends when this stamp is known to have arrived.
    until: u64,
    sent: f64,
    sent_over: f64,
    received: f64,
    received_over: f64,
    min_rtt: Option<Duration>,
    /// Packets sent and received before the report that ended it, which may tell of later ones too.
    before: (f64, f64),
}

/// What a round showed: bytes a second, seconds, packets, shares of one.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sent: f64,
    loss: f64,
    arrived: f64,
    left: f64,
    /// Least round trip above the least ever.
    delay: f64,
    /// What the queue grew by while these packets came: the least round trip is that of the round's beginning.
    growth: f64,
    /// Queueing delay that counts as congestion.
    limit: f64,
}

impl Round {
    fn add(&mut self, report: &Report) {
        self.before = (self.sent, self.received);
        self.sent += report.sent;
        self.sent_over += report.sent_over.as_secs_f64();
        self.received += report.received;
        self.received_over += report.received_over.as_secs_f64();
        self.min_rtt = [self.min_rtt, report.rtt].into_iter().flatten().min();
    }

    /// Whether enough was compared to say anything.
    fn counts(&self) -> bool {
        self.sent >= ROUND_MIN && self.received_over > 0.0
    }

    /// Ends it; the next one ends when what was issued by now is known to have arrived.
    fn next(&mut self, report: &Report) -> Self {
        let until = report.issued;
        std::mem::replace(
            self,
            Self {
                until,
                ..Self::default()
            },
        )
    }

    fn seen(&self, min_rtt: Option<Duration>) -> Seen {
        let datagram = DATAGRAM_MAX as f64;
        let min_rtt = min_rtt.unwrap_or(Duration::from_millis(1));
        let delay = self
            .min_rtt
            .map_or(Duration::ZERO, |rtt| rtt.saturating_sub(min_rtt));
        Seen {
            sent: self.sent,
            loss: (1.0 - self.received / self.sent).clamp(0.0, 1.0),
            arrived: self.received * datagram / self.received_over,
            left: self.sent * datagram / self.sent_over.max(1e-6),
            delay: delay.as_secs_f64(),
            growth: (self.received_over - self.sent_over).max(0.0),
            limit: delay_limit(min_rtt).as_secs_f64(),
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

/// Packets without which a round does not end.
const ROUND_MIN: f64 = 16.0;
