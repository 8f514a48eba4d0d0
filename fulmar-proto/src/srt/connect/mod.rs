//! Handshakes: callers, listeners, rendezvous, and what comes of them (5).
//!
//! It does *not* move data: it ends with an [`Agreed`].

mod caller;
mod cookie;
mod listener;
mod negotiate;
mod rendezvous;
mod v4;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use caller::Caller;
pub(crate) use listener::Listener;
pub(crate) use rendezvous::Rendezvous;

use super::config::{Config, Mode};
use super::entropy::Entropy;
use super::filter;
use super::keys::{Keks, LinkKeys};
use super::packet::{Flags, GroupWords, Seq, SocketId, Stamp};
use super::reject::Reason;
use super::stats::Counter;
use crate::engine::Counters;

/// What two sides agreed on; all that the parts of a link need to begin.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) config: Arc<Config>,
    pub(crate) peer: SocketAddr,
    pub(crate) own_id: SocketId,
    pub(crate) peer_id: SocketId,
    /// This side brought HSREQ and the keys (6.7).
    pub(crate) initiator: bool,
    /// The peer has HSv4 (5.10): HSREQ may come yet.
    pub(crate) v4: bool,
    /// First numbers of both directions.
    pub(crate) send_isn: Seq,
    pub(crate) receive_isn: Seq,
    /// Arrival and stamp of the packet that carried HSREQ or HSRSP (7.1.1).
    pub(crate) base: (Instant, Stamp),
    /// Zero of this side's clock (2.3.1).
    pub(crate) epoch: Instant,
    pub(crate) mode: Mode,
    pub(crate) mss: usize,
    /// Bytes of payload in a packet, after what cipher and filter take (2.2.1).
    pub(crate) payload_max: usize,
    /// Packets that the peer can hold (5.1.5).
    pub(crate) peer_window: u32,
    /// How long what we receive is held, and what we send (5.6).
    pub(crate) receive_latency: Duration,
    pub(crate) send_latency: Duration,
    /// Whether what we receive is played by time, and what we send (5.5.3).
    pub(crate) receive_by_time: bool,
    pub(crate) send_by_time: bool,
    /// The peer's.
    pub(crate) flags: Flags,
    /// The peer's.
    pub(crate) version: u32,
    pub(crate) keys: Option<LinkKeys>,
    pub(crate) filter: Option<filter::Config>,
    pub(crate) stream_id: Vec<u8>,
    /// The peer's.
    pub(crate) group: Option<GroupWords>,
}

impl Agreed {
    /// The position of the first packet we send; see [`position`].
    pub(crate) fn send_from(&self) -> u64 {
        position(self.send_isn)
    }

    /// The position of the first packet we receive.
    pub(crate) fn receive_from(&self) -> u64 {
        position(self.receive_isn)
    }
}

/// Where a direction begins: far enough from zero that earlier numbers exist.
pub(crate) fn position(isn: Seq) -> u64 {
    isn.raw() + (1 << 31)
}

/// What an attempt lends from its endpoint.
pub(crate) struct Context<'a> {
    pub(crate) entropy: &'a mut Entropy,
    pub(crate) keks: &'a mut Keks,
    pub(crate) counters: &'a mut Counters<Counter>,
}

/// How far an attempt got.
#[derive(Debug)]
pub(crate) enum Attempt {
    Waiting,
    Done(Box<Agreed>),
    Failed(Reason),
}
