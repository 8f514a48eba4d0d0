//! `fulmar recv [DIR]`.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use clap::Args;
use fulmar::transfer::{ReceiveOptions, Receiver, TransferError};

use super::fault::{Exit, Fault};
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
    /// End after the first file
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    mark: Mark,
    #[command(flatten)]
    talk: Talk,
}

/// Runs `fulmar recv`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    let voice = options.talk.voice();
    let stop = stop_on_signals()?;
    let receiver = bind(options).map_err(|error| Fault::from(error).told(voice))?;
    let address = receiver.local_addr();
    let mut narrator = Narrator::new(
        voice,
        if options.once {
            Role::ReceiverOnce
        } else {
            Role::Receiver
        },
    );
    narrator.say(&format!("READY {address}"));
    voice.emit(&Event::Ready { listen: address });
    let tally = receiver.run(|update| narrator.tell(update), &stop);
    drop(narrator);
    let tally = tally.map_err(|error| Fault::from(error).told(voice))?;
    if stop.load(Relaxed) && !options.once {
        let fault = Fault::new(Exit::Interrupted, "stopped by a signal");
        let what = format!(
            "{} files received, {} failed, {} refused",
            tally.files, tally.failed, tally.refused
        );
        return Err(fault.because(what).told(voice));
    }
    Ok(())
}

fn bind(options: &Options) -> Result<Receiver, TransferError> {
    let receive = ReceiveOptions {
        once: options.once,
        dscp: options.mark.dscp(),
        ..ReceiveOptions::default()
    };
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let bound = Receiver::bind(
        &options.dir,
        options.listen.unwrap_or(everywhere),
        receive.clone(),
    );
    match bound {
        Err(error) if options.listen.is_none() && lacks_ipv6(&error) => {
            Receiver::bind(&options.dir, (Ipv4Addr::UNSPECIFIED, PORT).into(), receive)
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
fn listen(text: &str) -> Result<SocketAddr, String> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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
