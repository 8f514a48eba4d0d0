//! Sending files, one after the other or all in one session: [`send`].
//!
//! A bundle is read once, as it is sent; a file by itself is hashed first, as the protocol wants it. Either is read block
//! by block as the endpoint asks for it. It stops at the first failure, and does *not* follow symbolic links in folders.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fulmar_proto::Endpoint;
use fulmar_proto::hpudp::{
    self, Command, Config, Event, FILE_MAX, Failure, Reason, Request, Snapshot, Tag, Trust, Via,
};

use super::outgoing::{Content, unreadable, unsendable};
use super::{
    Direction, FAREWELL, Following, Hash, Kind, LINGER_SLACK, TICK, TransferError, Update,
    any_port, bind, seed,
};
use crate::bundle::{BundleSource, Cache, ScanOptions};
use crate::config::{Dscp, Schedule};
use crate::driver::{self, BUFFER_WANTED, Handle, NoEvent, Stopped};
use crate::file::Source;

/// Whether contents are encrypted on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Encrypted, or not at all.
    #[default]
    Require,
    /// Encrypted, unless the peer says that it cannot. Anybody on the way can forge that answer.
    AllowPlain,
    /// In the clear.
    Off,
}

/// Where and how to send.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// The receiver.
    pub to: SocketAddr,
    /// Whether contents are encrypted.
    pub encrypt: Encryption,
    /// How sessions begin: [`Via::Direct`] to a receiver, [`Via::Push`] to a daemon.
    pub via: Via,
    /// Send everything in one session: folders too, with modes, times and holes, and an interrupted transfer goes on where
    /// it stopped. A receiver that cannot take that gets the files one after the other, and no folders.
    pub bundle: bool,
    /// Where the hashes of a bundle's pieces are kept, so that what goes on need not be read again.
    pub cache: Cache,
    /// What the receiver has to prove before anything is sent.
    pub trust: Trust,
    /// Parameters of the protocol.
    pub config: Config,
    /// What may be used at which time of the day; changes while files move.
    pub bwlimit: Schedule,
    /// How datagrams are marked for the network.
    pub dscp: Dscp,
    /// The local address; any free port when none is given.
    pub from: Option<SocketAddr>,
    /// Set by another thread to give up.
    pub stop: Arc<AtomicBool>,
}

/// A file that arrived.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Where it was read.
    pub path: PathBuf,
    /// The name it was sent under.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Its hash, which the receiver verified.
    pub hash: Hash,
    /// Whether contents were encrypted on their way.
    pub encrypted: bool,
    /// The static key that the receiver proved to hold.
    pub identity: Option<[u8; 32]>,
    /// Final figures.
    pub snapshot: Snapshot,
}

impl SendOptions {
    /// To `to`, encrypted, with the protocol's defaults.
    pub fn new(to: SocketAddr) -> Self {
        Self {
            to,
            encrypt: Encryption::default(),
            via: Via::Direct,
            bundle: false,
            cache: Cache::off(),
            trust: Trust::Anyone,
            config: Config::default(),
            bwlimit: Schedule::default(),
            dscp: Dscp::default(),
            from: None,
            stop: Arc::default(),
        }
    }
}

/// Sends `files` one after the other and returns when the last one is verified and durable at the receiver, and
/// stragglers were answered. `observer` learns of every file as soon as it has arrived.
///
/// # Errors
/// At the first file that fails; those before it have arrived and were reported as [`Update::Finished`].
pub fn send(
    files: &[PathBuf],
    options: &SendOptions,
    mut observer: impl FnMut(&Update),
) -> Result<Vec<Sent>, TransferError> {
    if !options.bundle {
        for path in files {
            // What can be refused is refused before the first byte is sent.
            open(path)?;
        }
    }
    let from = options.from.unwrap_or_else(|| any_port(options.to));
    let socket = bind(from, options.dscp)?;
    observer(&Update::SocketBuffers {
        granted: socket.buffers(),
        wanted: BUFFER_WANTED,
    });
    let endpoint = hpudp::Endpoint::new(options.config.clone(), seed()?);
    let handle =
        driver::spawn(socket, endpoint).map_err(|error| TransferError::socket(from, error))?;
    let _limit = Following::start(options.bwlimit.clone(), handle.commands().clone());
    send_through(&handle, files, options, observer)
}

/// [`send`] through an endpoint that runs already.
pub(super) fn send_through<E>(
    handle: &Handle<E>,
    files: &[PathBuf],
    options: &SendOptions,
    observer: impl FnMut(&Update),
) -> Result<Vec<Sent>, TransferError>
where
    E: Endpoint<Command = Command, Event = Event>,
{
    let mut sending = Sending {
        handle,
        options,
        observer,
        next: 0,
        open: BTreeSet::new(),
    };
    let whole = if options.bundle && options.config.extensions {
        sending.bundle(files)
    } else {
        Ok(None)
    };
    let sent = whole.and_then(|sent| match sent {
        Some(sent) => Ok(sent),
        None => files.iter().map(|path| sending.file(path)).collect(),
    });
    let patience = if Result::is_ok(&sent) {
        options.config.linger + LINGER_SLACK
    } else {
        FAREWELL
    };
    sending.linger(patience);
    sent
}

/// What is known of a receiver that answered.
#[derive(Clone, Copy, Default)]
struct Met {
    encrypted: bool,
    identity: Option<[u8; 32]>,
}

struct Sending<'a, E: Endpoint, O> {
    handle: &'a Handle<E>,
    options: &'a SendOptions,
    observer: O,
    next: u64,
    /// Sessions that still answer stragglers.
    open: BTreeSet<Tag>,
}

impl<E, O> Sending<'_, E, O>
where
    E: Endpoint<Command = Command, Event = Event>,
    O: FnMut(&Update),
{
    fn file(&mut self, path: &Path) -> Result<Sent, TransferError> {
        let source = Arc::new(open(path)?);
        let hash = self.hash(path, &source)?;
        let mut content = Content::File(Arc::clone(&source));
        let to = self.options.to;
        let mut encrypt = self.options.encrypt != Encryption::Off;
        let patience = Instant::now() + self.options.config.call_timeout;
        loop {
            let name = source.name().to_owned();
            let request = Request {
                encrypt,
                via: self.options.via,
                trust: self.options.trust,
                ..Request::new(to, name.clone(), source.size(), hash)
            };
            match self.session(path, &name, &mut content, request)? {
                Ok((snapshot, met)) => {
                    let path = path.to_owned();
                    let update = Update::Finished {
                        direction: Direction::Out,
                        identity: met.identity,
                        name: name.clone(),
                        peer: to,
                        snapshot,
                        hash: Hash::Xxh64(hash),
                        path: path.clone(),
                    };
                    (self.observer)(&update);
                    return Ok(Sent {
                        path,
                        name,
                        size: source.size(),
                        hash: Hash::Xxh64(hash),
                        encrypted: met.encrypted,
                        identity: met.identity,
                        snapshot,
                    });
                }
                Err(failure) if self.may_pass(failure, encrypt, patience) => {
                    self.before_again(failure, &mut encrypt, &name, path)?;
                }
                Err(failure) => return Err(self.failed(path, &source, failure)),
            }
        }
    }

    /// Everything in one session, if the receiver takes that.
    fn bundle(&mut self, paths: &[PathBuf]) -> Result<Option<Vec<Sent>>, TransferError> {
        let to = self.options.to;
        let mut encrypt = self.options.encrypt != Encryption::Off;
        let patience = Instant::now() + self.options.config.call_timeout;
        let (name, path) = match paths {
            [one] => (shown(one), one.clone()),
            several => (format!("{} items", several.len()), PathBuf::new()),
        };
        for attempt in 0.. {
            let scan = ScanOptions {
                cache: self.options.cache.clone(),
            };
            let source = BundleSource::scan(paths, &scan).map_err(unsendable)?;
            for skipped in source.skipped().iter().filter(|_| attempt == 0) {
                (self.observer)(&Update::LeftOut {
                    path: skipped.path.clone(),
                    what: skipped.what,
                });
            }
            let size = source.len();
            let request = Request {
                encrypt,
                via: self.options.via,
                trust: self.options.trust,
                bundle: true,
                // The true names travel inside, sealed.
                ..Request::new(to, BUNDLE_NAME, size, 0)
            };
            let mut content = Content::Bundle(Box::new(source));
            let (snapshot, met) = match self.session(&path, &name, &mut content, request)? {
                Ok(done) => done,
                Err(Failure::NoBundles) => return Ok(None),
                Err(failure) if self.may_pass(failure, encrypt, patience) => {
                    self.before_again(failure, &mut encrypt, &name, &path)?;
                    continue;
                }
                Err(failure) => {
                    let what = format!("cannot send {name} to {to}");
                    return Err(TransferError::session(what, to, failure));
                }
            };
            let hash = Hash::Blake3(content.blake3().unwrap_or_default());
            (self.observer)(&Update::Finished {
                direction: Direction::Out,
                identity: met.identity,
                name: name.clone(),
                peer: to,
                snapshot,
                hash,
                path: path.clone(),
            });
            let sent = Sent {
                path,
                name,
                size,
                hash,
                encrypted: met.encrypted,
                identity: met.identity,
                snapshot,
            };
            return Ok(Some(vec![sent]));
        }
        Ok(None)
    }

    /// Whether another attempt may fare better: too many sessions at the receiver, or the number of another, pass by
    /// themselves, and so does what a killed sender of the same files has left, once its receiver gives it up; and what cannot be encrypted may go in the clear, if the user allows it.
    fn may_pass(&self, failure: Failure, encrypt: bool, until: Instant) -> bool {
        let plain = encrypt && self.options.encrypt == Encryption::AllowPlain;
        match failure {
            Failure::Refused(Reason::NO_ENCRYPTION) => plain,
            Failure::Refused(Reason::BUSY | Reason::COLLISION) => Instant::now() < until,
            Failure::Refused(_)
            | Failure::NoAnswer
            | Failure::Silent
            | Failure::Aborted(_)
            | Failure::BadKey
            | Failure::NoIdentity
            | Failure::OtherIdentity(_)
            | Failure::NoBundles => false,
        }
    }

    fn before_again(
        &mut self,
        failure: Failure,
        encrypt: &mut bool,
        name: &str,
        path: &Path,
    ) -> Result<(), TransferError> {
        if failure == Failure::Refused(Reason::NO_ENCRYPTION) {
            *encrypt = false;
            (self.observer)(&Update::Unencrypted {
                name: name.to_owned(),
                peer: self.options.to,
            });
            return Ok(());
        }
        self.wait(AGAIN, path)
    }

    fn hash(&mut self, path: &Path, source: &Source) -> Result<u64, TransferError> {
        let total = source.size();
        source
            .hash(|done| {
                (self.observer)(&Update::Hashing {
                    name: source.name().to_owned(),
                    done,
                    total,
                });
                if self.options.stop.load(Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .map_err(|error| unreadable(path, error))
    }

    /// One session from its request to its end. The outer error is this side's, the inner one the session's.
    fn session(
        &mut self,
        path: &Path,
        name: &str,
        content: &mut Content,
        request: Request,
    ) -> Result<Result<(Snapshot, Met), Failure>, TransferError> {
        let (current, peer) = (Tag(self.next), request.to);
        self.next += 1;
        self.command(Command::Send {
            tag: current,
            request,
        })?;
        self.open.insert(current);
        let mut met = Met::default();
        let mut fault = None;
        loop {
            if fault.is_none() && self.options.stop.load(Relaxed) {
                fault = Some(TransferError::stopped(attempt(path, peer)));
                self.command(Command::Abort {
                    tag: current,
                    reason: Reason::DISCONNECT,
                })?;
            }
            let Some(event) = self.event(TICK)? else {
                continue;
            };
            match event {
                Event::Want {
                    tag,
                    offset,
                    len,
                    buffer,
                } if tag == current && fault.is_none() => {
                    match content.supply(path, offset, len, buffer) {
                        Ok(bytes) => self.command(Command::Supply { tag, offset, bytes })?,
                        Err(error) => {
                            fault = Some(error);
                            self.command(Command::Abort {
                                tag,
                                reason: Reason::DISCONNECT,
                            })?;
                        }
                    }
                }
                Event::Connected {
                    tag,
                    encrypted,
                    identity,
                    ..
                } if tag == current => {
                    met = Met {
                        encrypted,
                        identity,
                    };
                    let (name, size) = (name.to_owned(), content.size());
                    (self.observer)(&Update::Connected {
                        direction: Direction::Out,
                        identity,
                        name,
                        peer,
                        size,
                        encrypted,
                    });
                }
                Event::Progress { tag, snapshot } if tag == current => {
                    (self.observer)(&Update::Progress {
                        name: name.to_owned(),
                        peer,
                        snapshot,
                    });
                }
                Event::Finished {
                    tag,
                    snapshot,
                    result,
                } if tag == current => {
                    return match (result, fault) {
                        (Ok(()), _) => Ok(Ok((snapshot, met))),
                        (Err(_), Some(fault)) => Err(fault),
                        // A daemon that took it and was then never heard had to give its place to somebody else.
                        (Err(Failure::Silent), None)
                            if self.options.via == Via::Push && snapshot.rtt.is_none() =>
                        {
                            Ok(Err(Failure::Refused(Reason::BUSY)))
                        }
                        (Err(failure), None) => Ok(Err(failure)),
                    };
                }
                // Earlier sessions may still speak; a sender is offered nothing.
                Event::Want { .. }
                | Event::Connected { .. }
                | Event::Progress { .. }
                | Event::Finished { .. }
                | Event::Closed { .. }
                | Event::Offered { .. }
                | Event::Asked { .. }
                | Event::Listing { .. }
                | Event::ListAsked { .. }
                | Event::Chunk { .. }
                | Event::Received { .. } => {}
            }
        }
    }

    /// Lets time pass, unless the user stops it.
    fn wait(&mut self, time: Duration, path: &Path) -> Result<(), TransferError> {
        let end = Instant::now() + time;
        loop {
            if self.options.stop.load(Relaxed) {
                return Err(TransferError::stopped(attempt(path, self.options.to)));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.event(left.min(TICK))?;
        }
    }

    /// Keeps the socket until every session is closed, or `patience` is at its end.
    fn linger(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        while !self.open.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.event(left).is_err() {
                return;
            }
        }
    }

    /// The next event within `patience`; takes note of closed sessions.
    fn event(&mut self, patience: Duration) -> Result<Option<Event>, TransferError> {
        match self.handle.events().recv_timeout(patience) {
            Ok(event) => {
                if let Event::Closed { tag } = event {
                    self.open.remove(&tag);
                }
                Ok(Some(event))
            }
            Err(NoEvent::Yet) => Ok(None),
            Err(NoEvent::Stopped) => Err(TransferError::driver(Stopped)),
        }
    }

    fn command(&self, command: Command) -> Result<(), TransferError> {
        self.handle.command(command).map_err(TransferError::driver)
    }

    fn failed(&self, path: &Path, source: &Source, failure: Failure) -> TransferError {
        if failure == Failure::Refused(Reason::HASH_MISMATCH)
            && let Err(error) = source.unchanged()
        {
            return unreadable(path, error);
        }
        TransferError::session(attempt(path, self.options.to), self.options.to, failure)
    }
}

fn open(path: &Path) -> Result<Source, TransferError> {
    let source = Source::open(path).map_err(|error| unreadable(path, error))?;
    if source.size() > FILE_MAX {
        let what = format!("cannot send {}", path.display());
        let because = format!(
            "it has {} bytes, and the protocol carries 2^40",
            source.size()
        );
        return Err(TransferError::new(Kind::Failed, what, because, "split it"));
    }
    Ok(source)
}

pub(super) fn attempt(path: &Path, peer: SocketAddr) -> String {
    format!("cannot send {} to {peer}", path.display())
}

/// What a person calls a path.
fn shown(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// What a bundle is called on the wire, where every name can be read (HP-UDP 18.8.1).
const BUNDLE_NAME: &str = "bundle";
/// Time between attempts at a busy receiver.
const AGAIN: Duration = Duration::from_millis(500);
