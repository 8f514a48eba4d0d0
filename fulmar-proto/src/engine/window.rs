//! Rings over consecutive positions: what was sent and may be needed again, and what was seen and must not count
//! twice.
//!
//! Positions come from peers; every operation takes any `u64` and costs at most the size of the window. The rings do
//! *not* decide when something is lost, and [`ReplayWindow`] does *not* authenticate: ask it to
//! [`accept`](ReplayWindow::accept) only what has proved its origin, or one forged number moves the window.

use std::collections::VecDeque;

/// Items at consecutive positions `base..next`, at most a fixed number of them.
#[derive(Clone, Debug)]
pub struct SendWindow<T> {
    ring: VecDeque<T>,
    base: u64,
    capacity: usize,
}

impl<T> SendWindow<T> {
    /// An empty window of at most `capacity` items whose first position is 0. Memory grows as it fills.
    pub const fn with_capacity(capacity: usize) -> Self {
        Self::starting_at(capacity, 0)
    }

    /// An empty window of at most `capacity` items whose first position is `base`.
    pub const fn starting_at(capacity: usize, base: u64) -> Self {
        Self {
            ring: VecDeque::new(),
            base,
            capacity,
        }
    }

    /// Puts an item at [`next`](Self::next) and says where that was; `None`, and the item is gone, when the window
    /// is full.
    pub fn push(&mut self, item: T) -> Option<u64> {
        if self.is_full() {
            return None;
        }
        let pos = self.next();
        self.ring.push_back(item);
        Some(pos)
    }

    /// The item at `pos`, if the window holds it.
    pub fn get(&self, pos: u64) -> Option<&T> {
        self.ring.get(self.slot(pos)?)
    }

    /// The item at `pos`, if the window holds it.
    pub fn get_mut(&mut self, pos: u64) -> Option<&mut T> {
        let slot = self.slot(pos)?;
        self.ring.get_mut(slot)
    }

    /// Drops every item below `pos` and says how many that were. Beyond [`next`](Self::next) there is nothing to
    /// free, whatever a peer claims: the window is then empty and `next` stays.
    pub fn ack_below(&mut self, pos: u64) -> usize {
        let freed = self.below(pos);
        self.ring.drain(..freed);
        self.base += freed as u64;
        freed
    }

    /// Takes out the oldest item if it is below `pos`; repeated until `None` it is
    /// [`ack_below`](Self::ack_below) with the items in hand.
    pub fn pop_below(&mut self, pos: u64) -> Option<T> {
        if pos <= self.base {
            return None;
        }
        let item = self.ring.pop_front()?;
        self.base += 1;
        Some(item)
    }

    /// Moves an empty window on to `pos`, when that is ahead: what lies between will never be needed.
    pub fn skip_to(&mut self, pos: u64) {
        if self.ring.is_empty() {
            self.base = self.base.max(pos);
        }
    }

    /// The items with their positions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        (self.base..).zip(&self.ring)
    }

    /// Position of the oldest item, or of the next one when the window is empty.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Position the next item gets.
    pub fn next(&self) -> u64 {
        self.base + self.ring.len() as u64
    }

    /// How many items the window holds.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether another item would be refused: the window holds all it may, or positions have run out.
    pub fn is_full(&self) -> bool {
        self.ring.len() >= self.capacity || self.next() == u64::MAX
    }

    /// Whether the window holds nothing.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    fn slot(&self, pos: u64) -> Option<usize> {
        usize::try_from(pos.checked_sub(self.base)?).ok()
    }

    /// How many items lie below `pos`.
    fn below(&self, pos: u64) -> usize {
        let distance = pos.saturating_sub(self.base);
        usize::try_from(distance)
            .unwrap_or(usize::MAX)
            .min(self.ring.len())
    }
}

/// Which of the last numbers were seen. One bit each.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// Bit `seq % size` for every `seq` in `highest + 1 - size ..= highest`; the bits ahead are clear.
    bits: Box<[u64]>,
    /// Highest number accepted, 0 before any was.
    highest: u64,
}

impl ReplayWindow {
    /// Nothing seen. Remembers the last `size` numbers, rounded up to a power of two of at least 64.
    pub fn new(size: usize) -> Self {
        let words = size.div_ceil(WORD as usize).next_power_of_two();
        Self {
            bits: vec![0; words].into_boxed_slice(),
            highest: 0,
        }
    }

    /// Whether `seq` is seen for the first time, and remembers it. True exactly once for every number; false for one
    /// that has fallen out of the window.
    pub fn accept(&mut self, seq: u64) -> bool {
        if !self.is_fresh(seq) {
            return false;
        }
        if seq > self.highest {
            self.forget(self.highest + 1, seq);
            self.highest = seq;
        }
        let (word, bit) = self.place(seq);
        self.bits[word] |= bit;
        true
    }

    /// What [`accept`](Self::accept) would say, before the packet has been opened.
    pub fn is_fresh(&self, seq: u64) -> bool {
        if seq > self.highest {
            return true;
        }
        let (word, bit) = self.place(seq);
        self.highest - seq < self.size() && self.bits[word] & bit == 0
    }

    /// How many numbers are remembered.
    pub fn size(&self) -> u64 {
        self.bits.len() as u64 * WORD
    }

    /// Highest number accepted, 0 before any was.
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Clears the bits of `from..=to`, a word at a time where it can.
    fn forget(&mut self, from: u64, to: u64) {
        if to - from >= self.size() {
            self.bits.fill(0);
            return;
        }
        let mut seq = from;
        loop {
            let last = to.min(seq | (WORD - 1));
            let (word, first) = self.place(seq);
            let upto = u64::MAX >> (WORD - 1 - last % WORD);
            self.bits[word] &= !(upto & first.wrapping_neg());
            if last == to {
                return;
            }
            seq = last + 1;
        }
    }

    /// Where the bit of `seq` is kept: word and mask.
    fn place(&self, seq: u64) -> (usize, u64) {
        let word = (seq / WORD) & (self.bits.len() as u64 - 1);
        (word as usize, 1 << (seq % WORD))
    }
}

/// Bits in a word of the bitmap.
const WORD: u64 = u64::BITS as u64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        AckBelow(u64),
        PopBelow(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pos = || prop_oneof![9 => 0..60_u64, 1 => Just(u64::MAX)];
        prop_oneof![
            4 => Just(Step::Push),
            1 => pos().prop_map(Step::AckBelow),
            1 => pos().prop_map(Step::PopBelow),
        ]
    }

    proptest! {
        #[test]
        fn send_window_behaves_like_a_map(
            capacity in 1..20_usize, steps in prop::collection::vec(step(), 1..150),
        ) {
            let mut window = SendWindow::with_capacity(capacity);
            let mut twin = BTreeMap::new();
            let mut next = 0_u64;
            for (item, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push => {
                        let expected = (twin.len() < capacity).then_some(next);
                        prop_assert_eq!(window.push(item), expected);
                        if expected.is_some() {
                            twin.insert(next, item);
                            next += 1;
                        }
                    }
                    Step::AckBelow(pos) => {
                        let before = twin.len();
                        twin.retain(|&held, _| held >= pos);
                        prop_assert_eq!(window.ack_below(pos), before - twin.len());
                    }
                    Step::PopBelow(pos) => {
                        let oldest = twin.first_entry().filter(|entry| *entry.key() < pos);
                        prop_assert_eq!(window.pop_below(pos), oldest.map(|entry| entry.remove()));
                    }
                }
                prop_assert_eq!(window.next(), next);
                prop_assert_eq!(window.base(), twin.keys().next().copied().unwrap_or(next));
                prop_assert_eq!(window.len(), twin.len());
                prop_assert_eq!(window.is_empty(), twin.is_empty());
                prop_assert_eq!(window.is_full(), twin.len() == capacity);
                prop_assert!(window.iter().eq(twin.iter().map(|(&pos, item)| (pos, item))));
                for pos in (0..next + 3).chain([u64::MAX]) {
                    prop_assert_eq!(window.get(pos), twin.get(&pos));
                    prop_assert_eq!(window.get_mut(pos), twin.get_mut(&pos));
                }
            }
        }

        #[test]
        fn replay_window_accepts_each_number_once(
            size in prop_oneof![Just(64_usize), Just(128), Just(1024)],
            base in prop_oneof![Just(0_u64), Just(1 << 31), Just(u64::MAX - 4000)],
            walk in prop::collection::vec((0..200_u64, 0..1500_u64), 1..300),
        ) {
            let mut window = ReplayWindow::new(size);
            let mut seen = BTreeSet::new();
            let mut front = base;
            for (forward, back) in walk {
                // Mostly small steps, now and then a leap of several windows.
                front = front.saturating_add(if forward == 199 { 3 * size as u64 + 7 } else { forward / 8 });
                let seq = if back < 1000 { front.saturating_sub(back % 160) } else { front.saturating_sub(back) };
                let in_reach = seen.last().is_none_or(|&top: &u64| seq > top || top - seq < size as u64);
                let expected = in_reach && !seen.contains(&seq);
                prop_assert_eq!(window.is_fresh(seq), expected, "seq {} after {:?}", seq, seen.last());
                prop_assert_eq!(window.accept(seq), expected);
                prop_assert!(!window.accept(seq), "a second time");
                if expected {
                    seen.insert(seq);
                }
                prop_assert_eq!(Some(window.highest()), seen.last().copied());
            }
        }
    }

    #[test]
    fn a_claim_beyond_the_window_empties_it_and_moves_nothing() {
        let mut window = SendWindow::starting_at(4, 10);
        assert_eq!(
            [1, 2, 3].map(|item| window.push(item)),
            [Some(10), Some(11), Some(12)]
        );
        assert_eq!(window.ack_below(u64::MAX), 3);
        assert_eq!((window.base(), window.next()), (13, 13));
        assert_eq!(window.push(4), Some(13));
    }

    #[test]
    fn positions_run_out_before_they_wrap() {
        let mut window = SendWindow::starting_at(4, u64::MAX - 1);
        assert_eq!(window.push('a'), Some(u64::MAX - 1));
        assert!(window.is_full());
        assert_eq!(window.push('b'), None);
        assert_eq!(window.pop_below(u64::MAX), Some('a'));
        assert_eq!(window.push('c'), None);
    }

    #[test]
    fn replay_window_sizes_and_extremes() {
        assert_eq!(
            [0, 1, 64, 65, 8192].map(|size| ReplayWindow::new(size).size()),
            [64, 64, 64, 128, 8192]
        );
        let mut window = ReplayWindow::new(64);
        assert!(window.accept(0) && !window.accept(0));
        assert!(window.accept(u64::MAX) && !window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX - 64), "just outside");
        assert!(window.accept(u64::MAX - 63), "just inside");
    }
}
