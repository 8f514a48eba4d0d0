//! The one shape of every protocol: three ways in, three ways out.
//!
//! An [`Endpoint`] is all protocol state behind one UDP socket, or behind several that lead to the same peers. It is told the time and never asks for it, does no
//! I/O and draws no entropy of its own, so the same code runs on sockets and under the simulator. It does *not*
//! know threads, channels or files: those belong to the driver.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Figure;

/// Protocol state behind one UDP socket. Pure: told the time, does no I/O.
pub trait Endpoint {
    /// What the application asks.
    type Command;
    /// What the application learns.
    type Event;

    /// Takes one datagram. The payload is decrypted in place. Bytes that make no sense are counted and dropped;
    /// no byte string is an error of the caller.
    fn handle_datagram(&mut self, now: Instant, meta: Meta, payload: &mut [u8]);

    /// Runs whatever is due at `now`. Harmless when nothing is.
    fn handle_timeout(&mut self, now: Instant);

    /// Takes one request of the application.
    fn handle_command(&mut self, now: Instant, command: Self::Command);

    /// Appends up to `max_segments` equal datagrams for one peer to `buf` (which the caller has cleared) and says
    /// where they go; `None` when nothing may be sent at `now`.
    fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit>;

    /// The next thing the application should learn.
    fn poll_event(&mut self) -> Option<Self::Event>;

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll_transmit`](Self::poll_transmit) has work next; an
    /// instant in the past while output is queued, so draining is safe by construction. `None` when only a
    /// datagram or a command can wake this endpoint.
    fn poll_timeout(&self) -> Option<Instant>;

    /// What was counted and how things stand, for whoever watches; asked seldom. Figures of one name are neighbours.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The peer's address.
    pub from: SocketAddr,
    /// Which of this side's sockets it came to: 0, unless there are several.
    pub socket: u8,
    /// The local address it was sent to, when the kernel tells.
    pub to_ip: Option<IpAddr>,
    /// The congestion mark it carried, if any.
    pub ecn: Option<Ecn>,
}

/// Where the bytes that `poll_transmit` appended go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The peer's address.
    pub to: SocketAddr,
    /// Which of this side's sockets to send from: 0, unless there are several.
    pub socket: u8,
    /// The local address to send from, when it matters.
    pub from_ip: Option<IpAddr>,
    /// The congestion mark to carry.
    pub ecn: Option<Ecn>,
    /// Bytes appended to the buffer.
    pub len: usize,
    /// Size of each datagram but the last, which may be shorter; `None` means one datagram.
    pub segment: Option<usize>,
}

/// Explicit congestion notification, RFC 3168.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecn {
    /// ECN-capable, first code point.
    Ect0,
    /// ECN-capable, second code point.
    Ect1,
    /// Congestion experienced.
    Ce,
}

/// One owned datagram on its way; used by simulators and tests, never on the socket's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// UDP payload.
    pub payload: Vec<u8>,
    /// Congestion mark.
    pub ecn: Option<Ecn>,
}
