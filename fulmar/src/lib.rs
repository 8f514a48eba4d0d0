//! fulmar: files over bad networks.
#![deny(unsafe_code)]

pub mod driver;
pub mod file;
pub mod transfer;
