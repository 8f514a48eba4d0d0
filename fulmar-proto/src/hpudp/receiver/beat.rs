//! What a receiver tells its sender: arrivals counted, the heartbeat and when it goes (7).
//!
//! It does *not* take packets apart.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::super::config::{BLOCK, Config, DATAGRAM_MAX, HEADER};
use super::super::packet::{
    EXTENSION_MAX, Extension, Feedback, HAD_MAX, Header, Heartbeat, Kind, PATH, feature, flag,
};
use super::super::ranges;
use super::super::session::{Shared, Timer, table_interval};
use super::{FIRST_BEATS, PROGRESS, Receiver, State};
use crate::hpudp::Via;

/// What came, counted for feedback.
#[derive(Debug)]
pub(super) struct Arrivals {
    pub(super) count: u64,
    pub(super) last: Instant,
    /// Stamp of the packet that came last, and the highest one with its time.
    pub(super) echo: u64,
    pub(super) highest: u64,
    pub(super) highest_at: Instant,
    /// New file bytes, rebuilt ones included, since the last heartbeat.
    pub(super) fresh: u64,
}

/// What came by one path.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// Packets, and the highest stamp of them.
    pub(super) count: u32,
    pub(super) highest: u64,
}

/// The heartbeat in the making.
#[derive(Debug)]
pub(super) struct Beat {
    pub(super) due: bool,
    pub(super) last: Instant,
    /// New file bytes a second over the last interval, and smoothed over about ten.
    pub(super) delivery: f64,
    pub(super) smooth: f64,
    pub(super) loss: u16,
    /// Where the next list of missing chunks starts, so that a list too long for one heartbeat is told whole.
    pub(super) cursor: u64,
    /// Bytes of the last one.
    pub(super) len: usize,
    /// Nothing had come since the one before.
    pub(super) idle: bool,
    /// Those that told of packets, up to [`OPENING`].
    pub(super) told: u32,
}

/// The calibration burst as it came (4.7).
#[derive(Debug, Default)]
pub(super) struct Train {
    /// Chunk and arrival of the first and the latest packet.
    pub(super) first: Option<(u64, Instant)>,
    pub(super) last: Option<(u64, Instant)>,
    pub(super) count: u64,
    pub(super) ended: bool,
}

impl Receiver {
    /// Books an authentic packet for feedback and timers.
    pub(super) fn note(&mut self, now: Instant, header: &Header) {
        let first = self.arrivals.count == 0;
        if self.opener.is_some() {
            // Sealed under a key that took our half: the peer is where it says.
            self.ledger.prove();
        }
        if header.kind == Kind::Parity {
            self.parities += 1;
        } else {
            self.data += 1;
        }
        self.arrivals.count += 1;
        self.arrivals.last = now;
        self.heard = now;
        if header.stamp != 0 {
            self.arrivals.echo = header.stamp;
            if header.stamp > self.arrivals.highest {
                self.arrivals.highest = header.stamp;
                self.arrivals.highest_at = now;
            }
        }
        let train = &mut self.train;
        if header.flags & flag::CALIBRATION != 0 && !train.ended {
            train.count += 1;
            train.first.get_or_insert((header.seq, now));
            train.last = Some((header.seq, now));
            if train.count == TRAIN {
                train.ended = true;
                self.beat.due = self.state == State::Receiving;
            }
        } else if !train.ended && header.kind == Kind::Data {
            train.ended = true;
            self.beat.due = self.state == State::Receiving;
        }
        if self.state == State::Receiving && first {
            self.timers.set(Timer::Progress, now + PROGRESS);
        }
        if self.state == State::Receiving && (first || self.beat.idle) {
            self.beat.idle = false;
            let at = self.beat.last.max(now) + self.interval();
            let sooner = self
                .timers
                .when(Timer::Heartbeat)
                .is_none_or(|due| at < due);
            if sooner {
                self.timers.set(Timer::Heartbeat, at);
            }
        }
    }

    pub(super) fn push_beat(&mut self, now: Instant, shared: &mut Shared<'_>) {
        let mut bytes = Vec::with_capacity(128);
        self.write_beat(now, &mut bytes, shared);
        self.outgoing.push_back(bytes);
    }

    pub(super) fn write_beat(&mut self, now: Instant, buf: &mut Vec<u8>, shared: &mut Shared<'_>) {
        let elapsed = now.duration_since(self.beat.last).as_secs_f64().max(1e-4);
        let fresh = std::mem::take(&mut self.arrivals.fresh);
        self.beat.delivery = fresh as f64 / elapsed;
        let weight = (elapsed / 0.02).min(1.0);
        self.beat.smooth += (self.beat.delivery - self.beat.smooth) * weight;
        let flush = std::mem::take(&mut self.stored_since_beat) as f64 / elapsed;
        self.beat.idle = fresh == 0;
        self.beat.last = now;
        self.beat.told = (self.beat.told + u32::from(self.arrivals.count > 0)).min(OPENING);
        if let Some(loss) = self.blocks.take_loss() {
            self.beat.loss = loss;
        }
        let contiguous = self.blocks.contiguous();
        let (mut nacks, mut runs) = (Vec::new(), Vec::new());
        if self.state == State::Receiving {
            match self.ranged() {
                true => runs = self.runs(now, contiguous),
                false => nacks = self.nacks(now, contiguous),
            }
        }
        // Before anything has come there is nothing to feed back, and every byte counts (19.5).
        let feedback = (self.arrivals.count > 0).then(|| self.feedback(now, shared.config));
        let extension = self.extended.then(|| Extension {
            had: self.blocks.had(HAD_MAX),
            paths: self.paths_told(),
            features: match self.paths.is_open() {
                true => feature::ALL | feature::PATHS,
                false => feature::ALL,
            },
            ..extension(shared.config, feedback)
        });
        let beat = Heartbeat {
            delivery: saturate(self.beat.delivery),
            flush: saturate(flush),
            loss: self.beat.loss,
            echo: self.arrivals.echo,
            dispersion: self.train.dispersion(),
            contiguous: contiguous.saturating_sub(1),
            nacks,
            extension,
            runs,
        };
        let before = buf.len();
        let signer = self.control.as_mut().map(|it| &mut it.signer);
        beat.encode(self.id, self.layout, buf, signer);
        self.beat.len = buf.len() - before;
        if matches!(self.state, State::Receiving | State::Verifying) {
            let next = if self.arrivals.count == 0 && self.extended && self.offer.via == Via::Pull {
                table_interval(0.0)
            } else if self.arrivals.count == 0 {
                FIRST_BEATS
            } else {
                self.interval()
            };
            self.timers.set(Timer::Heartbeat, now + next);
        }
    }

    /// What came by each path, if there may be several (18.9.4).
    fn paths_told(&self) -> Vec<(u64, u32)> {
        let heard = self.paths.iter().filter(|it| it.of.count > 0);
        heard.map(|it| (it.of.highest, it.of.count)).collect()
    }

    /// Whether the sender reads runs of missing chunks.
    fn ranged(&self) -> bool {
        let theirs = self.offer.extension.as_ref();
        self.extended && theirs.is_some_and(|it| it.has(feature::RANGES))
    }

    /// The published list.
    fn nacks(&mut self, now: Instant, contiguous: u64) -> Vec<u64> {
        let limit = self.list_room() / 8;
        if !self.extended {
            let quiet = self.interval() * 2;
            let mut list = Vec::new();
            self.blocks
                .missing(now, contiguous, quiet, limit, &mut list);
            return list;
        }
        let list = self.missing(now, contiguous, limit);
        self.beat.cursor = list.last().map_or(0, |seq| seq + 1);
        list
    }

    /// As many runs as the datagram holds (18.5.4).
    fn runs(&mut self, now: Instant, contiguous: u64) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for seq in self.missing(now, contiguous, RUN_CHUNKS) {
            match runs.last_mut() {
                Some(run) if run.end == seq => run.end = seq + 1,
                _ => runs.push(seq..seq + 1),
            }
        }
        let fitting = ranges::encode(&runs, self.list_room(), &mut Vec::new());
        let cut = runs.get(fitting).map(|run| run.start / BLOCK * BLOCK);
        runs.truncate(fitting);
        // A block is told whole, or not yet: the sender judges it as one.
        if let Some(cut) = cut.filter(|cut| runs.first().is_some_and(|run| run.start < *cut)) {
            while let Some(run) = runs.pop_if(|run| run.end > cut && run.start < cut + BLOCK) {
                runs.extend((run.start < cut).then_some(run.start..cut));
            }
        }
        self.beat.cursor = runs.last().map_or(0, |run| run.end);
        runs
    }

    /// Bytes a heartbeat has for what is missing, by the datagram and by what the sender's address has paid for.
    fn list_room(&self) -> usize {
        let extension = if self.extended {
            let paths = self.paths_told().len() * PATH;
            EXTENSION_MAX + 2 + 8 * self.blocks.had(HAD_MAX).len() + 2 + paths
        } else {
            0
        };
        let fixed = HEADER + 36 + extension;
        self.ledger.room().min(DATAGRAM_MAX).saturating_sub(fixed)
    }

    /// Up to `limit` missing chunks: some from the front, which all the others wait for, then from where the last
    /// heartbeat stopped, and from the front again.
    fn missing(&mut self, now: Instant, contiguous: u64, limit: usize) -> Vec<u64> {
        let mut list = Vec::new();
        let quiet = (self.interval() * 2).max(QUIET);
        let first = FRONT.min(limit);
        self.blocks
            .missing(now, contiguous, quiet, first, &mut list);
        let Some(end) = list
            .last()
            .map(|seq| seq + 1)
            .filter(|_| list.len() == first)
        else {
            return list;
        };
        let from = self.beat.cursor.max(end);
        self.blocks.missing(now, from, quiet, limit, &mut list);
        if list.len() < limit && from > end {
            let mut wrapped = Vec::new();
            self.blocks
                .missing(now, end, quiet, limit - list.len(), &mut wrapped);
            list.extend(wrapped.into_iter().take_while(|seq| *seq < from));
        }
        list
    }

    fn feedback(&mut self, now: Instant, config: &Config) -> Feedback {
        // Storage that keeps up sets no limit: what it holds now is gone before more can come.
        self.throttled = self.unstored > config.unstored_memory / 4;
        let room = match config.unstored_memory.saturating_sub(self.unstored) / self.chunk {
            room if self.throttled => u32::try_from(room).unwrap_or(u32::MAX),
            _ => u32::MAX,
        };
        let held = now.duration_since(self.arrivals.highest_at).as_micros();
        Feedback {
            received: self.arrivals.count,
            at: u64::try_from(self.arrivals.last.duration_since(self.started).as_nanos())
                .unwrap_or(u64::MAX),
            highest: self.arrivals.highest,
            held: u32::try_from(held).unwrap_or(u32::MAX),
            room,
        }
    }

    /// Time to the next heartbeat: the table's (7.1); between two fulmars as short as one 64th of the arriving
    /// bytes pays for, and not shorter than a millisecond.
    pub(super) fn interval(&self) -> Duration {
        let table = table_interval(self.beat.delivery);
        if !self.extended || self.beat.idle && self.beat.smooth < 1.0 {
            return table;
        }
        let cost = (self.beat.len.max(HEADER + 36) + 28) as f64;
        let pays = Duration::try_from_secs_f64(FEEDBACK_COST * cost / self.beat.smooth.max(1.0))
            .unwrap_or(table);
        // The sender's rate waits for one of the first, and its neighbours may be lost.
        let opening = (1..OPENING).contains(&self.beat.told);
        let most = if opening { OPENING_SPACING } else { table };
        pays.clamp(Duration::from_millis(1), most)
    }
}

impl Train {
    /// Time the whole burst took or would have taken: what lies between the first and the last packet that came,
    /// scaled to the chunks lost before and behind them. 0 when fewer than two came in order.
    fn dispersion(&self) -> u64 {
        let (Some((from, first)), Some((to, last))) = (self.first, self.last) else {
            return 0;
        };
        if to <= from || !self.ended {
            return 0;
        }
        let nanos =
            last.duration_since(first).as_nanos() * u128::from(TRAIN - 1) / u128::from(to - from);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

pub(super) fn extension(config: &Config, feedback: Option<Feedback>) -> Extension {
    Extension {
        features: feature::ALL,
        socket_datagrams: config.socket_datagrams,
        feedback,
        ..Extension::default()
    }
}

fn saturate(rate: f64) -> u32 {
    rate.min(f64::from(u32::MAX)) as u32
}

/// Packets of a calibration burst (4.7).
const TRAIN: u64 = 10;
/// Heartbeats at the beginning that follow each other so closely.
const OPENING: u32 = 8;
const OPENING_SPACING: Duration = Duration::from_millis(5);
/// A block quiet for this long, at least, is asked for again although its successors have not come.
const QUIET: Duration = Duration::from_millis(10);
/// Missing chunks at the front that every heartbeat names.
const FRONT: usize = 64;
/// Chunks looked at for one heartbeat's runs: more than single holes could fill it with.
const RUN_CHUNKS: usize = 4096;
/// One heartbeat byte per this many arriving ones.
const FEEDBACK_COST: f64 = 64.0;
