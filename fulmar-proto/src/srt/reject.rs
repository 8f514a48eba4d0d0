//! Why a call is refused, and how the wire says it (16).
//!
//! It does *not* decide: that is done by `connect` and by the application.

/// A reason by its number; on the wire it is 1000 more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(pub u32);

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "reason {}", self.0)
    }
}
