//! Live: each packet when it is due, holes skipped when they block (7).
//!
//! It does *not* put messages together.

/// Packets that wait for their time.
#[derive(Debug)]
pub(crate) struct Play {}
