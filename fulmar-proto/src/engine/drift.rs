//! The clock of a peer: [`Drift`], [`SourceClock`].
//!
//! They do *not* know which packets make a sample.
#![allow(unused_variables, reason = "stubs")]

use std::time::{Duration, Instant};

/// How far a peer's clock has moved against ours: of each second the sample with the least round trip, the median of
/// fifteen, followed slowly.
#[derive(Clone, Debug)]
pub struct Drift {}

impl Drift {
    /// Nothing measured; the offset is 0.
    pub fn new(now: Instant) -> Self {
        unimplemented!()
    }

    /// At `now` the peer's clock seemed to be `offset_us` microseconds late, by a message of this round trip.
    pub fn sample(&mut self, now: Instant, offset_us: i64, rtt: Duration) {
        unimplemented!()
    }

    /// The offset to play by, microseconds.
    pub fn offset_us(&self, now: Instant) -> i64 {
        unimplemented!()
    }

    /// How often the clock turned out to be another.
    pub fn jumps(&self) -> u64 {
        unimplemented!()
    }
}

/// The source's clock by ours: a base and its drift. It never runs back while drift moves.
#[derive(Clone, Debug)]
pub struct SourceClock {}

impl SourceClock {
    /// A clock that showed `at` at `base`.
    pub fn new(base: Instant, at: u64) -> Self {
        unimplemented!()
    }

    /// When the source's clock shows `at` microseconds, as far as is known at `now`.
    pub fn when(&self, at: u64, now: Instant) -> Instant {
        unimplemented!()
    }

    /// What it shows at `now`.
    pub fn source_now(&self, now: Instant) -> u64 {
        unimplemented!()
    }

    /// For samples.
    pub fn drift(&mut self) -> &mut Drift {
        unimplemented!()
    }
}
