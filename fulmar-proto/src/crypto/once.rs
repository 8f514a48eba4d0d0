//! What was sealed under each number that may be used once: [`Once`].
//!
//! It does not seal, and what it forgets it cannot see repeated.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// A digest of the content for each number used.
///
/// Two generations: when the young one is full the old one is forgotten. What a sender repairs lies within its window,
/// and a generation is twice the largest window, so a guard that forgets still sees every repair.
pub(super) struct Once<N, D> {
    young: BTreeMap<N, D>,
    old: BTreeMap<N, D>,
}

impl<N: Copy + Ord + Debug, D: Copy + Eq> Once<N, D> {
    /// Panics when `number` was used with another digest.
    pub(super) fn check(&mut self, number: N, digest: D) {
        if let Some(first) = self.young.get(&number).or_else(|| self.old.get(&number)) {
            assert!(*first == digest, "{number:?} seals a second content");
            return;
        }
        if self.young.len() == GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(number, digest);
    }
}

impl<N, D> Default for Once<N, D> {
    fn default() -> Self {
        Self {
            young: BTreeMap::new(),
            old: BTreeMap::new(),
        }
    }
}

/// Numbers in a generation.
const GENERATION: usize = 131_072;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn at_least_a_generation_is_remembered_and_no_more_than_two() {
        let mut guard = Once::default();
        for n in 0..=3 * GENERATION {
            guard.check(n, 1);
            assert!(guard.young.len() + guard.old.len() <= 2 * GENERATION);
        }
        let oldest = 2 * GENERATION + 1;
        assert!(catch_unwind(AssertUnwindSafe(|| guard.check(oldest, 2))).is_err());
    }
}
