//! Acknowledgements (8.2).
//!
//! It does *not* judge whether what is acknowledged was sent.

use super::Seq;

/// An ACK in any of its forms: words that are `None` were not sent, and none follows one that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    /// `None` in a light ACK.
    pub(crate) number: Option<u32>,
    /// The first number not received: everything below is there, or dropped.
    pub(crate) next: Seq,
    /// Microseconds.
    pub(crate) rtt: Option<u32>,
    /// Microseconds.
    pub(crate) rtt_var: Option<u32>,
    /// Free receive buffer, packets.
    pub(crate) free: Option<u32>,
    /// Packets received a second.
    pub(crate) packet_rate: Option<u32>,
    /// Estimated capacity, packets a second.
    pub(crate) capacity: Option<u32>,
    /// Bytes received a second.
    pub(crate) byte_rate: Option<u32>,
}
