//! Authenticated encryption with a nonce of the caller's making.
//!
//! One nonce may seal one (additional data, plaintext) only: GCM loses its authentication key to a passive observer of
//! a second one (`hp-udp` 19.1). A [`Sealer`] that is *guarded* remembers what it sealed and panics on the second
//! content, before the bytes can leave; sealing the same content again gives the same bytes and is allowed.
//!
//! Key schedules live in a context of AWS-LC, which is overwritten before its memory is given back. This module does
//! not make nonces, count packets under a key, or detect replays.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce as RawNonce,
    UnboundKey,
};

/// Length of the tag that follows each ciphertext, bytes.
pub const TAG: usize = 16;

/// An AEAD algorithm, with a nonce of 12 and a tag of [`TAG`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-GCM with a 16-byte key (`hp-udp` 5).
    Aes128Gcm,
    /// AES-GCM with a 32-byte key.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439), 32-byte key.
    ChaCha20Poly1305,
}

impl Suite {
    /// Length of the key, bytes.
    pub fn key_len(self) -> usize {
        self.algorithm().key_len()
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    fn key(self, key: &[u8]) -> Option<LessSafeKey> {
        UnboundKey::new(self.algorithm(), key)
            .ok()
            .map(LessSafeKey::new)
    }
}

/// The number used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nonce(pub [u8; 12]);

impl Nonce {
    fn raw(self) -> RawNonce {
        RawNonce::assume_unique_for_key(self.0)
    }
}

/// Seals with one key.
pub struct Sealer {
    suite: Suite,
    key: LessSafeKey,
    guard: Option<Guard>,
}

impl Sealer {
    /// A sealer, or `None` when `key` is not [`Suite::key_len`] bytes. Guarded in builds with debug assertions.
    pub fn new(suite: Suite, key: &[u8]) -> Option<Self> {
        let guard = cfg!(debug_assertions).then(Guard::default);
        Some(Self {
            suite,
            key: suite.key(key)?,
            guard,
        })
    }

    /// Remembers what is sealed from now on, in any build, and panics when a nonce comes with a second content. Costs
    /// a look-up for each seal and at most 16 MB; see [`Sealer`] for what it protects from. For simulations.
    pub fn guard(&mut self) {
        self.guard.get_or_insert_default();
    }

    /// Encrypts `in_out` in place and returns the tag over it and `aad`, which stays in the clear.
    ///
    /// # Panics
    /// When guarded, if `nonce` sealed another `(aad, plaintext)` among the last 131,072 nonces.
    pub fn seal(&mut self, nonce: Nonce, aad: &[u8], in_out: &mut [u8]) -> [u8; TAG] {
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce.raw(), Aad::from(aad), in_out);
        let sealed = sealed.expect("AEAD takes any plaintext below 64 GiB");
        let mut tag = [0; TAG];
        tag.copy_from_slice(sealed.as_ref());
        if let Some(guard) = &mut self.guard {
            guard.check(nonce, tag);
        }
        tag
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("suite", &self.suite)
            .finish_non_exhaustive()
    }
}

/// Opens with one key.
pub struct Opener {
    suite: Suite,
    key: LessSafeKey,
}

impl Opener {
    /// An opener, or `None` when `key` is not [`Suite::key_len`] bytes.
    pub fn new(suite: Suite, key: &[u8]) -> Option<Self> {
        Some(Self {
            suite,
            key: suite.key(key)?,
        })
    }

    /// Decrypts `buf`, ciphertext and tag, in place and returns the plaintext; `None` when it is not what the holder
    /// of the key sealed with this nonce and `aad`. After a failure the contents of `buf` are of no use.
    pub fn open<'a>(&self, nonce: Nonce, aad: &[u8], buf: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let opened = self.key.open_in_place(nonce.raw(), Aad::from(aad), buf);
        opened.ok()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("suite", &self.suite)
            .finish_non_exhaustive()
    }
}

/// The tag for each nonce used. Under one key and nonce the tag is a digest of the additional data and the plaintext,
/// so nothing else need be kept.
///
/// Two generations: when the young one is full the old one is forgotten. What a sender repairs lies within its window,
/// and a generation is twice the largest window, so a guard that forgets still sees every repair.
#[derive(Default)]
struct Guard {
    young: BTreeMap<Nonce, [u8; TAG]>,
    old: BTreeMap<Nonce, [u8; TAG]>,
}

impl Guard {
    fn check(&mut self, nonce: Nonce, tag: [u8; TAG]) {
        if let Some(first) = self.young.get(&nonce).or_else(|| self.old.get(&nonce)) {
            assert!(*first == tag, "{nonce:?} seals a second content");
            return;
        }
        if self.young.len() == GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(nonce, tag);
    }
}

/// Nonces in a generation of a guard.
const GENERATION: usize = 131_072;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use aws_lc_rs::cipher::{AES_128, EncryptingKey, UnboundCipherKey};
    use proptest::prelude::*;

    use super::super::hex;
    use super::*;

    const PLAINTEXT: &[u8; 32] = b"HP-UDP sealed data vector 0001\r\n";

    fn key() -> Vec<u8> {
        hex("88838048f2f6efb7f42650b8b6e864b9")
    }

    fn nonce() -> Nonce {
        Nonce(hex("deadbeef01000000000002e3").try_into().unwrap())
    }

    /// The header of `hp-udp` 20.5 with a timestamp in nanoseconds.
    fn header(stamp: u64) -> Vec<u8> {
        [
            hex("01deadbeef00000000000002e30000000000000007002005"),
            stamp.to_be_bytes().to_vec(),
        ]
        .concat()
    }

    /// Ciphertext and tag.
    fn seal(sealer: &mut Sealer, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = plaintext.to_vec();
        let tag = sealer.seal(nonce(), aad, &mut sealed);
        sealed.extend(tag);
        sealed
    }

    fn sealer() -> Sealer {
        Sealer::new(Suite::Aes128Gcm, &key()).unwrap()
    }

    fn opener() -> Opener {
        Opener::new(Suite::Aes128Gcm, &key()).unwrap()
    }

    #[test]
    fn sealed_bytes_match_the_published_packet() {
        let sealed = seal(&mut sealer(), &header(1_000_000_000), PLAINTEXT);
        let packet = "01deadbeef00000000000002e30000000000000007002005000000003b9aca00dcce0eb509ff11e0a60f99f03de4ea\
                      27009d478b224dbd0c1db9d992253f45882f27b284b0bc8471ad99c71115f7bb9d";
        let mut packet = hex(packet);
        let (aad, rest) = packet.split_at_mut(32);
        assert_eq!((&*aad, &*rest), (&header(1_000_000_000)[..], &sealed[..]));
        assert_eq!(opener().open(nonce(), aad, rest).unwrap(), PLAINTEXT);
    }
}
