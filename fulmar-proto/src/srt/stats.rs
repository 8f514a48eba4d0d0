//! What is counted: of a connection in the names its users know, of an endpoint for metrics (18).
//!
//! It does *not* format reports.

use crate::engine::CounterKind;

/// Figures of one connection or group (18.2, 18.3).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {}

/// What an endpoint counts over all its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Datagrams that no rule of the text allows.
    Malformed,
}

impl CounterKind for Counter {
    const ALL: &'static [Self] = &[Self::Malformed];

    fn index(self) -> usize {
        self as usize
    }

    fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::Malformed => "Datagrams that no rule of the text allows.",
        }
    }
}
