//! What a user writes and what it means: units, marks and schedules now, URIs and the configuration file later.
//!
//! It does *not* know which option a text came from; the command line adds that to the error.

mod dscp;
mod schedule;
mod units;

pub use dscp::{Dscp, NoDscp};
pub use schedule::{Schedule, ScheduleError};
pub use units::{UnitError, parse_bitrate, parse_bytes, parse_duration, parse_fraction};
