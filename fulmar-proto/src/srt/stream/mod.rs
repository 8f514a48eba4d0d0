//! Numbers and time: what is sent becomes packets, what was received becomes messages (2.1, 7, 11).
//!
//! One for each connection, one for all links of a group. It does *not* know losses, links or keys.

mod assemble;
mod cut;
mod play;

use std::ops::Range;
use std::time::{Duration, Instant};

pub(crate) use assemble::Assembly;
pub(crate) use cut::Cutter;
pub(crate) use play::Play;

use super::Batch;
use super::packet::{Place, Stamp};

/// One packet of new data before it is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) pos: u64,
    pub(crate) message: u32,
    pub(crate) place: Place,
    pub(crate) ordered: bool,
    /// Microseconds of our clock, from 2^32 on.
    pub(crate) stamp: u64,
    /// When its message is dropped if it has not left (11.2.3).
    pub(crate) expires: Option<Instant>,
    pub(crate) bytes: Vec<u8>,
}

/// One packet received, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) pos: u64,
    pub(crate) message: u32,
    pub(crate) place: Place,
    pub(crate) ordered: bool,
    /// Microseconds of the peer's clock, from 2^32 on.
    pub(crate) stamp: u64,
    pub(crate) bytes: Vec<u8>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Stored,
    Duplicate,
    /// Below what was delivered or dropped.
    Belated,
    /// Beyond the buffer.
    Full,
}

/// Where received data waits for its time, or for the rest of its message.
#[derive(Debug)]
pub(crate) enum Output {
    Live(Play),
    Whole(Assembly),
}

impl Output {
    pub(crate) fn insert(&mut self, now: Instant, got: Got) -> Taken {
        unimplemented!()
    }

    /// Undecryptable: acknowledged, never delivered (6.5.5).
    pub(crate) fn hold_place(&mut self, now: Instant, pos: u64, stamp: u64) {
        unimplemented!()
    }

    /// The sender gave these up (9.7.3, 9.7.4).
    pub(crate) fn drop_run(&mut self, run: Range<u64>, message: u32) {
        unimplemented!()
    }

    /// Appends what is due, at most `max` bytes, and says how many.
    pub(crate) fn poll(&mut self, now: Instant, batch: &mut Batch, max: usize) -> usize {
        unimplemented!()
    }

    /// When there is something to poll, or to drop.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// All below is delivered or dropped: [`Receiver::skip_below`](super::receiver::Receiver::skip_below).
    pub(crate) fn front(&self) -> u64 {
        unimplemented!()
    }

    /// Free places from the front on, packets.
    pub(crate) fn free(&self) -> usize {
        unimplemented!()
    }

    /// Empty, and a sender far ahead: begin there (8.5.2).
    pub(crate) fn jump(&mut self, pos: u64) {
        unimplemented!()
    }

    /// An ACKACK with this stamp closed this round trip (7.4.1).
    pub(crate) fn clock_sample(&mut self, now: Instant, stamp: Stamp, rtt: Duration) {
        unimplemented!()
    }

    /// SHUTDOWN was heard: what is there is delivered, holes drop when they block (7.5.2).
    pub(crate) fn end(&mut self) {
        unimplemented!()
    }

    /// Whether nothing is left after [`end`](Self::end).
    pub(crate) fn is_drained(&self) -> bool {
        unimplemented!()
    }
}
