//! One plain thread per endpoint and its socket, or sockets, one loop for every protocol; and, where there are processors
//! enough, two more that make the system calls ([`Options::offload`]).
//!
//! ```text
//! loop {  commands ─► handle_command          socket.recv (GRO) ─► handle_datagram
//!         due?     ─► handle_timeout          poll_transmit ─► socket.send (GSO)
//!         poll_event ─► channel up            sleep until poll_timeout, readable or told
//! }
//! ```
//!
//! Every phase of a turn is bounded (one batch is received), so none starves another. Events go up only while their
//! channel has room; the endpoint keeps the rest. Why a thread and not a runtime: a 200 us wait ends about 30 us late
//! here (`polling` arms a timerfd with nanoseconds, which no timer slack touches) and a millisecond late on a runtime with
//! a timer wheel, and pacing sits on that wait. The driver does *not* know any protocol, file or user.

mod handle;
mod limit;
mod port;
mod socket;
mod sockets;
mod stats;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, Sender};
use fulmar_proto::Endpoint;
use polling::Poller;

pub use handle::{Commands, Events, Handle, NoEvent, NotTaken, Stopped, Watcher};
pub use limit::{RawLimit, raw_limit};
pub use socket::{BUFFER_WANTED, Buffers, Socket};
pub use stats::Stats;

use handle::{Report, Shared, roomy};
use port::{Gone, Port};
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
    /// Whether two threads beside the loop make the system calls of the socket, so that sealing, opening and coding
    /// have a processor to themselves. By default they do where each driver has four processors: two for these, one
    /// for the loop, one for files.
    pub offload: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self::among(1)
    }
}

impl Options {
    /// For one of `drivers` that share the processors.
    pub fn among(drivers: usize) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            commands: 256,
            events: 256,
            gather: Duration::ZERO,
            offload: processors >= drivers.saturating_mul(PROCESSORS),
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
    let sockets = Sockets::new(first, more);
    let shared = Arc::new(Shared {
        poller: Arc::new(Poller::new()?),
        asleep: AtomicBool::new(false),
        stalled: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        counters: stats::Counters::default(),
        report: Report::default(),
    });
    let (command_in, commands) = flume::bounded(options.commands.max(1));
    let (events, event_out) = flume::bounded(options.events.max(1));
    let (local, buffers) = (sockets.local_addr(), sockets.buffers());
    let port = if options.offload {
        Port::offloaded(sockets, Arc::clone(&shared), options.gather)?
    } else {
        Port::own(sockets, Arc::clone(&shared))?
    };
    let driver = Driver {
        port,
        endpoint,
        commands,
        events,
        shared: Arc::clone(&shared),
        gather: options.gather,
    };
    let thread = thread::Builder::new()
        .name(format!("udp {}", local.port()))
        .spawn(move || {
            port::exact_naps();
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
    port: Port,
    endpoint: E,
    commands: Receiver<E::Command>,
    events: Sender<E::Event>,
    shared: Arc<Shared>,
    gather: Duration,
}

impl<E: Endpoint> Driver<E> {
    fn run(mut self) -> E {
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
            let endpoint = &mut self.endpoint;
            let received = self
                .port
                .receive(|now, meta, payload| endpoint.handle_datagram(now, meta, payload));
            match received {
                Ok(waiting) => more |= waiting,
                Err(Gone) => return self.endpoint,
            }
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
        (0..TRANSMITS_A_TURN).all(|_| {
            let (endpoint, now) = (&mut self.endpoint, Instant::now());
            let fill = |segments, bytes: &mut Vec<u8>| endpoint.poll_transmit(now, segments, bytes);
            self.port.send(now, fill)
        })
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
        let wanted = shared.report.wanted.load(SeqCst);
        if room || wanted || !self.commands.is_empty() || self.port.has_news() {
            shared.asleep.store(false, SeqCst);
            if room {
                shared.stalled.store(false, SeqCst);
            }
            return true;
        }
        let now = Instant::now();
        let due = self.endpoint.poll_timeout();
        let until = match (due, self.port.retry()) {
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
                self.port.writable();
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
}

/// The nap of a bulk receiver: on loopback it lifts about 35 Gbit/s to 47, because many wake-ups become one, and it
/// costs 50 us of a round trip.
pub const GATHER_BULK: Duration = Duration::from_micros(50);
/// From so many processors for each driver on, system calls have threads of their own.
const PROCESSORS: usize = 4;
/// Commands handled before the socket is looked at again.
const COMMANDS_A_TURN: usize = 64;
/// Batches sent before the socket is read again.
const TRANSMITS_A_TURN: usize = 16;
/// Events handed up before the socket is looked at again.
const EVENTS_A_TURN: usize = 256;
