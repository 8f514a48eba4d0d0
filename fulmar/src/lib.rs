//! fulmar: files over bad networks.
#![deny(unsafe_code)]

pub mod bundle;
pub mod config;
pub mod demo;
pub mod driver;
pub mod file;
pub mod identity;
pub mod observe;
pub mod transfer;
