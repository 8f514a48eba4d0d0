//! All randomness of an endpoint, from one seed: socket ids, numbers to begin with, salts and keys.
//!
//! HKDF in counter mode. It does *not* draw the seed.

use zeroize::Zeroizing;

use super::packet::{Seq, SocketId};
use crate::crypto::hkdf_sha256;

/// A stream of random bytes.
pub(crate) struct Entropy {
    seed: Zeroizing<[u8; 32]>,
    drawn: u64,
}

impl Entropy {
    /// No two endpoints may have one seed.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self { seed, drawn: 0 }
    }

    /// A secret: wiped when dropped.
    pub(crate) fn secret<const N: usize>(&mut self) -> Zeroizing<[u8; N]> {
        let mut out = Zeroizing::new([0; N]);
        let drawn = self.drawn.to_be_bytes();
        hkdf_sha256(&*self.seed, b"fulmar srt", &drawn, &mut *out);
        self.drawn += 1;
        out
    }

    /// Bytes that are no secret.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        *self.secret()
    }

    /// A number below 2^32.
    pub(crate) fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }

    /// An id for a connection: 30 bits, not 0 (2.4.2).
    pub(crate) fn socket_id(&mut self) -> SocketId {
        SocketId((self.word() & 0x3fff_ffff).max(1))
    }

    /// A number to begin with (2.1.1).
    pub(crate) fn isn(&mut self) -> Seq {
        Seq::new(u64::from(self.word()) % 0x7fff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn draws_differ_and_keep_to_their_bits() {
        let mut entropy = Entropy::new([7; 32]);
        let salts: BTreeSet<[u8; 16]> = (0..1000).map(|_| entropy.bytes()).collect();
        assert_eq!(salts.len(), 1000);
        for _ in 0..1000 {
            let id = entropy.socket_id().0;
            assert!(id != 0 && id >> 30 == 0, "2.4.2: {id:#x}");
            assert!(entropy.isn().raw() < 0x7fff_ffff, "2.1.1");
        }
        let repeat = |seed| Entropy::new([seed; 32]).secret::<32>();
        assert_eq!(repeat(1), repeat(1));
        assert_ne!(repeat(1), repeat(2));
    }
}
