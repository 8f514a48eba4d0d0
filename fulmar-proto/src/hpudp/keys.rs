//! From two public keys to one packet's nonce (5), and the endpoint's random numbers.
//!
//! A nonce seals exactly one header and payload. DATA numbers never repeat in a session, nor does a parity index in
//! its block; the type byte keeps the two apart and the session number scopes both. This module does *not* seal:
//! [`crate::crypto`] does, and checks.

use super::packet::{Header, Kind};
use crate::crypto::{Nonce, Opener, Sealer, Secret, Suite, hkdf_sha256};

const INFO: &[u8; 16] = b"hp-udp-aes128-v5";

/// The session's AES-128 key; `None` when the peer's public key is one that no honest peer sends.
fn session_key(
    secret: &Secret,
    peer: &[u8; 32],
    session: u32,
) -> Option<zeroize::Zeroizing<[u8; 16]>> {
    let shared = secret.agree(peer)?;
    let mut key = zeroize::Zeroizing::new([0; 16]);
    hkdf_sha256(
        shared.as_bytes(),
        &session.to_be_bytes(),
        INFO,
        &mut key[..],
    );
    Some(key)
}

/// The sender's half.
pub(super) fn sealer(secret: &Secret, peer: &[u8; 32], session: u32) -> Option<Sealer> {
    Sealer::new(Suite::Aes128Gcm, &session_key(secret, peer, session)?[..])
}

/// The receiver's half.
pub(super) fn opener(secret: &Secret, peer: &[u8; 32], session: u32) -> Option<Opener> {
    Opener::new(Suite::Aes128Gcm, &session_key(secret, peer, session)?[..])
}

/// `SessionID ‖ PacketType ‖ U`, U being 56 bits of the sequence, or of block and parity index.
pub(super) fn nonce(header: &Header) -> Nonce {
    let unique = match header.kind {
        Kind::Parity => (header.block << 8) | (header.seq & 0xff),
        Kind::SessionReq
        | Kind::Data
        | Kind::Heartbeat
        | Kind::Reject
        | Kind::Complete
        | Kind::AckClose
        | Kind::SessionAccept => header.seq,
    };
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&header.session.to_be_bytes());
    bytes[4..].copy_from_slice(&unique.to_be_bytes());
    bytes[4] = header.kind as u8;
    Nonce(bytes)
}

/// Random numbers from one seed: HKDF in counter mode.
pub(super) struct Entropy {
    seed: [u8; 32],
    drawn: u64,
}

impl Entropy {
    /// No two endpoints may have one seed.
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    pub(super) fn bytes(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        self.drawn += 1;
        hkdf_sha256(
            &self.seed,
            &self.drawn.to_be_bytes(),
            b"fulmar hp-udp entropy",
            &mut out,
        );
        out
    }

    pub(super) fn u64(&mut self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Nearly uniform in `0..n`; 0 when `n` is 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.u64() % (n as u64).max(1)) as usize
    }
}

impl Drop for Entropy {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.seed);
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entropy")
            .field("drawn", &self.drawn)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn counting(from: u8) -> Secret {
        Secret::from_bytes(std::array::from_fn(|i| from + i as u8))
    }

    #[test]
    fn key_vector_20_4() {
        let (sender, receiver) = (counting(0x01), counting(0x21));
        let one = session_key(&sender, &receiver.public(), 0xdead_beef).unwrap();
        let two = session_key(&receiver, &sender.public(), 0xdead_beef).unwrap();
        assert_eq!(*one, *two);
        assert_eq!(
            u128::from_be_bytes(*one),
            0x8883_8048_f2f6_efb7_f426_50b8_b6e8_64b9
        );
    }

    #[test]
    fn nonce_vectors_20_5() {
        let data = Header {
            seq: 739,
            block: 7,
            ..Header::control(Kind::Data, 0xdead_beef, 0, 0)
        };
        assert_eq!(
            nonce(&data).0,
            [0xde, 0xad, 0xbe, 0xef, 1, 0, 0, 0, 0, 0, 2, 0xe3]
        );
        let parity = Header {
            seq: 3,
            block: 7,
            ..Header::control(Kind::Parity, 0xdead_beef, 0, 0)
        };
        assert_eq!(
            nonce(&parity).0,
            [0xde, 0xad, 0xbe, 0xef, 2, 0, 0, 0, 0, 0, 7, 3]
        );
    }
}
