//! Which bytes of a content are which bytes of which file: [`Layout`].
//!
//! It does *not* read them.

use std::ops::Range;

use super::manifest::{Kind, Manifest};

/// The data of all files of a manifest, one after the other.
#[derive(Debug)]
pub(super) struct Layout {
    segments: Vec<Segment>,
    len: u64,
}

/// A run of data inside one file.
#[derive(Debug)]
struct Segment {
    /// Where it begins in the content; it ends where the next one begins.
    start: u64,
    /// Where it begins in the file.
    at: u64,
    entry: u32,
}

/// Some bytes of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The file's number in the manifest.
    pub(super) entry: usize,
    /// Their offset in the file.
    pub(super) at: u64,
    /// Where they are in the content.
    pub(super) content: Range<u64>,
    /// They end the file's data.
    pub(super) last: bool,
}

impl Layout {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let (mut segments, mut len) = (Vec::new(), 0);
        for (entry, file) in manifest.entries().iter().enumerate() {
            let Kind::File { size, data } = &file.kind else {
                continue;
            };
            let whole = 0..*size;
            let data = data
                .as_deref()
                .unwrap_or_else(|| std::slice::from_ref(&whole));
            for range in data {
                if range.is_empty() {
                    continue;
                }
                segments.push(Segment {
                    start: len,
                    at: range.start,
                    entry: entry as u32,
                });
                len += range.end - range.start;
            }
        }
        Self { segments, len }
    }

    /// Bytes of the content.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What `range` of the content consists of, in order.
    pub(super) fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Run> {
        let after = self
            .segments
            .partition_point(|segment| segment.start <= range.start);
        let mut number = after.saturating_sub(1);
        let mut from = range.start;
        std::iter::from_fn(move || {
            if from >= range.end {
                return None;
            }
            let segment = self.segments.get(number)?;
            let next = self.segments.get(number + 1);
            let end = next.map_or(self.len, |next| next.start);
            let until = end.min(range.end);
            let run = Run {
                entry: segment.entry as usize,
                at: segment.at + (from - segment.start),
                content: from..until,
                last: until == end && next.is_none_or(|next| next.entry != segment.entry),
            };
            (from, number) = (until, number + 1);
            Some(run)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::bundle::manifest::{Builder, Modified};

    proptest! {
        /// The naive twin says of every byte of content which byte of which file it is.
        #[test]
        fn every_byte_is_in_its_place(
            files in prop::collection::vec((0u64..9, prop::collection::vec((0u64..5, 1u64..6), 0..4)), 1..9),
            from in 0u64..80,
            len in 0u64..60,
        ) {
            let mut builder = Builder::default();
            let mut naive = Vec::new();
            for (entry, (tail, data)) in files.into_iter().enumerate() {
                let (mut end, mut ranges) = (0, Vec::new());
                for (gap, len) in data {
                    let start = end + gap + u64::from(end > 0);
                    end = start + len;
                    ranges.push(start..end);
                }
                let kind = Kind::File { size: end + tail, data: Some(ranges.clone().into()) };
                let pushed = builder.push(0, format!("{entry:04}").as_bytes(), 0, Modified::default(), kind);
                if pushed.is_err() {
                    // No hole in it.
                    let kind = Kind::File { size: end + tail, data: None };
                    builder.push(0, format!("{entry:04}").as_bytes(), 0, Modified::default(), kind).unwrap();
                    ranges = std::iter::once(0..end + tail).collect();
                }
                naive.extend(ranges.into_iter().flatten().map(|at| (entry, at)));
            }
            let layout = Layout::new(&builder.finish().unwrap());
            prop_assert_eq!(layout.len(), naive.len() as u64);
            let range = from.min(layout.len())..(from + len).min(layout.len());
            let runs: Vec<Run> = layout.runs(range.clone()).collect();
            let found: Vec<_> = runs
                .iter()
                .flat_map(|run| (0..run.content.end - run.content.start).map(|i| (run.entry, run.at + i)))
                .collect();
            prop_assert_eq!(&found[..], &naive[range.start as usize..range.end as usize]);
            for run in runs {
                let next = naive.get(run.content.end as usize);
                prop_assert_eq!(run.last, next.is_none_or(|(entry, _)| *entry != run.entry));
            }
        }
    }
}
