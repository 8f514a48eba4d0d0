//! Files on disk: the one being sent ([`Source`]) and the ones being received ([`Directory`], [`Partial`]).
//!
//! A received file appears under its name only when every byte of it is verified and durable (rule E11); until then it
//! is a hidden private file that its owner removes when it goes out of scope. Nothing is mapped into memory, nothing is
//! allocated by a size a peer announced. Files are *not* resumed, and nothing here knows the network.

mod hash;
pub(crate) mod name;
pub(crate) mod sink;
pub(crate) mod source;

pub use name::NameError;
pub use sink::{CreateError, Directory, FinishError, Partial};
pub use source::{Source, SourceError};

/// Bytes of one read or write where the choice is ours: larger gains nothing, smaller costs system calls.
const STEP: usize = 1 << 20;
