//! The same file by several programs over bad links: `fulmar bench net`, and the bare link: `fulmar bench link`.
//!
//! ```text
//! road.rs        two namespaces, a TUN device in each        namespace.rs
//! emulator.rs    the wire: reads one device, asks fulmar_proto::sim::Link, writes the other
//! peers.rs       who moves the file; tcp.rs does so inside this process
//! kept.rs        rows as lines in files, to go on from and to draw from
//! table.rs       a line a row    matrix.rs    a line a link    plot.rs    a drawing
//! ```
//!
//! Every run has a road of its own, so no run inherits anything of another's, and the same draws of loss as the run of
//! the same number of every other contender over the same link. A file that arrives whole is compared by hash. It needs Linux and root. It
//! does *not* say what another kernel, another router or a path with other traffic would give.

mod emulator;
mod kept;
mod matrix;
mod namespace;
mod peers;
mod plot;
mod road;
mod table;
mod tcp;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use fulmar_proto::engine::{Bitrate, Bytes};
use serde::{Deserialize, Serialize};

use super::peers::Place;
use super::{hash_of, median, write_random};
use emulator::Carried;
use peers::{Moved, Task};
use road::{FAR, NEAR, Probe, Road};

pub(crate) use kept::{Kept, Log};
pub(crate) use matrix::matrix;
pub(crate) use peers::Kind;
pub(crate) use plot::plot;
pub(crate) use road::Cell;
pub(crate) use table::{Table, described};

/// What to measure.
pub(crate) struct Options {
    /// Over which links.
    pub(crate) cells: Vec<Cell>,
    /// Who.
    pub(crate) peers: Vec<Kind>,
    /// Runs of each in each cell.
    pub(crate) runs: u16,
    /// A run ends after this, done or not.
    pub(crate) time: Duration,
    /// Size of the file.
    pub(crate) size: Bytes,
    /// Of every draw of loss, and of the file.
    pub(crate) seed: u64,
    /// The program that measures, which is also one of those measured.
    pub(crate) binary: PathBuf,
    /// What was measured before, and is not again.
    pub(crate) kept: Kept,
}

impl Options {
    /// What must be the same for rows to be comparable.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            size: self.size.0,
            time_s: self.time.as_secs_f64(),
            runs: self.runs,
            seed: self.seed,
        }
    }
}

/// How much was sent how often.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Bytes of the file.
    pub(crate) size: u64,
    /// A run ends after this, in seconds.
    pub(crate) time_s: f64,
    /// Runs of each in each cell.
    pub(crate) runs: u16,
    /// Of every draw of loss.
    pub(crate) seed: u64,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--size {} --time {}s --runs {} --seed {}",
            self.size, self.time_s, self.runs, self.seed
        )
    }
}

/// What happens, as it does.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Update {
    /// Something starts.
    #[serde(skip)]
    Doing(String),
    /// Everything starts.
    Begun(Settings),
    /// This one will not run.
    Skipped {
        /// Its name.
        peer: Kind,
        /// Why.
        because: String,
    },
    /// A link, and what probes say of it.
    Link(Link),
    /// One contender is done with one link.
    Row(Row),
}

/// A link, as ordered and as found.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Round trip, in milliseconds.
    pub(crate) rtt_ms: f64,
    /// Share lost each way, 0 to 1.
    pub(crate) loss: f64,
    /// Bits a second each way.
    pub(crate) rate_bps: u64,
    /// What probes found.
    pub(crate) probe: Probe,
}

/// One contender over one link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Round trip, in milliseconds.
    pub(crate) rtt_ms: f64,
    /// Share lost each way, 0 to 1.
    pub(crate) loss: f64,
    /// Bits a second each way.
    pub(crate) rate_bps: u64,
    /// Who.
    pub(crate) peer: Kind,
    /// File bits a second, the median of the runs.
    pub(crate) median_bps: Option<f64>,
    /// Of the rate less what is lost, 0 to 1.
    pub(crate) share: Option<f64>,
    /// Each run.
    pub(crate) runs: Vec<Run>,
    /// Why it stopped running.
    pub(crate) failed: Option<String>,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// File bytes that arrived.
    pub(crate) bytes: u64,
    /// In this time.
    pub(crate) seconds: f64,
    /// File bits a second.
    pub(crate) rate_bps: f64,
    /// Whether that is the whole file, which was then compared by hash.
    pub(crate) whole: bool,
    /// Processor time of the sending and the receiving end, in seconds, where it can be known.
    pub(crate) cpu_s: [Option<f64>; 2],
    /// What the wire did meanwhile.
    pub(crate) wire: Carried,
}

impl Row {
    fn new(cell: &Cell, kind: Kind) -> Self {
        Self {
            rtt_ms: millis(cell.rtt),
            loss: cell.loss,
            rate_bps: cell.rate.bits_per_sec(),
            peer: kind,
            median_bps: None,
            share: None,
            runs: Vec::new(),
            failed: None,
        }
    }

    /// The link.
    fn cell(&self) -> Cell {
        Cell {
            rtt: Duration::try_from_secs_f64(self.rtt_ms / 1e3).unwrap_or_default(),
            loss: self.loss,
            rate: Bitrate::from_bits_per_sec(self.rate_bps),
        }
    }

    /// Whether it is a row of this link. Figures that were written down and read again are the same but for rounding.
    fn is_over(&self, cell: &Cell) -> bool {
        let own = self.cell();
        own.rate == cell.rate && own.rtt == cell.rtt && (own.loss - cell.loss).abs() < 1e-9
    }

    fn close(&mut self, cell: &Cell) {
        let rates: Vec<f64> = self.runs.iter().map(|run| run.rate_bps).collect();
        self.median_bps = median(&rates);
        self.share = self.median_bps.map(|bps| bps / cell.capacity());
    }
}

impl Run {
    fn new(moved: &Moved, wire: Carried) -> Self {
        let seconds = moved.time.as_secs_f64();
        Self {
            bytes: moved.bytes,
            seconds,
            rate_bps: moved.bytes as f64 * 8.0 / seconds.max(f64::MIN_POSITIVE),
            whole: moved.whole,
            cpu_s: moved.cpu.map(|cpu| cpu.map(|cpu| cpu.as_secs_f64())),
            wire,
        }
    }
}

/// Runs everything, telling `tell` as it goes. A contender that fails over a link is not tried again over that link.
///
/// # Errors
///
/// If there is no root, no room for the file or no road, or `stop` was raised.
pub(crate) fn run(
    options: &Options,
    stop: &AtomicBool,
    mut tell: impl FnMut(Update),
) -> anyhow::Result<()> {
    namespace::possible()?;
    namespace::clear_dead();
    tell(Update::Begun(options.settings()));
    let place = Place::new(options.size.0)?;
    let source = place.dir().join("source");
    let hash =
        write_random(&source, options.size.0, stop).context("cannot write the file to send")?;
    let mut peers = Vec::new();
    for &kind in &options.peers {
        match kind.available(&options.binary) {
            Ok(()) => peers.push(kind),
            Err(error) => tell(Update::Skipped {
                peer: kind,
                because: format!("{error:#}"),
            }),
        }
    }
    let course = Course {
        options,
        place: &place,
        source: &source,
        hash,
        stop,
    };
    for (turn, cell) in options.cells.iter().enumerate() {
        let mut peers = peers.clone();
        peers.retain(|kind| !options.kept.has(cell, *kind));
        if peers.is_empty() {
            continue;
        }
        let road = Road::build(cell, options.seed)?;
        let probe = road.probe(PROBES)?;
        drop(road);
        tell(Update::Link(Link {
            rtt_ms: millis(cell.rtt),
            loss: cell.loss,
            rate_bps: cell.rate.bits_per_sec(),
            probe,
        }));
        course.cell(cell, &peers, turn, &mut tell)?;
    }
    Ok(())
}

/// What a standing link says of itself, in JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Standing {
    /// It stands.
    Ready {
        /// What `ip netns exec` calls its ends.
        namespaces: [String; 2],
        /// Their addresses.
        addresses: [String; 2],
    },
    /// It is gone.
    Gone(Carried),
}

/// Builds one road and lets it stand until `stop`.
///
/// # Errors
///
/// If it cannot be built.
pub(crate) fn stand(
    cell: &Cell,
    seed: u64,
    stop: &AtomicBool,
    mut tell: impl FnMut(&Standing),
) -> anyhow::Result<()> {
    namespace::possible()?;
    namespace::clear_dead();
    let road = Road::build(cell, seed)?;
    tell(&Standing::Ready {
        namespaces: [road.near(), road.far()].map(|end| end.name().to_owned()),
        addresses: [NEAR, FAR].map(|address| address.to_string()),
    });
    while !stop.load(Relaxed) {
        std::thread::sleep(GLANCE);
    }
    tell(&Standing::Gone(road.close()));
    Ok(())
}

/// What all runs have in common.
struct Course<'a> {
    options: &'a Options,
    place: &'a Place,
    source: &'a Path,
    hash: u64,
    stop: &'a AtomicBool,
}

impl Course<'_> {
    /// All runs over one link, the contenders in turn. Each round of the `turn`th link begins with another one, so that
    /// what the machine does meanwhile does not always meet the same.
    fn cell(
        &self,
        cell: &Cell,
        peers: &[Kind],
        turn: usize,
        tell: &mut impl FnMut(Update),
    ) -> anyhow::Result<()> {
        let mut rows: Vec<Row> = peers.iter().map(|&kind| Row::new(cell, kind)).collect();
        for number in 1..=self.options.runs {
            for place in 0..rows.len() {
                let first = turn + usize::from(number);
                let row = &mut rows[(first + place) % peers.len()];
                if row.failed.is_some() {
                    continue;
                }
                tell(Update::Doing(format!(
                    "run {number} of {}: {}",
                    self.options.runs,
                    row.peer.name()
                )));
                match self.run(cell, row.peer, number) {
                    Ok(run) => row.runs.push(run),
                    Err(_) if self.stop.load(Relaxed) => bail!("interrupted"),
                    Err(error) => row.failed = Some(format!("{error:#}")),
                }
            }
        }
        for mut row in rows {
            row.close(cell);
            tell(Update::Row(row));
        }
        Ok(())
    }

    /// One run, and the proof that what arrived is the file.
    fn run(&self, cell: &Cell, kind: Kind, number: u16) -> anyhow::Result<Run> {
        if self.stop.load(Relaxed) {
            bail!("interrupted");
        }
        let target = self.place.fresh_target()?;
        let road = Road::build(cell, cell.seed(self.options.seed, number))?;
        let moved = kind.carry(&Task {
            cell,
            road: &road,
            place: self.place,
            source: self.source,
            target: &target,
            size: self.options.size.0,
            limit: self.options.time,
            binary: &self.options.binary,
            stop: self.stop,
        })?;
        let wire = road.close();
        if moved.whole {
            let found = hash_of(&target.join("source")).context("the copy cannot be read")?;
            if found != self.hash {
                bail!("the copy differs from the file");
            }
        }
        fs::remove_dir_all(&target).context("cannot remove the copy")?;
        Ok(Run::new(&moved, wire))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// Enough to tell 1 % from 5 %, in a second.
const PROBES: u16 = 500;
/// How late a signal may be noticed.
const GLANCE: Duration = Duration::from_millis(20);
