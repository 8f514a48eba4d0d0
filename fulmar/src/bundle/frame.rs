//! What stands around the contents: [`Head`] in front, [`Trailer`] behind, and the [`Id`] of the whole.
//!
//! They do *not* look into the manifest.

use std::fmt;

use super::pieces::Value;

/// The first [`HEAD_LEN`] bytes of a bundle (bundle 2.1). Integers are big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of manifest, 1 to [`MANIFEST_MAX`].
    pub manifest: u64,
    /// Bytes of content, at most [`CONTENT_MAX`].
    pub content: u64,
}

/// The last [`TRAILER_LEN`] bytes of a bundle (bundle 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// BLAKE3 of the manifest.
    pub manifest: Value,
    /// BLAKE3 of the content.
    pub content: Value,
}

/// BLAKE3 of head and manifest: names a bundle, and what is left of it after an interruption (bundle 5.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 32]);

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Something else, or a damaged one.
    #[error("it does not begin like a bundle")]
    NotABundle,
    /// Flags that this version does not know.
    #[error("it has features that this version does not know ({0:#010x})")]
    Flags(u32),
    /// Parts that are empty, beyond their limits, or do not add up.
    #[error("the sizes of its parts are impossible")]
    Sizes,
}

impl Head {
    /// Reads the head of a bundle of `len` bytes in all.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn parse(bytes: &[u8; HEAD_LEN], len: u64) -> Result<Self, HeadError> {
        let (body, sum) = bytes.split_at(HEAD_LEN - 4);
        if !body.starts_with(&MAGIC) || crc32fast::hash(body).to_be_bytes() != sum {
            return Err(HeadError::NotABundle);
        }
        let number = |at: usize| {
            let field = body[at..at + 8].try_into().expect("eight bytes");
            u64::from_be_bytes(field)
        };
        let flags = u32::from_be_bytes(body[4..8].try_into().expect("four bytes"));
        if flags != 0 {
            return Err(HeadError::Flags(flags));
        }
        let head = Self {
            manifest: number(8),
            content: number(16),
        };
        let possible = (1..=MANIFEST_MAX).contains(&head.manifest) && head.content <= CONTENT_MAX;
        if possible && head.len() == len {
            Ok(head)
        } else {
            Err(HeadError::Sizes)
        }
    }

    /// As it goes out.
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.manifest.to_be_bytes());
        out[16..24].copy_from_slice(&self.content.to_be_bytes());
        let sum = crc32fast::hash(&out[..24]);
        out[24..].copy_from_slice(&sum.to_be_bytes());
        out
    }

    /// Where the content begins, in bytes from the start of the bundle.
    pub fn content_start(&self) -> u64 {
        HEAD_LEN as u64 + self.manifest
    }

    /// Where the content ends and the trailer begins.
    pub fn content_end(&self) -> u64 {
        self.content_start() + self.content
    }

    /// Bytes of the whole bundle.
    #[allow(clippy::len_without_is_empty, reason = "no bundle is empty")]
    pub fn len(&self) -> u64 {
        self.content_end() + TRAILER_LEN as u64
    }
}

impl Trailer {
    /// Reads it; every byte string is one.
    pub fn parse(bytes: &[u8; TRAILER_LEN]) -> Self {
        let (manifest, content) = bytes.split_at(32);
        Self {
            manifest: manifest.try_into().expect("half of 64"),
            content: content.try_into().expect("half of 64"),
        }
    }

    /// As it goes out.
    pub fn encode(&self) -> [u8; TRAILER_LEN] {
        let mut out = [0; TRAILER_LEN];
        out[..32].copy_from_slice(&self.manifest);
        out[32..].copy_from_slice(&self.content);
        out
    }
}

impl Id {
    /// That of a bundle that begins with `head_and_manifest`.
    pub fn of(head_and_manifest: &[u8]) -> Self {
        Self(*blake3::hash(head_and_manifest).as_bytes())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

/// Bytes of a head.
pub const HEAD_LEN: usize = 28;
/// Bytes of a trailer.
pub const TRAILER_LEN: usize = 64;
/// Bytes of manifest, at most: it is held in memory (bundle 3.1).
pub const MANIFEST_MAX: u64 = 256 << 20;
/// Bytes of content, at most (bundle 3.1).
pub const CONTENT_MAX: u64 = 1 << 40;
const MAGIC: [u8; 4] = *b"FMB1";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_head_is_read_as_written_and_nothing_else_is() {
        let head = Head {
            manifest: 77,
            content: 1 << 33,
        };
        let bytes = head.encode();
        assert_eq!(Head::parse(&bytes, head.len()), Ok(head));
        assert_eq!(Head::parse(&bytes, head.len() + 1), Err(HeadError::Sizes));
        for bit in 0..8 * HEAD_LEN {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::parse(&bad, head.len()), Err(HeadError::NotABundle));
        }
    }

    #[test]
    fn impossible_sizes_and_unknown_features_are_refused() {
        for (manifest, content) in [
            (0, 5),
            (MANIFEST_MAX + 1, 5),
            (1, CONTENT_MAX + 1),
            (1, u64::MAX),
            (u64::MAX, 1),
        ] {
            let bytes = Head { manifest, content }.encode();
            assert_eq!(Head::parse(&bytes, 100), Err(HeadError::Sizes));
        }
        let mut bytes = Head {
            manifest: 1,
            content: 0,
        }
        .encode();
        bytes[7] = 1;
        let sum = crc32fast::hash(&bytes[..24]);
        bytes[24..].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(Head::parse(&bytes, 93), Err(HeadError::Flags(1)));
    }
}
