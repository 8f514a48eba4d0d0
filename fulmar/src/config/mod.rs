//! What a user writes and what it means: units now, URIs and the configuration file later.
//!
//! It does *not* know which option a text came from; the command line adds that to the error.

mod units;

pub use units::{UnitError, parse_bitrate, parse_bytes, parse_duration, parse_fraction};
