//! Loss reports: numbers and runs of numbers (9.1).
//!
//! It does *not* know what was sent: its reader cuts the runs to what it holds.

use std::ops::Range;

use super::{Malformed, Seq, in_order, low};
use crate::engine::{Reader, Writer};

/// The body of a NAK, checked for shape (9.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Losses<'a>(&'a [u8]);

impl<'a> Losses<'a> {
    /// Fills `buf` with runs, the first ones first, as far as `words` go (9.1.2); `None` if there is none. No run may
    /// be of 2^30 numbers or more.
    pub(crate) fn of(
        runs: impl IntoIterator<Item = Range<u64>>,
        words: usize,
        buf: &'a mut Vec<u8>,
    ) -> Option<Self> {
        buf.clear();
        let mut writer = Writer::new(buf);
        let mut left = words;
        for Range { start, end } in runs {
            debug_assert!(
                start < end && end - start < 1 << 30,
                "{start}..{end} is no run of losses"
            );
            let [first, last] = [start, end - 1].map(|pos| low(Seq::narrow(pos)));
            let needed = if first == last { 1 } else { 2 };
            let Some(rest) = left.checked_sub(needed) else {
                break;
            };
            left = rest;
            if needed == 2 {
                writer.u32(first | RUN);
            }
            writer.u32(last);
        }
        (!buf.is_empty()).then_some(Self(buf))
    }

    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let losses = Self(bytes);
        // Empty, a word cut short, and whatever the walk does not get through.
        let walked: usize = losses.walk().map(|(_, _, words)| 4 * words).sum();
        if bytes.is_empty() || walked != bytes.len() {
            return Err(Malformed::Nak);
        }
        Ok(losses)
    }

    /// First and last number of each run; the last is the first or behind it.
    pub(crate) fn runs(self) -> impl Iterator<Item = (Seq, Seq)> + Clone + 'a {
        self.walk().map(|(first, last, _)| (first, last))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }

    /// Runs with the words they take, up to the first that breaks a rule.
    fn walk(self) -> impl Iterator<Item = (Seq, Seq, usize)> + Clone + 'a {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            let word = reader.u32()?;
            let first = Seq::new(word.into());
            if word & RUN == 0 {
                return Some((first, first, 1));
            }
            let last = reader.u32().filter(|last| last & RUN == 0)?;
            let last = Seq::new(last.into());
            (first != last && in_order(first, last)).then_some((first, last, 2))
        })
    }
}

/// The bit of a word that begins a run.
const RUN: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::RangeSet;

    /// 9.1.1, and the runs in front are those that fit.
    #[test]
    fn the_example_of_the_text() {
        let runs = [5..6, 9..10, 11..16];
        let mut buf = Vec::new();
        let losses = Losses::of(runs.clone(), 4, &mut buf);
        let expected = [5, 9, 0x8000_000b, 0xf].map(u32::to_be_bytes);
        assert_eq!(losses, Some(Losses(&expected.concat())));
        for (words, bytes) in [(3, 8), (2, 8), (1, 4)] {
            let losses = Losses::of(runs.clone(), words, &mut buf);
            assert_eq!(losses, Some(Losses(&expected.concat()[..bytes])));
        }
        assert_eq!(Losses::of(runs, 0, &mut buf), None);
        assert_eq!(Losses::of([], 9, &mut buf), None);
    }

    proptest! {
        /// Against every number by itself, around the wrap.
        #[test]
        fn what_was_written_is_read(lost in prop::collection::btree_set(0..300_u64, 1..60), isn in 0..2_u64) {
            let base = (1 << 31) + isn * ((1 << 31) - 150);
            let mut runs = RangeSet::new();
            lost.iter().for_each(|n| runs.insert(base + n..base + n + 1));
            let mut buf = Vec::new();
            Losses::of(runs.iter(), 1000, &mut buf);
            let losses = Losses::parse(&buf).expect("we wrote it");
            let mut read = BTreeSet::new();
            for (first, last) in losses.runs() {
                let (first, last) = (first.widen(base), last.widen(base));
                read.extend((first..=last).map(|pos| pos - base));
            }
            prop_assert_eq!(read, lost);
        }

        #[test]
        fn runs_of_any_bytes_are_in_order(bytes in prop::collection::vec(prop_oneof![Just(0), Just(0x80), any::<u8>()], 0..40)) {
            if let Ok(losses) = Losses::parse(&bytes) {
                let words: usize = losses.runs().map(|(first, last)| 1 + usize::from(first != last)).sum();
                prop_assert_eq!(4 * words, bytes.len());
                for (first, last) in losses.runs() {
                    prop_assert!(in_order(first, last));
                }
            }
        }
    }
}
