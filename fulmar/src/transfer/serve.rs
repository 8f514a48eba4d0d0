//! The daemon: [`Server`] gives the files of one directory to whoever asks, and takes files if it may.
//!
//! What can be asked for is on a [`Shelf`]; the calling thread does all reading and writing. Where there are several
//! threads, each has a socket at the one address, an endpoint and the sessions whose numbers the kernel gives to it; names,
//! files and what is told are everybody's. It does *not* ask who a client is.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fulmar_proto::Endpoint;
use fulmar_proto::hpudp::{self, Command, Config, Event, Failure, Reason, Snapshot, Tag};

use super::error::{Attempt, Side};
use super::outgoing::Content;
use super::receiving::{Accepts, Receiving};
use super::recv::{Tally, next_event};
use super::shelf::{Found, Names, Shelf, Unproved};
use super::{
    Direction, FAREWELL, Following, Kind, TICK, TransferError, Update, bind_group, open_directory,
    spawn_bulk, sweep,
};
use crate::bundle::Cache;
use crate::config::{Dscp, Schedule};
use crate::driver::{BUFFER_WANTED, Handle, Socket, Watcher};
use crate::file::Directory;

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
    /// Where hashes are kept, so that what was read once need not be read again.
    pub cache: Cache,
    /// How packets are marked.
    pub dscp: Dscp,
    /// How fast the daemon may send, all sessions together, by the time of day.
    pub bwlimit: Schedule,
    /// Sockets at the one address, each with its thread, its endpoint and its share of
    /// [`Config::sessions`]; 0 is 1. Memory for packets is each thread's own. More than one excludes `bwlimit`.
    pub threads: u16,
    /// How long sessions may go on after the user asked for the end.
    pub drain: Duration,
}

/// A bound socket, or several at one address, and a directory whose files can be fetched.
#[derive(Debug)]
pub struct Server {
    handle: Handle<hpudp::Endpoint>,
    /// Those of the other threads.
    others: Vec<Handle<hpudp::Endpoint>>,
    directory: Directory,
    path: PathBuf,
    names: Names,
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
        let names = Names::of(directory).map_err(|error| cannot_serve(directory, error))?;
        let mut sockets = bind_group(listen, options.threads, options.dscp)?.into_iter();
        let count = sockets.len().max(1);
        let spawn = |socket: Socket| {
            let mut config = options.config.clone();
            config.port = socket.local_addr().port();
            config.sessions = config.sessions.div_ceil(count);
            spawn_bulk(socket, Vec::new(), listen, config, count)
        };
        let handle = spawn(sockets.next().expect("at least one was bound"))?;
        let others = sockets.map(spawn).collect::<Result<_, _>>()?;
        if options.allow_put {
            sweep(&opened);
        }
        Ok(Self {
            handle,
            others,
            directory: opened,
            path: directory.to_owned(),
            names,
            options,
        })
    }

    /// The address it listens at.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// How many files and how many folders can be fetched now.
    pub fn offers(&self) -> (usize, usize) {
        self.names.count()
    }

    /// A view of its counters for other threads.
    pub fn watcher(&self) -> Watcher {
        let others = self.others.iter().map(Handle::watcher);
        others.fold(self.handle.watcher(), Watcher::beside)
    }

    /// Serves until `stop` is set; then refuses what is new and lets what began come to its end, for
    /// [`ServeOptions::drain`] at most.
    ///
    /// # Errors
    /// If the socket dies.
    pub fn run(
        self,
        mut observer: impl FnMut(&Update) + Send,
        stop: &AtomicBool,
    ) -> Result<Tally, TransferError> {
        observer(&Update::SocketBuffers {
            granted: self.handle.buffers(),
            wanted: BUFFER_WANTED,
        });
        let _limit = Following::start(self.options.bwlimit.clone(), self.handle.commands().clone());
        let names = Arc::new(Mutex::new(self.names));
        let observer = Mutex::new(observer);
        let over = AtomicBool::new(false);
        let serve = |handle: &Handle<hpudp::Endpoint>| {
            let tell = |update: &Update| {
                let mut observer = observer.lock().unwrap_or_else(PoisonError::into_inner);
                observer(update);
            };
            let accepts = Accepts {
                offered: self.options.allow_put,
                ..Accepts::default()
            };
            let (watch, cache) = (self.options.watch, self.options.cache.clone());
            let served =
                Shelf::new(&self.path, Arc::clone(&names), watch, cache).and_then(|shelf| {
                    let serving = Serving {
                        handle,
                        path: &self.path,
                        shelf,
                        receiving: Receiving::new(handle, &self.directory, accepts, tell),
                        waiting: BTreeMap::new(),
                        sessions: BTreeMap::new(),
                        closing: false,
                    };
                    serving.run(&[stop, &over], self.options.drain)
                });
            if served.is_err() {
                // A daemon that answers some and not others helps nobody.
                over.store(true, Relaxed);
            }
            served
        };
        thread::scope(|scope| {
            let started: Vec<_> = self
                .others
                .iter()
                .map(|handle| {
                    let thread = thread::Builder::new().name("serve".into());
                    thread.spawn_scoped(scope, || serve(handle))
                })
                .collect();
            let mut tally = match started.iter().find_map(|it| it.as_ref().err()) {
                None => serve(&self.handle),
                Some(error) => {
                    over.store(true, Relaxed);
                    Err(TransferError::thread(error.kind().into()))
                }
            };
            for thread in started.into_iter().flatten() {
                let served = match thread.join() {
                    Ok(served) => served,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                tally = tally.and_then(|tally| Ok(tally.and(served?)));
            }
            tally
        })
    }
}

struct Serving<'a, E: Endpoint, O> {
    handle: &'a Handle<E>,
    path: &'a Path,
    shelf: Shelf,
    receiving: Receiving<'a, E, O>,
    /// Who asked for something that is being looked at.
    waiting: BTreeMap<Tag, Asked>,
    sessions: BTreeMap<Tag, Outgoing>,
    closing: bool,
}

/// What a peer asked for.
struct Asked {
    peer: SocketAddr,
    name: Vec<u8>,
    encrypted: bool,
    /// Whether it may be a bundle.
    bundle: bool,
}

/// What a peer is given.
struct Outgoing {
    name: String,
    peer: SocketAddr,
    content: Content,
    encrypted: bool,
    identity: Option<[u8; 32]>,
    /// Until it has shown that its address is its own.
    unproved: Option<Unproved>,
    /// Why this side ended it.
    fault: Option<TransferError>,
}

impl Outgoing {
    fn attempt(&self) -> Attempt {
        Attempt {
            side: Side::Serve,
            name: self.name.clone(),
            peer: self.peer,
            resumes: self.content.is_bundle(),
        }
    }
}

impl<E, O> Serving<'_, E, O>
where
    E: Endpoint<Command = Command, Event = Event>,
    O: FnMut(&Update),
{
    /// Serves until one of `stops` is set, and then until what began has ended, for `drain` at most.
    fn run(mut self, stops: &[&AtomicBool], drain: Duration) -> Result<Tally, TransferError> {
        while !stops.iter().any(|it| it.load(Relaxed)) {
            self.step(TICK)?;
        }
        self.drain(drain)?;
        Ok(self.receiving.tally)
    }

    /// Handles one event, if one comes within `patience`.
    fn step(&mut self, patience: Duration) -> Result<(), TransferError> {
        while let Some((name, found)) = self.shelf.settled() {
            self.settled(&name, found)?;
        }
        // What is awaited should not wait for an event.
        let patience = if self.shelf.is_busy() {
            patience.min(SHELF_TICK)
        } else {
            patience
        };
        let Some(event) = next_event(self.handle, patience)? else {
            return Ok(());
        };
        let Some(event) = self.receiving.take(event)? else {
            // What was taken can be asked for from now on.
            self.shelf.add(std::mem::take(&mut self.receiving.taken));
            return Ok(());
        };
        match event {
            Event::Asked {
                tag,
                from,
                name,
                encrypted,
                bundle,
            } => {
                let asked = Asked {
                    peer: from,
                    name,
                    encrypted,
                    bundle,
                };
                self.asked(tag, asked)
            }
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
                if let Some(outgoing) = self.sessions.get_mut(&tag) {
                    if snapshot.rtt.is_some() {
                        outgoing.unproved = None;
                    }
                    let update = Update::Progress {
                        name: outgoing.name.clone(),
                        peer: outgoing.peer,
                        snapshot: outgoing.content.figures(snapshot),
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
                self.waiting.remove(&tag);
                self.sessions.remove(&tag);
                Ok(())
            }
            Event::ListAsked { tag, first, .. } => {
                let (total, text) = self.shelf.page(first);
                self.command(Command::Listing { tag, total, text })
            }
            Event::Listing { .. }
            | Event::Offered { .. }
            | Event::Chunk { .. }
            | Event::Received { .. } => Ok(()),
        }
    }

    fn asked(&mut self, tag: Tag, asked: Asked) -> Result<(), TransferError> {
        if self.closing {
            return self.turn_down(tag, Reason::BUSY);
        }
        let (content, unproved) = match self.shelf.find(&asked.name, asked.bundle) {
            Found::Nothing => return self.turn_down(tag, Reason::NOT_FOUND),
            Found::Given(content, unproved) => (content, unproved),
            Found::Later => {
                self.waiting.insert(tag, asked);
                return Ok(());
            }
        };
        let grant = Command::Serve {
            tag,
            size: content.len(),
            hash: content.xxh64(),
            bundle: content.is_bundle(),
        };
        let outgoing = Outgoing {
            name: String::from_utf8_lossy(&asked.name).into_owned(),
            peer: asked.peer,
            content,
            encrypted: asked.encrypted,
            identity: None,
            unproved,
            fault: None,
        };
        self.sessions.insert(tag, outgoing);
        self.command(grant)
    }

    /// Something was looked at: whoever waits for it asks again, unless it is not to be had.
    fn settled(&mut self, name: &str, found: bool) -> Result<(), TransferError> {
        let waits = |it: &Asked| it.name == name.as_bytes();
        let tags = self.waiting.iter().filter(|(_, it)| waits(it));
        let tags: Vec<Tag> = tags.map(|(tag, _)| *tag).collect();
        for tag in tags {
            let Some(asked) = self.waiting.remove(&tag) else {
                continue;
            };
            if found {
                self.asked(tag, asked)?;
            } else {
                self.turn_down(tag, Reason::NOT_FOUND)?;
            }
        }
        Ok(())
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
        outgoing.unproved = None;
        let (name, peer) = (outgoing.name.clone(), outgoing.peer);
        let content = &outgoing.content;
        let update = match (result, outgoing.fault.take()) {
            (Ok(()), _) => {
                self.receiving.tally.served += content.files();
                Update::Finished {
                    direction: Direction::Out,
                    identity: outgoing.identity,
                    path: self.path.join(&name),
                    name,
                    peer,
                    snapshot: content.figures(snapshot),
                    resumed: content.resumed(),
                    files: content.files(),
                    hash: content.hash(),
                }
            }
            (Err(failure), fault) => {
                self.receiving.tally.failed += 1;
                let error =
                    fault.unwrap_or_else(|| TransferError::session(&outgoing.attempt(), failure));
                Update::Failed {
                    // A request from a forged address comes to nothing, and is nobody's failure.
                    began: snapshot.rtt.is_some(),
                    error,
                    name,
                    peer,
                    snapshot: content.figures(snapshot),
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
        for outgoing in self.sessions.values_mut() {
            let stopped = TransferError::stopped(&outgoing.attempt());
            outgoing.fault.get_or_insert(stopped);
        }
        let waiting = self.waiting.keys();
        let left: Vec<Tag> = self.sessions.keys().chain(waiting).copied().collect();
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

fn cannot_serve(path: &Path, error: io::Error) -> TransferError {
    TransferError::new(
        Kind::Failed,
        format!("cannot serve {}", path.display()),
        error,
        "name a directory that exists and that you may read",
    )
}

/// How soon it is noticed that something was looked at.
const SHELF_TICK: Duration = Duration::from_millis(5);
