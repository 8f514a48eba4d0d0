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
use serde::{Deserialize, Serialize};

use super::road::{Cell, FAR, Road};
use super::tcp;
use crate::bench::fulmar::{Fulmar, Way};
use crate::bench::peers::{Place, Scp};
use crate::bench::process::{Running, program};
use crate::bench::quinn::Quinn;

/// A contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// `fulmar put`, encrypted.
    Fulmar,
    /// `fulmar put --plain`.
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

    /// Whether it is this program.
    pub(crate) fn is_own(self) -> bool {
        matches!(self, Self::Fulmar | Self::FulmarPlain)
    }

    /// Whether it can run here.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) fn available(self, binary: &Path) -> anyhow::Result<()> {
        match self {
            Self::Fulmar | Self::FulmarPlain => Ok(()),
            Self::TcpCubic => tcp::available("cubic"),
            Self::TcpBbr => tcp::available("bbr"),
            Self::ScpCubic => scp_available("cubic"),
            Self::ScpBbr => scp_available("bbr"),
            Self::QuinnCubic | Self::QuinnBbr => Quinn::find(binary, "", 0).map(drop),
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
            Self::Fulmar => fulmar(task, true),
            Self::FulmarPlain => fulmar(task, false),
            Self::TcpCubic => tcp::carry(task, "cubic"),
            Self::TcpBbr => tcp::carry(task, "bbr"),
            Self::ScpCubic => scp(task, "cubic"),
            Self::ScpBbr => scp(task, "bbr"),
            Self::QuinnCubic => quinn(task, "cubic"),
            Self::QuinnBbr => quinn(task, "bbr"),
            Self::Srt => srt(task),
        }
    }
}

/// What to move, over what.
pub(super) struct Task<'a> {
    pub(super) cell: &'a Cell,
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

/// `fulmar put` to `fulmar serve --allow-put`.
fn fulmar(task: &Task<'_>, encrypt: bool) -> anyhow::Result<Moved> {
    let fulmar = Fulmar::new(task.binary, task.place.dir(), Way::Put, encrypt);
    fulmar.forget()?;
    let mut recv = fulmar.receiver((FAR, 0).into(), task.target);
    let mut recv = task.road.far().enter(|| Running::spawn(&mut recv))?;
    let to = recv.ready(fulmar.receiving())?;
    let mut send = fulmar.sender(to, task.source);
    let start = Instant::now();
    let deadline = start + task.limit;
    let mut send = task.road.near().enter(|| Running::spawn(&mut send))?;
    let moved = if send.finish_by(deadline, "fulmar put", task.stop)? {
        let moved = Moved::all(task, start.elapsed());
        fulmar.part(&mut recv, task.stop)?;
        moved
    } else {
        recv.finish_by(Instant::now(), fulmar.receiving(), task.stop)?;
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

/// `quinn-peer` at both ends; the receiver writes in order.
fn quinn(task: &Task<'_>, controller: &'static str) -> anyhow::Result<Moved> {
    let quinn = Quinn::find(task.binary, controller, quinn_window(task.cell))?;
    let certificate = task.target.join("certificate");
    let mut recv = quinn.receiver((FAR, 0).into(), &certificate, &task.target.join("source"));
    let mut recv = task.road.far().enter(|| Running::spawn(&mut recv))?;
    let to = recv.ready(Quinn::NAME)?;
    let mut send = quinn.sender(to, &certificate, task.source);
    pair(task, Quinn::NAME, recv, &mut send)
}

/// In bytes: no more than quinn's own bound of gaps in a stream allows at this loss. It ends a connection that goes
/// beyond.
fn quinn_window(cell: &Cell) -> u32 {
    // One gap for every packet that is lost after one that is not.
    let gaps_per_byte = cell.loss * (1.0 - cell.loss) / QUINN_PACKET;
    (ample(cell) as f64).min(QUINN_GAPS / gaps_per_byte) as u32
}

/// The receiver writes what it gets and ends with the sender.
fn srt(task: &Task<'_>) -> anyhow::Result<Moved> {
    let port = task.road.far().enter(|| {
        let socket = UdpSocket::bind((FAR, 0))?;
        Ok(socket.local_addr()?.port())
    })?;
    let arrives = format!("file://{}", task.target.join("source").display());
    let options = srt_options(task.cell);
    let mut recv = Command::new(program(SRT)?);
    recv.arg("-q")
        .arg(format!("srt://{FAR}:{port}?mode=listener&{options}"))
        .arg(arrives);
    recv.stdout(Stdio::null());
    let recv = task.road.far().enter(|| Running::spawn(&mut recv))?;
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
            "srt://{FAR}:{port}?mode=caller&conntimeo={SRT_PATIENCE_MS}&{options}"
        ));
    send.stdout(Stdio::null());
    pair(task, SRT, recv, &mut send)
}

/// Buffers in bytes, and a flow window in packets that is no less. Larger ones than these let its first burst be as large.
fn srt_options(cell: &Cell) -> String {
    let buffer = ample(cell);
    let window = buffer.div_ceil(SRT_PACKET);
    format!("transtype=file&fc={window}&sndbuf={buffer}&rcvbuf={buffer}")
}

/// What a window needs that is not to be in the way, in bytes: four round trips at full rate, which is what is on its
/// way, what waits in the queue, and what waits for something to be sent again.
fn ample(cell: &Cell) -> u64 {
    (4 * cell.rate.bytes_in(cell.rtt)).max(WINDOW_MIN)
}

/// Runs the sender of a pair whose receiver runs, writes in order and ends when it has everything. What the receiver
/// does once everything is written is not on the clock.
fn pair(
    task: &Task<'_>,
    name: &str,
    mut recv: Running,
    send: &mut Command,
) -> anyhow::Result<Moved> {
    let start = Instant::now();
    let deadline = start + task.limit;
    let mut send = task.road.near().enter(|| Running::spawn(send))?;
    let whole =
        send.finish_by(deadline, name, task.stop)? && recv.finish_by(deadline, name, task.stop)?;
    let moved = if whole {
        Moved::all(task, start.elapsed())
    } else {
        recv.finish_by(Instant::now(), name, task.stop)?;
        Moved::so_far(task)
    };
    Ok(Moved {
        cpu: [send.cpu, recv.cpu],
        ..moved
    })
}

const WINDOW_MIN: u64 = 1 << 20;
/// Stretches of a stream that a receiver of quinn-proto 0.11.19 keeps apart.
const QUINN_GAPS: f64 = 1024.0;
/// Bytes of a stream in a packet of it.
const QUINN_PACKET: f64 = 1420.0;
const SRT: &str = "srt-file-transmit";
/// Bytes of the file in a packet of it.
const SRT_PACKET: u64 = 1456;
const SRT_START: Duration = Duration::from_secs(5);
/// For the handshake; 3 s if not said.
const SRT_PATIENCE_MS: u32 = 20_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use fulmar_proto::engine::Bitrate;

    use super::*;

    #[test]
    fn options_and_tables_call_a_contender_the_same() {
        for kind in Kind::value_variants() {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.name());
            assert_eq!(
                serde_json::to_value(kind).unwrap().as_str(),
                Some(kind.name())
            );
        }
    }

    #[test]
    fn windows_hold_the_link_and_keep_to_the_bound_of_quinn() {
        let window = |rtt, loss, mbit: u64| {
            quinn_window(&Cell {
                rtt: Duration::from_millis(rtt),
                loss,
                rate: Bitrate::from_bits_per_sec(mbit * 1_000_000),
            })
        };
        assert_eq!(window(140, 0.0, 100), 7_000_000);
        assert_eq!(window(1, 0.01, 100), 1 << 20);
        assert_eq!(window(140, 0.001, 1000), 70_000_000);
        let far = Cell {
            rtt: Duration::from_millis(140),
            loss: 0.0,
            rate: Bitrate::from_bits_per_sec(100_000_000),
        };
        assert!(srt_options(&far).ends_with("fc=4808&sndbuf=7000000&rcvbuf=7000000"));
        let gaps = f64::from(window(140, 0.33, 1000)) / QUINN_PACKET * 0.33 * 0.67;
        assert!((QUINN_GAPS - 1.0..=QUINN_GAPS).contains(&gaps), "{gaps}");
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
