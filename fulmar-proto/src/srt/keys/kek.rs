//! Key encryption keys by salt, and the ration of deriving them (6.1.2, 6.6.7).
//!
//! It does *not* wrap.

/// What was derived for the links of an endpoint, and how much deriving is left.
#[derive(Debug)]
pub(crate) struct Keks {}
