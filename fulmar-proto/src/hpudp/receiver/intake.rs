//! What a chunk or a parity packet goes through: the session's checks, the key, the blocks, and up (2.4, 5, 6).
//!
//! It does *not* answer; heartbeats do that in their own time.

use std::time::Instant;

use super::super::blocks::{self, Arrival, Run};
use super::super::config::{BLOCK, HEADER, TAG};
use super::super::packet::{Header, Kind};
use super::super::paths::Path;
use super::super::session::{Counter, Proof, Shared};
use super::super::{Event, keys};
use super::{Receiver, State};

impl Receiver {
    /// DATA or PARITY. `datagram` is the whole of it; opened in place.
    pub(in crate::hpudp) fn on_packet(
        &mut self,
        now: Instant,
        path: Path,
        header: &Header,
        datagram: &mut [u8],
        shared: &mut Shared<'_>,
    ) -> Proof {
        let ahead = header.stamp > self.arrivals.highest;
        let proof = if ahead { Proof::Fresh } else { Proof::Old };
        match self.state {
            State::Offered | State::Receiving => {}
            State::Verifying | State::Complete { .. } => {
                shared.counters.add(Counter::Late, 1);
                if self.open(header, datagram).is_none() {
                    return Proof::None;
                }
                // Late packets are not counted, but the next copy of this one is no news.
                if ahead {
                    self.arrivals.highest = header.stamp;
                    self.arrivals.highest_at = now;
                }
                return proof;
            }
            State::Lingering => {
                // The key is gone.
                shared.counters.add(Counter::Late, 1);
                return Proof::Old;
            }
            State::Closed => return Proof::None,
        }
        let Some(body) = self.open(header, datagram) else {
            shared.counters.add(Counter::Refused, 1);
            return Proof::None;
        };
        if self.offer.hash.is_none() {
            // The push has not said yet what the file must be; it says so until a heartbeat echoes data (4.5.3).
            shared.counters.add(Counter::Unexpected, 1);
            return proof;
        }
        // The first block that is not whole may be what storage waits for: a bundle's list of files (18.8).
        let first = header.block == self.blocks.front();
        let most = shared.config.unstored_memory * if first { 2 } else { 1 };
        if self.unstored > most || !self.early.is_empty() {
            // Storage is behind, or the application has not decided. What is dropped here is asked for again, and its
            // absence slows the sender.
            shared.counters.add(Counter::Backpressure, 1);
            self.heard = now;
            return proof;
        }
        let mut runs = std::mem::take(shared.runs);
        let parity = header.kind == Kind::Parity;
        let arrival = if parity {
            let index = header.seq as u8;
            self.blocks
                .parity(now, header.block, index, body, shared.pool, &mut runs)
        } else {
            self.blocks
                .data(now, header.seq, body, shared.pool, &mut runs)
        };
        let proof = match arrival {
            Arrival::New(_) => Proof::Fresh,
            Arrival::Duplicate | Arrival::Refused => proof,
        };
        // What somebody says again from elsewhere must not pass for arrivals on the path.
        if self.note_path(now, path, header.stamp, proof) || proof == Proof::Fresh {
            self.note(now, header);
            match arrival {
                Arrival::New(bytes) => self.arrivals.fresh += bytes,
                Arrival::Duplicate => self.duplicates += 1,
                Arrival::Refused => shared.counters.add(Counter::Refused, 1),
            }
        }
        if self.state == State::Offered {
            self.early.append(&mut runs);
        } else {
            self.hand_up(&mut runs, shared);
        }
        *shared.runs = runs;
        self.verify_if_whole(now, shared);
        proof
    }

    /// Books an authentic packet for the path it came by, if it is one of the session's: only a packet nobody had
    /// delivered before makes it one, or shows that it works.
    fn note_path(&mut self, now: Instant, path: Path, stamp: u64, proof: Proof) -> bool {
        if !self.paths.is_open() {
            return path.peer == self.peer;
        }
        if proof == Proof::Fresh
            && let Some(member) = self.paths.hear(now, path, 0)
        {
            member.works();
            self.paths.bury_silent(now);
        }
        let member = self.paths.find(path);
        let known = member.is_some();
        if let Some(member) = member {
            member.of.count = member.of.count.wrapping_add(1);
            member.of.highest = member.of.highest.max(stamp);
        }
        known
    }

    pub(super) fn hand_up(&mut self, runs: &mut Vec<Run>, shared: &mut Shared<'_>) {
        for Run { offset, bytes } in runs.drain(..) {
            self.unstored += bytes.len();
            let tag = self.tag;
            shared.events.push_back(Event::Chunk { tag, offset, bytes });
        }
    }

    /// Checks a packet against the session and opens it; the plaintext, if it is one of ours (2.4).
    fn open<'a>(&self, header: &Header, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
        let total = self.blocks.total();
        let want = if header.kind == Kind::Parity {
            let last = total.checked_sub(1)? / BLOCK;
            if header.block > last || header.seq > 255 - blocks::k(total, header.block) {
                return None;
            }
            self.chunk
        } else {
            if header.seq >= total || header.block != header.seq / BLOCK {
                return None;
            }
            self.blocks.chunk_len(header.seq)
        };
        let (head, body) = datagram.split_at_mut_checked(HEADER)?;
        match &self.opener {
            None if header.sealed() => None,
            None => (usize::from(header.len) == want).then(|| body.get(..want))?,
            // Without the flag it would be a plaintext injected into a sealed session (2.4).
            Some(_) if !header.sealed() => None,
            Some(opener) => {
                if header.sealed_plaintext_len(body.len())? != want {
                    return None;
                }
                let sealed = body.get_mut(..want + TAG)?;
                opener
                    .open(keys::nonce(header), head, sealed)
                    .map(|plain| &*plain)
            }
        }
    }
}
