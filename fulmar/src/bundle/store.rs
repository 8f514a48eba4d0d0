//! Where a bundle is put together: [`Store`], a private directory beside what it will be.
//!
//! ```text
//! .fulmar-<id>.part/  0700, locked by who works in it
//!     map             pieces that are durable (map.rs)
//!     tree/           files and directories under their own names
//!     commit          all is verified and durable: the root, and the inode of everything in tree/
//! ```
//!
//! What is complete moves from `tree/` to its place by one rename for each name at the top, however much is below. A
//! crash in between leaves `commit`, and whoever comes next goes on (bundle 6.4). Nothing here looks into a file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::frame::Id;
use super::map;
use super::pieces::Value;
use crate::file::{Directory, name};

/// The directory of one bundle, ours alone until it is dropped.
#[derive(Debug)]
pub(super) struct Store {
    directory: Directory,
    name: String,
    fd: Arc<OwnedFd>,
    tree: OwnedFd,
}

/// That all is verified and durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// BLAKE3 of the content.
    pub(super) root: Value,
    /// Of each name at the top.
    pub(super) inodes: Vec<u64>,
}

/// Why a directory is not ours to work in.
#[derive(Debug)]
pub(super) enum Closed {
    /// Somebody else works in it.
    Busy,
    Failed(io::Error),
}

impl Store {
    /// Whether there is one for `id`.
    pub(super) fn exists(directory: &Directory, id: Id) -> io::Result<bool> {
        let name = name::bundle(&id.to_string());
        Ok(inode(directory.fd(), &name)?.is_some())
    }

    /// Makes or opens the one for `id`.
    pub(super) fn open(directory: &Directory, id: Id) -> Result<Self, Closed> {
        let name = name::bundle(&id.to_string());
        let fd = loop {
            make(directory.fd(), &name)?;
            match claim(directory, &name)? {
                Some(fd) => break fd,
                // Removed while we waited for nothing: by whoever had it.
                None => continue,
            }
        };
        make(&fd, TREE)?;
        let tree = open_directory(&fd, TREE)?;
        Ok(Self {
            directory: directory.clone(),
            name,
            fd: Arc::new(fd),
            tree,
        })
    }

    pub(super) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Begins from zero.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        // First what would make the rest believed.
        remove(&self.fd, COMMIT)?;
        remove(&self.fd, map::NAME)?;
        rustix::fs::fsync(&*self.fd)?;
        clear(&self.fd, TREE)?;
        rustix::fs::mkdirat(&*self.fd, TREE, Mode::RWXU)?;
        self.tree = open_directory(&self.fd, TREE)?;
        Ok(())
    }

    /// Makes the directory `path`; unless it must be `new`, one that is there is made ours to write in.
    pub(super) fn directory(&self, path: &str, new: bool) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.tree, path, Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) if !new => {
                rustix::fs::chmodat(&self.tree, path, Mode::RWXU, AtFlags::empty())?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the file `path` for reading and writing; made if it is not there, and if it is `new`, it must not be.
    pub(super) fn file(&self, path: &str, new: bool) -> io::Result<File> {
        let mut flags = OFlags::RDWR | OFlags::CREATE;
        if new {
            flags |= OFlags::EXCL;
        }
        beneath(&self.tree, path, flags).map(File::from)
    }

    /// Opens a file or directory to say something about it.
    pub(super) fn entry(&self, path: &str) -> io::Result<File> {
        beneath(&self.tree, path, OFlags::RDONLY).map(File::from)
    }

    /// Bytes of the file `path`, holes included; `None` if there is no such file.
    pub(super) fn size(&self, path: &str) -> io::Result<Option<u64>> {
        match rustix::fs::statat(&self.tree, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(u64::try_from(stat.st_size).ok()),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The inode of a name at the top, here and in its place.
    pub(super) fn inodes(&self, top: &str) -> io::Result<(Option<u64>, Option<u64>)> {
        Ok((inode(&self.tree, top)?, inode(self.directory.fd(), top)?))
    }

    /// Whether it has no map, and so nothing worth keeping.
    pub(super) fn is_bare(&self) -> io::Result<bool> {
        Ok(inode(&self.fd, map::NAME)?.is_none())
    }

    /// What a run before this one has committed.
    pub(super) fn committed(&self, id: Id) -> io::Result<Option<Commit>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&*self.fd, COMMIT, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let len = file.metadata()?.len().min(COMMIT_MAX);
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Commit::parse(&bytes, id))
    }

    /// Says that everything in the tree is verified and durable.
    pub(super) fn commit(&self, id: Id, commit: &Commit) -> io::Result<()> {
        rustix::fs::fsync(&self.tree)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*self.fd, COMMIT, flags, Mode::RUSR | Mode::WUSR)?;
        let file = File::from(fd);
        file.write_all_at(&commit.encode(id), 0)?;
        file.sync_all()?;
        rustix::fs::fsync(&*self.fd)?;
        Ok(())
    }

    /// Moves a name at the top to its place. False if something is there.
    pub(super) fn promote(&self, top: &str) -> io::Result<bool> {
        let place = self.directory.fd();
        match rustix::fs::renameat_with(&self.tree, top, place, top, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.promote_slowly(top),
            Err(error) => Err(error.into()),
        }
    }

    /// For file systems that cannot rename without replacing.
    fn promote_slowly(&self, top: &str) -> io::Result<bool> {
        let place = self.directory.fd();
        let result = match rustix::fs::linkat(&self.tree, top, place, top, AtFlags::empty()) {
            Ok(()) => rustix::fs::unlinkat(&self.tree, top, AtFlags::empty()),
            // A directory has no links. Renamed, it replaces nothing but an empty directory.
            Err(Errno::PERM) if inode(place, top)?.is_none() => {
                rustix::fs::renameat(&self.tree, top, place, top)
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::PERM) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A directory at its place.
    pub(super) fn promoted(&self, top: &str) -> io::Result<File> {
        beneath(self.directory.fd(), top, OFlags::RDONLY | OFlags::DIRECTORY).map(File::from)
    }

    /// Makes the moves durable.
    pub(super) fn settle(&self) -> io::Result<()> {
        rustix::fs::fsync(self.directory.fd())?;
        Ok(())
    }

    /// Removes all of it. What is in its place stays.
    pub(super) fn remove(self) -> io::Result<()> {
        destroy(&self.directory, &self.fd, &self.name)
    }
}

impl Commit {
    fn encode(&self, id: Id) -> Vec<u8> {
        let mut bytes = b"FMC1".to_vec();
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&self.root);
        for inode in &self.inodes {
            bytes.extend_from_slice(&inode.to_be_bytes());
        }
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn parse(bytes: &[u8], id: Id) -> Option<Self> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        let rest = body.strip_prefix(b"FMC1")?.strip_prefix(&id.0)?;
        let (root, inodes) = rest.split_at_checked(32)?;
        let inode = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        let inodes = inodes.chunks(8).map(inode).collect::<Option<_>>()?;
        (crc32fast::hash(body).to_be_bytes() == sum).then_some(Self {
            root: root.try_into().ok()?,
            inodes,
        })
    }
}

impl From<io::Error> for Closed {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Locks the directory `name`; `None` if it is gone.
pub(super) fn claim(directory: &Directory, name: &str) -> Result<Option<OwnedFd>, Closed> {
    let fd = match open_directory(directory.fd(), name) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(Closed::Busy),
        Err(error) => return Err(Closed::Failed(error.into())),
    }
    let file = File::from(fd);
    let metadata = file.metadata()?;
    // In a directory that others write to, somebody may have put his own there.
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        let complaint = format!("{name} belongs to somebody else, or is open to others");
        return Err(Closed::Failed(io::Error::other(complaint)));
    }
    if inode(directory.fd(), name)? != Some(metadata.ino()) {
        return Ok(None);
    }
    Ok(Some(file.into()))
}

/// Removes the locked directory `name` with all that is in it.
pub(super) fn destroy(directory: &Directory, fd: &OwnedFd, name: &str) -> io::Result<()> {
    // The map vouches for the tree and goes first; the commit says that the tree is where it belongs and goes last.
    remove(fd, map::NAME)?;
    clear(fd, TREE)?;
    remove(fd, COMMIT)?;
    rustix::fs::unlinkat(directory.fd(), name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Makes a private directory, if it is not there.
fn make(at: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::mkdirat(at, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_directory(at: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Opens what is beneath a directory, through no link. A mode that forbids it was set by an earlier run.
fn beneath(at: &OwnedFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let open = || {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = if flags.contains(OFlags::CREATE) {
            Mode::RUSR | Mode::WUSR
        } else {
            Mode::empty()
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(at, path, flags, mode, resolve) {
            // Kernels before 5.6, and filters that do not know it: the directories above are ours alone.
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(at, path, flags, mode),
            other => other,
        }
    };
    match open() {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(at, path, Mode::RWXU, AtFlags::empty())?;
            Ok(open()?)
        }
        other => Ok(other?),
    }
}

/// The inode of what is called `name`, if anything is.
pub(super) fn inode(at: &OwnedFd, name: &str) -> io::Result<Option<u64>> {
    match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.st_ino)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn remove(at: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the directory `path` and everything in it, one open at a time.
fn clear(at: &OwnedFd, path: &str) -> io::Result<()> {
    let mut directories = vec![path.to_owned().into_bytes()];
    let mut next = 0;
    while let Some(directory) = directories.get(next).cloned() {
        next += 1;
        // It may have its final mode, without the permission to take anything out.
        match rustix::fs::chmodat(at, &directory[..], Mode::RWXU, AtFlags::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(at, &directory[..], flags, Mode::empty())?;
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = [&directory[..], b"/", name].concat();
            match rustix::fs::unlinkat(at, &path[..], AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => directories.push(path),
                other => other?,
            }
        }
    }
    for directory in directories.iter().rev() {
        rustix::fs::unlinkat(at, &directory[..], AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

const TREE: &str = "tree";
const COMMIT: &str = "commit";
/// More than one with as many names as a manifest may have.
const COMMIT_MAX: u64 = 8 * super::ENTRIES_MAX as u64 + 100;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: Id = Id([9; 32]);

    #[test]
    fn a_commit_is_read_as_written_and_nothing_else_is() {
        let commit = Commit {
            root: [5; 32],
            inodes: vec![1, u64::MAX],
        };
        let bytes = commit.encode(ID);
        assert_eq!(Commit::parse(&bytes, ID), Some(commit));
        assert_eq!(Commit::parse(&bytes, Id([8; 32])), None);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(Commit::parse(&bad, ID), None);
            assert_eq!(Commit::parse(&bytes[..at], ID), None);
        }
    }

    #[test]
    fn only_one_works_in_it_and_nothing_is_left() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        let store = Store::open(&directory, ID).unwrap();
        assert!(matches!(Store::open(&directory, ID), Err(Closed::Busy)));
        store.directory("a", true).unwrap();
        store.directory("a/b", true).unwrap();
        store.file("a/b/c", true).unwrap();
        assert!(store.file("a/b/c", true).is_err());
        assert!(store.file("../../x", false).is_err(), "out of the tree");
        store.remove().unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_somebody_else_left_open_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        let path = place.path().join(name::bundle(&ID.to_string()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        let refused = Store::open(&directory, ID);
        assert!(matches!(refused, Err(Closed::Failed(_))), "{refused:?}");
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        let refused = Store::open(&directory, ID);
        assert!(matches!(refused, Err(Closed::Failed(_))), "{refused:?}");
    }

    #[test]
    fn the_slow_way_replaces_nothing_either() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        let store = Store::open(&directory, ID).unwrap();
        store.directory("d", true).unwrap();
        store.file("d/f", true).unwrap();
        store.file("f", true).unwrap();
        assert!(store.promote_slowly("d").unwrap() && store.promote_slowly("f").unwrap());
        assert!(place.path().join("d/f").exists() && place.path().join("f").exists());
        store.directory("d", true).unwrap();
        store.file("f", true).unwrap();
        assert!(!store.promote_slowly("d").unwrap() && !store.promote_slowly("f").unwrap());
    }
}
