//! Messages and streams: whole, in order or out of it (11.2, 11.3).
//!
//! It does *not* look at the time.

/// Packets that wait for the rest of their message, or of what is before them.
#[derive(Debug)]
pub(crate) struct Assembly {}
