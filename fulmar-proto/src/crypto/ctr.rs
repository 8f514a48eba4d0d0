//! AES in counter mode, with an initial block of the caller's making.
//!
//! There is no tag: nothing tells whether what is opened is what was sealed. Two contents sealed from one initial block
//! give their exclusive or away (`srt` 6.8), so a [`CtrSealer`] that is *guarded* remembers what it sealed and panics on
//! the second content, before the bytes can leave; sealing the same content again gives the same bytes and is allowed.
//!
//! Key schedules live in a context of AWS-LC on the heap, which AWS-LC overwrites before it frees it; the caller wipes
//! the key it passed. This module does not make initial blocks, and it does not see that two of them overlap when a
//! content is longer than the caller's counter.

use std::fmt;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, EncryptingKey, EncryptionContext, UnboundCipherKey,
};

use super::kex::sha256;
use super::once::Once;

/// Seals with one key.
pub struct CtrSealer {
    stream: Keystream,
    guard: Option<Once<[u8; 16], [u8; 16]>>,
}

impl CtrSealer {
    /// A sealer, or `None` when `key` is not of 16, 24 or 32 bytes. Guarded in builds with debug assertions.
    pub fn new(key: &[u8]) -> Option<Self> {
        Some(Self {
            stream: Keystream::new(key)?,
            guard: cfg!(debug_assertions).then(Once::default),
        })
    }

    /// Remembers what is sealed from now on, in any build, and panics when an initial block comes with a second
    /// content. Costs a hash of each content and a look-up. For simulations in optimised builds.
    pub fn guard(&mut self) {
        self.guard.get_or_insert_default();
    }

    /// Encrypts in place, the first block of the keystream being that of `block`.
    ///
    /// # Panics
    /// When guarded, if `block` sealed another content among the last 131,072.
    pub fn seal(&mut self, block: [u8; 16], in_out: &mut [u8]) {
        self.stream.apply(block, in_out);
        if let Some(guard) = &mut self.guard {
            let mut digest = [0; 16];
            digest.copy_from_slice(&sha256(in_out)[..16]);
            guard.check(block, digest);
        }
    }
}

impl fmt::Debug for CtrSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CtrSealer").finish_non_exhaustive()
    }
}

/// Opens with one key.
pub struct CtrOpener(Keystream);

impl CtrOpener {
    /// An opener, or `None` when `key` is not of 16, 24 or 32 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        Keystream::new(key).map(Self)
    }

    /// Decrypts in place, whatever comes out.
    pub fn open(&self, block: [u8; 16], in_out: &mut [u8]) {
        self.0.apply(block, in_out);
    }
}

impl fmt::Debug for CtrOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CtrOpener").finish_non_exhaustive()
    }
}

struct Keystream(EncryptingKey);

impl Keystream {
    fn new(key: &[u8]) -> Option<Self> {
        let key = UnboundCipherKey::new(aes(key.len())?, key).ok()?;
        EncryptingKey::ctr(key).ok().map(Self)
    }

    fn apply(&self, block: [u8; 16], in_out: &mut [u8]) {
        let context = EncryptionContext::Iv128(block.into());
        let applied = self.0.less_safe_encrypt(in_out, context);
        applied.expect("counter mode takes any length and a block of 16 bytes");
    }
}

/// AES with keys of so many bytes.
pub(super) fn aes(key: usize) -> Option<&'static Algorithm> {
    match key {
        16 => Some(&AES_128),
        24 => Some(&AES_192),
        32 => Some(&AES_256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::panic::{AssertUnwindSafe, catch_unwind};

    use proptest::prelude::*;

    use super::super::hex;
    use super::*;

    /// NIST SP 800-38A, F.5.1, F.5.3 and F.5.5, the first two blocks.
    #[test]
    fn sealed_bytes_match_nist() {
        let block = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        for (key, sealed) in [
            (
                "2b7e151628aed2a6abf7158809cf4f3c",
                "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff",
            ),
            (
                "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
                "1abc932417521ca24f2b0459fe7e6e0b090339ec0aa6faefd5ccc2c6f4ce8e94",
            ),
            (
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
            ),
        ] {
            let mut bytes = plain.clone();
            CtrSealer::new(&hex(key)).unwrap().seal(block, &mut bytes);
            assert_eq!(bytes, hex(sealed));
            CtrOpener::new(&hex(key)).unwrap().open(block, &mut bytes);
            assert_eq!(bytes, plain);
        }
    }

    proptest! {
        /// Any cut of a content continues at its own block: the keystream depends on key and place alone.
        #[test]
        fn a_keystream_may_be_entered_anywhere(
            len in proptest::sample::select(&[16_usize, 24, 32]),
            key: [u8; 32],
            first in 0..u128::MAX - 100,
            plain in proptest::collection::vec(any::<u8>(), 0..400),
            skipped in 0_usize..25,
        ) {
            let mut whole = plain.clone();
            CtrSealer::new(&key[..len]).unwrap().seal(first.to_be_bytes(), &mut whole);
            let cut = (16 * skipped).min(plain.len() / 16 * 16);
            let opener = CtrOpener::new(&key[..len]).unwrap();
            opener.open((first + cut as u128 / 16).to_be_bytes(), &mut whole[cut..]);
            prop_assert_eq!(&whole[cut..], &plain[cut..]);
        }
    }

    #[test]
    fn keys_of_wrong_length_are_refused() {
        for len in 0..40 {
            let fits = [16, 24, 32].contains(&len);
            assert_eq!(CtrSealer::new(&vec![0; len]).is_some(), fits, "{len}");
            assert_eq!(CtrOpener::new(&vec![0; len]).is_some(), fits, "{len}");
        }
    }

    #[test]
    fn guard_allows_the_same_content_and_panics_on_another() {
        let mut sealer = CtrSealer::new(&[7; 16]).unwrap();
        sealer.guard();
        let [mut first, mut again, mut other] = [*b"content", *b"content", *b"another"];
        sealer.seal([1; 16], &mut first);
        sealer.seal([1; 16], &mut again);
        assert_eq!(first, again);
        sealer.seal([2; 16], &mut other.clone());
        let mut second = || sealer.seal([1; 16], &mut other);
        assert!(catch_unwind(AssertUnwindSafe(&mut second)).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let sealer = CtrSealer::new(&[7; 16]).unwrap();
        let opener = CtrOpener::new(&[7; 16]).unwrap();
        let text = format!("{sealer:?} {opener:?}");
        assert_eq!(text, "CtrSealer { .. } CtrOpener { .. }");
    }
}
