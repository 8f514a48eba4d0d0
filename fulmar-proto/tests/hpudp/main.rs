//! HP-UDP between simulated hosts: plain pairs, the link grid, goodput, several paths, dialects of other peers, daemons
//! and lists, and hostile bytes against all of it.
//!
//! `SEED=n` replays; `HOSTILE=n` multiplies the size of the smoke; `GRID=long` runs the whole grids.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod daemon;
mod dialects;
mod dialects_daemon;
mod goodput;
mod grid;
mod hostile;
mod limit;
mod list;
mod opening;
mod pair;
mod paths;
