//! Real sockets: the driver with a toy protocol, one daemon among many clients and strangers, and the real binary over
//! links that really lose and delay.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod crowd;
mod driver;
mod namespaces;
