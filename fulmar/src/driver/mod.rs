//! One plain thread per endpoint and its socket, or sockets, one loop for every protocol.
//!
//! ```text
//! loop {  commands ─► handle_command          socket.recv (GRO) ─► handle_datagram
//!         due?     ─► handle_timeout          poll_transmit ─► socket.send (GSO)
//!         poll_event ─► channel up            sleep until poll_timeout, readable or told
//! }
//! ```
//!
//! Every phase of a turn is bounded (one batch is received), so none starves another. Events go up only while their channel has room; the
//! endpoint keeps the rest. Why a thread and not a runtime: a 200 us wait ends about 30 us late here (`polling` arms a
//! timerfd with nanoseconds, which no timer slack touches) and a millisecond late on a runtime with a timer wheel, and
//! pacing sits on that wait. The driver does *not* know any protocol, file or user.

mod handle;
mod limit;
mod socket;
mod sockets;
mod stats;

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, Sender};
use fulmar_proto::{Endpoint, Transmit};
use polling::Poller;
use rustix::io::Errno;

pub use handle::{Commands, Events, Handle, NoEvent, NotTaken, Stopped, Watcher};
pub use limit::{RawLimit, raw_limit};
pub use socket::{BUFFER_WANTED, Buffers, Socket};
pub use stats::Stats;

use handle::{Report, Shared, roomy};
use socket::{Flow, Inbox, SEND_MAX};
use sockets::Sockets;

/// How a driver is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Commands that may wait for the driver.
    pub commands: usize,
    /// Events that may wait for the application.
    pub events: usize,
    /// How long to let datagrams gather after the socket became readable, before they are read; never past the
    /// endpoint's next deadline. Zero reads at once; bulk receivers take [`GATHER_BULK`].
    pub gather: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            commands: 256,
            events: 256,
            gather: Duration::ZERO,
        }
    }
}

/// Runs `endpoint` on `socket` in a thread of its own, with default [`Options`].
///
/// # Errors
/// If the system has no descriptors or threads left.
pub fn spawn<E>(socket: Socket, endpoint: E) -> io::Result<Handle<E>>
where
    E: Endpoint<Command: Send, Event: Send> + Send + 'static,
{
    spawn_with(socket, endpoint, Options::default())
}

/// Runs `endpoint` on `socket` in a thread of its own.
///
/// # Errors
/// If the system has no descriptors or threads left.
pub fn spawn_with<E>(socket: Socket, endpoint: E, options: Options) -> io::Result<Handle<E>>
where
    E: Endpoint<Command: Send, Event: Send> + Send + 'static,
{
    spawn_over(socket, Vec::new(), endpoint, options)
}

/// Runs `endpoint` on several sockets in one thread: `first` is number 0 of [`Transmit::socket`], those of `more` follow.
///
/// # Errors
/// If the system has no descriptors or threads left.
pub fn spawn_over<E>(
    first: Socket,
    more: Vec<Socket>,
    endpoint: E,
    options: Options,
) -> io::Result<Handle<E>>
where
    E: Endpoint<Command: Send, Event: Send> + Send + 'static,
{
    let mut socket = Sockets::new(first, more);
    let poller = Arc::new(Poller::new()?);
    socket.watch(Arc::clone(&poller))?;
    let shared = Arc::new(Shared {
        poller,
        asleep: AtomicBool::new(false),
        stalled: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        counters: stats::Counters::default(),
        report: Report::default(),
    });
    let (command_in, commands) = flume::bounded(options.commands.max(1));
    let (events, event_out) = flume::bounded(options.events.max(1));
    let (local, buffers) = (socket.local_addr(), socket.buffers());
    let driver = Driver {
        socket,
        endpoint,
        commands,
        events,
        shared: Arc::clone(&shared),
        gather: options.gather,
        outbox: Outbox::default(),
    };
    let thread = thread::Builder::new()
        .name(format!("udp {}", local.port()))
        .spawn(move || {
            // Only naps are subject to slack; without the right to change it they are 50 us late.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            let (shared, endpoint) = (Arc::clone(&driver.shared), driver.run());
            shared.report.answer(endpoint.figures(), true);
            endpoint
        })?;
    Ok(Handle {
        commands: Commands {
            sender: command_in,
            shared: Arc::clone(&shared),
        },
        events: Events {
            receiver: event_out,
            shared: Arc::clone(&shared),
        },
        local,
        buffers,
        shared,
        thread: Some(thread),
    })
}

struct Driver<E: Endpoint> {
    socket: Sockets,
    endpoint: E,
    commands: Receiver<E::Command>,
    events: Sender<E::Event>,
    shared: Arc<Shared>,
    gather: Duration,
    outbox: Outbox,
}

/// The one batch between `poll_transmit` and the kernel.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// Set while the kernel has not taken all of it.
    unsent: Option<Transmit>,
    /// Bytes the kernel has taken, or never will.
    sent: usize,
    /// When to try again although nobody said that there is room.
    retry: Option<Instant>,
    /// The poller reports when there is room.
    watching: bool,
}

impl<E: Endpoint> Driver<E> {
    fn run(mut self) -> E {
        let mut inbox = Inbox::new();
        let mut ready = polling::Events::new();
        loop {
            let closing = self.shared.closing.load(SeqCst);
            self.shared.counters.turns.add(1);
            let mut more = false;

            let now = Instant::now();
            for turn in 1..=COMMANDS_A_TURN {
                let Ok(command) = self.commands.try_recv() else {
                    break;
                };
                self.endpoint.handle_command(now, command);
                more |= turn == COMMANDS_A_TURN;
            }
            match self.socket.recv(&mut inbox, &self.shared.counters) {
                Ok(filled) => {
                    more |= filled == inbox.rooms() || filled > 0 && self.socket.are_several();
                }
                Err(error) if self.survives(&error) => {}
                Err(_) => return self.endpoint,
            }
            let now = Instant::now();
            inbox.each(|meta, payload| self.endpoint.handle_datagram(now, meta, payload));
            let now = Instant::now();
            if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
                self.endpoint.handle_timeout(now);
            }
            more |= self.transmit();
            more |= self.deliver();
            if self.shared.report.wanted.load(SeqCst) {
                self.shared.report.wanted.store(false, SeqCst);
                self.shared.report.answer(self.endpoint.figures(), false);
            }
            if closing {
                return self.endpoint;
            }
            if !more && !self.sleep(&mut ready) {
                return self.endpoint;
            }
        }
    }

    /// Sends until the endpoint has no more, the kernel takes no more, or the turn is over; true in the last case.
    fn transmit(&mut self) -> bool {
        for _ in 0..TRANSMITS_A_TURN {
            let (outbox, now) = (&mut self.outbox, Instant::now());
            if outbox.retry.is_some_and(|at| now < at) {
                return false;
            }
            let transmit = if let Some(unsent) = outbox.unsent.take() {
                unsent
            } else {
                outbox.bytes.clear();
                outbox.sent = 0;
                let segments = self.socket.max_segments();
                let Some(transmit) = self
                    .endpoint
                    .poll_transmit(now, segments, &mut outbox.bytes)
                else {
                    return false;
                };
                debug_assert!(transmit.len == outbox.bytes.len() && transmit.len <= SEND_MAX);
                transmit
            };
            let flow = self.socket.send(
                &transmit,
                &outbox.bytes,
                &mut outbox.sent,
                &self.shared.counters,
            );
            outbox.retry = match flow {
                Flow::Done => None,
                Flow::Blocked => Some(now + RETRY_BLOCKED),
                Flow::Backoff => Some(now + RETRY_BACKOFF),
            };
            if (flow == Flow::Blocked) != outbox.watching {
                outbox.watching = flow == Flow::Blocked;
                // Should this fail, the retry time still bounds the wait.
                let _ = self.socket.watch_writable(outbox.watching);
            }
            if flow != Flow::Done {
                self.shared.counters.blocked.add(1);
                outbox.unsent = Some(transmit);
                return false;
            }
        }
        true
    }

    /// Hands up events while their channel has room; true if the turn is over first.
    fn deliver(&mut self) -> bool {
        for _ in 0..EVENTS_A_TURN {
            if self.events.is_full() {
                if !self.shared.stalled.swap(true, SeqCst) {
                    self.shared.counters.stalls.add(1);
                }
                return false;
            }
            let Some(event) = self.endpoint.poll_event() else {
                return false;
            };
            // This thread is the only sender and there was room; the handle, and with it the receiver, outlives
            // everything but the last turn, where nobody reads.
            let _ = self.events.try_send(event);
        }
        true
    }

    /// Waits for the next thing to do; false if waiting is no longer possible.
    fn sleep(&mut self, ready: &mut polling::Events) -> bool {
        let shared = &self.shared;
        shared.asleep.store(true, SeqCst);
        let room = shared.stalled.load(SeqCst) && roomy(self.events.len(), self.events.capacity());
        if room || !self.commands.is_empty() || shared.report.wanted.load(SeqCst) {
            shared.asleep.store(false, SeqCst);
            if room {
                shared.stalled.store(false, SeqCst);
            }
            return true;
        }
        let now = Instant::now();
        let due = self.endpoint.poll_timeout();
        let until = match (due, self.outbox.retry) {
            // Output is queued, so the endpoint calls itself due; but the kernel takes none before the retry.
            (Some(due), Some(retry)) if due <= now => Some(retry),
            (Some(due), Some(retry)) => Some(due.min(retry)),
            (due, retry) => due.or(retry),
        };
        shared.counters.sleeps.add(1);
        ready.clear();
        let waited = match until {
            Some(until) => shared.poller.wait_deadline(ready, until),
            None => shared.poller.wait(ready, None),
        };
        shared.asleep.store(false, SeqCst);
        if let Err(error) = waited {
            tracing::error!(%error, "the driver cannot wait for its socket and ends");
            return false;
        }
        for event in ready.iter() {
            if event.writable {
                self.outbox.retry = None;
            }
            if event.readable && !self.gather.is_zero() {
                let nap = due.map_or(self.gather, |due| {
                    due.saturating_duration_since(now).min(self.gather)
                });
                thread::sleep(nap);
            }
        }
        true
    }

    /// Counts a failed receive; false if the socket itself is gone.
    fn survives(&self, error: &io::Error) -> bool {
        self.shared.counters.recv_errors.add(1);
        if matches!(
            Errno::from_io_error(error),
            Some(Errno::BADF | Errno::NOTSOCK)
        ) {
            tracing::error!(%error, "the socket is gone and its driver ends");
            return false;
        }
        // The poller would report the same error at once.
        thread::sleep(PAUSE_AFTER_ERROR);
        true
    }
}

/// The nap of a bulk receiver: on loopback it lifts about 35 Gbit/s to 47, because many wake-ups become one, and it
/// costs 50 us of a round trip.
pub const GATHER_BULK: Duration = Duration::from_micros(50);
/// Commands handled before the socket is looked at again.
const COMMANDS_A_TURN: usize = 64;
/// Batches sent before the socket is read again.
const TRANSMITS_A_TURN: usize = 16;
/// Events handed up before the socket is looked at again.
const EVENTS_A_TURN: usize = 256;
/// Longest wait for a full send buffer, should the poller not report that it has room.
const RETRY_BLOCKED: Duration = Duration::from_millis(10);
/// Wait after the kernel ran out of buffers below the socket, which no poller reports.
const RETRY_BACKOFF: Duration = Duration::from_micros(200);
/// Wait after a receive failed for no known reason.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(1);
