//! Everything under way in a network, by time of arrival.
//!
//! Equal times keep the order in which things set out. It does *not* know what it carries beside the bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Datagrams on their way, each a `T` and its bytes, and alarms, which are neither.
pub(super) struct Air<T> {
    due: BinaryHeap<Reverse<Due>>,
    /// What is under way sits still here while the heap moves small keys.
    slots: Vec<Option<(T, Vec<u8>)>>,
    free: Vec<usize>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    /// Things that ever set out.
    count: u64,
}

impl<T> Air<T> {
    pub(super) fn new() -> Self {
        Self {
            due: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            count: 0,
        }
    }

    /// Sends a datagram on its way, to land at `at`.
    pub(super) fn push(&mut self, at: Instant, what: T, payload: &[u8]) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(payload);
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some((what, bytes));
        self.schedule(at, Some(slot));
    }

    /// Makes `at` an instant at which something is due.
    pub(super) fn push_alarm(&mut self, at: Instant) {
        self.schedule(at, None);
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse(due)| due.at)
    }

    /// The next datagram that has landed by `now`; alarms before it are spent. Its buffer should come back by
    /// [`recycle`](Self::recycle).
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(T, Vec<u8>)> {
        while self.next()? <= now {
            let Reverse(due) = self.due.pop()?;
            if let Some(slot) = due.slot {
                self.free.push(slot);
                return self.slots[slot].take();
            }
        }
        None
    }

    /// Takes a buffer back.
    pub(super) fn recycle(&mut self, payload: Vec<u8>) {
        self.spare.push(payload);
    }

    fn schedule(&mut self, at: Instant, slot: Option<usize>) {
        let order = self.count;
        self.due.push(Reverse(Due { at, order, slot }));
        self.count += 1;
    }
}

/// Ordered by time, then by setting out; the last field never decides.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    order: u64,
    /// `None` is an alarm.
    slot: Option<usize>,
}
