//! What came, what is rebuilt, what is past hope (13.6, 13.7).
//!
//! It does *not* open what it rebuilds.

use crate::engine::RangeSet;
use crate::srt::packet::{DataHeader, Malformed};

/// The receiver's end of the filter.
#[derive(Debug)]
pub(crate) struct Decoder {}

impl Decoder {
    /// The `n`th packet came, header and payload as sent. Appends what it rebuilds.
    pub(crate) fn data(
        &mut self,
        n: u64,
        head: &[u8; DataHeader::LEN],
        sealed: &[u8],
        out: &mut Vec<Rebuilt>,
    ) {
        unimplemented!()
    }

    /// A control packet came, with the number of the `n`th packet. Appends what it rebuilds.
    pub(crate) fn control(
        &mut self,
        n: u64,
        header: &DataHeader,
        body: &[u8],
        out: &mut Vec<Rebuilt>,
    ) -> Result<(), Malformed> {
        unimplemented!()
    }

    /// Packets whose every group has passed without rebuilding them (13.7), each told once.
    pub(crate) fn hopeless(&mut self) -> RangeSet {
        unimplemented!()
    }
}

/// A packet that was rebuilt; it goes the way of one that came (13.6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rebuilt {
    pub(crate) n: u64,
    /// With the destination of the packet that helped.
    pub(crate) head: [u8; DataHeader::LEN],
    pub(crate) sealed: Vec<u8>,
}
