//! Acknowledgements (8.2).
//!
//! It does *not* judge whether what is acknowledged was sent.

use super::{Malformed, Seq, low};
use crate::engine::{Reader, Writer};

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

impl Ack {
    /// A light ACK (8.1.3).
    pub(crate) const fn light(next: Seq) -> Self {
        Self {
            number: None,
            next,
            rtt: None,
            rtt_var: None,
            free: None,
            packet_rate: None,
            capacity: None,
            byte_rate: None,
        }
    }

    pub(super) fn parse(information: u32, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let next = reader.u32().ok_or(Malformed::Ack)?;
        if next >> 31 != 0 || !bytes.len().is_multiple_of(4) {
            return Err(Malformed::Ack);
        }
        Ok(Self {
            number: (information != 0).then_some(information),
            next: Seq::new(next.into()),
            rtt: reader.u32(),
            rtt_var: reader.u32(),
            free: reader.u32(),
            packet_rate: reader.u32(),
            capacity: reader.u32(),
            byte_rate: reader.u32(),
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let words = [
            self.rtt,
            self.rtt_var,
            self.free,
            self.packet_rate,
            self.capacity,
            self.byte_rate,
        ];
        let mut writer = Writer::new(out);
        writer.u32(low(self.next));
        let sent = words.into_iter().map_while(|word| word);
        sent.for_each(|word| writer.u32(word));
    }
}
