//! What the five protocols share.

mod endpoint;
mod units;

pub use endpoint::{Datagram, Ecn, Endpoint, Meta, Transmit};
pub use units::Bitrate;
