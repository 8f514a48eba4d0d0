//! The same file over loopback by several programs, run after run in turn, as one table.
//!
//! Interleaving the runs spreads whatever else the machine does over all of them, and the median drops the worst of
//! it. Every received file is compared by hash; a copy that differs is a failure, not a time. It does *not* measure a
//! network: loopback has no wire, so this is what the processors allow.

mod fulmar;
pub(crate) mod net;
mod peers;
mod process;
mod quinn;
mod table;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use ::fulmar::driver::raw_limit;
use anyhow::{Context, bail};
use fulmar_proto::engine::Bytes;
use fulmar_proto::sim::Rng;
use serde::Serialize;
use xxhash_rust::xxh64::Xxh64;

use peers::{Contender, Copied, Place};

/// What to measure.
pub(crate) struct Options {
    /// Size of the file.
    pub(crate) size: Bytes,
    /// Runs of each contender.
    pub(crate) runs: usize,
    /// The program that measures, which is also the one measured.
    pub(crate) binary: PathBuf,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Bytes of the file.
    pub(crate) size: u64,
    /// Runs of each contender.
    pub(crate) runs: usize,
    /// Where the files were.
    pub(crate) place: PathBuf,
    /// Processors.
    pub(crate) processors: usize,
    /// Raw limit first, then the contenders in the order of the runs.
    pub(crate) rows: Vec<Row>,
}

/// One contender's figures.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What ran.
    pub(crate) name: &'static str,
    /// What to know when comparing.
    pub(crate) note: &'static str,
    /// File bits a second of each run, in order.
    pub(crate) rates_bps: Vec<f64>,
    /// The median of them.
    pub(crate) median_bps: Option<f64>,
    /// Largest resident memory of the sending and the receiving process over all runs, where it can be known.
    pub(crate) peak_bytes: [Option<u64>; 2],
    /// Why it did not run: not installed here.
    pub(crate) skipped: Option<String>,
    /// Why it stopped running.
    pub(crate) failed: Option<String>,
}

impl Report {
    /// The contenders that were there and failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.failed.is_some())
    }

    fn median_of(&self, name: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.name == name)?.median_bps
    }
}

impl Row {
    fn new(name: &'static str, note: &'static str) -> Self {
        Self {
            name,
            note,
            rates_bps: Vec::new(),
            median_bps: None,
            peak_bytes: [None, None],
            skipped: None,
            failed: None,
        }
    }

    fn add(&mut self, size: u64, copied: &Copied) {
        self.rates_bps
            .push(size as f64 * 8.0 / copied.time.as_secs_f64());
        for (peak, new) in self.peak_bytes.iter_mut().zip(copied.peak_bytes) {
            *peak = (*peak).max(new);
        }
    }
}

/// Runs everything, telling `say` what runs now. A contender that fails is dropped from further runs and named in
/// its row.
///
/// # Errors
///
/// If the file cannot be made, or `stop` was raised.
pub(crate) fn run(
    options: &Options,
    stop: &AtomicBool,
    mut say: impl FnMut(&str),
) -> anyhow::Result<Report> {
    let place = Place::new(options.size.0)?;
    let source = place.dir().join("source");
    say(&format!(
        "writing {} of random bytes to {}",
        options.size,
        place.dir().display()
    ));
    let hash =
        write_random(&source, options.size.0, stop).context("cannot write the file to send")?;

    let mut raw = Row::new(
        "raw UDP, GSO",
        "1400-byte datagrams between two threads, nothing else: the limit of any UDP",
    );
    let mut entries: Vec<(Row, Option<Box<dyn Contender>>)> = peers::all(&options.binary, &place)
        .into_iter()
        .map(|(name, note, contender)| match contender {
            Ok(contender) => (Row::new(name, note), Some(contender)),
            Err(reason) => (
                Row {
                    skipped: Some(format!("{reason:#}")),
                    ..Row::new(name, note)
                },
                None,
            ),
        })
        .collect();

    for run in 1..=options.runs {
        say(&format!("run {run} of {}: {}", options.runs, raw.name));
        match raw_limit(RAW_TIME) {
            Ok(limit) => raw.rates_bps.push(limit.rate().bits_per_sec() as f64),
            Err(error) => raw.failed = Some(error.to_string()),
        }
        for (row, slot) in &mut entries {
            let Some(contender) = slot else { continue };
            if stop.load(Relaxed) {
                bail!("interrupted");
            }
            say(&format!("run {run} of {}: {}", options.runs, row.name));
            match measure(contender.as_mut(), &source, hash, &place, stop) {
                Ok(copied) => row.add(options.size.0, &copied),
                Err(_) if stop.load(Relaxed) => bail!("interrupted"),
                Err(error) => {
                    row.failed = Some(format!("{error:#}"));
                    *slot = None;
                }
            }
        }
    }

    let mut rows = vec![raw];
    rows.extend(entries.into_iter().map(|(row, _)| row));
    for row in &mut rows {
        row.median_bps = median(&row.rates_bps);
    }
    Ok(Report {
        size: options.size.0,
        runs: options.runs,
        place: place.parent().to_owned(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        rows,
    })
}

/// One copy, and the proof that it is one.
fn measure(
    contender: &mut dyn Contender,
    source: &Path,
    hash: u64,
    place: &Place,
    stop: &AtomicBool,
) -> anyhow::Result<Copied> {
    let target = place.fresh_target()?;
    let copied = contender.copy(source, &target, stop)?;
    let received = target.join("source");
    let found = hash_of(&received).with_context(|| "the copy cannot be read")?;
    fs::remove_dir_all(&target).context("cannot remove the copy")?;
    if found != hash {
        bail!("the copy differs from the file: hash {found:016x}, not {hash:016x}");
    }
    Ok(copied)
}

/// Writes the file, random so that nothing on the way can compress it, and returns its hash.
fn write_random(path: &Path, size: u64, stop: &AtomicBool) -> anyhow::Result<u64> {
    let mut file = File::create_new(path)?;
    let mut rng = Rng::new(SEED);
    let mut hasher = Xxh64::new(0);
    let mut buf = vec![0; STEP];
    let mut left = size;
    while left > 0 {
        if stop.load(Relaxed) {
            bail!("interrupted");
        }
        let step = left.min(STEP as u64) as usize;
        rng.fill(&mut buf[..step]);
        hasher.update(&buf[..step]);
        file.write_all(&buf[..step])?;
        left -= step as u64;
    }
    Ok(hasher.digest())
}

fn hash_of(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut hasher = Xxh64::new(0);
    let mut buf = vec![0; STEP];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(hasher.digest()),
            read => hasher.update(&buf[..read]),
        }
    }
}

/// The middle one; of two middle ones the lower.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

const SEED: u64 = 0x66_75_6c_6d_61_72;
const STEP: usize = 1 << 20;
/// How long the raw limit is measured in each run.
const RAW_TIME: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.0));
    }

    #[test]
    fn the_file_is_as_long_as_asked_and_hashes_as_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("random");
        let size = STEP as u64 * 2 + 17;
        let hash = write_random(&path, size, &AtomicBool::new(false)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        assert_eq!(hash_of(&path).unwrap(), hash);
        fs::write(&path, b"other").unwrap();
        assert_ne!(hash_of(&path).unwrap(), hash);
    }
}
