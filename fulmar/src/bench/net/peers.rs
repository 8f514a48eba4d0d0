//! Who moves the file from one end of a road to the other.
//!
//! Each gets what it needs to run at its best: large windows where it has some to set, and a server of our own. The
//! clock runs from the start of the sender, handshake included, until the sender knows that all arrived, or until the
//! limit; then what has arrived counts. They do *not* touch any file of the user.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;

use super::road::{FAR, Road};
use super::tcp;
use crate::bench::peers::{Place, Scp};
use crate::bench::process::{Running, program};

/// A contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// `fulmar send`, encrypted.
    Fulmar,
    /// `fulmar send --plain`.
    FulmarPlain,
    /// One TCP connection, CUBIC.
    TcpCubic,
    /// One TCP connection, BBR.
    TcpBbr,
    /// `scp`, over TCP CUBIC.
    ScpCubic,
    /// `scp`, over TCP BBR.
    ScpBbr,
    /// One stream of a QUIC connection, CUBIC.
    QuinnCubic,
    /// One stream of a QUIC connection, BBR.
    QuinnBbr,
    /// `srt-file-transmit`.
    Srt,
}

impl Kind {
    /// Its name, as options and tables have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fulmar => "fulmar",
            Self::FulmarPlain => "fulmar-plain",
            Self::TcpCubic => "tcp-cubic",
            Self::TcpBbr => "tcp-bbr",
            Self::ScpCubic => "scp-cubic",
            Self::ScpBbr => "scp-bbr",
            Self::QuinnCubic => "quinn-cubic",
            Self::QuinnBbr => "quinn-bbr",
            Self::Srt => "srt",
        }
    }

    /// Whether it can run here.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) fn available(self) -> anyhow::Result<()> {
        match self {
            Self::Fulmar | Self::FulmarPlain => Ok(()),
            Self::TcpCubic => tcp::available("cubic"),
            Self::TcpBbr => tcp::available("bbr"),
            Self::ScpCubic => scp_available("cubic"),
            Self::ScpBbr => scp_available("bbr"),
            Self::QuinnCubic | Self::QuinnBbr if cfg!(feature = "bench-quinn") => Ok(()),
            Self::QuinnCubic | Self::QuinnBbr => {
                bail!("this program was built without the feature bench-quinn")
            }
            Self::Srt => program(SRT).map(drop),
        }
    }

    /// Moves the file.
    ///
    /// # Errors
    ///
    /// What stopped it before the limit, or that it was told to stop.
    pub(super) fn carry(self, task: &Task<'_>) -> anyhow::Result<Moved> {
        match self {
            Self::Fulmar => fulmar(task, "--encrypt"),
            Self::FulmarPlain => fulmar(task, "--plain"),
            Self::TcpCubic => tcp::carry(task, "cubic"),
            Self::TcpBbr => tcp::carry(task, "bbr"),
            Self::ScpCubic => scp(task, "cubic"),
            Self::ScpBbr => scp(task, "bbr"),
            #[cfg(feature = "bench-quinn")]
            Self::QuinnCubic => super::quic::carry(task, super::quic::Controller::Cubic),
            #[cfg(feature = "bench-quinn")]
            Self::QuinnBbr => super::quic::carry(task, super::quic::Controller::Bbr),
            #[cfg(not(feature = "bench-quinn"))]
            Self::QuinnCubic | Self::QuinnBbr => self.available().map(|()| Moved::nothing(task)),
            Self::Srt => srt(task),
        }
    }
}

/// What to move, over what.
pub(super) struct Task<'a> {
    pub(super) road: &'a Road,
    pub(super) place: &'a Place,
    /// The file. Its name is `source`.
    pub(super) source: &'a Path,
    /// The directory where it goes, under its own name.
    pub(super) target: &'a Path,
    /// Bytes.
    pub(super) size: u64,
    /// When to give up.
    pub(super) limit: Duration,
    /// This program.
    pub(super) binary: &'a Path,
    pub(super) stop: &'a AtomicBool,
}

/// What was moved.
#[derive(Debug)]
pub(super) struct Moved {
    /// File bytes that arrived.
    pub(super) bytes: u64,
    /// In this time.
    pub(super) time: Duration,
    /// All of it.
    pub(super) whole: bool,
    /// Processor time of the sending and the receiving end.
    pub(super) cpu: [Option<Duration>; 2],
}

impl Moved {
    /// The limit passed, and nothing arrived.
    fn nothing(task: &Task<'_>) -> Self {
        Self {
            bytes: 0,
            time: task.limit,
            whole: false,
            cpu: [None, None],
        }
    }

    /// The limit passed; what the target has under its name arrived in order.
    fn so_far(task: &Task<'_>) -> Self {
        let bytes = fs::metadata(task.target.join("source")).map_or(0, |file| file.len());
        Self {
            bytes,
            ..Self::nothing(task)
        }
    }

    fn all(task: &Task<'_>, time: Duration) -> Self {
        Self {
            bytes: task.size,
            time,
            whole: true,
            cpu: [None, None],
        }
    }
}

/// `fulmar recv --once` and `fulmar send`.
fn fulmar(task: &Task<'_>, privacy: &str) -> anyhow::Result<Moved> {
    let mut recv = Command::new(task.binary);
    recv.arg("recv").arg(task.target);
    recv.args(["--listen", &format!("{FAR}:0"), "--once", "--json"]);
    recv.stdout(Stdio::piped());
    let mut recv = task.road.far().enter(|| Running::spawn(&mut recv))?;
    let to = recv.ready()?;
    let mut send = Command::new(task.binary);
    send.arg("send").arg(task.source).arg(to.to_string());
    send.args([privacy, "--quiet"]);
    let start = Instant::now();
    let deadline = start + task.limit;
    let mut send = task.road.near().enter(|| Running::spawn(&mut send))?;
    let moved = if send.finish_by(deadline, "fulmar send", task.stop)? {
        let moved = Moved::all(task, start.elapsed());
        recv.finish("fulmar recv", task.stop)?;
        moved
    } else {
        recv.finish_by(Instant::now(), "fulmar recv", task.stop)?;
        match recv.lines().filter_map(progress).last() {
            Some((at, bytes)) => Moved {
                bytes,
                time: at.saturating_duration_since(start),
                ..Moved::nothing(task)
            },
            None => Moved::nothing(task),
        }
    };
    Ok(Moved {
        cpu: [send.cpu, recv.cpu],
        ..moved
    })
}

/// How many bytes had arrived when a receiver wrote this line.
fn progress((at, line): (Instant, String)) -> Option<(Instant, u64)> {
    let event: serde_json::Value = serde_json::from_str(&line).ok()?;
    let done = event["done"].as_u64()?;
    Some((at, done))
}

fn scp_available(congestion: &str) -> anyhow::Result<()> {
    for name in ["scp", "sshd", "ssh-keygen"] {
        program(name)?;
    }
    tcp::available(congestion)
}

fn scp(task: &Task<'_>, congestion: &str) -> anyhow::Result<Moved> {
    task.road.control_congestion(congestion)?;
    let server = task.road.far().enter(|| Scp::start(task.place, FAR))?;
    let mut scp = server.command(task.source, task.target);
    let start = Instant::now();
    let mut sender = task.road.near().enter(|| Running::spawn(&mut scp))?;
    if sender.finish_by(start + task.limit, "scp", task.stop)? {
        Ok(Moved::all(task, start.elapsed()))
    } else {
        Ok(Moved::so_far(task))
    }
}

/// The receiver writes what it gets and ends with the sender.
fn srt(task: &Task<'_>) -> anyhow::Result<Moved> {
    let port = task.road.far().enter(|| {
        let socket = UdpSocket::bind((FAR, 0))?;
        Ok(socket.local_addr()?.port())
    })?;
    let arrives = format!("file://{}", task.target.join("source").display());
    let mut recv = Command::new(program(SRT)?);
    recv.arg("-q")
        .arg(format!("srt://{FAR}:{port}?mode=listener&{SRT_OPTIONS}"))
        .arg(arrives);
    recv.stdout(Stdio::null());
    let mut recv = task.road.far().enter(|| Running::spawn(&mut recv))?;
    let deadline = Instant::now() + SRT_START;
    // There is nothing to ask a UDP listener; its port is taken when it listens.
    while task
        .road
        .far()
        .enter(|| Ok(UdpSocket::bind((FAR, port)).is_ok()))?
    {
        if Instant::now() > deadline {
            bail!("{SRT} did not listen");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mut send = Command::new(program(SRT)?);
    send.arg("-q")
        .arg(format!("file://{}", task.source.display()))
        .arg(format!(
            "srt://{FAR}:{port}?mode=caller&conntimeo={SRT_PATIENCE_MS}&{SRT_OPTIONS}"
        ));
    send.stdout(Stdio::null());
    let start = Instant::now();
    let deadline = start + task.limit;
    let mut send = task.road.near().enter(|| Running::spawn(&mut send))?;
    let whole =
        send.finish_by(deadline, SRT, task.stop)? && recv.finish_by(deadline, SRT, task.stop)?;
    let moved = if whole {
        Moved::all(task, start.elapsed())
    } else {
        recv.finish_by(Instant::now(), SRT, task.stop)?;
        Moved::so_far(task)
    };
    Ok(Moved {
        cpu: [send.cpu, recv.cpu],
        ..moved
    })
}

const SRT: &str = "srt-file-transmit";
/// Buffers and window, in bytes and packets, for what is on its way over the longest link at the highest rate twice.
const SRT_OPTIONS: &str = "transtype=file&fc=60000&sndbuf=80000000&rcvbuf=80000000";
const SRT_START: Duration = Duration::from_secs(5);
/// For the handshake; 3 s if not said.
const SRT_PATIENCE_MS: u32 = 20_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn options_and_tables_call_a_contender_the_same() {
        for kind in Kind::value_variants() {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.name());
        }
    }

    #[test]
    fn progress_is_read_from_the_lines_that_have_it() {
        let at = Instant::now();
        let read = |line: &str| progress((at, line.to_owned()));
        assert_eq!(read(r#"{"event":"progress","done":7}"#), Some((at, 7)));
        assert_eq!(read(r#"{"event":"socket","wanted":7}"#), None);
        assert_eq!(read("no"), None);
    }
}
