//! Buffers of incomplete blocks, and how much of them an endpoint may hold.
//!
//! It does *not* know blocks.

/// Buffers and a budget shared by all receiving sessions of an endpoint.
#[derive(Debug)]
pub(super) struct Pool {
    spare: Vec<Vec<u8>>,
    open_bytes: usize,
    limit: usize,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            spare: Vec::new(),
            open_bytes: 0,
            limit,
        }
    }

    /// Takes a buffer back. Keeps a few; a burst's worth is not kept for ever.
    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() > 0 && self.spare.len() < SPARE {
            self.spare.push(buffer);
        }
    }

    /// A buffer for a block, empty if there is none to spare.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// So many bytes of a block are held from now on.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.open_bytes += bytes;
    }

    /// They no longer are.
    pub(super) fn let_go(&mut self, bytes: usize) {
        self.open_bytes -= bytes;
    }

    /// Whether more is held than may be.
    pub(super) fn over(&self) -> bool {
        self.open_bytes > self.limit
    }
}

/// Buffers kept for the next blocks: about 4 MiB.
const SPARE: usize = 32;
