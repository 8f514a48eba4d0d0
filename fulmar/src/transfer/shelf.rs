//! What a daemon has to give: [`Shelf`], a directory's files and folders by their names.
//!
//! Whoever asks has proved nothing, so a question must cost little: a name is looked up, never joined to a path before it
//! was found to be one; hashing a file and walking through a folder happen on threads of their own, once however many ask
//! meanwhile; and what a walk found is used again for a moment, as long as somebody who got it has yet to show that his
//! address is his own. It does *not* know sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, Sender};

use super::TransferError;
use super::outgoing::Content;
use crate::bundle::{BundleSource, Cache, Scan, ScanOptions};
use crate::file::source::Stamp;
use crate::file::{Directory, Source};

/// A directory whose files can be asked for.
pub(super) struct Shelf {
    path: PathBuf,
    /// Whether what is new is found.
    watch: bool,
    cache: Cache,
    names: Names,
    /// When they were read.
    read: Instant,
    /// Of files that were asked for, as long as they stay what they were.
    hashes: BTreeMap<String, (Stamp, u64)>,
    hasher: Worker<(String, Arc<Source>), (Stamp, u64)>,
    walks: Walks,
}

/// Files, and folders for those who take bundles.
#[derive(Debug, Default)]
pub(super) struct Names {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

/// What there is under a name.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing that can be had.
    Nothing,
    /// This.
    Given(Content, Option<Unproved>),
    /// It is being looked at: [`Shelf::settled`] says when to ask again.
    Later,
}

/// Held for as long as whoever was given something has not shown who he is.
#[derive(Clone, Debug)]
pub(super) struct Unproved(#[expect(dead_code, reason = "only counted")] Arc<()>);

impl Names {
    /// The regular files of a directory whose names can be asked for, and its folders (HP-UDP 12.2.2).
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut names = Self::default();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // What vanishes while it is looked at is not there.
            if let (Ok(kind), Some(name)) = (entry.file_type(), entry.file_name().to_str()) {
                names.add(name, kind);
            }
        }
        Ok(names)
    }

    /// How many files and how many folders.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.files.len(), self.folders.len())
    }

    fn add(&mut self, name: &str, kind: fs::FileType) {
        if Directory::check_name(name.as_bytes()).is_ok_and(|checked| checked == name) {
            if kind.is_file() {
                self.files.insert(name.to_owned());
            } else if kind.is_dir() {
                self.folders.insert(name.to_owned());
            }
        }
    }
}

impl Shelf {
    /// What is in the directory `path`, of which `names` were found.
    pub(super) fn new(
        path: &Path,
        names: Names,
        watch: bool,
        cache: Cache,
    ) -> Result<Self, TransferError> {
        let known = cache.clone();
        let beneath = path.to_owned();
        let hasher = Worker::start(
            "hash",
            move |(name, source): (String, Arc<Source>), stop| {
                let hash = known.xxh64(&beneath.join(&name), &source, |_| {
                    if stop() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
                (name, hash.ok().map(|hash| (*source.stamp(), hash)))
            },
        )?;
        Ok(Self {
            walks: Walks::start(path.to_owned(), |path| Scan::of(&[path]).ok())?,
            path: path.to_owned(),
            watch,
            cache,
            names,
            read: Instant::now(),
            hashes: BTreeMap::new(),
            hasher,
        })
    }

    /// What has arrived can be asked for.
    pub(super) fn add(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if let Ok(metadata) = fs::symlink_metadata(self.path.join(&name)) {
                self.names.add(&name, metadata.file_type());
            }
        }
    }

    /// What a stranger asks for.
    pub(super) fn find(&mut self, raw: &[u8], bundle: bool) -> Found {
        let Some(name) = str::from_utf8(raw).ok().map(str::to_owned) else {
            return Found::Nothing;
        };
        let listed = if self.watch {
            Directory::check_name(raw).is_ok_and(|checked| checked == name)
        } else {
            self.names.files.contains(&name) || bundle && self.names.folders.contains(&name)
        };
        // It was a file or a folder when it was listed, and no link.
        let path = self.path.join(&name);
        let kind = fs::symlink_metadata(&path).ok().filter(|_| listed);
        match kind.map(|it| it.file_type()) {
            Some(kind) if kind.is_dir() && bundle => match self.walks.find(&name) {
                Some((scan, unproved)) => Found::Given(self.bundle(scan), Some(unproved)),
                None => Found::Later,
            },
            // One file is found at a glance.
            Some(kind) if kind.is_file() && bundle => match Scan::of(&[path]) {
                Ok(scan) => Found::Given(self.bundle(scan.into()), None),
                Err(_) => Found::Nothing,
            },
            Some(kind) if kind.is_file() => self.file(name, &path),
            _ => Found::Nothing,
        }
    }

    fn bundle(&self, scan: Arc<Scan>) -> Content {
        let options = ScanOptions {
            cache: self.cache.clone(),
        };
        Content::bundle(BundleSource::of(scan, &options))
    }

    fn file(&mut self, name: String, path: &Path) -> Found {
        let Ok(source) = Source::open(path) else {
            return Found::Nothing;
        };
        let source = Arc::new(source);
        match self.hashes.get(&name) {
            Some((stamp, hash)) if stamp == source.stamp() => {
                Found::Given(Content::file(source, *hash), None)
            }
            Some(_) | None => {
                self.hasher.ask(name.clone(), (name, source));
                Found::Later
            }
        }
    }

    /// A name that was being looked at, and whether there is anything under it.
    pub(super) fn settled(&mut self) -> Option<(String, bool)> {
        if let Some((name, hash)) = self.hasher.done() {
            let found = hash.is_some();
            self.hashes.extend(hash.map(|hash| (name.clone(), hash)));
            return Some((name, found));
        }
        self.walks.settled(Instant::now())
    }

    /// Whether anything is being looked at.
    pub(super) fn is_busy(&self) -> bool {
        self.hasher.is_busy() || self.walks.worker.is_busy()
    }

    /// How many files and folders there are, and a packet's worth of lines of name and size from the one with the number
    /// `first` on (HP-UDP 18.6.2). Folders come last; who takes no bundles has no use for them.
    pub(super) fn page(&mut self, first: u64) -> (u64, Vec<u8>) {
        let now = Instant::now();
        if self.watch
            && now.duration_since(self.read) >= LOOK_AGAIN
            && let Ok(names) = Names::of(&self.path)
        {
            (self.names, self.read) = (names, now);
        }
        let mut text = Vec::new();
        let from = usize::try_from(first).unwrap_or(usize::MAX);
        let Names { files, folders } = &self.names;
        for name in files.iter().skip(from) {
            // What was removed since then has no size, and is not to be had.
            let size = fs::symlink_metadata(self.path.join(name)).map_or(0, |it| it.len());
            text.extend_from_slice(format!("{name}\t{size}\n").as_bytes());
            if text.len() > LIST_BYTES {
                break;
            }
        }
        for name in folders.iter().skip(from.saturating_sub(files.len())) {
            if text.len() > LIST_BYTES {
                break;
            }
            text.extend_from_slice(format!("{name}/\t0\n").as_bytes());
        }
        ((files.len() + folders.len()) as u64, text)
    }
}

/// Walks through folders that were asked for.
struct Walks {
    worker: Worker<String, Arc<Scan>>,
    found: BTreeMap<String, Walk>,
}

/// What a walk found.
struct Walk {
    scan: Arc<Scan>,
    at: Instant,
    /// Shared with those who were given it and have not shown who they are.
    waiting: Arc<()>,
    /// Nobody has been given it yet.
    fresh: bool,
}

impl Walks {
    fn start(
        beneath: PathBuf,
        walk: impl Fn(PathBuf) -> Option<Scan> + Send + 'static,
    ) -> Result<Self, TransferError> {
        let worker = Worker::start("walk", move |name: String, _| {
            let scan = walk(beneath.join(&name)).map(Arc::new);
            (name, scan)
        })?;
        Ok(Self {
            worker,
            found: BTreeMap::new(),
        })
    }

    /// The folder `name`, if it is known well enough; otherwise somebody goes and looks.
    fn find(&mut self, name: &str) -> Option<(Arc<Scan>, Unproved)> {
        let now = Instant::now();
        self.found.retain(|_, walk| walk.is_good(now));
        if let Some(walk) = self.found.get_mut(name) {
            walk.fresh = false;
            let unproved = Unproved(Arc::clone(&walk.waiting));
            return Some((Arc::clone(&walk.scan), unproved));
        }
        self.worker.ask(name.to_owned(), name.to_owned());
        None
    }

    fn settled(&mut self, now: Instant) -> Option<(String, bool)> {
        let (name, scan) = self.worker.done()?;
        let found = scan.is_some();
        if let Some(scan) = scan {
            let walk = Walk {
                scan,
                at: now,
                waiting: Arc::default(),
                fresh: true,
            };
            self.found.insert(name.clone(), walk);
        }
        Some((name, found))
    }
}

impl Walk {
    /// Whoever has shown who he is gets what is there now; what others got is good enough for strangers.
    fn is_good(&self, now: Instant) -> bool {
        let strangers = Arc::strong_count(&self.waiting) > 1;
        now.duration_since(self.at) < WALK_AGAIN && (self.fresh || strangers)
    }
}

/// A thread that does one thing after the other.
struct Worker<Q, A> {
    work: Sender<Q>,
    finished: Receiver<(String, Option<A>)>,
    /// Names on their way: what is asked for a thousand times is done once, and no more waits than there are names.
    queued: BTreeSet<String>,
}

impl<Q: Send + 'static, A: Send + 'static> Worker<Q, A> {
    /// `work` may ask whether anybody still waits for it.
    fn start(
        name: &str,
        work: impl Fn(Q, &dyn Fn() -> bool) -> (String, Option<A>) + Send + 'static,
    ) -> Result<Self, TransferError> {
        let (ask, asked) = flume::unbounded::<Q>();
        let (tell, finished) = flume::unbounded();
        let run = move || {
            for question in asked {
                let answer = work(question, &|| tell.is_disconnected());
                if tell.send(answer).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run);
        thread.map_err(TransferError::thread)?;
        Ok(Self {
            work: ask,
            finished,
            queued: BTreeSet::new(),
        })
    }

    fn ask(&mut self, name: String, question: Q) {
        if self.queued.insert(name) {
            // The thread lives as long as this side does.
            let _ = self.work.send(question);
        }
    }

    fn done(&mut self) -> Option<(String, Option<A>)> {
        let done = self.finished.try_recv().ok()?;
        self.queued.remove(&done.0);
        Some(done)
    }

    fn is_busy(&self) -> bool {
        !self.queued.is_empty()
    }
}

/// More than a packet holds.
const LIST_BYTES: usize = 1400;
/// A list is not read again before.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A folder is walked through again after this time in any case.
const WALK_AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// A folder, and how often it was walked through.
    fn counting(place: &Path) -> (Shelf, Arc<AtomicUsize>) {
        fs::create_dir(place.join("folder")).unwrap();
        fs::write(place.join("folder/file"), "content").unwrap();
        let names = Names::of(place).unwrap();
        let mut shelf = Shelf::new(place, names, false, Cache::off()).unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let walk = move |path| {
            counter.fetch_add(1, SeqCst);
            Scan::of(&[path]).ok()
        };
        shelf.walks = Walks::start(place.to_owned(), walk).unwrap();
        (shelf, count)
    }

    /// Asks until it is there.
    fn take(shelf: &mut Shelf) -> Unproved {
        loop {
            match shelf.find(b"folder", true) {
                Found::Given(_, unproved) => return unproved.unwrap(),
                Found::Later => {
                    while shelf.settled().is_none() {
                        thread::yield_now();
                    }
                }
                Found::Nothing => panic!("it is there"),
            }
        }
    }

    #[test]
    fn a_thousand_strangers_cost_one_walk_and_a_proved_client_gets_its_own() {
        let place = tempfile::tempdir().unwrap();
        let (mut shelf, walks) = counting(place.path());
        for _ in 0..1000 {
            assert!(matches!(shelf.find(b"folder", true), Found::Later));
        }
        let strangers: Vec<Unproved> = (0..1000).map(|_| take(&mut shelf)).collect();
        assert_eq!(walks.load(SeqCst), 1);
        // One of them shows who he is, and the next one asks; then all are gone.
        let mut strangers = strangers.into_iter();
        strangers.next();
        take(&mut shelf);
        assert_eq!(walks.load(SeqCst), 1);
        drop(strangers);
        for number in 2..5 {
            let client = take(&mut shelf);
            assert_eq!(walks.load(SeqCst), number);
            drop(client);
        }
    }

    #[test]
    fn what_strangers_get_grows_old() {
        let place = tempfile::tempdir().unwrap();
        let (mut shelf, walks) = counting(place.path());
        let stranger = take(&mut shelf);
        take(&mut shelf);
        assert_eq!(walks.load(SeqCst), 1);
        let walk = shelf.walks.found.get_mut("folder").unwrap();
        walk.at -= WALK_AGAIN;
        take(&mut shelf);
        assert_eq!(walks.load(SeqCst), 2);
        drop(stranger);
    }

    #[test]
    fn names_are_looked_up_and_never_followed() {
        let place = tempfile::tempdir().unwrap();
        let (mut shelf, _) = counting(place.path());
        std::os::unix::fs::symlink("folder/file", place.path().join("link")).unwrap();
        fs::write(place.path().join("new"), "new").unwrap();
        for watch in [false, true] {
            shelf.watch = watch;
            for name in [
                "link",
                "../folder",
                "folder/file",
                "/etc/passwd",
                "",
                ".",
                "none",
            ] {
                let found = shelf.find(name.as_bytes(), true);
                assert!(matches!(found, Found::Nothing), "{name}: {found:?}");
            }
            let new = matches!(shelf.find(b"new", true), Found::Given(..));
            assert_eq!(new, watch);
        }
        shelf.watch = false;
        shelf.add(["new".to_owned()]);
        assert!(matches!(shelf.find(b"new", true), Found::Given(..)));
        // A folder is for those who take bundles.
        assert!(matches!(shelf.find(b"folder", false), Found::Nothing));
        assert_eq!(shelf.page(0), (2, b"new\t3\nfolder/\t0\n".to_vec()));
        assert_eq!(shelf.page(1), (2, b"folder/\t0\n".to_vec()));
        assert_eq!(shelf.page(2), (2, Vec::new()));
    }

    #[test]
    fn a_file_is_hashed_once_while_it_stays_what_it_is() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "one").unwrap();
        let names = Names::of(place.path()).unwrap();
        let mut shelf = Shelf::new(place.path(), names, false, Cache::off()).unwrap();
        let hash = |shelf: &mut Shelf| {
            let mut looked = 0;
            loop {
                match shelf.find(b"file", false) {
                    Found::Given(content, _) => return (content.xxh64(), looked),
                    Found::Later => {
                        while shelf.settled().is_none() {
                            thread::yield_now();
                        }
                        looked += 1;
                    }
                    Found::Nothing => panic!("it is there"),
                }
            }
        };
        let of = |text: &str| xxhash_rust::xxh64::xxh64(text.as_bytes(), 0);
        assert_eq!(hash(&mut shelf), (of("one"), 1));
        assert_eq!(hash(&mut shelf), (of("one"), 0));
        fs::write(place.path().join("file"), "three").unwrap();
        assert_eq!(hash(&mut shelf), (of("three"), 1));
    }
}
