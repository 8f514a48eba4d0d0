//! The content on its way to the disk: [`Storing`], from what is there already to what has its name.
//!
//! Pieces are hashed as their bytes arrive; one whose bytes come out of order is read back, while it is still in memory,
//! when it is whole. A bundle that a run before has committed is only moved (bundle 6.4). Who receives sees to it that
//! each byte comes once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use fulmar_proto::engine::RangeSet;
use rustix::fs::{Mode, Timespec, Timestamps, UTIME_OMIT};

use super::flush::{FEW, Flusher};
use super::frame::{Id, Trailer};
use super::layout::{Layout, Run};
use super::manifest::{Entry, Kind, Manifest};
use super::map::Map;
use super::pieces::{self, PieceHasher, Pieces, Value};
use super::sink::{Finished, SinkError};
use super::store::{Closed, Commit, Store, inode};
use crate::file::Directory;

/// A bundle whose manifest is known.
#[derive(Debug)]
pub(super) struct Storing {
    id: Id,
    manifest: Manifest,
    /// BLAKE3 of the manifest as it came.
    manifest_hash: Value,
    path: PathBuf,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// All is verified and durable already.
    Committed(Store, Commit),
    Open(Box<Open>),
    /// Moved out by [`Storing::finish`].
    Done,
}

#[derive(Debug)]
struct Open {
    // Before the store: its last sync is done when the directory is unlocked.
    flusher: Option<Flusher>,
    files: Files,
    layout: Layout,
    pieces: Pieces,
    /// Pieces of which some bytes are there.
    partial: BTreeMap<u64, Partial>,
}

/// A piece of which some bytes are there.
#[derive(Debug)]
struct Partial {
    missing: u64,
    /// Where in the content the hashed beginning ends.
    front: u64,
    /// Of the bytes before that, if there are any.
    hasher: Option<Box<PieceHasher>>,
}

/// The files of the bundle, some of them open.
#[derive(Debug)]
struct Files {
    store: Store,
    /// Those used last, at the end.
    open: Vec<(usize, Arc<File>)>,
    /// Which are there.
    made: Vec<bool>,
    /// Some may be there from an earlier run.
    resumed: bool,
}

impl Storing {
    /// Finds out whether the bundle can be stored and which ranges of its content are there.
    pub(super) fn begin(
        directory: &Directory,
        id: Id,
        manifest: Manifest,
        manifest_hash: Value,
    ) -> Result<(Self, Vec<Range<u64>>), SinkError> {
        let mut storing = Self {
            id,
            manifest,
            manifest_hash,
            path: directory.path().to_owned(),
            work: Work::Done,
        };
        // Whatever is in the way was there before us, unless an earlier run of ours has put it there.
        if !Store::exists(directory, id)? {
            storing.check_places(|top| Ok(inode(directory.fd(), top)?.is_none()))?;
            let free = directory.free()?;
            let size = storing.manifest.content_len();
            if size > free {
                return Err(SinkError::NoSpace { size, free });
            }
        }
        let mut store = match Store::open(directory, id) {
            Ok(store) => store,
            Err(Closed::Busy) => return Err(SinkError::Busy),
            Err(Closed::Failed(error)) => return Err(error.into()),
        };
        if let Some(commit) = store.committed(id)? {
            if storing.continues(&store, &commit)? {
                let all: RangeSet = std::iter::once(0..storing.manifest.content_len()).collect();
                storing.work = Work::Committed(store, commit);
                return Ok((storing, all.iter().collect()));
            }
            store.reset()?;
        }
        let free = storing.check_places(|top| Ok(store.inodes(top)?.1.is_none()));
        if let Err(error) = free {
            // What an earlier run has finished, all but for the removal of this.
            if store.is_bare()?
                && let Err(error) = store.remove()
            {
                tracing::warn!(%error, "the directory of a finished bundle stays behind");
            }
            return Err(error);
        }
        let (open, have) = Open::begin(store, id, &storing.manifest)?;
        let size =
            storing.manifest.content_len() - have.iter().map(|r| r.end - r.start).sum::<u64>();
        let free = directory.free()?;
        storing.work = Work::Open(Box::new(open));
        if size > free {
            return Err(SinkError::NoSpace { size, free });
        }
        Ok((storing, have))
    }

    pub(super) fn id(&self) -> Id {
        self.id
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Stores `bytes` at `at` of the content.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        match &mut self.work {
            Work::Open(open) => open.write(&self.manifest, at, bytes),
            Work::Committed(..) | Work::Done => Ok(()),
        }
    }

    /// All bytes are in: verifies them, makes them durable and gives them their names.
    pub(super) fn finish(mut self, trailer: &Trailer, mask: u32) -> Result<Finished, SinkError> {
        let promised =
            |root: Value| root == trailer.content && self.manifest_hash == trailer.manifest;
        let (store, commit) = match std::mem::replace(&mut self.work, Work::Done) {
            Work::Committed(store, commit) if promised(commit.root) => (store, commit),
            Work::Open(open) => {
                let root = open.pieces.root().filter(|root| promised(*root));
                let Some(root) = root else {
                    return Err(wrong(open.abandon()));
                };
                let store = open.settle(&self.manifest, mask)?;
                let mut inodes = Vec::new();
                for top in self.manifest.top() {
                    let name = &self.manifest.entries()[top].name;
                    let inode = store.inodes(name)?.0;
                    inodes.push(inode.ok_or_else(|| odd("a file is gone"))?);
                }
                let commit = Commit { root, inodes };
                store.commit(self.id, &commit)?;
                (store, commit)
            }
            Work::Committed(store, _) => return Err(wrong(store)),
            Work::Done => unreachable!("it is set when the bundle begins, and taken here"),
        };
        self.promote(store, &commit, mask)
    }

    /// Moves everything to its place.
    fn promote(self, store: Store, commit: &Commit, mask: u32) -> Result<Finished, SinkError> {
        let mut paths = Vec::new();
        for (top, inode) in self.manifest.top().zip(&commit.inodes) {
            let entry = &self.manifest.entries()[top];
            let path = self.path.join(&*entry.name);
            if store.inodes(&entry.name)?.0 == Some(*inode) && !store.promote(&entry.name)? {
                return Err(SinkError::Exists(path));
            }
            if entry.kind == Kind::Directory {
                // Not before: a directory that may not be written to may not be moved.
                let directory = store.promoted(&entry.name)?;
                describe(&directory, entry, mask)?;
                directory.sync_all()?;
            }
            paths.push(path);
        }
        store.settle()?;
        if let Err(error) = store.remove() {
            tracing::warn!(%error, "the directory of a finished bundle stays behind");
        }
        Ok(Finished {
            id: self.id,
            content: commit.root,
            manifest: self.manifest.clone(),
            paths,
        })
    }

    /// Whether everything that was committed is where we can find it.
    fn continues(&self, store: &Store, commit: &Commit) -> Result<bool, SinkError> {
        let tops: Vec<usize> = self.manifest.top().collect();
        if tops.len() != commit.inodes.len() {
            return Ok(false);
        }
        for (top, inode) in tops.into_iter().zip(&commit.inodes) {
            let name = &*self.manifest.entries()[top].name;
            match store.inodes(name)? {
                (Some(here), None) if here == *inode => {}
                (None, Some(there)) if there == *inode => {}
                (Some(here), Some(_)) if here == *inode => {
                    return Err(SinkError::Exists(self.path.join(name)));
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn check_places(&self, free: impl Fn(&str) -> io::Result<bool>) -> Result<(), SinkError> {
        for top in self.manifest.top() {
            let name = &*self.manifest.entries()[top].name;
            if !free(name)? {
                return Err(SinkError::Exists(self.path.join(name)));
            }
        }
        Ok(())
    }
}

impl Open {
    fn begin(
        mut store: Store,
        id: Id,
        manifest: &Manifest,
    ) -> Result<(Self, Vec<Range<u64>>), SinkError> {
        let layout = Layout::new(manifest);
        let count = pieces::count(layout.len());
        let found = Map::open(store.fd(), id, count)?.filter(|(_, known)| !known.is_empty());
        // First the directories: they may have modes that hide what is in them.
        let believed = found.filter(|(_, known)| {
            let there = make_directories(&store, manifest, false)
                .and_then(|()| present(&store, manifest, &layout, known));
            there.unwrap_or_else(|error| {
                tracing::debug!(%error, "what is there of a bundle cannot be used");
                false
            })
        });
        let resumed = believed.is_some();
        let (map, known) = match believed {
            Some(found) => found,
            None => {
                store.reset()?;
                make_directories(&store, manifest, true)?;
                let fresh = Map::open(store.fd(), id, count)?;
                fresh.ok_or_else(|| odd("a new map is not empty"))?
            }
        };
        let mut pieces = Pieces::new(layout.len());
        let mut have = RangeSet::new();
        for (piece, value) in &known {
            pieces.complete(*piece, *value);
            have.insert(pieces::bytes_of(*piece, layout.len()));
        }
        let flusher = Flusher::start(store.fd().clone(), map)?;
        let open = Self {
            flusher: Some(flusher),
            files: Files {
                store,
                open: Vec::new(),
                made: vec![false; manifest.entries().len()],
                resumed,
            },
            layout,
            pieces,
            partial: BTreeMap::new(),
        };
        Ok((open, have.iter().collect()))
    }

    fn write(&mut self, manifest: &Manifest, at: u64, bytes: &[u8]) -> io::Result<()> {
        let flusher = self.flusher.as_ref().expect("taken only at the end");
        for run in self.layout.runs(at..at + bytes.len() as u64) {
            let part = &bytes[(run.content.start - at) as usize..(run.content.end - at) as usize];
            let (file, made) = self.files.get(manifest, run.entry)?;
            file.write_all_at(part, run.at)?;
            flusher.wrote(run.entry, file, made)?;
        }
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let piece = at / pieces::PIECE;
            let whole = pieces::bytes_of(piece, self.layout.len());
            let len = usize::try_from(whole.end - at).map_or(bytes.len(), |l| l.min(bytes.len()));
            let (part, rest) = bytes.split_at(len);
            self.hash(manifest, piece, at, part)?;
            (at, bytes) = (at + len as u64, rest);
        }
        Ok(())
    }

    /// Takes note of bytes of one piece that are on the disk now.
    fn hash(&mut self, manifest: &Manifest, piece: u64, at: u64, part: &[u8]) -> io::Result<()> {
        let whole = pieces::bytes_of(piece, self.layout.len());
        let room = self.partial.len() < HASHERS_MAX;
        let partial = self.partial.entry(piece).or_insert_with(|| Partial {
            missing: whole.end - whole.start,
            front: whole.start,
            hasher: None,
        });
        partial.missing -= part.len() as u64;
        if at == partial.front && (room || partial.hasher.is_some() || partial.missing == 0) {
            let fresh = || Box::new(PieceHasher::new(piece, self.layout.len()));
            partial.hasher.get_or_insert_with(fresh).update(part);
            partial.front += part.len() as u64;
        }
        if partial.missing > 0 {
            return Ok(());
        }
        let partial = self.partial.remove(&piece).expect("just seen");
        let fresh = || Box::new(PieceHasher::new(piece, self.layout.len()));
        let mut hasher = partial.hasher.unwrap_or_else(fresh);
        if partial.front < whole.end {
            // Out of order: the rest is read back.
            let mut buffer = Vec::new();
            for run in self.layout.runs(partial.front..whole.end) {
                buffer.resize((run.content.end - run.content.start) as usize, 0);
                let (file, _) = self.files.get(manifest, run.entry)?;
                file.read_exact_at(&mut buffer, run.at)?;
                hasher.update(&buffer);
            }
        }
        let value = hasher.finish();
        self.pieces.complete(piece, value);
        let flusher = self.flusher.as_ref().expect("taken only at the end");
        flusher.complete(piece, value, whole.end - whole.start);
        Ok(())
    }

    /// Makes all of it durable, with times and permissions.
    fn settle(mut self: Box<Self>, manifest: &Manifest, mask: u32) -> Result<Store, SinkError> {
        if let Some(flusher) = self.flusher.take() {
            flusher.finish()?;
        }
        self.files.open.clear();
        let few = manifest.entries().len() <= FEW;
        // From the back: what is in a directory before the directory, whose time and permissions it would change.
        for (index, entry) in manifest.entries().iter().enumerate().rev() {
            let path = manifest.path(index);
            let file = match &entry.kind {
                Kind::Directory => self.files.store.entry(&path)?,
                Kind::File { size, .. } => {
                    let new = !self.files.made[index] && !self.files.resumed;
                    let file = self.files.store.file(&path, new)?;
                    let len = file.metadata()?.len();
                    if len > *size {
                        return Err(odd("a file is larger than it was written").into());
                    }
                    if len < *size {
                        // What ends in a hole, or is empty.
                        file.set_len(*size)?;
                    }
                    file
                }
            };
            if entry.depth > 0 || entry.kind != Kind::Directory {
                describe(&file, entry, mask)?;
            }
            if few {
                file.sync_all()?;
            }
        }
        if !few {
            rustix::fs::syncfs(&**self.files.store.fd()).map_err(io::Error::from)?;
        }
        Ok(self.files.store)
    }

    /// Gives up what came.
    fn abandon(mut self: Box<Self>) -> Store {
        if let Some(flusher) = self.flusher.take() {
            flusher.abandon();
        }
        self.files.store
    }
}

impl Files {
    /// The file `entry`, open; and whether it was opened for the first time.
    fn get(&mut self, manifest: &Manifest, entry: usize) -> io::Result<(&Arc<File>, bool)> {
        let known = self.open.iter().rposition(|(open, _)| *open == entry);
        let mut first = false;
        match known {
            Some(at) if at + 1 == self.open.len() => {}
            Some(at) => {
                let file = self.open.remove(at);
                self.open.push(file);
            }
            None => {
                if self.open.len() == OPEN_MAX {
                    self.open.remove(0);
                }
                first = !self.made[entry];
                let file = self
                    .store
                    .file(&manifest.path(entry), first && !self.resumed)?;
                self.made[entry] = true;
                self.open.push((entry, Arc::new(file)));
            }
        }
        let (_, file) = self.open.last().expect("put there above");
        Ok((file, first))
    }
}

impl Drop for Storing {
    /// Keeps what is durable; where nothing is, nothing stays.
    fn drop(&mut self) {
        if let Work::Open(mut open) = std::mem::replace(&mut self.work, Work::Done) {
            let recorded = open.flusher.take().is_some_and(Flusher::close);
            if !recorded
                && !open.files.resumed
                && let Err(error) = open.files.store.remove()
            {
                tracing::warn!(%error, "the directory of an unfinished bundle stays behind");
            }
        }
    }
}

/// Makes the directories of a bundle; if they are `new`, none may be there.
fn make_directories(store: &Store, manifest: &Manifest, new: bool) -> io::Result<()> {
    for (index, entry) in manifest.entries().iter().enumerate() {
        if entry.kind == Kind::Directory {
            store.directory(&manifest.path(index), new)?;
        }
    }
    Ok(())
}

/// Whether the files have what the map says.
fn present(
    store: &Store,
    manifest: &Manifest,
    layout: &Layout,
    known: &BTreeMap<u64, Value>,
) -> io::Result<bool> {
    let ranges: RangeSet = known
        .keys()
        .map(|piece| pieces::bytes_of(*piece, layout.len()))
        .collect();
    for range in ranges.iter() {
        for Run {
            entry, at, content, ..
        } in layout.runs(range)
        {
            let size = store.size(&manifest.path(entry))?;
            if size.is_none_or(|size| size < at + (content.end - content.start)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Sets permissions and the time of change.
fn describe(file: &File, entry: &Entry, mask: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(u32::from(entry.mode) & 0o777 & !mask);
    rustix::fs::fchmod(file, mode)?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: entry.modified.seconds,
            tv_nsec: entry.modified.nanos.into(),
        },
    };
    rustix::fs::futimens(file, &times)?;
    Ok(())
}

fn odd(complaint: &str) -> io::Error {
    io::Error::other(complaint.to_owned())
}

/// What came is wrong: the next try begins from zero.
fn wrong(store: Store) -> SinkError {
    if let Err(error) = store.remove() {
        return error.into();
    }
    SinkError::Integrity
}

/// Files open at a time.
const OPEN_MAX: usize = 32;
/// Pieces hashed at a time; a hasher has 2 KiB. What comes more scattered is read back.
const HASHERS_MAX: usize = 1024;
