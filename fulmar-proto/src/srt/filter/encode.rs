//! Groups in progress, and the control packets that end them (13.3, 13.4).
//!
//! It does *not* pace.

use crate::srt::packet::DataHeader;

/// The sender's end of the filter.
#[derive(Debug)]
pub(crate) struct Encoder {}

impl Encoder {
    /// The `n`th packet left for the first time, header and payload as sent.
    pub(crate) fn add(&mut self, n: u64, head: &[u8; DataHeader::LEN], sealed: &[u8]) {
        unimplemented!()
    }

    /// Appends a control packet that is due. Its header is `last`, that of the packet just sent, but for what 13.4.1
    /// says.
    pub(crate) fn pop(&mut self, last: &DataHeader, out: &mut Vec<u8>) -> bool {
        unimplemented!()
    }

    /// Whether one is due.
    pub(crate) fn is_due(&self) -> bool {
        unimplemented!()
    }
}
