//! BLAKE3 of a content whose pieces are hashed in any order: [`Pieces`] and [`PieceHasher`].
//!
//! BLAKE3 is a tree, and a piece of 1 MiB is a subtree of it: its 32-byte value can be computed alone, kept, and merged
//! with its neighbour's whenever both are there. The root is the ordinary BLAKE3 of the whole (bundle 4.1). Nothing
//! here checks a value, and nothing reads.

use std::collections::BTreeMap;
use std::ops::Range;

use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use fulmar_proto::engine::RangeSet;

/// The value of a piece: a chaining value of BLAKE3; of a content's only piece, the hash of the content.
pub type Value = [u8; 32];

/// The hash of a content of known length, as its pieces become known.
#[derive(Debug)]
pub struct Pieces {
    len: u64,
    /// Values of subtrees of 2^level pieces, by level and number; merged as soon as both halves are there, but for
    /// the root.
    nodes: BTreeMap<(u32, u64), Value>,
    done: RangeSet,
}

/// The value of one piece, from its bytes in order.
#[derive(Debug)]
pub struct PieceHasher {
    hasher: blake3::Hasher,
    /// What came behind the last whole stride: from anywhere else, fewer chunks are hashed side by side.
    tail: Vec<u8>,
    only: bool,
}

impl Pieces {
    /// For a content of `len` bytes, at most [`CONTENT_MAX`](super::CONTENT_MAX).
    pub fn new(len: u64) -> Self {
        Self {
            len,
            nodes: BTreeMap::new(),
            done: RangeSet::new(),
        }
    }

    /// How many pieces there are.
    pub fn count(&self) -> u64 {
        count(self.len)
    }

    /// How many are known.
    pub fn known(&self) -> u64 {
        self.done.len()
    }

    /// Whether `piece` is known.
    pub fn contains(&self, piece: u64) -> bool {
        self.done.contains(piece)
    }

    /// Takes the value of `piece`. False, and nothing happens, if it is known already or there is no such piece.
    pub fn complete(&mut self, piece: u64, value: Value) -> bool {
        if piece >= self.count() || self.done.contains(piece) {
            return false;
        }
        self.done.insert(piece..piece + 1);
        let (mut level, mut number, mut value) = (0, piece, value);
        // The last merge makes the root, which is another function; and beyond the right edge nothing comes.
        while 2u64 << level < self.count()
            && let Some(beside) = self.nodes.remove(&(level, number ^ 1))
        {
            value = match number % 2 {
                0 => merge_subtrees_non_root(&value, &beside, Mode::Hash),
                _ => merge_subtrees_non_root(&beside, &value, Mode::Hash),
            };
            (level, number) = (level + 1, number / 2);
        }
        self.nodes.insert((level, number), value);
        true
    }

    /// BLAKE3 of the content, once every piece is known.
    pub fn root(&self) -> Option<Value> {
        if self.known() < self.count() {
            return None;
        }
        match self.count() {
            0 => Some(*blake3::hash(b"").as_bytes()),
            1 => self.nodes.get(&(0, 0)).copied(),
            pieces => {
                let half = left(pieces);
                let (left, right) = (self.subtree(0..half)?, self.subtree(half..pieces)?);
                Some(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
            }
        }
    }

    fn subtree(&self, pieces: Range<u64>) -> Option<Value> {
        let size = pieces.end - pieces.start;
        let level = size.ilog2();
        if size.is_power_of_two()
            && let Some(value) = self.nodes.get(&(level, pieces.start >> level))
        {
            return Some(*value);
        }
        if size == 1 {
            return None;
        }
        let middle = pieces.start + left(size);
        let left = self.subtree(pieces.start..middle)?;
        let right = self.subtree(middle..pieces.end)?;
        Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}

impl PieceHasher {
    /// For piece `piece` of a content of `len` bytes.
    pub fn new(piece: u64, len: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(piece * PIECE);
        Self {
            hasher,
            tail: Vec::new(),
            only: len <= PIECE,
        }
    }

    /// Takes the next bytes, of the piece and of no other.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.tail.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(STRIDE - self.tail.len()));
            self.tail.extend_from_slice(part);
            bytes = rest;
            if self.tail.len() < STRIDE {
                return;
            }
            self.hasher.update(&self.tail);
            self.tail.clear();
        }
        let (whole, tail) = bytes.split_at(bytes.len() / STRIDE * STRIDE);
        self.hasher.update(whole);
        self.tail.extend_from_slice(tail);
    }

    /// The value, once all bytes of the piece are in; at least one.
    pub fn finish(mut self) -> Value {
        self.hasher.update(&self.tail);
        if self.only {
            *self.hasher.finalize().as_bytes()
        } else {
            self.hasher.finalize_non_root()
        }
    }
}

/// How many pieces a content of `len` bytes has.
pub(super) fn count(len: u64) -> u64 {
    len.div_ceil(PIECE)
}

/// The bytes of `piece` in a content of `len` bytes.
pub(super) fn bytes_of(piece: u64, len: u64) -> Range<u64> {
    piece * PIECE..((piece + 1) * PIECE).min(len)
}

/// The leaves of the left half of a tree of `leaves`, at least two: the largest power of two below.
fn left(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// Chunks of 1 KiB that the widest processors hash side by side.
const STRIDE: usize = 16 << 10;
/// Bytes of a piece; only the last one is shorter (bundle 4.1).
pub const PIECE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn value(content: &[u8], piece: u64) -> Value {
        let range = bytes_of(piece, content.len() as u64);
        let mut hasher = PieceHasher::new(piece, content.len() as u64);
        hasher.update(&content[range.start as usize..range.end as usize]);
        hasher.finish()
    }

    #[test]
    fn lengths_around_the_edges() {
        let piece = PIECE as usize;
        let lengths = [0, 1, 1023, 1024, 1025, piece - 1, piece, piece + 1];
        for len in lengths
            .into_iter()
            .chain([2 * piece, 4 * piece, 4 * piece + 1])
        {
            let content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut pieces = Pieces::new(len as u64);
            for number in (0..pieces.count()).rev() {
                assert_eq!(pieces.root(), None);
                assert!(pieces.complete(number, value(&content, number)));
                assert!(!pieces.complete(number, [0; 32]), "the first value stays");
            }
            assert!(!pieces.complete(pieces.count(), [0; 32]), "beyond the end");
            assert_eq!(pieces.root().unwrap(), *blake3::hash(&content).as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_order_gives_the_hash_of_the_whole(
            whole in 0u64..19,
            extra in 0u64..PIECE,
            seed in any::<u64>(),
        ) {
            let len = whole * PIECE + extra;
            let content: Vec<u8> = (0..len).map(|i| (i ^ (i >> 9) ^ seed) as u8).collect();
            let mut pieces = Pieces::new(len);
            let mut order: Vec<u64> = (0..pieces.count()).collect();
            order.sort_by_key(|number| (number + 1).wrapping_mul(seed | 1).rotate_left(17));
            for number in order {
                prop_assert_eq!(pieces.root(), None);
                pieces.complete(number, value(&content, number));
            }
            prop_assert_eq!(pieces.root().unwrap(), *blake3::hash(&content).as_bytes());
        }
    }

    #[test]
    fn in_order_only_the_edge_is_kept() {
        let mut pieces = Pieces::new(1000 * PIECE);
        for number in 0..1000 {
            pieces.complete(number, [number as u8; 32]);
            assert!(pieces.nodes.len() <= 10);
        }
    }
}
