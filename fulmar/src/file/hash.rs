//! The hash of a file whose bytes come in any order: [`FileHash`].
//!
//! Bytes that continue the hashed front are hashed from memory; those that arrive ahead of it are remembered as ranges
//! and read back once the gap before them has closed, while they are still in the page cache. Memory is bounded: past
//! [`RANGES_MAX`] ranges it stops remembering, and everything behind the front is read back at the end. It does *not*
//! write, and does not compare.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh64::Xxh64;

use super::STEP;

/// The xxHash64 (seed 0) of a growing file.
pub(super) struct FileHash {
    state: Xxh64,
    /// Everything below is hashed, and settled.
    front: u64,
    /// On disk but not hashed; all ends are above `front`.
    ahead: Ranges,
    /// Too many ranges to remember them.
    lost: bool,
    buffer: Vec<u8>,
}

impl FileHash {
    pub(super) fn new() -> Self {
        Self {
            state: Xxh64::new(0),
            front: 0,
            ahead: Ranges::default(),
            lost: false,
            buffer: Vec::new(),
        }
    }

    /// Everything below is hashed: it must not change any more.
    pub(super) fn front(&self) -> u64 {
        self.front
    }

    /// Takes note of bytes that are now on disk at `offset`, at or above the front.
    pub(super) fn wrote(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        if offset == self.front {
            self.state.update(bytes);
            self.front = end;
            self.ahead.remove_below(end);
        } else if !self.lost {
            self.ahead.insert(offset..end);
            if self.ahead.len() > RANGES_MAX {
                self.lost = true;
                self.ahead = Ranges::default();
            }
        }
    }

    /// Reads back and hashes what now continues the front, at most `budget` bytes of it.
    pub(super) fn catch_up(&mut self, file: &File, mut budget: u64) -> io::Result<()> {
        while let Some(next) = self.ahead.first()
            && next.start <= self.front
            && budget > 0
        {
            let len = (next.end - self.front).min(budget).min(STEP as u64);
            self.buffer.resize(STEP, 0);
            let bytes = &mut self.buffer[..len as usize];
            file.read_exact_at(bytes, self.front)?;
            self.state.update(bytes);
            self.front += len;
            self.ahead.remove_below(self.front);
            budget -= len;
        }
        Ok(())
    }

    /// Hashes the rest of a file of `size` bytes; the hash, or how many bytes never came.
    pub(super) fn finish(&mut self, file: &File, size: u64) -> io::Result<Result<u64, u64>> {
        if self.lost {
            // Bytes that never came read as zeros here; the hash tells.
            self.ahead.insert(self.front..size);
        }
        self.catch_up(file, u64::MAX)?;
        if self.front == size {
            return Ok(Ok(self.state.digest()));
        }
        let ahead: u64 = self.ahead.iter().map(|range| range.end - range.start).sum();
        Ok(Err(size - self.front - ahead))
    }
}

/// Disjoint ranges that do not touch, by their start.
#[derive(Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn first(&self) -> Option<Range<u64>> {
        self.iter().next()
    }

    fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    fn insert(&mut self, Range { mut start, mut end }: Range<u64>) {
        if start >= end {
            return;
        }
        if let Some((&before, &until)) = self.0.range(..=start).next_back()
            && until >= start
        {
            start = before;
        }
        while let Some((&key, &until)) = self.0.range(start..=end).next() {
            self.0.remove(&key);
            end = end.max(until);
        }
        self.0.insert(start, end);
    }

    fn remove_below(&mut self, limit: u64) {
        while let Some((&start, &end)) = self.0.first_key_value()
            && start < limit
        {
            self.0.remove(&start);
            if end > limit {
                self.0.insert(limit, end);
            }
        }
    }
}

/// Ranges remembered: more than a receiver's window can leave behind in runs, about 4 MiB of memory.
const RANGES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use xxhash_rust::xxh64::xxh64;

    use super::*;

    #[test]
    fn too_many_ranges_are_forgotten_and_read_back() {
        let file = tempfile::tempfile().unwrap();
        let size = 2 * (RANGES_MAX as u64 + 10);
        let content: Vec<u8> = (0..size).map(|i| (i * i % 251) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        let mut hash = FileHash::new();
        for offset in (1..size).step_by(2).chain((0..size).step_by(2)) {
            hash.wrote(offset, &content[offset as usize..][..1]);
            assert!(hash.ahead.len() <= RANGES_MAX);
        }
        assert!(hash.lost);
        assert_eq!(hash.finish(&file, size).unwrap(), Ok(xxh64(&content, 0)));
    }

    #[test]
    fn the_vectors_of_the_specification() {
        // HP-UDP 20.2.
        let million: Vec<u8> = (0..1_000_000u32).map(|i| (7 * i + 3) as u8).collect();
        for (content, expected) in [
            (&million[..], 0xb978_085c_c8e7_010e),
            (b"", 0xef46_db37_51d8_e999),
            (b"HP-UDP", 0x5cbd_183a_7a40_9a50),
        ] {
            let file = tempfile::tempfile().unwrap();
            let mut hash = FileHash::new();
            for (index, part) in content.chunks(1368).enumerate() {
                hash.wrote(index as u64 * 1368, part);
            }
            assert_eq!(
                hash.finish(&file, content.len() as u64).unwrap(),
                Ok(expected)
            );
        }
    }

    proptest! {
        #[test]
        fn ranges_are_a_set_of_numbers(
            steps in prop::collection::vec((any::<bool>(), 0u64..120, 0u64..20), 0..60),
        ) {
            let (mut ranges, mut naive) = (Ranges::default(), BTreeSet::new());
            for (insert, start, len) in steps {
                if insert {
                    ranges.insert(start..start + len);
                    naive.extend(start..start + len);
                } else {
                    ranges.remove_below(start);
                    naive.retain(|&number| number >= start);
                }
                let all: Vec<Range<u64>> = ranges.iter().collect();
                prop_assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start), "{all:?}");
                prop_assert!(all.into_iter().flatten().eq(naive.iter().copied()));
            }
        }
    }
}
