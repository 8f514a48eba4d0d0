//! The sockets of a loop as it sees them: [`Port`]. Their system calls are made by the loop itself, or by two threads beside it.
//!
//! ```text
//! own       loop:  recv ─► handle_datagram ..                      poll_transmit ─► send
//!
//! offloaded in:    recv ─► ring ─► loop: handle_datagram ..  poll_transmit ─► ring ─► send   :out
//!                   ▲──── emptied ──┘                            └──◄── emptied ────────┘
//! ```
//!
//! Offloaded, what opens, seals and codes has a processor to itself, and the kernel's copies have two others. The batches
//! go round: nothing is allocated for one, a lock is taken once for each, and nobody is woken who is awake. All rings are
//! as long as there are batches, so only an empty one makes anybody wait. A port does *not* know endpoints or time.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flume::{Receiver, Sender, TryRecvError};
use fulmar_proto::{Meta, Transmit};
use polling::Poller;
use rustix::io::Errno;

use super::handle::Shared;
use super::socket::{Flow, Inbox, SEND_MAX};
use super::sockets::Sockets;
use super::stats::Counters;

/// One socket or several, and whoever makes their system calls.
pub(super) enum Port {
    Own(Box<Own>),
    Offloaded(Box<Offloaded>),
}

/// The socket is gone, or a thread that served it.
#[derive(Debug)]
pub(super) struct Gone;

impl Port {
    /// The loop calls the system itself; `shared.poller` watches the socket.
    pub(super) fn own(mut socket: Sockets, shared: Arc<Shared>) -> io::Result<Self> {
        socket.watch(Arc::clone(&shared.poller))?;
        let own = Own {
            socket,
            shared,
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            retry: None,
            watching: false,
        };
        Ok(Self::Own(Box::new(own)))
    }

    /// Two threads call the system. The one that receives naps for `gather` after it slept.
    pub(super) fn offloaded(
        mut socket: Sockets,
        shared: Arc<Shared>,
        gather: Duration,
    ) -> io::Result<Self> {
        let poller = Arc::new(Poller::new()?);
        socket.watch(Arc::clone(&poller))?;
        let socket = Arc::new(socket);
        let over = Arc::new(AtomicBool::new(false));
        let starved = Arc::new(AtomicBool::new(false));
        let (arrive, arrived) = flume::bounded(INBOXES);
        let (drained, drain) = flume::bounded(INBOXES);
        let (fill, filled) = flume::bounded(OUTBOXES);
        let (empty, emptied) = flume::bounded(OUTBOXES);
        for _ in 0..INBOXES {
            let _ = drained.try_send(Inbox::new());
        }
        for _ in 0..OUTBOXES {
            let _ = empty.try_send(Outbox::default());
        }
        let inward = Inward {
            socket: Arc::clone(&socket),
            poller: Arc::clone(&poller),
            gather,
            over: Arc::clone(&over),
            drain,
            arrive: Some(arrive),
            shared: Arc::clone(&shared),
        };
        let outward = Outward {
            socket: Arc::clone(&socket),
            poller,
            over,
            starved: Arc::clone(&starved),
            filled,
            empty,
            shared,
        };
        let name = |end| format!("udp {} {end}", socket.local_addr().port());
        let sending = thread::Builder::new()
            .name(name("out"))
            .spawn(move || outward.run())?;
        // Should this fail, dropping `fill` ends the other.
        let receiving = thread::Builder::new()
            .name(name("in"))
            .spawn(move || inward.run())?;
        let offloaded = Offloaded {
            socket,
            arrived,
            drained: Some(drained),
            fill: Some(fill),
            emptied,
            spare: None,
            starved,
            retry: None,
            threads: vec![sending, receiving],
        };
        Ok(Self::Offloaded(Box::new(offloaded)))
    }

    /// Hands one batch of what has arrived to `take`, with the time; whether more may wait.
    pub(super) fn receive(
        &mut self,
        take: impl FnMut(Instant, Meta, &mut [u8]),
    ) -> Result<bool, Gone> {
        match self {
            Self::Own(it) => it.receive(take),
            Self::Offloaded(it) => it.receive(take),
        }
    }

    /// Sends what waits, or else what `fill` puts into a buffer, given the most segments a send may have; false when
    /// there is nothing, or no room for it before [`retry`](Self::retry).
    pub(super) fn send(
        &mut self,
        now: Instant,
        fill: impl FnOnce(usize, &mut Vec<u8>) -> Option<Transmit>,
    ) -> bool {
        match self {
            Self::Own(it) => it.send(now, fill),
            Self::Offloaded(it) => it.send(now, fill),
        }
    }

    /// When to try again to send although nobody said that there is room; `None` when nothing waits for room.
    pub(super) fn retry(&self) -> Option<Instant> {
        match self {
            Self::Own(it) => it.retry,
            Self::Offloaded(it) => it.retry,
        }
    }

    /// Whether something has come since that will not wake the loop.
    pub(super) fn has_news(&self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Offloaded(it) => it.has_news(),
        }
    }

    /// The poller said that the socket has room.
    pub(super) fn writable(&mut self) {
        match self {
            Self::Own(it) => it.retry = None,
            Self::Offloaded(_) => {}
        }
    }
}

/// A socket that the loop calls itself.
pub(super) struct Own {
    socket: Sockets,
    shared: Arc<Shared>,
    inbox: Inbox,
    outbox: Outbox,
    retry: Option<Instant>,
    /// The poller reports when there is room.
    watching: bool,
}

/// One batch between `poll_transmit` and the kernel.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// Set while the kernel has not taken all of it.
    unsent: Option<Transmit>,
    /// Bytes the kernel has taken, or never will.
    sent: usize,
}

impl Own {
    fn receive(&mut self, mut take: impl FnMut(Instant, Meta, &mut [u8])) -> Result<bool, Gone> {
        let counters = &self.shared.counters;
        let filled = match self.socket.recv(&mut self.inbox, counters) {
            Ok(filled) => filled,
            Err(error) => return endure(&error, counters).map(|()| false),
        };
        let now = Instant::now();
        self.inbox.each(|meta, payload| take(now, meta, payload));
        // One was read; others may hold something.
        Ok(filled == self.inbox.rooms() || filled > 0 && self.socket.are_several())
    }

    fn send(
        &mut self,
        now: Instant,
        fill: impl FnOnce(usize, &mut Vec<u8>) -> Option<Transmit>,
    ) -> bool {
        if self.retry.is_some_and(|at| now < at) {
            return false;
        }
        let segments = self.socket.max_segments();
        if self.outbox.unsent.is_none() && !self.outbox.fill(segments, fill) {
            return false;
        }
        let flow = self.outbox.send(&self.socket, &self.shared.counters);
        self.retry = match flow {
            Flow::Done => None,
            Flow::Blocked => Some(now + RETRY_BLOCKED),
            Flow::Backoff => Some(now + RETRY_BACKOFF),
        };
        if (flow == Flow::Blocked) != self.watching {
            self.watching = flow == Flow::Blocked;
            // Should this fail, the retry time still bounds the wait.
            let _ = self.socket.watch_writable(self.watching);
        }
        flow == Flow::Done
    }
}

impl Outbox {
    /// False if there is nothing to send.
    fn fill(
        &mut self,
        segments: usize,
        fill: impl FnOnce(usize, &mut Vec<u8>) -> Option<Transmit>,
    ) -> bool {
        self.bytes.clear();
        self.sent = 0;
        self.unsent = fill(segments, &mut self.bytes);
        if let Some(transmit) = &self.unsent {
            debug_assert!(transmit.len == self.bytes.len() && transmit.len <= SEND_MAX);
        }
        self.unsent.is_some()
    }

    fn send(&mut self, socket: &Sockets, counters: &Counters) -> Flow {
        let Some(transmit) = &self.unsent else {
            return Flow::Done;
        };
        let flow = socket.send(transmit, &self.bytes, &mut self.sent, counters);
        match flow {
            Flow::Done => self.unsent = None,
            Flow::Blocked | Flow::Backoff => counters.blocked.add(1),
        }
        flow
    }
}

/// A socket that two threads call.
pub(super) struct Offloaded {
    socket: Arc<Sockets>,
    arrived: Receiver<Inbox>,
    drained: Option<Sender<Inbox>>,
    fill: Option<Sender<Outbox>>,
    emptied: Receiver<Outbox>,
    /// Taken from `emptied`, and not needed.
    spare: Option<Outbox>,
    /// The loop has something to send and no batch to put it in.
    starved: Arc<AtomicBool>,
    retry: Option<Instant>,
    threads: Vec<JoinHandle<()>>,
}

impl Offloaded {
    fn receive(&mut self, mut take: impl FnMut(Instant, Meta, &mut [u8])) -> Result<bool, Gone> {
        let mut inbox = match self.arrived.try_recv() {
            Ok(inbox) => inbox,
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => return Err(Gone),
        };
        let now = Instant::now();
        inbox.each(|meta, payload| take(now, meta, payload));
        if let Some(drained) = &self.drained {
            // There is room for all; and if its thread is gone, that shows above.
            let _ = drained.try_send(inbox);
        }
        Ok(!self.arrived.is_empty())
    }

    fn send(
        &mut self,
        now: Instant,
        fill: impl FnOnce(usize, &mut Vec<u8>) -> Option<Transmit>,
    ) -> bool {
        let spare = self.spare.take();
        let Some(mut outbox) = spare.or_else(|| self.emptied.try_recv().ok()) else {
            self.starved.store(true, SeqCst);
            self.retry = Some(now + RETRY_BLOCKED);
            return false;
        };
        self.retry = None;
        self.starved.store(false, SeqCst);
        let filled = outbox.fill(self.socket.max_segments(), fill);
        match &self.fill {
            Some(ring) if filled => _ = ring.try_send(outbox),
            Some(_) | None => self.spare = Some(outbox),
        }
        filled
    }

    fn has_news(&self) -> bool {
        let refilled = self.starved.load(SeqCst) && self.emptied.len() >= REFILLED;
        refilled || !self.arrived.is_empty() || self.arrived.is_disconnected()
    }
}

impl Drop for Offloaded {
    /// Sends what was handed over, and waits for both threads.
    fn drop(&mut self) {
        // The end of one ends the other.
        self.fill = None;
        self.drained = None;
        for thread in self.threads.drain(..) {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// The thread that receives.
struct Inward {
    socket: Arc<Sockets>,
    poller: Arc<Poller>,
    gather: Duration,
    over: Arc<AtomicBool>,
    drain: Receiver<Inbox>,
    arrive: Option<Sender<Inbox>>,
    shared: Arc<Shared>,
}

impl Inward {
    fn run(self) {
        exact_naps();
        let mut ready = polling::Events::new();
        while let Ok(mut inbox) = self.drain.recv() {
            if self.receive(&mut inbox, &mut ready).is_err() {
                return;
            }
            let loops = |ring: &Sender<_>| ring.send(inbox).is_ok();
            if !self.arrive.as_ref().is_some_and(loops) {
                return;
            }
            self.shared.wake();
        }
    }

    /// Waits until something has arrived.
    fn receive(&self, inbox: &mut Inbox, ready: &mut polling::Events) -> Result<(), Gone> {
        while !self.over.load(SeqCst) {
            match self.socket.recv(inbox, &self.shared.counters) {
                Ok(0) => {}
                Ok(_) => return Ok(()),
                Err(error) => endure(&error, &self.shared.counters)?,
            }
            ready.clear();
            self.poller.wait(ready, None).map_err(|error| {
                tracing::error!(%error, "nobody can wait for a socket, and its driver ends");
                Gone
            })?;
            if !self.gather.is_zero() && !self.over.load(SeqCst) {
                thread::sleep(self.gather);
            }
        }
        Err(Gone)
    }
}

impl Drop for Inward {
    /// The loop learns that nothing will come.
    fn drop(&mut self) {
        self.arrive = None;
        self.shared.wake();
    }
}

/// The thread that sends.
struct Outward {
    socket: Arc<Sockets>,
    poller: Arc<Poller>,
    over: Arc<AtomicBool>,
    starved: Arc<AtomicBool>,
    filled: Receiver<Outbox>,
    empty: Sender<Outbox>,
    shared: Arc<Shared>,
}

impl Outward {
    fn run(self) {
        exact_naps();
        while let Ok(mut outbox) = self.filled.recv() {
            while outbox.send(&self.socket, &self.shared.counters) != Flow::Done {
                if self.shared.closing.load(SeqCst) {
                    break;
                }
                thread::sleep(RETRY_BACKOFF);
            }
            // The loop may be gone; what it left is sent all the same.
            let _ = self.empty.try_send(outbox);
            if self.starved.load(SeqCst) && self.empty.len() >= REFILLED {
                self.shared.wake();
            }
        }
    }
}

impl Drop for Outward {
    /// Without this thread the other is of no use.
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        self.poller
            .notify()
            .expect("the poller's own descriptor is open while it lives");
    }
}

/// Only naps are subject to slack; without the right to change it they are 50 us late.
pub(super) fn exact_naps() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Counts a failed receive, and waits a little; an error if the socket itself is gone.
fn endure(error: &io::Error, counters: &Counters) -> Result<(), Gone> {
    counters.recv_errors.add(1);
    if matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::NOTSOCK)
    ) {
        tracing::error!(%error, "the socket is gone and its driver ends");
        return Err(Gone);
    }
    // The poller would report the same error at once.
    thread::sleep(PAUSE_AFTER_ERROR);
    Ok(())
}

/// Received batches that go round.
const INBOXES: usize = 4;
/// Batches to send that go round: half a megabyte, half a millisecond at 8 Gbit/s.
const OUTBOXES: usize = 8;
/// So many empty ones wake a loop that had none.
const REFILLED: usize = OUTBOXES / 2;
/// Longest wait for a full send buffer, should the poller not report that it has room.
const RETRY_BLOCKED: Duration = Duration::from_millis(10);
/// Wait after the kernel ran out of buffers below the socket, which no poller reports.
const RETRY_BACKOFF: Duration = Duration::from_micros(200);
/// Wait after a receive failed for no known reason.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

    use super::super::handle::Report;
    use super::super::socket::Socket;
    use super::*;

    fn shared() -> Arc<Shared> {
        Arc::new(Shared {
            poller: Arc::new(Poller::new().unwrap()),
            asleep: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            counters: Counters::default(),
            report: Report::default(),
        })
    }

    fn bound() -> Socket {
        Socket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()
    }

    /// More batches than go round, each sent once and in order, by either kind of port; and a port that goes sends what
    /// it was given.
    #[test]
    fn batches_go_round() {
        for offload in [false, true] {
            let (socket, shared) = (bound(), shared());
            let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let at = to.local_addr().unwrap();
            let mut port = if offload {
                Port::offloaded(Sockets::new(socket, Vec::new()), shared, Duration::ZERO).unwrap()
            } else {
                Port::own(Sockets::new(socket, Vec::new()), shared).unwrap()
            };
            let count = 5 * OUTBOXES as u32;
            let mut next = 0;
            while next < count {
                let sent = port.send(Instant::now(), |_, bytes| {
                    assert!(bytes.is_empty(), "a batch comes back empty");
                    bytes.extend_from_slice(&next.to_be_bytes());
                    Some(Transmit {
                        socket: 0,
                        to: at,
                        from_ip: None,
                        ecn: None,
                        len: 4,
                        segment: None,
                    })
                });
                next += u32::from(sent);
                if !sent {
                    assert!(port.retry().is_some());
                    thread::yield_now();
                }
            }
            // Once there is room, nothing waits for any.
            while !port.send(Instant::now(), |_, _| None) && port.retry().is_some() {
                thread::yield_now();
            }
            drop(port);
            let mut room = [0; 9];
            for expected in 0..count {
                assert_eq!(to.recv(&mut room).unwrap(), 4);
                assert_eq!(room[..4], expected.to_be_bytes());
            }
        }
    }

    /// Whoever has no batch left is told when half of them are back, and no sooner than it sleeps.
    #[test]
    fn an_empty_ring_is_news_once_it_is_half_full() {
        let Port::Offloaded(mut port) =
            Port::offloaded(Sockets::new(bound(), Vec::new()), shared(), Duration::ZERO).unwrap()
        else {
            panic!("asked for the other kind")
        };
        let taken: Vec<Outbox> = (0..OUTBOXES)
            .map(|_| port.emptied.try_recv().unwrap())
            .collect();
        assert!(!port.has_news(), "nothing is wanted");
        assert!(!port.send(Instant::now(), |_, _| panic!("there is no batch to fill")));
        assert!(!port.has_news() && port.retry.is_some());
        for (returned, outbox) in taken.into_iter().enumerate() {
            assert_eq!(port.has_news(), returned >= REFILLED);
            // By way of the thread, which has nothing to send of an empty one.
            port.fill.as_ref().unwrap().send(outbox).unwrap();
            while port.emptied.len() <= returned {
                thread::yield_now();
            }
        }
    }
}
