//! `fulmar recv [DIR]`.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use clap::Args;
use fulmar::driver::Watcher;
use fulmar::identity::HostKey;
use fulmar::observe::{Metrics, Snapshot};
use fulmar::transfer::{ReceiveOptions, Receiver, TransferError};

use super::fault::{Exit, Fault};
use super::key::KeyFile;
use super::pace::Mark;
use super::{PORT, Talk, stop_on_signals};
use crate::ui::{Event, Narrator, Role};

/// The options of `fulmar recv`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where the files go; nothing there is ever overwritten
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Where to listen, ADDRESS[:PORT] or :PORT; port 0 takes any that is free [default: [::]:9000]
    #[arg(long, value_name = "ADDRESS", value_parser = listen)]
    listen: Option<SocketAddr>,
    /// End after the first transfer
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    key: KeyFile,
    #[command(flatten)]
    mark: Mark,
    /// Serve figures for Prometheus at http://ADDRESS/metrics: ADDRESS:PORT, or :PORT on loopback
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_at)]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    talk: Talk,
}

/// Runs `fulmar recv`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    let voice = options.talk.voice();
    let stop = stop_on_signals()?;
    let key = options.key.load_or_create()?;
    let receiver = bind(options, &key).map_err(|error| Fault::from(error).told(voice))?;
    let address = receiver.local_addr();
    let watched = receiver.watcher();
    let metrics = options
        .metrics
        .map(|at| serve_metrics(at, watched).map_err(|fault| fault.told(voice)))
        .transpose()?;
    let mut narrator = Narrator::new(
        voice,
        if options.once {
            Role::Client
        } else {
            Role::Daemon
        },
    );
    let identity = key.fingerprint().to_string();
    narrator.say(&format!("READY {address} {identity}"));
    voice.emit(&Event::Ready {
        listen: address,
        identity,
    });
    if let Some(metrics) = &metrics {
        let listen = metrics.local_addr();
        narrator.say(&format!("metrics at http://{listen}/metrics"));
        voice.emit(&Event::Metrics { listen });
    }
    let tally = receiver.run(|update| narrator.tell(update), &stop);
    drop(narrator);
    let tally = tally.map_err(|error| Fault::from(error).told(voice))?;
    if stop.load(Relaxed) && !options.once {
        let what = format!(
            "{} files received, {} failed, {} refused",
            tally.files, tally.failed, tally.refused
        );
        return Err(interrupted().because(what).told(voice));
    }
    Ok(())
}

/// A server of the figures of an HP-UDP endpoint.
pub(super) fn serve_metrics(at: SocketAddr, watched: Watcher) -> Result<Metrics, Fault> {
    Metrics::serve(at, move || Snapshot::of("hpudp", &watched)).map_err(|error| unserved(at, error))
}

fn unserved(at: SocketAddr, error: io::Error) -> Fault {
    Fault::failed(format!("cannot serve metrics at {at}"), error)
        .hint("use another port, or an address of this machine")
}

fn interrupted() -> Fault {
    Fault::new(Exit::Interrupted, "stopped by a signal")
}

fn bind(options: &Options, key: &HostKey) -> Result<Receiver, TransferError> {
    let mut receive = ReceiveOptions {
        once: options.once,
        dscp: options.mark.dscp(),
        ..ReceiveOptions::default()
    };
    receive.config.host_key = Some(Arc::new(key.secret()));
    bind_somewhere(options.listen, |at| {
        Receiver::bind(&options.dir, at, receive.clone())
    })
}

/// Binds where the user says, or else everywhere: to IPv6 and IPv4, or to IPv4 on a machine that has nothing else.
pub(super) fn bind_somewhere<T>(
    listen: Option<SocketAddr>,
    bind: impl Fn(SocketAddr) -> Result<T, TransferError>,
) -> Result<T, TransferError> {
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    match bind(listen.unwrap_or(everywhere)) {
        Err(error) if listen.is_none() && lacks_ipv6(&error) => {
            bind((Ipv4Addr::UNSPECIFIED, PORT).into())
        }
        bound => bound,
    }
}

/// Whether this machine has no IPv6 at all.
fn lacks_ipv6(error: &TransferError) -> bool {
    let Some(error) = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
    else {
        return false;
    };
    error.kind() == ErrorKind::AddrNotAvailable
        || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT)
}

/// Reads `ADDRESS[:PORT]` or `:PORT`.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let unbracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(ip) = unbracketed.parse::<IpAddr>() {
        return Ok((ip, PORT).into());
    }
    if let Some(port) = text
        .strip_prefix(':')
        .and_then(|port| port.parse::<u16>().ok())
    {
        return Ok((Ipv6Addr::UNSPECIFIED, port).into());
    }
    text.parse().map_err(|_| {
        format!("write an address of this machine, a port from 0 to 65535, or both, such as [::]:{PORT}, 192.0.2.7 or :{PORT}")
    })
}

/// Reads `ADDRESS:PORT` or `:PORT`.
pub(super) fn metrics_at(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').and_then(|port| port.parse().ok());
    port.map_or_else(
        || text.parse().ok(),
        |port: u16| Some((Ipv4Addr::LOCALHOST, port).into()),
    )
    .ok_or_else(|| {
        "write an address of this machine and a port, such as 127.0.0.1:9100, or :9100 for loopback"
            .to_owned()
    })
}

/// What this verb says by itself.
#[cfg(test)]
pub(super) fn samples() -> Vec<Fault> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 9100));
    let taken = io::Error::from_raw_os_error(98);
    let tally = "2 files received, 0 failed, 1 refused";
    vec![unserved(at, taken), interrupted().because(tally)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn where_to_serve_metrics() {
        for (text, want) in [
            (":9100", "127.0.0.1:9100"),
            ("[::]:0", "[::]:0"),
            ("192.0.2.7:1", "192.0.2.7:1"),
        ] {
            assert_eq!(metrics_at(text).unwrap(), want.parse().unwrap());
        }
        for text in ["", ":", "9100", "localhost:9100", "127.0.0.1", ":65536"] {
            assert!(metrics_at(text).unwrap_err().contains(":9100"), "{text}");
        }
    }

    #[test]
    fn where_to_listen() {
        for (text, want) in [
            ("[::]:9000", "[::]:9000"),
            ("127.0.0.1", "127.0.0.1:9000"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("::1", "[::1]:9000"),
            ("[::1]", "[::1]:9000"),
            (":7", "[::]:7"),
        ] {
            assert_eq!(listen(text).unwrap(), want.parse().unwrap());
        }
        for text in [
            "",
            ":",
            "localhost",
            "127.0.0.1:",
            "127.0.0.1:65536",
            "[::1]:x",
        ] {
            assert!(listen(text).unwrap_err().contains("[::]:9000"));
        }
    }
}
