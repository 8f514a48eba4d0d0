//! Two hosts on one machine, joined by a bad link: a network namespace each, a device in each, a wire between them.
//!
//! A [`Road`] is fresh: nothing of an earlier run is on its way or remembered by the kernel. It does *not* start
//! programs; whoever enters a namespace does.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use fulmar_proto::engine::Bitrate;
use fulmar_proto::sim::{LinkConfig, Loss, Rng};
use serde::{Deserialize, Serialize};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::emulator::{Carried, Emulator, MTU};
use super::namespace::{Namespace, ip};

/// What a link does, the same both ways.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    /// Round trip of a packet that waits nowhere.
    pub(crate) rtt: Duration,
    /// Share of packets lost each way, each by itself.
    pub(crate) loss: f64,
    /// Bits a second each way, IP headers included.
    pub(crate) rate: Bitrate,
}

impl Cell {
    /// What nobody can exceed: the rate, less what is lost, in bits a second.
    pub(crate) fn capacity(&self) -> f64 {
        self.rate.bits_per_sec() as f64 * (1.0 - self.loss)
    }

    /// Where the draws of the run of this number over it come from. Two links never lose the same first packets: what is
    /// lost at the start costs most, and would be the luck of a whole grid.
    pub(super) fn seed(&self, seed: u64, number: u16) -> u64 {
        let figures = [
            self.rate.bits_per_sec(),
            self.rtt.as_micros() as u64,
            (self.loss * 1e6) as u64,
            number.into(),
        ];
        figures.into_iter().fold(seed, |seed, figure| {
            Rng::new(seed.wrapping_add(figure)).next_u64()
        })
    }

    /// One direction of it. The drop-tail queue holds a round trip, and ten milliseconds at least.
    fn link(&self) -> LinkConfig {
        let queue = self.rate.bytes_in(self.rtt.max(QUEUE_MIN));
        LinkConfig {
            delay: self.rtt / 2,
            loss: if self.loss > 0.0 {
                Loss::Independent(self.loss)
            } else {
                Loss::None
            },
            rate: Some(self.rate),
            queue: usize::try_from(queue).unwrap_or(usize::MAX),
            // What the devices give are whole IP packets.
            overhead: 0,
            ..LinkConfig::PERFECT
        }
    }
}

/// Two namespaces and the wire between them. Dropped, everything goes.
#[derive(Debug)]
pub(crate) struct Road {
    // In this order: the wire holds the devices that are in the namespaces.
    wire: Emulator,
    near: Namespace,
    far: Namespace,
}

impl Road {
    /// Builds one. Every loss comes from `seed`.
    ///
    /// # Errors
    ///
    /// Those of namespaces and devices: no root, no `ip`, no `/dev/net/tun`.
    pub(crate) fn build(cell: &Cell, seed: u64) -> anyhow::Result<Self> {
        // A name is not used twice, because the kernel takes its time to forget the first.
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let number = BUILT.fetch_add(1, Relaxed);
        let near = Namespace::create(&format!("a{number}"))?;
        let far = Namespace::create(&format!("b{number}"))?;
        let devices = [
            near.enter(|| host(NEAR, FAR))?,
            far.enter(|| host(FAR, NEAR))?,
        ];
        let wire = Emulator::start(devices, [cell.link(), cell.link()], seed)?;
        Ok(Self { wire, near, far })
    }

    /// Makes this the congestion control of what near connects to far with, if the program does not choose. The route
    /// has it, because a namespace's default can only be what every user of the machine may choose.
    ///
    /// # Errors
    ///
    /// If the kernel does not have it.
    pub(crate) fn control_congestion(&self, name: &str) -> anyhow::Result<()> {
        let [near, far] = [NEAR, FAR].map(|address| address.to_string());
        let space = self.near.name();
        ip(&[
            "-n", space, "route", "add", &far, "dev", DEVICE, "src", &near, "congctl", name,
        ])
    }

    /// The namespace that has [`NEAR`].
    pub(crate) fn near(&self) -> &Namespace {
        &self.near
    }

    /// The namespace that has [`FAR`].
    pub(crate) fn far(&self) -> &Namespace {
        &self.far
    }

    /// Removes it and says what its wire did.
    pub(crate) fn close(self) -> Carried {
        self.wire.stop()
    }

    /// Sends `count` small datagrams from near to far, where each is sent back: what the link is, found out from the
    /// outside.
    ///
    /// # Errors
    ///
    /// If a socket fails.
    pub(crate) fn probe(&self, count: u16) -> anyhow::Result<Probe> {
        let echo = self.far.enter(|| bind(FAR))?;
        let asking = self.near.enter(|| bind(NEAR))?;
        asking.connect(echo.local_addr()?)?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let answering = scope.spawn(|| answer(&echo, &over));
            let asked = ask(&asking, count);
            over.store(true, Relaxed);
            let arrived = answering
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (rtt, answered) = asked?;
            Ok(Probe {
                sent: count,
                arrived,
                answered,
                rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            })
        })
    }
}

/// What became of a number of small datagrams.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Probe {
    /// Sent by the near end.
    pub(crate) sent: u16,
    /// Seen by the far end, which sent each back.
    pub(crate) arrived: u16,
    /// Seen by the near end again.
    pub(crate) answered: u16,
    /// The shortest round trip, in milliseconds.
    pub(crate) rtt_ms: Option<f64>,
}

/// Makes a host of the namespace that this thread is in.
fn host(own: Ipv4Addr, other: Ipv4Addr) -> anyhow::Result<SyncDevice> {
    for (name, value) in SETTINGS {
        fs::write(format!("/proc/sys/net/{name}"), value)
            .with_context(|| format!("cannot set {name}"))?;
    }
    let device = DeviceBuilder::new()
        .name(DEVICE)
        .ipv4(own, 30, None)
        .mtu(MTU)
        .with(|builder| {
            builder.offload(false).tx_queue_len(DEVICE_QUEUE);
        })
        .build_sync();
    device.with_context(|| format!("cannot make a TUN device from {own} to {other}"))
}

fn bind(ip: Ipv4Addr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((ip, 0))?;
    socket.set_read_timeout(Some(TURN))?;
    Ok(socket)
}

/// Sends back whatever comes until it is over; says how much that was.
fn answer(socket: &UdpSocket, over: &AtomicBool) -> u16 {
    let (mut buf, mut arrived) = ([0; PROBE], 0);
    while !over.load(Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut buf) {
            arrived += 1;
            // What cannot be sent is a probe lost.
            let _ = socket.send_to(&buf[..len], from);
        }
    }
    arrived
}

/// The shortest round trip, and how many there were.
fn ask(socket: &UdpSocket, count: u16) -> anyhow::Result<(Option<Duration>, u16)> {
    let mut sent = Vec::with_capacity(count.into());
    let (mut shortest, mut answered) = (None::<Duration>, 0);
    let mut quiet_since = Instant::now();
    let mut buf = [0; PROBE];
    while answered < count {
        if let Ok(number) = u16::try_from(sent.len())
            && number < count
        {
            sent.push(Instant::now());
            buf[..2].copy_from_slice(&number.to_be_bytes());
            socket.send(&buf)?;
            quiet_since = Instant::now();
        } else if quiet_since.elapsed() > PATIENCE {
            break;
        }
        match socket.recv(&mut buf) {
            Ok(_) => {
                answered += 1;
                quiet_since = Instant::now();
                let number = usize::from(u16::from_be_bytes([buf[0], buf[1]]));
                let rtt = sent.get(number).map(Instant::elapsed);
                shortest = [shortest, rtt].into_iter().flatten().min();
            }
            // A call with a time limit is not taken up again after an interruption.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((shortest, answered))
}

/// The near end's address. Both are of the block that is set aside for measuring.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The far end's address.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// What the device is called in both namespaces.
const DEVICE: &str = "fulmar0";
/// No chatter of the kernel's own, nothing remembered from one connection to the next, and buffers that hold what is
/// on its way over the longest link at the highest rate twice.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/tcp_no_metrics_save", "1"),
    ("ipv4/tcp_rmem", "4096 131072 134217728"),
    ("ipv4/tcp_wmem", "4096 65536 134217728"),
];
/// Packets the device holds for the wire to read: as many as a nap of the wire and a delay of its thread may gather,
/// so that packets are dropped where the link says and not here.
const DEVICE_QUEUE: u32 = 10_000;
const QUEUE_MIN: Duration = Duration::from_millis(10);
const PROBE: usize = 64;
/// Between two probes, unless an answer comes.
const TURN: Duration = Duration::from_millis(1);
/// After which the rest is lost.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_its_figures() {
        let cell = Cell {
            rtt: Duration::from_millis(50),
            loss: 0.05,
            rate: Bitrate::from_bits_per_sec(100_000_000),
        };
        assert!((cell.capacity() - 95e6).abs() < 1.0);
        let link = cell.link();
        assert_eq!(link.delay, Duration::from_millis(25));
        assert_eq!(link.queue, 625_000);
        let near = Cell {
            rtt: Duration::from_millis(1),
            ..cell
        };
        assert_eq!(near.link().queue, 125_000);
    }

    #[test]
    fn draws_are_of_the_link_and_of_the_run() {
        let cell = |rtt, loss| Cell {
            rtt: Duration::from_millis(rtt),
            loss,
            rate: Bitrate::from_bits_per_sec(100_000_000),
        };
        let seeds = [
            cell(50, 0.05).seed(1, 1),
            cell(50, 0.05).seed(1, 2),
            cell(50, 0.05).seed(2, 1),
            cell(50, 0.01).seed(1, 1),
            cell(140, 0.05).seed(1, 1),
        ];
        let distinct: std::collections::BTreeSet<u64> = seeds.into_iter().collect();
        assert_eq!(distinct.len(), seeds.len());
        assert_eq!(cell(50, 0.05).seed(1, 1), seeds[0]);
    }
}
