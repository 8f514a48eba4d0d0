//! What the five protocols share.

mod endpoint;

pub use endpoint::{Datagram, Ecn, Endpoint, Meta, Transmit};
