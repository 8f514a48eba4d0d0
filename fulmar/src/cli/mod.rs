//! The command line: what each verb is called, and how it ends.
//!
//! One file per verb; each reads its options, calls one function of the library and says what became of it. A
//! failure is three lines, `error:`, `because:`, `try:`, and an exit code that scripts can tell apart. Bad usage is
//! one sentence that names the argument and what it may be. It does *not* hold anything
//! that another program could want; that is the library's.

mod bench;
mod demo;
mod fault;
mod get;
mod key;
mod link;
mod ls;
mod pace;
mod peer;
mod recv;
mod send;
mod serve;
mod sim;
#[cfg(test)]
#[path = "../../tests/common/table.rs"]
mod table;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::ui::Voice;

use fault::Exit;
pub(crate) use fault::Fault;

/// Moves files over bad networks.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    arg_required_else_help = false
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send files and folders to a machine where `fulmar recv` runs
    #[command(override_usage = "fulmar send [OPTIONS] <FILE>... <HOST[:PORT]>")]
    Send(send::Options),
    /// Receive files and folders into a directory
    Recv(recv::Options),
    /// Serve the files and folders of a directory to whoever asks
    Serve(serve::Options),
    /// Fetch files and folders from a machine where `fulmar serve` runs
    Get(get::Options),
    /// List what a machine where `fulmar serve` runs has
    Ls(ls::Options),
    /// Send files and folders to a machine where `fulmar serve --allow-put` runs
    #[command(override_usage = "fulmar put [OPTIONS] <FILE>... <HOST[:PORT]>")]
    Put(send::Options),
    /// Show, change and forget the keys that say who is who
    #[command(subcommand, arg_required_else_help = false)]
    Key(key::Verb),
    /// Run a protocol over a simulated link, in virtual time
    #[command(subcommand, arg_required_else_help = false)]
    Sim(sim::Protocol),
    /// Send a real file across a bad link on this machine
    Demo(demo::Options),
    /// Compare with TCP, QUIC, scp and rsync over loopback
    Bench(bench::Options),
}

/// Parses the command line, does what it says and tells how it went.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => match cli.verb {
            Verb::Send(options) => send::run(&options),
            Verb::Recv(options) => recv::run(&options),
            Verb::Serve(options) => serve::run(&options),
            Verb::Get(options) => get::run(&options),
            Verb::Ls(options) => ls::run(&options),
            Verb::Put(options) => send::put(&options),
            Verb::Key(verb) => key::run(&verb),
            Verb::Sim(sim::Protocol::Hpudp(options)) => sim::run(&options),
            Verb::Demo(options) => demo::run(&options),
            Verb::Bench(options) => bench::run(&options),
        },
        Err(error) if is_an_answer(&error) => {
            // A reader that went away has read enough.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => Err(Fault::usage(one_sentence(&error))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            fault.print();
            fault.exit.into()
        }
    }
}

/// How a command talks.
#[derive(Clone, Copy, Debug, Args)]
struct Talk {
    /// Print one JSON object per line on standard output
    #[arg(long)]
    json: bool,
    /// Print errors only
    #[arg(long, short)]
    quiet: bool,
}

impl Talk {
    fn voice(self) -> Voice {
        Voice::chosen(self.json, self.quiet)
    }
}

/// A flag that the first SIGINT or SIGTERM raises; the second one ends the process at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>, Fault> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down, and then raises it.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            Exit::Interrupted as i32,
            Arc::clone(&stop),
        )
        .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
        .map_err(|error| Fault::failed("cannot listen for signals", error))?;
    }
    Ok(stop)
}

/// Whether clap's "error" is what the user asked for: help or the version.
fn is_an_answer(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    )
}

/// Clap's message without its layout: what is wrong, and what is allowed.
fn one_sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let (mut parts, mut usage) = (Vec::new(), "");
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(line) = line.strip_prefix("Usage: ") {
            usage = line;
            break;
        }
        if !line.starts_with("For more information") {
            parts.push(
                line.trim_start_matches("error: ")
                    .trim_start_matches("tip: "),
            );
        }
    }
    let sentence = parts.join(" ");
    // Clap leaves out what is allowed where its layout has it further down.
    if error.kind() == ErrorKind::MissingRequiredArgument {
        format!("{sentence}; write {usage}")
    } else if error.kind() == ErrorKind::InvalidSubcommand {
        format!("{sentence}; write {}", subcommands(usage).join(", "))
    } else {
        sentence
    }
}

/// What may stand where this usage says `<COMMAND>`.
fn subcommands(usage: &str) -> Vec<String> {
    let mut command = Cli::command();
    for word in usage.split(' ').skip(1) {
        match command.find_subcommand(word) {
            Some(found) => command = found.clone(),
            None => break,
        }
    }
    command
        .get_subcommands()
        .map(|found| found.get_name().to_owned())
        .collect()
}

/// The port of HP-UDP direct transfers when none is given.
const PORT: u16 = 9000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn refused(line: &str) -> String {
        one_sentence(&Cli::try_parse_from(line.split(' ')).unwrap_err())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_usage_is_one_sentence_with_the_argument_and_what_it_may_be() {
        for (line, needles) in [
            (
                "fulmar send f h --policy tcp",
                ["--policy", "fair, low, fixed, hpudp"],
            ),
            ("fulmar send f h --dscp af99", ["--dscp", "0 to 63"]),
            (
                "fulmar send f h --bwlimit 8-9=1M",
                ["--bwlimit", "08:00-18:00=20M"],
            ),
            ("fulmar key", ["subcommand", "rotate"]),
            ("fulmar send f h --fec none", ["--fec", "adaptive, table"]),
            ("fulmar send f h --rate 10m", ["--rate", "1.5Gbit"]),
            ("fulmar sim hpudp --loss 120%", ["--loss", "0% to 100%"]),
            ("fulmar sim hpudp --rtt 5", ["--rtt", "200ms"]),
            ("fulmar sim hpudp --size 5q", ["--size", "50MiB"]),
            ("fulmar sim hpudp --link moon", ["--link", "satellite"]),
            ("fulmar sim", ["subcommand", "hpudp"]),
            ("fulmar sim srt", ["srt", "hpudp"]),
            ("fulmar send", ["HOST", "required"]),
            ("fulmar recv --listen nowhere", ["--listen", "[::]:9000"]),
            (
                "fulmar send f h --encrypt --plain",
                ["--encrypt", "--plain"],
            ),
            ("fulmar fetch", ["fetch", "send, recv"]),
            ("fulmar", ["subcommand", "demo"]),
        ] {
            let sentence = refused(line);
            assert!(!sentence.contains('\n'), "{line}: {sentence}");
            for needle in needles {
                assert!(
                    sentence.contains(needle),
                    "{line}: {sentence} lacks {needle}"
                );
            }
        }
    }
}
