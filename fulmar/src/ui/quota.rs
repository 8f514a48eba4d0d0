//! How often something is said: [`Quota`].
//!
//! It does *not* say anything, nor keep what was left out.

use std::time::Instant;

use fulmar_proto::engine::{Bitrate, RateLimit};

/// So many a second, and so many at once.
#[derive(Debug)]
pub(super) struct Quota {
    /// A line is a byte to it.
    limit: RateLimit,
    left_out: u64,
}

impl Quota {
    /// `lines` a second.
    pub(super) fn new(lines: u64) -> Self {
        Self {
            limit: RateLimit::new(Bitrate::from_bytes_per_sec(lines), lines),
            left_out: 0,
        }
    }

    /// Whether a line may be said at `now`; if so, how many were left out since the last one.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.limit.allow(now, 1) {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }

    /// How many were left out since the last line that was said.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Of a thousand lines a second for ten seconds, ten a second are said and all are accounted for.
    #[test]
    fn a_flood_is_ten_a_second() {
        let start = Instant::now();
        let mut quota = Quota::new(10);
        let (mut said, mut left_out) = (0, 0);
        for millisecond in 0..10_000 {
            if let Some(count) = quota.admit(start + Duration::from_millis(millisecond)) {
                said += 1;
                left_out += count;
            }
        }
        assert!((100..=110).contains(&said), "{said}");
        let rest = quota.left_out();
        assert_eq!(said + left_out + rest, 10_000);
        assert_eq!(quota.admit(start + Duration::from_secs(20)), Some(rest));
        assert_eq!(quota.left_out(), 0);
    }
}
