//! Key material on its way, and what is answered (6.2, 6.5.1).
//!
//! It does *not* unwrap keys.

use super::{Malformed, Slot};
use crate::engine::{Reader, Writer};
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
    /// Reads a message that is nothing but key material (6.2.3).
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read(bytes).ok_or(Malformed::Km)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let known = reader.array()? == SIGNATURE;
        let slots = Slots::from_bits(reader.u8()?)?;
        let index = reader.u32()?;
        let cipher = Cipher::from_bytes(reader.array()?)?;
        let fixed = reader.array()? == ENCAPSULATION;
        let length = KeyLength::from_bytes(4 * usize::from(reader.u8()?))?;
        let salt = reader.array()?;
        let wrapped = reader.rest();
        let whole = wrapped.len() == 8 + slots.count() * length.bytes();
        (known && index == 0 && fixed && whole).then_some(Self {
            slots,
            cipher,
            length,
            salt,
            wrapped,
        })
    }

    /// Appends the message.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.bytes(&SIGNATURE);
        writer.u8(self.slots.bits());
        writer.u32(0);
        writer.bytes(&self.cipher.bytes());
        writer.bytes(&ENCAPSULATION);
        writer.u8((self.length.bytes() / 4) as u8);
        writer.bytes(&self.salt);
        writer.bytes(self.wrapped);
    }
}

/// Which keys a KM holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slots {
    One(Slot),
    Both,
}

impl Slots {
    /// How many.
    pub(crate) const fn count(self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Both => 2,
        }
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::One(Slot::Even),
            2 => Self::One(Slot::Odd),
            3 => Self::Both,
            _ => return None,
        })
    }

    const fn bits(self) -> u8 {
        match self {
            Self::One(slot) => slot.bits() as u8,
            Self::Both => 3,
        }
    }
}

/// How data is sealed (6.3, 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    Ctr,
    Gcm,
}

impl Cipher {
    /// Cipher and authentication.
    const fn from_bytes(bytes: [u8; 2]) -> Option<Self> {
        match bytes {
            [2, 0] => Some(Self::Ctr),
            [4, 1] => Some(Self::Gcm),
            _ => None,
        }
    }

    const fn bytes(self) -> [u8; 2] {
        match self {
            Self::Ctr => [2, 0],
            Self::Gcm => [4, 1],
        }
    }
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
        match bytes.try_into() {
            Ok(word) => Ok(Self::Failed(KmState(u32::from_le_bytes(word)))),
            Err(_) => KeyMaterial::parse(bytes).map(Self::Taken),
        }
    }

    /// Appends the word or the message.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Taken(km) => km.write(out),
            Self::Failed(state) => out.extend_from_slice(&state.0.to_le_bytes()),
        }
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

/// Version, packet type and signature.
const SIGNATURE: [u8; 3] = [0x12, 0x20, 0x29];
/// Encapsulation, reserved, and the length of the salt in words.
const ENCAPSULATION: [u8; 5] = [2, 0, 0, 0, 4];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::num::NonZeroU32;

    use super::*;
    use crate::crypto::{pbkdf2_sha1, unwrap, wrap};
    use crate::srt::vectors;

    #[test]
    fn keys_of_the_vectors_unwrap_and_wrap_to_the_byte() {
        let mut seen = 0;
        for vectors::Keys {
            name,
            passphrase,
            kek,
            seks,
            km: bytes,
        } in vectors::keys()
        {
            let km = KeyMaterial::parse(&bytes).unwrap();
            let mut derived = vec![0; km.length.bytes()];
            let rounds = NonZeroU32::new(2048).unwrap();
            pbkdf2_sha1(passphrase.as_bytes(), &km.salt[8..], rounds, &mut derived);
            assert_eq!(derived, kek, "{name}: KEK");
            let slots = match &seks {
                [Some(_), Some(_)] => Slots::Both,
                [Some(_), None] => Slots::One(Slot::Even),
                _ => Slots::One(Slot::Odd),
            };
            assert_eq!(km.slots, slots, "{name}: slots");
            let cipher = if name.contains("gcm") {
                Cipher::Gcm
            } else {
                Cipher::Ctr
            };
            assert_eq!(km.cipher, cipher, "{name}: cipher");
            let keys = seks.into_iter().flatten().collect::<Vec<_>>().concat();
            assert_eq!(*unwrap(&kek, km.wrapped).unwrap(), keys, "{name}: keys");
            // Wrapping is deterministic, so what was recorded comes out as well.
            let wrapped = wrap(&kek, &keys).unwrap();
            let mut again = Vec::new();
            KeyMaterial {
                wrapped: &wrapped,
                ..km
            }
            .write(&mut again);
            assert_eq!(again, bytes, "{name}: written");
            seen += 1;
        }
        assert_eq!(seen, 21);
    }

    /// Every byte before the salt has a meaning, and every other value of it is refused or is another meaning.
    #[test]
    fn no_byte_is_overlooked() {
        let bytes = vectors::keys().next().unwrap().km;
        for at in 0..16 {
            for value in (0..=255).filter(|value| *value != bytes[at]) {
                let mut other = bytes.clone();
                other[at] = value;
                let odd = at == 3 && value == 2;
                assert_eq!(
                    KeyMaterial::parse(&other).is_ok(),
                    odd,
                    "byte {at} of {value}"
                );
            }
        }
        for len in (0..120).filter(|len| *len != bytes.len()) {
            let mut other = bytes.clone();
            other.resize(len, 0);
            assert_eq!(
                KeyMaterial::parse(&other),
                Err(Malformed::Km),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn states_are_little_endian() {
        let failed = KmAnswer::parse(&[4, 0, 0, 0]);
        assert_eq!(failed, Ok(KmAnswer::Failed(KmState::BAD_SECRET)));
        assert_eq!(KmAnswer::parse(&[]), Err(Malformed::Km));
        assert_eq!(KmAnswer::parse(&[0; 8]), Err(Malformed::Km));
    }
}
