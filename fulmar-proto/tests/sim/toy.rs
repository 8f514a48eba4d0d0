//! A toy protocol: says what it is told to, echoes if asked, keeps what it gets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fulmar_proto::{Ecn, Endpoint, Meta, Transmit};

#[derive(Default)]
pub(super) struct Toy {
    pub(super) echo: bool,
    pub(super) spin: Option<Instant>,
    pub(super) received: Vec<Seen>,
    pub(super) fired: Vec<Instant>,
    pub(super) timers: VecDeque<Instant>,
    stream: Option<Stream>,
    out: VecDeque<Batch>,
    pub(super) events: VecDeque<usize>,
}

pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) meta: Meta,
    pub(super) payload: Vec<u8>,
}

#[derive(Clone)]
pub(super) enum ToyCommand {
    Send {
        to: SocketAddr,
        payload: Vec<u8>,
        ecn: Option<Ecn>,
    },
    Batch {
        to: SocketAddr,
        payload: Vec<u8>,
        segment: usize,
    },
    Stream {
        to: SocketAddr,
        size: usize,
        count: u64,
        every: Duration,
        after: Duration,
    },
    Timer(Instant),
}

struct Batch {
    to: SocketAddr,
    payload: Vec<u8>,
    ecn: Option<Ecn>,
    segment: Option<usize>,
}

struct Stream {
    to: SocketAddr,
    size: usize,
    left: u64,
    every: Duration,
    next: Instant,
}

impl Toy {
    /// One a millisecond.
    pub(super) fn stream(to: SocketAddr, count: u64, size: usize) -> ToyCommand {
        ToyCommand::Stream {
            to,
            size,
            count,
            every: Duration::from_millis(1),
            after: Duration::ZERO,
        }
    }
}

impl Endpoint for Toy {
    type Command = ToyCommand;
    /// Bytes of a datagram that came.
    type Event = usize;

    fn handle_datagram(&mut self, now: Instant, meta: Meta, payload: &mut [u8]) {
        self.received.push(Seen {
            at: now,
            meta,
            payload: payload.to_vec(),
        });
        self.events.push_back(payload.len());
        if self.echo {
            self.out.push_back(Batch {
                to: meta.from,
                payload: payload.to_vec(),
                ecn: meta.ecn,
                segment: None,
            });
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        // One at a time, so that a second one is still due afterwards.
        if self.timers.front().is_some_and(|&at| at <= now) {
            self.timers.pop_front();
            self.fired.push(now);
        }
    }

    fn handle_command(&mut self, now: Instant, command: ToyCommand) {
        match command {
            ToyCommand::Send { to, payload, ecn } => self.out.push_back(Batch {
                to,
                payload,
                ecn,
                segment: None,
            }),
            ToyCommand::Batch {
                to,
                payload,
                segment,
            } => {
                self.out.push_back(Batch {
                    to,
                    payload,
                    ecn: None,
                    segment: Some(segment),
                });
            }
            ToyCommand::Stream {
                to,
                size,
                count,
                every,
                after,
            } => {
                self.stream = Some(Stream {
                    to,
                    size,
                    left: count,
                    every,
                    next: now + after,
                });
            }
            ToyCommand::Timer(at) => self.timers.push_back(at),
        }
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        _max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if let Some(batch) = self.out.pop_front() {
            buf.extend_from_slice(&batch.payload);
            let len = batch.payload.len();
            return Some(Transmit {
                to: batch.to,
                from_ip: None,
                ecn: batch.ecn,
                len,
                segment: batch.segment,
            });
        }
        let stream = self
            .stream
            .as_mut()
            .filter(|stream| stream.left > 0 && stream.next <= now)?;
        stream.left -= 1;
        stream.next += stream.every;
        buf.resize(stream.size, stream.left as u8);
        Some(Transmit {
            to: stream.to,
            from_ip: None,
            ecn: None,
            len: stream.size,
            segment: None,
        })
    }

    fn poll_event(&mut self) -> Option<usize> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.spin.is_some() {
            return self.spin;
        }
        let stream = self
            .stream
            .as_ref()
            .filter(|stream| stream.left > 0)
            .map(|stream| stream.next);
        self.timers.front().copied().into_iter().chain(stream).min()
    }
}
