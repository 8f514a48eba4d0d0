//! Files and bundles on real disks, without a network.
//!
//! `CRASH=long` kills 100 times instead of 10.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod bundle;
mod file;
