//! The packet filter: parity over rows and columns of ciphertext (13).
//!
//! It does *not* know keys, and it does *not* ask for anything: what is past hope is told to `receiver`.

mod config;
mod decode;
mod encode;
mod geometry;

pub(crate) use config::{Arq, Config, Layout};
pub(crate) use decode::{Decoder, Rebuilt};
pub(crate) use encode::Encoder;
pub(crate) use geometry::{Geometry, GroupId};
