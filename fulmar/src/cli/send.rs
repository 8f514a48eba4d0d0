//! `fulmar send FILE.. HOST[:PORT]` and `fulmar put FILE.. HOST[:PORT]`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use fulmar::bundle::Cache;
use fulmar::transfer::{self, SendOptions};
use fulmar_proto::hpudp::Via;

use super::fault::Fault;
use super::pace::{Bounds, Pace};
use super::peer::Peer;
use super::{PORT, Talk, stop_on_signals};
use crate::ui::{Narrator, Role};

/// The options of `fulmar send` and `fulmar put`.
#[derive(Debug, Args)]
pub(super) struct Options {
    // One list, for clap parts two only where no option stands between them.
    /// Files and folders to send, and last where to: a name or an address; [ADDRESS]:PORT for IPv6 with a port, which is
    /// 9000 if not given
    #[arg(required = true, value_name = "FILE")]
    files_and_host: Vec<PathBuf>,
    #[command(flatten)]
    peer: Peer,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    bounds: Bounds,
    #[command(flatten)]
    talk: Talk,
}

impl Options {
    /// What to send, and where to.
    fn files_and_host(&self) -> Result<(&[PathBuf], &str), Fault> {
        let usage = || {
            Fault::usage(
                "HOST[:PORT] is required after what is to be sent; write FILE... HOST[:PORT]",
            )
        };
        match self.files_and_host.split_last() {
            Some((host, files)) if !files.is_empty() => {
                // What is no UTF-8 is a file, and no host.
                Ok((files, host.to_str().ok_or_else(usage)?))
            }
            Some(_) | None => Err(usage()),
        }
    }
}

/// Runs `fulmar send`.
pub(super) fn run(options: &Options) -> Result<(), Fault> {
    transmit(options, Via::Direct)
}

/// Runs `fulmar put`, which differs in whom it calls.
pub(super) fn put(options: &Options) -> Result<(), Fault> {
    transmit(options, Via::Push)
}

fn transmit(options: &Options, via: Via) -> Result<(), Fault> {
    let voice = options.talk.voice();
    let (files, host) = options.files_and_host()?;
    let config = options.pace.config(&options.bounds)?;
    let told = |fault: Fault| fault.told(voice);
    let mut meeting = options.peer.meet(host, voice).map_err(told)?;
    let send = SendOptions {
        encrypt: options.peer.encryption(),
        via,
        cache: Cache::of_user(),
        trust: meeting.trust,
        config,
        bwlimit: options.bounds.bwlimit().clone(),
        dscp: options.bounds.dscp(),
        stop: stop_on_signals()?,
        ..SendOptions::new(meeting.address)
    };
    let mut narrator = Narrator::new(voice, Role::Client);
    let sent = transfer::send(files, &send, |update| {
        meeting.watch(update, &mut narrator);
    });
    drop(narrator);
    sent.map(drop)
        .map_err(|error| told(meeting.explain(&error)))
}

/// `HOST[:PORT]` as a host without brackets, and a port.
pub(super) fn split(text: &str) -> Result<(&str, u16), Fault> {
    let (host, port) = split_port(text)?;
    Ok((host, port.unwrap_or(PORT)))
}

/// `HOST[:PORT]` as a host without brackets, and the port if there is one.
pub(super) fn split_port(text: &str) -> Result<(&str, Option<u16>), Fault> {
    let wrong = |problem: &str| {
        Fault::usage(format!(
            "HOST[:PORT] {text:?} {problem}; write a name or an address, with a port from 1 to 65535 if it is not {PORT}, \
             such as example.org, 192.0.2.7:{PORT} or [2001:db8::7]:{PORT}"
        ))
    };
    // An IPv6 address has colons of its own.
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, None));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or_else(|| wrong("lacks a closing bracket"))?;
            if host.parse::<IpAddr>().is_err() {
                return Err(wrong("has no address in its brackets"));
            }
            match port {
                "" => (host, None),
                port => (
                    host,
                    Some(
                        port.strip_prefix(':')
                            .ok_or_else(|| wrong("goes on after its bracket"))?,
                    ),
                ),
            }
        }
        None => text
            .rsplit_once(':')
            .map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(wrong("has no host"));
    }
    match port.map(str::parse) {
        None => Ok((host, None)),
        Some(Ok(port @ 1..)) => Ok((host, Some(port))),
        Some(Ok(0) | Err(_)) => Err(wrong("has a port that is none")),
    }
}

/// What this verb says when it cannot begin.
#[cfg(test)]
pub(super) fn samples() -> Vec<Fault> {
    let unknown = "failed to lookup address information: Name or service not known";
    let usage =
        "--rate is no rate; write a number and a unit, such as 10M (one sentence, on the argument)";
    vec![
        Fault::usage(usage),
        super::peer::nowhere("HOST").because(unknown),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::fault::Exit;
    use super::*;

    #[test]
    fn hosts_with_and_without_ports() {
        for (text, want) in [
            ("example.org", ("example.org", 9000)),
            ("example.org:1234", ("example.org", 1234)),
            ("192.0.2.7", ("192.0.2.7", 9000)),
            ("192.0.2.7:1", ("192.0.2.7", 1)),
            ("2001:db8::7", ("2001:db8::7", 9000)),
            ("[2001:db8::7]", ("2001:db8::7", 9000)),
            ("[2001:db8::7]:65535", ("2001:db8::7", 65535)),
        ] {
            assert_eq!(split(text).unwrap(), want);
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_the_forms() {
        for text in [
            "", ":9000", "a:", "a:0", "a:65536", "a:b", "[::1", "[::1]x", "[a]:1", "[::1]:",
        ] {
            let fault = split(text).unwrap_err();
            assert_eq!(fault.exit, Exit::Usage);
            let sentence = fault.to_string();
            assert!(
                sentence.contains("HOST[:PORT]") && sentence.contains("1 to 65535"),
                "{sentence}"
            );
        }
    }
}
