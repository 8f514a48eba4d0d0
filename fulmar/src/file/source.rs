//! The file being sent: [`Source`].
//!
//! Regular files only, read by position, never mapped (a file that shrinks under a mapping kills the process). A file
//! that changes while it is being sent ends the transfer with its reason; missing bytes are never made up. It does
//! *not* lock the file, and does not read ahead: the kernel does.

use std::fs::{File, FileType, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread;

use rustix::fs::{Advice, Mode, OFlags};
use xxhash_rust::xxh64::Xxh64;

use super::{NameError, STEP, name};

/// A regular file, opened for sending.
#[derive(Debug)]
pub struct Source {
    file: File,
    name: String,
    stamp: Stamp,
}

/// What tells one content of a file from another, short of reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
    /// When anything about it changed last; nobody can set it back.
    pub(crate) changed: (i64, i64),
}

/// Why a file cannot be sent, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No such file, no permission.
    #[error("cannot open the file: {0}")]
    Open(#[source] io::Error),
    /// Only regular files have a size and a content to verify.
    #[error("it is {0}, and only regular files can be sent")]
    NotAFile(&'static str),
    /// The receiver could not store it under this name.
    #[error("it cannot be sent under its name: {0}")]
    Name(#[source] NameError),
    /// Its name is more than a base name elsewhere.
    #[error("its name has a backslash, which other systems take for a directory")]
    Backslash,
    /// Size or modification time differ from when it was opened.
    #[error("the file was changed while it was read")]
    Changed,
    /// It ended early: somebody shortened it.
    #[error("the file ended at a byte it had before: it was shortened while it was read")]
    Shortened,
    /// The disk.
    #[error("cannot read the file: {0}")]
    Read(#[source] io::Error),
    /// The caller gave up.
    #[error("stopped by the user")]
    Stopped,
}

impl Source {
    /// Opens the regular file at `path`, following symbolic links.
    ///
    /// # Errors
    /// [`SourceError`] if there is none, it is something else, or its name is unusable (HP-UDP 12.3).
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        // Opening a device or a pipe has effects of its own (a tape rewinds, a writer wakes up): look first.
        let before = std::fs::metadata(path).map_err(SourceError::Open)?;
        regular(&before)?;
        // What is opened may be another thing by now; without waiting, a pipe cannot hang us.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| SourceError::Open(error.into()))?;
        let file = File::from(fd);
        let metadata = file.metadata().map_err(SourceError::Open)?;
        regular(&metadata)?;

        let raw = path.file_name().unwrap_or_default().as_encoded_bytes();
        if raw.contains(&b'\\') {
            return Err(SourceError::Backslash);
        }
        let name = name::check(raw).map_err(SourceError::Name)?;
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self {
            file,
            name,
            stamp: Stamp::of(&metadata),
        })
    }

    /// Its base name, fit for a peer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes it had when it was opened.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// Reads all of it and returns its xxHash64, seed 0 (HP-UDP 3.2). `progress` learns how many bytes are done and
    /// may break it off.
    ///
    /// # Errors
    /// [`SourceError`] if it cannot be read, changed meanwhile, or `progress` broke it off.
    pub fn hash(
        &self,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64, SourceError> {
        let mut state = Xxh64::new(0);
        // One thread reads while this one hashes: either costs about as much, and nothing can be sent before the end.
        let (full, filled) = flume::bounded::<Result<(Vec<u8>, usize), SourceError>>(2);
        let (empty, emptied) = flume::bounded(3);
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut at = 0;
                while at < self.size() {
                    let len = STEP.min(usize::try_from(self.size() - at).unwrap_or(STEP));
                    let mut buffer: Vec<u8> = emptied.try_recv().unwrap_or_default();
                    buffer.resize(STEP, 0);
                    let read = self.read_at(at, &mut buffer[..len]);
                    let failed = read.is_err();
                    if full.send(read.map(|()| (buffer, len))).is_err() || failed {
                        return;
                    }
                    at += len as u64;
                }
            });
            let mut done = 0;
            for read in filled {
                let (buffer, len) = read?;
                state.update(&buffer[..len]);
                done += len as u64;
                // Full only if the reader has gone; it then needs no buffer.
                let _ = empty.try_send(buffer);
                if progress(done).is_break() {
                    return Err(SourceError::Stopped);
                }
            }
            Ok(())
        })?;
        self.unchanged()?;
        Ok(state.digest())
    }

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`SourceError::Shortened`] if the file has fewer, [`SourceError::Read`] if the disk fails.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        self.file.read_exact_at(buf, offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                SourceError::Shortened
            } else {
                SourceError::Read(error)
            }
        })
    }

    /// Whether size and modification time are those of when it was opened.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if not.
    pub fn unchanged(&self) -> Result<(), SourceError> {
        let now = Stamp::of(&self.file.metadata().map_err(SourceError::Read)?);
        if now.is(&self.stamp) {
            Ok(())
        } else {
            Err(SourceError::Changed)
        }
    }

    /// What it was when it was opened.
    pub(crate) fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether both are of one file with one content. A new name or new permissions make no difference.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let Self {
            device,
            inode,
            size,
            modified,
            changed: _,
        } = *self;
        (device, inode, size, modified) == (other.device, other.inode, other.size, other.modified)
    }
}

/// Whether it is a regular file.
pub(crate) fn regular(metadata: &Metadata) -> Result<(), SourceError> {
    let kind: FileType = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    Err(SourceError::NotAFile(if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }))
}
