//! One handshaken path: packets to its halves, timers, silence, end (4, 10).
//!
//! It does *not* know other links.
