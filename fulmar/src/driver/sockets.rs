//! Several sockets of one endpoint, as one: each is another source port, and another way for whoever hashes flows.
//!
//! What leaves says which socket it leaves by, what comes says which it came to. It does *not* choose.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fulmar_proto::Transmit;
use polling::Poller;

use super::socket::{Buffers, Flow, Inbox, Socket};
use super::stats::Counters;

/// At least one socket.
#[derive(Debug)]
pub(super) struct Sockets {
    first: Socket,
    more: Vec<Socket>,
    /// Who is read first next time, so that a busy one does not starve the others.
    turn: AtomicUsize,
}

impl Sockets {
    pub(super) fn new(first: Socket, more: Vec<Socket>) -> Self {
        Self {
            first,
            more,
            turn: AtomicUsize::new(0),
        }
    }

    /// Whether others may hold something while one was read.
    pub(super) fn are_several(&self) -> bool {
        !self.more.is_empty()
    }

    /// The address of the first.
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.first.local_addr()
    }

    /// What the kernel granted the first; the others asked for as much.
    pub(super) fn buffers(&self) -> Buffers {
        self.first.buffers()
    }

    /// Most equal datagrams one send may carry.
    pub(super) fn max_segments(&self) -> usize {
        self.all().map(Socket::max_segments).min().unwrap_or(1)
    }

    /// Sends as [`Socket::send`] does, by the socket that `transmit` names. One that is not there loses it, as the
    /// network would.
    pub(super) fn send(
        &self,
        transmit: &Transmit,
        bytes: &[u8],
        sent: &mut usize,
        counters: &Counters,
    ) -> Flow {
        match self.get(usize::from(transmit.socket)) {
            Some(socket) => socket.send(transmit, bytes, sent, counters),
            None => {
                counters.send_errors.add(1);
                *sent = bytes.len();
                Flow::Done
            }
        }
    }

    /// Fills `inbox` from the first socket that has anything; 0 when none has.
    pub(super) fn recv(&self, inbox: &mut Inbox, counters: &Counters) -> io::Result<usize> {
        let all = self.all().enumerate();
        let first = self.turn.load(Relaxed) % (1 + self.more.len());
        let (sooner, later) = (all.clone().skip(first), all.take(first));
        for (at, socket) in sooner.chain(later) {
            let filled = socket.recv(inbox, counters)?;
            if filled > 0 {
                inbox.socket = at as u8;
                self.turn.store(at + 1, Relaxed);
                return Ok(filled);
            }
        }
        Ok(0)
    }

    /// Registers all with `poller` for readability.
    pub(super) fn watch(&mut self, poller: Arc<Poller>) -> io::Result<()> {
        let mut more = self.more.iter_mut();
        more.try_for_each(|it| it.watch(Arc::clone(&poller)))?;
        self.first.watch(poller)
    }

    /// Asks to be woken, or no longer, when any is writable.
    pub(super) fn watch_writable(&self, on: bool) -> io::Result<()> {
        self.all().try_for_each(|it| it.watch_writable(on))
    }

    fn all(&self) -> impl Iterator<Item = &Socket> + Clone {
        std::iter::once(&self.first).chain(&self.more)
    }

    fn get(&self, at: usize) -> Option<&Socket> {
        match at.checked_sub(1) {
            None => Some(&self.first),
            Some(at) => self.more.get(at),
        }
    }
}
