//! A bad link between two sockets of this machine.
//!
//! A [`Relay`] stands in front of one UDP address. Whoever sends to [`Relay::addr`] reaches that address, and is
//! answered from it, through two directions of the simulator's [`Link`]: real sockets and real time, the same delay,
//! rate, queue and loss as in virtual time. One thread waits for both sockets and the next delivery.
//!
//! It serves one client at a time: the last address that sent. It does *not* act on a link's rebindings, and a
//! datagram that finds the kernel's send buffer full is lost and counted, as on any host.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fulmar_proto::sim::{Link, LinkConfig, LinkStats, Rng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

/// A running relay. Dropping it ends its thread.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<RelayStats>>,
}

/// What a relay has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct RelayStats {
    /// From the client to the server.
    pub up: LinkStats,
    /// From the server to the client.
    pub down: LinkStats,
    /// Datagrams that the relay's own machine had no room to send.
    pub unsent: u64,
    /// The latest that a datagram left after it was due.
    pub late_max: Duration,
}

impl Relay {
    /// Starts a relay on loopback in front of `server`, a loopback address. Every draw comes from `seed`.
    ///
    /// # Errors
    /// If sockets or a thread cannot be had.
    pub fn start(
        server: SocketAddr,
        up: LinkConfig,
        down: LinkConfig,
        seed: u64,
    ) -> io::Result<Self> {
        let front = bind_like(server)?;
        let back = bind_like(server)?;
        let addr = front.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let (rng, now) = (Rng::new(seed), Instant::now());
        let relaying = Relaying {
            sockets: [front, back],
            links: [
                Link::new(up, now, rng.fork(0)),
                Link::new(down, now, rng.fork(1)),
            ],
            peers: [None, Some(server)],
            air: Air::default(),
            stats: RelayStats::default(),
        };
        let thread = thread::Builder::new().name("relay".into()).spawn({
            let over = Arc::clone(&over);
            move || relaying.run(&over)
        })?;
        Ok(Self {
            addr,
            over,
            thread: Some(thread),
        })
    }

    /// Where to send what the server should get.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends the relay and says what it did.
    ///
    /// # Panics
    /// If its thread panicked, with its panic.
    pub fn stop(mut self) -> RelayStats {
        self.over.store(true, Relaxed);
        let thread = self.thread.take().expect("taken only here and in drop");
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// The thread's own state. Side 0 faces the client, side 1 the server; a link of the same index leads away from it.
struct Relaying {
    sockets: [UdpSocket; 2],
    links: [Link; 2],
    peers: [Option<SocketAddr>; 2],
    air: Air,
    stats: RelayStats,
}

impl Relaying {
    fn run(mut self, over: &AtomicBool) -> RelayStats {
        // The default slack of 50 us would be added to every delay; without permission for less the link is that
        // much longer.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut buf = vec![0; DATAGRAM_MAX];
        while !over.load(Relaxed) {
            let busy = self.take_in(0, &mut buf) | self.take_in(1, &mut buf);
            self.give_out();
            if !busy {
                self.wait();
            }
        }
        self.stats.up = *self.links[0].stats();
        self.stats.down = *self.links[1].stats();
        self.stats
    }

    /// Reads what arrived at one side, up to a batch; says whether there may be more.
    fn take_in(&mut self, side: usize, buf: &mut [u8]) -> bool {
        for _ in 0..BATCH {
            // An error is "nothing yet" or the echo of a datagram that found nobody; both mean: ask again later.
            let Ok((len, from)) = self.sockets[side].recv_from(buf) else {
                return false;
            };
            if side == 0 {
                self.peers[0] = Some(from);
            } else if self.peers[1] != Some(from) {
                continue;
            }
            let payload = &buf[..len];
            for delivery in self.links[side].offer(Instant::now(), payload) {
                let payload = delivery.payload.as_deref().unwrap_or(payload);
                self.air.push(delivery.at, 1 - side, payload);
            }
        }
        true
    }

    fn give_out(&mut self) {
        let now = Instant::now();
        while let Some((at, side, payload)) = self.air.pop_due(now) {
            let Some(to) = self.peers[side] else { continue };
            self.stats.late_max = self.stats.late_max.max(now - at);
            match self.sockets[side].send_to(&payload, to) {
                // Refused: the error belongs to an earlier datagram, and nobody may be listening yet.
                Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => {
                    self.stats.unsent += 1
                }
                Ok(_) | Err(_) => {}
            }
            self.air.recycle(payload);
        }
    }

    /// Sleeps until a datagram arrives, one is due, or it is time to look whether all is over.
    fn wait(&self) {
        let due = self.air.next().map_or(LOOK, |at| {
            at.saturating_duration_since(Instant::now()).min(LOOK)
        });
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: due.subsec_nanos().into(),
        };
        let [front, back] = &self.sockets;
        let mut sides = [
            PollFd::new(front, PollFlags::IN),
            PollFd::new(back, PollFlags::IN),
        ];
        // A signal ends the wait early, which is harmless.
        let _ = poll(&mut sides, Some(&timeout));
    }
}

/// Datagrams on their way, by time and then by the order in which they set out.
#[derive(Default)]
struct Air {
    due: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    /// Payloads sit still here while the heap moves their small keys: side and bytes.
    flights: Vec<(usize, Vec<u8>)>,
    free: Vec<usize>,
    spare: Vec<Vec<u8>>,
    order: u64,
}

impl Air {
    fn push(&mut self, at: Instant, side: usize, payload: &[u8]) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(payload);
        let slot = self.free.pop().unwrap_or(self.flights.len());
        if slot == self.flights.len() {
            self.flights.push((side, bytes));
        } else {
            self.flights[slot] = (side, bytes);
        }
        self.due.push(Reverse((at, self.order, slot)));
        self.order += 1;
    }

    fn pop_due(&mut self, now: Instant) -> Option<(Instant, usize, Vec<u8>)> {
        let at = self.next().filter(|&at| at <= now)?;
        let Reverse((_, _, slot)) = self.due.pop()?;
        self.free.push(slot);
        let (side, payload) = &mut self.flights[slot];
        Some((at, *side, std::mem::take(payload)))
    }

    fn next(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }

    fn recycle(&mut self, payload: Vec<u8>) {
        self.spare.push(payload);
    }
}

fn bind_like(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match server {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?,
    };
    socket.set_nonblocking(true)?;
    // The burst of a fast sender arrives while this thread sends. What the kernel grants is what there is.
    let options = SockRef::from(&socket);
    let _ = options.set_recv_buffer_size(BUFFER);
    let _ = options.set_send_buffer_size(BUFFER);
    Ok(socket)
}

/// Largest UDP payload there is.
const DATAGRAM_MAX: usize = 65_536;
/// Datagrams read from one side before the other side and the clock are looked at.
const BATCH: usize = 32;
/// How late the end may be noticed; below a second.
const LOOK: Duration = Duration::from_millis(20);
/// Socket buffers asked for.
const BUFFER: usize = 4 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use fulmar_proto::sim::Loss;

    use super::*;

    fn pair(up: LinkConfig, down: LinkConfig) -> (Relay, UdpSocket, UdpSocket) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&server, &client] {
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
        }
        let relay = Relay::start(server.local_addr().unwrap(), up, down, 7).unwrap();
        (relay, client, server)
    }

    #[test]
    fn carries_both_ways_and_never_early() {
        let delay = Duration::from_millis(30);
        let slow = LinkConfig {
            delay,
            ..LinkConfig::PERFECT
        };
        let (relay, client, server) = pair(slow.clone(), slow);
        let mut buf = [0; 2000];
        let start = Instant::now();
        client.send_to(&[1; 1400], relay.addr()).unwrap();
        let (len, from) = server.recv_from(&mut buf).unwrap();
        assert!(start.elapsed() >= delay);
        assert_eq!(buf[..len], [1; 1400]);
        server.send_to(b"back", from).unwrap();
        let (len, from) = client.recv_from(&mut buf).unwrap();
        assert!(start.elapsed() >= 2 * delay);
        assert_eq!((&buf[..len], from), (&b"back"[..], relay.addr()));
        let stats = relay.stop();
        assert_eq!(
            (stats.up.delivered, stats.down.delivered, stats.unsent),
            (1, 1, 0)
        );
    }

    #[test]
    fn loses_what_the_link_loses_and_keeps_order() {
        let lossy = LinkConfig {
            loss: Loss::Independent(0.3),
            ..LinkConfig::PERFECT
        };
        let (relay, client, server) = pair(lossy, LinkConfig::PERFECT);
        server
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        // Read while sending, and pause: a socket left alone holds only some 256 datagrams.
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            let mut buf = [0; 4];
            while server.recv_from(&mut buf).is_ok() {
                got.push(u32::from_be_bytes(buf));
            }
            got
        });
        for n in 0..500u32 {
            client.send_to(&n.to_be_bytes(), relay.addr()).unwrap();
            if n % 50 == 49 {
                thread::sleep(Duration::from_millis(3));
            }
        }
        let got = reader.join().unwrap();
        let stats = relay.stop();
        let share = got.len() as f64 / stats.up.offered as f64;
        assert!(got.len() as u64 <= stats.up.delivered);
        assert!((0.6..0.8).contains(&share), "{share} arrived at 30 % loss");
        assert!(got.is_sorted());
    }

    #[test]
    fn strangers_do_not_reach_the_client() {
        let (relay, client, server) = pair(LinkConfig::PERFECT, LinkConfig::PERFECT);
        let mut buf = [0; 100];
        client.send_to(b"hello", relay.addr()).unwrap();
        let (_, back) = server.recv_from(&mut buf).unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(b"forged", back).unwrap();
        server.send_to(b"honest", back).unwrap();
        let (len, _) = client.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..len], b"honest");
        assert_eq!(relay.stop().down.offered, 1);
    }
}
