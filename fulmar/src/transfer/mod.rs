//! Moving files with HP-UDP: [`send`] and [`Receiver`], blocking, as the binary and other programs use them.
//!
//! The thread that calls is the file thread: it reads ahead for a sender and writes for a receiver, while the driver's
//! thread keeps the socket. Buffers go round between the two, so a transfer allocates at its start only. Observers run
//! on the calling thread too and should be quick. Nothing here draws, prints or parses; and no choice is made silently
//! that weakens a transfer.

mod error;
mod get;
mod incoming;
mod limit;
mod list;
mod outgoing;
mod receiving;
mod recv;
#[cfg(test)]
mod refusals;
mod send;
mod serve;
mod shelf;
mod storing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fulmar_proto::hpudp::{self, Config, Reason, Snapshot};

use crate::bundle::{self, Manifest};
use crate::config::Dscp;
use crate::driver::{self, Buffers, GATHER_BULK, Handle, Socket};
use crate::file::Directory;

pub use error::{Kind, TransferError};
pub use get::{GetOptions, get};
pub use limit::Following;
pub use list::{Listed, list};
pub use recv::{ReceiveOptions, Receiver, Tally};
pub use send::{Encryption, SendOptions, Sent, send};
pub use serve::{ServeOptions, Server};

/// Which way a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From here to the peer.
    Out,
    /// From the peer to here.
    In,
}

/// What says that two contents are the same. Prints in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Of a file by itself, seed 0 (HP-UDP 3.2).
    Xxh64(u64),
    /// Of the content of a bundle; of a single file without holes it is what `b3sum` prints.
    Blake3([u8; 32]),
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xxh64(hash) => write!(f, "{hash:016x}"),
            Self::Blake3(hash) => hash.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// What an observer learns while files move.
#[derive(Debug)]
#[non_exhaustive]
pub enum Update {
    /// The socket is open.
    SocketBuffers {
        /// What the kernel granted, in bytes.
        granted: Buffers,
        /// What was asked of it, in bytes each way.
        wanted: usize,
    },
    /// A file is read once before it is sent.
    Hashing {
        /// Base name.
        name: String,
        /// Bytes read.
        done: u64,
        /// Bytes of the file.
        total: u64,
    },
    /// Both sides agreed on a transfer.
    Connected {
        /// Which way it goes.
        direction: Direction,
        /// The static key that the peer proves to hold; none, and nobody knows who it is.
        identity: Option<[u8; 32]>,
        /// Base name.
        name: String,
        /// The other side.
        peer: SocketAddr,
        /// Bytes of the file.
        size: u64,
        /// Whether contents are encrypted.
        encrypted: bool,
    },
    /// The peer does not encrypt, and the file goes in the clear because the caller allowed it.
    Unencrypted {
        /// Base name.
        name: String,
        /// The other side.
        peer: SocketAddr,
    },
    /// How a transfer stands, ten times a second.
    Progress {
        /// Base name.
        name: String,
        /// The other side.
        peer: SocketAddr,
        /// Figures.
        snapshot: Snapshot,
    },
    /// Everything is at the receiver: verified, durable, under its name.
    Finished {
        /// Which way it went.
        direction: Direction,
        /// The static key that the peer proved to hold.
        identity: Option<[u8; 32]>,
        /// Base name; of several, how many.
        name: String,
        /// The other side.
        peer: SocketAddr,
        /// Final figures.
        snapshot: Snapshot,
        /// Bytes that an earlier attempt had brought, so that they did not move now.
        resumed: u64,
        /// How many files; those in folders too.
        files: u64,
        /// The hash, which the receiver verified.
        hash: Hash,
        /// Where it was stored (receiver), or read (sender); of several, the directory they are in now, or none.
        path: PathBuf,
    },
    /// The peer takes single files only: from here on names, sizes and hashes can be read on the way, and what is
    /// interrupted begins from zero. Said once (sender).
    SingleFiles {
        /// The other side.
        peer: SocketAddr,
    },
    /// The session is not encrypted, or the peer knows one path only: of several sockets one is used. Said once (client).
    OneSocket {
        /// The other side.
        peer: SocketAddr,
    },
    /// What is neither file nor folder is not sent.
    LeftOut {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// An interrupted transfer goes on: so much of it was there already (receiver).
    Resumed {
        /// The other side.
        peer: SocketAddr,
        /// Bytes.
        bytes: u64,
    },
    /// An offered file was not accepted (receiver).
    Refused {
        /// Name as the peer wrote it, escaped.
        name: String,
        /// The other side.
        peer: SocketAddr,
        /// What the peer was told.
        reason: Reason,
        /// What is wrong, in words.
        because: String,
    },
    /// An accepted transfer failed (receiver; a sender returns its error).
    Failed {
        /// Base name.
        name: String,
        /// The other side.
        peer: SocketAddr,
        /// Final figures.
        snapshot: Snapshot,
        /// Whether it came to more than an offer: a packet, or a fault of this side.
        began: bool,
        /// Why.
        error: TransferError,
    },
}

/// A socket at `at` whose datagrams bear a mark.
fn bind(at: SocketAddr, dscp: Dscp) -> Result<Socket, TransferError> {
    let mut socket = Socket::bind(at).map_err(|error| TransferError::socket(at, error))?;
    mark(&mut socket, dscp)?;
    Ok(socket)
}

fn mark(socket: &mut Socket, dscp: Dscp) -> Result<(), TransferError> {
    if dscp == Dscp::default() {
        return Ok(());
    }
    let marked = socket.set_dscp(dscp);
    marked.map_err(|error| TransferError::mark(dscp, error))
}

/// `count` sockets at one address, among which the kernel chooses by the session: one thread's work for each. One, where
/// it cannot.
fn bind_group(at: SocketAddr, count: u16, dscp: Dscp) -> Result<Vec<Socket>, TransferError> {
    if count <= 1 {
        return Ok(vec![bind(at, dscp)?]);
    }
    let mut sockets = match Socket::bind_group(at, count, hpudp::SESSION_AT) {
        Ok(sockets) => sockets,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(%error, "one thread serves");
            return Ok(vec![bind(at, dscp)?]);
        }
        Err(error) => return Err(TransferError::socket(at, error)),
    };
    for socket in &mut sockets {
        mark(socket, dscp)?;
    }
    Ok(sockets)
}

/// The further sockets of a client that speaks through `count`, beside one at `first`.
fn further(first: SocketAddr, count: u8, dscp: Dscp) -> Result<Vec<Socket>, TransferError> {
    let beside = SocketAddr::new(first.ip(), 0);
    (1..count).map(|_| bind(beside, dscp)).collect()
}

/// A directory that files arrive in.
fn open_directory(path: &Path) -> Result<Directory, TransferError> {
    let opened = Directory::open(path).and_then(|opened| {
        opened.check_writable()?;
        Ok(opened)
    });
    opened.map_err(|error| storing::unusable(path, error))
}

/// Removes what transfers left in `directory` that nobody has gone on with for a while: on a thread of its own, for
/// large folders take their time, and without a word, for nobody waits for it.
fn sweep(directory: &Directory) {
    let directory = directory.clone();
    let sweeping = move || {
        if let Err(error) = bundle::sweep(&directory, ABANDONED) {
            tracing::warn!(%error, "what is left of old transfers stays behind");
        }
    };
    // Without a thread it stays until the next time.
    let _ = thread::Builder::new().name("sweep".into()).spawn(sweeping);
}

/// The figures of the content alone: what is `around` it in a bundle is not what the user counts.
fn of_content(mut snapshot: Snapshot, around: u64) -> Snapshot {
    snapshot.size = snapshot.size.saturating_sub(around);
    snapshot.done = snapshot.done.saturating_sub(around);
    snapshot
}

/// How many files there are; folders are none.
fn counted(manifest: &Manifest) -> u64 {
    let kinds = manifest.entries().iter().map(|entry| &entry.kind);
    kinds
        .filter(|kind| **kind != bundle::Kind::Directory)
        .count() as u64
}

/// An endpoint whose driver, one of `drivers`, lets arrivals gather, for who receives in bulk.
fn spawn_bulk(
    socket: Socket,
    more: Vec<Socket>,
    at: SocketAddr,
    mut config: Config,
    drivers: usize,
) -> Result<Handle<hpudp::Endpoint>, TransferError> {
    config.sockets = u8::try_from(1 + more.len()).unwrap_or(u8::MAX);
    if config.socket_datagrams == 0 {
        config.socket_datagrams = socket.datagrams();
    }
    let bulk = driver::Options {
        gather: GATHER_BULK,
        ..driver::Options::among(drivers)
    };
    driver::spawn_over(socket, more, hpudp::Endpoint::new(config, seed()?), bulk)
        .map_err(|error| TransferError::socket(at, error))
}

/// How long a transfer that began is worth waiting for at the end.
fn patience(config: &Config) -> Duration {
    config.linger + config.complete_spacing * config.complete_retries + LINGER_SLACK
}

/// Any free port, of the family of a peer.
fn any_port(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Entropy for one endpoint.
fn seed() -> Result<[u8; 32], TransferError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(TransferError::entropy)?;
    Ok(seed)
}

/// How long what an interrupted transfer has brought waits for the next attempt.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often a waiting loop looks whether it should stop.
const TICK: Duration = Duration::from_millis(100);
/// How long a failed or stopped transfer still tells its peer.
const FAREWELL: Duration = Duration::from_millis(500);
/// How much longer than the protocol's own linger a socket is kept for sessions that do not report their end.
const LINGER_SLACK: Duration = Duration::from_secs(2);
