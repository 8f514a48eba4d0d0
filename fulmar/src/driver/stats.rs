//! What a driver has counted: [`Stats`].
//!
//! The driver's threads write, any thread reads; figures are each exact, but not taken at one instant. It does *not*
//! count anything of a protocol.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Figures of one driver since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams received.
    pub datagrams_in: u64,
    /// UDP payload bytes received.
    pub bytes_in: u64,
    /// Merged batches received; `datagrams_in` over this is what GRO gains.
    pub batches_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// UDP payload bytes sent.
    pub bytes_out: u64,
    /// Successful send calls; `datagrams_out` over this is what GSO gains.
    pub batches_out: u64,
    /// Sends that waited for room in the socket or below it.
    pub blocked: u64,
    /// Datagrams larger than the interface takes.
    pub too_big: u64,
    /// Sends or receives answered with "unreachable" or "refused" (rule E8: a hint, nothing more).
    pub unreachable: u64,
    /// Sends that failed in another way.
    pub send_errors: u64,
    /// Receives that failed in another way.
    pub recv_errors: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Turns that ended in sleep.
    pub sleeps: u64,
    /// Times the application was slower than the event channel is deep.
    pub stalls: u64,
}

impl Stats {
    /// Of this and another driver.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            datagrams_in: self.datagrams_in + other.datagrams_in,
            bytes_in: self.bytes_in + other.bytes_in,
            batches_in: self.batches_in + other.batches_in,
            datagrams_out: self.datagrams_out + other.datagrams_out,
            bytes_out: self.bytes_out + other.bytes_out,
            batches_out: self.batches_out + other.batches_out,
            blocked: self.blocked + other.blocked,
            too_big: self.too_big + other.too_big,
            unreachable: self.unreachable + other.unreachable,
            send_errors: self.send_errors + other.send_errors,
            recv_errors: self.recv_errors + other.recv_errors,
            turns: self.turns + other.turns,
            sleeps: self.sleeps + other.sleeps,
            stalls: self.stalls + other.stalls,
        }
    }
}

/// One counter.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: usize) {
        // Counted once a batch or a turn, so that it may be done from any thread.
        self.0.fetch_add(n as u64, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The live side of [`Stats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    datagrams_in: Counter,
    bytes_in: Counter,
    batches_in: Counter,
    datagrams_out: Counter,
    bytes_out: Counter,
    batches_out: Counter,
    pub(super) blocked: Counter,
    pub(super) too_big: Counter,
    pub(super) unreachable: Counter,
    pub(super) send_errors: Counter,
    pub(super) recv_errors: Counter,
    pub(super) turns: Counter,
    pub(super) sleeps: Counter,
    pub(super) stalls: Counter,
}

impl Counters {
    pub(super) fn sent(&self, datagrams: usize, bytes: usize) {
        self.batches_out.add(1);
        self.datagrams_out.add(datagrams);
        self.bytes_out.add(bytes);
    }

    pub(super) fn received(&self, datagrams: usize, bytes: usize) {
        self.batches_in.add(1);
        self.datagrams_in.add(datagrams);
        self.bytes_in.add(bytes);
    }

    pub(super) fn snapshot(&self) -> Stats {
        Stats {
            datagrams_in: self.datagrams_in.get(),
            bytes_in: self.bytes_in.get(),
            batches_in: self.batches_in.get(),
            datagrams_out: self.datagrams_out.get(),
            bytes_out: self.bytes_out.get(),
            batches_out: self.batches_out.get(),
            blocked: self.blocked.get(),
            too_big: self.too_big.get(),
            unreachable: self.unreachable.get(),
            send_errors: self.send_errors.get(),
            recv_errors: self.recv_errors.get(),
            turns: self.turns.get(),
            sleeps: self.sleeps.get(),
            stalls: self.stalls.get(),
        }
    }
}
