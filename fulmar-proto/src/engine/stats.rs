//! What happened how often: [`Counters`].
//!
//! Each protocol names its counters in an enum; metrics and JSON are made from the names, so a new counter needs no
//! change anywhere else. They do *not* measure rates and do *not* hold anything that can fall.

use std::fmt;
use std::marker::PhantomData;

/// Counters of one session or endpoint: an array indexed by an enum. They stop at `u64::MAX`.
#[derive(Clone)]
pub struct Counters<K> {
    values: Box<[u64]>,
    kinds: PhantomData<K>,
}

impl<K: CounterKind> Counters<K> {
    /// All zero.
    pub fn new() -> Self {
        debug_assert!(
            K::ALL
                .iter()
                .enumerate()
                .all(|(at, kind)| kind.index() == at),
            "index follows ALL"
        );
        Self {
            values: vec![0; K::COUNT].into_boxed_slice(),
            kinds: PhantomData,
        }
    }

    /// Counts `n` more of a kind.
    pub fn add(&mut self, kind: K, n: u64) {
        let value = &mut self.values[kind.index()];
        *value = value.saturating_add(n);
    }

    /// How many of a kind were counted.
    pub fn get(&self, kind: K) -> u64 {
        self.values[kind.index()]
    }

    /// Adds the counts of another, as when a session ends and its endpoint keeps the sum.
    pub fn merge(&mut self, other: &Self) {
        K::ALL
            .iter()
            .for_each(|&kind| self.add(kind, other.get(kind)));
    }

    /// Every count as a figure, in the order of [`CounterKind::ALL`].
    pub fn figures(&self) -> impl Iterator<Item = Figure> {
        K::ALL.iter().map(|&kind| Figure {
            name: kind.name(),
            help: kind.help(),
            gauge: false,
            label: None,
            value: self.get(kind),
        })
    }

    /// Every name with its count, in the order of [`CounterKind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        K::ALL.iter().map(|&kind| (kind.name(), self.get(kind)))
    }
}

impl<K: CounterKind> Default for Counters<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: CounterKind> fmt::Debug for Counters<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// One figure of an endpoint, as metrics show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What it is, in `snake_case`, without the protocol; bytes end in `_bytes`.
    pub name: &'static str,
    /// One sentence about it.
    pub help: &'static str,
    /// Whether it can fall.
    pub gauge: bool,
    /// Name and value of what tells it from the others of its name, out of a fixed set.
    pub label: Option<(&'static str, &'static str)>,
    /// How much, or how many.
    pub value: u64,
}

/// An enum that names counters.
pub trait CounterKind: Copy + 'static {
    /// Every kind, in the order of [`index`](Self::index).
    const ALL: &'static [Self];
    /// How many kinds there are.
    const COUNT: usize = Self::ALL.len();

    /// Place of this kind in [`ALL`](Self::ALL); for a plain enum `self as usize`.
    fn index(self) -> usize;

    /// Name in metrics and JSON, in `snake_case`, without the protocol.
    fn name(self) -> &'static str;

    /// One sentence on what is counted.
    fn help(self) -> &'static str;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Kind {
        Datagrams,
        Duplicates,
    }

    impl CounterKind for Kind {
        const ALL: &'static [Self] = &[Self::Datagrams, Self::Duplicates];

        fn index(self) -> usize {
            self as usize
        }

        fn name(self) -> &'static str {
            match self {
                Self::Datagrams => "datagrams",
                Self::Duplicates => "duplicates",
            }
        }

        fn help(self) -> &'static str {
            "It happened."
        }
    }

    #[test]
    fn counts_are_named_and_saturate() {
        let mut counters = Counters::new();
        counters.add(Kind::Duplicates, 2);
        counters.add(Kind::Duplicates, 3);
        assert_eq!(
            (
                counters.get(Kind::Datagrams),
                counters.get(Kind::Duplicates)
            ),
            (0, 5)
        );
        assert_eq!(
            counters.iter().collect::<Vec<_>>(),
            [("datagrams", 0), ("duplicates", 5)]
        );
        assert_eq!(
            format!("{counters:?}"),
            r#"{"datagrams": 0, "duplicates": 5}"#
        );

        let mut sum = counters.clone();
        sum.add(Kind::Datagrams, u64::MAX);
        sum.merge(&counters);
        sum.add(Kind::Datagrams, 1);
        assert_eq!(
            sum.iter().collect::<Vec<_>>(),
            [("datagrams", u64::MAX), ("duplicates", 10)]
        );
    }
}
