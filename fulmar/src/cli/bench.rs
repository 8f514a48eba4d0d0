//! `fulmar bench`: one table for loopback; `bench net`: one for bad links; `bench link`: a bad link to try things on.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use clap::{Args, Subcommand};
use fulmar::config::{parse_bitrate, parse_bytes, parse_duration, parse_fraction};
use fulmar_proto::engine::{Bitrate, Bytes};

use super::fault::{Exit, Fault};
use super::{Talk, stop_on_signals};
use crate::bench::net::{self, Cell, Kept, Kind, Log, Standing, Table, Update};
use crate::{bench, ui};

/// The options of `fulmar bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    #[command(subcommand)]
    over: Option<Over>,
    /// Size of the file
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes)]
    size: Bytes,
    /// Runs of each contender, one after the other in turn; the table shows the median
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    #[command(flatten)]
    talk: Talk,
}

#[derive(Debug, Subcommand)]
enum Over {
    /// Compare with TCP, scp, QUIC and SRT over bad links: network namespaces and a link emulator; needs root
    Net(Box<Net>),
    /// Set up a bad link between two network namespaces until interrupted; needs root
    Link(Link),
}

/// The options of `fulmar bench net`.
#[derive(Debug, Args)]
struct Net {
    /// Round trips, such as 1ms,50ms [default: a selection of six links; 50ms if --loss or --rate is given]
    #[arg(long, value_name = "TIME,..", value_delimiter = ',', value_parser = parse_duration)]
    rtt: Vec<Duration>,
    /// Losses each way, such as 0,0.1%,5% [default: a selection of six links; 1% if --rtt or --rate is given]
    #[arg(long, value_name = "SHARE,..", value_delimiter = ',', value_parser = parse_fraction)]
    loss: Vec<f64>,
    /// Rates each way, such as 100M,1G [default: a selection of six links; 100M if --rtt or --loss is given]
    #[arg(long, value_name = "RATE,..", value_delimiter = ',', value_parser = parse_bitrate)]
    rate: Vec<Bitrate>,
    /// The full grid: 1, 50, 140 ms by 0, 0.1, 1, 5, 33 % by 100, 1000 Mbit/s
    #[arg(long, conflicts_with_all = ["rtt", "loss", "rate"])]
    all: bool,
    /// Who runs; those that are not here are named and skipped
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', value_enum, default_values_t = [
        Kind::Fulmar, Kind::TcpCubic, Kind::TcpBbr, Kind::ScpCubic, Kind::ScpBbr, Kind::QuinnCubic, Kind::QuinnBbr, Kind::Srt,
    ])]
    peers: Vec<Kind>,
    /// Runs of each contender over each link, in turn; the table shows the median
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// A run ends after this time; what has arrived by then counts
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    time: Duration,
    /// Size of the file
    #[arg(long, value_name = "SIZE", default_value = "200MB", value_parser = parse_bytes)]
    size: Bytes,
    /// Of every draw of loss
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Append what is measured to this file, and do not measure again what it has
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Measure nothing: show what was kept in these files
    #[arg(long, value_name = "FILE,..", value_delimiter = ',', conflicts_with_all = [
        "rtt", "loss", "rate", "all", "keep",
    ])]
    from: Vec<PathBuf>,
    /// Print a table for documents at the end: a line for each link, a column for each contender
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Write a drawing, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    talk: Talk,
}

/// The options of `fulmar bench link`.
#[derive(Debug, Args)]
struct Link {
    /// Round trip
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_duration)]
    rtt: Duration,
    /// Loss each way
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = parse_fraction)]
    loss: f64,
    /// Rate each way
    #[arg(long, value_name = "RATE", default_value = "100M", value_parser = parse_bitrate)]
    rate: Bitrate,
    /// Of every draw of loss
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    talk: Talk,
}

impl Net {
    /// The links to measure over.
    fn cells(&self) -> Vec<Cell> {
        if self.all {
            return grid(&RTTS.map(millis), &LOSSES, &RATES.map(megabits));
        }
        if self.rtt.is_empty() && self.loss.is_empty() && self.rate.is_empty() {
            return SELECTION
                .iter()
                .map(|&(rtt, loss, rate)| Cell {
                    rtt: millis(rtt),
                    loss,
                    rate: megabits(rate),
                })
                .collect();
        }
        grid(
            or(&self.rtt, &[millis(50)]),
            or(&self.loss, &[0.01]),
            or(&self.rate, &[megabits(100)]),
        )
    }
}

impl Net {
    /// One row, as it comes.
    fn show(&self, table: &mut Table, row: &net::Row) {
        if !self.talk.json && !self.markdown {
            ui::print(&table.row(row));
        }
    }

    /// All rows together, in the forms that were asked for.
    fn conclude(&self, all: &Kept) -> Result<(), Fault> {
        if self.markdown {
            ui::print(&net::matrix(&all.rows));
        }
        let Some(path) = &self.svg else {
            return Ok(());
        };
        fs::write(path, net::plot(&all.rows)).map_err(|error| {
            let fault = Fault::failed(format!("cannot write {}", path.display()), error);
            fault.told(self.talk.voice())
        })
    }
}

/// Runs `fulmar bench`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    match &options.over {
        None => loopback(options),
        Some(Over::Net(options)) => links(options),
        Some(Over::Link(options)) => link(options),
    }
}

fn loopback(options: &Options) -> Result<(), Fault> {
    let voice = options.talk.voice();
    refuse_nothing(options.size)?;
    let stop = stop_on_signals()?;
    let what = bench::Options {
        size: options.size,
        runs: options.runs.into(),
        binary: own_file()?,
    };
    let report = bench::run(&what, &stop, |doing| voice.say(doing))
        .map_err(|error| unfinished(&stop, "the bench did not finish", error).told(voice))?;
    if options.talk.json {
        ui::print_json(&report);
    } else {
        ui::print(&report.to_string());
    }
    match report.failures().next() {
        None => Ok(()),
        Some(row) => {
            let reason = row.failed.clone().unwrap_or_default();
            Err(Fault::failed(format!("{} failed", row.name), reason))
        }
    }
}

fn links(options: &Net) -> Result<(), Fault> {
    let voice = options.talk.voice();
    if !options.from.is_empty() {
        let kept = Kept::read(&options.from)
            .map_err(|error| Fault::failed("there are no rows", error).told(voice))?;
        if !options.markdown {
            let mut table = Table::default();
            kept.rows
                .iter()
                .for_each(|row| options.show(&mut table, row));
        }
        return options.conclude(&kept);
    }
    refuse_nothing(options.size)?;
    let mut what = net::Options {
        cells: options.cells(),
        peers: options.peers.clone(),
        runs: options.runs,
        time: options.time,
        size: options.size,
        seed: options.seed,
        binary: own_file()?,
        kept: Kept::default(),
    };
    let mut log = None;
    if let Some(path) = &options.keep {
        let (opened, kept) = Log::open(path, &what.settings())
            .map_err(|error| Fault::failed("rows cannot be kept", error).told(voice))?;
        (log, what.kept) = (Some(opened), kept);
    }
    let stop = stop_on_signals()?;
    let (mut table, mut all, mut failed) = (Table::default(), what.kept.clone(), None);
    let ran = net::run(&what, &stop, |update| {
        match &update {
            Update::Doing(doing) => return voice.say(doing),
            Update::Begun(_) => {}
            Update::Skipped { peer, because } => {
                voice.say(&format!("SKIPPED: {}: {because}", peer.name()));
            }
            Update::Link(link) => voice.say(&net::described(link)),
            Update::Row(row) => options.show(&mut table, row),
        }
        if options.talk.json {
            ui::print_json(&update);
        }
        if let Some(log) = &mut log
            && let Err(error) = log.write(&update)
        {
            voice.say(&format!("warning: a row is not kept: {error:#}"));
        }
        if let Update::Row(row) = update {
            // That another program gives up on a bad link is a result; that ours does is a failure.
            if row.peer.is_own() {
                failed = failed.take().or_else(|| row.failed.clone());
            }
            all.add(row);
        }
    });
    options.conclude(&all)?;
    ran.map_err(|error| unfinished(&stop, "the bench did not finish", error).told(voice))?;
    match failed {
        None => Ok(()),
        Some(reason) => Err(Fault::failed("fulmar failed", reason).told(voice)),
    }
}

fn link(options: &Link) -> Result<(), Fault> {
    let voice = options.talk.voice();
    let stop = stop_on_signals()?;
    let cell = Cell {
        rtt: options.rtt,
        loss: options.loss,
        rate: options.rate,
    };
    net::stand(&cell, options.seed, &stop, |standing| {
        match standing {
            Standing::Ready {
                namespaces,
                addresses,
            } => {
                for (name, address) in namespaces.iter().zip(addresses) {
                    voice.say(&format!("{address}: ip netns exec {name} PROGRAM"));
                }
            }
            Standing::Gone(carried) => {
                for (way, word) in [(carried.up, "there"), (carried.down, "back")] {
                    voice.say(&format!(
                        "{word}: {} packets, {} lost, {} dropped by the queue",
                        way.offered, way.lost, way.dropped
                    ));
                }
            }
        }
        if options.talk.json {
            ui::print_json(standing);
        }
    })
    .map_err(|error| unfinished(&AtomicBool::new(false), "there is no link", error).told(voice))
}

fn refuse_nothing(size: Bytes) -> Result<(), Fault> {
    if size.0 == 0 {
        return Err(Fault::usage(
            "--size 0 is nothing to send; write a size such as 1GiB",
        ));
    }
    Ok(())
}

fn own_file() -> Result<PathBuf, Fault> {
    std::env::current_exe()
        .map_err(|error| Fault::failed("cannot find this program's own file", error))
}

fn unfinished(stop: &AtomicBool, what: &str, error: anyhow::Error) -> Fault {
    let exit = if stop.load(Relaxed) {
        Exit::Interrupted
    } else {
        Exit::Failed
    };
    Fault::new(exit, what).because(error)
}

fn grid(rtts: &[Duration], losses: &[f64], rates: &[Bitrate]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &rate in rates {
        for &rtt in rtts {
            cells.extend(losses.iter().map(|&loss| Cell { rtt, loss, rate }));
        }
    }
    cells
}

/// What was asked for, or this if nothing was.
fn or<'a, T>(asked: &'a [T], default: &'a [T]) -> &'a [T] {
    if asked.is_empty() { default } else { asked }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn megabits(megabits: u64) -> Bitrate {
    Bitrate::from_bits_per_sec(megabits * 1_000_000)
}

const RTTS: [u64; 3] = [1, 50, 140];
const LOSSES: [f64; 5] = [0.0, 0.001, 0.01, 0.05, 0.33];
const RATES: [u64; 2] = [100, 1000];
/// Round trip in milliseconds, loss, rate in Mbit/s: from a good line to an absurd one.
const SELECTION: [(u64, f64, u64); 6] = [
    (1, 0.0, 1000),
    (50, 0.001, 1000),
    (50, 0.01, 1000),
    (50, 0.05, 100),
    (140, 0.01, 100),
    (140, 0.33, 100),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn cells(line: &str) -> Vec<Cell> {
        let line = Line::try_parse_from(line.split(' ')).unwrap();
        let Some(Over::Net(net)) = line.options.over else {
            panic!("it is net that was asked for")
        };
        net.cells()
    }

    #[test]
    fn the_links_are_those_asked_for() {
        assert_eq!(cells("bench net").len(), 6);
        let all = cells("bench net --all");
        assert_eq!(all.len(), 30);
        assert!(cells("bench net").iter().all(|cell| all.contains(cell)));
        let some = cells("bench net --rtt 1ms,200ms --loss 5%");
        assert_eq!(some.len(), 2);
        assert!(
            some.iter()
                .all(|cell| cell.loss == 0.05 && cell.rate == megabits(100))
        );
        assert_eq!(some[1].rtt, millis(200));
    }
}
