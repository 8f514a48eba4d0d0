//! What the five protocols share.
//!
//! The shape of an endpoint, and the parts that every reliable or live protocol over UDP needs: numbers that wrap,
//! sets of runs, windows, round trips, pacing, timers, sessions, fields of a packet, counters, units. It does *not*
//! know any protocol: a rule that needs to ask which one it serves belongs to that protocol.

mod endpoint;
mod ledger;
mod pacer;
mod ranges;
mod rtt;
mod seq;
mod sessions;
mod stats;
mod timers;
mod units;
mod window;
mod wire;

pub use endpoint::{Datagram, Ecn, Endpoint, Meta, Transmit};
pub use ledger::Ledger;
pub use pacer::{Pacer, RateLimit};
pub use ranges::RangeSet;
pub use rtt::RttEstimator;
pub use seq::Wrapped;
pub use sessions::Sessions;
pub use stats::{CounterKind, Counters, Figure};
pub use timers::{Deadlines, TimerKind, Timers};
pub use units::{Bitrate, Bytes};
pub use window::{ReplayWindow, SendWindow};
pub use wire::{Reader, Writer};
