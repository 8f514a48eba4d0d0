//! `fulmar serve DIR`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use fulmar::bundle::Cache;
use fulmar::config::{Schedule, parse_duration};
use fulmar::transfer::{ServeOptions, Server};

use super::fault::Fault;
use super::key::KeyFile;
use super::pace::Mark;
use super::recv::{bind_somewhere, listen, metrics_at, serve_metrics};
use super::{Talk, stop_on_signals};
use crate::ui::{Event, Narrator, Role};

/// The options of `fulmar serve`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The directory whose files can be fetched; nothing there is ever overwritten
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where to listen, ADDRESS[:PORT] or :PORT; port 0 takes any that is free [default: [::]:9000]
    #[arg(long, value_name = "ADDRESS", value_parser = listen)]
    listen: Option<SocketAddr>,
    /// Take files as well
    #[arg(long)]
    allow_put: bool,
    /// Give new files too; without it, those that are there now
    #[arg(long)]
    watch: bool,
    /// Refuse clients that do not encrypt
    #[arg(long)]
    require_encryption: bool,
    /// Never send faster than this, all clients together: a rate, or rates by local time, such as
    /// 08:00-18:00=20M,18:00-23:00=50M,*=off
    #[arg(long, value_name = "LIMIT", default_value = "off")]
    bwlimit: Schedule,
    /// How long transfers may go on after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    drain: Duration,
    /// Serve figures for Prometheus at http://ADDRESS/metrics: ADDRESS:PORT, or :PORT on loopback
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_at)]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    key: KeyFile,
    #[command(flatten)]
    mark: Mark,
    #[command(flatten)]
    talk: Talk,
}

/// Runs `fulmar serve`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    let voice = options.talk.voice();
    let stop = stop_on_signals()?;
    let key = options.key.load_or_create()?;
    let mut serve = ServeOptions {
        allow_put: options.allow_put,
        watch: options.watch,
        cache: Cache::of_user(),
        dscp: options.mark.dscp(),
        bwlimit: options.bwlimit.clone(),
        drain: options.drain,
        ..ServeOptions::default()
    };
    serve.config.host_key = Some(Arc::new(key.secret()));
    serve.config.require_encryption = options.require_encryption;
    let server = bind_somewhere(options.listen, |at| {
        Server::bind(&options.dir, at, serve.clone())
    });
    let server = server.map_err(|error| Fault::from(error).told(voice))?;
    let (watched, offers) = (server.watcher(), server.offers());
    let metrics = options
        .metrics
        .map(|at| serve_metrics(at, watched).map_err(|fault| fault.told(voice)))
        .transpose()?;
    let mut narrator = Narrator::new(voice, Role::Daemon);
    let address = server.local_addr();
    let identity = key.fingerprint().to_string();
    narrator.say(&format!("READY {address} {identity}"));
    voice.emit(&Event::Ready {
        listen: address,
        identity,
    });
    narrator.say(&on_offer(offers, options));
    if let Some(metrics) = &metrics {
        let listen = metrics.local_addr();
        narrator.say(&format!("metrics at http://{listen}/metrics"));
        voice.emit(&Event::Metrics { listen });
    }
    let tally = server.run(|update| narrator.tell(update), &stop);
    let tally = tally.map_err(|error| Fault::from(error).told(voice))?;
    narrator.say(&format!(
        "{} files given, {} taken, {} failed, {} refused",
        tally.served, tally.files, tally.failed, tally.refused
    ));
    Ok(())
}

/// What can be done here, in a sentence.
fn on_offer((files, folders): (usize, usize), options: &Options) -> String {
    let later = match (options.watch, options.allow_put) {
        (true, true) => ", and what comes later or is put",
        (true, false) => ", and what comes later",
        (false, true) => ", and what is put",
        (false, false) if files + folders == 0 => "; --watch gives what comes later",
        (false, false) => "",
    };
    format!("{files} files and {folders} folders can be fetched{later}")
}
