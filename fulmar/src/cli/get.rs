//! `fulmar get HOST NAME.. [--into DIR]`.

use std::path::PathBuf;

use clap::Args;
use fulmar::transfer::{self, GetOptions};

use super::fault::Fault;
use super::pace::Mark;
use super::peer::Peer;
use super::{Talk, stop_on_signals};
use crate::ui::{Narrator, Role};

/// The options of `fulmar get`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where `fulmar serve` runs: a name or an address; [ADDRESS]:PORT for IPv6 with a port, which is 9000 if not given
    #[arg(value_name = "HOST[:PORT]")]
    host: String,
    /// What to fetch, one after the other; if the last one names a directory here, that is where the files go
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Where the files go; nothing there is ever overwritten
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    #[command(flatten)]
    peer: Peer,
    #[command(flatten)]
    mark: Mark,
    #[command(flatten)]
    talk: Talk,
}

impl Options {
    /// What to fetch, and where to.
    fn names_and_place(&self) -> (Vec<String>, PathBuf) {
        let (names, place) = match (&self.into, self.names.split_last()) {
            (Some(into), _) => (&self.names[..], into.clone()),
            (None, Some((last, names))) if !names.is_empty() && PathBuf::from(last).is_dir() => {
                (names, PathBuf::from(last))
            }
            (None, _) => (&self.names[..], PathBuf::from(".")),
        };
        // A folder may be written as `fulmar ls` writes it.
        let names = names.iter().map(|name| match name.strip_suffix('/') {
            Some(folder) if !folder.is_empty() => folder.to_owned(),
            Some(_) | None => name.clone(),
        });
        (names.collect(), place)
    }
}

/// Runs `fulmar get`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    let voice = options.talk.voice();
    let told = |fault: Fault| fault.told(voice);
    let mut meeting = options.peer.meet(&options.host, voice).map_err(told)?;
    let get = GetOptions {
        encrypt: options.peer.encryption(),
        trust: meeting.trust,
        dscp: options.mark.dscp(),
        stop: stop_on_signals()?,
        ..GetOptions::new(meeting.address)
    };
    let (names, place) = options.names_and_place();
    let mut narrator = Narrator::new(voice, Role::Client);
    let tally = transfer::get(&names, &place, &get, |update| {
        meeting.watch(update, &mut narrator);
    });
    drop(narrator);
    tally
        .map(drop)
        .map_err(|error| told(meeting.explain(&error)))
}
