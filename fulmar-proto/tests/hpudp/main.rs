//! HP-UDP between simulated hosts: dialects of other peers, daemons and lists, and hostile bytes against all of it.
//!
//! `SEED=n` replays; `HOSTILE=n` multiplies the size of the smoke.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod daemon;
mod dialects;
mod dialects_daemon;
mod hostile;
mod list;
