//! Sending files, one after the other or all in one session: [`send`].
//!
//! A bundle is read once, as it is sent; a file by itself, which is what a peer without bundles takes, is hashed first, as
//! the protocol wants it. Either is read block by block as the endpoint asks for it. It stops at the first failure, and
//! does *not* follow symbolic links in folders.

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

use super::error::{Attempt, Side};
use super::incoming::title;
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
    /// Send everything in one session: folders too, with modes, times and holes; names are private, and an interrupted
    /// transfer goes on where it stopped. A receiver that proves nothing and cannot take that gets the files one after the
    /// other, and no folders; the observer is told.
    pub bundle: bool,
    /// Where hashes are kept, so that what was read once need not be read again.
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

/// What arrived in one session.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Where it was read; empty when it was in several places.
    pub path: PathBuf,
    /// The name it was sent under; of several, how many.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Those that an earlier attempt had brought.
    pub resumed: u64,
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
            bundle: true,
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

/// Sends `files`, and folders with all that is in them, and returns when everything is verified and durable at the
/// receiver, and stragglers were answered. `observer` learns of everything as soon as it has arrived.
///
/// # Errors
/// At the first file that fails. Of a bundle nothing is at its place then; of single files those before it are, and were
/// reported as [`Update::Finished`].
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
        encrypt: options.encrypt != Encryption::Off,
        next: 0,
        open: BTreeSet::new(),
    };
    let whole = if options.bundle && options.config.extensions {
        sending.bundle(files)
    } else {
        Ok(None)
    };
    let sent = whole.and_then(|sent| match sent {
        Some(sent) => Ok(vec![sent]),
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
    /// Until the receiver says that it cannot, and may.
    encrypt: bool,
    next: u64,
    /// Sessions that still answer stragglers.
    open: BTreeSet<Tag>,
}

impl<E, O> Sending<'_, E, O>
where
    E: Endpoint<Command = Command, Event = Event>,
    O: FnMut(&Update),
{
    /// A file by itself.
    fn file(&mut self, path: &Path) -> Result<Sent, TransferError> {
        let source = Arc::new(open(path)?);
        let hash = self.hash(path, &source)?;
        let attempt = self.attempt(path.display().to_string(), false);
        let patience = Instant::now() + self.options.config.call_timeout;
        loop {
            let name = source.name().to_owned();
            let content = Content::file(Arc::clone(&source), hash);
            let request = self.request(name.clone(), &content);
            match self.session(&attempt, &name, path, content, request)? {
                Ok(sent) => return Ok(sent),
                Err(failure) if self.may_pass(failure, patience) => {
                    self.before_again(failure, &name, &attempt)?;
                }
                Err(failure) => return Err(failed(path, &source, &attempt, failure)),
            }
        }
    }

    /// Everything in one session, if the receiver takes that.
    fn bundle(&mut self, paths: &[PathBuf]) -> Result<Option<Sent>, TransferError> {
        let (called, path) = match paths {
            [one] => (one.display().to_string(), one.clone()),
            several => (format!("{} items", several.len()), PathBuf::new()),
        };
        let attempt = self.attempt(called, true);
        let patience = Instant::now() + self.options.config.call_timeout;
        let mut told = false;
        loop {
            let scan = ScanOptions {
                cache: self.options.cache.clone(),
            };
            let source = BundleSource::scan(paths, &scan).map_err(unsendable)?;
            for skipped in source.skipped().iter().filter(|_| !told) {
                (self.observer)(&Update::LeftOut {
                    path: skipped.path.clone(),
                    what: skipped.what,
                });
            }
            told = true;
            let name = title(source.manifest());
            let content = Content::bundle(source);
            // The true names travel inside, sealed.
            let request = self.request(wire_name()?, &content);
            match self.session(&attempt, &name, &path, content, request)? {
                Ok(sent) => return Ok(Some(sent)),
                Err(Failure::NoBundles) => return self.singly(paths, &attempt).map(|()| None),
                Err(failure) if self.may_pass(failure, patience) => {
                    self.before_again(failure, &name, &attempt)?;
                }
                Err(failure) => return Err(TransferError::session(&attempt, failure)),
            }
        }
    }

    /// The receiver takes single files only. Whether it may have them: who is known takes bundles, so somebody else said
    /// that; and what needs a bundle is not cut up.
    fn singly(&mut self, paths: &[PathBuf], attempt: &Attempt) -> Result<(), TransferError> {
        if self.options.trust != Trust::Anyone {
            return Err(TransferError::stripped(attempt));
        }
        if paths.iter().any(|path| path.is_dir()) {
            return Err(TransferError::session(attempt, Failure::NoBundles));
        }
        for path in paths {
            open(path)?;
        }
        let peer = self.options.to;
        (self.observer)(&Update::SingleFiles { peer });
        Ok(())
    }

    fn request(&self, name: String, content: &Content) -> Request {
        Request {
            encrypt: self.encrypt,
            via: self.options.via,
            trust: self.options.trust,
            bundle: content.is_bundle(),
            ..Request::new(self.options.to, name, content.len(), content.xxh64())
        }
    }

    fn attempt(&self, name: String, resumes: bool) -> Attempt {
        let side = match self.options.via {
            Via::Push => Side::Put,
            Via::Direct | Via::Pull => Side::Send,
        };
        Attempt {
            side,
            name,
            peer: self.options.to,
            resumes,
        }
    }

    /// Whether another attempt may fare better: too many sessions at the receiver, or the number of another, pass by
    /// themselves, and so does what a killed sender of the same files has left, once its receiver gives it up; and what
    /// cannot be encrypted may go in the clear, if the user allows it.
    fn may_pass(&self, failure: Failure, until: Instant) -> bool {
        let plain = self.encrypt && self.options.encrypt == Encryption::AllowPlain;
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
        name: &str,
        attempt: &Attempt,
    ) -> Result<(), TransferError> {
        if failure == Failure::Refused(Reason::NO_ENCRYPTION) {
            self.encrypt = false;
            (self.observer)(&Update::Unencrypted {
                name: name.to_owned(),
                peer: self.options.to,
            });
            return Ok(());
        }
        self.wait(AGAIN, attempt)
    }

    fn hash(&mut self, path: &Path, source: &Source) -> Result<u64, TransferError> {
        let total = source.size();
        let cache = self.options.cache.clone();
        cache
            .xxh64(path, source, |done| {
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

    /// One session from its request to its end. The outer error is this side's, the inner one the session's. `name` is
    /// what the user calls it.
    fn session(
        &mut self,
        attempt: &Attempt,
        name: &str,
        path: &Path,
        mut content: Content,
        request: Request,
    ) -> Result<Result<Sent, Failure>, TransferError> {
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
                fault = Some(TransferError::stopped(attempt));
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
                        snapshot: content.figures(snapshot),
                    });
                }
                Event::Finished {
                    tag,
                    snapshot,
                    result,
                } if tag == current => {
                    return match (result, fault) {
                        (Ok(()), _) => {
                            let snapshot = content.figures(snapshot);
                            Ok(Ok(self.sent(name, path, &content, snapshot, met)))
                        }
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

    /// Tells that it has arrived.
    fn sent(
        &mut self,
        name: &str,
        path: &Path,
        content: &Content,
        snapshot: Snapshot,
        met: Met,
    ) -> Sent {
        let sent = Sent {
            path: path.to_owned(),
            name: name.to_owned(),
            size: content.size(),
            resumed: content.resumed(),
            hash: content.hash(),
            encrypted: met.encrypted,
            identity: met.identity,
            snapshot,
        };
        (self.observer)(&Update::Finished {
            direction: Direction::Out,
            identity: sent.identity,
            name: sent.name.clone(),
            peer: self.options.to,
            snapshot,
            resumed: sent.resumed,
            files: content.files(),
            hash: sent.hash,
            path: sent.path.clone(),
        });
        sent
    }

    /// Lets time pass, unless the user stops it.
    fn wait(&mut self, time: Duration, attempt: &Attempt) -> Result<(), TransferError> {
        let end = Instant::now() + time;
        loop {
            if self.options.stop.load(Relaxed) {
                return Err(TransferError::stopped(attempt));
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
}

/// Why a file by itself did not arrive: one that changed in secret is known by its hash only.
fn failed(path: &Path, source: &Source, attempt: &Attempt, failure: Failure) -> TransferError {
    if failure == Failure::Refused(Reason::HASH_MISMATCH)
        && let Err(error) = source.unchanged()
    {
        return unreadable(path, error);
    }
    TransferError::session(attempt, failure)
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

/// What a bundle is called on the wire, where every name can be read (HP-UDP 18.8.1). A receiver without bundles must not
/// have a file of that name, or it would refuse that instead of saying what it takes.
fn wire_name() -> Result<String, TransferError> {
    let random = getrandom::u64().map_err(TransferError::entropy)?;
    Ok(format!("bundle-{random:016x}"))
}

/// Time between attempts at a busy receiver.
const AGAIN: Duration = Duration::from_millis(500);
