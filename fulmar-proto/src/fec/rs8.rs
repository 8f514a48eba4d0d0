//! Reed-Solomon over GF(2^8) with polynomial 0x11d, systematic Vandermonde (`hp-udp` 6.3).
//!
//! The code is polynomial evaluation. Byte by byte, the `k` data shards are the values of a polynomial of degree
//! below `k` at the points 0..k, and parity `i` is its value at the point `k + i`. Any `k` values determine the
//! polynomial, so encoding and decoding are one operation: given shards at `k` known points, Lagrange's formula
//! yields the shard at another point,
//!
//! ```text
//! f(y) = sum over known z of  f(z) * w(y) / (w(z) * (y - z)),      w(p) = product over known z != p of  (p - z)
//! ```
//!
//! For parity the known points are 0..k, which makes `w` a table of `k`. For repair some data points `y` were
//! exchanged for parity points `x`, and `w` follows from that table with one factor for each exchange. Computing all
//! coefficients for `e` missing shards takes O(k * e) table look-ups; no matrix is inverted, and since distinct points
//! are all the formula asks for, nothing can turn out singular.
//!
//! The multiplication of whole shards, where the time goes, is the kernel of `rustfs-erasure-codec`, which picks its
//! instruction set at run time. This module does not keep shards, nor know which of them were lost.

use std::array;
use std::sync::OnceLock;

use rustfs_erasure_codec::galois_8;

/// Points of the field, hence the most shards, data and parity together, that a block can have.
pub(super) const POINTS: usize = 256;

/// Everything about the code that depends on `k` alone, shared by all users of the same `k` for the life of the
/// process: at most `k * (256 - k)` bytes of rows and 6.5 KiB for each `k` in use, 4.5 MB if it is every `k`.
pub(super) struct Code {
    k: usize,
    /// log w(p) for the known points 0..k, for every point p.
    weights: [u8; POINTS],
    rows: [OnceLock<Box<[u8]>>; POINTS],
}

impl Code {
    /// The code with `k` data shards, built at its first use.
    ///
    /// # Panics
    /// Unless `k` is 1 to 255.
    pub(super) fn of(k: u16) -> &'static Self {
        static CODES: [OnceLock<Box<Code>>; POINTS] = [const { OnceLock::new() }; POINTS];
        let k = usize::from(k);
        assert!((1..POINTS).contains(&k), "k out of range");
        CODES[k].get_or_init(|| Box::new(Self::new(k)))
    }

    fn new(k: usize) -> Self {
        let weight = |p: usize| (0..k).map(|z| u32::from(LOG[p ^ z])).sum::<u32>();
        Self {
            k,
            weights: array::from_fn(|p| reduce(weight(p))),
            rows: [const { OnceLock::new() }; POINTS],
        }
    }

    /// The `k` coefficients of parity `index`, which is below `256 - k`.
    pub(super) fn parity_row(&self, index: usize) -> &[u8] {
        let y = self.k + index;
        self.rows[index].get_or_init(|| {
            (0..self.k)
                .map(|z| coefficient(y, z, self.weights[y], self.weights[z]))
                .collect()
        })
    }

    /// Replaces `rows` with the coefficients, `k` for each of the `missing` points, that turn the shards at the known
    /// points `slots` into the missing ones. Every slot but the missing ones holds its own point.
    pub(super) fn repair_rows(&self, slots: &[u16], missing: &[u16], rows: &mut Vec<u8>) {
        let weight = |p: usize| {
            let exchanged = missing.iter().map(|&y| {
                let (x, y) = (usize::from(slots[usize::from(y)]), usize::from(y));
                u32::from(LOG[p ^ x]) + 255 - u32::from(LOG[p ^ y])
            });
            reduce(u32::from(self.weights[p]) + exchanged.sum::<u32>())
        };
        let mut known = [(0, 0); POINTS];
        let known = &mut known[..slots.len()];
        for (known, &z) in known.iter_mut().zip(slots) {
            *known = (usize::from(z), weight(usize::from(z)));
        }
        rows.clear();
        for &y in missing {
            let (y, wy) = (usize::from(y), weight(usize::from(y)));
            rows.extend(known.iter().map(|&(z, wz)| coefficient(y, z, wy, wz)));
        }
    }
}

/// Replaces `out` with `count` sums, sum `r` being that of all `shards` times their coefficients `row(r)`. Answers
/// with the distance between sums; the bytes of `out` between and after the sums mean nothing.
pub(super) fn combine<'a>(
    count: usize,
    row: impl Fn(usize) -> &'a [u8],
    shards: &[u8],
    shard: usize,
    out: &mut Vec<u8>,
) -> usize {
    // The kernels work through the last few bytes one by one. So all lengths are rounded up to whole vectors: a shard
    // is read on into its neighbour, which adds only to bytes that nobody looks at, and the last through a copy.
    let stride = shard.next_multiple_of(VECTOR);
    out.clear();
    out.resize((count + 1) * stride, 0);
    let (sums, copy) = out.split_at_mut(count * stride);
    for first in (0..count).step_by(GROUP) {
        let group = GROUP.min(count - first);
        let rows: [&[u8]; GROUP] = array::from_fn(|r| row(first + r.min(group - 1)));
        let sums = &mut sums[first * stride..(first + group) * stride];
        for (s, start) in (0..shards.len()).step_by(shard).enumerate() {
            let input = match shards.get(start..start + stride) {
                Some(input) => input,
                None => {
                    copy[..shards.len() - start].copy_from_slice(&shards[start..]);
                    &*copy
                }
            };
            for (row, sum) in rows.iter().zip(sums.chunks_exact_mut(stride)) {
                galois_8::mul_slice_xor(row[s], input, sum);
            }
        }
    }
    stride
}

/// Lagrange's coefficient w(y) / (w(z) * (y - z)) from the logarithms of w(y) and w(z), for y other than z.
fn coefficient(y: usize, z: usize, wy: u8, wz: u8) -> u8 {
    EXP[usize::from(wy) + 255 - usize::from(wz) + 255 - usize::from(LOG[y ^ z])]
}

/// A sum of logarithms as one logarithm.
fn reduce(log: u32) -> u8 {
    u8::try_from(log % 255).expect("a remainder of 255 is below 255")
}

/// Widest vector of any kernel, in bytes.
const VECTOR: usize = 64;

/// Sums worked on at a time: what stays in a first-level cache along with the shard being added.
const GROUP: usize = 12;

/// Logarithms to base 2, below 255. The one of 0 does not exist; here it is 0, so that a product of differences from
/// a set of points skips the point itself.
static LOG: [u8; POINTS] = TABLES.0;

/// Powers of 2, repeated for sums of three logarithms below 255.
static EXP: [u8; 3 * 255] = TABLES.1;

const TABLES: ([u8; POINTS], [u8; 3 * 255]) = {
    let (mut log, mut exp) = ([0; POINTS], [0; 3 * 255]);
    let (mut power, mut i) = (1_u16, 0);
    while i < exp.len() {
        exp[i] = power as u8;
        if i < 255 {
            log[power as usize] = i as u8;
        }
        power <<= 1;
        if power > 255 {
            power ^= 0x11d;
        }
        i += 1;
    }
    (log, exp)
};

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};

    use super::*;

    #[test]
    fn rows_match_the_published_ones() {
        assert_eq!(Code::of(4).parity_row(0), [0x1b, 0x1c, 0x12, 0x14]);
        assert_eq!(Code::of(4).parity_row(1), [0x1c, 0x1b, 0x14, 0x12]);
        assert_eq!(
            Code::of(100).parity_row(0)[..8],
            0x2085_89df_d065_b2f4_u64.to_be_bytes()
        );
        assert_eq!(
            Code::of(100).parity_row(4)[..8],
            0x3c66_a811_ccfa_416f_u64.to_be_bytes()
        );
        let digest = digest(&SHA256, Code::of(100).parity_row(0));
        let digest: String = digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            digest,
            "ef3a24d1c40c87ac8a2f8c31b306b6aabc2dbff61d5be37e93b82310d28dcb0d"
        );
    }

    /// `hp-udp` 6.3 gives each coefficient as a product; the table of logarithms must say the same for all of them.
    #[test]
    fn rows_match_the_closed_form() {
        for k in [1, 2, 16, 100, 255_usize] {
            for index in 0..POINTS - k {
                let x = k + index;
                let others = |j| (0..k).filter(move |l| *l != j);
                let expected: Vec<u8> = (0..k)
                    .map(|j| {
                        others(j).fold(1, |g, l| {
                            galois_8::mul(g, galois_8::div((x ^ l) as u8, (j ^ l) as u8))
                        })
                    })
                    .collect();
                assert_eq!(
                    Code::of(k as u16).parity_row(index),
                    expected,
                    "k={k} parity {index}"
                );
            }
        }
    }
}
