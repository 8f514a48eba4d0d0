//! Loss reports: numbers and runs of numbers (9.1).
//!
//! It does *not* know what was sent: its reader cuts the runs to what it holds.

use std::ops::Range;

use super::Seq;

/// The body of a NAK, checked for shape (9.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Losses<'a>(&'a [u8]);

impl<'a> Losses<'a> {
    /// Fills `buf` with runs, the oldest first, as far as `words` go; `None` if there is none.
    pub(crate) fn of(
        runs: impl Iterator<Item = Range<u64>>,
        words: usize,
        buf: &'a mut Vec<u8>,
    ) -> Option<Self> {
        unimplemented!()
    }

    /// First and last number of each run; the last is the first or behind it.
    pub(crate) fn runs(self) -> impl Iterator<Item = (Seq, Seq)> + 'a {
        std::iter::empty()
    }
}
