//! Two wishes and one outcome: what a handshake agrees on (5.5 to 5.7, 13.2).
//!
//! It does *not* know who called whom when.
