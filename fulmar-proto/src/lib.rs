//! The pure half of fulmar: one engine, and the protocols built on it.
#![forbid(unsafe_code)]

pub mod crypto;
pub mod engine;
pub mod fec;
pub mod hpudp;
#[cfg(feature = "sim")]
pub mod sim;

pub use engine::{Datagram, Ecn, Endpoint, Meta, Transmit};
