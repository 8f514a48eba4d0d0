//! Items at positions, released in order at times of the source's clock: [`Playout`].
//!
//! It does *not* know the time: [`SourceClock`](super::SourceClock) turns ours into the source's.
#![allow(unused_variables, reason = "stubs")]

use std::marker::PhantomData;
use std::ops::Range;

/// Holds items until they are due; skips a hole when what is behind it is.
#[derive(Clone, Debug)]
pub struct Playout<T>(PhantomData<T>);

impl<T> Playout<T> {
    /// An empty one from position `front` on, for positions less than `capacity` beyond it. Without `skip` a hole
    /// blocks until it is filled.
    pub fn starting_at(front: u64, capacity: usize, skip: bool) -> Self {
        unimplemented!()
    }

    /// Takes an item due at `at`, microseconds of the source's clock.
    pub fn insert(&mut self, pos: u64, at: u64, item: T) -> Arrival {
        unimplemented!()
    }

    /// The next item that is due, or the hole before it.
    pub fn poll(&mut self, source_now: u64) -> Option<Released<T>> {
        unimplemented!()
    }

    /// When the next is due.
    pub fn next_at(&self) -> Option<u64> {
        unimplemented!()
    }

    /// All below was released or skipped.
    pub fn front(&self) -> u64 {
        unimplemented!()
    }

    /// Behind the last item held; the front if there is none.
    pub fn end(&self) -> u64 {
        unimplemented!()
    }

    /// Positions from the end to the bound.
    pub fn free(&self) -> usize {
        unimplemented!()
    }

    /// Forgets all below `pos`, which is not below the front.
    pub fn skip_to(&mut self, pos: u64) {
        unimplemented!()
    }
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It waits for its time.
    Stored,
    /// Its position is taken.
    Duplicate,
    /// Its position is below the front.
    Late,
    /// Its position is beyond the bound.
    Ahead,
}

/// What [`Playout::poll`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released<T> {
    /// An item.
    Item {
        /// Its position.
        pos: u64,
        /// When it was due, microseconds of the source's clock.
        at: u64,
        /// The item itself.
        item: T,
    },
    /// Positions that never came.
    Skipped(Range<u64>),
}
