//! Sets of numbers that come in runs: loss lists, received sets.
//!
//! Every operation costs the logarithm of the number of runs, plus the runs it swallows, so a range from the wire
//! may be as long as it likes; what bounds the memory is [`RangeSet::runs`], which the caller watches. It does *not*
//! hold `u64::MAX`, which no half-open range can name.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

/// A set of `u64`, kept as half-open ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to end of each run.
    runs: BTreeMap<u64, u64>,
    /// Numbers in all runs together.
    count: u64,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self {
            runs: BTreeMap::new(),
            count: 0,
        }
    }

    /// Adds every number of `range`; an empty or reversed one adds nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&before, &until)) = self.runs.range(..=start).next_back()
            && until >= start
        {
            if until >= end {
                return;
            }
            self.count -= until - before;
            start = before;
        }
        while let Some((after, until)) =
            self.first_within((Bound::Excluded(start), Bound::Included(end)))
        {
            self.runs.remove(&after);
            self.count -= until - after;
            end = end.max(until);
        }
        self.runs.insert(start, end);
        self.count += end - start;
    }

    /// Takes out every number of `range`; an empty or reversed one takes nothing.
    pub fn remove(&mut self, range: Range<u64>) {
        let Range { start, end } = range;
        if start >= end {
            return;
        }
        if let Some((_, until)) = self.runs.range_mut(..start).next_back()
            && *until > start
        {
            let cut = *until;
            *until = start;
            self.count -= cut - start;
            self.put_back(end, cut);
        }
        while let Some((after, until)) =
            self.first_within((Bound::Included(start), Bound::Excluded(end)))
        {
            self.runs.remove(&after);
            self.count -= until - after;
            self.put_back(end, until);
        }
    }

    /// Takes out every number below `pos`.
    pub fn remove_below(&mut self, pos: u64) {
        self.remove(0..pos);
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.runs
            .range(..=number)
            .next_back()
            .is_some_and(|(_, &end)| number < end)
    }

    /// Whether no number is in the set.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many numbers are in the set.
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// How many separate ranges are in the set; memory is proportional to it.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The least number in the set.
    pub fn first(&self) -> Option<u64> {
        self.runs.first_key_value().map(|(&start, _)| start)
    }

    /// The greatest number in the set.
    pub fn last(&self) -> Option<u64> {
        self.runs.last_key_value().map(|(_, &end)| end - 1)
    }

    /// Takes out the least number.
    pub fn pop_first(&mut self) -> Option<u64> {
        let (start, end) = self.runs.pop_first()?;
        self.count -= end - start;
        self.put_back(start + 1, end);
        Some(start)
    }

    /// The least number from `from` on that is *not* in the set: the contiguous front of a received set.
    pub fn next_gap(&self, from: u64) -> u64 {
        match self.runs.range(..=from).next_back() {
            Some((_, &end)) if from < end => end,
            _ => from,
        }
    }

    /// The runs, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> {
        self.runs.iter().map(|(&start, &end)| start..end)
    }

    /// The parts of `within` that are not in the set, ascending. Costs nothing for parts not asked for.
    pub fn gaps(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut from = self.next_gap(within.start);
        std::iter::from_fn(move || {
            if from >= within.end {
                return None;
            }
            let (gap_end, next) = match self.runs.range(from..within.end).next() {
                Some((&start, &end)) => (start, end),
                None => (within.end, within.end),
            };
            let gap = from..gap_end;
            from = next;
            Some(gap)
        })
    }

    fn first_within(&self, starts: (Bound<u64>, Bound<u64>)) -> Option<(u64, u64)> {
        self.runs
            .range(starts)
            .next()
            .map(|(&start, &end)| (start, end))
    }

    /// Returns to the set what was cut off the far side of a run.
    fn put_back(&mut self, start: u64, end: u64) {
        if start < end {
            self.runs.insert(start, end);
            self.count += end - start;
        }
    }
}

impl Extend<Range<u64>> for RangeSet {
    fn extend<I: IntoIterator<Item = Range<u64>>>(&mut self, ranges: I) {
        ranges.into_iter().for_each(|range| self.insert(range));
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        set.extend(ranges);
        set
    }
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "lists of one run are meant"
)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Range<u64>),
        Remove(Range<u64>),
        RemoveBelow(u64),
        PopFirst,
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = || (0..64_u64, 0..12_u64).prop_map(|(start, len)| start..start + len);
        prop_oneof![
            4 => range().prop_map(Step::Insert),
            3 => range().prop_map(Step::Remove),
            1 => (0..70_u64).prop_map(Step::RemoveBelow),
            1 => Just(Step::PopFirst),
        ]
    }

    fn apply(step: Step, set: &mut RangeSet, twin: &mut BTreeSet<u64>) {
        match step {
            Step::Insert(range) => {
                set.insert(range.clone());
                twin.extend(range);
            }
            Step::Remove(range) => {
                set.remove(range.clone());
                twin.retain(|number| !range.contains(number));
            }
            Step::RemoveBelow(pos) => {
                set.remove_below(pos);
                twin.retain(|&number| number >= pos);
            }
            Step::PopFirst => assert_eq!(set.pop_first(), twin.pop_first()),
        }
    }

    /// Runs of a naive set, by looking at each number.
    fn runs_of(numbers: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some(run) if run.end == number => run.end += 1,
                _ => runs.push(number..number + 1),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(
            steps in prop::collection::vec(step(), 1..80), from in 0..80_u64, span in 0..80_u64,
        ) {
            let mut set = RangeSet::new();
            let mut twin = BTreeSet::new();
            for step in steps {
                apply(step, &mut set, &mut twin);
                // Equality of runs also says that they are ordered, apart and not empty.
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), runs_of(twin.iter().copied()));
                prop_assert_eq!(set.len(), twin.len() as u64);
                prop_assert_eq!(set.runs(), set.iter().count());
                prop_assert_eq!(set.is_empty(), twin.is_empty());
                prop_assert_eq!(set.first(), twin.first().copied());
                prop_assert_eq!(set.last(), twin.last().copied());
            }
            for number in 0..80 {
                prop_assert_eq!(set.contains(number), twin.contains(&number));
            }
            let missing = (from..from + span).filter(|number| !twin.contains(number));
            prop_assert_eq!(set.gaps(from..from + span).collect::<Vec<_>>(), runs_of(missing));
            prop_assert_eq!(Some(set.next_gap(from)), (from..).find(|number| !twin.contains(number)));
            prop_assert_eq!(set.iter().collect::<RangeSet>(), set);
        }
    }

    #[test]
    fn the_whole_range_of_numbers() {
        let mut set = RangeSet::new();
        set.insert(0..u64::MAX);
        set.insert(5..u64::MAX);
        assert_eq!(
            (set.len(), set.runs(), set.last()),
            (u64::MAX, 1, Some(u64::MAX - 1))
        );
        assert!(!set.contains(u64::MAX));
        assert_eq!(set.next_gap(3), u64::MAX);
        assert_eq!(set.next_gap(u64::MAX), u64::MAX);
        set.remove(1..u64::MAX - 1);
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [0..1, u64::MAX - 1..u64::MAX]
        );
        assert_eq!(set.gaps(0..u64::MAX).collect::<Vec<_>>(), [1..u64::MAX - 1]);
        set.remove_below(u64::MAX);
        assert_eq!((set.len(), set.runs()), (0, 0));
    }

    #[test]
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "hostile loss lists contain them"
    )]
    fn reversed_ranges_are_empty() {
        let mut set: RangeSet = [3..9].into_iter().collect();
        set.insert(20..10);
        set.remove(8..4);
        assert_eq!(set.iter().collect::<Vec<_>>(), [3..9]);
        assert_eq!(set.gaps(20..10).count(), 0);
    }
}
