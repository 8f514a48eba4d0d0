//! Round trips: [`RttEstimator`].
//!
//! Smoothing and retransmission time-out after RFC 6298, and the least round trip of the last seconds, which is the
//! path without its queues. It does *not* decide which samples count: a protocol keeps out echoes of packets sent
//! twice (Karn) and echoes of stamps it never issued.

use std::time::{Duration, Instant};

/// Smoothed round trip, its variation and its recent minimum.
#[derive(Clone, Debug)]
pub struct RttEstimator {
    initial: Duration,
    rto_bounds: (Duration, Duration),
    estimate: Option<Estimate>,
    floor: Floor,
}

impl RttEstimator {
    /// Nothing measured; [`rto`](Self::rto) is `initial` until something is. Afterwards it stays within 200 ms and
    /// 60 s, and the minimum is that of the last 10 s.
    pub fn new(initial: Duration) -> Self {
        Self {
            initial,
            rto_bounds: (Duration::from_millis(200), Duration::from_secs(60)),
            estimate: None,
            floor: Floor::new(Duration::from_secs(10)),
        }
    }

    /// With another least and greatest time-out; the least wins if they contradict.
    #[must_use]
    pub fn with_rto_bounds(mut self, least: Duration, greatest: Duration) -> Self {
        self.rto_bounds = (least, greatest.max(least));
        self
    }

    /// With another span of time for the minimum. Forgets minima already measured.
    #[must_use]
    pub fn with_min_window(mut self, window: Duration) -> Self {
        self.floor = Floor::new(window);
        self
    }

    /// Takes one round trip measured at `now`. More than a minute counts as a minute.
    pub fn sample(&mut self, now: Instant, rtt: Duration) {
        let rtt = rtt.min(SAMPLE_MAX);
        self.floor.sample(now, rtt);
        self.estimate = Some(match self.estimate {
            None => Estimate {
                smoothed: rtt,
                var: rtt / 2,
                latest: rtt,
            },
            Some(Estimate { smoothed, var, .. }) => Estimate {
                smoothed: (smoothed * 7 + rtt) / 8,
                var: (var * 3 + smoothed.abs_diff(rtt)) / 4,
                latest: rtt,
            },
        });
    }

    /// Smoothed round trip, gain 1/8.
    pub fn smoothed(&self) -> Option<Duration> {
        self.estimate.map(|estimate| estimate.smoothed)
    }

    /// Smoothed distance of a sample from the smoothed round trip, gain 1/4; half the first sample at first.
    pub fn var(&self) -> Option<Duration> {
        self.estimate.map(|estimate| estimate.var)
    }

    /// The last sample.
    pub fn latest(&self) -> Option<Duration> {
        self.estimate.map(|estimate| estimate.latest)
    }

    /// The least sample of the window (10 s unless configured) that ends at the last sample. One in the oldest
    /// sixteenth of the window may be forgotten early, none is remembered longer.
    pub fn min(&self) -> Option<Duration> {
        self.floor.least
    }

    /// How long to wait for an answer: `smoothed + 4 var` within its bounds, or the initial value.
    pub fn rto(&self) -> Duration {
        let (least, greatest) = self.rto_bounds;
        self.estimate.map_or(self.initial, |estimate| {
            let variation = (estimate.var * 4).max(GRANULARITY);
            (estimate.smoothed + variation).clamp(least, greatest)
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    smoothed: Duration,
    var: Duration,
    latest: Duration,
}

/// A minimum over a sliding window of time, in constant memory: the window is cut into slices and each keeps its own
/// minimum.
#[derive(Clone, Debug)]
struct Floor {
    slice: Duration,
    slices: [Option<Duration>; SLICES],
    least: Option<Duration>,
    /// Time of the first sample, from which slices are counted.
    epoch: Option<Instant>,
    /// Number of the youngest slice.
    current: u64,
}

impl Floor {
    fn new(window: Duration) -> Self {
        let slice = (window / SLICES as u32).max(Duration::from_nanos(1));
        Self {
            slice,
            slices: [None; SLICES],
            least: None,
            epoch: None,
            current: 0,
        }
    }

    fn sample(&mut self, now: Instant, rtt: Duration) {
        let epoch = *self.epoch.get_or_insert(now);
        let elapsed = now.saturating_duration_since(epoch);
        let number = u64::try_from(elapsed.as_nanos() / self.slice.as_nanos()).unwrap_or(u64::MAX);
        for stale in (self.current..number).take(SLICES) {
            self.slices[Self::index(stale + 1)] = None;
        }
        // A clock that steps back keeps filling the youngest slice.
        self.current = self.current.max(number);
        let least = &mut self.slices[Self::index(self.current)];
        *least = Some(least.map_or(rtt, |least| least.min(rtt)));
        self.least = self.slices.iter().flatten().min().copied();
    }

    const fn index(number: u64) -> usize {
        (number % SLICES as u64) as usize
    }
}

/// Clock granularity G of RFC 6298.
const GRANULARITY: Duration = Duration::from_millis(1);
/// No path is longer, and arithmetic on what a peer echoes stays far from overflow.
const SAMPLE_MAX: Duration = Duration::from_secs(60);
/// Slices of the minimum's window.
const SLICES: usize = 16;

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn follows_rfc_6298() {
        let now = Instant::now();
        let mut rtt = RttEstimator::new(MS * 250).with_rto_bounds(MS, MS * 10_000);
        assert_eq!(
            (rtt.smoothed(), rtt.var(), rtt.latest(), rtt.min()),
            (None, None, None, None)
        );
        assert_eq!(rtt.rto(), MS * 250);
        rtt.sample(now, MS * 100);
        assert_eq!(
            (rtt.smoothed(), rtt.var(), rtt.rto()),
            (Some(MS * 100), Some(MS * 50), MS * 300)
        );
        rtt.sample(now, MS * 180);
        assert_eq!(rtt.smoothed(), Some(MS * 110));
        assert_eq!(
            rtt.var(),
            Some(MS * 230 / 4),
            "distance is from the smoothed value before the sample"
        );
        assert_eq!(rtt.latest(), Some(MS * 180));
        assert_eq!(rtt.rto(), MS * 340);
    }

    #[test]
    fn converges_from_both_sides_and_the_timeout_keeps_its_bounds() {
        let now = Instant::now();
        for start in [MS, MS * 5000] {
            let mut rtt = RttEstimator::new(MS);
            rtt.sample(now, start);
            (0..200).for_each(|_| rtt.sample(now, MS * 70));
            let smoothed = rtt.smoothed().unwrap_or_default();
            assert!(
                smoothed.abs_diff(MS * 70) < Duration::from_micros(1),
                "{smoothed:?} from {start:?}"
            );
            assert_eq!(rtt.rto(), MS * 200, "the least time-out");
            (0..200).for_each(|_| rtt.sample(now, MS * 400));
            assert!(
                rtt.rto() > MS * 400 + MS * 9 / 10,
                "a still path leaves room for the clock"
            );
        }
        let mut rtt = RttEstimator::new(MS);
        rtt.sample(now, Duration::MAX);
        assert_eq!(rtt.latest(), Some(SAMPLE_MAX));
        assert_eq!(rtt.rto(), Duration::from_secs(60), "the greatest time-out");
    }

    #[test]
    fn the_minimum_forgets_a_path_that_is_gone() {
        let start = Instant::now();
        let mut rtt = RttEstimator::new(MS);
        rtt.sample(start, MS * 20);
        for tick in 1..=300_u32 {
            rtt.sample(start + MS * 100 * tick, MS * 50);
            match tick {
                ..=93 => assert_eq!(rtt.min(), Some(MS * 20), "at {tick}"),
                100.. => assert_eq!(rtt.min(), Some(MS * 50), "at {tick}"),
                _ => {}
            }
        }
        // A pause of many windows leaves only what is new.
        rtt.sample(start + Duration::from_secs(4000), MS * 90);
        assert_eq!(rtt.min(), Some(MS * 90));
    }

    proptest! {
        #[test]
        fn the_minimum_is_that_of_the_window(
            samples in prop::collection::vec((0..400_u64, 1..1000_u64), 1..200),
        ) {
            let window = MS * 1600;
            let mut rtt = RttEstimator::new(MS).with_min_window(window);
            let mut now = Instant::now();
            let mut all = Vec::new();
            for (pause, micros) in samples {
                now += MS * u32::try_from(pause).unwrap_or(0);
                let sample = Duration::from_micros(micros);
                rtt.sample(now, sample);
                all.push((now, sample));
                let least_since = |age: Duration| {
                    all.iter().filter(|(at, _)| now - *at < age).map(|(_, sample)| *sample).min()
                };
                let (long, short) = (least_since(window), least_since(window * 15 / 16));
                prop_assert!(long <= rtt.min() && rtt.min() <= short, "{:?} {:?} {:?}", long, rtt.min(), short);
            }
        }
    }

    #[test]
    fn a_clock_that_steps_back_is_harmless() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut rtt = RttEstimator::new(MS);
        rtt.sample(start, MS * 30);
        rtt.sample(start + Duration::from_secs(5), MS * 20);
        rtt.sample(start - Duration::from_secs(50), MS * 25);
        rtt.sample(start + Duration::from_secs(5), MS * 40);
        assert_eq!(
            rtt.min(),
            Some(MS * 20),
            "nothing measured before the step is lost"
        );
        rtt.sample(start + Duration::from_secs(12), MS * 40);
        assert_eq!(rtt.min(), Some(MS * 20));
        rtt.sample(start - Duration::from_secs(50), MS * 10);
        rtt.sample(start + Duration::from_secs(20), MS * 40);
        assert_eq!(
            rtt.min(),
            Some(MS * 10),
            "counts as measured at the latest time known"
        );
    }
}
