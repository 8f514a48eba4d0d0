//! Key agreement: X25519 and HKDF-SHA-256 (`hp-udp` 5).
//!
//! Does not authenticate the peer: whoever sent the public key is who the secret is shared with. Draws no keys.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};

/// An X25519 private key, wiped when dropped.
pub struct Secret(StaticSecret);

impl Secret {
    /// The key of these bytes, which must be drawn from a cryptographic source. The caller wipes its own copy.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// The public key to send to the peer.
    pub fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }

    /// What this side and the holder of `peer`'s private key share; `None` for a `peer` that no honest side sends,
    /// one with which everybody shares zero (RFC 7748, 6.1).
    pub fn agree(&self, peer: &[u8; 32]) -> Option<Shared> {
        let shared = self.0.diffie_hellman(&PublicKey::from(*peer));
        shared.was_contributory().then_some(Shared(shared))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// The outcome of a key agreement, wiped when dropped. Not a key yet: derive one with [`hkdf_sha256`].
pub struct Shared(SharedSecret);

impl Shared {
    /// The bytes, as input for a derivation.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Fills `out` with HKDF-SHA-256 (RFC 5869, extract and expand). Copies of the key made on the way are wiped; `out`
/// is the caller's to wipe.
///
/// # Panics
/// If `out` is longer than 8160 bytes, the most the algorithm can yield.
pub fn hkdf_sha256(ikm: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    Salt::new(HKDF_SHA256, salt)
        .extract(ikm)
        .expand(&[info], Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("HKDF-SHA-256 yields up to 255 * 32 bytes");
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    out.copy_from_slice(digest.as_ref());
    out
}

/// A length to expand to.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aws_lc_rs::hmac;

    use super::super::hex;
    use super::*;

    fn counting(first: u8) -> Secret {
        Secret::from_bytes(std::array::from_fn(|i| first + i as u8))
    }

    /// The vectors of `hp-udp` 20.4.
    #[test]
    fn both_sides_derive_the_published_key() {
        let (sender, receiver) = (counting(0x01), counting(0x21));
        let sent = hex("07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c");
        let accepted = hex("5869aff450549732cbaaed5e5df9b30a6da31cb0e5742bad5ad4a1a768f1a67b");
        assert_eq!(sender.public(), sent[..]);
        assert_eq!(receiver.public(), accepted[..]);
        let shared = sender.agree(&receiver.public()).unwrap();
        let expected = hex("a84dc7c3c8f058b1b2dc4cd1e9b5dc0a7987f88b6a9564cde3391fc421159e77");
        assert_eq!(shared.as_bytes()[..], expected);
        assert_eq!(
            receiver.agree(&sender.public()).unwrap().as_bytes(),
            shared.as_bytes()
        );

        let salt = hex("deadbeef");
        let extract = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salt), shared.as_bytes());
        let prk = hex("68571569864c3eb3f96ac729f1d12f8771f233bc06681ca68fb6df0935450ce3");
        assert_eq!(extract.as_ref(), prk);

        let mut key = [0; 16];
        hkdf_sha256(shared.as_bytes(), &salt, b"hp-udp-aes128-v5", &mut key);
        assert_eq!(key[..], hex("88838048f2f6efb7f42650b8b6e864b9"));
    }

    /// RFC 5869, A.2: inputs and output longer than one hash.
    #[test]
    fn long_derivation() {
        let run = |from: u8| -> Vec<u8> { (from..from + 0x50).collect() };
        let info: Vec<u8> = (0xb0..=0xff).collect();
        let mut out = [0; 82];
        hkdf_sha256(&run(0), &run(0x60), &info, &mut out);
        let expected = "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c6\
                        5e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87";
        assert_eq!(out[..], hex(expected));
    }

    #[test]
    fn peers_without_a_secret_are_refused() {
        // The points of small order on the curve, and encodings of them above the field's prime.
        let orders = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000080",
        ];
        for peer in orders {
            let peer: [u8; 32] = hex(peer).try_into().unwrap();
            assert!(counting(1).agree(&peer).is_none(), "{peer:02x?}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = counting(1);
        let shared = secret.agree(&counting(2).public()).unwrap();
        assert_eq!(
            format!("{secret:?} {shared:?}"),
            "Secret { .. } Shared { .. }"
        );
    }
}
