//! The receiving half of whoever has sessions: [`Receiving`].
//!
//! The calling thread writes; everything finished is verified and made durable on a thread of its own, because a disk may
//! take seconds for that and other transfers should not wait. What one session receives, and where that stands, is
//! `incoming.rs`. It does *not* bind, or know what else its endpoint does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fulmar_proto::Endpoint;
use fulmar_proto::hpudp::{Command, Event, Failure, Phase, Reason, Snapshot, Tag, Via};

use super::error::{Attempt, Side};
use super::incoming::{Arrived, Incoming};
use super::recv::next_event;
use super::storing::{admit, unstorable};
use super::{Direction, Kind, TICK, Tally, TransferError, Update};
use crate::driver::Handle;
use crate::file::{Directory, FinishError};

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
                // What is over was told.
                if incoming.is_named() && snapshot.phase != Phase::Lingering {
                    (self.observer)(&Update::Progress {
                        name: incoming.name.clone(),
                        peer: incoming.from,
                        snapshot: incoming.figures(snapshot),
                    });
                }
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
                let wanted = self.accepts.wanted.get(&tag).cloned();
                // Its true name comes with its first bytes.
                let name = if bundle { UNNAMED.to_owned() } else { name };
                let mut incoming = Incoming::new(name, from, size, bundle);
                incoming.wanted = wanted;
                incoming.identity = identity;
                incoming.encrypted = encrypted;
                if incoming.is_named() {
                    self.connected(&incoming);
                }
                self.sessions.insert(tag, incoming);
                self.command(Command::Accept { tag })
            }
            Err((reason, because)) => {
                if via == Via::Pull {
                    self.tally.refused += 1;
                    // This side asked for it, and cannot take it.
                    let attempt = Attempt {
                        side: Side::Get,
                        name: self.accepts.wanted.get(&tag).cloned().unwrap_or_default(),
                        peer: from,
                        resumes: false,
                    };
                    let advice = "fetch it into another directory, or remove what is in its way";
                    let what = attempt.to_string();
                    self.last = Some(Err(TransferError::new(Kind::Failed, what, because, advice)));
                } else {
                    let name = if bundle {
                        UNNAMED.to_owned()
                    } else {
                        raw.escape_ascii().to_string()
                    };
                    self.refused(&name, from, reason, because);
                }
                self.command(Command::Abort { tag, reason })
            }
        }
    }

    fn refused(&mut self, name: &str, peer: SocketAddr, reason: Reason, because: String) {
        self.tally.refused += 1;
        (self.observer)(&Update::Refused {
            name: name.to_owned(),
            peer,
            reason,
            because,
        });
    }

    fn connected(&mut self, incoming: &Incoming) {
        (self.observer)(&Update::Connected {
            direction: Direction::In,
            identity: incoming.identity,
            name: incoming.name.clone(),
            peer: incoming.from,
            size: incoming.content(),
            encrypted: incoming.encrypted,
        });
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
        // Whatever becomes of them, the bytes are no longer in memory; but for those that wait for a bundle's list.
        let mut stored = bytes.len();
        if let Some(mut incoming) = self.sessions.remove(&tag) {
            let held = incoming.held();
            let written = incoming.write(self.directory, offset, &bytes);
            let told = match written {
                Ok(None) => Ok(()),
                Ok(Some(ready)) => {
                    self.connected(&incoming);
                    self.resume(tag, &incoming, ready.have)
                }
                Err((reason, fault)) => {
                    if incoming.refused {
                        // What a bundle has, and whether that can be stored, its first bytes tell: it was still an offer.
                        incoming.refuse();
                        self.refused(&incoming.name, incoming.from, reason, fault.because());
                    } else {
                        incoming.fail(fault);
                    }
                    self.command(Command::Abort { tag, reason })
                }
            };
            stored = (stored as u64 + held).saturating_sub(incoming.held()) as usize;
            self.sessions.insert(tag, incoming);
            told?;
        }
        self.command(Command::Stored {
            tag,
            len: stored,
            buffer: bytes,
        })
    }

    /// Tells the peer what need not come.
    fn resume(
        &mut self,
        tag: Tag,
        incoming: &Incoming,
        ranges: Vec<Range<u64>>,
    ) -> Result<(), TransferError> {
        if incoming.resumed == 0 {
            return Ok(());
        }
        (self.observer)(&Update::Resumed {
            peer: incoming.from,
            bytes: incoming.resumed,
        });
        self.command(Command::Have { tag, ranges })
    }

    /// Verifies what is complete on a thread of its own, which also answers the endpoint.
    fn received(&mut self, tag: Tag, hash: u64) -> Result<(), TransferError> {
        let Some(incoming) = self.sessions.get_mut(&tag) else {
            return Ok(());
        };
        let (work, told) = match incoming.finish(self.directory, hash) {
            Ok(Some(work)) => work,
            Ok(None) => return Ok(()),
            Err((reason, fault)) => return self.give_up(tag, reason, fault),
        };
        let attempt = incoming.attempt();
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
            let (reason, fault) = unstorable(&attempt, FinishError::Storage(error));
            self.give_up(tag, reason, fault)?;
        }
        Ok(())
    }

    fn finished(&mut self, tag: Tag, snapshot: Snapshot, result: Result<(), Failure>) {
        // An offer that was refused ends here too, and was reported.
        let Some(incoming) = self.sessions.get_mut(&tag) else {
            return;
        };
        if incoming.refused {
            return;
        }
        let verdict = incoming.end();
        let fault = incoming.fault.take();
        let began = fault.is_some() || verdict.is_some() || snapshot.data + snapshot.parities > 0;
        let snapshot = incoming.figures(snapshot);
        let error = match (verdict, fault, result) {
            (Some(Ok(arrived)), _, _) => {
                let (resumed, identity) = (incoming.resumed, incoming.identity);
                let (name, peer) = (incoming.name.clone(), incoming.from);
                return self.arrived(name, peer, identity, snapshot, resumed, arrived);
            }
            (Some(Err((_, error))), _, _) => error,
            (None, Some(fault), _) => fault,
            (None, None, Err(failure)) => TransferError::session(&incoming.attempt(), failure),
            (None, None, Ok(())) => return,
        };
        self.tally.failed += 1;
        if self.accepts.wanted.contains_key(&tag) {
            // Whoever asked for it reports it.
            self.last = Some(Err(error));
            return;
        }
        let update = Update::Failed {
            name: incoming.name.clone(),
            peer: incoming.from,
            snapshot,
            began,
            error,
        };
        (self.observer)(&update);
        if began && let Update::Failed { error, .. } = update {
            self.last = Some(Err(error));
        }
    }

    fn arrived(
        &mut self,
        name: String,
        peer: SocketAddr,
        identity: Option<[u8; 32]>,
        snapshot: Snapshot,
        resumed: u64,
        arrived: Arrived,
    ) {
        let Arrived {
            path,
            hash,
            files,
            names,
        } = arrived;
        self.tally.files += files;
        self.tally.bytes += snapshot.size;
        self.taken.extend(names);
        self.last = Some(Ok(()));
        (self.observer)(&Update::Finished {
            direction: Direction::In,
            identity,
            name,
            peer,
            snapshot,
            resumed,
            files,
            hash,
            path,
        });
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
            let Some(incoming) = self.sessions.get_mut(&tag) else {
                continue;
            };
            if !incoming.is_under_way() {
                continue;
            }
            if incoming.is_named() {
                incoming.fail(TransferError::stopped(&incoming.attempt()));
            } else {
                // Nobody heard of it yet.
                incoming.refuse();
            }
            let reason = Reason::DISCONNECT;
            self.command(Command::Abort { tag, reason })?;
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
            incoming.fail(fault);
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
            let verifying = self.sessions.values().any(Incoming::is_finishing);
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

/// What a bundle is called before it is known what is in it.
const UNNAMED: &str = "files";
