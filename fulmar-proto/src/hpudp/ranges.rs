//! Missing chunks as the extension's runs (18.5.4): a heartbeat names thousands of them where the published list has
//! room for 166.
//!
//! A field begins with a chunk's number; then lengths of runs and of the gaps between them follow each other. All are
//! base-128 numbers, least significant seven bits first. This module does *not* know sessions; whether a chunk can be
//! missing is for the sender to judge.

use std::ops::Range;

/// The field's type.
pub(super) const TLV_RANGES: u8 = 0x11;

/// Appends fields that name `runs` in their order, until one would exceed `room` bytes. A field ends where a run
/// begins below the end of the one before, or touches it. Returns how many runs were written.
pub(super) fn encode(runs: &[Range<u64>], room: usize, out: &mut Vec<u8>) -> usize {
    let limit = out.len() + room;
    // Start of the open field's value, and the end of its last run.
    let mut open: Option<(usize, u64)> = None;
    for (count, run) in runs.iter().enumerate() {
        let mut pair = Vec::with_capacity(2 * VARINT_MAX);
        let continues = open.filter(|&(_, end)| run.start > end);
        put(run.start - continues.map_or(0, |(_, end)| end), &mut pair);
        put(run.end - run.start, &mut pair);
        match continues.filter(|(at, _)| out.len() - at + pair.len() <= usize::from(u8::MAX)) {
            Some((at, _)) => {
                if out.len() + pair.len() > limit {
                    return count;
                }
                out.extend_from_slice(&pair);
                open = Some((at, run.end));
                out[at - 1] = (out.len() - at) as u8;
            }
            None => {
                pair.clear();
                put(run.start, &mut pair);
                put(run.end - run.start, &mut pair);
                if out.len() + 2 + pair.len() > limit {
                    return count;
                }
                out.extend_from_slice(&[TLV_RANGES, pair.len() as u8]);
                open = Some((out.len(), run.end));
                out.extend_from_slice(&pair);
            }
        }
    }
    runs.len()
}

/// Reads one field's value. `None` unless it is whole pairs, every run has a chunk, gaps keep runs apart and no number
/// exceeds 64 bits.
pub(super) fn parse(mut value: &[u8], out: &mut Vec<Range<u64>>) -> Option<()> {
    let mut end = None;
    while !value.is_empty() {
        let gap = take(&mut value)?;
        let len = take(&mut value)?;
        let start = match end {
            None => gap,
            Some(end) if gap > 0 => gap.checked_add(end)?,
            Some(_) => return None,
        };
        let stop = start.checked_add(len).filter(|stop| *stop > start)?;
        out.push(start..stop);
        end = Some(stop);
    }
    end.map(|_| ())
}

fn put(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..VARINT_MAX {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if at == VARINT_MAX - 1 && bits > 1 {
            return None;
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Bytes of the largest number.
const VARINT_MAX: usize = 10;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// The fields of an encoding, read one by one.
    fn read(mut fields: &[u8]) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        while let Some((&[kind, len], rest)) = fields.split_first_chunk::<2>() {
            assert_eq!(kind, TLV_RANGES);
            let (value, rest) = rest.split_at(usize::from(len));
            parse(value, &mut runs).unwrap();
            fields = rest;
        }
        assert!(fields.is_empty());
        runs
    }

    #[test]
    fn bytes_by_hand() {
        let mut out = Vec::new();
        assert_eq!(
            encode(&[4097..4098, 4100..4101, 4242..4442], 100, &mut out),
            3
        );
        assert_eq!(out, [0x11, 9, 0x81, 0x20, 1, 2, 1, 0x8d, 0x01, 0xc8, 0x01]);
        for bad in [
            &[][..],
            &[5],
            &[5, 0],
            &[5, 1, 0, 1],
            &[
                0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02, 1,
            ],
            &[
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1,
            ],
        ] {
            assert_eq!(parse(bad, &mut Vec::new()), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_fits_reads_back(
            pairs in proptest::collection::vec((0u64..1 << 40, 1u64..300), 0..400), sorted: bool, room in 0usize..1300,
        ) {
            let mut runs: Vec<_> = pairs.into_iter().map(|(start, len)| start..start + len).collect();
            if sorted {
                runs.sort_by_key(|run| run.start);
            }
            let mut out = vec![7];
            let written = encode(&runs, room, &mut out);
            prop_assert!(out.len() <= 1 + room);
            prop_assert_eq!(read(&out[1..]), &runs[..written]);
            // What is left out has no room: at most two bytes of field and ten of two numbers below 2^41.
            prop_assert!(written == runs.len() || out.len() + 2 + 8 > 1 + room);
        }

        #[test]
        fn any_bytes_are_runs_or_nothing(value in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut runs = Vec::new();
            if parse(&value, &mut runs).is_some() {
                prop_assert!(!runs.is_empty() && runs.len() <= value.len() / 2);
                prop_assert!(runs.iter().all(|run| run.start < run.end));
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }
    }
}
