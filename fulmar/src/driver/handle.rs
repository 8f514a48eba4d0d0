//! The application's end of a driver: [`Handle`], [`Commands`] and [`Events`].
//!
//! Both channels are bounded and have a blocking and an async end. A waiting application never stops the driver; a
//! full event channel leaves the rest with the endpoint, whose own credit then slows the far side. Waking the driver
//! costs a system call, so it happens only while the driver sleeps. No handle here does any input or output itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError};
use fulmar_proto::Endpoint;
use fulmar_proto::engine::Figure;
use polling::Poller;

use super::socket::Buffers;
use super::stats::{Counters, Stats};

/// A running driver and its endpoint. Dropping it ends the driver and waits for its thread.
#[derive(Debug)]
pub struct Handle<E: Endpoint> {
    pub(super) commands: Commands<E::Command>,
    pub(super) events: Events<E::Event>,
    pub(super) local: SocketAddr,
    pub(super) buffers: Buffers,
    pub(super) shared: Arc<Shared>,
    pub(super) thread: Option<JoinHandle<E>>,
}

/// Sends commands to a driver; clones serve other threads.
#[derive(Debug)]
pub struct Commands<C> {
    pub(super) sender: Sender<C>,
    pub(super) shared: Arc<Shared>,
}

/// Receives events of a driver; each event goes to one of the clones.
#[derive(Debug)]
pub struct Events<V> {
    pub(super) receiver: Receiver<V>,
    pub(super) shared: Arc<Shared>,
}

/// Looks at a driver without commanding it; clones serve other threads, and may outlive it.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// Of one driver, or of several that are one to whoever looks.
    shared: Vec<Arc<Shared>>,
}

/// The driver has ended: it was closed, its thread panicked, or its socket died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the driver of this socket has stopped")]
pub struct Stopped;

/// Why a command was not taken; it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken<C> {
    /// The channel is full now.
    #[error("the driver has not caught up with earlier commands")]
    Full(C),
    /// The driver has ended.
    #[error("the driver of this socket has stopped")]
    Stopped(C),
}

/// Why no event came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEvent {
    /// None yet.
    #[error("nothing has happened yet")]
    Yet,
    /// The driver has ended and every event was read.
    #[error("the driver of this socket has stopped")]
    Stopped,
}

impl<E: Endpoint> Handle<E> {
    /// Hands over a command; waits while the channel is full.
    ///
    /// # Errors
    /// [`Stopped`] if the driver has ended.
    pub fn command(&self, command: E::Command) -> Result<(), Stopped> {
        self.commands.send(command)
    }

    /// As [`command`](Self::command), for async callers of any runtime.
    ///
    /// # Errors
    /// [`Stopped`] if the driver has ended.
    pub async fn command_async(&self, command: E::Command) -> Result<(), Stopped> {
        self.commands.send_async(command).await
    }

    /// As [`command`](Self::command), but never waits.
    ///
    /// # Errors
    /// [`NotTaken`] with the command, if the channel is full or the driver has ended.
    pub fn try_command(&self, command: E::Command) -> Result<(), NotTaken<E::Command>> {
        self.commands.try_send(command)
    }

    /// The command side alone, to be cloned for other threads.
    pub fn commands(&self) -> &Commands<E::Command> {
        &self.commands
    }

    /// Where events arrive.
    pub fn events(&self) -> &Events<E::Event> {
        &self.events
    }

    /// The address of the socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Socket buffers the kernel granted.
    pub fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// For those who only look.
    pub fn watcher(&self) -> Watcher {
        Watcher {
            shared: vec![Arc::clone(&self.shared)],
        }
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Ends the driver and gives the endpoint back. Commands already handed over are handled, and what may be sent at
    /// that moment is sent; events not yet read are gone.
    ///
    /// # Panics
    /// If the driver's thread panicked, with its panic.
    pub fn close(mut self) -> E {
        self.shared.close();
        let thread = self.thread.take().expect("taken only here and in drop");
        match thread.join() {
            Ok(endpoint) => endpoint,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Watcher {
    /// Looks at another driver too, as if it were the same.
    #[must_use]
    pub fn beside(mut self, other: Self) -> Self {
        self.shared.extend(other.shared);
        self
    }

    /// What the driver counted so far.
    pub fn stats(&self) -> Stats {
        let each = self.shared.iter().map(|it| it.counters.snapshot());
        each.reduce(Stats::plus).unwrap_or_default()
    }

    /// What the endpoint counted so far. The driver's thread answers between two turns; where it does not within
    /// `patience`, or has ended, its last answer stands.
    pub fn figures(&self, patience: Duration) -> Vec<Figure> {
        let end = Instant::now() + patience;
        let left = || end.saturating_duration_since(Instant::now());
        let mut each = self.shared.iter().map(|it| it.figures(left()));
        let mut sum = each.next().unwrap_or_default();
        for figures in each {
            for figure in figures {
                let alike = |it: &&mut Figure| it.name == figure.name && it.label == figure.label;
                match sum.iter_mut().find(alike) {
                    Some(it) => it.value += figure.value,
                    None => sum.push(figure),
                }
            }
        }
        sum
    }
}

impl Shared {
    fn figures(&self, patience: Duration) -> Vec<Figure> {
        let report = &self.report;
        let answers = report
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = answers.count;
        report.wanted.store(true, SeqCst);
        self.wake();
        let (answers, _) = report
            .answered
            .wait_timeout_while(answers, patience, |answers| {
                answers.count == before && !answers.last
            })
            .unwrap_or_else(PoisonError::into_inner);
        answers.figures.clone()
    }
}

impl<C> Commands<C> {
    /// Hands over a command; waits while the channel is full.
    ///
    /// # Errors
    /// [`Stopped`] if the driver has ended.
    pub fn send(&self, command: C) -> Result<(), Stopped> {
        self.sender.send(command).map_err(|_| Stopped)?;
        self.shared.wake();
        Ok(())
    }

    /// As [`send`](Self::send), for async callers of any runtime.
    ///
    /// # Errors
    /// [`Stopped`] if the driver has ended.
    pub async fn send_async(&self, command: C) -> Result<(), Stopped> {
        self.sender.send_async(command).await.map_err(|_| Stopped)?;
        self.shared.wake();
        Ok(())
    }

    /// As [`send`](Self::send), but never waits.
    ///
    /// # Errors
    /// [`NotTaken`] with the command, if the channel is full or the driver has ended.
    pub fn try_send(&self, command: C) -> Result<(), NotTaken<C>> {
        self.sender.try_send(command).map_err(|error| match error {
            TrySendError::Full(command) => NotTaken::Full(command),
            TrySendError::Disconnected(command) => NotTaken::Stopped(command),
        })?;
        self.shared.wake();
        Ok(())
    }
}

impl<V> Events<V> {
    /// The next event; waits for it.
    ///
    /// # Errors
    /// [`Stopped`] if the driver has ended and every event was read.
    pub fn recv(&self) -> Result<V, Stopped> {
        let event = self.receiver.recv().map_err(|_| Stopped)?;
        self.taken();
        Ok(event)
    }

    /// The next event; waits no longer than `timeout`.
    ///
    /// # Errors
    /// [`NoEvent`] when time is up, or if the driver has ended and every event was read.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<V, NoEvent> {
        let event = self
            .receiver
            .recv_timeout(timeout)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => NoEvent::Yet,
                RecvTimeoutError::Disconnected => NoEvent::Stopped,
            })?;
        self.taken();
        Ok(event)
    }

    /// As [`recv`](Self::recv), for async callers of any runtime.
    ///
    /// # Errors
    /// [`Stopped`] if the driver has ended and every event was read.
    pub async fn recv_async(&self) -> Result<V, Stopped> {
        let event = self.receiver.recv_async().await.map_err(|_| Stopped)?;
        self.taken();
        Ok(event)
    }

    /// The next event if there is one now.
    ///
    /// # Errors
    /// [`NoEvent`] if there is none, or if the driver has ended and every event was read.
    pub fn try_recv(&self) -> Result<V, NoEvent> {
        let event = self.receiver.try_recv().map_err(|error| match error {
            TryRecvError::Empty => NoEvent::Yet,
            TryRecvError::Disconnected => NoEvent::Stopped,
        })?;
        self.taken();
        Ok(event)
    }

    /// Wakes a driver that waits for room once half of the channel is free, so that a slow reader does not cost a
    /// wake-up an event.
    fn taken(&self) {
        if self.shared.stalled.load(SeqCst)
            && roomy(self.receiver.len(), self.receiver.capacity())
            && self.shared.stalled.swap(false, SeqCst)
        {
            self.shared.wake();
        }
    }
}

impl<C> Clone for Commands<C> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<V> Clone for Events<V> {
    fn clone(&self) -> Self {
        Self {
            receiver: self.receiver.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<E: Endpoint> Drop for Handle<E> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.shared.close();
        // A panic of the driver was printed where it happened; dropping is not the place to repeat it.
        let _ = thread.join();
    }
}

/// What both sides of a driver touch.
///
/// Sleeping is announced before the channels are looked at a last time, and every channel operation takes the
/// channel's lock: either the driver's last look sees the command, or the sender sees the announcement. The same
/// holds for `stalled` and room in the event channel.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) poller: Arc<Poller>,
    pub(super) asleep: AtomicBool,
    pub(super) stalled: AtomicBool,
    pub(super) closing: AtomicBool,
    pub(super) counters: Counters,
    pub(super) report: Report,
}

/// Where the driver's thread leaves its endpoint's figures for a [`Watcher`].
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) wanted: AtomicBool,
    answers: Mutex<Answers>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Answers {
    figures: Vec<Figure>,
    count: u64,
    /// There will be no other.
    last: bool,
}

impl Report {
    pub(super) fn answer(&self, figures: Vec<Figure>, last: bool) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.figures = figures;
        answers.count = answers.count.wrapping_add(1);
        answers.last = last;
        self.answered.notify_all();
    }
}

impl Shared {
    pub(super) fn wake(&self) {
        if self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst) {
            self.poller
                .notify()
                .expect("the poller's own descriptor is open while it lives");
        }
    }

    fn close(&self) {
        self.closing.store(true, SeqCst);
        self.poller
            .notify()
            .expect("the poller's own descriptor is open while it lives");
    }
}

/// Whether a channel with `len` items has room enough to go on filling it.
pub(super) fn roomy(len: usize, capacity: Option<usize>) -> bool {
    capacity.is_none_or(|capacity| len <= capacity / 2)
}
