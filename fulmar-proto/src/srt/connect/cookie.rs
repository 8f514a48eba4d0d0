//! The cookie of a listener (5.8).
//!
//! It does *not* count wrong ones.
