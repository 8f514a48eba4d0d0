//! The round trip of a link, with the values the protocol starts from (8.3).
//!
//! It does *not* know which messages make a sample: `receiver` and `link` do.

use std::time::{Duration, Instant};

use crate::engine::RttEstimator;

/// Smoothed round trip and its variation, of one link; shared by its two halves.
#[derive(Clone, Debug)]
pub(crate) struct Rtt {
    estimator: RttEstimator,
    /// What the peer measured, while this side has no samples of its own (8.3.2).
    told: Option<(Duration, Duration)>,
}

impl Rtt {
    pub(crate) fn new() -> Self {
        Self {
            estimator: RttEstimator::new(FIRST + 4 * FIRST_VAR),
            told: None,
        }
    }

    /// One round trip of our own (8.3.1). 0 and more than a minute are no round trips (8.3.3).
    pub(crate) fn sample(&mut self, now: Instant, rtt: Duration) {
        if !rtt.is_zero() && rtt <= MAX {
            self.estimator.sample(now, rtt);
        }
    }

    /// What an ACK with a new number says (8.3.2): one more sample for a side that has its own, the whole truth for
    /// one that has none.
    pub(crate) fn told(&mut self, now: Instant, rtt_us: u32, var_us: u32) {
        let [rtt, var] = [rtt_us, var_us].map(|us| Duration::from_micros(us.into()));
        if rtt.is_zero() || rtt > MAX {
            return;
        }
        if self.estimator.smoothed().is_some() {
            self.estimator.sample(now, rtt);
        } else if (rtt, var) != (FIRST, FIRST_VAR) && !var.is_zero() && var <= MAX {
            self.told = Some((rtt, var));
        }
    }

    /// Whether anything was measured, here or there.
    pub(crate) fn is_known(&self) -> bool {
        self.told.is_some() || self.estimator.smoothed().is_some()
    }

    /// RTT; 100 ms before anything was measured.
    pub(crate) fn smoothed(&self) -> Duration {
        let told = self.told.map_or(FIRST, |(rtt, _)| rtt);
        self.estimator.smoothed().unwrap_or(told)
    }

    /// RTTVar; 50 ms before anything was measured.
    pub(crate) fn var(&self) -> Duration {
        let told = self.told.map_or(FIRST_VAR, |(_, var)| var);
        self.estimator.var().unwrap_or(told)
    }

    /// `RTT + 4 RTTVar`, of which every timer is made.
    pub(crate) fn patience(&self) -> Duration {
        self.smoothed() + 4 * self.var()
    }
}

/// Before the first sample (8.3.1).
const FIRST: Duration = Duration::from_millis(100);
const FIRST_VAR: Duration = Duration::from_millis(50);
/// No round trip is longer (8.3.3).
const MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_peer_is_believed_until_there_are_own_samples() {
        let (now, mut rtt) = (Instant::now(), Rtt::new());
        assert_eq!((rtt.smoothed(), rtt.var()), (ms(100), ms(50)));
        rtt.told(now, 100_000, 50_000);
        assert!(!rtt.is_known(), "8.3.2: nothing was measured there");
        rtt.told(now, 20_000, 0);
        rtt.told(now, 0, 5_000);
        rtt.told(now, 60_000_001, 5_000);
        assert!(!rtt.is_known(), "8.3.3: ignored");
        rtt.told(now, 20_000, 4_000);
        assert_eq!(
            (rtt.smoothed(), rtt.var(), rtt.patience()),
            (ms(20), ms(4), ms(36))
        );
        rtt.told(now, 30_000, 6_000);
        assert_eq!(
            (rtt.smoothed(), rtt.var()),
            (ms(30), ms(6)),
            "taken over, not averaged"
        );

        rtt.sample(now, Duration::ZERO);
        rtt.sample(now, ms(80));
        assert_eq!(
            (rtt.smoothed(), rtt.var()),
            (ms(80), ms(40)),
            "8.3.1: the first sample"
        );
        rtt.told(now, 160_000, 1);
        assert_eq!(
            (rtt.smoothed(), rtt.var()),
            (ms(90), ms(50)),
            "one sample more"
        );
    }
}
