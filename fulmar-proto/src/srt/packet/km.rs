//! Key material on its way, and what is answered (6.2, 6.5.1).
//!
//! It does *not* unwrap keys.

use super::{Malformed, Slot};
use crate::srt::config::KeyLength;

/// A KM message whose every field but these has the one value there is (6.2.1), so that writing gives the bytes read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyMaterial<'a> {
    pub(crate) slots: Slots,
    pub(crate) cipher: Cipher,
    pub(crate) length: KeyLength,
    pub(crate) salt: [u8; 16],
    /// The keys, wrapped as one, even first: 8 bytes more than they have.
    pub(crate) wrapped: &'a [u8],
}

impl<'a> KeyMaterial<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        unimplemented!()
    }

    /// Appends the message.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        unimplemented!()
    }
}

/// Which keys a KM holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slots {
    One(Slot),
    Both,
}

/// How data is sealed (6.3, 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    Ctr,
    Gcm,
}

/// The body of KMRSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KmAnswer<'a> {
    /// The keys are taken: the request comes back.
    Taken(KeyMaterial<'a>),
    Failed(KmState),
}

impl<'a> KmAnswer<'a> {
    /// Of one word, or of a whole message.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        unimplemented!()
    }
}

/// What is wrong with a KMREQ, or its absence (6.5.1). By number: a peer may know others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KmState(pub(crate) u32);

impl KmState {
    /// The peer sent no key material, and this side has a passphrase.
    pub(crate) const UNSECURED: Self = Self(0);
    /// This side has no passphrase.
    pub(crate) const NO_SECRET: Self = Self(3);
    /// This side has another passphrase.
    pub(crate) const BAD_SECRET: Self = Self(4);
    /// The cipher is not welcome (6.4.3).
    pub(crate) const BAD_CRYPTO_MODE: Self = Self(5);
}
