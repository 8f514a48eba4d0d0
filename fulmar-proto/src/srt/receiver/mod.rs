//! The receiving half of a link: which numbers came, and what the sender is told (8.1 to 8.3, 9.2, 9.3).
//!
//! It does *not* keep payload.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::connect::Agreed;
use super::packet::{Ack, DataHeader};
use super::rtt::Rtt;
use super::sender::Implausible;
use crate::engine::RangeSet;

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Receiver {}

impl Receiver {
    pub(crate) fn new(now: Instant, agreed: &Agreed) -> Self {
        unimplemented!()
    }

    /// Before opening: is it worth it? `free` is [`Output::free`](super::stream::Output::free).
    pub(crate) fn judge(&mut self, pos: u64, free: usize) -> Judged {
        unimplemented!()
    }

    /// It came, and is kept or holds its place. `wire_len` counts payload as sent.
    pub(crate) fn accept(&mut self, now: Instant, pos: u64, header: &DataHeader, wire_len: usize) {
        unimplemented!()
    }

    /// What the stream delivered or gave up.
    pub(crate) fn skip_below(&mut self, front: u64) {
        unimplemented!()
    }

    /// Closes a round trip, once (8.3.1).
    pub(crate) fn on_ackack(&mut self, now: Instant, number: u32) -> Option<Duration> {
        unimplemented!()
    }

    /// The run to drop, if it makes sense (9.7.2).
    pub(crate) fn on_dropreq(
        &mut self,
        now: Instant,
        first: u64,
        last: u64,
    ) -> Result<Range<u64>, Implausible> {
        unimplemented!()
    }

    /// Losses that the packet filter will not rebuild (13.7.1).
    pub(crate) fn irrecoverable(&mut self, now: Instant, runs: &RangeSet) {
        unimplemented!()
    }

    /// What is to be said now.
    pub(crate) fn poll(&mut self, now: Instant, rtt: &Rtt, free: usize, out: &mut Reports) {
        unimplemented!()
    }

    pub(crate) fn deadline(&self, rtt: &Rtt) -> Option<Instant> {
        unimplemented!()
    }

    /// SHUTDOWN was heard: nothing is reported any more (7.5.2).
    pub(crate) fn end(&mut self) {
        unimplemented!()
    }

    /// The highest position received; numbers are widened next to it.
    pub(crate) fn highest(&self) -> u64 {
        unimplemented!()
    }

    pub(crate) fn gauges(&self) -> ReceiveGauges {
        unimplemented!()
    }
}

/// Whether a packet is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    Wanted,
    Duplicate,
    /// Below the acknowledged number (8.5.3).
    Belated,
    /// At or beyond the end of the buffer (8.5.2).
    Beyond,
    /// The third in a row there: the stream jumps to it (8.5.2).
    Jump,
}

/// At most one ACK and one NAK; [`Receiver::poll`] clears it first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reports {
    pub(crate) ack: Option<Ack>,
    /// For [`Losses::of`](super::packet::Losses::of), oldest first.
    pub(crate) losses: Vec<Range<u64>>,
}

/// Figures of the moment (18.3).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ReceiveGauges {}
