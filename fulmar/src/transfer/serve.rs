//! The daemon: [`Server`] gives the files of one directory to whoever asks, and takes files if it may.
//!
//! What can be asked for is a list of names made at the start (HP-UDP 12.2.2), and a name is looked up in that list
//! only, so that nothing a stranger writes ever becomes a path. The calling thread does all reading and writing; one
//! more thread hashes what is asked for, each file once for as long as it stays what it is. It does *not* ask who a
//! client is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, Sender};
use fulmar_proto::Endpoint;
use fulmar_proto::hpudp::{self, Command, Config, Event, Failure, Reason, Snapshot, Tag};

use super::outgoing::Content;
use super::recv::{Accepts, Receiving, Tally, next_event};
use super::{
    Direction, FAREWELL, Following, Hash, Kind, TICK, TransferError, Update, bind, open_directory,
    spawn_bulk,
};
use crate::bundle::{BundleSource, Cache, ScanOptions};
use crate::config::{Dscp, Schedule};
use crate::driver::{BUFFER_WANTED, Handle, Watcher};
use crate::file::source::Stamp;
use crate::file::{Directory, Source};

/// What to serve, and how.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Parameters of the protocol. [`Config::socket_datagrams`] and [`Config::port`] 0 are replaced by those of the
    /// socket.
    pub config: Config,
    /// Take files too.
    pub allow_put: bool,
    /// Look into the directory whenever a file is asked for, so that new ones are found.
    pub watch: bool,
    /// Where the hashes of pieces of files are kept.
    pub cache: Cache,
    /// How packets are marked.
    pub dscp: Dscp,
    /// How fast the daemon may send, all sessions together, by the time of day.
    pub bwlimit: Schedule,
    /// How long sessions may go on after the user asked for the end.
    pub drain: Duration,
}

/// A bound socket and a directory whose files can be fetched.
#[derive(Debug)]
pub struct Server {
    handle: Handle<hpudp::Endpoint>,
    directory: Directory,
    path: PathBuf,
    shelf: (BTreeSet<String>, BTreeSet<String>),
    options: ServeOptions,
}

impl Server {
    /// Opens `directory` and binds `listen`; `[::]` listens to IPv4 as well.
    ///
    /// # Errors
    /// If there is no such directory, it cannot be listed, it may not be written to and files are to be taken, or the
    /// address is not to be had.
    pub fn bind(
        directory: &Path,
        listen: SocketAddr,
        options: ServeOptions,
    ) -> Result<Self, TransferError> {
        let opened = if options.allow_put {
            open_directory(directory)?
        } else {
            Directory::open(directory).map_err(|error| cannot_serve(directory, error))?
        };
        let shelf = list(directory).map_err(|error| cannot_serve(directory, error))?;
        let socket = bind(listen, options.dscp)?;
        let mut config = options.config.clone();
        config.port = socket.local_addr().port();
        let handle = spawn_bulk(socket, listen, config)?;
        Ok(Self {
            handle,
            directory: opened,
            path: directory.to_owned(),
            shelf,
            options,
        })
    }

    /// The address it listens at.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// A view of its counters for other threads.
    pub fn watcher(&self) -> Watcher {
        self.handle.watcher()
    }

    /// Serves until `stop` is set; then refuses what is new and lets what began come to its end, for
    /// [`ServeOptions::drain`] at most.
    ///
    /// # Errors
    /// If the socket dies.
    pub fn run(
        self,
        mut observer: impl FnMut(&Update),
        stop: &AtomicBool,
    ) -> Result<Tally, TransferError> {
        observer(&Update::SocketBuffers {
            granted: self.handle.buffers(),
            wanted: BUFFER_WANTED,
        });
        let _limit = Following::start(self.options.bwlimit.clone(), self.handle.commands().clone());
        let accepts = Accepts {
            offered: self.options.allow_put,
            ..Accepts::default()
        };
        let mut serving = Serving {
            handle: &self.handle,
            path: &self.path,
            watch: self.options.watch,
            names: self.shelf.0,
            folders: self.shelf.1,
            cache: self.options.cache.clone(),
            receiving: Receiving::new(&self.handle, &self.directory, accepts, observer),
            sessions: BTreeMap::new(),
            hashes: BTreeMap::new(),
            hasher: Hasher::start()?,
            closing: false,
        };
        while !stop.load(Relaxed) {
            serving.step(TICK)?;
        }
        serving.drain(self.options.drain)?;
        Ok(serving.receiving.tally)
    }
}

struct Serving<'a, E: Endpoint, O> {
    handle: &'a Handle<E>,
    path: &'a Path,
    watch: bool,
    /// Files that can be asked for.
    names: BTreeSet<String>,
    /// And folders, by those who take bundles.
    folders: BTreeSet<String>,
    cache: Cache,
    receiving: Receiving<'a, E, O>,
    sessions: BTreeMap<Tag, Outgoing>,
    /// Of files that were asked for, as long as they stay what they were.
    hashes: BTreeMap<String, (Stamp, u64)>,
    hasher: Hasher,
    closing: bool,
}

/// One file that a peer asked for.
struct Outgoing {
    name: String,
    peer: SocketAddr,
    content: Content,
    encrypted: bool,
    /// Of a file by itself, once it is known; a bundle carries its own.
    hash: Option<u64>,
    identity: Option<[u8; 32]>,
    /// Why this side ended it.
    fault: Option<TransferError>,
}

impl<E, O> Serving<'_, E, O>
where
    E: Endpoint<Command = Command, Event = Event>,
    O: FnMut(&Update),
{
    /// Handles one event, if one comes within `patience`.
    fn step(&mut self, patience: Duration) -> Result<(), TransferError> {
        while let Ok(hashed) = self.hasher.done.try_recv() {
            self.hashed(hashed)?;
        }
        // A hash that is awaited should not wait for an event.
        let patience = if self.hasher.queued.is_empty() {
            patience
        } else {
            patience.min(HASH_TICK)
        };
        let Some(event) = next_event(self.handle, patience)? else {
            return Ok(());
        };
        let Some(event) = self.receiving.take(event)? else {
            // What was taken can be asked for from now on.
            self.names.append(&mut self.receiving.taken);
            return Ok(());
        };
        match event {
            Event::Asked {
                tag,
                from,
                name,
                encrypted,
                bundle,
            } => self.asked(tag, from, &name, encrypted, bundle),
            Event::Connected { tag, identity, .. } => {
                if let Some(outgoing) = self.sessions.get_mut(&tag) {
                    outgoing.identity = identity;
                    let update = Update::Connected {
                        direction: Direction::Out,
                        identity,
                        name: outgoing.name.clone(),
                        peer: outgoing.peer,
                        size: outgoing.content.size(),
                        encrypted: outgoing.encrypted,
                    };
                    (self.receiving.observer)(&update);
                }
                Ok(())
            }
            Event::Want {
                tag,
                offset,
                len,
                buffer,
            } => self.want(tag, offset, len, buffer),
            Event::Progress { tag, snapshot } => {
                if let Some(outgoing) = self.sessions.get(&tag) {
                    let update = Update::Progress {
                        name: outgoing.name.clone(),
                        peer: outgoing.peer,
                        snapshot,
                    };
                    (self.receiving.observer)(&update);
                }
                Ok(())
            }
            Event::Finished {
                tag,
                snapshot,
                result,
            } => {
                self.finished(tag, snapshot, result);
                Ok(())
            }
            Event::Closed { tag } => {
                self.sessions.remove(&tag);
                Ok(())
            }
            Event::ListAsked { tag, first, .. } => self.listed(tag, first),
            Event::Listing { .. }
            | Event::Offered { .. }
            | Event::Chunk { .. }
            | Event::Received { .. } => Ok(()),
        }
    }

    fn asked(
        &mut self,
        tag: Tag,
        peer: SocketAddr,
        raw: &[u8],
        encrypted: bool,
        bundle: bool,
    ) -> Result<(), TransferError> {
        if self.closing {
            return self.turn_down(tag, Reason::BUSY);
        }
        self.look();
        let name = str::from_utf8(raw).ok();
        let listed =
            |name: &str| self.names.contains(name) || bundle && self.folders.contains(name);
        let Some(name) = name.filter(|name| listed(name)).map(str::to_owned) else {
            return self.turn_down(tag, Reason::NOT_FOUND);
        };
        let path = self.path.join(&name);
        // It was a file or a folder when it was listed, and no link.
        let is = fs::symlink_metadata(&path).ok().map(|it| it.file_type());
        let outgoing = |content, hash| Outgoing {
            name: name.clone(),
            peer,
            content,
            encrypted,
            hash,
            identity: None,
            fault: None,
        };
        if bundle && is.is_some_and(|is| is.is_file() || is.is_dir()) {
            let scan = ScanOptions {
                cache: self.cache.clone(),
            };
            let Ok(source) = BundleSource::scan(&[path], &scan) else {
                return self.turn_down(tag, Reason::NOT_FOUND);
            };
            let size = source.len();
            let content = Content::Bundle(Box::new(source));
            self.sessions.insert(tag, outgoing(content, None));
            return self.grant(tag, size, 0, true);
        }
        let source = Source::open(&path).ok();
        let Some(source) = source.filter(|_| is.is_some_and(|is| is.is_file())) else {
            return self.turn_down(tag, Reason::NOT_FOUND);
        };
        let stamp = *source.stamp();
        let source = Arc::new(source);
        let known = self.hashes.get(&name).filter(|(at, _)| *at == stamp);
        let hash = known.map(|(_, hash)| *hash);
        let content = Content::File(Arc::clone(&source));
        self.sessions.insert(tag, outgoing(content, hash));
        match hash {
            Some(hash) => self.grant(tag, source.size(), hash, false),
            None => {
                self.hasher.hash(name, source);
                Ok(())
            }
        }
    }

    /// Finds what is new, if it may.
    fn look(&mut self) {
        if self.watch
            && let Ok(shelf) = list(self.path)
        {
            (self.names, self.folders) = shelf;
        }
    }

    /// A packet's worth of names and sizes.
    fn listed(&mut self, tag: Tag, first: u64) -> Result<(), TransferError> {
        self.look();
        let mut text = Vec::new();
        let from = usize::try_from(first).unwrap_or(usize::MAX);
        for name in self.names.iter().skip(from) {
            // What was removed since then has no size, and is not to be had.
            let size = fs::symlink_metadata(self.path.join(name)).map_or(0, |it| it.len());
            text.extend_from_slice(format!("{name}\t{size}\n").as_bytes());
            if text.len() > LIST_BYTES {
                break;
            }
        }
        let total = self.names.len() as u64;
        self.command(Command::Listing { tag, total, text })
    }

    /// A file was hashed: whoever waits for it is served.
    fn hashed(&mut self, hashed: Hashed) -> Result<(), TransferError> {
        let Hashed { name, stamp, hash } = hashed;
        self.hasher.queued.remove(&name);
        if let Some(hash) = hash {
            self.hashes.insert(name.clone(), (stamp, hash));
        }
        let waiting = self
            .sessions
            .iter()
            .filter(|(_, it)| it.hash.is_none() && it.name == name && it.fault.is_none());
        let waiting: Vec<Tag> = waiting.map(|(tag, _)| *tag).collect();
        for tag in waiting {
            let Some(outgoing) = self.sessions.get_mut(&tag) else {
                continue;
            };
            let Content::File(source) = &outgoing.content else {
                continue;
            };
            match hash {
                Some(hash) if *source.stamp() == stamp => {
                    let size = source.size();
                    outgoing.hash = Some(hash);
                    self.grant(tag, size, hash, false)?;
                }
                // It changed while it was read: to be asked for again.
                Some(_) | None => self.turn_down(tag, Reason::NOT_FOUND)?,
            }
        }
        Ok(())
    }

    fn grant(&self, tag: Tag, size: u64, hash: u64, bundle: bool) -> Result<(), TransferError> {
        self.command(Command::Serve {
            tag,
            size,
            hash,
            bundle,
        })
    }

    fn turn_down(&mut self, tag: Tag, reason: Reason) -> Result<(), TransferError> {
        self.receiving.tally.refused += 1;
        self.command(Command::Abort { tag, reason })
    }

    fn want(
        &mut self,
        tag: Tag,
        offset: u64,
        len: usize,
        buffer: Vec<u8>,
    ) -> Result<(), TransferError> {
        let Some(outgoing) = self.sessions.get_mut(&tag) else {
            return Ok(());
        };
        if outgoing.fault.is_some() {
            return Ok(());
        }
        let path = self.path.join(&outgoing.name);
        match outgoing.content.supply(&path, offset, len, buffer) {
            Ok(bytes) => self.command(Command::Supply { tag, offset, bytes }),
            Err(error) => {
                outgoing.fault = Some(error);
                self.command(Command::Abort {
                    tag,
                    reason: Reason::DISCONNECT,
                })
            }
        }
    }

    fn finished(&mut self, tag: Tag, snapshot: Snapshot, result: Result<(), Failure>) {
        let Some(outgoing) = self.sessions.get_mut(&tag) else {
            return;
        };
        let (name, peer) = (outgoing.name.clone(), outgoing.peer);
        let what = || format!("cannot send {name} to {peer}");
        let update = match (result, outgoing.fault.take()) {
            (Ok(()), _) => {
                self.receiving.tally.served += 1;
                Update::Finished {
                    direction: Direction::Out,
                    identity: outgoing.identity,
                    name,
                    peer,
                    snapshot,
                    hash: match outgoing.content.blake3() {
                        Some(hash) => Hash::Blake3(hash),
                        None => Hash::Xxh64(outgoing.hash.unwrap_or(0)),
                    },
                    path: self.path.join(&outgoing.name),
                }
            }
            (Err(failure), fault) => {
                self.receiving.tally.failed += 1;
                let error = fault.unwrap_or_else(|| TransferError::session(what(), peer, failure));
                Update::Failed {
                    // A request from a forged address comes to nothing, and is nobody's failure.
                    began: snapshot.rtt.is_some(),
                    error,
                    name,
                    peer,
                    snapshot,
                }
            }
        };
        (self.receiving.observer)(&update);
    }

    /// Refuses what is new, and lets what began come to its end.
    fn drain(&mut self, patience: Duration) -> Result<(), TransferError> {
        self.closing = true;
        self.receiving.close();
        let end = Instant::now() + patience;
        while Instant::now() < end && (!self.sessions.is_empty() || !self.receiving.is_idle()) {
            self.step(TICK)?;
        }
        let left: Vec<Tag> = self.sessions.keys().copied().collect();
        for tag in left {
            self.command(Command::Abort {
                tag,
                reason: Reason::DISCONNECT,
            })?;
        }
        self.receiving.abort_all()?;
        self.receiving.linger(FAREWELL, &AtomicBool::new(false))
    }

    fn command(&self, command: Command) -> Result<(), TransferError> {
        self.handle.command(command).map_err(TransferError::driver)
    }
}

/// A thread that hashes one file after the other.
struct Hasher {
    work: Sender<(String, Arc<Source>)>,
    done: Receiver<Hashed>,
    /// Names on their way: a file asked for a thousand times is read once.
    queued: BTreeSet<String>,
}

struct Hashed {
    name: String,
    stamp: Stamp,
    /// `None` if it could not be read, or changed meanwhile.
    hash: Option<u64>,
}

impl Hasher {
    fn start() -> Result<Self, TransferError> {
        let (work, files) = flume::unbounded::<(String, Arc<Source>)>();
        let (tell, done) = flume::unbounded();
        let hashing = thread::Builder::new().name("hash".into()).spawn(move || {
            for (name, source) in files {
                let stop = || {
                    if tell.is_disconnected() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                };
                let hashed = Hashed {
                    stamp: *source.stamp(),
                    hash: source.hash(|_| stop()).ok(),
                    name,
                };
                if tell.send(hashed).is_err() {
                    return;
                }
            }
        });
        hashing.map_err(|error| {
            let advice = "end other programs, or raise the limit of threads";
            TransferError::new(Kind::Failed, "cannot start a thread", error, advice)
        })?;
        Ok(Self {
            work,
            done,
            queued: BTreeSet::new(),
        })
    }

    /// Names come from the list, so no more can be queued than there are.
    fn hash(&mut self, name: String, source: Arc<Source>) {
        if self.queued.insert(name.clone()) {
            // The thread lives as long as this side does.
            let _ = self.work.send((name, source));
        }
    }
}

/// The regular files of a directory whose names can be asked for, and its folders.
fn list(path: &Path) -> io::Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut names, mut folders) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // What vanishes while it is looked at is not there.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let name = Directory::check_name(entry.file_name().as_encoded_bytes());
        if let Ok(name) = name
            && entry.file_name().to_str() == Some(&*name)
        {
            if kind.is_file() {
                names.insert(name);
            } else if kind.is_dir() {
                folders.insert(name);
            }
        }
    }
    Ok((names, folders))
}

fn cannot_serve(path: &Path, error: io::Error) -> TransferError {
    TransferError::new(
        Kind::Failed,
        format!("cannot serve {}", path.display()),
        error,
        "name a directory that exists and that you may read",
    )
}

/// More than a packet holds.
const LIST_BYTES: usize = 1400;
/// How soon a finished hash is noticed.
const HASH_TICK: Duration = Duration::from_millis(5);
