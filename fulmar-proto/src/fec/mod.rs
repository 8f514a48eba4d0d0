//! Forward error correction: parity over blocks of `k` equal shards.
//!
//! A block is one contiguous buffer of `k * shard` bytes. The encoder reads it and writes parity shards; the decoder
//! owns such a buffer, takes data and parity shards in any order, and computes the missing data in place. Both are a
//! matrix of coefficients times the shards of one buffer; the schemes differ in where the coefficients come from.
//!
//! This module does not know packets, sequence numbers or how much parity a link deserves, it does not detect
//! corruption (a wrong shard yields wrong data), and it never reorders or frames anything.

mod rs8;
mod xor;

use std::fmt;

/// An erasure code and its number of data shards in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// One parity shard, the XOR of all data shards.
    Xor {
        /// Data shards in a block, 1 to 65,534.
        k: u16,
    },
    /// Systematic Vandermonde Reed-Solomon over GF(2^8), polynomial 0x11d (`hp-udp` 6.3). Any `k` distinct shards
    /// give back the block. Parity `i` depends on `(k, i)` only, so a sender may decide how many it wants late.
    Rs8 {
        /// Data shards in a block, 1 to 255.
        k: u16,
    },
}

impl Scheme {
    /// Data shards in a block.
    pub fn k(self) -> u16 {
        match self {
            Self::Xor { k } | Self::Rs8 { k } => k,
        }
    }

    /// How many different parity shards exist; their indices start at 0.
    pub fn max_parity(self) -> u8 {
        match self {
            Self::Xor { .. } => 1,
            Self::Rs8 { k } => {
                u8::try_from(rs8::POINTS.saturating_sub(usize::from(k))).unwrap_or(u8::MAX)
            }
        }
    }
}

/// Computes parity shards. Holds no block, only working memory: one encoder serves any number of blocks.
pub struct BlockEncoder {
    scheme: Scheme,
    code: Code,
    shard: usize,
    sums: Vec<u8>,
}

impl BlockEncoder {
    /// An encoder for blocks of `scheme.k()` shards of `shard` bytes.
    ///
    /// # Panics
    /// If `k` is out of the scheme's range or `shard` is 0: both are constants of a protocol, never numbers from the
    /// network.
    pub fn new(scheme: Scheme, shard: usize) -> Self {
        Self {
            scheme,
            code: Code::new(scheme, shard),
            shard,
            sums: Vec::new(),
        }
    }

    /// How many different parity shards exist.
    pub fn max_parity(&self) -> u8 {
        self.scheme.max_parity()
    }

    /// Writes parity shard `index` of `block` to `out`. A short last chunk must be padded with zeros (`hp-udp` 6.4).
    ///
    /// # Panics
    /// If `block` is not `k * shard` bytes, `out` not `shard` bytes, or `index` not below [`Self::max_parity`].
    pub fn parity(&mut self, index: u8, block: &[u8], out: &mut [u8]) {
        let mut sums = std::mem::take(&mut self.sums);
        self.parities(index, 1, block, &mut sums);
        out.copy_from_slice(&sums);
        self.sums = sums;
    }

    /// Replaces the contents of `out` with parity shards `first..first + count` of `block`, one after the other.
    /// Reads each data shard once for many parities, so this is the way to compute several.
    ///
    /// # Panics
    /// If `block` is not `k * shard` bytes, or `first + count` exceeds [`Self::max_parity`].
    pub fn parities(&mut self, first: u8, count: u8, block: &[u8], out: &mut Vec<u8>) {
        let (first, count) = (usize::from(first), usize::from(count));
        assert_eq!(
            block.len(),
            usize::from(self.scheme.k()) * self.shard,
            "a block of another size"
        );
        assert!(
            first + count <= usize::from(self.max_parity()),
            "no such parity"
        );
        match self.code {
            Code::Xor => {
                out.clear();
                out.resize(count * self.shard, 0);
                if count == 1 {
                    xor::sum(block, out);
                }
            }
            Code::Rs8(code) => {
                let stride = rs8::combine(
                    count,
                    |r| code.parity_row(first + r),
                    block,
                    self.shard,
                    out,
                );
                for r in 1..count {
                    out.copy_within(r * stride..r * stride + self.shard, r * self.shard);
                }
                out.truncate(count * self.shard);
            }
        }
    }
}

impl fmt::Debug for BlockEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockEncoder")
            .field("scheme", &self.scheme)
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

/// What became of a shard given to a [`BlockDecoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It was kept.
    New,
    /// The decoder holds it already; nothing changed.
    Duplicate,
    /// It has no use: a wrong length or index, or parity when enough is held. Nothing changed.
    Refused,
}

/// Rebuilds one block from any `k` of its shards, in exactly `k * shard` bytes: a parity shard waits in the slot of a
/// data shard that is missing, so the memory that repair needs is the memory it will fill.
pub struct BlockDecoder {
    scheme: Scheme,
    code: Code,
    shard: usize,
    buffer: Vec<u8>,
    /// Which shard each slot of `buffer` holds: its own number for data, `k + i` for parity `i`, or [`VACANT`].
    slots: Vec<u16>,
    missing: usize,
    vacant: usize,
}

impl BlockDecoder {
    /// A decoder for one block. `buffer` is resized to `k * shard` bytes; what it held does not matter.
    ///
    /// # Panics
    /// If `k` is out of the scheme's range or `shard` is 0: both are constants of a protocol, never numbers from the
    /// network.
    pub fn new(scheme: Scheme, shard: usize, mut buffer: Vec<u8>) -> Self {
        let code = Code::new(scheme, shard);
        let k = usize::from(scheme.k());
        buffer.resize(k * shard, 0);
        Self {
            scheme,
            code,
            shard,
            buffer,
            slots: vec![VACANT; k],
            missing: k,
            vacant: k,
        }
    }

    /// Takes a shard: data below `k`, parity `index - k` from there. A data shard shorter than the others is padded
    /// with zeros (`hp-udp` 6.4); whether its length is right for its place is for the caller to know.
    pub fn insert(&mut self, index: u16, bytes: &[u8]) -> Inserted {
        let k = self.scheme.k();
        if index < k {
            return self.insert_data(index, bytes);
        }
        if index - k >= u16::from(self.scheme.max_parity()) || bytes.len() != self.shard {
            return Inserted::Refused;
        }
        if self.slots.contains(&index) {
            return Inserted::Duplicate;
        }
        let Some(slot) = self.vacancy() else {
            return Inserted::Refused;
        };
        self.put(slot, index, bytes);
        Inserted::New
    }

    /// Whether a shard, data or parity, is held. Parity that more data made useless may have been let go.
    pub fn has(&self, index: u16) -> bool {
        match self.slots.get(usize::from(index)) {
            Some(held) => *held == index,
            None => index != VACANT && self.slots.contains(&index),
        }
    }

    /// The data shards not held, in ascending order.
    pub fn missing(&self) -> impl Iterator<Item = u16> + '_ {
        (0..)
            .zip(&self.slots)
            .filter(|(index, held)| index != *held)
            .map(|(index, _)| index)
    }

    /// How many data shards are not held.
    pub fn missing_count(&self) -> usize {
        self.missing
    }

    /// Whether every data shard is held.
    pub fn complete(&self) -> bool {
        self.missing == 0
    }

    /// How many parity shards are held; never more than data shards are missing.
    pub fn parity_held(&self) -> usize {
        self.missing - self.vacant
    }

    /// Whether data is missing and the shards held suffice to compute it.
    pub fn repairable(&self) -> bool {
        self.vacant == 0 && self.missing > 0
    }

    /// Computes the missing data shards in place and answers which they were, ascending. Does nothing, and answers
    /// with none, unless [`Self::repairable`].
    pub fn repair<'s>(&mut self, scratch: &'s mut Scratch) -> &'s [u16] {
        let Scratch {
            sums,
            rows,
            repaired,
        } = scratch;
        repaired.clear();
        if !self.repairable() {
            return repaired;
        }
        repaired.extend(self.missing());
        let (k, shard) = (self.slots.len(), self.shard);
        let stride = match self.code {
            Code::Xor => {
                sums.clear();
                sums.resize(shard, 0);
                xor::sum(&self.buffer, sums);
                shard
            }
            Code::Rs8(code) => {
                code.repair_rows(&self.slots, repaired, rows);
                rs8::combine(
                    repaired.len(),
                    |r| &rows[r * k..(r + 1) * k],
                    &self.buffer,
                    shard,
                    sums,
                )
            }
        };
        for (&index, sum) in repaired.iter().zip(sums.chunks_exact(stride)) {
            let slot = usize::from(index);
            self.buffer[slot * shard..(slot + 1) * shard].copy_from_slice(&sum[..shard]);
            self.slots[slot] = index;
        }
        self.missing = 0;
        repaired
    }

    /// The block, `k * shard` bytes. Where a data shard is missing the bytes mean nothing.
    pub fn data(&self) -> &[u8] {
        &self.buffer
    }

    /// Gives the memory back, holding what [`Self::data`] held.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    fn insert_data(&mut self, index: u16, bytes: &[u8]) -> Inserted {
        let slot = usize::from(index);
        let held = self.slots[slot];
        if bytes.len() > self.shard {
            return Inserted::Refused;
        }
        if held == index {
            return Inserted::Duplicate;
        }
        if held != VACANT {
            // Parity waits here. Without a vacancy to move to, this data shard is what makes it superfluous.
            match self.vacancy() {
                Some(other) => {
                    self.buffer.copy_within(
                        slot * self.shard..(slot + 1) * self.shard,
                        other * self.shard,
                    );
                    self.slots[other] = held;
                }
                None => self.vacant += 1,
            }
        }
        self.put(slot, index, bytes);
        self.missing -= 1;
        Inserted::New
    }

    /// The last vacant slot: data and its retransmissions come in ascending order, so parity there moves least.
    fn vacancy(&self) -> Option<usize> {
        if self.vacant == 0 {
            return None;
        }
        self.slots.iter().rposition(|held| *held == VACANT)
    }

    fn put(&mut self, slot: usize, index: u16, bytes: &[u8]) {
        let (used, padding) =
            self.buffer[slot * self.shard..(slot + 1) * self.shard].split_at_mut(bytes.len());
        used.copy_from_slice(bytes);
        padding.fill(0);
        self.slots[slot] = index;
        self.vacant -= 1;
    }
}

impl fmt::Debug for BlockDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockDecoder")
            .field("scheme", &self.scheme)
            .field("shard", &self.shard)
            .field("missing", &self.missing)
            .field("parity_held", &self.parity_held())
            .finish_non_exhaustive()
    }
}

/// Working memory of [`BlockDecoder::repair`], to be shared by any number of decoders. At most
/// `(missing + 1) * (shard + 63) + missing * k` bytes of the largest repair it served.
#[derive(Default)]
pub struct Scratch {
    sums: Vec<u8>,
    rows: Vec<u8>,
    repaired: Vec<u16>,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// A scheme, made ready.
#[derive(Clone, Copy)]
enum Code {
    Xor,
    Rs8(&'static rs8::Code),
}

impl Code {
    fn new(scheme: Scheme, shard: usize) -> Self {
        assert!(shard > 0, "shards of no bytes");
        match scheme {
            Scheme::Xor { k } => {
                assert!((1..VACANT).contains(&k), "k out of range");
                Self::Xor
            }
            Scheme::Rs8 { k } => Self::Rs8(rs8::Code::of(k)),
        }
    }
}

const VACANT: u16 = u16::MAX;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use aws_lc_rs::digest::{SHA256, digest};
    use proptest::prelude::*;
    use proptest::sample::subsequence;
    use reed_solomon_erasure::galois_8::ReedSolomon;

    use super::*;

    /// The data of `hp-udp` 20.9.
    fn vector(k: usize, shard: usize) -> Vec<u8> {
        let byte = |s: usize, b: usize| (31 * s + 7 * b + (s * b) % 251) as u8;
        (0..k)
            .flat_map(|s| (0..shard).map(move |b| byte(s, b)))
            .collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn rs8(k: usize) -> Scheme {
        Scheme::Rs8 { k: k as u16 }
    }

    fn parities(scheme: Scheme, shard: usize, count: u8, block: &[u8]) -> Vec<u8> {
        let mut out = vec![0xee; 7];
        BlockEncoder::new(scheme, shard).parities(0, count, block, &mut out);
        out
    }

    #[test]
    fn small_parity_matches_the_published_bytes() {
        let block = vector(4, 16);
        assert_eq!(hex(&block[..16]), "00070e151c232a31383f464d545b6269");
        assert_eq!(hex(&block[48..]), "5d67717b858f99a3adb7c1cbd5dfe9f3");
        let parity = parities(rs8(4), 16, 2, &block);
        assert_eq!(hex(&parity[..16]), "0287c2adeb5b8e061d9163e64b8a321e");
        assert_eq!(hex(&parity[16..]), "08a7e38f6a18fcd7cf94772185d1686a");
    }

    #[test]
    fn parity_matches_the_published_digests() {
        let vectors = include_str!("../../../specs/vectors/rs8.txt");
        let vectors: Vec<_> = vectors
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        assert_eq!(vectors.len(), 8);
        for line in vectors {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [k, m, shard, last] = [0, 1, 2, 3].map(|n| fields[n].parse::<usize>().unwrap());
            let mut block = vector(k, shard);
            block[(k - 1) * shard + last..].fill(0);
            let parity = parities(rs8(k), shard, m as u8, &block);
            assert_eq!(hex(digest(&SHA256, &parity).as_ref()), fields[4], "{line}");
            assert!(
                fields[5] == "-" || fields[5] == hex(&parity[..16]),
                "{line}"
            );
        }
    }

    #[test]
    fn one_data_shard_makes_every_parity_a_copy() {
        let block = vector(1, 40);
        let parity = parities(rs8(1), 40, 255, &block);
        assert_eq!(parity.len(), 255 * 40);
        assert!(parity.chunks(40).all(|shard| shard == block));
    }

    #[test]
    fn data_takes_its_slot_from_waiting_parity() {
        let (k, shard) = (4, 16);
        let block = vector(k, shard);
        let parity = parities(rs8(k), shard, 4, &block);
        let data = |j: usize| &block[j * shard..(j + 1) * shard];
        let mut decoder = BlockDecoder::new(rs8(k), shard, vec![0xcc; 1000]);
        for i in 0..4 {
            assert_eq!(
                decoder.insert(4 + i, &parity[usize::from(i) * shard..][..shard]),
                Inserted::New
            );
        }
        assert_eq!((decoder.parity_held(), decoder.missing_count()), (4, 4));
        assert!(decoder.repairable());
        assert_eq!(
            decoder.insert(8, data(0)),
            Inserted::Refused,
            "four shards suffice"
        );
        assert_eq!(
            decoder.insert(6, &parity[2 * shard..][..shard]),
            Inserted::Duplicate
        );
        for j in [2, 0, 3] {
            assert_eq!(decoder.insert(j, data(usize::from(j))), Inserted::New);
            assert_eq!(decoder.insert(j, data(usize::from(j))), Inserted::Duplicate);
            assert_eq!(decoder.parity_held(), decoder.missing_count());
            assert!(decoder.repairable());
        }
        assert_eq!(decoder.missing().collect::<Vec<_>>(), [1]);
        assert_eq!(decoder.repair(&mut Scratch::default()), [1]);
        assert!(decoder.complete() && !decoder.repairable() && decoder.data() == block);
        assert_eq!(decoder.insert(4, &parity[..shard]), Inserted::Refused);
        assert_eq!(decoder.repair(&mut Scratch::default()), [0_u16; 0]);
    }

    #[test]
    fn shards_of_wrong_length_or_number_are_refused() {
        for scheme in [rs8(100), Scheme::Xor { k: 100 }] {
            let last = 99 + u16::from(scheme.max_parity());
            let mut decoder = BlockDecoder::new(scheme, 16, Vec::new());
            assert_eq!(decoder.insert(0, &[1; 17]), Inserted::Refused);
            assert_eq!(decoder.insert(100, &[1; 15]), Inserted::Refused);
            assert_eq!(decoder.insert(100, &[1; 17]), Inserted::Refused);
            assert_eq!(decoder.insert(last + 1, &[1; 16]), Inserted::Refused);
            assert_eq!(decoder.insert(u16::MAX, &[1; 16]), Inserted::Refused);
            assert!(!decoder.has(u16::MAX) && !decoder.has(0) && !decoder.has(last));
            assert_eq!(decoder.insert(last, &[1; 16]), Inserted::New);
            assert!(decoder.has(last) && !decoder.has(99));
        }
    }

    #[test]
    fn short_data_is_padded_with_zeros() {
        let mut block = vector(3, 16);
        block[2 * 16 + 5..].fill(0);
        let parity = parities(rs8(3), 16, 1, &block);
        let mut decoder = BlockDecoder::new(rs8(3), 16, vec![0xff; 48]);
        decoder.insert(3, &parity);
        decoder.insert(2, &block[32..37]);
        decoder.insert(0, &block[..16]);
        assert_eq!(decoder.repair(&mut Scratch::default()), [1]);
        assert_eq!(decoder.into_buffer(), block);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

        #[test]
        fn parity_equals_the_oracle(k in 1_usize..=100, m in 1_usize..=155, shard in 1_usize..200, seed: u64) {
            let block = noise(seed, k * shard);
            let shards = oracle(k, m, &block);
            prop_assert_eq!(parities(rs8(k), shard, m as u8, &block), shards[k..].concat());
            let mut encoder = BlockEncoder::new(rs8(k), shard);
            let mut one = vec![0; shard];
            encoder.parity((m - 1) as u8, &block, &mut one);
            prop_assert_eq!(&one, &shards[k + m - 1]);
        }

        #[test]
        fn any_k_shards_give_back_the_block(
            (k, m, shards) in (1_usize..=100, 1_usize..=155)
                .prop_flat_map(|(k, m)| (Just(k), Just(m), subsequence(Vec::from_iter(0..k + m), k)))
                .prop_flat_map(|(k, m, shards)| (Just(k), Just(m), Just(shards).prop_shuffle())),
            shard in 1_usize..200,
            seed: u64,
        ) {
            let block = noise(seed, k * shard);
            let all = oracle(k, m, &block);
            let mut scratch = Scratch::default();
            let mut decoder = BlockDecoder::new(rs8(k), shard, noise(!seed, 300));
            let mut expected = Vec::from_iter(0..k as u16);
            for &index in &shards {
                prop_assert!(!decoder.repairable() && decoder.repair(&mut scratch).is_empty());
                prop_assert_eq!(decoder.insert(index as u16, &all[index]), Inserted::New);
                expected.retain(|j| usize::from(*j) != index);
            }
            prop_assert_eq!(decoder.missing().collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(decoder.repair(&mut scratch), &expected);
            prop_assert!(decoder.complete());
            prop_assert_eq!(decoder.data(), &block);
        }

        /// Any arrivals, with repetitions and more parity than is of use, against two sets.
        #[test]
        fn decoder_keeps_what_two_sets_would(
            (k, arrivals) in (1_u16..20).prop_flat_map(|k| (Just(k), prop::collection::vec(0..2 * k, 0..60))),
            seed: u64,
        ) {
            let block = noise(seed, usize::from(k) * 5);
            let all = oracle(usize::from(k), usize::from(k), &block);
            let mut decoder = BlockDecoder::new(rs8(usize::from(k)), 5, Vec::new());
            let (mut data, mut parity) = (BTreeSet::new(), BTreeSet::new());
            for index in arrivals {
                let missing = usize::from(k) - data.len();
                let expected = if data.contains(&index) || parity.contains(&index) {
                    Inserted::Duplicate
                } else if index < k {
                    data.insert(index);
                    Inserted::New
                } else if parity.len() < missing {
                    parity.insert(index);
                    Inserted::New
                } else {
                    Inserted::Refused
                };
                prop_assert_eq!(decoder.insert(index, &all[usize::from(index)]), expected);
                let missing = usize::from(k) - data.len();
                if parity.len() > missing {
                    let held = parity.len();
                    parity.retain(|index| decoder.has(*index));
                    prop_assert_eq!(parity.len(), held - 1, "one is let go, no more");
                }
                prop_assert!((0..k).all(|index| decoder.has(index) == data.contains(&index)));
                prop_assert!((k..2 * k).all(|index| decoder.has(index) == parity.contains(&index)));
                prop_assert_eq!(decoder.missing_count(), missing);
                prop_assert_eq!(decoder.parity_held(), parity.len());
                prop_assert_eq!(decoder.complete(), missing == 0);
                prop_assert_eq!(decoder.repairable(), missing > 0 && parity.len() == missing);
                for (index, chunk) in (0..k).zip(decoder.data().chunks(5)) {
                    prop_assert!(!decoder.has(index) || chunk == all[usize::from(index)]);
                }
            }
            if decoder.repairable() {
                decoder.repair(&mut Scratch::default());
                prop_assert_eq!(decoder.data(), &block);
            }
        }

        #[test]
        fn xor_gives_back_any_one_shard(k in 1_u16..40, lost: u16, shard in 1_usize..80, seed: u64) {
            let scheme = Scheme::Xor { k };
            let block = noise(seed, usize::from(k) * shard);
            let parity = parities(scheme, shard, 1, &block);
            for (b, byte) in parity.iter().enumerate() {
                prop_assert_eq!(*byte, block.iter().skip(b).step_by(shard).fold(0, |a, b| a ^ b));
            }
            let mut decoder = BlockDecoder::new(scheme, shard, Vec::new());
            decoder.insert(k, &parity);
            let kept = (0..k).filter(|j| *j != lost % k);
            for j in kept {
                decoder.insert(j, &block[usize::from(j) * shard..][..shard]);
            }
            let mut scratch = Scratch::default();
            prop_assert_eq!(decoder.repair(&mut scratch), &[lost % k]);
            prop_assert_eq!(decoder.data(), &block);
        }
    }

    /// All shards of a block, as another implementation of the code has them.
    fn oracle(k: usize, m: usize, block: &[u8]) -> Vec<Vec<u8>> {
        let shard = block.len() / k;
        let mut shards: Vec<_> = block.chunks(shard).map(<[u8]>::to_vec).collect();
        shards.resize(k + m, vec![0; shard]);
        ReedSolomon::new(k, m).unwrap().encode(&mut shards).unwrap();
        shards
    }

    /// Bytes without structure, cheaper than proptest's own.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| byte()).collect()
    }
}
