//! `fulmar bench`: one table for loopback.

use std::sync::atomic::Ordering::Relaxed;

use clap::Args;
use fulmar::config::parse_bytes;
use fulmar_proto::engine::Bytes;

use super::fault::{Exit, Fault};
use super::{Talk, stop_on_signals};
use crate::{bench, ui};

/// The options of `fulmar bench`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Size of the file
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes)]
    size: Bytes,
    /// Runs of each contender, one after the other in turn; the table shows the median
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    #[command(flatten)]
    talk: Talk,
}

/// Runs `fulmar bench`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    let voice = options.talk.voice();
    if options.size.0 == 0 {
        return Err(Fault::usage(
            "--size 0 is nothing to send; write a size such as 1GiB",
        ));
    }
    let stop = stop_on_signals()?;
    let binary = std::env::current_exe()
        .map_err(|error| Fault::failed("cannot find this program's own file", error))?;
    let what = bench::Options {
        size: options.size,
        runs: options.runs.into(),
        binary,
    };
    let report = bench::run(&what, &stop, |doing| voice.say(doing)).map_err(|error| {
        let exit = if stop.load(Relaxed) {
            Exit::Interrupted
        } else {
            Exit::Failed
        };
        Fault::new(exit, "the bench did not finish")
            .because(error)
            .told(voice)
    })?;
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
