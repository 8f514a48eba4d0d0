//! What is to be sent: a walk through files and folders, [`Scan`], that ends in a [`Manifest`].
//!
//! A path that the user names is followed if it is a symbolic link; nothing below one is. Names are those that `scp -r`
//! and `rsync` give: `dir`, `dir/` and `/some/dir` are all sent as `dir/..`. What is neither a file nor a directory is
//! refused if the user names it; below what he names it is left out and said. Contents are *not* read, but for where
//! their holes are.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirEntryExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, SeekFrom};

use super::cache::Key;
use super::frame::{Head, Id};
use super::layout::Layout;
use super::manifest::{Builder, Kind, Manifest, ManifestError, Modified};
use crate::file::source::{Stamp, regular};
use crate::file::{SourceError, name};

/// What was found, to be read as one bundle any number of times.
#[derive(Debug)]
pub struct Scan {
    pub(super) manifest: Manifest,
    pub(super) layout: Layout,
    /// Of each entry, the state it was found in.
    pub(super) stamps: Vec<Stamp>,
    /// Where the entries without a directory are, by number.
    pub(super) roots: Vec<(usize, PathBuf)>,
    pub(super) skipped: Vec<Skipped>,
    /// Head and manifest as they go out.
    pub(super) prefix: Vec<u8>,
    pub(super) head: Head,
    pub(super) id: Id,
    /// What the content is known by.
    pub(super) key: Key,
}

/// Something that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is.
    pub path: PathBuf,
    /// What it is: `a symbolic link`, `a device`.
    pub what: &'static str,
}

/// A file that cannot be read, and why.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}", path = path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub error: SourceError,
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A file or directory that cannot be read, or has a name nobody else could store.
    #[error(transparent)]
    File(#[from] FileError),
    /// Two of the paths have one name at the receiver.
    #[error("two of the files would be called {0}")]
    Twice(String),
    /// A path that ends in no name, such as `/`.
    #[error("{path} has no name to send it under", path = .0.display())]
    NoName(PathBuf),
    /// A file that fits no bundle.
    #[error("{path}: {error}", path = path.display())]
    Manifest {
        /// The first that does not fit.
        path: PathBuf,
        /// Why not.
        #[source]
        error: ManifestError,
    },
    /// No path, or none of something that can be sent.
    #[error("there is nothing to send")]
    Nothing,
}

impl Scan {
    /// Walks through `paths`: files, and folders with all that is in them.
    ///
    /// # Errors
    /// [`ScanError`] at the first thing that cannot be sent.
    pub fn of(paths: &[PathBuf]) -> Result<Self, ScanError> {
        let mut walk = Walk::default();
        for (name, path) in named(paths)? {
            let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
            if !metadata.is_dir() {
                regular(&metadata).map_err(|error| FileError {
                    path: path.clone(),
                    error,
                })?;
            }
            walk.roots.push((walk.stamps.len(), path.clone()));
            let before = walk.stamps.len();
            walk.add(0, name, path, &metadata)?;
            if walk.stamps.len() == before {
                walk.roots.pop();
            }
        }
        let manifest = walk.builder.finish().map_err(|_| ScanError::Nothing)?;
        let encoded = manifest.encode();
        let head = Head {
            manifest: encoded.len() as u64,
            content: manifest.content_len(),
        };
        let mut prefix = head.encode().to_vec();
        prefix.extend_from_slice(&encoded);
        Ok(Self {
            layout: Layout::new(&manifest),
            key: key(&manifest, &walk.stamps, &walk.roots),
            id: Id::of(&prefix),
            prefix,
            head,
            manifest,
            stamps: walk.stamps,
            roots: walk.roots,
            skipped: walk.skipped,
        })
    }

    /// Where the entry is.
    pub(super) fn path(&self, entry: usize) -> PathBuf {
        let chain = self.manifest.chain(entry);
        let root = self
            .roots
            .binary_search_by_key(&chain[0], |(top, _)| *top)
            .expect("every entry hangs on a root");
        let mut path = self.roots[root].1.clone();
        for below in &chain[1..] {
            path.push(&*self.manifest.entries()[*below].name);
        }
        path
    }
}

/// Each path, and the name it is sent under.
fn named(paths: &[PathBuf]) -> Result<Vec<(OsString, &PathBuf)>, ScanError> {
    let mut named = Vec::new();
    for path in paths {
        let name = match path.file_name() {
            Some(name) => name.to_owned(),
            // `.` and `..` have a name elsewhere.
            None => fs::canonicalize(path)
                .map_err(|error| unreadable(path, error))?
                .file_name()
                .ok_or_else(|| ScanError::NoName(path.clone()))?
                .to_owned(),
        };
        named.push((name, path));
    }
    named.sort();
    if let Some(pair) = named.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(ScanError::Twice(pair[0].0.display().to_string()));
    }
    Ok(named)
}

/// What the content is known by.
fn key(manifest: &Manifest, stamps: &[Stamp], roots: &[(usize, PathBuf)]) -> Key {
    let mut key = Key::new("pieces");
    for (top, root) in roots {
        let root = fs::canonicalize(root).unwrap_or_else(|_| root.clone());
        key.add(root.as_os_str().as_encoded_bytes(), &stamps[*top]);
    }
    for (entry, stamp) in manifest.entries().iter().zip(stamps) {
        if let Kind::File { .. } = entry.kind {
            key.add(entry.name.as_bytes(), stamp);
        }
    }
    key
}

#[derive(Default)]
struct Walk {
    builder: Builder,
    stamps: Vec<Stamp>,
    roots: Vec<(usize, PathBuf)>,
    skipped: Vec<Skipped>,
}

impl Walk {
    fn add(
        &mut self,
        depth: usize,
        name: OsString,
        path: &Path,
        metadata: &Metadata,
    ) -> Result<(), ScanError> {
        let raw = name.as_encoded_bytes();
        let kind = metadata.file_type();
        let what = if kind.is_symlink() {
            Some("a symbolic link")
        } else if kind.is_fifo() {
            Some("a pipe")
        } else if kind.is_socket() {
            Some("a socket")
        } else if !kind.is_file() && !kind.is_dir() {
            Some("a device")
        } else if std::str::from_utf8(raw)
            .is_ok_and(|name| name::is_temporary(name) || name::bundle_id(name).is_some())
        {
            Some("a file under construction")
        } else {
            None
        };
        if let Some(what) = what {
            let path = path.to_owned();
            self.skipped.push(Skipped { path, what });
            return Ok(());
        }
        let wanted = if kind.is_dir() {
            Access::READ_OK | Access::EXEC_OK
        } else {
            Access::READ_OK
        };
        // What can be refused is refused before the first byte is sent.
        rustix::fs::accessat(CWD, path, wanted, AtFlags::EACCESS)
            .map_err(|error| unreadable(path, error.into()))?;
        let described = if kind.is_dir() {
            Kind::Directory
        } else {
            Kind::File {
                size: metadata.size(),
                data: data(path, metadata).map_err(|error| unreadable(path, error))?,
            }
        };
        let modified = Modified {
            seconds: metadata.mtime(),
            nanos: metadata.mtime_nsec() as u32,
        };
        let mode = (metadata.mode() & 0o777) as u16;
        self.builder
            .push(depth, raw, mode, modified, described)
            .map_err(|error| unfit(path, error))?;
        self.stamps.push(Stamp::of(metadata));
        if kind.is_dir() {
            self.below(depth + 1, path)?;
        }
        Ok(())
    }

    fn below(&mut self, depth: usize, directory: &Path) -> Result<(), ScanError> {
        let failed = |error| unreadable(directory, error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            entries.push((entry.file_name(), entry.ino(), entry));
        }
        // In the order of inodes, which is that of the disk.
        entries.sort_by_key(|(_, inode, _)| *inode);
        let mut described = Vec::with_capacity(entries.len());
        for (name, _, entry) in entries {
            let metadata = entry.metadata();
            let metadata = metadata.map_err(|error| unreadable(&entry.path(), error))?;
            described.push((name, metadata));
        }
        described.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, metadata) in described {
            let path = directory.join(&name);
            self.add(depth, name, &path, &metadata)?;
        }
        Ok(())
    }
}

fn unreadable(path: &Path, error: io::Error) -> ScanError {
    ScanError::File(FileError {
        path: path.to_owned(),
        error: SourceError::Open(error),
    })
}

fn unfit(path: &Path, error: ManifestError) -> ScanError {
    let path = path.to_owned();
    if let ManifestError::Name(error) = error {
        let error = SourceError::Name(error);
        return ScanError::File(FileError { path, error });
    }
    ScanError::Manifest { path, error }
}

/// Where the data of a file is, if it has holes worth the name (bundle 3.4).
fn data(path: &Path, metadata: &Metadata) -> io::Result<Option<Box<[Range<u64>]>>> {
    let size = metadata.size();
    if metadata.blocks() * 512 >= size {
        return Ok(None);
    }
    let file = File::open(path)?;
    let mut data: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(rustix::io::Errno::NXIO) => break,
            // A file system without holes has none.
            Err(rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        match data.last_mut() {
            Some(last) if start - last.end < HOLE_MIN => last.end = end,
            Some(_) => data.push(start..end),
            None if start < HOLE_MIN => data.push(0..end),
            None => data.push(start..end),
        }
        if data.len() > RANGES_MAX {
            return Ok(None);
        }
        at = end;
    }
    if let Some(last) = data.last_mut()
        && size - last.end < HOLE_MIN
    {
        last.end = size;
    }
    let sent: u64 = data.iter().map(|range| range.end - range.start).sum();
    Ok((sent < size).then(|| data.into()))
}

/// A shorter hole is sent as the zeros it reads as.
const HOLE_MIN: u64 = 64 << 10;
/// A file in more parts is sent whole.
const RANGES_MAX: usize = 1 << 16;
