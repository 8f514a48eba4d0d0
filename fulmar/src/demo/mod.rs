//! demo
mod relay;
pub mod tcp_model;
pub use relay::{Relay, RelayStats};
