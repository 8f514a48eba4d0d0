//! `fulmar ls HOST`.

use clap::Args;
use fulmar::transfer::{self, GetOptions};
use fulmar_proto::engine::Bytes;
use serde_json::json;

use super::fault::Fault;
use super::peer::resolve;
use super::send::split;
use super::{Talk, stop_on_signals};
use crate::ui::{escaped, print, print_json};

/// The options of `fulmar ls`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where `fulmar serve` runs: a name or an address; [ADDRESS]:PORT for IPv6 with a port, which is 9000 if not given
    #[arg(value_name = "HOST[:PORT]")]
    host: String,
    #[command(flatten)]
    talk: Talk,
}

/// Runs `fulmar ls`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    let voice = options.talk.voice();
    let told = |fault: Fault| fault.told(voice);
    let (name, port) = split(&options.host)?;
    let get = GetOptions {
        stop: stop_on_signals()?,
        ..GetOptions::new(resolve(name, port).map_err(told)?)
    };
    let listed = transfer::list(&get).map_err(|error| told(Fault::from(error)))?;
    for file in &listed {
        let name = escaped(file.name.as_bytes());
        if options.talk.json {
            let event = if file.folder { "folder" } else { "file" };
            print_json(&json!({ "event": event, "file": file.name, "size": file.size }));
        } else if file.folder {
            print(&format!("{:>10}  {name}/\n", "folder"));
        } else {
            let size = file
                .size
                .map_or_else(String::new, |size| Bytes(size).to_string());
            print(&format!("{size:>10}  {name}\n"));
        }
    }
    if listed.is_empty() {
        voice.say(&format!("note: {} has nothing to give", options.host));
    }
    Ok(())
}
