//! Hashes of files that were read before: [`Cache`].
//!
//! One small file for each hash in the user's cache directory, private, named by what tells the content from any other
//! short of reading it: path, device, inode, size, and both times of change. What is damaged, unreadable or foreign is
//! as good as absent, and what cannot be written is not kept; it is only a cache. A file changed within the last two
//! seconds is *not* remembered, because another change may leave the same times.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::pieces::Value;
use crate::file::source::Stamp;
use crate::file::{Source, SourceError};

/// Where hashes are kept, if anywhere.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    directory: Option<PathBuf>,
}

/// The name of a hash: what it is of, and in which state that was.
#[derive(Debug)]
pub(super) struct Key {
    hasher: blake3::Hasher,
    settled: bool,
    now: SystemTime,
}

impl Cache {
    /// Keeps nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Keeps hashes in `directory`, which is made when it is needed.
    pub fn at(directory: PathBuf) -> Self {
        Self {
            directory: Some(directory),
        }
    }

    /// `$XDG_CACHE_HOME/fulmar`, else `~/.cache/fulmar`, else none.
    pub fn of_user() -> Self {
        let absolute = |name| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Self {
            directory: base.map(|base| base.join("fulmar")),
        }
    }

    /// The xxHash64 of `source`, opened at `path`: what [`Source::hash`] says, without reading if it is known.
    ///
    /// # Errors
    /// Those of [`Source::hash`].
    pub fn xxh64(
        &self,
        path: &Path,
        source: &Source,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64, SourceError> {
        if source.size() < WORTH_IT || self.directory.is_none() {
            return source.hash(progress);
        }
        let mut key = Key::new("xxh64");
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        key.add(path.as_os_str().as_encoded_bytes(), source.stamp());
        if let Some(hash) = self.load(&key)
            && let Ok(hash) = hash.try_into()
        {
            source.unchanged()?;
            if progress(source.size()).is_break() {
                return Err(SourceError::Stopped);
            }
            return Ok(u64::from_be_bytes(hash));
        }
        let hash = source.hash(progress)?;
        self.store(&key, &hash.to_be_bytes());
        Ok(hash)
    }

    /// The known values of the pieces of a content.
    pub(super) fn pieces(&self, key: &Key) -> BTreeMap<u64, Value> {
        let Some(stored) = self.load(key) else {
            return BTreeMap::new();
        };
        let records = stored.chunks_exact(RECORD).map(|record| {
            let (piece, value) = record.split_at(8);
            let piece = u64::from_be_bytes(piece.try_into().expect("eight bytes"));
            (piece, value.try_into().expect("the other 32"))
        });
        records.collect()
    }

    /// Keeps the known values of the pieces of a content.
    pub(super) fn keep_pieces(&self, key: &Key, pieces: &BTreeMap<u64, Value>) {
        let mut stored = Vec::with_capacity(pieces.len() * RECORD);
        for (piece, value) in pieces {
            stored.extend_from_slice(&piece.to_be_bytes());
            stored.extend_from_slice(value);
        }
        self.store(key, &stored);
    }

    fn load(&self, key: &Key) -> Option<Vec<u8>> {
        let path = self.directory.as_ref()?.join(key.name());
        let mut bytes = Vec::new();
        let file = File::open(path).ok()?;
        file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let body = bytes.len().checked_sub(32)?;
        let sum = bytes.split_off(body);
        // The key is part of the sum: a file under another one's name says nothing.
        (key.sum(&bytes)[..] == sum).then_some(bytes)
    }

    fn store(&self, key: &Key, bytes: &[u8]) {
        let Some(directory) = self.directory.as_deref().filter(|_| key.settled) else {
            return;
        };
        if let Err(error) = write(directory, key, bytes).and_then(|()| evict(directory)) {
            tracing::debug!(%error, "a hash is not kept");
        }
    }
}

impl Key {
    /// Of nothing yet; `kind` tells kinds of hashes apart.
    pub(super) fn new(kind: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"fulmar cache 1 ").update(kind.as_bytes());
        Self {
            hasher,
            settled: true,
            now: SystemTime::now(),
        }
    }

    /// Adds a file.
    pub(super) fn add(&mut self, path: &[u8], stamp: &Stamp) {
        self.hasher.update(&(path.len() as u64).to_be_bytes());
        self.hasher.update(path);
        let (modified, changed) = (stamp.modified, stamp.changed);
        let times = [modified.0, modified.1, changed.0, changed.1].map(|time| time as u64);
        for number in [stamp.device, stamp.inode, stamp.size]
            .into_iter()
            .chain(times)
        {
            self.hasher.update(&number.to_be_bytes());
        }
        let latest = modified.max(changed);
        let settled = u64::try_from(latest.0).map_or(true, |seconds| {
            let latest = UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX)));
            latest + RACY < self.now
        });
        self.settled &= settled;
    }

    fn name(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    fn sum(&self, bytes: &[u8]) -> Value {
        let mut hasher = self.hasher.clone();
        hasher.update(b" holds ").update(bytes);
        *hasher.finalize().as_bytes()
    }
}

/// Writes it beside and moves it into place, so that no reader sees half of it.
fn write(directory: &Path, key: &Key, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.write_all(&key.sum(bytes))?;
    file.persist(directory.join(key.name()))?;
    Ok(())
}

/// Removes the oldest files once there are too many or too large ones.
fn evict(directory: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_file() {
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
    if files.len() <= FILES_MAX && bytes <= BYTES_MAX {
        return Ok(());
    }
    files.sort();
    let mut left = files.len();
    for (_, len, path) in files {
        if left <= FILES_MAX / 2 && bytes <= BYTES_MAX / 2 {
            break;
        }
        fs::remove_file(path)?;
        (left, bytes) = (left - 1, bytes - len);
    }
    Ok(())
}

/// Below this many bytes, reading a file again is as fast as looking its hash up.
const WORTH_IT: u64 = 4 << 20;
/// How long after its last change a file is left alone: more than the coarsest clock of a file system.
const RACY: Duration = Duration::from_secs(2);
const FILES_MAX: usize = 4096;
const BYTES_MAX: u64 = 64 << 20;
/// A piece's number and value.
const RECORD: usize = 8 + 32;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

    use xxhash_rust::xxh64::xxh64;

    use super::*;

    fn stamp(seconds: i64) -> Stamp {
        Stamp {
            device: 1,
            inode: 2,
            size: 3,
            modified: (seconds, 4),
            changed: (seconds, 5),
        }
    }

    fn key(path: &[u8], stamp: &Stamp) -> Key {
        let mut key = Key::new("test");
        key.add(path, stamp);
        key
    }

    #[test]
    fn pieces_are_found_again_by_the_same_key_only() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::at(place.path().join("a/b"));
        let pieces: BTreeMap<u64, Value> = [(3, [7; 32]), (9, [8; 32])].into();
        let old = stamp(1_000_000);
        cache.keep_pieces(&key(b"x", &old), &pieces);
        assert_eq!(cache.pieces(&key(b"x", &old)), pieces);
        let changes: [fn(&mut Stamp); 7] = [
            |stamp| stamp.device += 1,
            |stamp| stamp.inode += 1,
            |stamp| stamp.size += 1,
            |stamp| stamp.modified.0 += 1,
            |stamp| stamp.modified.1 += 1,
            |stamp| stamp.changed.0 += 1,
            |stamp| stamp.changed.1 += 1,
        ];
        for change in changes {
            let mut other = old;
            change(&mut other);
            assert!(cache.pieces(&key(b"x", &other)).is_empty());
        }
        assert!(cache.pieces(&key(b"y", &old)).is_empty());
        assert!(Cache::off().pieces(&key(b"x", &old)).is_empty());
        let file = fs::read_dir(place.path().join("a/b")).unwrap().next();
        let file = file.unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        // Damage of any kind is absence.
        let good = fs::read(file.path()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(file.path(), &bad).unwrap();
            assert!(cache.pieces(&key(b"x", &old)).is_empty());
            fs::write(file.path(), &good[..at]).unwrap();
            assert!(cache.pieces(&key(b"x", &old)).is_empty());
        }
    }

    #[test]
    fn what_changed_just_now_is_not_remembered() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::at(place.path().to_owned());
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64;
        for seconds in [now, now - 1, now + 1000, i64::MAX] {
            assert!(!key(b"x", &stamp(seconds)).settled);
            cache.keep_pieces(&key(b"x", &stamp(seconds)), &[(1, [1; 32])].into());
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        assert!(key(b"x", &stamp(now - 10)).settled);
        assert!(key(b"x", &stamp(-5)).settled);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let place = tempfile::tempdir().unwrap();
        for number in 0..FILES_MAX {
            fs::write(place.path().join(number.to_string()), "").unwrap();
        }
        evict(place.path()).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), FILES_MAX);
        fs::write(place.path().join("last"), "").unwrap();
        evict(place.path()).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), FILES_MAX / 2);
        assert!(place.path().join("last").exists());
        let large = File::create(place.path().join("large")).unwrap();
        large.set_len(BYTES_MAX + 1).unwrap();
        evict(place.path()).unwrap();
        assert!(!place.path().join("large").exists());
    }

    #[test]
    fn a_known_file_is_not_read_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        let cache = Cache::at(place.path().join("cache"));
        let content: Vec<u8> = (0..WORTH_IT + 5).map(|i| (i % 253) as u8).collect();
        fs::write(&path, &content).unwrap();
        let reads = Cell::new(0);
        let hash = |source: &Source| {
            cache.xxh64(&path, source, |_| {
                reads.set(reads.get() + 1);
                ControlFlow::Continue(())
            })
        };
        let expected = xxh64(&content, 0);
        // Too young: read each time. The time of change cannot be set back, so age is made by hand.
        let source = Source::open(&path).unwrap();
        assert_eq!(hash(&source).unwrap(), expected);
        assert!(!place.path().join("cache").exists());
        std::thread::sleep(RACY + Duration::from_secs(1));
        let source = Source::open(&path).unwrap();
        assert_eq!(hash(&source).unwrap(), expected);
        let source = Source::open(&path).unwrap();
        assert_eq!(hash(&source).unwrap(), expected);
        assert_eq!(
            reads.get(),
            2 * 5 + 1,
            "five steps each time it is read, one when not"
        );
        // Another content is another file.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"!", 0).unwrap();
        assert!(hash(&source).is_err(), "changed since it was opened");
        let source = Source::open(&path).unwrap();
        assert_ne!(hash(&source).unwrap(), expected);
    }
}
