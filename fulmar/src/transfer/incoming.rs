//! One file on its way in, or many in a bundle: [`Incoming`], from its offer to its verdict.
//!
//! Nothing is made before bytes come: an offer costs its sender one packet. It does *not* know the endpoint, and does not
//! verify anything itself: that may take seconds, so it hands out the [`Work`] for a thread.

use std::net::SocketAddr;
use std::path::PathBuf;

use flume::{Receiver as Outcomes, Sender};
use fulmar_proto::hpudp::{Reason, Snapshot};

use super::error::{Attempt, Kind, Side, TransferError};
use super::storing::{Fault, uncreatable, unpackable, unstorable};
use super::{Hash, counted, of_content};
use crate::bundle::{self, BundleSink, Manifest, Ready, SinkError, SinkOptions};
use crate::file::{Directory, FinishError, Partial};

/// One accepted file, or what a bundle has.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The only name that what comes may have: that which was asked for.
    pub(super) wanted: Option<String>,
    pub(super) name: String,
    pub(super) from: SocketAddr,
    pub(super) identity: Option<[u8; 32]>,
    pub(super) encrypted: bool,
    /// Bytes on the wire.
    pub(super) size: u64,
    pub(super) bundle: bool,
    /// Of those, what is around the content of a bundle.
    around: u64,
    /// Of the content, what was here before.
    pub(super) resumed: u64,
    state: State,
    /// Why this side ended it.
    pub(super) fault: Option<TransferError>,
    /// It came to nothing before anything was stored, and that was said.
    pub(super) refused: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing came yet, and nothing is on the disk for it.
    Accepted,
    /// Bytes come in.
    Writing(Box<Partial>),
    /// Bytes of many files come in.
    Unpacking(Box<BundleSink>),
    /// Another thread verifies it.
    Finishing(Outcomes<Outcome>),
    /// Nothing more is done with it; the endpoint has yet to close it.
    Over,
}

/// What became of a file, or of many, at the end; or why not and what the peer is told.
pub(super) type Outcome = Result<Arrived, Fault>;

/// What is at its place, verified and durable.
#[derive(Debug)]
pub(super) struct Arrived {
    /// The file or folder, or the directory that several are in.
    pub(super) path: PathBuf,
    pub(super) hash: Hash,
    /// How many files.
    pub(super) files: u64,
    /// Their names and those of folders, without a folder around them.
    pub(super) names: Vec<String>,
}

/// What is left to do when every byte has come.
pub(super) type Work = Box<dyn FnOnce() -> Outcome + Send>;

impl Incoming {
    /// What was offered under `name` and accepted: `size` bytes, maybe of a bundle.
    pub(super) fn new(name: String, from: SocketAddr, size: u64, bundle: bool) -> Self {
        Self {
            wanted: None,
            name,
            from,
            identity: None,
            encrypted: false,
            size,
            bundle,
            around: 0,
            resumed: 0,
            state: State::Accepted,
            fault: None,
            refused: false,
        }
    }

    /// What fails if it fails.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt {
            side: if self.wanted.is_some() {
                Side::Get
            } else {
                Side::Receive
            },
            name: self.name.clone(),
            peer: self.from,
            resumes: self.bundle,
        }
    }

    /// Whether its name and size are known: those of a bundle come with its first bytes.
    pub(super) fn is_named(&self) -> bool {
        !self.bundle || self.around > 0
    }

    /// Bytes of the content.
    pub(super) fn content(&self) -> u64 {
        self.size - self.around
    }

    /// The figures of the content alone.
    pub(super) fn figures(&self, snapshot: Snapshot) -> Snapshot {
        of_content(snapshot, self.around)
    }

    /// Bytes that are with us and not with the disk: those that wait for a bundle's list of files.
    pub(super) fn held(&self) -> u64 {
        match &self.state {
            State::Unpacking(sink) => sink.held(),
            State::Accepted | State::Writing(_) | State::Finishing(_) | State::Over => 0,
        }
    }

    /// Whether a thread is at it.
    pub(super) fn is_finishing(&self) -> bool {
        matches!(self.state, State::Finishing(_))
    }

    /// Whether bytes of it are still to come.
    pub(super) fn is_under_way(&self) -> bool {
        match self.state {
            State::Accepted | State::Writing(_) | State::Unpacking(_) => true,
            State::Finishing(_) | State::Over => false,
        }
    }

    /// Stores bytes. When they complete the list of files of a bundle, what need not come.
    pub(super) fn write(
        &mut self,
        directory: &Directory,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Option<Ready>, Fault> {
        self.begin(directory)?;
        let attempt = self.attempt();
        match &mut self.state {
            State::Writing(partial) => {
                let written = partial.write_at(offset, bytes);
                written.map_err(|error| unstorable(&attempt, FinishError::Storage(error)))?;
                Ok(None)
            }
            State::Unpacking(sink) => {
                let ready = sink.write(offset, bytes).map_err(|error| {
                    if let SinkError::Exists(path) = &error
                        && let Some(name) = path.file_name()
                    {
                        self.name = name.to_string_lossy().into_owned();
                    }
                    // What cannot be stored is an offer that is not taken; a disk that fails is a failure.
                    self.refused = self.around == 0
                        && self.wanted.is_none()
                        && !matches!(error, SinkError::Storage(_));
                    let name = self.name.clone();
                    unpackable(&Attempt { name, ..attempt }, error)
                });
                let ready = ready?;
                if let (Some(_), Some(manifest)) = (&ready, sink.manifest()) {
                    self.around = self.size - manifest.content_len();
                    check_wanted(&attempt, manifest, self.wanted.as_deref())?;
                    self.name = title(manifest);
                }
                if let Some(ready) = &ready {
                    self.resumed = ready.have.iter().map(|it| it.end - it.start).sum();
                }
                Ok(ready)
            }
            State::Accepted | State::Finishing(_) | State::Over => Ok(None),
        }
    }

    /// Makes the file, if there is none yet.
    fn begin(&mut self, directory: &Directory) -> Result<(), Fault> {
        if !matches!(self.state, State::Accepted) {
            return Ok(());
        }
        self.state = if self.bundle {
            let sink = BundleSink::new(directory, self.size, &SinkOptions::default());
            let sink = sink.map_err(|error| unpackable(&self.attempt(), error))?;
            State::Unpacking(Box::new(sink))
        } else {
            let partial = directory.create(&self.name, self.size);
            let partial = partial.map_err(|error| uncreatable(&self.attempt(), error))?;
            State::Writing(Box::new(partial))
        };
        Ok(())
    }

    /// Every byte has come: what is left to do, and where to tell how it went. A file by itself must have `hash`.
    pub(super) fn finish(
        &mut self,
        directory: &Directory,
        hash: u64,
    ) -> Result<Option<(Work, Sender<Outcome>)>, Fault> {
        // An empty file has brought no bytes.
        self.begin(directory)?;
        let attempt = self.attempt();
        let (told, outcome) = flume::bounded(1);
        let work: Work = match std::mem::replace(&mut self.state, State::Finishing(outcome)) {
            State::Writing(partial) => Box::new(move || {
                let name = partial.name().to_owned();
                let path = partial.finish(hash);
                let path = path.map_err(|error| unstorable(&attempt, error))?;
                Ok(Arrived {
                    path,
                    hash: Hash::Xxh64(hash),
                    files: 1,
                    names: vec![name],
                })
            }),
            State::Unpacking(sink) => {
                let place = directory.path().to_owned();
                Box::new(move || {
                    let finished = sink.finish();
                    let finished = finished.map_err(|error| unpackable(&attempt, error))?;
                    let mut paths = finished.paths;
                    let (first, several) = (paths.pop(), !paths.is_empty());
                    Ok(Arrived {
                        path: first.filter(|_| !several).unwrap_or(place),
                        hash: Hash::Blake3(finished.content),
                        files: counted(&finished.manifest),
                        names: tops(&finished.manifest).map(str::to_owned).collect(),
                    })
                })
            }
            State::Accepted | State::Finishing(_) | State::Over => {
                self.state = State::Over;
                return Ok(None);
            }
        };
        Ok(Some((work, told)))
    }

    /// Ends it, before anybody heard of it.
    pub(super) fn refuse(&mut self) {
        self.state = State::Over;
        self.refused = true;
    }

    /// Ends it, because of `fault`.
    pub(super) fn fail(&mut self, fault: TransferError) {
        self.state = State::Over;
        self.fault = Some(fault);
    }

    /// Ends it; what its thread says of it. It may be complete although the peer is gone: the thread knows, or will in
    /// a moment.
    pub(super) fn end(&mut self) -> Option<Outcome> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Finishing(outcome) => outcome.recv().ok(),
            State::Accepted | State::Writing(_) | State::Unpacking(_) | State::Over => None,
        }
    }
}

/// Whether all that a bundle holds is what was asked for, if anything was.
fn check_wanted(attempt: &Attempt, manifest: &Manifest, wanted: Option<&str>) -> Result<(), Fault> {
    if wanted.is_none_or(|wanted| tops(manifest).all(|name| name == wanted)) {
        return Ok(());
    }
    let because = "the peer sends other files than were asked for";
    let advice = "somebody else may answer there; demand a proof";
    let error = TransferError::new(Kind::Integrity, attempt.to_string(), because, advice);
    Err((Reason::DISCONNECT, error))
}

/// What a person calls what is in a bundle.
pub(super) fn title(manifest: &Manifest) -> String {
    let mut names = tops(manifest);
    match (names.next(), names.count()) {
        (Some(one), 0) => one.to_owned(),
        (_, more) => format!("{} items", more + 1),
    }
}

/// Names of files and folders that have none around them.
fn tops(manifest: &Manifest) -> impl Iterator<Item = &str> {
    let entries: &[bundle::Entry] = manifest.entries();
    manifest.top().map(|at| &*entries[at].name)
}
