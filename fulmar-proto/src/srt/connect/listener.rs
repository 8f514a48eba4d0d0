//! A listener: induction, conclusion, calls that wait for the application, answers that are asked for again (5.3 to
//! 5.9).
//!
//! It remembers nothing of a stranger before a good cookie. It does *not* hold connections.

/// What answers calls.
#[derive(Debug)]
pub(crate) struct Listener {}
