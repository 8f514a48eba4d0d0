//! `fulmar sim hpudp`: a transfer in virtual time, to try a link before buying it.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use fulmar::config::parse_bytes;
use fulmar::demo;
use fulmar_proto::engine::{Bitrate, Bytes};
use fulmar_proto::hpudp::{Config, FILE_MAX, Failure};
use fulmar_proto::sim::{LinkStats, Outcome, Transfer};
use serde::Serialize;

use super::Talk;
use super::fault::{Exit, Fault};
use super::link::{Link, described};
use super::pace::Pace;
use crate::ui::{self, Figures, Voice, short_time};

/// What can be simulated.
#[derive(Debug, Subcommand)]
pub(super) enum Protocol {
    /// One file over HP-UDP
    Hpudp(Options),
}

/// The options of `fulmar sim hpudp`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    link: Link,
    /// Size of the file
    #[arg(long, value_name = "SIZE", default_value = "50MiB", value_parser = parse_bytes)]
    size: Bytes,
    /// Everything random follows from it: the same seed gives the same run, packet by packet
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Do not encrypt
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    talk: Talk,
}

/// Runs `fulmar sim hpudp`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    if options.size.0 > FILE_MAX {
        return Err(Fault::usage(format!(
            "--size is above {}, the largest file there is",
            Bytes(FILE_MAX)
        )));
    }
    let link = options.link.profile();
    let transfer = Transfer {
        size: options.size.0,
        encrypt: !options.plain,
        sender: options.pace.config_for(&link)?,
        up: link.up,
        down: link.down,
        receiver: Config::default(),
        seed: options.seed,
        limit: LIMIT,
    };
    let start = Instant::now();
    let outcome = transfer.run(start);
    match options.talk.voice() {
        Voice::Json => ui::print_json(&line(&transfer, &outcome)),
        Voice::Quiet => {}
        Voice::Bar | Voice::Lines => ui::print(&table(&transfer, &outcome, start.elapsed())),
    }
    judged(&outcome)
}

fn judged(outcome: &Outcome) -> Result<(), Fault> {
    match (outcome.sent, outcome.exact) {
        (Some(Ok(())), true) => Ok(()),
        (Some(Ok(())), false) => Err(Fault::new(
            Exit::Integrity,
            "the sender was told of success, and the file differs",
        )),
        (Some(Err(failure)), _) => {
            let exit = match failure {
                Failure::NoAnswer | Failure::Silent => Exit::NoConnection,
                Failure::Refused(_) | Failure::NoBundles => Exit::Refused,
                Failure::BadKey | Failure::NoIdentity | Failure::OtherIdentity(_) => Exit::Identity,
                Failure::Aborted(_) => Exit::Failed,
            };
            Err(Fault::new(exit, "the transfer failed").because(failure))
        }
        (None, _) => Err(Fault::new(Exit::Failed, "the transfer did not end")
            .because(format!("{} of virtual time have passed", short_time(LIMIT)))),
    }
}

fn table(transfer: &Transfer, outcome: &Outcome, wall: Duration) -> String {
    let mut rows: Vec<(&str, String)> = vec![
        ("there", described(&transfer.up)),
        ("back", described(&transfer.down)),
        (
            "file",
            format!(
                "{}, {}",
                Bytes(transfer.size),
                if transfer.encrypt {
                    "encrypted"
                } else {
                    "plain"
                }
            ),
        ),
    ];
    match outcome.received_after {
        Some(time) => {
            rows.push((
                "time",
                format!(
                    "{} until verified, computed in {}",
                    short_time(time),
                    short_time(wall)
                ),
            ));
            rows.push(("goodput", goodput_words(transfer, time)));
        }
        None => rows.push((
            "time",
            format!("not received, computed in {}", short_time(wall)),
        )),
    }
    let (sender, receiver) = (&outcome.sender, &outcome.receiver);
    rows.push((
        "packets",
        format!(
            "{} data, {} parity, {} sent again",
            sender.data, sender.parities, sender.retransmitted
        ),
    ));
    rows.push((
        "repaired",
        format!(
            "{} chunks from parity, {} packets came twice",
            receiver.repaired, receiver.duplicates
        ),
    ));
    rows.push(("link there", link_words(&outcome.up)));
    rows.push(("link back", link_words(&outcome.down)));
    rows.push((
        "run",
        format!("seed {}, trace {:016x}", transfer.seed, outcome.trace),
    ));
    rows.iter()
        .map(|(name, value)| format!("{name:<11} {value}\n"))
        .collect()
}

fn goodput_words(transfer: &Transfer, time: Duration) -> String {
    let goodput = Bitrate::from_transfer(transfer.size, time);
    let Some(rate) = transfer.up.rate else {
        return goodput.to_string();
    };
    let surviving = rate.scale(1.0 - transfer.up.loss.share());
    let mut words = format!(
        "{goodput}, {:.3} of rate x (1 - loss)",
        ratio(goodput, surviving)
    );
    if let Some(capacity) = demo::capacity(&transfer.up, transfer.encrypt) {
        words += &format!(
            ", {:.3} of what of that can be file",
            ratio(goodput, capacity)
        );
    }
    words
}

fn link_words(stats: &LinkStats) -> String {
    format!(
        "{} offered, {} lost, {} dropped by the queue, {} reordered, {} duplicated, {} corrupted, {} queued at most",
        stats.offered,
        stats.lost,
        stats.queue_dropped,
        stats.reordered,
        stats.duplicated,
        stats.corrupted,
        short_time(stats.queue_delay_max)
    )
}

fn ratio(part: Bitrate, whole: Bitrate) -> f64 {
    part.bits_per_sec() as f64 / whole.bits_per_sec().max(1) as f64
}

/// The run in one object.
#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    seed: u64,
    trace: String,
    exact: bool,
    received_after_s: Option<f64>,
    goodput_bps: Option<u64>,
    share_of_surviving_rate: Option<f64>,
    sender: Figures<'a>,
    receiver: Figures<'a>,
    link_there: LinkLine,
    link_back: LinkLine,
}

/// What one direction did.
#[derive(Serialize)]
struct LinkLine {
    offered: u64,
    delivered: u64,
    lost: u64,
    queue_dropped: u64,
    reordered: u64,
    duplicated: u64,
    corrupted: u64,
    queue_delay_max_ms: f64,
}

impl From<&LinkStats> for LinkLine {
    fn from(stats: &LinkStats) -> Self {
        Self {
            offered: stats.offered,
            delivered: stats.delivered,
            lost: stats.lost,
            queue_dropped: stats.queue_dropped,
            reordered: stats.reordered,
            duplicated: stats.duplicated,
            corrupted: stats.corrupted,
            queue_delay_max_ms: stats.queue_delay_max.as_secs_f64() * 1e3,
        }
    }
}

fn line<'a>(transfer: &Transfer, outcome: &Outcome) -> Line<'a> {
    let goodput = outcome
        .received_after
        .map(|time| Bitrate::from_transfer(transfer.size, time));
    let surviving = transfer
        .up
        .rate
        .map(|rate| rate.scale(1.0 - transfer.up.loss.share()));
    Line {
        event: "simulated",
        seed: transfer.seed,
        trace: format!("{:016x}", outcome.trace),
        exact: outcome.exact,
        received_after_s: outcome.received_after.map(|time| time.as_secs_f64()),
        goodput_bps: goodput.map(Bitrate::bits_per_sec),
        share_of_surviving_rate: goodput
            .zip(surviving)
            .map(|(part, whole)| ratio(part, whole)),
        sender: Figures::new("simulated", &outcome.sender),
        receiver: Figures::new("simulated", &outcome.receiver),
        link_there: (&outcome.up).into(),
        link_back: (&outcome.down).into(),
    }
}

/// Virtual time after which a run is given up.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
