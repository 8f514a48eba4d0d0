//! The wire between two TUN devices: the simulator's [`Link`] in real time, one for each way.
//!
//! Every packet that one device's namespace sends is read here, offered to the link, kept for as long as the link says,
//! and written to the other device. The devices have no segmentation offload, so the kernel cuts large sends before
//! they get here, and loss, queue and rate meet each packet by itself. One thread does both ways: it naps between
//! rounds, so that it moves batches while the programs that it joins have the processors.
//!
//! It does *not* reorder, and it models no link that does: packets wait in the order in which they came. Time passes
//! here as it does on the machine; a packet may be late by a nap, and never leaves early.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fulmar_proto::sim::{Link, LinkConfig, LinkStats, Rng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tun_rs::SyncDevice;

/// A running wire. Dropped, it ends, and its devices go.
#[derive(Debug)]
pub(crate) struct Emulator {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Carried>>,
}

/// What a wire has done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Carried {
    /// From the near device to the far one.
    pub(crate) up: Way,
    /// From the far device to the near one.
    pub(crate) down: Way,
    /// Packets that the kernel did not take back.
    pub(crate) refused: u64,
    /// The latest that a packet left after it was due, in milliseconds.
    pub(crate) late_max_ms: f64,
    /// Processor time, in seconds; most of it is the kernel's receiving for the programs behind the devices.
    pub(crate) cpu_s: f64,
}

/// One direction, in packets.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Way {
    /// That came in.
    pub(crate) offered: u64,
    /// That the wire lost.
    pub(crate) lost: u64,
    /// That found the queue full.
    pub(crate) dropped: u64,
}

impl Emulator {
    /// Joins two devices by two links; `links[0]` leads from the first device to the second. The links must keep order.
    /// Every draw comes from `seed`.
    ///
    /// # Errors
    ///
    /// If the devices cannot be read without waiting, or a thread cannot be had.
    pub(crate) fn start(
        devices: [SyncDevice; 2],
        links: [LinkConfig; 2],
        seed: u64,
    ) -> io::Result<Self> {
        for device in &devices {
            device.set_nonblocking(true)?;
        }
        let over = Arc::new(AtomicBool::new(false));
        let (rng, now) = (Rng::new(seed), Instant::now());
        let delay = links[0].delay.min(links[1].delay);
        let [up, down] = links;
        let wire = Wire {
            devices,
            links: [
                Link::new(up, now, rng.fork(0)),
                Link::new(down, now, rng.fork(1)),
            ],
            air: [VecDeque::new(), VecDeque::new()],
            spare: Vec::new(),
            nap: (delay / 20).clamp(NAP_MIN, NAP_MAX),
            refused: 0,
            late_max: Duration::ZERO,
        };
        let thread = thread::Builder::new().name("wire".into()).spawn({
            let over = Arc::clone(&over);
            move || wire.run(&over)
        })?;
        Ok(Self {
            over,
            thread: Some(thread),
        })
    }

    /// Ends it and says what it did.
    ///
    /// # Panics
    ///
    /// If its thread panicked, with its panic.
    pub(crate) fn stop(mut self) -> Carried {
        self.over.store(true, Relaxed);
        let thread = self.thread.take().expect("taken only here and in drop");
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Way {
    fn new(stats: &LinkStats) -> Self {
        Self {
            offered: stats.offered,
            lost: stats.lost,
            dropped: stats.queue_dropped,
        }
    }
}

/// The thread's own state. A link and its air of the same index lead away from the device of that index.
struct Wire {
    devices: [SyncDevice; 2],
    links: [Link; 2],
    air: [VecDeque<Flight>; 2],
    spare: Vec<Box<[u8]>>,
    nap: Duration,
    refused: u64,
    late_max: Duration,
}

/// A packet on its way.
struct Flight {
    at: Instant,
    len: usize,
    bytes: Box<[u8]>,
}

impl Wire {
    fn run(mut self, over: &AtomicBool) -> Carried {
        be_urgent();
        while !over.load(Relaxed) {
            let came = self.take_in(0) | self.take_in(1);
            let went = self.give_out(0) | self.give_out(1);
            if came || went {
                thread::sleep(self.nap);
            } else {
                self.wait();
            }
        }
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        Carried {
            up: Way::new(self.links[0].stats()),
            down: Way::new(self.links[1].stats()),
            refused: self.refused,
            late_max_ms: self.late_max.as_secs_f64() * 1e3,
            cpu_s: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        }
    }

    /// Reads what a device's namespace has sent, up to a batch; says whether that was anything.
    fn take_in(&mut self, side: usize) -> bool {
        for read in 0..BATCH {
            let mut bytes = self
                .spare
                .pop()
                .unwrap_or_else(|| vec![0; PACKET_MAX].into_boxed_slice());
            // An error is "nothing yet".
            let Ok(len) = self.devices[side].recv(&mut bytes) else {
                self.spare.push(bytes);
                return read > 0;
            };
            // Not the time of the batch: the packet may have been sent since then, and would be early.
            let now = Instant::now();
            let mut deliveries = self.links[side].offer(now, &bytes[..len]).into_iter();
            match deliveries.next() {
                Some(delivery) => self.air[side].push_back(Flight {
                    at: delivery.at,
                    len,
                    bytes,
                }),
                None => self.spare.push(bytes),
            }
        }
        true
    }

    /// Writes what is due to the device at the other end; says whether that was anything.
    fn give_out(&mut self, side: usize) -> bool {
        let now = Instant::now();
        let mut went = false;
        while let Some(flight) = self.air[side].pop_front_if(|flight| flight.at <= now) {
            self.late_max = self.late_max.max(now - flight.at);
            let written = self.devices[1 - side].send(&flight.bytes[..flight.len]);
            self.refused += u64::from(written.is_err());
            self.spare.push(flight.bytes);
            went = true;
        }
        went
    }

    /// Sleeps until a packet comes, one is due, or it is time to look whether all is over.
    fn wait(&self) {
        let next = self.air.iter().filter_map(VecDeque::front);
        let due = next.map(|flight| flight.at).min().map_or(LOOK, |at| {
            at.saturating_duration_since(Instant::now())
                .clamp(self.nap, LOOK)
        });
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: due.subsec_nanos().into(),
        };
        let [near, far] = &self.devices;
        let mut sides = [
            PollFd::new(near, PollFlags::IN),
            PollFd::new(far, PollFlags::IN),
        ];
        // A signal ends the wait early, which is harmless.
        let _ = poll(&mut sides, Some(&timeout));
    }
}

/// A wire waits for no program. Niceness would count only among the programs of one session, so this thread asks for
/// real time, which needs the program `chrt`; without it the wire is later than it could be, and says so.
fn be_urgent() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let _ = Command::new("chrt")
        .args(["--fifo", "--pid", "10", &thread])
        .stdin(Stdio::null())
        .output();
}

/// Bytes of the largest packet that a device gives.
pub(super) const MTU: u16 = 1500;
const PACKET_MAX: usize = MTU as usize;
/// Packets read from one side before the other side and the clock are looked at.
const BATCH: usize = 64;
/// How late the end may be noticed; below a second.
const LOOK: Duration = Duration::from_millis(20);
/// Between rounds the wire rests for a twentieth of its delay, within these: long naps move larger batches and cost
/// less of the processors that the programs under test need, but add to the delay.
const NAP_MIN: Duration = Duration::from_micros(25);
const NAP_MAX: Duration = Duration::from_micros(100);
