//! Authenticated encryption with a nonce of the caller's making.
//!
//! One nonce may seal one (additional data, plaintext) only: GCM loses its authentication key to a passive observer of
//! a second one (`hp-udp` 19.1). A [`Sealer`] that is *guarded* remembers what it sealed and panics on the second
//! content, before the bytes can leave; sealing the same content again gives the same bytes and is allowed.
//!
//! Key schedules live in a context of AWS-LC on the heap, which AWS-LC overwrites before it frees it; the caller wipes
//! the key it passed. This module does not make nonces, count packets under a key, or detect replays.

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
    /// a look-up for each seal and about 16 MB at most. For simulations in optimised builds.
    pub fn guard(&mut self) {
        self.guard.get_or_insert_default();
    }

    /// Appends `plaintext`, encrypted, and the tag over it and `aad` to `out`; in one pass over the bytes, where copying
    /// them and sealing the copy takes two.
    ///
    /// # Panics
    /// As [`seal`](Self::seal).
    pub fn seal_onto(&mut self, nonce: Nonce, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + plaintext.len() + TAG, 0);
        let sealed = self.key.seal_in_place_scatter(
            nonce.raw(),
            Aad::from(aad),
            &mut [],
            plaintext,
            &mut out[start..],
        );
        sealed.expect("AEAD takes any plaintext below 64 GiB");
        if let Some(guard) = &mut self.guard {
            let tag = out.last_chunk().expect("a tag was appended");
            guard.check(nonce, *tag);
        }
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
    /// of the key sealed with this nonce and `aad`. After a failure `buf` holds nothing of use, and no plaintext.
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
    #![allow(clippy::unwrap_used)]

    use std::panic::{AssertUnwindSafe, catch_unwind};

    use aws_lc_rs::cipher::{AES_128, EncryptingKey, UnboundCipherKey};
    use proptest::prelude::*;

    use super::super::hex;
    use super::*;

    const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    /// The packet of `hp-udp` 20.5.
    mod published {
        use super::*;

        pub(super) const PLAINTEXT: &[u8; 32] = b"HP-UDP sealed data vector 0001\r\n";
        pub(super) const STAMP: u64 = 1_000_000_000;

        pub(super) fn key() -> Vec<u8> {
            hex("88838048f2f6efb7f42650b8b6e864b9")
        }

        pub(super) fn nonce() -> Nonce {
            Nonce(hex("deadbeef01000000000002e3").try_into().unwrap())
        }

        pub(super) fn header(stamp: u64) -> Vec<u8> {
            let mut header = hex("01deadbeef00000000000002e30000000000000007002005");
            header.extend(stamp.to_be_bytes());
            header
        }

        pub(super) fn sealer() -> Sealer {
            Sealer::new(Suite::Aes128Gcm, &key()).unwrap()
        }

        pub(super) fn opener() -> Opener {
            Opener::new(Suite::Aes128Gcm, &key()).unwrap()
        }

        /// Ciphertext and tag.
        pub(super) fn seal(sealer: &mut Sealer, stamp: u64, plaintext: &[u8]) -> Vec<u8> {
            let mut sealed = plaintext.to_vec();
            let tag = sealer.seal(nonce(), &header(stamp), &mut sealed);
            sealed.extend(tag);
            sealed
        }
    }
    use published::{PLAINTEXT, STAMP, header, nonce, opener, seal, sealer};

    #[test]
    fn sealed_bytes_match_the_published_packet() {
        let sealed = hex(
            "dcce0eb509ff11e0a60f99f03de4ea27009d478b224dbd0c1db9d992253f45882f27b284b0bc8471ad99c71115f7bb9d",
        );
        assert_eq!(seal(&mut sealer(), STAMP, PLAINTEXT), sealed);
        assert_eq!(
            opener()
                .open(nonce(), &header(STAMP), &mut sealed.clone())
                .unwrap(),
            PLAINTEXT
        );
    }

    /// RFC 8439, 2.8.2.
    #[test]
    fn chacha_matches_the_rfc() {
        let key: Vec<u8> = (0x80..0xa0).collect();
        let mut text = *b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
                          future, sunscreen would be it.";
        let nonce = Nonce(hex("070000004041424344454647").try_into().unwrap());
        let mut sealer = Sealer::new(Suite::ChaCha20Poly1305, &key).unwrap();
        let tag = sealer.seal(nonce, &hex("50515253c0c1c2c3c4c5c6c7"), &mut text);
        assert_eq!(text[..16], hex("d31a8d34648e60db7b86afbc53ef7ec2"));
        assert_eq!(tag[..], hex("1ae10b594f09e26a7e902ecbd0600691"));
    }

    proptest! {
        #[test]
        fn only_what_was_sealed_opens(
            suite in proptest::sample::select(&SUITES),
            key: [u8; 32],
            nonce: [u8; 12],
            aad in proptest::collection::vec(any::<u8>(), 1..48),
            plaintext in proptest::collection::vec(any::<u8>(), 0..200),
            bit: usize,
        ) {
            let key = &key[..suite.key_len()];
            let mut packet = plaintext.clone();
            let tag = Sealer::new(suite, key).unwrap().seal(Nonce(nonce), &aad, &mut packet);
            packet.extend(tag);
            let mut onto = vec![7; 3];
            Sealer::new(suite, key).unwrap().seal_onto(Nonce(nonce), &aad, &plaintext, &mut onto);
            prop_assert_eq!(&onto[3..], &packet);
            let opener = Opener::new(suite, key).unwrap();
            let flip = |bytes: &[u8]| {
                let (mut bytes, bit) = (bytes.to_vec(), bit % (8 * bytes.len()));
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            let other = Nonce(flip(&nonce).try_into().unwrap());
            prop_assert!(opener.open(Nonce(nonce), &aad, &mut flip(&packet)).is_none());
            prop_assert!(opener.open(Nonce(nonce), &flip(&aad), &mut packet.clone()).is_none());
            prop_assert!(opener.open(other, &aad, &mut packet.clone()).is_none());
            let stranger = Opener::new(suite, &flip(key)).unwrap();
            prop_assert!(stranger.open(Nonce(nonce), &aad, &mut packet.clone()).is_none());
            let cut = bit % packet.len();
            prop_assert!(opener.open(Nonce(nonce), &aad, &mut packet[..cut].to_vec()).is_none());
            prop_assert_eq!(opener.open(Nonce(nonce), &aad, &mut packet).unwrap(), plaintext);
        }
    }

    #[test]
    fn keys_of_wrong_length_are_refused() {
        for suite in SUITES {
            for len in [0, 15, 16, 17, 24, 31, 32, 33, 64] {
                let fits = len == suite.key_len();
                assert_eq!(
                    Sealer::new(suite, &vec![0; len]).is_some(),
                    fits,
                    "{suite:?} {len}"
                );
                assert_eq!(
                    Opener::new(suite, &vec![0; len]).is_some(),
                    fits,
                    "{suite:?} {len}"
                );
            }
        }
    }

    #[test]
    fn failing_to_open_leaves_no_plaintext() {
        let mut sealed = seal(&mut sealer(), STAMP, PLAINTEXT);
        assert!(
            opener()
                .open(nonce(), &header(STAMP + 1), &mut sealed)
                .is_none()
        );
        assert_eq!(sealed[..PLAINTEXT.len()], [0; PLAINTEXT.len()]);
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?} {:?}", sealer(), opener());
        assert_eq!(
            text,
            "Sealer { suite: Aes128Gcm, .. } Opener { suite: Aes128Gcm, .. }"
        );
    }

    #[test]
    fn guard_allows_the_same_packet_and_panics_on_another() {
        let mut guarded = sealer();
        guarded.guard();
        let first = seal(&mut guarded, STAMP, PLAINTEXT);
        assert_eq!(seal(&mut guarded, STAMP, PLAINTEXT), first);
        let mut onto = Vec::new();
        guarded.seal_onto(nonce(), &header(STAMP), PLAINTEXT, &mut onto);
        assert_eq!(onto, first);
        let mut changed_onto =
            || guarded.seal_onto(nonce(), &header(STAMP), b"other", &mut Vec::new());
        assert!(catch_unwind(AssertUnwindSafe(&mut changed_onto)).is_err());
        let mut stamped_anew = || seal(&mut guarded, STAMP + 50_000_000, PLAINTEXT);
        assert!(catch_unwind(AssertUnwindSafe(&mut stamped_anew)).is_err());
        let mut changed = || seal(&mut guarded, STAMP, b"other bytes under the same nonce");
        assert!(catch_unwind(AssertUnwindSafe(&mut changed)).is_err());
    }

    #[test]
    fn guard_remembers_at_least_a_generation_and_stays_bounded() {
        let nonce = |n: usize| {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&n.to_be_bytes());
            Nonce(nonce)
        };
        let mut guard = Guard::default();
        for n in 0..=3 * GENERATION {
            guard.check(nonce(n), [1; TAG]);
            assert!(guard.young.len() + guard.old.len() <= 2 * GENERATION);
        }
        let oldest = 2 * GENERATION + 1;
        assert!(catch_unwind(AssertUnwindSafe(|| guard.check(nonce(oldest), [2; TAG]))).is_err());
    }

    /// Why a nonce must never seal twice (`hp-udp` 19.1, 20.6): two copies of one packet that differ in their time
    /// stamp alone are enough to forge.
    #[test]
    fn two_stamps_under_one_nonce_give_the_authentication_key_away() {
        let restamp = STAMP + 50_000_000;
        let [one, two] = [STAMP, restamp].map(|stamp| seal(&mut sealer(), stamp, PLAINTEXT));
        let ((ciphertext, tag), (same, other)) = (one.split_at(32), two.split_at(32));
        assert_eq!(ciphertext, same);
        assert_ne!(tag, other);

        // Four blocks follow the one that holds the stamp, itself included: T + T' = (A2 + A2') H^4.
        let stamps = block(&header(STAMP)[16..]) ^ block(&header(restamp)[16..]);
        let fourth = ghash::mul(block(tag) ^ block(other), ghash::inverse(stamps));
        let h = ghash::pow(fourth, 1 << 126);
        assert_eq!(h, published_h());

        // With H the mask of the tag follows, and with the mask a packet of the attacker's making.
        let mask = block(tag) ^ ghash::of(h, &header(STAMP), ciphertext);
        let mut forged = ciphertext.to_vec();
        forged[0] ^= 1;
        let tag = mask ^ ghash::of(h, &header(42), &forged);
        forged.extend(tag.to_be_bytes());
        let mut expected = *PLAINTEXT;
        expected[0] ^= 1;
        assert_eq!(
            opener().open(nonce(), &header(42), &mut forged).unwrap(),
            expected
        );
    }

    /// A full packet puts 87 blocks after the stamp, and 87 shares the factor 3 with the order of the field's group:
    /// three candidates remain.
    #[test]
    fn a_full_packet_leaves_three_candidates() {
        let [one, two] = [1, 2].map(|stamp| seal(&mut sealer(), stamp, &[7; 1352]));
        let stamps = block(&header(1)[16..]) ^ block(&header(2)[16..]);
        let tags = block(&one[1352..]) ^ block(&two[1352..]);
        let power = ghash::mul(tags, ghash::inverse(stamps));
        assert_eq!(power, ghash::pow(published_h(), 87));

        let cube = ghash::pow(power, inverse_modulo(29, u128::MAX));
        let root = ghash::pow(cube, inverse_modulo(3, u128::MAX / 3));
        let unity = (2..)
            .map(|g| ghash::pow(g, u128::MAX / 3))
            .find(|g| *g != ghash::ONE)
            .unwrap();
        let candidates = [
            root,
            ghash::mul(root, unity),
            ghash::mul(root, ghash::mul(unity, unity)),
        ];
        assert!(candidates.iter().all(|h| ghash::pow(*h, 87) == power));
        assert_eq!(
            candidates.iter().filter(|h| **h == published_h()).count(),
            1
        );
    }

    /// The authentication key of GCM: zero encrypted.
    fn published_h() -> u128 {
        let key = UnboundCipherKey::new(&AES_128, &published::key()).unwrap();
        let mut zero = [0; 16];
        EncryptingKey::ecb(key).unwrap().encrypt(&mut zero).unwrap();
        u128::from_be_bytes(zero)
    }

    fn block(bytes: &[u8]) -> u128 {
        u128::from_be_bytes(bytes.try_into().unwrap())
    }

    /// The inverse of a small prime: the first multiple of it that is one more than a multiple of `modulus`.
    fn inverse_modulo(prime: u128, modulus: u128) -> u128 {
        let times = (1..prime)
            .find(|t| (t * (modulus % prime) + 1).is_multiple_of(prime))
            .unwrap();
        times * (modulus / prime) + (times * (modulus % prime) + 1) / prime
    }

    /// Arithmetic of NIST SP 800-38D, 6.3 and 6.4: GF(2^128), the first bit of a block the lowest power.
    mod ghash {
        pub(super) const ONE: u128 = 1 << 127;

        pub(super) fn mul(a: u128, mut b: u128) -> u128 {
            let mut product = 0;
            for bit in (0..128).rev() {
                if a >> bit & 1 == 1 {
                    product ^= b;
                }
                b = (b >> 1) ^ ((b & 1) * (0xe1 << 120));
            }
            product
        }

        pub(super) fn pow(mut base: u128, mut exponent: u128) -> u128 {
            let mut power = ONE;
            while exponent > 0 {
                if exponent & 1 == 1 {
                    power = mul(power, base);
                }
                base = mul(base, base);
                exponent >>= 1;
            }
            power
        }

        pub(super) fn inverse(a: u128) -> u128 {
            pow(a, u128::MAX - 1)
        }

        pub(super) fn of(h: u128, aad: &[u8], ciphertext: &[u8]) -> u128 {
            let lengths = ((aad.len() as u128 * 8) << 64) | (ciphertext.len() as u128 * 8);
            let blocks = [aad, ciphertext]
                .into_iter()
                .flat_map(|part| part.chunks(16))
                .map(|chunk| {
                    let mut block = [0; 16];
                    block[..chunk.len()].copy_from_slice(chunk);
                    u128::from_be_bytes(block)
                });
            blocks
                .chain([lengths])
                .fold(0, |hash, block| mul(hash ^ block, h))
        }
    }
}
