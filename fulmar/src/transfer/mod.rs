//! Moving files with HP-UDP: [`send`] and [`Receiver`], blocking, as the binary and other programs use them.
//!
//! The thread that calls is the file thread: it reads ahead for a sender and writes for a receiver, while the driver's
//! thread keeps the socket. Buffers go round between the two, so a transfer allocates at its start only. Observers run
//! on the calling thread too and should be quick. Nothing here draws, prints or parses; and no choice is made silently
//! that weakens a transfer.

mod get;
mod limit;
mod list;
mod outgoing;
mod recv;
#[cfg(test)]
mod refusals;
mod send;
mod serve;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fulmar_proto::hpudp::{self, Config, Failure, Reason, Snapshot};

use crate::config::Dscp;
use crate::driver::{self, Buffers, GATHER_BULK, Handle, Socket, Stopped};
use crate::file::Directory;
use crate::identity::Refusal;

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
    /// The file is at the receiver: verified, durable, under its name.
    Finished {
        /// Which way it went.
        direction: Direction,
        /// The static key that the peer proved to hold.
        identity: Option<[u8; 32]>,
        /// Base name.
        name: String,
        /// The other side.
        peer: SocketAddr,
        /// Final figures.
        snapshot: Snapshot,
        /// Its hash, which the receiver verified.
        hash: Hash,
        /// Where it was stored (receiver), or read (sender).
        path: PathBuf,
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

/// Why a transfer failed: what was attempted, because of what, and what to try. Displayed as three lines.
#[derive(Debug)]
pub struct TransferError {
    kind: Kind,
    what: String,
    because: Box<dyn Error + Send + Sync>,
    advice: String,
}

/// Kinds of failure, as scripts tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Something on this machine: a file, the disk, the socket.
    Failed,
    /// The peer never answered, or fell silent.
    NoConnection,
    /// The peer's key is unusable.
    Identity,
    /// The bytes that arrived are not those that were promised.
    Integrity,
    /// The peer refused or gave up.
    Refused,
    /// The user stopped it.
    Stopped,
}

impl Kind {
    /// The exit code of a process that ends with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::NoConnection => 3,
            Self::Identity => 4,
            Self::Integrity => 5,
            Self::Refused => 6,
            Self::Stopped => 130,
        }
    }
}

impl TransferError {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code of a process that ends with it.
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }

    /// What was attempted and failed.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to try next.
    pub fn advice(&self) -> &str {
        &self.advice
    }

    fn new(
        kind: Kind,
        what: impl Into<String>,
        because: impl Into<Box<dyn Error + Send + Sync>>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            what: what.into(),
            because: because.into(),
            advice: advice.into(),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kinds of input and output errors never end"
    )]
    fn socket(at: SocketAddr, error: io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "use another port, or end the program that has this one",
            io::ErrorKind::AddrNotAvailable => {
                "use an address of this machine, or [::] for all of them"
            }
            io::ErrorKind::PermissionDenied => "use a port above 1023",
            _ => "see that this machine allows UDP sockets, then try again",
        };
        Self::new(
            Kind::Failed,
            format!("cannot open a UDP socket at {at}"),
            error,
            advice,
        )
    }

    fn mark(dscp: Dscp, error: io::Error) -> Self {
        let what = format!("cannot mark datagrams as {dscp}");
        let advice = "use another mark; some need a privilege";
        Self::new(Kind::Failed, what, error, advice)
    }

    fn entropy(error: getrandom::Error) -> Self {
        let advice = "no transfer is safe without random numbers; look at the system's log";
        Self::new(
            Kind::Failed,
            "cannot draw random numbers",
            error.to_string(),
            advice,
        )
    }

    fn driver(error: Stopped) -> Self {
        let advice = "the log has the reason; trying again is safe";
        Self::new(Kind::Failed, "the socket stopped working", error, advice)
    }

    fn stopped(what: String) -> Self {
        Self::new(
            Kind::Stopped,
            what,
            "stopped by the user",
            "start it again; nothing incomplete was kept",
        )
    }

    /// A peer, `host` as the user wrote it, that is not who it must be.
    pub fn identity(what: impl Into<String>, host: &str, refusal: Refusal) -> Self {
        Self::new(Kind::Identity, what, refusal, refusal.advice(host))
    }

    /// The end of a session as its endpoint reports it.
    fn session(what: String, peer: SocketAddr, failure: Failure) -> Self {
        let (kind, advice) = match failure {
            Failure::NoAnswer => {
                let advice = format!(
                    "check that a receiver runs at {} and that UDP port {} is open between here and there",
                    peer.ip(),
                    peer.port()
                );
                (Kind::NoConnection, advice)
            }
            Failure::Silent => (
                Kind::NoConnection,
                "check the connection, then send it again".into(),
            ),
            Failure::BadKey => (
                Kind::Identity,
                "somebody between here and there may have changed it".into(),
            ),
            Failure::NoIdentity => (
                Kind::Identity,
                "it may not be who you mean; without a demand for proof it would have been believed"
                    .into(),
            ),
            Failure::OtherIdentity(_) => (
                Kind::Identity,
                "somebody else may answer there; if its key was changed on purpose, forget the old one".into(),
            ),
            Failure::NoBundles => (Kind::Refused, "send single files, without folders".into()),
            Failure::Refused(Reason::HASH_MISMATCH) => (
                Kind::Integrity,
                "send it again; if that repeats, check both disks and memories".into(),
            ),
            Failure::Refused(reason) => (Kind::Refused, advice_on(reason).into()),
            Failure::Aborted(reason) => (Kind::Failed, advice_on(reason).into()),
        };
        Self::new(kind, what, failure, advice)
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\nbecause: {}\ntry: {}",
            self.what, self.because, self.advice
        )
    }
}

impl Error for TransferError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.because)
    }
}

fn advice_on(reason: Reason) -> &'static str {
    match reason {
        Reason::BUSY | Reason::COLLISION => "send it again in a moment",
        Reason::EXISTS => "send it under another name, or remove the one at the receiver",
        Reason::NO_ENCRYPTION => {
            "allow a plain transfer, if everybody between here and there may read the file"
        }
        Reason::NEEDS_ENCRYPTION => "send it encrypted",
        Reason::FORBIDDEN => "ask whoever runs the daemon to start it with --allow-put",
        Reason::STORAGE => "make room on the receiver's disk, or look at its log",
        Reason::NOT_FOUND | Reason::INVALID => "send it under a plain name",
        Reason::HASH_MISMATCH => "send it again; if that repeats, check both disks and memories",
        _ => "ask at the other side",
    }
}

/// A socket at `at` whose datagrams bear a mark.
fn bind(at: SocketAddr, dscp: Dscp) -> Result<Socket, TransferError> {
    let mut socket = Socket::bind(at).map_err(|error| TransferError::socket(at, error))?;
    if dscp != Dscp::default() {
        socket
            .set_dscp(dscp)
            .map_err(|error| TransferError::mark(dscp, error))?;
    }
    Ok(socket)
}

/// A directory that files arrive in.
fn open_directory(path: &Path) -> Result<Directory, TransferError> {
    let opened = Directory::open(path).and_then(|opened| {
        opened.check_writable()?;
        Ok(opened)
    });
    opened.map_err(|error| recv::unusable(path, error))
}

/// An endpoint whose driver lets arrivals gather, for who receives in bulk.
fn spawn_bulk(
    socket: Socket,
    at: SocketAddr,
    mut config: Config,
) -> Result<Handle<hpudp::Endpoint>, TransferError> {
    if config.socket_datagrams == 0 {
        config.socket_datagrams = socket.datagrams();
    }
    let bulk = driver::Options {
        gather: GATHER_BULK,
        ..driver::Options::default()
    };
    driver::spawn_with(socket, hpudp::Endpoint::new(config, seed()?), bulk)
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

/// How often a waiting loop looks whether it should stop.
const TICK: Duration = Duration::from_millis(100);
/// How long a failed or stopped transfer still tells its peer.
const FAREWELL: Duration = Duration::from_millis(500);
/// How much longer than the protocol's own linger a socket is kept for sessions that do not report their end.
const LINGER_SLACK: Duration = Duration::from_secs(2);
