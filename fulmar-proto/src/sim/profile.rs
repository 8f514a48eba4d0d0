//! Links that a user knows by name, with plausible figures.
//!
//! Each is two [`LinkConfig`]s: `up` from the user, `down` to the user. Queues hold about half a bandwidth-delay
//! product and at least 64 KiB, more where the kind of link is known for bloat. They are *not* measurements of any
//! one network, and whoever needs other figures changes a copy.

use std::time::Duration;

use super::link::{LinkConfig, Loss};
use crate::engine::Bitrate;

/// A link by name.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What the user types.
    pub name: &'static str,
    /// One line for a list.
    pub about: &'static str,
    /// From the user to the far side.
    pub up: LinkConfig,
    /// From the far side to the user.
    pub down: LinkConfig,
}

impl Profile {
    /// All of them, from the best to the worst.
    pub const ALL: &'static [Self] = &[
        Self {
            name: "lan",
            about: "wired gigabit, 0.2 ms round trip",
            up: direction(1_000_000, 100, 20, 256, Loss::None),
            down: direction(1_000_000, 100, 20, 256, Loss::None),
        },
        Self {
            name: "fibre",
            about: "fibre to the home, 500/1000 Mbit/s, 8 ms round trip",
            up: direction(500_000, 4_000, 200, 256, Loss::Independent(0.000_01)),
            down: direction(1_000_000, 4_000, 200, 512, Loss::Independent(0.000_01)),
        },
        Self {
            name: "wifi-good",
            about: "Wi-Fi in the same room, 200 Mbit/s, 3 ms round trip",
            up: direction(200_000, 1_500, 2_000, 256, Loss::Independent(0.001)),
            down: direction(200_000, 1_500, 2_000, 256, Loss::Independent(0.001)),
        },
        Self {
            name: "dsl",
            about: "DSL, 10/50 Mbit/s, 24 ms round trip, a bloated queue upwards",
            up: direction(10_000, 12_000, 1_000, 256, Loss::Independent(0.000_1)),
            down: direction(50_000, 12_000, 1_000, 256, Loss::Independent(0.000_1)),
        },
        Self {
            name: "transatlantic",
            about: "data centre to data centre over an ocean, 1 Gbit/s, 80 ms round trip",
            up: direction(1_000_000, 40_000, 200, 5_120, Loss::Independent(0.000_1)),
            down: direction(1_000_000, 40_000, 200, 5_120, Loss::Independent(0.000_1)),
        },
        Self {
            name: "4g",
            about: "mobile, 12/40 Mbit/s, 50 ms round trip, bursts of loss, bloated queues",
            up: direction(12_000, 25_000, 12_000, 512, Loss::bursts(0.005, 5.0)),
            down: direction(40_000, 25_000, 8_000, 1_024, Loss::bursts(0.003, 5.0)),
        },
        Self {
            name: "starlink",
            about: "low satellites, 15/150 Mbit/s, 40 ms round trip, 1 % in long bursts",
            up: direction(15_000, 20_000, 10_000, 256, Loss::bursts(0.01, 30.0)),
            down: direction(150_000, 20_000, 10_000, 768, Loss::bursts(0.01, 50.0)),
        },
        Self {
            name: "wifi-bad",
            about: "Wi-Fi two walls away, 20 Mbit/s, 10 ms round trip, 4 % in bursts, reordering",
            up: reordered(
                direction(20_000, 5_000, 25_000, 128, Loss::bursts(0.04, 4.0)),
                0.005,
                10,
            ),
            down: reordered(
                direction(20_000, 5_000, 25_000, 128, Loss::bursts(0.04, 4.0)),
                0.005,
                10,
            ),
        },
        Self {
            name: "satellite",
            about: "geostationary satellite, 5/50 Mbit/s, 600 ms round trip, 0.5 % in bursts",
            up: direction(5_000, 300_000, 3_000, 192, Loss::bursts(0.005, 10.0)),
            down: direction(50_000, 300_000, 3_000, 1_920, Loss::bursts(0.005, 10.0)),
        },
        Self {
            name: "lossy",
            about: "100 Mbit/s, 140 ms round trip, 5 % random loss each way",
            up: direction(100_000, 70_000, 1_000, 896, Loss::Independent(0.05)),
            down: direction(100_000, 70_000, 1_000, 896, Loss::Independent(0.05)),
        },
        Self {
            name: "awful",
            about: "100 Mbit/s, 140 ms round trip, 33 % random loss each way, reordering",
            up: reordered(
                direction(100_000, 70_000, 1_000, 896, Loss::Independent(0.33)),
                0.01,
                20,
            ),
            down: reordered(
                direction(100_000, 70_000, 1_000, 896, Loss::Independent(0.33)),
                0.01,
                20,
            ),
        },
    ];

    /// The one of this name, exactly as in [`ALL`](Self::ALL); an unknown name is the caller's error to word.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|profile| profile.name == name)
            .cloned()
    }

    /// Round trip of a small packet when nothing else is on the way and no jitter adds to it.
    pub fn rtt(&self) -> Duration {
        self.up.delay + self.down.delay
    }
}

/// Rate in kbit/s, delay and jitter in microseconds, queue in KiB.
const fn direction(rate: u64, delay: u64, jitter: u64, queue: usize, loss: Loss) -> LinkConfig {
    let mut config = LinkConfig::PERFECT;
    config.rate = Some(Bitrate::from_bits_per_sec(rate * 1000));
    config.delay = Duration::from_micros(delay);
    config.jitter = Duration::from_micros(jitter);
    config.queue = queue * 1024;
    config.loss = loss;
    config
}

/// Holds back this share by up to `by` milliseconds.
const fn reordered(mut config: LinkConfig, share: f64, by: u64) -> LinkConfig {
    config.reorder = share;
    config.reorder_by = Duration::from_millis(by);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_unique() {
        for profile in Profile::ALL {
            let found = Profile::named(profile.name).expect("it is in the list");
            assert_eq!((found.about, found.up), (profile.about, profile.up.clone()));
        }
        assert!(Profile::named("Lan").is_none() && Profile::named("").is_none());
    }

    #[test]
    fn queues_hold_half_a_bandwidth_delay_product() {
        for profile in Profile::ALL {
            for direction in [&profile.up, &profile.down] {
                let rate = direction.rate.expect("every profile has a rate");
                let least = (rate.bytes_in(profile.rtt()) / 2).max(64 << 10);
                // "About": a tenth less is fine.
                assert!(
                    direction.queue as u64 >= least * 9 / 10,
                    "{}: {}",
                    profile.name,
                    direction.queue
                );
            }
        }
    }

    #[test]
    fn the_promised_figures_hold() {
        let figures = |name| {
            let profile = Profile::named(name).expect("it is in the list");
            (
                profile.rtt().as_millis(),
                profile.up.loss.share(),
                profile.down.loss.share(),
            )
        };
        assert_eq!(figures("lossy"), (140, 0.05, 0.05));
        assert_eq!(figures("awful"), (140, 0.33, 0.33));
        let (rtt, up, down) = figures("satellite");
        assert_eq!(rtt, 600);
        assert!((up - 0.005).abs() < 1e-12 && (down - 0.005).abs() < 1e-12);
    }
}
