//! Keys out of passphrases, and keys under keys: PBKDF2, AES key wrap (RFC 3394), and the HMAC beside them.
//!
//! Does not choose salts or rounds, and does not ration its callers: a derivation of 2048 rounds takes about a
//! millisecond.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey};
use aws_lc_rs::{constant_time, hmac, pbkdf2};
use zeroize::Zeroizing;

use super::ctr::aes;

/// Fills `out` with PBKDF2-HMAC-SHA1 (RFC 8018). The caller wipes `out`.
pub fn pbkdf2_sha1(secret: &[u8], salt: &[u8], rounds: NonZeroU32, out: &mut [u8]) {
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, rounds, salt, secret, out);
}

/// HMAC-SHA-256 (RFC 2104) over parts end to end.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

/// Wraps `keys` under `kek` (RFC 3394, 2.2.1, default initial value): 8 bytes more. `None` when `kek` is not of 16, 24
/// or 32 bytes, or `keys` not a multiple of 8 from 16 on.
///
/// AWS-LC wraps under keys of 128 and 256 bits only, so this is the RFC over its block cipher.
pub fn wrap(kek: &[u8], keys: &[u8]) -> Option<Vec<u8>> {
    if keys.len() < 16 || !keys.len().is_multiple_of(8) {
        return None;
    }
    let key = UnboundCipherKey::new(aes(kek.len())?, kek).ok()?;
    let key = EncryptingKey::ecb(key).ok()?;
    let mut out = Zeroizing::new([&INITIAL, keys].concat());
    let mut block = Zeroizing::new([0; 16]);
    block[..8].copy_from_slice(&INITIAL);
    for step in steps(keys.len()) {
        block[8..].copy_from_slice(&out[step.at..step.at + 8]);
        key.encrypt(&mut *block).ok()?;
        out[step.at..step.at + 8].copy_from_slice(&block[8..]);
        step.mix(&mut block);
    }
    out[..8].copy_from_slice(&block[..8]);
    Some(std::mem::take(&mut *out))
}

/// Unwraps what [`wrap`] made; `None` when it was not made under `kek`, or for lengths that `wrap` refuses.
pub fn unwrap(kek: &[u8], wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if wrapped.len() < 24 || !wrapped.len().is_multiple_of(8) {
        return None;
    }
    let key = UnboundCipherKey::new(aes(kek.len())?, kek).ok()?;
    let key = DecryptingKey::ecb(key).ok()?;
    let (initial, keys) = wrapped.split_first_chunk::<8>()?;
    let mut out = Zeroizing::new([&[0; 8], keys].concat());
    let mut block = Zeroizing::new([0; 16]);
    block[..8].copy_from_slice(initial);
    for step in steps(keys.len()).rev() {
        step.mix(&mut block);
        block[8..].copy_from_slice(&out[step.at..step.at + 8]);
        key.decrypt(&mut *block, DecryptionContext::None).ok()?;
        out[step.at..step.at + 8].copy_from_slice(&block[8..]);
    }
    constant_time::verify_slices_are_equal(&block[..8], &INITIAL).ok()?;
    out.drain(..8);
    Some(out)
}

/// One of the 6n steps of RFC 3394: which 64 bits take part, and what is mixed in.
struct Step {
    /// Offset of them, behind the initial value.
    at: usize,
    t: u64,
}

impl Step {
    fn mix(&self, block: &mut [u8; 16]) {
        for (byte, t) in block.iter_mut().zip(self.t.to_be_bytes()) {
            *byte ^= t;
        }
    }
}

fn steps(keys: usize) -> impl DoubleEndedIterator<Item = Step> {
    let n = keys / 8;
    (0..6 * n).map(move |i| Step {
        at: 8 * (i % n + 1),
        t: i as u64 + 1,
    })
}

/// RFC 3394, 2.2.3.1.
const INITIAL: [u8; 8] = [0xa6; 8];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::hex;
    use super::*;

    /// RFC 3394, 4.1 to 4.6.
    #[test]
    fn wrapped_keys_match_the_rfc() {
        let kek = hex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        let keys = hex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f");
        for (kek_len, keys_len, wrapped) in [
            (16, 16, "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"),
            (24, 16, "96778b25ae6ca435f92b5b97c050aed2468ab8a17ad84e5d"),
            (32, 16, "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7"),
            (
                24,
                24,
                "031d33264e15d33268f24ec260743edce1c6c7ddee725a936ba814915c6762d2",
            ),
            (
                32,
                24,
                "a8f9bc1612c68b3ff6e6f4fbe30e71e4769c8b80a32cb8958cd5d17d6b254da1",
            ),
            (
                32,
                32,
                "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
            ),
        ] {
            let (kek, keys) = (&kek[..kek_len], &keys[..keys_len]);
            assert_eq!(wrap(kek, keys).unwrap(), hex(wrapped));
            assert_eq!(*unwrap(kek, &hex(wrapped)).unwrap(), keys);
        }
    }

    /// RFC 6070, the first two and the longest.
    #[test]
    fn derived_keys_match_the_rfc() {
        for (secret, salt, rounds, derived) in [
            (
                "password",
                "salt",
                1,
                "0c60c80f961f0e71f3a9b524af6012062fe037a6",
            ),
            (
                "password",
                "salt",
                2,
                "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957",
            ),
            (
                "passwordPASSWORDpassword",
                "saltSALTsaltSALTsaltSALTsaltSALTsalt",
                4096,
                "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038",
            ),
        ] {
            let mut out = vec![0; derived.len() / 2];
            let rounds = NonZeroU32::new(rounds).unwrap();
            pbkdf2_sha1(secret.as_bytes(), salt.as_bytes(), rounds, &mut out);
            assert_eq!(out, hex(derived));
        }
    }

    /// RFC 4231, 4.3.
    #[test]
    fn hmac_matches_the_rfc() {
        let mac = hmac_sha256(b"Jefe", &[b"what do ya want ", b"", b"for nothing?"]);
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(mac[..], hex(expected));
    }

    proptest! {
        #[test]
        fn only_what_was_wrapped_unwraps(
            len in proptest::sample::select(&[16_usize, 24, 32]),
            kek: [u8; 32],
            keys in proptest::collection::vec(any::<u8>(), 0..80),
            bit: usize,
        ) {
            let kek = &kek[..len];
            let fits = keys.len() >= 16 && keys.len().is_multiple_of(8);
            let Some(wrapped) = wrap(kek, &keys) else {
                prop_assert!(!fits);
                return Ok(());
            };
            prop_assert!(fits && wrapped.len() == keys.len() + 8);
            prop_assert_eq!(&*unwrap(kek, &wrapped).unwrap(), &keys);
            let flip = |bytes: &[u8]| {
                let (mut bytes, bit) = (bytes.to_vec(), bit % (8 * bytes.len()));
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            prop_assert!(unwrap(kek, &flip(&wrapped)).is_none());
            prop_assert!(unwrap(&flip(kek), &wrapped).is_none());
            prop_assert!(unwrap(kek, &wrapped[8..]).is_none());
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for len in (0..40).filter(|len| ![16, 24, 32].contains(len)) {
            assert!(wrap(&vec![0; len], &[0; 16]).is_none(), "{len}");
            assert!(unwrap(&vec![0; len], &[0; 24]).is_none(), "{len}");
        }
        for len in [0, 8, 15, 16, 23, 25] {
            assert!(unwrap(&[0; 16], &vec![0; len]).is_none(), "{len}");
        }
    }
}
