//! The sending half of a link: what was sent and is not acknowledged, and what is sent next (8.4, 9.4 to 9.7, 12).
//!
//! It does *not* make numbers, and it does *not* know what the peer has: an ACK may pass numbers that never came
//! (7.2.3).

use std::ops::Range;
use std::time::Instant;

use super::config::Bandwidth;
use super::connect::Agreed;
use super::filter::Encoder;
use super::keys::LinkKeys;
use super::packet::Ack;
use super::rtt::Rtt;
use super::stream::Piece;

/// A feedback that no honest peer sends; counted, and nothing else (4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Implausible;

/// The sending half.
#[derive(Debug)]
pub(crate) struct Sender {}

impl Sender {
    pub(crate) fn new(now: Instant, agreed: &Agreed) -> Self {
        unimplemented!()
    }

    /// Takes new data; `Err` gives it back when there is no room.
    pub(crate) fn push(&mut self, now: Instant, piece: Piece) -> Result<(), Piece> {
        unimplemented!()
    }

    /// Begins later than the ISN said: a link that joins a group that has moved on (14.2.2).
    pub(crate) fn skip_to(&mut self, pos: u64) {
        unimplemented!()
    }

    /// An ACK of everything below `next`, widened; the number that an ACKACK answers now, if one does (8.4.3).
    pub(crate) fn on_ack(
        &mut self,
        now: Instant,
        next: u64,
        ack: &Ack,
    ) -> Result<Option<u32>, Implausible> {
        unimplemented!()
    }

    /// A loss report, widened.
    pub(crate) fn on_nak(
        &mut self,
        now: Instant,
        rtt: &Rtt,
        runs: impl Iterator<Item = Range<u64>> + Clone,
    ) -> Result<(), Implausible> {
        unimplemented!()
    }

    pub(crate) fn on_timeout(&mut self, now: Instant, rtt: &Rtt) {
        unimplemented!()
    }

    /// Appends the next datagram, if pacing and window allow.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        rtt: &Rtt,
        keys: Option<&mut LinkKeys>,
        filter: Option<&mut Encoder>,
        out: &mut Vec<u8>,
    ) -> Option<Sent> {
        unimplemented!()
    }

    /// When to call [`on_timeout`](Self::on_timeout) or [`poll`](Self::poll); in the past while something may leave.
    pub(crate) fn deadline(&self, rtt: &Rtt) -> Option<Instant> {
        unimplemented!()
    }

    pub(crate) fn set_bandwidth(&mut self, rule: Bandwidth) {
        unimplemented!()
    }

    /// From the first position not acknowledged to behind the last handed in.
    pub(crate) fn unacknowledged(&self) -> Range<u64> {
        unimplemented!()
    }

    /// Behind the last position that left.
    pub(crate) fn sent_below(&self) -> u64 {
        unimplemented!()
    }

    /// Bytes of payload that there is room for.
    pub(crate) fn room(&self) -> usize {
        unimplemented!()
    }

    pub(crate) fn gauges(&self) -> SendGauges {
        unimplemented!()
    }
}

/// What [`Sender::poll`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    New,
    Again,
    Filter,
    DropReq,
}

/// Figures of the moment (18.3).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SendGauges {}
