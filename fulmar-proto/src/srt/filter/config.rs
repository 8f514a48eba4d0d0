//! What is said about a filter: parsed, checked, merged, printed (13.1, 13.2).
//!
//! It does *not* build groups.

use crate::srt::reject::Reason;

/// A filter, checked (13.1.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Packets in a row, 2 to 256.
    pub(crate) cols: u16,
    /// 1: rows only. From 2: packets in a column. Negative: columns only, of so many.
    pub(crate) rows: i16,
    pub(crate) layout: Layout,
    pub(crate) arq: Arq,
    /// As negotiated: what FILTER and statistics show.
    pub(crate) text: String,
}

impl Config {
    /// One side's text by itself, as it stands, defaults filled in.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Reason> {
        unimplemented!()
    }

    /// Both sides' (13.2.1, 13.2.2). The text of the outcome is what the answer says.
    pub(crate) fn merge(own: &[u8], peer: &[u8]) -> Result<Self, Reason> {
        unimplemented!()
    }
}

/// Where columns begin (13.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Even,
    Staircase,
}

/// When a loss is reported (13.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arq {
    Never,
    OnReq,
    Always,
}
