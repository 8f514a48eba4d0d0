//! The receiver's memory: FEC blocks that are not whole yet, in a span that slides with the contiguous front.
//!
//! A block is held in memory until all its chunks are there, received or rebuilt, and is then handed up in one
//! piece. When too many are open, the oldest are *spilled*: what they have is handed up as it is, a bitmap stays
//! behind, and their holes wait for plain retransmission. So memory is bounded whatever the path does. This module
//! does *not* parse, decrypt or keep time beyond "when was this block last touched".

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::config::{ACCEPT_AHEAD, BLOCK};
use super::pool::Pool;
use crate::engine::RangeSet;
use crate::fec::{BlockDecoder, Inserted, Scheme, Scratch};

/// A run of file bytes on its way up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// What became of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It added something; this many file bytes are new, those rebuilt from parity included.
    New(u64),
    /// Known already, or useless now.
    Duplicate,
    /// Too far ahead.
    Refused,
}

/// One file's blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    size: u64,
    chunk: usize,
    total: u64,
    /// First block that is not done.
    front: u64,
    /// Blocks from `front` on, up to the highest touched.
    slots: VecDeque<Slot>,
    /// Every chunk below this has been sent, as far as arrivals prove it.
    sent_below: u64,
    scratch: Scratch,
    losses: Losses,
    rebuilt: u64,
    late: u64,
    bytes_in: u64,
    /// Blocks that were there before the session began: those ahead, and the range that ends at `front`.
    had: RangeSet,
}

#[derive(Debug)]
enum Slot {
    Untouched,
    Open(Box<Open>),
    Spilled { present: u128, touched: Instant },
    Done,
}

#[derive(Debug)]
struct Open {
    decoder: BlockDecoder,
    touched: Instant,
    /// Its first-arrival losses have been counted.
    counted: bool,
}

/// Chunks that did not come at the first try, over blocks closed since last asked (7.3).
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    lost: u64,
    of: u64,
}

impl Blocks {
    /// `size` is 1 to 2^40 bytes; `chunk` the session's payload size.
    pub(super) fn new(size: u64, chunk: usize) -> Self {
        Self {
            size,
            chunk,
            total: size.div_ceil(chunk as u64),
            front: 0,
            slots: VecDeque::new(),
            sent_below: 0,
            scratch: Scratch::default(),
            losses: Losses::default(),
            rebuilt: 0,
            late: 0,
            bytes_in: 0,
            had: RangeSet::new(),
        }
    }

    /// Chunks of the file.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes a chunk must have.
    pub(super) fn chunk_len(&self, seq: u64) -> usize {
        let left = self.size - seq * self.chunk as u64;
        usize::try_from(left).map_or(self.chunk, |left| left.min(self.chunk))
    }

    /// Blocks that lie whole within these file bytes are there already.
    pub(super) fn have(&mut self, bytes: Range<u64>, pool: &mut Pool) {
        let size = BLOCK * self.chunk as u64;
        let last = self.total.div_ceil(BLOCK);
        let end = if bytes.end >= self.size {
            last
        } else {
            bytes.end / size
        };
        let first = bytes.start.div_ceil(size).max(self.front);
        if first >= end {
            return;
        }
        for gap in self.had.gaps(first..end) {
            self.bytes_in += (gap.end * size).min(self.size) - gap.start * size;
        }
        let near = self.slots.len() as u64;
        for block in first..end.min(self.front + near) {
            let at = (block - self.front) as usize;
            // What of it had come is counted already, or never came.
            if !self.had.contains(block) {
                self.bytes_in -= self.present(at, block);
            }
            match std::mem::replace(&mut self.slots[at], Slot::Done) {
                Slot::Open(open) => release(open.decoder, pool),
                Slot::Untouched | Slot::Spilled { .. } | Slot::Done => {}
            }
        }
        self.had.insert(first..end);
        self.settle();
    }

    /// Bytes of a block that have come.
    fn present(&self, at: usize, block: u64) -> u64 {
        let base = block * BLOCK;
        let chunks = 0..k(self.total, block);
        let len = |i: u64| self.chunk_len(base + i) as u64;
        match &self.slots[at] {
            Slot::Untouched => 0,
            Slot::Open(open) => chunks
                .filter(|i| open.decoder.has(*i as u16))
                .map(len)
                .sum(),
            Slot::Spilled { present, .. } => {
                chunks.filter(|i| present & (1 << i) != 0).map(len).sum()
            }
            Slot::Done => chunks.map(len).sum(),
        }
    }

    /// The first ranges of blocks ahead that were there before the session, as first block and count.
    pub(super) fn had(&self, limit: usize) -> Vec<(u32, u32)> {
        let narrow = |block: u64| u32::try_from(block).unwrap_or(u32::MAX);
        let ranges = self.had.iter().take(limit);
        ranges
            .map(|range| (narrow(range.start), narrow(range.end - range.start)))
            .collect()
    }

    /// Whether every chunk is there.
    pub(super) fn complete(&self) -> bool {
        self.front * BLOCK >= self.total
    }

    /// Chunks rebuilt from parity.
    pub(super) fn rebuilt(&self) -> u64 {
        self.rebuilt
    }

    /// Chunks that came after their block had closed: sent again.
    pub(super) fn late(&self) -> u64 {
        self.late
    }

    /// File bytes present, in whatever order.
    pub(super) fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    /// The first block that is not whole.
    pub(super) fn front(&self) -> u64 {
        self.front
    }

    /// How many chunks are there from the first on, without a hole.
    pub(super) fn contiguous(&self) -> u64 {
        let whole = (self.front * BLOCK).min(self.total);
        whole
            + match self.slots.front() {
                None | Some(Slot::Untouched | Slot::Done) => 0,
                Some(Slot::Open(open)) => u64::from(open.decoder.missing().next().unwrap_or(0)),
                Some(Slot::Spilled { present, .. }) => u64::from(present.trailing_ones()),
            }
    }

    /// One chunk. The caller has checked that `seq < total` and that its length is [`chunk_len`](Self::chunk_len).
    pub(super) fn data(
        &mut self,
        now: Instant,
        seq: u64,
        bytes: &[u8],
        pool: &mut Pool,
        out: &mut Vec<Run>,
    ) -> Arrival {
        let block = seq / BLOCK;
        let index = (seq % BLOCK) as u16;
        let Some(at) = self.slot(block) else {
            return if block < self.front {
                Arrival::Duplicate
            } else {
                Arrival::Refused
            };
        };
        self.sent_below = self.sent_below.max(seq + 1);
        let fresh = match &mut self.slots[at] {
            Slot::Done => return Arrival::Duplicate,
            Slot::Spilled { present, touched } => {
                *touched = now;
                if *present & (1 << index) != 0 {
                    return Arrival::Duplicate;
                }
                *present |= 1 << index;
                let whole = u64::from(present.count_ones()) == k(self.total, block);
                out.push(Run {
                    offset: seq * self.chunk as u64,
                    bytes: bytes.to_vec(),
                });
                self.bytes_in += bytes.len() as u64;
                self.late += 1;
                if whole {
                    self.finish(at);
                }
                return Arrival::New(bytes.len() as u64);
            }
            Slot::Untouched | Slot::Open(_) => {
                let open = self.open(now, at, block, pool);
                let counted = open.counted;
                let fresh = open.decoder.insert(index, bytes);
                self.late += u64::from(counted && fresh == Inserted::New);
                fresh
            }
        };
        match fresh {
            Inserted::New => Arrival::New(
                bytes.len() as u64 + self.advance(at, block, bytes.len() as u64, pool, out),
            ),
            Inserted::Duplicate | Inserted::Refused => Arrival::Duplicate,
        }
    }

    /// One parity packet. The caller has checked that the block exists and that `bytes` is one chunk long.
    pub(super) fn parity(
        &mut self,
        now: Instant,
        block: u64,
        index: u8,
        bytes: &[u8],
        pool: &mut Pool,
        out: &mut Vec<Run>,
    ) -> Arrival {
        let Some(at) = self.slot(block) else {
            return if block < self.front {
                Arrival::Duplicate
            } else {
                Arrival::Refused
            };
        };
        self.sent_below = self
            .sent_below
            .max((block * BLOCK + k(self.total, block)).min(self.total));
        match &mut self.slots[at] {
            Slot::Done => return Arrival::Duplicate,
            Slot::Spilled { touched, .. } => {
                *touched = now;
                return Arrival::Duplicate;
            }
            Slot::Untouched | Slot::Open(_) => {}
        }
        let k = k(self.total, block) as u16;
        let open = self.open(now, at, block, pool);
        match open.decoder.insert(k + u16::from(index), bytes) {
            Inserted::New => Arrival::New(self.advance(at, block, 0, pool, out)),
            Inserted::Duplicate | Inserted::Refused => Arrival::Duplicate,
        }
    }

    /// Missing chunks worth asking for: of blocks whose packets have all gone by, or that have been quiet for
    /// `quiet`; none that may not have been sent yet. From chunk `from` on, lowest first, until `limit`.
    pub(super) fn missing(
        &mut self,
        now: Instant,
        from: u64,
        quiet: Duration,
        limit: usize,
        out: &mut Vec<u64>,
    ) {
        let highest = self.front + (self.slots.len() as u64).saturating_sub(1);
        let idle = self
            .slots
            .back()
            .and_then(Slot::touched)
            .is_some_and(|at| now.duration_since(at) >= quiet);
        let first = (from / BLOCK).saturating_sub(self.front) as usize;
        for at in first..self.slots.len() {
            let block = self.front + at as u64;
            let base = block * BLOCK;
            if base >= self.sent_below || out.len() >= limit {
                return;
            }
            let closed = highest >= block + 2;
            let want = |seq: &u64| *seq >= from && *seq < self.sent_below;
            let room = limit - out.len();
            match &mut self.slots[at] {
                Slot::Done => {}
                Slot::Untouched => {
                    if closed || idle {
                        out.extend((base..base + k(self.total, block)).filter(want).take(room));
                    }
                }
                Slot::Open(open) => {
                    if closed || now.saturating_duration_since(open.touched) >= quiet {
                        self.losses.count(open, k(self.total, block));
                        // Parity that is here makes up for as many chunks, whichever they are.
                        let need = open.decoder.missing_count() - open.decoder.parity_held();
                        out.extend(
                            open.decoder
                                .missing()
                                .take(need)
                                .map(|i| base + u64::from(i))
                                .filter(want)
                                .take(room),
                        );
                    }
                }
                Slot::Spilled { present, .. } => {
                    let present = *present;
                    let holes = (0..k(self.total, block)).filter(|i| present & (1 << i) == 0);
                    out.extend(holes.map(|i| base + i).filter(want).take(room));
                }
            }
        }
    }

    /// Share of chunks that did not come at the first try, in basis points, over the blocks closed since last
    /// asked; `None` when none closed (7.3).
    pub(super) fn take_loss(&mut self) -> Option<u16> {
        let losses = std::mem::take(&mut self.losses);
        (losses.of > 0).then(|| (losses.lost * 10_000 / losses.of).min(10_000) as u16)
    }

    /// Hands every buffer back.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        for slot in self.slots.drain(..) {
            if let Slot::Open(open) = slot {
                release(open.decoder, pool);
            }
        }
    }

    /// Index of a block's slot, making untouched ones up to it; `None` behind the front or too far ahead.
    fn slot(&mut self, block: u64) -> Option<usize> {
        let at = block.checked_sub(self.front)?;
        if at >= ACCEPT_AHEAD / BLOCK {
            return None;
        }
        let at = at as usize;
        if at >= self.slots.len() {
            let was = self.slots.len();
            let (front, had) = (self.front, &self.had);
            self.slots
                .extend((was..=at).map(|i| match had.contains(front + i as u64) {
                    true => Slot::Done,
                    false => Slot::Untouched,
                }));
            // Blocks two behind the new highest have closed: what they lack now was lost at the first try.
            for closed in was.saturating_sub(2)..at.saturating_sub(1) {
                let k = k(self.total, self.front + closed as u64);
                match &mut self.slots[closed] {
                    Slot::Open(open) => self.losses.count(open, k),
                    Slot::Untouched => self.losses.add(k, k),
                    Slot::Spilled { .. } | Slot::Done => {}
                }
            }
        }
        Some(at)
    }

    fn open(&mut self, now: Instant, at: usize, block: u64, pool: &mut Pool) -> &mut Open {
        if matches!(self.slots[at], Slot::Untouched) {
            let k = k(self.total, block) as u16;
            let decoder = BlockDecoder::new(Scheme::Rs8 { k }, self.chunk, pool.take());
            pool.hold(usize::from(k) * self.chunk);
            // An untouched block that closed was counted as lost whole; do not count it twice.
            let counted = self.slots.len() > at + 2;
            self.slots[at] = Slot::Open(Box::new(Open {
                decoder,
                touched: now,
                counted,
            }));
        }
        let Slot::Open(open) = &mut self.slots[at] else {
            unreachable!("callers look at the slot first")
        };
        open.touched = now;
        open
    }

    /// After an insertion of `added` file bytes: rebuild if that can be done, hand up and close the block if it is
    /// whole, spill others if memory is short. Returns the bytes rebuilt.
    fn advance(
        &mut self,
        at: usize,
        block: u64,
        added: u64,
        pool: &mut Pool,
        out: &mut Vec<Run>,
    ) -> u64 {
        self.bytes_in += added;
        let Slot::Open(open) = &mut self.slots[at] else {
            return 0;
        };
        let mut rebuilt = 0;
        if !open.decoder.complete() && open.decoder.repairable() {
            self.losses.count(open, k(self.total, block));
            let holes = open.decoder.missing_count() as u64;
            let last = (k(self.total, block) - 1) as u16;
            let tail = open.decoder.missing().any(|i| i == last);
            rebuilt = holes * self.chunk as u64;
            if tail {
                let short = self.chunk_len(block * BLOCK + u64::from(last));
                let Slot::Open(_) = &self.slots[at] else {
                    return 0;
                };
                rebuilt -= (self.chunk - short) as u64;
            }
            let Slot::Open(open) = &mut self.slots[at] else {
                return 0;
            };
            open.decoder.repair(&mut self.scratch);
            self.rebuilt += holes;
            self.bytes_in += rebuilt;
        }
        let Slot::Open(open) = &mut self.slots[at] else {
            return 0;
        };
        if open.decoder.complete() {
            self.losses.count(open, k(self.total, block));
            let Slot::Open(open) = std::mem::replace(&mut self.slots[at], Slot::Done) else {
                return 0;
            };
            let offset = block * BLOCK * self.chunk as u64;
            let mut bytes = open.decoder.into_buffer();
            pool.let_go(bytes.len());
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            bytes.truncate(left);
            out.push(Run { offset, bytes });
            self.finish(at);
        }
        while pool.over() && self.spill(pool, out) {}
        rebuilt
    }

    fn finish(&mut self, at: usize) {
        self.slots[at] = Slot::Done;
        self.settle();
    }

    /// Moves the front over all that is done.
    fn settle(&mut self) {
        while matches!(self.slots.front(), Some(Slot::Done)) {
            self.slots.pop_front();
            self.front += 1;
        }
        if self.slots.is_empty() {
            self.front = self.had.next_gap(self.front);
        }
        // The range that ends at the front stays: the sender may not have heard of it. Of one before that it has, or
        // it would not have sent what lies between.
        let behind = |range: &Range<u64>| range.start < self.front;
        let last = self.had.iter().take_while(behind).last();
        let keep = last.filter(|range| range.end >= self.front);
        self.had
            .remove_below(keep.map_or(self.front, |range| range.start));
    }

    /// Hands up what the oldest open block has, and keeps its bitmap only. `false` when there is none but the
    /// newest, which is still filling.
    fn spill(&mut self, pool: &mut Pool, out: &mut Vec<Run>) -> bool {
        let newest = self.slots.len().saturating_sub(1);
        let Some(at) = self
            .slots
            .iter()
            .take(newest)
            .position(|slot| matches!(slot, Slot::Open(_)))
        else {
            return false;
        };
        let block = self.front + at as u64;
        let mut present = 0u128;
        let Slot::Open(mut open) = std::mem::replace(&mut self.slots[at], Slot::Untouched) else {
            return false;
        };
        let k = k(self.total, block);
        self.losses.count(&mut open, k);
        let mut start = None;
        for i in 0..=k {
            let have = i < k && open.decoder.has(i as u16);
            if have {
                present |= 1 << i;
                start.get_or_insert(i);
            } else if let Some(first) = start.take() {
                let first_seq = block * BLOCK + first;
                let end_seq = block * BLOCK + i - 1;
                let from = first as usize * self.chunk;
                let to = (i - 1) as usize * self.chunk + self.chunk_len(end_seq);
                let bytes = open.decoder.data()[from..to].to_vec();
                out.push(Run {
                    offset: first_seq * self.chunk as u64,
                    bytes,
                });
            }
        }
        self.slots[at] = Slot::Spilled {
            present,
            touched: open.touched,
        };
        release(open.decoder, pool);
        true
    }
}

impl Slot {
    fn touched(&self) -> Option<Instant> {
        match self {
            Self::Open(open) => Some(open.touched),
            Self::Spilled { touched, .. } => Some(*touched),
            Self::Untouched | Self::Done => None,
        }
    }
}

impl Losses {
    fn count(&mut self, open: &mut Open, k: u64) {
        if !std::mem::replace(&mut open.counted, true) {
            self.add(open.decoder.missing_count() as u64, k);
        }
    }

    fn add(&mut self, lost: u64, of: u64) {
        self.lost += lost;
        self.of += of;
    }
}

/// Data chunks of a block (4.2).
pub(super) fn k(total: u64, block: u64) -> u64 {
    BLOCK.min(total - block * BLOCK)
}

fn release(decoder: BlockDecoder, pool: &mut Pool) {
    let buffer = decoder.into_buffer();
    pool.let_go(buffer.len());
    pool.recycle(buffer);
}
