//! One end of a simulated transfer, with a tap on what it sends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fulmar_proto::hpudp::{Command, Config, Counter, Endpoint, Event};
use fulmar_proto::sim::Rng;
use fulmar_proto::{Meta, Transmit};

/// What speaks HP-UDP at one end.
pub(crate) type Speaker = Box<dyn fulmar_proto::Endpoint<Command = Command, Event = Event>>;

/// One end, with a tap on what it sends.
pub(crate) struct Host {
    inner: Inner,
    born: Instant,
    /// Datagrams sent: when since the host's birth, to whom, what. Only while `tapping`.
    pub(crate) sent: Vec<Sent>,
    pub(crate) tapping: bool,
    /// Digest of everything sent to `watched`, times included.
    pub(crate) digest: u64,
    pub(crate) watched: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) at: Duration,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

enum Inner {
    Fulmar(Box<Endpoint>),
    Scripted(Speaker),
}

impl Host {
    pub(crate) fn fulmar(start: Instant, config: Config, rng: &mut Rng) -> Self {
        let mut seed = [0; 32];
        rng.fill(&mut seed);
        let mut endpoint = Endpoint::new(config, seed);
        endpoint.guard_nonces();
        Self::new(start, Inner::Fulmar(Box::new(endpoint)))
    }

    pub(crate) fn scripted(start: Instant, speaker: Speaker) -> Self {
        Self::new(start, Inner::Scripted(speaker))
    }

    fn new(born: Instant, inner: Inner) -> Self {
        Self {
            inner,
            born,
            sent: Vec::new(),
            tapping: false,
            digest: 0,
            watched: None,
        }
    }

    /// The endpoint, if it is ours.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        match &self.inner {
            Inner::Fulmar(it) => it,
            Inner::Scripted(_) => panic!("a scripted host"),
        }
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.endpoint().counters().get(counter)
    }
}

impl fulmar_proto::Endpoint for Host {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, meta: Meta, payload: &mut [u8]) {
        match &mut self.inner {
            Inner::Fulmar(it) => it.handle_datagram(now, meta, payload),
            Inner::Scripted(it) => it.handle_datagram(now, meta, payload),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &mut self.inner {
            Inner::Fulmar(it) => it.handle_timeout(now),
            Inner::Scripted(it) => it.handle_timeout(now),
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        match &mut self.inner {
            Inner::Fulmar(it) => it.handle_command(now, command),
            Inner::Scripted(it) => it.handle_command(now, command),
        }
    }

    fn poll_transmit(&mut self, now: Instant, max: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        let transmit = match &mut self.inner {
            Inner::Fulmar(it) => it.poll_transmit(now, max, buf),
            Inner::Scripted(it) => it.poll_transmit(now, max, buf),
        }?;
        let segment = transmit.segment.unwrap_or(transmit.len).max(1);
        let at = now.duration_since(self.born);
        for bytes in buf.chunks(segment) {
            if self.watched == Some(transmit.to) {
                self.digest = digest(self.digest ^ at.as_nanos() as u64, bytes);
            }
            if self.tapping {
                let bytes = bytes.to_vec();
                self.sent.push(Sent {
                    at,
                    to: transmit.to,
                    bytes,
                });
            }
        }
        Some(transmit)
    }

    fn poll_event(&mut self) -> Option<Event> {
        match &mut self.inner {
            Inner::Fulmar(it) => it.poll_event(),
            Inner::Scripted(it) => it.poll_event(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.inner {
            Inner::Fulmar(it) => it.poll_timeout(),
            Inner::Scripted(it) => it.poll_timeout(),
        }
    }
}

fn digest(start: u64, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, start)
}
