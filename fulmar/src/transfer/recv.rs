//! Receiving files into a directory: [`Receiver`].
//!
//! The calling thread writes; every finished file is verified and made durable on a thread of its own, because a disk
//! may take seconds for that and other transfers should not wait. It does *not* resume, overwrite or choose who may
//! send.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use flume::Receiver as Outcomes;
use fulmar_proto::Endpoint;
use fulmar_proto::hpudp::{self, Command, Config, Event, Failure, Reason, Snapshot, Tag, Via};

use super::{
    Direction, FAREWELL, Hash, Kind, TICK, TransferError, Update, bind, open_directory, patience,
    spawn_bulk,
};
use crate::bundle::{BundleSink, SinkError, SinkOptions};
use crate::config::Dscp;
use crate::driver::{BUFFER_WANTED, Handle, NoEvent, Stopped, Watcher};
use crate::file::{CreateError, Directory, FinishError, Partial};

/// How to receive.
#[derive(Clone, Debug, Default)]
pub struct ReceiveOptions {
    /// Parameters of the protocol. [`Config::socket_datagrams`] 0 is replaced by what the socket holds.
    pub config: Config,
    /// End after the first transfer that brought a packet, however it ends. An offer that nothing follows is no
    /// transfer: anybody can forge one.
    pub once: bool,
    /// How datagrams are marked for the network.
    pub dscp: Dscp,
}

/// A bound socket and a directory that files arrive in.
#[derive(Debug)]
pub struct Receiver {
    handle: Handle<hpudp::Endpoint>,
    directory: Directory,
    options: ReceiveOptions,
}

/// What a receiver did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Files given to peers that asked for them.
    pub served: u64,
    /// Files stored.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Offers not accepted.
    pub refused: u64,
    /// Accepted transfers that failed.
    pub failed: u64,
}

impl Receiver {
    /// Opens `directory` and binds `listen`; `[::]` listens to IPv4 as well.
    ///
    /// # Errors
    /// If there is no such directory, or the address is not to be had.
    pub fn bind(
        directory: &Path,
        listen: SocketAddr,
        options: ReceiveOptions,
    ) -> Result<Self, TransferError> {
        let opened = open_directory(directory)?;
        let socket = bind(listen, options.dscp)?;
        let handle = spawn_bulk(socket, listen, options.config.clone())?;
        Ok(Self {
            handle,
            directory: opened,
            options,
        })
    }

    /// For those who only look.
    pub fn watcher(&self) -> Watcher {
        self.handle.watcher()
    }

    /// The address it listens at.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// Receives files until `stop` is set, or one transfer has ended with [`ReceiveOptions::once`].
    ///
    /// # Errors
    /// If the socket dies; with `once`, also if that transfer failed or none began before `stop`.
    pub fn run(
        self,
        mut observer: impl FnMut(&Update),
        stop: &AtomicBool,
    ) -> Result<Tally, TransferError> {
        observer(&Update::SocketBuffers {
            granted: self.handle.buffers(),
            wanted: BUFFER_WANTED,
        });
        receive_through(&self.handle, &self.directory, &self.options, observer, stop)
    }
}

/// [`Receiver::run`] through an endpoint that runs already.
pub(super) fn receive_through<E>(
    handle: &Handle<E>,
    directory: &Directory,
    options: &ReceiveOptions,
    observer: impl FnMut(&Update),
    stop: &AtomicBool,
) -> Result<Tally, TransferError>
where
    E: Endpoint<Command = Command, Event = Event>,
{
    let mut receiving = Receiving::new(handle, directory, Accepts::offers(), observer);
    while !stop.load(Relaxed) {
        receiving.step(TICK)?;
        if options.once
            && let Some(ended) = receiving.last.take()
        {
            receiving.abort_all()?;
            let patience = if ended.is_ok() {
                patience(&options.config)
            } else {
                FAREWELL
            };
            receiving.linger(patience, stop)?;
            return ended.map(|()| receiving.tally);
        }
    }
    receiving.abort_all()?;
    receiving.linger(FAREWELL, &AtomicBool::new(false))?;
    if options.once && receiving.tally.files == 0 {
        return Err(TransferError::stopped("no file was received".into()));
    }
    Ok(receiving.tally)
}

/// Which files are taken.
#[derive(Debug, Default)]
pub(super) struct Accepts {
    /// Those that peers offer.
    pub(super) offered: bool,
    /// Those that this side asked for: the name each must have.
    pub(super) wanted: BTreeMap<Tag, String>,
}

impl Accepts {
    /// Whatever peers offer.
    pub(super) fn offers() -> Self {
        Self {
            offered: true,
            ..Self::default()
        }
    }
}

/// The receiving half of whoever has sessions: a receiver, a daemon, a client that fetches.
pub(super) struct Receiving<'a, E: Endpoint, O> {
    handle: &'a Handle<E>,
    directory: &'a Directory,
    pub(super) accepts: Accepts,
    pub(super) observer: O,
    sessions: BTreeMap<Tag, Incoming>,
    pub(super) tally: Tally,
    /// Names of files that arrived since somebody looked.
    pub(super) taken: BTreeSet<String>,
    /// How the last transfer ended, offers that nothing followed apart.
    pub(super) last: Option<Result<(), TransferError>>,
    /// Nothing new is accepted.
    closing: bool,
}

/// One accepted file.
struct Incoming {
    name: String,
    from: SocketAddr,
    identity: Option<[u8; 32]>,
    state: State,
    /// Why this side ended it.
    fault: Option<TransferError>,
}

enum State {
    /// Nothing came yet, and nothing is on the disk for it: offers cost their senders one packet each.
    Accepted { size: u64, bundle: bool },
    /// Bytes come in.
    Writing(Box<Partial>),
    /// Bytes of many files come in.
    Unpacking(Box<BundleSink>),
    /// Another thread verifies it.
    Finishing(Outcomes<Outcome>),
    /// Nothing more is done with it; the endpoint has yet to close it.
    Over,
}

/// What became of a file, or of many, at the end: where it is and what its hash was, or why not and what the peer is told.
type Outcome = Result<(PathBuf, Hash), (Reason, TransferError)>;

impl<'a, E, O> Receiving<'a, E, O>
where
    E: Endpoint<Command = Command, Event = Event>,
    O: FnMut(&Update),
{
    pub(super) fn new(
        handle: &'a Handle<E>,
        directory: &'a Directory,
        accepts: Accepts,
        observer: O,
    ) -> Self {
        Self {
            handle,
            directory,
            accepts,
            observer,
            sessions: BTreeMap::new(),
            tally: Tally::default(),
            taken: BTreeSet::new(),
            last: None,
            closing: false,
        }
    }

    /// Handles one event, if one comes within `patience`.
    pub(super) fn step(&mut self, patience: Duration) -> Result<(), TransferError> {
        let Some(event) = next_event(self.handle, patience)? else {
            return Ok(());
        };
        match self.take(event)? {
            // Who only receives has nothing to give, and nothing to list.
            Some(Event::Asked { tag, .. } | Event::ListAsked { tag, .. }) => {
                self.command(Command::Abort {
                    tag,
                    reason: Reason::NOT_FOUND,
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Handles an event of a session that receives, or starts to; any other comes back.
    pub(super) fn take(&mut self, event: Event) -> Result<Option<Event>, TransferError> {
        match event {
            Event::Offered { .. } => self.offered(event)?,
            Event::Chunk { tag, offset, bytes } => self.chunk(tag, offset, bytes)?,
            Event::Received { tag, hash } => self.received(tag, hash)?,
            Event::Progress { tag, snapshot } if self.sessions.contains_key(&tag) => {
                let incoming = &self.sessions[&tag];
                let (name, peer) = (incoming.name.clone(), incoming.from);
                (self.observer)(&Update::Progress {
                    name,
                    peer,
                    snapshot,
                });
            }
            Event::Finished {
                tag,
                snapshot,
                result,
            } if self.sessions.contains_key(&tag) => self.finished(tag, snapshot, result),
            Event::Closed { tag } if self.sessions.contains_key(&tag) => {
                self.sessions.remove(&tag);
            }
            Event::Asked { .. }
            | Event::ListAsked { .. }
            | Event::Listing { .. }
            | Event::Connected { .. }
            | Event::Want { .. }
            | Event::Progress { .. }
            | Event::Finished { .. }
            | Event::Closed { .. } => return Ok(Some(event)),
        }
        Ok(None)
    }

    fn offered(&mut self, event: Event) -> Result<(), TransferError> {
        let Event::Offered {
            tag,
            from,
            name: raw,
            size,
            encrypted,
            via,
            bundle,
            identity,
            ..
        } = event
        else {
            return Ok(());
        };
        match self.admit(tag, via, bundle, &raw, size) {
            Ok(name) => {
                (self.observer)(&Update::Connected {
                    direction: Direction::In,
                    identity,
                    name: name.clone(),
                    peer: from,
                    size,
                    encrypted,
                });
                let incoming = Incoming {
                    name,
                    from,
                    identity,
                    state: State::Accepted { size, bundle },
                    fault: None,
                };
                self.sessions.insert(tag, incoming);
                self.command(Command::Accept { tag })
            }
            Err((reason, because)) => {
                self.tally.refused += 1;
                if via == Via::Pull {
                    // This side asked for it, and cannot take it.
                    let name = self.accepts.wanted.get(&tag).cloned().unwrap_or_default();
                    let advice = "fetch it into another directory, or remove what is in its way";
                    let what = attempt(&name, from);
                    self.last = Some(Err(TransferError::new(Kind::Failed, what, because, advice)));
                } else {
                    let name = raw.escape_ascii().to_string();
                    (self.observer)(&Update::Refused {
                        name,
                        peer: from,
                        reason,
                        because,
                    });
                }
                self.command(Command::Abort { tag, reason })
            }
        }
    }

    /// The name under which an offered file can be received, or what its sender is told and what the user is.
    fn admit(
        &self,
        tag: Tag,
        via: Via,
        bundle: bool,
        raw: &[u8],
        size: u64,
    ) -> Result<String, (Reason, String)> {
        if self.closing {
            return Err((Reason::BUSY, "this side is about to end".to_owned()));
        }
        if via == Via::Pull {
            let wanted = self.accepts.wanted.get(&tag).map(String::as_bytes);
            if wanted != Some(raw) {
                let because = "the peer sends another file than was asked for".to_owned();
                return Err((Reason::DISCONNECT, because));
            }
        } else if !self.accepts.offered {
            let because = "files are taken with --allow-put only".to_owned();
            return Err((Reason::FORBIDDEN, because));
        }
        if bundle {
            // What is in it, and whether that can be stored, its first bytes tell.
            let name = Directory::check_name(raw).map_err(|it| (Reason::INVALID, it.to_string()));
            return name;
        }
        admit(self.directory, raw, size)
    }

    fn chunk(&mut self, tag: Tag, offset: u64, bytes: Vec<u8>) -> Result<(), TransferError> {
        self.begin(tag)?;
        // Whatever becomes of them, the bytes are no longer in memory; but for those that wait for a bundle's list.
        let mut stored = bytes.len();
        let mut fault = None;
        let wanted = self.accepts.wanted.get(&tag);
        if let Some(incoming) = self.sessions.get_mut(&tag) {
            let (name, from) = (&incoming.name, incoming.from);
            match &mut incoming.state {
                State::Writing(partial) => {
                    if let Err(error) = partial.write_at(offset, &bytes) {
                        fault = Some((
                            Reason::STORAGE,
                            unstorable(name, from, FinishError::Storage(error)),
                        ));
                    }
                }
                State::Unpacking(sink) => {
                    let held = sink.held();
                    match sink.write(offset, &bytes) {
                        Ok(None) => {}
                        Ok(Some(_)) if !is_wanted(sink, wanted) => {
                            let because = "the peer sends other files than were asked for";
                            let advice = "somebody else may answer there; demand a proof";
                            let what = attempt(name, from);
                            let error = TransferError::new(Kind::Integrity, what, because, advice);
                            fault = Some((Reason::DISCONNECT, error));
                        }
                        Ok(Some(ready)) => {
                            let bytes: u64 = ready.have.iter().map(|it| it.end - it.start).sum();
                            if bytes > 0 {
                                (self.observer)(&Update::Resumed { peer: from, bytes });
                                let ranges = ready.have;
                                self.handle
                                    .command(Command::Have { tag, ranges })
                                    .map_err(TransferError::driver)?;
                            }
                        }
                        Err(error) => fault = Some(unpackable(name, from, error)),
                    }
                    let now_held = if fault.is_some() { 0 } else { sink.held() };
                    stored = (stored as u64 + held).saturating_sub(now_held) as usize;
                }
                State::Accepted { .. } | State::Finishing(_) | State::Over => {}
            }
        }
        if let Some((reason, fault)) = fault {
            self.give_up(tag, reason, fault)?;
        }
        self.command(Command::Stored {
            tag,
            len: stored,
            buffer: bytes,
        })
    }

    /// Makes the file of a session that has none yet.
    fn begin(&mut self, tag: Tag) -> Result<(), TransferError> {
        let Some(incoming) = self.sessions.get_mut(&tag) else {
            return Ok(());
        };
        let State::Accepted { size, bundle } = incoming.state else {
            return Ok(());
        };
        if bundle {
            return match BundleSink::new(self.directory, size, &SinkOptions::default()) {
                Ok(sink) => {
                    incoming.state = State::Unpacking(Box::new(sink));
                    Ok(())
                }
                Err(error) => {
                    let (reason, fault) = unpackable(&incoming.name, incoming.from, error);
                    self.give_up(tag, reason, fault)
                }
            };
        }
        match self.directory.create(&incoming.name, size) {
            Ok(partial) => {
                incoming.state = State::Writing(Box::new(partial));
                Ok(())
            }
            Err(error) => {
                let reason = refusal(&error);
                let fault = uncreatable(&incoming.name, incoming.from, error);
                self.give_up(tag, reason, fault)
            }
        }
    }

    /// Verifies a complete file on a thread of its own, which also answers the endpoint.
    fn received(&mut self, tag: Tag, hash: u64) -> Result<(), TransferError> {
        // An empty file has brought no chunk.
        self.begin(tag)?;
        let Some(incoming) = self.sessions.get_mut(&tag) else {
            return Ok(());
        };
        let (told, outcome) = flume::bounded(1);
        let (name, from) = (incoming.name.clone(), incoming.from);
        let work: Box<dyn FnOnce() -> Outcome + Send> =
            match std::mem::replace(&mut incoming.state, State::Finishing(outcome)) {
                State::Writing(partial) => Box::new(move || {
                    let finished = partial.finish(hash).map(|path| (path, Hash::Xxh64(hash)));
                    finished.map_err(|error| (reason_for(&error), unstorable(&name, from, error)))
                }),
                State::Unpacking(sink) => Box::new(move || {
                    let finished = sink.finish().map(|it| {
                        let path = it.paths.into_iter().next().unwrap_or_default();
                        (path, Hash::Blake3(it.content))
                    });
                    finished.map_err(|error| unpackable(&name, from, error))
                }),
                State::Accepted { .. } | State::Finishing(_) | State::Over => {
                    incoming.state = State::Over;
                    return Ok(());
                }
            };
        let commands = self.handle.commands().clone();
        let finishing = thread::Builder::new()
            .name("finish file".into())
            .spawn(move || {
                let outcome = work();
                let answer = match &outcome {
                    Ok(_) => Command::Verified { tag },
                    Err((reason, _)) => Command::Abort {
                        tag,
                        reason: *reason,
                    },
                };
                // If nobody listens any more, the file is where it is.
                let _ = told.send(outcome);
                let _ = commands.send(answer);
            });
        if let Err(error) = finishing {
            let (name, from) = (&self.sessions[&tag].name, self.sessions[&tag].from);
            let fault = unstorable(name, from, FinishError::Storage(error));
            self.give_up(tag, Reason::STORAGE, fault)?;
        }
        Ok(())
    }

    fn finished(&mut self, tag: Tag, snapshot: Snapshot, result: Result<(), Failure>) {
        // An offer that was refused ends here too, and was reported.
        let Some(incoming) = self.sessions.get_mut(&tag) else {
            return;
        };
        let (name, peer) = (incoming.name.clone(), incoming.from);
        let identity = incoming.identity;
        let verdict = match std::mem::replace(&mut incoming.state, State::Over) {
            // Its file may be complete although the peer is gone; its thread knows, or will in a moment.
            State::Finishing(outcome) => outcome.recv().ok(),
            State::Accepted { .. } | State::Writing(_) | State::Unpacking(_) | State::Over => None,
        };
        let fault = incoming.fault.take();
        let began = fault.is_some() || verdict.is_some() || snapshot.data + snapshot.parities > 0;
        let error = match (verdict, fault, result) {
            (Some(Ok((path, hash))), _, _) => {
                self.tally.files += 1;
                let arrived = path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                let name = arrived.unwrap_or(name);
                if self.accepts.wanted.is_empty() && path.is_file() {
                    self.taken.insert(name.clone());
                }
                self.tally.bytes += snapshot.size;
                self.last = Some(Ok(()));
                (self.observer)(&Update::Finished {
                    direction: Direction::In,
                    identity,
                    name,
                    peer,
                    snapshot,
                    hash,
                    path,
                });
                return;
            }
            (Some(Err((_, error))), _, _) => error,
            (None, Some(fault), _) => fault,
            (None, None, Err(failure)) => {
                TransferError::session(attempt(&name, peer), peer, failure)
            }
            (None, None, Ok(())) => return,
        };
        self.tally.failed += 1;
        if self.accepts.wanted.contains_key(&tag) {
            // Whoever asked for it reports it.
            self.last = Some(Err(error));
            return;
        }
        let update = Update::Failed {
            name,
            peer,
            snapshot,
            began,
            error,
        };
        (self.observer)(&update);
        if began && let Update::Failed { error, .. } = update {
            self.last = Some(Err(error));
        }
    }

    /// Accepts nothing new from now on.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn abort_all(&mut self) -> Result<(), TransferError> {
        self.closing = true;
        let tags: Vec<Tag> = self.sessions.keys().copied().collect();
        for tag in tags {
            let incoming = &self.sessions[&tag];
            if matches!(
                incoming.state,
                State::Accepted { .. } | State::Writing(_) | State::Unpacking(_)
            ) {
                let fault = TransferError::stopped(attempt(&incoming.name, incoming.from));
                self.give_up(tag, Reason::DISCONNECT, fault)?;
            }
        }
        Ok(())
    }

    /// Removes the file of a session and tells its peer why.
    fn give_up(
        &mut self,
        tag: Tag,
        reason: Reason,
        fault: TransferError,
    ) -> Result<(), TransferError> {
        if let Some(incoming) = self.sessions.get_mut(&tag) {
            incoming.state = State::Over;
            incoming.fault = Some(fault);
        }
        self.command(Command::Abort { tag, reason })
    }

    /// Answers stragglers until every session is closed, `patience` is at its end or the user is impatient. Files
    /// that are being verified are waited for in any case: their threads would die with the process.
    pub(super) fn linger(
        &mut self,
        patience: Duration,
        stop: &AtomicBool,
    ) -> Result<(), TransferError> {
        self.closing = true;
        let end = Instant::now() + patience;
        loop {
            let verifying = self
                .sessions
                .values()
                .any(|one| matches!(one.state, State::Finishing(_)));
            let over = self.sessions.is_empty() || stop.load(Relaxed) || Instant::now() >= end;
            if over && !verifying {
                return Ok(());
            }
            self.step(
                TICK.min(
                    end.saturating_duration_since(Instant::now())
                        .max(Duration::from_millis(1)),
                ),
            )?;
        }
    }

    fn command(&self, command: Command) -> Result<(), TransferError> {
        self.handle.command(command).map_err(TransferError::driver)
    }
}

/// Whether all that a bundle holds is what was asked for, if anything was.
fn is_wanted(sink: &BundleSink, wanted: Option<&String>) -> bool {
    let Some(wanted) = wanted else { return true };
    let Some(manifest) = sink.manifest() else {
        return false;
    };
    manifest
        .top()
        .all(|at| *manifest.entries()[at].name == **wanted)
}

/// What the peer of a bundle is told, and the user.
pub(super) fn unpackable(
    name: &str,
    from: SocketAddr,
    error: SinkError,
) -> (Reason, TransferError) {
    let (reason, kind, advice) = match &error {
        SinkError::Head(_) | SinkError::Manifest(_) | SinkError::Beyond => (
            Reason::INVALID,
            Kind::Integrity,
            "the other side does not keep to the protocol; use another version of it",
        ),
        SinkError::Exists(_) => (
            Reason::EXISTS,
            Kind::Failed,
            "receive it into another directory, or remove what is there",
        ),
        SinkError::Busy => (
            Reason::BUSY,
            Kind::Failed,
            "wait until the other transfer of it has ended",
        ),
        SinkError::Integrity => (
            Reason::HASH_MISMATCH,
            Kind::Integrity,
            "have it sent again; if that repeats, check both disks and memories",
        ),
        SinkError::NoSpace { .. } | SinkError::Storage(_) => (
            Reason::STORAGE,
            Kind::Failed,
            "make room, or check the disk, then start it again: it goes on where it stopped",
        ),
        SinkError::Incomplete { .. } => (
            Reason::STORAGE,
            Kind::Integrity,
            "start it again: it goes on where it stopped",
        ),
    };
    (
        reason,
        TransferError::new(kind, attempt(name, from), error, advice),
    )
}

/// The next event of an endpoint, if one comes within `patience`.
pub(super) fn next_event<E>(
    handle: &Handle<E>,
    patience: Duration,
) -> Result<Option<Event>, TransferError>
where
    E: Endpoint<Command = Command, Event = Event>,
{
    match handle.events().recv_timeout(patience) {
        Ok(event) => Ok(Some(event)),
        Err(NoEvent::Yet) => Ok(None),
        Err(NoEvent::Stopped) => Err(TransferError::driver(Stopped)),
    }
}

/// The name for an offered file that can be received, or what its sender is told and what the user is.
fn admit(directory: &Directory, raw: &[u8], size: u64) -> Result<String, (Reason, String)> {
    let name = Directory::check_name(raw).map_err(|error| (Reason::INVALID, error.to_string()))?;
    match directory.check_room(&name, size) {
        Ok(()) => Ok(name),
        Err(error) => Err((refusal(&error), error.to_string())),
    }
}

fn refusal(error: &CreateError) -> Reason {
    match error {
        CreateError::Name(_) => Reason::INVALID,
        CreateError::Exists => Reason::EXISTS,
        CreateError::NoSpace { .. } | CreateError::Storage(_) => Reason::STORAGE,
    }
}

fn reason_for(error: &FinishError) -> Reason {
    match error {
        FinishError::HashMismatch { .. } => Reason::HASH_MISMATCH,
        FinishError::Exists => Reason::EXISTS,
        FinishError::Incomplete { .. } | FinishError::Storage(_) => Reason::STORAGE,
    }
}

/// A directory that no file can go to.
pub(super) fn unusable(directory: &Path, error: io::Error) -> TransferError {
    let what = format!("cannot receive into {}", directory.display());
    let advice = "name a directory that exists and that you may write to";
    TransferError::new(Kind::Failed, what, error, advice)
}

/// A file that cannot be begun.
pub(super) fn uncreatable(name: &str, from: SocketAddr, error: CreateError) -> TransferError {
    let advice = match error {
        CreateError::Name(_) => "have it sent under a plain name",
        CreateError::Exists => "have it sent under another name, or remove the one that is there",
        CreateError::NoSpace { .. } | CreateError::Storage(_) => {
            "make room, or check the disk, then have it sent again"
        }
    };
    TransferError::new(Kind::Failed, attempt(name, from), error, advice)
}

pub(super) fn unstorable(name: &str, from: SocketAddr, error: FinishError) -> TransferError {
    let (kind, advice) = match error {
        FinishError::HashMismatch { .. } => (
            Kind::Integrity,
            "have it sent again; if that repeats, check both disks and memories",
        ),
        FinishError::Incomplete { .. } => (Kind::Integrity, "have it sent again"),
        FinishError::Exists => (
            Kind::Failed,
            "have it sent under another name, or remove the one that is there",
        ),
        FinishError::Storage(_) => (
            Kind::Failed,
            "make room, or check the disk, then have it sent again",
        ),
    };
    TransferError::new(kind, attempt(name, from), error, advice)
}

fn attempt(name: &str, from: SocketAddr) -> String {
    format!("cannot receive {name} from {from}")
}
