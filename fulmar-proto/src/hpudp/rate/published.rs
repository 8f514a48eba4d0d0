//! The published rules, row by row (8.1 to 8.4).
//!
//! They do *not* tell the path's own loss from congestion.

use std::time::{Duration, Instant};

use super::super::config::CHUNK_PLAIN;
use super::{Limits, Report};

/// The published controller (8).
#[derive(Debug)]
pub(in crate::hpudp) struct Hpudp {
    pub(super) rate: f64,
    pub(super) limits: Limits,
    second_phase: bool,
    pub(super) peak: f64,
    smoothed: Option<f64>,
    streak: u32,
    collapses: u32,
    increased_at: Option<Instant>,
}

impl Hpudp {
    pub(super) fn new(start: f64, limits: Limits) -> Self {
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
    pub(super) fn on_report(&mut self, report: &Report) {
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
