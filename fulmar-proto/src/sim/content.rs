//! A file without a disk: [`Content`] makes the bytes that one application supplies and checks those that another one is
//! handed.
//!
//! Its bytes are a function of a seed and the offset, so nothing is stored and every byte that arrives is compared with
//! the one that left, wherever it lands and however often. It does *not* decide what is accepted, asked for or aborted:
//! applications do, and they differ.

use std::ops::Range;

use crate::engine::RangeSet;
use crate::hpudp::{Command, Reason, Tag};

/// One file: what is in it, and what of it has come.
#[derive(Clone, Debug)]
pub struct Content {
    seed: u64,
    size: u64,
    stored: RangeSet,
    had: RangeSet,
    bytes: u64,
    wrong: u64,
    scratch: Vec<u8>,
}

impl Content {
    /// A file of `size` bytes, of which nothing has come.
    pub fn new(size: u64, seed: u64) -> Self {
        Self {
            seed,
            size,
            stored: RangeSet::new(),
            had: RangeSet::new(),
            bytes: 0,
            wrong: 0,
            scratch: Vec::new(),
        }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What stands for its hash: no two files of a test have the same.
    pub fn hash(&self) -> u64 {
        self.seed
    }

    /// Its bytes from `offset` on.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let word = mix(self.seed ^ (at / 8)).to_le_bytes();
            let skip = (at % 8) as usize;
            let n = rest.len().min(8 - skip);
            let (head, tail) = rest.split_at_mut(n);
            head.copy_from_slice(&word[skip..skip + n]);
            at += n as u64;
            rest = tail;
        }
    }

    /// What the application of its sender answers to [`Event::Want`](crate::hpudp::Event::Want).
    pub fn supply(&self, tag: Tag, offset: u64, len: usize, mut buffer: Vec<u8>) -> Command {
        buffer.resize(len, 0);
        self.read(offset, &mut buffer);
        Command::Supply {
            tag,
            offset,
            bytes: buffer,
        }
    }

    /// What the application of its receiver answers to [`Event::Chunk`](crate::hpudp::Event::Chunk), once it has looked
    /// at every byte.
    pub fn store(&mut self, tag: Tag, offset: u64, bytes: Vec<u8>) -> Command {
        let len = bytes.len();
        let end = offset + len as u64;
        let mut want = std::mem::take(&mut self.scratch);
        want.resize(len, 0);
        self.read(offset, &mut want);
        self.wrong += u64::from(want != bytes || end > self.size);
        self.scratch = want;
        self.stored.insert(offset..end);
        self.bytes += len as u64;
        Command::Stored {
            tag,
            buffer: bytes,
            len,
        }
    }

    /// These bytes were there before and need not come.
    pub fn had(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.had.insert(range);
        }
    }

    /// What the application of its receiver answers to [`Event::Received`](crate::hpudp::Event::Received).
    pub fn verdict(&self, tag: Tag, hash: u64) -> Command {
        if self.is_exact() && hash == self.seed {
            Command::Verified { tag }
        } else {
            Command::Abort {
                tag,
                reason: Reason::HASH_MISMATCH,
            }
        }
    }

    /// Bytes that came, those that came again included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Chunks that were not what was sent.
    pub fn wrong(&self) -> u64 {
        self.wrong
    }

    /// Every byte came exactly as sent, and exactly once, unless it was there before.
    pub fn is_exact(&self) -> bool {
        let mut there = self.stored.clone();
        there.extend(self.had.iter());
        let whole = self.size == 0 || there.gaps(0..self.size).next().is_none();
        let once = self.bytes == self.size || !self.had.is_empty();
        whole && once && self.wrong == 0
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag(1);

    #[test]
    fn what_is_supplied_can_be_stored_once_and_in_any_order() {
        let sent = Content::new(10_000, 7);
        let mut came = sent.clone();
        for (offset, len) in [(5_003, 4_997), (0, 5_003)] {
            assert!(!came.is_exact());
            let Command::Supply { bytes, .. } = sent.supply(TAG, offset, len, Vec::new()) else {
                panic!("no bytes");
            };
            came.store(TAG, offset, bytes);
        }
        assert!(came.is_exact());
        assert!(matches!(
            came.verdict(TAG, sent.hash()),
            Command::Verified { .. }
        ));
        assert!(matches!(came.verdict(TAG, 8), Command::Abort { .. }));
        let mut first = [0];
        sent.read(0, &mut first);
        came.store(TAG, 0, first.to_vec());
        assert!(!came.is_exact(), "a byte twice");
        assert_eq!(came.wrong(), 0);
    }

    #[test]
    fn other_bytes_and_bytes_beyond_the_end_are_wrong() {
        let mut came = Content::new(9, 7);
        let mut bytes = [0; 9];
        came.read(0, &mut bytes);
        bytes[8] ^= 1;
        came.store(TAG, 0, bytes.to_vec());
        assert_eq!((came.wrong(), came.is_exact()), (1, false));
        let mut came = Content::new(8, 7);
        bytes[8] ^= 1;
        came.store(TAG, 0, bytes.to_vec());
        assert_eq!((came.wrong(), came.is_exact()), (1, false));
    }

    #[test]
    fn what_was_there_need_not_come() {
        let mut came = Content::new(20, 3);
        came.had(0..15);
        assert!(!came.is_exact());
        let mut bytes = [0; 5];
        came.read(15, &mut bytes);
        came.store(TAG, 15, bytes.to_vec());
        assert!(came.is_exact());
        assert!(Content::new(0, 1).is_exact(), "nothing is whole");
    }
}
