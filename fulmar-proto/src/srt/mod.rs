//! SRT: live video, messages and files between two hosts, repaired by retransmission and played by time.
//!
//! ```text
//!  application    Command::Send(Batch)                   Event::Data(Batch)           application
//!       │                                                       ▲
//!       ▼                                                       │
//!   stream/cut     numbers, stamps, packets              stream/play (live), stream/assemble (message, stream)
//!       │  one a connection, or one a group                     ▲  one a connection, or one a group
//!       ▼                                                       │
//!   sender/        buffer, flight, losses, pacing        receiver/   what came, ACK, NAK        one of each a link
//!       │  ├ keys/     seal once                                ▲  ├ keys/     open
//!       │  └ filter/   encoder                                  │  └ filter/   decoder, over ciphertext
//!       ▼                                                       │
//!   link/          one handshaken path: packets to halves, timers, silence, end
//!       ▼                                                       │
//!   endpoint/      all links of a socket by own id; strangers go to connect/; budgets
//!       ▼                                                       │
//!   packet/        bytes
//! ```
//!
//! **Numbers and time belong to the stream, losses and round trips to the link.** A plain connection is one stream on
//! one link, a group one stream on several. So `sender` and `receiver` never make a number, and `stream` never sees an
//! address. Positions are sequence numbers widened once, in `link`; they begin at the ISN + 2^31, and stamps at 2^32
//! microseconds, so that nothing that comes before the beginning is below zero.
//!
//! Clause numbers are those of `specs/srt.md`. This module does *not* touch sockets, files or clocks, does *not* read
//! URIs, and does *not* know what is inside the payload.
#![expect(
    dead_code,
    reason = "the parts stand side by side; `endpoint` will join them and take this away"
)]
#![allow(unused_imports, unused_variables, clippy::ptr_arg, reason = "stubs")]

mod config;
mod connect;
mod endpoint;
mod entropy;
mod filter;
mod group;
mod keys;
mod link;
mod packet;
mod receiver;
mod reject;
mod rtt;
mod sender;
mod stats;
mod stream;
mod stream_id;
#[cfg(test)]
mod vectors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use config::{
    Bandwidth, Bonding, Config, Congestion, CryptoMode, KeyLength, Limits, Mode, OutOfRange,
    Passphrase, VERSION,
};
pub use endpoint::Endpoint;
#[cfg(feature = "sim")]
pub use packet::read_and_write_back;
pub use reject::Reason;
pub use stats::{Counter, Snapshot};
pub use stream_id::{Access, Content, StreamId};

/// Names a connection, a group or a listener to the application. Chosen by the application when it begins one; by the
/// endpoint, from 2^63 up, when a peer calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// Messages, or pieces of a byte stream, end to end in one buffer: data crosses in runs, not packets. Batches are
/// recycled both ways, so a stream that flows allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each message ends in `bytes`, and what is said about it.
    ends: Vec<(usize, Mark)>,
}

impl Batch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Adds a message; in stream mode the next bytes.
    pub fn push(&mut self, message: &[u8], mark: Mark) {
        self.push_parts([message], mark);
    }

    /// Adds a message that lies in several pieces.
    pub fn push_parts<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>, mark: Mark) {
        parts
            .into_iter()
            .for_each(|part| self.bytes.extend_from_slice(part));
        self.ends.push((self.bytes.len(), mark));
    }

    /// The messages in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Mark)> {
        let mut start = 0;
        self.ends.iter().map(move |&(end, mark)| {
            let message = &self.bytes[start..end];
            start = end;
            (message, mark)
        })
    }

    /// How many messages it holds.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it holds no message.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All messages end to end: the bytes of a stream.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets the messages and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// What is said about a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Microseconds of the source's clock, which begins at 2^32 with the connection and never wraps. Received: always
    /// there. To send: a source time of the application's own (2.3.1), the time of [`Command::Send`] if `None`.
    pub stamp: Option<u64>,
    /// To send, message mode: delivered behind all earlier messages (11.2.2).
    pub ordered: bool,
    /// To send, message mode: dropped if it has not left by then (11.2.3); never if `None`.
    pub ttl: Option<Duration>,
}

/// What the application asks.
#[derive(Debug)]
pub enum Command {
    /// Take calls on this socket. An endpoint has one listener; another `Listen` replaces its parameters for calls
    /// that come later.
    Listen {
        /// The application's name for the listener.
        tag: Tag,
        /// Parameters of the connections.
        config: Arc<Config>,
    },
    /// Take no more calls. Connections stay.
    Unlisten {
        /// Listener.
        tag: Tag,
    },
    /// Call a listener (5.3, 5.4).
    Connect {
        /// The application's name for the connection.
        tag: Tag,
        /// Whom, and how.
        call: Call,
    },
    /// Meet a peer that calls us (5.11).
    Rendezvous {
        /// The application's name for the connection.
        tag: Tag,
        /// Whom, and how; there is no Stream ID.
        call: Call,
    },
    /// Call a listener over several links at once (14).
    Bond {
        /// The application's name for the group.
        tag: Tag,
        /// What the links are for.
        bonding: Bonding,
        /// Each link with its weight; more may follow.
        links: Vec<(Call, u16)>,
    },
    /// Add a link to a group.
    AddLink {
        /// Group.
        tag: Tag,
        /// Whom, and how.
        call: Call,
        /// Its weight (14.4.3).
        weight: u16,
    },
    /// Take a call. Answers [`Event::Asked`].
    Accept {
        /// Connection.
        tag: Tag,
        /// On what terms.
        terms: Terms,
    },
    /// Refuse a call. Answers [`Event::Asked`].
    Reject {
        /// Connection.
        tag: Tag,
        /// What the caller is told.
        reason: Reason,
    },
    /// Send messages, at most as many bytes as [`Event::Room`] has granted: what is beyond is dropped and counted.
    Send {
        /// Connection or group.
        tag: Tag,
        /// The messages.
        batch: Batch,
    },
    /// Data of an [`Event::Data`] is with the application; the batch may be used again.
    Taken {
        /// Connection or group.
        tag: Tag,
        /// How many bytes of payload.
        bytes: usize,
        /// The batch of the event, contents irrelevant; or an empty one.
        batch: Batch,
    },
    /// From now on send by this rule (12.1.2).
    Bandwidth {
        /// Connection or group.
        tag: Tag,
        /// The rule.
        rule: Bandwidth,
    },
    /// Ask for statistics. [`Event::Report`] answers.
    Report {
        /// Connection or group.
        tag: Tag,
        /// Begin a new interval (18.2).
        clear: bool,
    },
    /// End a connection or a group, or an attempt at one; what was handed in is sent first, as 10.3 allows.
    Close {
        /// Connection or group.
        tag: Tag,
    },
}

/// Whom to call, and how.
#[derive(Clone, Debug)]
pub struct Call {
    /// The peer.
    pub to: SocketAddr,
    /// Parameters of the connection, the passphrase among them.
    pub config: Arc<Config>,
    /// Stream ID, at most 512 bytes (15.1); empty for none.
    pub stream_id: Vec<u8>,
}

/// On what terms a listener takes a call (15.2).
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// What the caller has to know, in place of [`Config::passphrase`].
    pub passphrase: Option<Passphrase>,
    /// Which way data may flow (15.2.2).
    pub allow: Allow,
    /// How fast to send, in place of [`Config::bandwidth`].
    pub bandwidth: Option<Bandwidth>,
}

/// Which way data may flow between a listener and its caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allow {
    /// Both ways.
    #[default]
    Both,
    /// From the caller only.
    Publish,
    /// To the caller only.
    Receive,
}

/// What the application learns.
#[derive(Debug)]
pub enum Event {
    /// Listener: somebody calls, and all that can be checked without the application has been (5.7.1). Answer within
    /// 3 s with [`Command::Accept`] or [`Command::Reject`].
    Asked {
        /// Connection, named by the endpoint.
        tag: Tag,
        /// Listener.
        listener: Tag,
        /// Who calls, from an address that answered.
        from: SocketAddr,
        /// Stream ID as the caller wrote it; hostile until checked.
        stream_id: Vec<u8>,
        /// Version of the caller (5.5.1).
        version: u32,
        /// Whether it brings key material.
        encrypted: bool,
        /// The group it belongs to, as it calls it.
        group: Option<u32>,
    },
    /// A connection stands, or the first link of a group.
    Connected {
        /// Connection or group.
        tag: Tag,
        /// The peer.
        peer: SocketAddr,
        /// What was agreed.
        agreement: Agreement,
    },
    /// A link of a group came, went, or changed its part; the stream goes on.
    Link {
        /// Group.
        tag: Tag,
        /// The peer of the link.
        peer: SocketAddr,
        /// Whether it stands.
        up: bool,
        /// Whether data goes over it (14.4).
        active: bool,
    },
    /// So many more bytes of payload may be handed in.
    Room {
        /// Connection or group.
        tag: Tag,
        /// How many.
        bytes: usize,
    },
    /// Messages in order, when they are due (7). Answer with [`Command::Taken`].
    Data {
        /// Connection or group.
        tag: Tag,
        /// The messages.
        batch: Batch,
    },
    /// The peer said that it is done, and everything that came was handed up. [`Event::Closed`] follows.
    Finished {
        /// Connection or group.
        tag: Tag,
    },
    /// Answers [`Command::Report`].
    Report {
        /// Connection or group.
        tag: Tag,
        /// Figures.
        snapshot: Box<Snapshot>,
    },
    /// A connection or a group ended, or never began. Nothing follows.
    Closed {
        /// Connection or group.
        tag: Tag,
        /// Why.
        why: Closed,
    },
}

/// What two sides agreed on.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// What the connection carries.
    pub mode: Mode,
    /// How long the keys are, if there are any.
    pub encrypted: Option<KeyLength>,
    /// How long this side holds what it receives.
    pub receive_latency: Duration,
    /// How long the peer holds what this side sends.
    pub send_latency: Duration,
    /// The longest message in live mode, bytes; what a packet holds in the others.
    pub payload_max: usize,
    /// Version of the peer (5.5.1).
    pub version: u32,
    /// The packet filter, as negotiated (13.2).
    pub filter: Option<String>,
    /// Stream ID, of the call or by which it was accepted.
    pub stream_id: Vec<u8>,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// [`Command::Close`].
    #[error("closed by this side")]
    ByUs,
    /// SHUTDOWN.
    #[error("closed by the peer")]
    ByPeer,
    /// Nothing was heard for [`Config::idle_timeout`].
    #[error("the peer fell silent")]
    Silent,
    /// There was no answer within [`Config::connect_timeout`].
    #[error("no answer from the peer")]
    NoAnswer,
    /// The peer rejected the call, or this side the answer.
    #[error("refused: {0}")]
    Refused(Reason),
    /// PEERERROR with this code (4.1.2).
    #[error("the peer failed with code {0}")]
    PeerError(u32),
    /// The key was used up and the peer would take no other (6.6.5, 6.8.2).
    #[error("the peer takes no new key")]
    KeysExhausted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_what_was_put_in() {
        let mut batch = Batch::new();
        let late = Mark {
            stamp: Some(7),
            ..Mark::default()
        };
        batch.push(b"one", Mark::default());
        batch.push(b"", late);
        batch.push_parts([&b"th"[..], b"ree"], Mark::default());
        let all: Vec<_> = batch.iter().collect();
        let expected: [(&[u8], _); 3] = [
            (b"one", Mark::default()),
            (b"", late),
            (b"three", Mark::default()),
        ];
        assert_eq!(all, expected);
        assert_eq!((batch.len(), batch.bytes()), (3, &b"onethree"[..]));
        batch.clear();
        assert!(batch.is_empty() && batch.bytes().is_empty() && batch.iter().next().is_none());
    }
}
