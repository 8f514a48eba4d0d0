//! Files being received: [`Directory`] and [`Partial`], rule E11 step by step.
//!
//! private temporary file in the same directory → positioned writes → length → fsync, once → hash → rename that never
//! replaces → fsync of the directory. Whatever happens on the way, a file under its final name has exactly the bytes
//! that were promised. The directory is opened once and everything is resolved beneath it, one component at a time. It
//! does *not* overwrite, and does not sweep up temporary files of a process that was killed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::hash::FileHash;
use super::{NameError, name};

/// A directory that receives files.
#[derive(Clone, Debug)]
pub struct Directory {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    /// Permissions of a finished file.
    mode: Mode,
}

/// A file under construction. Dropped before [`finish`](Self::finish), it leaves nothing behind.
pub struct Partial {
    file: File,
    size: u64,
    name: String,
    directory: Directory,
    hash: FileHash,
    /// Its name in the directory, until it has its final one.
    temporary: Option<String>,
}

/// Why a file cannot be received.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The name is unusable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It is there already.
    #[error("a file of that name exists")]
    Exists,
    /// It cannot fit.
    #[error("the file has {size} bytes and the disk has room for {free}")]
    NoSpace {
        /// Bytes announced.
        size: u64,
        /// Bytes this user may still write.
        free: u64,
    },
    /// The file system.
    #[error("cannot create a file: {0}")]
    Storage(#[source] io::Error),
}

/// Why a received file did not get its name.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// Other bytes than promised.
    #[error("the file has hash {actual:016x} where {expected:016x} was promised")]
    HashMismatch {
        /// What the sender promised.
        expected: u64,
        /// What arrived.
        actual: u64,
    },
    /// Bytes that never were written.
    #[error("{missing} bytes never came")]
    Incomplete {
        /// How many.
        missing: u64,
    },
    /// Somebody else made a file of that name meanwhile.
    #[error("a file of that name exists")]
    Exists,
    /// The file system; final, whatever a second try would say.
    #[error("cannot store the file: {0}")]
    Storage(#[from] io::Error),
}

impl Directory {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// If there is none, or it is closed to this user.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            fd: Arc::new(fd),
            path: path.to_owned(),
            mode: Mode::from_raw_mode(0o666 & !umask()),
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself, beneath which everything is resolved.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Bytes this user may still write.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let space = rustix::fs::fstatvfs(&*self.fd)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// The base name in `raw`, if it is one that a stranger may choose here (HP-UDP 12.3).
    ///
    /// # Errors
    /// [`NameError`] with what is wrong with it.
    pub fn check_name(raw: &[u8]) -> Result<String, NameError> {
        name::check(raw)
    }

    /// Makes sure that files can be made here, by making one and removing it.
    ///
    /// # Errors
    /// Those of the file system: no permission, or mounted read-only.
    pub fn check_writable(&self) -> io::Result<()> {
        let (_, temporary) = self.temporary("probe")?;
        rustix::fs::unlinkat(&*self.fd, &temporary, AtFlags::empty()).map_err(io::Error::from)
    }

    /// Makes sure that a file called `name` of `size` bytes can begin, without making anything. Nothing is reserved:
    /// what is true now may no longer be at [`create`](Self::create), which asks again.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn check_room(&self, name: &str, size: u64) -> Result<(), CreateError> {
        name::check(name.as_bytes())?;
        match rustix::fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(CreateError::Exists),
            Err(error) => return Err(CreateError::Storage(error.into())),
        }
        let free = self.free().map_err(CreateError::Storage)?;
        if size > free {
            return Err(CreateError::NoSpace { size, free });
        }
        Ok(())
    }

    /// Begins a file that will be called `name` and have `size` bytes. Nothing is allocated for it; a size that cannot
    /// fit is refused now rather than at the last byte.
    ///
    /// # Errors
    /// [`CreateError`]; no trace is left.
    pub fn create(&self, name: &str, size: u64) -> Result<Partial, CreateError> {
        let name = name::check(name.as_bytes())?;
        self.check_room(&name, size)?;
        let (fd, temporary) = self.temporary(&name).map_err(CreateError::Storage)?;
        Ok(Partial {
            file: File::from(fd),
            size,
            name,
            directory: self.clone(),
            hash: FileHash::new(),
            temporary: Some(temporary),
        })
    }

    /// A private file under a hidden name that nobody can guess, and that name.
    fn temporary(&self, name: &str) -> io::Result<(OwnedFd, String)> {
        let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let temporary = name::temporary(name, random);
        // One component, never followed, never existing: there is nothing left for a resolve flag to forbid.
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*self.fd, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        // Says to whoever sweeps up that somebody is at it; where files cannot be locked, their age must do.
        let _ = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
        Ok((fd, temporary))
    }
}

impl Partial {
    /// The name it will have.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The size it will have, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes `bytes` at `offset`, in any order. Bytes below the hashed front stay what they are.
    ///
    /// # Errors
    /// Those of the file system, and [`io::ErrorKind::InvalidInput`] for bytes beyond the announced size. The file is
    /// then beyond hope.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "bytes beyond the announced size",
            ));
        }
        let settled = self.hash.front().saturating_sub(offset);
        let Some(bytes) = usize::try_from(settled)
            .ok()
            .and_then(|settled| bytes.get(settled..))
        else {
            return Ok(());
        };
        if bytes.is_empty() {
            return Ok(());
        }
        let offset = offset + settled;
        self.file.write_all_at(bytes, offset)?;
        self.hash.wrote(offset, bytes);
        self.hash.catch_up(&self.file, CATCH_UP)
    }

    /// Verifies the file, makes it durable and gives it its name. May take as long as the disk takes to write it.
    ///
    /// # Errors
    /// [`FinishError`]; no trace is left, except that a directory that fails to sync may keep the complete file.
    pub fn finish(mut self, expected: u64) -> Result<PathBuf, FinishError> {
        let actual = match self.hash.finish(&self.file, self.size)? {
            Ok(actual) => actual,
            Err(missing) => return Err(FinishError::Incomplete { missing }),
        };
        let size = self.file.metadata()?.len();
        if size != self.size {
            let complaint = format!(
                "it has {size} bytes on disk where {} were written",
                self.size
            );
            return Err(io::Error::other(complaint).into());
        }
        // The kernel reports a failed write-back once and then calls the pages clean; so does it end here.
        self.file.sync_all()?;
        if actual != expected {
            return Err(FinishError::HashMismatch { expected, actual });
        }
        rustix::fs::fchmod(&self.file, self.directory.mode).map_err(io::Error::from)?;
        self.publish()?;
        rustix::fs::fsync(&*self.directory.fd).map_err(io::Error::from)?;
        Ok(self.directory.path.join(&self.name))
    }

    /// Moves the file to its name, unless there is one.
    fn publish(&mut self) -> Result<(), FinishError> {
        let Some(temporary) = &self.temporary else {
            return Ok(());
        };
        let fd = &*self.directory.fd;
        match rustix::fs::renameat_with(fd, temporary, fd, &self.name, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.temporary = None;
                Ok(())
            }
            Err(Errno::EXIST) => Err(FinishError::Exists),
            // Not every file system can rename without replacing; all that lack it can link.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.link(temporary),
            Err(error) => Err(FinishError::Storage(error.into())),
        }
    }

    /// Gives the file its name beside the temporary one, which goes with `self`.
    fn link(&self, temporary: &str) -> Result<(), FinishError> {
        let fd = &*self.directory.fd;
        match rustix::fs::linkat(fd, temporary, fd, &self.name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(FinishError::Exists),
            Err(error) => Err(FinishError::Storage(error.into())),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary
            && let Err(error) =
                rustix::fs::unlinkat(&*self.directory.fd, temporary, AtFlags::empty())
        {
            tracing::warn!(%error, name = temporary, "an unfinished file stays behind");
        }
    }
}

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partial")
            .field("name", &self.name)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// The mask of this process. Asking the system call would set it, and every other thread would see that.
pub(crate) fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o022)
}

/// Bytes read back for hashing after one write: more than any one write brings, so that the front catches up, and
/// little enough that no write takes long.
const CATCH_UP: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use xxhash_rust::xxh64::xxh64;

    use super::*;

    proptest! {
        /// Whatever is written in whatever order, twice or contradicting itself, the hash is that of the bytes on disk.
        #[test]
        fn the_hash_is_that_of_the_disk(
            size in 1u64..4000,
            writes in prop::collection::vec((0u64..4000, 1usize..700, any::<u8>()), 0..40),
            seed in any::<u64>(),
        ) {
            let place = tempfile::tempdir().unwrap();
            let directory = Directory::open(place.path()).unwrap();
            let mut partial = directory.create("x", size).unwrap();
            for (offset, len, byte) in writes {
                let wrote = partial.write_at(offset, &vec![byte; len]);
                prop_assert_eq!(wrote.is_ok(), offset + len as u64 <= size);
            }
            // Then the gaps, in an order of their own.
            let step = 97;
            let mut parts: Vec<u64> = (0..size.div_ceil(step)).collect();
            parts.sort_by_key(|part| (part + 1).wrapping_mul(seed | 1));
            for part in parts {
                let len = step.min(size - part * step) as usize;
                partial.write_at(part * step, &vec![part as u8; len]).unwrap();
            }
            let mut disk = vec![0; size as usize];
            partial.file.read_exact_at(&mut disk, 0).unwrap();
            let path = partial.finish(xxh64(&disk, 0)).unwrap();
            prop_assert_eq!(std::fs::read(path).unwrap(), disk);
        }
    }

    #[test]
    fn linking_does_what_renaming_does() {
        // The path taken on file systems that cannot rename without replacing.
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        let mut first = directory.create("x", 1).unwrap();
        let second = directory.create("x", 1).unwrap();
        first.write_at(0, b"a").unwrap();
        first.link(first.temporary.as_deref().unwrap()).unwrap();
        let late = second.link(second.temporary.as_deref().unwrap());
        assert!(matches!(late, Err(FinishError::Exists)), "{late:?}");
        drop((first, second));
        assert_eq!(std::fs::read(place.path().join("x")).unwrap(), b"a");
        assert_eq!(
            std::fs::read_dir(place.path()).unwrap().count(),
            1,
            "the temporary names are gone"
        );
    }
}
