//! A real file across a bad link, on one machine and without set-up: [`run`].
//!
//! A receiver and a sender of this library on loopback with a [`Relay`] between them, a temporary directory, and a
//! comparison of what arrived with what was sent that trusts neither of the two. [`tcp_model`] says what TCP would
//! get from the same link. It does *not* print; an observer learns what happens.

mod relay;
pub mod tcp_model;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{CHUNK_PLAIN, CHUNK_SEALED, Config, DATAGRAM_MAX, Snapshot};
use fulmar_proto::sim::{LinkConfig, Profile};

pub use relay::{Relay, RelayStats};

use crate::file::{Source, SourceError};
use crate::transfer::{
    self, Encryption, ReceiveOptions, Receiver, SendOptions, TransferError, Update,
};

/// What to send over which link.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file.
    pub file: PathBuf,
    /// The link; the sender is at the near end.
    pub link: Profile,
    /// Parameters of the sender.
    pub config: Config,
    /// Encrypt the contents.
    pub encrypt: bool,
    /// Every draw of the link comes from it.
    pub seed: u64,
    /// Set by another thread to give up.
    pub stop: Arc<AtomicBool>,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Bytes of the file.
    pub size: u64,
    /// Its xxHash64, which what arrived has too.
    pub hash: u64,
    /// From the first packet until the receiver said that everything is verified and durable.
    pub elapsed: Duration,
    /// File bits a second over all of `elapsed`.
    pub goodput: Bitrate,
    /// File bits a second that the link can carry at most: [`capacity`].
    pub capacity: Option<Bitrate>,
    /// What one TCP stream gets by [`tcp_model`]; `None` on a link without a rate.
    pub tcp: Option<Bitrate>,
    /// Final figures of the sender, and of the receiver what only it knows.
    pub snapshot: Snapshot,
    /// What the link did.
    pub link: RelayStats,
}

/// Why a demonstration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// No directory, socket or thread for it.
    #[error("cannot set up a link on this machine")]
    SetUp(#[source] io::Error),
    /// The transfer failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// One of the two files cannot be read.
    #[error("cannot compare what arrived with what was sent")]
    Compare(#[source] SourceError),
    /// The transfer claims success, and the files differ.
    #[error("what arrived has the hash {arrived:016x} and what was sent has {sent:016x}")]
    Differs {
        /// Of the source.
        sent: u64,
        /// Of the copy.
        arrived: u64,
    },
}

/// A real file at hand where none was named: this program, over and over.
#[derive(Debug)]
pub struct StandIn {
    directory: tempfile::TempDir,
    /// How many copies of the program it holds.
    pub copies: usize,
}

impl StandIn {
    /// Writes it, [`SHOW`] bytes or a little more, to a temporary directory that goes with it.
    ///
    /// # Errors
    /// If the program cannot be read or the file not be written.
    pub fn new() -> io::Result<Self> {
        let program = std::fs::read(std::env::current_exe()?)?;
        let directory = tempfile::Builder::new().prefix("fulmar-demo-").tempdir()?;
        let copies = SHOW.div_ceil(program.len().max(1));
        let this = Self { directory, copies };
        std::fs::write(this.path(), program.repeat(copies))?;
        Ok(this)
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("fulmar-copies.bin")
    }
}

/// Bytes that take some seconds at 100 Mbit/s: long enough to see the pace, not only the start and the end.
pub const SHOW: usize = 48 << 20;

/// Sends a file across a bad link. `observer` learns what the sender does, with the figures that only the receiver
/// knows filled in.
///
/// # Errors
/// [`DemoError`], also when `stop` was set.
pub fn run(options: &Options, mut observer: impl FnMut(&Update)) -> Result<Outcome, DemoError> {
    let directory = tempfile::Builder::new()
        .prefix("fulmar-demo-")
        .tempdir()
        .map_err(DemoError::SetUp)?;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let receiver = Receiver::bind(directory.path(), loopback, ReceiveOptions::default())?;
    let relay = Relay::start(
        receiver.local_addr(),
        options.link.up.clone(),
        options.link.down.clone(),
        options.seed,
    )
    .map_err(DemoError::SetUp)?;

    let over = AtomicBool::new(false);
    let repaired = AtomicU64::new(0);
    let arrived = Mutex::new(None);
    let mut last = None;
    let sent = thread::scope(|scope| {
        let receiving = thread::Builder::new()
            .name("receiver".into())
            .spawn_scoped(scope, || {
                receiver.run(
                    |update| match update {
                        Update::Progress { snapshot, .. } => {
                            repaired.store(snapshot.repaired, Relaxed)
                        }
                        Update::Finished { snapshot, path, .. } => {
                            repaired.store(snapshot.repaired, Relaxed);
                            *arrived.lock().unwrap_or_else(PoisonError::into_inner) =
                                Some(path.clone());
                        }
                        Update::SocketBuffers { .. }
                        | Update::Hashing { .. }
                        | Update::LeftOut { .. }
                        | Update::SingleFiles { .. }
                        | Update::Resumed { .. }
                        | Update::Connected { .. }
                        | Update::Unencrypted { .. }
                        | Update::Refused { .. }
                        | Update::Failed { .. } => {}
                    },
                    &over,
                )
            });
        let receiving = receiving.map_err(DemoError::SetUp)?;
        let to = SendOptions {
            encrypt: if options.encrypt {
                Encryption::Require
            } else {
                Encryption::Off
            },
            config: options.config.clone(),
            stop: Arc::clone(&options.stop),
            ..SendOptions::new(relay.addr())
        };
        let sent = transfer::send(
            std::slice::from_ref(&options.file),
            &to,
            |update| match update {
                Update::Progress {
                    name,
                    peer,
                    snapshot,
                } => {
                    let snapshot = Snapshot {
                        repaired: repaired.load(Relaxed),
                        ..*snapshot
                    };
                    observer(&Update::Progress {
                        name: name.clone(),
                        peer: *peer,
                        snapshot,
                    });
                }
                Update::Finished { snapshot, .. } => {
                    last = Some(Snapshot {
                        repaired: repaired.load(Relaxed),
                        ..*snapshot
                    });
                    observer(update);
                }
                Update::SocketBuffers { .. }
                | Update::Hashing { .. }
                | Update::LeftOut { .. }
                | Update::SingleFiles { .. }
                | Update::Resumed { .. }
                | Update::Connected { .. }
                | Update::Unencrypted { .. }
                | Update::Refused { .. }
                | Update::Failed { .. } => observer(update),
            },
        );
        over.store(true, Relaxed);
        let received = receiving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let sent = sent?;
        received?;
        Ok::<_, DemoError>(sent)
    })?;

    let snapshot = last.unwrap_or_default();
    let path = arrived
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .unwrap_or_default();
    let (before, after) = (hash_of(&options.file)?, hash_of(&path)?);
    if before != after {
        return Err(DemoError::Differs {
            sent: before,
            arrived: after,
        });
    }
    let size: u64 = sent.iter().map(|sent| sent.size).sum();
    let up = &options.link.up;
    Ok(Outcome {
        size,
        hash: after,
        elapsed: snapshot.elapsed,
        goodput: Bitrate::from_transfer(size, snapshot.elapsed),
        capacity: capacity(up, options.encrypt),
        tcp: up
            .rate
            .map(|rate| tcp_model::throughput(rate, options.link.rtt(), up.loss.share())),
        snapshot,
        link: relay.stop(),
    })
}

/// File bits a second that a direction can carry at most: its rate, times the share that is not lost, times the
/// share of a full packet that is file. `None` without a rate.
pub fn capacity(direction: &LinkConfig, encrypt: bool) -> Option<Bitrate> {
    let packet = (DATAGRAM_MAX + direction.overhead) as f64;
    let file = chunk(encrypt) as f64;
    direction
        .rate
        .map(|rate| rate.scale((1.0 - direction.loss.share()) * file / packet))
}

/// File bytes in a full packet.
pub fn chunk(encrypt: bool) -> usize {
    if encrypt { CHUNK_SEALED } else { CHUNK_PLAIN }
}

fn hash_of(path: &Path) -> Result<u64, DemoError> {
    Source::open(path)
        .and_then(|source| source.hash(|_| ControlFlow::Continue(())))
        .map_err(DemoError::Compare)
}
