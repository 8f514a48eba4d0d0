//! The Stream ID and its standard form (15.1).
//!
//! It does *not* decide what a caller may do: that is the application's business.

/// A Stream ID in standard form, `#!::key=value,..`, or a plain resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamId {}
