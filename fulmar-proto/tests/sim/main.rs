//! The simulator: its links and its networks, against figures and against themselves.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod link;
mod net;
mod queue;
mod toy;
