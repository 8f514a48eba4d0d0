//! The sending end: [`BundleSource`] reads files and folders as one bundle.
//!
//! It is read from front to back, and where the receiver has something already, it is skipped. Each piece is hashed as
//! it passes; those that never passed are hashed when the trailer is wanted, from the cache or from the disk. One file
//! is open at a time, and checked against what the walk found when it is opened and when it is left. Nothing is locked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, Mode, OFlags};

use super::ahead::Ahead;
use super::cache::Cache;
use super::frame::{HEAD_LEN, Head, Id, TRAILER_LEN, Trailer};
use super::layout::Run;
use super::manifest::Manifest;
use super::pieces::{self, PieceHasher, Pieces, Value};
use super::scan::{FileError, Scan, ScanError, Skipped};
use crate::file::SourceError;
use crate::file::source::{Stamp, regular};

/// Files and folders, to be read as one bundle.
#[derive(Debug)]
pub struct BundleSource {
    files: Files,
    cache: Cache,
    /// Whether any content was read yet.
    begun: bool,
    /// Of pieces that passed, or passed at another time.
    values: BTreeMap<u64, Value>,
    /// The piece that passes now, and where in the content it continues.
    passing: Option<(PieceHasher, u64)>,
    /// Pieces that passed since the cache learned of any.
    unsaved: u32,
    trailer: Option<[u8; TRAILER_LEN]>,
}

/// How to look for files.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// Where hashes are kept.
    pub cache: Cache,
}

/// The files of a manifest, one of them open.
#[derive(Debug)]
struct Files {
    scan: Arc<Scan>,
    /// Which were opened, and so compared with their stamps.
    seen: Vec<bool>,
    open: Option<(usize, File)>,
    ahead: Option<Ahead>,
}

impl BundleSource {
    /// Walks through `paths`: files, and folders with all that is in them.
    ///
    /// # Errors
    /// [`ScanError`] at the first thing that cannot be sent; what is no file is left out (see
    /// [`skipped`](Self::skipped)).
    pub fn scan(paths: &[PathBuf], options: &ScanOptions) -> Result<Self, ScanError> {
        Ok(Self::of(Arc::new(Scan::of(paths)?), options))
    }

    /// Reads what was found before. Costs nothing until its content is wanted, so that whoever asks for much is not given
    /// work before he shows who he is.
    pub fn of(scan: Arc<Scan>, options: &ScanOptions) -> Self {
        Self {
            files: Files {
                scan,
                seen: Vec::new(),
                open: None,
                ahead: None,
            },
            cache: options.cache.clone(),
            begun: false,
            values: BTreeMap::new(),
            passing: None,
            unsaved: 0,
            trailer: None,
        }
    }

    /// Bytes of the whole bundle.
    #[allow(clippy::len_without_is_empty, reason = "no bundle is empty")]
    pub fn len(&self) -> u64 {
        self.head().len()
    }

    /// What the bundle is called, as long as nothing in it changes.
    pub fn id(&self) -> Id {
        self.files.scan.id
    }

    /// Its lengths.
    pub fn head(&self) -> &Head {
        &self.files.scan.head
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.files.scan.manifest
    }

    /// BLAKE3 of the content, once the trailer was read.
    pub fn blake3(&self) -> Option<Value> {
        self.trailer
            .as_ref()
            .map(|bytes| Trailer::parse(bytes).content)
    }

    /// What was found and is not sent.
    pub fn skipped(&self) -> &[Skipped] {
        &self.files.scan.skipped
    }

    /// Fills `buf` with the bytes of the bundle from `offset` on. Offsets ascend from call to call, with gaps where the
    /// receiver needs nothing. The trailer reads whatever was skipped and is not cached, which takes as long as it takes.
    ///
    /// # Errors
    /// [`FileError`] with the file that cannot be read, was shortened, or is no longer what it was.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn read_at(&mut self, mut offset: u64, mut buf: &mut [u8]) -> Result<(), FileError> {
        assert!(offset + buf.len() as u64 <= self.len(), "beyond the end");
        let head = *self.head();
        if !self.begun && offset + buf.len() as u64 > head.content_start() {
            self.begin();
        }
        while !buf.is_empty() {
            let end = if offset < head.content_start() {
                head.content_start()
            } else if offset < head.content_end() {
                head.content_end()
            } else {
                self.len()
            };
            let len = usize::try_from(end - offset).map_or(buf.len(), |len| len.min(buf.len()));
            let (part, rest) = buf.split_at_mut(len);
            if offset < head.content_start() {
                part.copy_from_slice(&self.files.scan.prefix[offset as usize..][..len]);
            } else if offset < head.content_end() {
                let at = offset - head.content_start();
                self.files.read(at, part)?;
                self.pass(at, part);
            } else {
                let at = (offset - head.content_end()) as usize;
                part.copy_from_slice(&self.trailer()?[at..][..len]);
            }
            (offset, buf) = (offset + len as u64, rest);
        }
        Ok(())
    }

    /// Gets ready to read content.
    fn begin(&mut self) {
        self.begun = true;
        self.values = self.cache.pieces(&self.files.scan.key);
        self.files.begin();
    }

    /// Hashes bytes of the content that go out.
    fn pass(&mut self, mut at: u64, mut bytes: &[u8]) {
        let content = self.head().content;
        while !bytes.is_empty() {
            let piece = at / pieces::PIECE;
            let whole = pieces::bytes_of(piece, content);
            let len = usize::try_from(whole.end - at).map_or(bytes.len(), |l| l.min(bytes.len()));
            let (part, rest) = bytes.split_at(len);
            let end = at + len as u64;
            let continued = self.passing.take().filter(|(_, next)| *next == at);
            let hasher = match continued {
                Some((hasher, _)) => Some(hasher),
                None if at == whole.start => Some(PieceHasher::new(piece, content)),
                // The beginning was skipped: the trailer will read it all.
                None => None,
            };
            if let Some(mut hasher) = hasher {
                hasher.update(part);
                if end == whole.end {
                    self.values.insert(piece, hasher.finish());
                    self.unsaved += 1;
                } else {
                    self.passing = Some((hasher, end));
                }
            }
            (at, bytes) = (end, rest);
        }
        if self.unsaved >= SAVE_EVERY {
            self.save();
        }
    }

    fn trailer(&mut self) -> Result<&[u8; TRAILER_LEN], FileError> {
        if self.trailer.is_none() {
            let content = self.content_hash()?;
            let manifest = *blake3::hash(&self.files.scan.prefix[HEAD_LEN..]).as_bytes();
            self.trailer = Some(Trailer { manifest, content }.encode());
            self.save();
        }
        Ok(self.trailer.as_ref().expect("made above"))
    }

    fn content_hash(&mut self) -> Result<Value, FileError> {
        let content = self.head().content;
        let mut pieces = Pieces::new(content);
        let mut buffer = Vec::new();
        for piece in 0..pieces.count() {
            let value = match self.values.get(&piece) {
                Some(value) => *value,
                None => {
                    let range = pieces::bytes_of(piece, content);
                    buffer.resize((range.end - range.start) as usize, 0);
                    self.files.read(range.start, &mut buffer)?;
                    let mut hasher = PieceHasher::new(piece, content);
                    hasher.update(&buffer);
                    self.unsaved += 1;
                    *self.values.entry(piece).or_insert_with(|| hasher.finish())
                }
            };
            pieces.complete(piece, value);
        }
        self.files.check_unseen()?;
        Ok(pieces.root().expect("every piece was completed"))
    }

    fn save(&mut self) {
        if self.unsaved > 0 {
            self.cache.keep_pieces(&self.files.scan.key, &self.values);
            self.unsaved = 0;
        }
    }
}

impl Drop for BundleSource {
    /// A session that ends early is the one whose hashes are wanted again.
    fn drop(&mut self) {
        if self.unsaved >= SAVE_AT_END {
            self.save();
        }
    }
}

impl Files {
    fn begin(&mut self) {
        self.seen = vec![false; self.scan.stamps.len()];
        self.ahead = Ahead::start(self.paths());
    }

    /// Fills `buf` with the bytes of the content from `at` on.
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<(), FileError> {
        let scan = Arc::clone(&self.scan);
        for run in scan.layout.runs(at..at + buf.len() as u64) {
            let Run {
                entry,
                at: offset,
                content,
                last,
            } = run;
            let bytes = &mut buf[(content.start - at) as usize..(content.end - at) as usize];
            if self.open.as_ref().is_none_or(|(open, _)| *open != entry) {
                self.leave()?;
                self.enter(entry)?;
            }
            let (_, file) = self.open.as_ref().expect("opened above");
            file.read_exact_at(bytes, offset).map_err(|error| {
                self.failed(
                    entry,
                    if error.kind() == io::ErrorKind::UnexpectedEof {
                        SourceError::Shortened
                    } else {
                        SourceError::Read(error)
                    },
                )
            })?;
            if last {
                self.leave()?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, entry: usize) -> Result<(), FileError> {
        let path = self.scan.path(entry);
        if let Some(ahead) = &self.ahead {
            ahead.reached(entry);
        }
        let file = open(&path, self.scan.manifest.entries()[entry].depth > 0);
        let (file, stamp) = file.map_err(|error| self.failed(entry, error))?;
        if !stamp.is(&self.scan.stamps[entry]) {
            return Err(self.failed(entry, SourceError::Changed));
        }
        if self.scan.stamps[entry].size > READ_AHEAD_MIN {
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        }
        self.seen[entry] = true;
        self.open = Some((entry, file));
        Ok(())
    }

    /// Closes the open file, if it is still what it was.
    fn leave(&mut self) -> Result<(), FileError> {
        match self.open.take() {
            Some((entry, file)) => self.check(entry, &file),
            None => Ok(()),
        }
    }

    fn check(&self, entry: usize, file: &File) -> Result<(), FileError> {
        let metadata = file.metadata();
        let metadata = metadata.map_err(|error| self.failed(entry, SourceError::Read(error)))?;
        if Stamp::of(&metadata).is(&self.scan.stamps[entry]) {
            Ok(())
        } else {
            Err(self.failed(entry, SourceError::Changed))
        }
    }

    /// Compares the files that were skipped from end to end.
    fn check_unseen(&mut self) -> Result<(), FileError> {
        self.leave()?;
        for entry in 0..self.scan.stamps.len() {
            let described = &self.scan.manifest.entries()[entry];
            if self.seen[entry] || described.kind == super::Kind::Directory {
                continue;
            }
            let path = self.scan.path(entry);
            let metadata = if described.depth == 0 {
                std::fs::metadata(&path)
            } else {
                std::fs::symlink_metadata(&path)
            };
            let metadata = metadata.map_err(|e| self.failed(entry, SourceError::Open(e)))?;
            if !Stamp::of(&metadata).is(&self.scan.stamps[entry]) {
                return Err(self.failed(entry, SourceError::Changed));
            }
        }
        Ok(())
    }

    /// Where the files with content are, by number.
    fn paths(&self) -> Vec<(usize, PathBuf)> {
        let small = |entry: &usize| {
            let size = self.scan.stamps[*entry].size;
            let file = self.scan.manifest.entries()[*entry].kind != super::Kind::Directory;
            file && size > 0 && size <= READ_AHEAD_MIN
        };
        let entries = (0..self.scan.stamps.len()).filter(small);
        entries
            .map(|entry| (entry, self.scan.path(entry)))
            .collect()
    }

    fn failed(&self, entry: usize, error: SourceError) -> FileError {
        let path = self.scan.path(entry);
        FileError { path, error }
    }
}

/// Opens a regular file; `below` a path that the user named, no link is followed.
fn open(path: &Path, below: bool) -> Result<(File, Stamp), SourceError> {
    // What is opened may be another thing by now; without waiting, a pipe cannot hang us.
    let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if below {
        flags |= OFlags::NOFOLLOW;
    }
    let fd = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(fd.map_err(|error| SourceError::Open(error.into()))?);
    let metadata = file.metadata().map_err(SourceError::Open)?;
    regular(&metadata)?;
    Ok((file, Stamp::of(&metadata)))
}

/// Files up to this size are read ahead by a thread of ours, larger ones by the kernel.
const READ_AHEAD_MIN: u64 = 256 << 10;
/// Pieces between two visits to the cache.
const SAVE_EVERY: u32 = 256;
/// Fewer are not worth a visit when the source goes.
const SAVE_AT_END: u32 = 4;
