//! HP-UDP v5.0: one file per session over UDP, with forward error correction and selective repair.
//!
//! ```text
//!  application   Command::Send, Supply          Event::Chunk, Received   application
//!       │                 ▲ Event::Want                ▲   │ Stored, Verified
//!       ▼                 │                            │   ▼
//!  sender/ ── window of blocks, repairs        receiver/ ── blocks.rs (memory, FEC)
//!   │  ├ feedback.rs  what left, what came             │
//!   │  ├ rate/        how fast                         │ heartbeat: delivered, loss, missing
//!   │  └ parity.rs    how much parity                  │
//!   ▼                                                  ▼
//!  endpoint.rs ── sessions by (peer, SessionID) ── packet.rs ── bytes
//! ```
//!
//! Clause numbers are those of `specs/hp-udp.md`. This module does *not* touch files or sockets, and it does *not*
//! authenticate peers: v5.0 has no means to.

mod blocks;
mod config;
mod endpoint;
mod feedback;
mod keys;
mod packet;
mod parity;
mod pull;
mod ranges;
mod rate;
mod receiver;
mod sender;
mod session;

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

pub use config::{
    ACCEPT_AHEAD, BLOCK, CHUNK_PLAIN, CHUNK_SEALED, Config, Control, DATAGRAM_MAX, FILE_MAX,
    HEADER, Layout, NACKS, NAME_MAX, Parity, TAG, WINDOW, WINDOW_BLOCKS,
};

pub use endpoint::Endpoint;
#[cfg(feature = "sim")]
pub use packet::read_and_write_back;
pub use session::Counter;

use crate::engine::Bitrate;

/// Names one session of one endpoint to its application. Chosen by the application when it sends; by the endpoint,
/// from 2^63 up, when a peer offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// A file to send.
#[derive(Clone, Debug)]
pub struct Request {
    /// The receiver.
    pub to: SocketAddr,
    /// Base name the receiver should store it under, at most [`NAME_MAX`] bytes.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// xxHash64 of the whole file, hash seed 0 (3.2); 0 for a bundle, which carries its own.
    pub hash: u64,
    /// Encrypt the contents (5).
    pub encrypt: bool,
    /// How the session begins.
    pub via: Via,
    /// What the receiver has to prove.
    pub trust: Trust,
    /// The bytes are a bundle (18.8). A receiver that knows none fails the session with [`Failure::NoBundles`]
    /// before a byte of it has left.
    pub bundle: bool,
}

impl Request {
    /// A plain offer of a file to a receiver that waits for one: no encryption, anybody may answer.
    pub fn new(to: SocketAddr, name: impl Into<String>, size: u64, hash: u64) -> Self {
        Self {
            to,
            name: name.into(),
            size,
            hash,
            encrypt: false,
            via: Via::Direct,
            trust: Trust::Anyone,
            bundle: false,
        }
    }
}

/// How a session between two sides begins (4.3 to 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// SESSION_REQ to a receiver that waits.
    #[default]
    Direct,
    /// PUSH_REQ to a daemon.
    Push,
    /// PULL_REQ to a daemon.
    Pull,
}

/// A file to fetch from a daemon.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The daemon.
    pub to: SocketAddr,
    /// Its name there, at most [`NAME_MAX`] bytes.
    pub name: String,
    /// Ask for encrypted contents (5).
    pub encrypt: bool,
    /// What the daemon has to prove.
    pub trust: Trust,
    /// A bundle is welcome (18.8).
    pub bundle: bool,
}

/// What the side that answers has to prove (18.7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nothing.
    #[default]
    Anyone,
    /// That it holds some static key, which is reported.
    AnyKey,
    /// That it holds the static key with this SHA-256.
    Key([u8; 32]),
}

impl Trust {
    fn check(self, shown: Option<&[u8; 32]>) -> Result<(), Failure> {
        match (self, shown) {
            (Self::Anyone, _) | (Self::AnyKey, Some(_)) => Ok(()),
            (Self::AnyKey | Self::Key(_), None) => Err(Failure::NoIdentity),
            (Self::Key(expected), Some(shown)) if crate::crypto::sha256(shown) == expected => {
                Ok(())
            }
            (Self::Key(_), Some(shown)) => Err(Failure::OtherIdentity(*shown)),
        }
    }
}

/// What the application asks.
#[derive(Debug)]
pub enum Command {
    /// Send a file; its bytes are asked for with [`Event::Want`].
    Send {
        /// The application's name for the session.
        tag: Tag,
        /// What to send, and where.
        request: Request,
    },
    /// Fetch a file. When the daemon grants it an [`Event::Offered`] of this tag follows.
    Pull {
        /// The application's name for the session.
        tag: Tag,
        /// What to fetch, and where.
        wish: Wish,
    },
    /// Ask a daemon what it has. [`Event::Listing`] answers.
    List {
        /// The application's name for the request.
        tag: Tag,
        /// The daemon.
        to: SocketAddr,
        /// The first entry wanted, from 0: a list longer than a packet comes in pages.
        first: u64,
    },
    /// Tells a peer what there is. Answers [`Event::ListAsked`].
    Listing {
        /// Session.
        tag: Tag,
        /// Entries in the whole list.
        total: u64,
        /// A line `name`, tab, `size`, newline for each entry from the first asked for on, as many as at hand: those
        /// that fit in a packet, at most 1368 bytes, leave.
        text: Vec<u8>,
    },
    /// Grants what a peer asked for. Answers [`Event::Asked`].
    Serve {
        /// Session.
        tag: Tag,
        /// Bytes.
        size: u64,
        /// xxHash64 of the whole file; 0 for a bundle.
        hash: u64,
        /// It is a bundle: only if the peer said that one is welcome.
        bundle: bool,
    },
    /// Byte ranges of the file that the application had before the session began: they are not sent again. In any
    /// state of an accepted session; whole blocks only count.
    Have {
        /// Session.
        tag: Tag,
        /// Ranges of file offsets.
        ranges: Vec<Range<u64>>,
    },
    /// Answers [`Event::Want`]: exactly the bytes asked for.
    Supply {
        /// Session.
        tag: Tag,
        /// File offset of the first byte, as asked.
        offset: u64,
        /// The bytes, as many as asked.
        bytes: Vec<u8>,
    },
    /// Accept an offered file. Answers [`Event::Offered`].
    Accept {
        /// Session.
        tag: Tag,
    },
    /// Bytes of an [`Event::Chunk`] are with the storage; the buffer may be used again.
    Stored {
        /// Session.
        tag: Tag,
        /// The buffer of the event, contents irrelevant; or an empty one.
        buffer: Vec<u8>,
        /// How many bytes were stored.
        len: usize,
    },
    /// Every byte is verified and durable under its final name. Answers [`Event::Received`].
    Verified {
        /// Session.
        tag: Tag,
    },
    /// From now on, all sessions of this endpoint together send no faster than this; `None` lifts it.
    /// [`Config::max_rate`] goes on to bound each of them.
    Limit {
        /// UDP payload, in equal shares for the sessions that send.
        rate: Option<Bitrate>,
    },
    /// End a session and tell the peer why: refuse an offer, report a hash mismatch or a full disk, or give up
    /// sending.
    Abort {
        /// Session.
        tag: Tag,
        /// What the peer is told.
        reason: Reason,
    },
}

/// What the application learns.
#[derive(Debug)]
pub enum Event {
    /// Sender: the peer answered.
    Connected {
        /// Session.
        tag: Tag,
        /// Whether contents are encrypted.
        encrypted: bool,
        /// Whether the peer understands our extension block.
        extended: bool,
        /// The static key the peer proves to hold: what it sends is checked under it, and what it gets only its
        /// holder can read.
        identity: Option<[u8; 32]>,
    },
    /// Daemon: a peer asks for a file. Answer with [`Command::Serve`] or [`Command::Abort`].
    Asked {
        /// Session, named by the endpoint.
        tag: Tag,
        /// Who asks, by an address that has proved nothing.
        from: SocketAddr,
        /// Name as the peer wrote it, up to its NUL; hostile until checked.
        name: Vec<u8>,
        /// Whether contents will be encrypted.
        encrypted: bool,
        /// Whether a bundle is welcome.
        bundle: bool,
    },
    /// A page of what a daemon has; [`Event::Closed`] follows.
    Listing {
        /// The request.
        tag: Tag,
        /// Index of the first entry.
        first: u64,
        /// Entries in the whole list; 0 when the daemon does not say.
        total: u64,
        /// Lines of name, tab and size, as the daemon wrote them; hostile until checked.
        text: Vec<u8>,
    },
    /// Daemon: a peer asks what there is. Answer with [`Command::Listing`] or [`Command::Abort`].
    ListAsked {
        /// Session, named by the endpoint.
        tag: Tag,
        /// Who asks, by an address that has proved nothing.
        from: SocketAddr,
        /// The first entry wanted.
        first: u64,
    },
    /// Sender: supply these bytes. Asked in file order, a whole block at a time.
    Want {
        /// Session.
        tag: Tag,
        /// File offset.
        offset: u64,
        /// How many bytes.
        len: usize,
        /// A buffer to fill, when one is free; may be empty.
        buffer: Vec<u8>,
    },
    /// Receiver: a peer offers a file. Answer with [`Command::Accept`] or [`Command::Abort`].
    Offered {
        /// Session, named by the endpoint.
        tag: Tag,
        /// The sender.
        from: SocketAddr,
        /// Name as the peer wrote it, up to its NUL; hostile until checked.
        name: Vec<u8>,
        /// Bytes; 1 to [`FILE_MAX`], or 0 from a peer with the extension.
        size: u64,
        /// xxHash64 the file must have, if the peer has said it: a push says it later.
        hash: Option<u64>,
        /// Whether contents will be encrypted.
        encrypted: bool,
        /// How the session began: asked for by this side, or not.
        via: Via,
        /// The bytes will be a bundle (18.8).
        bundle: bool,
        /// The static key the sender proves to hold.
        identity: Option<[u8; 32]>,
    },
    /// Receiver: bytes of the file, each byte exactly once, in no particular order. Answer with
    /// [`Command::Stored`]. Sent only after [`Command::Accept`].
    Chunk {
        /// Session.
        tag: Tag,
        /// File offset of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Receiver: all bytes were handed up. Verify them, make them durable and answer with [`Command::Verified`] or
    /// [`Command::Abort`].
    Received {
        /// Session.
        tag: Tag,
        /// xxHash64 the file must have; means nothing for a bundle.
        hash: u64,
    },
    /// How a session stands, ten times a second while it lives.
    Progress {
        /// Session.
        tag: Tag,
        /// Figures.
        snapshot: Snapshot,
    },
    /// The session ended for its user: the file arrived and was verified, or it failed. Nothing but
    /// [`Event::Closed`] follows.
    Finished {
        /// Session.
        tag: Tag,
        /// Final figures.
        snapshot: Snapshot,
        /// Why it failed, if it did.
        result: Result<(), Failure>,
    },
    /// The session no longer answers stragglers; the socket may go.
    Closed {
        /// Session.
        tag: Tag,
    },
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the peer's first answer, or for the application's.
    #[default]
    Connecting,
    /// Data flows.
    Transferring,
    /// The peer is silent; one packet every half second looks for it.
    Probing,
    /// Everything was sent once; what was lost is sent again.
    Repairing,
    /// Everything arrived; the hash is being checked and the file made durable.
    Verifying,
    /// Over; stragglers are answered.
    Lingering,
}

/// Figures of one session, alike at both ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Where it stands.
    pub phase: Phase,
    /// File size in bytes.
    pub size: u64,
    /// File bytes known to be at the receiver.
    pub done: u64,
    /// Time since the session began.
    pub elapsed: Duration,
    /// File bytes a second now arriving at the receiver.
    pub goodput: Bitrate,
    /// Rate the sender now paces at (0 at the receiver).
    pub pacing: Bitrate,
    /// Smoothed round trip (sender only).
    pub rtt: Option<Duration>,
    /// Least round trip seen (sender only).
    pub min_rtt: Option<Duration>,
    /// Share of packets lost on their way, before any repair, 0 to 1.
    pub loss: f64,
    /// Parity packets that now follow each full block (sender only).
    pub parity: u8,
    /// DATA datagrams sent for the first time, or received.
    pub data: u64,
    /// PARITY datagrams sent or received.
    pub parities: u64,
    /// Chunks rebuilt from parity (receiver; 0 at the sender).
    pub repaired: u64,
    /// Chunks sent again (sender), or asked for again (receiver).
    pub retransmitted: u64,
    /// Datagrams that came twice (receiver).
    pub duplicates: u64,
    /// Whether contents are encrypted.
    pub encrypted: bool,
}

/// The reason byte of SESSION_REJECT (3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u8);

impl Reason {
    /// The session number is in use.
    pub const COLLISION: Self = Self(0x01);
    /// The file arrived with another hash.
    pub const HASH_MISMATCH: Self = Self(0x02);
    /// No room for another session now.
    pub const BUSY: Self = Self(0x03);
    /// No such file, or an unusable name.
    pub const NOT_FOUND: Self = Self(0x04);
    /// A file of that name exists.
    pub const EXISTS: Self = Self(0x05);
    /// The peer does not encrypt.
    pub const NO_ENCRYPTION: Self = Self(0x06);
    /// The user at the other side gave up (v5.1).
    pub const DISCONNECT: Self = Self(0x08);
    /// Size or name out of bounds (ours).
    pub const INVALID: Self = Self(0xf0);
    /// The receiver cannot store the file: full disk, I/O error (ours).
    pub const STORAGE: Self = Self(0xf1);
    /// The receiver accepts encrypted sessions only (ours).
    pub const NEEDS_ENCRYPTION: Self = Self(0xf2);
    /// The daemon gives files and takes none, or takes them and gives none (ours).
    pub const FORBIDDEN: Self = Self(0xf3);

    /// Every reason that has a name, with that name as metrics write it.
    pub const NAMED: [(Self, &'static str); 11] = [
        (Self::COLLISION, "collision"),
        (Self::HASH_MISMATCH, "hash_mismatch"),
        (Self::BUSY, "busy"),
        (Self::NOT_FOUND, "not_found"),
        (Self::EXISTS, "exists"),
        (Self::NO_ENCRYPTION, "no_encryption"),
        (Self::DISCONNECT, "disconnect"),
        (Self::INVALID, "invalid"),
        (Self::STORAGE, "storage"),
        (Self::NEEDS_ENCRYPTION, "needs_encryption"),
        (Self::FORBIDDEN, "forbidden"),
    ];
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::COLLISION => f.write_str("the session number is in use"),
            Self::HASH_MISMATCH => f.write_str("the file arrived with another hash"),
            Self::BUSY => f.write_str("it is busy"),
            Self::NOT_FOUND => f.write_str("no such file, or a name it cannot use"),
            Self::EXISTS => f.write_str("a file of that name exists"),
            Self::NO_ENCRYPTION => f.write_str("it does not encrypt"),
            Self::DISCONNECT => f.write_str("the other side gave up"),
            Self::INVALID => f.write_str("it finds the size or the name invalid"),
            Self::STORAGE => f.write_str("the receiver cannot store the file"),
            Self::NEEDS_ENCRYPTION => f.write_str("it accepts encrypted transfers only"),
            Self::FORBIDDEN => f.write_str("it does not allow that"),
            Self(code) => write!(f, "unknown reason 0x{code:02x}"),
        }
    }
}

/// Why a session failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody answered the request.
    #[error("no answer from the peer")]
    NoAnswer,
    /// The peer fell silent in the middle.
    #[error("the peer fell silent")]
    Silent,
    /// The peer refused or gave up.
    #[error("refused by the peer: {0}")]
    Refused(Reason),
    /// This side ended it, for this reason.
    #[error("ended by this side: {0}")]
    Aborted(Reason),
    /// The key the peer sent is one that no honest peer sends.
    #[error("the peer sent an unusable key")]
    BadKey,
    /// The peer proves no identity, and one was demanded.
    #[error("the peer does not prove who it is")]
    NoIdentity,
    /// The peer proves to hold this static key, and another was expected.
    #[error("the peer holds another key than the one known")]
    OtherIdentity([u8; 32]),
    /// The peer takes single files only; nothing was sent.
    #[error("the peer takes single files only")]
    NoBundles,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_with_a_sentence_has_a_name() {
        for code in 0..=255 {
            let reason = Reason(code);
            let unknown = reason.to_string().starts_with("unknown reason");
            let named = Reason::NAMED.iter().any(|(it, _)| *it == reason);
            assert_eq!(named, !unknown, "{code:#04x}");
        }
    }
}
