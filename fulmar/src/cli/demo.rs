//! `fulmar demo [FILE]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use fulmar::demo::{self, DemoError, Outcome, StandIn};
use fulmar_proto::engine::{Bitrate, Bytes};
use fulmar_proto::hpudp::DATAGRAM_MAX;
use fulmar_proto::sim::Profile;
use serde::Serialize;

use super::fault::{Exit, Fault};
use super::link::{Link, described};
use super::pace::Pace;
use super::{Talk, stop_on_signals};
use crate::ui::{self, Narrator, Role, Voice, escaped, short_time};

/// The options of `fulmar demo`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// What to send; copies of this program if not given
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    link: Link,
    /// Do not encrypt
    #[arg(long)]
    plain: bool,
    /// Where the link's chances come from; the same seed loses by the same pattern
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    talk: Talk,
}

/// Runs `fulmar demo`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    let voice = options.talk.voice();
    let link = options.link.profile();
    let mut config = options.pace.config_for(&link)?;
    // Both ends are ours and the answer is there: nobody waits for stragglers.
    config.linger = LINGER;
    let stand_in = match &options.file {
        Some(_) => None,
        None => {
            Some(StandIn::new().map_err(|error| Fault::failed("cannot copy this program", error))?)
        }
    };
    let named = || options.file.clone().unwrap_or_default();
    let file = stand_in.as_ref().map_or_else(named, StandIn::path);
    if matches!(voice, Voice::Bar | Voice::Lines) {
        let copies = stand_in.as_ref().map(|stand_in| stand_in.copies);
        ui::print(&introduction(&file, copies, &link));
    }
    let what = demo::Options {
        file,
        link,
        config,
        encrypt: !options.plain,
        seed: options.seed,
        stop: stop_on_signals()?,
    };
    let mut narrator = Narrator::new(voice, Role::Client);
    let outcome = demo::run(&what, |update| narrator.tell(update));
    drop(narrator);
    let outcome = outcome.map_err(|error| fault(error).told(voice))?;
    match voice {
        Voice::Json => ui::print_json(&verdict(&outcome, &what)),
        Voice::Quiet => {}
        Voice::Bar | Voice::Lines => ui::print(&verdict_words(&outcome, &what)),
    }
    Ok(())
}

fn introduction(file: &Path, copies: Option<usize>, link: &Profile) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str());
    let size = std::fs::metadata(file).map_or(0, |file| file.len());
    format!(
        "A link with {} round trip, made of sockets and a relay on this machine:\n  there  {}\n  back   {}\n\
         Across it goes {}, {}{}.\n\n",
        short_time(link.rtt()),
        described(&link.up),
        described(&link.down),
        escaped(name.as_encoded_bytes()),
        Bytes(size),
        copies.map_or(String::new(), |copies| format!(
            ": this program, {copies} times"
        ))
    )
}

fn verdict_words(outcome: &Outcome, options: &demo::Options) -> String {
    let up = &options.link.up;
    let mut lines = vec![format!(
        "intact    {} arrived in {}; the copy has the hash of the source, {:016x}, read again from both files",
        Bytes(outcome.size),
        short_time(outcome.elapsed),
        outcome.hash
    )];
    let it = &outcome.snapshot;
    lines.push(format!(
        "link      {} packets sent, {} lost; {} chunks repaired by parity, {} sent again",
        outcome.link.up.offered,
        outcome.link.up.lost + outcome.link.up.queue_dropped,
        it.repaired,
        it.retransmitted
    ));
    match (outcome.capacity, up.rate) {
        (Some(capacity), Some(rate)) => lines.push(format!(
            "goodput   {}, {:.0} % of the {capacity} that this link can carry:\n          \
             {rate}, of which {:.1} % arrive, and {} of {} bytes of a packet are file",
            outcome.goodput,
            100.0 * share(outcome.goodput, capacity),
            100.0 * (1.0 - up.loss.share()),
            demo::chunk(options.encrypt),
            DATAGRAM_MAX + up.overhead
        )),
        _ => lines.push(format!("goodput   {}", outcome.goodput)),
    }
    let rtts = outcome.elapsed.as_secs_f64() / options.link.rtt().as_secs_f64().max(1e-9);
    if rtts < SHORT {
        lines.push(format!(
            "          All of it took {rtts:.0} round trips, start and end included; a larger file shows the pace: fulmar demo FILE"
        ));
    }
    if let Some(tcp) = outcome.tcp {
        lines.push(format!(
            "tcp       {tcp}: not measured, but what one stream gets at this delay, loss and rate by the model of\n          \
             RFC 5348, section 3.1 (Reno-like, 1448-byte segments); this transfer was {:.0} times as fast",
            share(outcome.goodput, tcp)
        ));
    }
    lines.join("\n") + "\n"
}

/// The result in one object.
#[derive(Serialize)]
struct Verdict {
    event: &'static str,
    size: u64,
    hash: String,
    elapsed_s: f64,
    goodput_bps: u64,
    capacity_bps: Option<u64>,
    share_of_capacity: Option<f64>,
    tcp_model_bps: Option<u64>,
    packets: u64,
    packets_lost: u64,
    repaired: u64,
    retransmitted: u64,
    encrypted: bool,
}

fn verdict(outcome: &Outcome, options: &demo::Options) -> Verdict {
    Verdict {
        event: "result",
        size: outcome.size,
        hash: format!("{:016x}", outcome.hash),
        elapsed_s: outcome.elapsed.as_secs_f64(),
        goodput_bps: outcome.goodput.bits_per_sec(),
        capacity_bps: outcome.capacity.map(Bitrate::bits_per_sec),
        share_of_capacity: outcome
            .capacity
            .map(|capacity| share(outcome.goodput, capacity)),
        tcp_model_bps: outcome.tcp.map(Bitrate::bits_per_sec),
        packets: outcome.link.up.offered,
        packets_lost: outcome.link.up.lost + outcome.link.up.queue_dropped,
        repaired: outcome.snapshot.repaired,
        retransmitted: outcome.snapshot.retransmitted,
        encrypted: options.encrypt,
    }
}

fn share(part: Bitrate, whole: Bitrate) -> f64 {
    part.bits_per_sec() as f64 / whole.bits_per_sec().max(1) as f64
}

fn fault(error: DemoError) -> Fault {
    let (exit, what) = match error {
        DemoError::Transfer(error) => return error.into(),
        DemoError::Differs { .. } => (Exit::Integrity, "the copy differs from the source"),
        DemoError::SetUp(_) | DemoError::Compare(_) | _ => {
            (Exit::Failed, "the demonstration failed")
        }
    };
    Fault::new(exit, what).because(error)
}

const LINGER: Duration = Duration::from_millis(200);
/// Round trips below which a transfer is mostly start and end.
const SHORT: f64 = 30.0;
