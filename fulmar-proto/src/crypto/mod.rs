//! Sealing, opening and key agreement, over `aws-lc-rs` and `x25519-dalek`.
//!
//! Secrets are wiped when they are dropped and never appear in `Debug` output. This module draws no randomness: keys
//! come from the caller. It does not build nonces, know packet layouts or authenticate anybody.

mod aead;
mod kex;

pub use aead::{Nonce, Opener, Sealer, Suite, TAG};
pub use kex::{Secret, Shared, hkdf_sha256, sha256};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}
