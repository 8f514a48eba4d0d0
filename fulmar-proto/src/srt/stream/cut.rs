//! Messages become packets: numbers, places, stamps, lives (3.2, 11.2).
//!
//! It does *not* seal or keep them.

use std::time::Instant;

use super::Piece;
use crate::srt::Batch;

/// What comes next; one a connection or a group.
#[derive(Debug)]
pub(crate) struct Cutter {}

impl Cutter {
    /// Appends the packets of a batch.
    pub(crate) fn cut(&mut self, now: Instant, batch: &Batch, out: &mut Vec<Piece>) {
        unimplemented!()
    }

    /// The next position and message number.
    pub(crate) fn next(&self) -> (u64, u32) {
        unimplemented!()
    }
}
