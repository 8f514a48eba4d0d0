//! What was written becomes durable, and then known to be: [`Flusher`], a thread beside the writer.
//!
//! The writer says which files it wrote to and which pieces are whole; every 16 MiB of them or every half second the
//! thread syncs the files and records the pieces (bundle 5.3). The writer waits only when it is two batches ahead of the
//! disk, for what is not recorded is lost in a crash; it learns of a failure at the next write: an error of a sync is
//! final. What order the bytes came in does *not* matter here.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::map::Map;
use super::pieces::Value;

/// The thread, and what it is to do next.
#[derive(Debug)]
pub(super) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something is to be done.
    wake: Condvar,
    /// Something was done.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    /// Bytes of the pieces that are being synced.
    syncing: u64,
    end: Option<End>,
    /// A piece was recorded.
    recorded: bool,
    failed: Option<io::Error>,
}

/// What happened since the last sync.
#[derive(Debug, Default)]
struct Batch {
    pieces: Vec<(u64, Value)>,
    bytes: u64,
    files: Vec<(usize, Arc<File>)>,
    /// Too many files, or new ones whose names must be durable too: the whole file system.
    everything: bool,
}

/// How the thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// After a last sync.
    Flushed,
    /// At once.
    Abandoned,
}

impl Flusher {
    /// Begins; `at` is a directory of the file system that is written to, opened before anything was written: what
    /// its write-back fails at from now on is found.
    pub(super) fn start(at: Arc<OwnedFd>, map: Map) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || run(&theirs, &at, map))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Bytes were written to the file `number`, which was `made` for them or was there. Waits for the disk if it is too
    /// far behind.
    ///
    /// # Errors
    /// What a sync before has failed with.
    pub(super) fn wrote(&self, number: usize, file: &Arc<File>, made: bool) -> io::Result<()> {
        let state = self.shared.lock();
        let ahead = |state: &mut State| {
            state.failed.is_none() && state.syncing + state.batch.bytes >= AHEAD_MAX
        };
        let waited = self.shared.done.wait_while(state, ahead);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &state.failed {
            return Err(again(error));
        }
        let batch = &mut state.batch;
        batch.everything |= made;
        if !batch.everything && batch.files.iter().all(|(known, _)| *known != number) {
            batch.files.push((number, file.clone()));
            batch.everything = batch.files.len() > FEW;
        }
        if batch.everything {
            batch.files.clear();
        }
        Ok(())
    }

    /// All `bytes` bytes of a piece are written.
    pub(super) fn complete(&self, piece: u64, value: Value, bytes: u64) {
        let mut state = self.shared.lock();
        state.batch.pieces.push((piece, value));
        state.batch.bytes += bytes;
        if state.batch.bytes >= BATCH {
            self.shared.wake.notify_one();
        }
    }

    /// Syncs and records the rest, and ends.
    ///
    /// # Errors
    /// What a sync has failed with.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.end(End::Flushed);
        match &self.shared.lock().failed {
            Some(error) => Err(again(error)),
            None => Ok(()),
        }
    }

    /// Syncs and records the rest if it can, and ends; whether anything was ever recorded.
    pub(super) fn close(mut self) -> bool {
        self.end(End::Flushed);
        self.shared.lock().recorded
    }

    /// Ends without a further sync.
    pub(super) fn abandon(mut self) {
        self.end(End::Abandoned);
    }

    fn end(&mut self, end: End) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.shared.lock().end = Some(end);
        self.shared.wake.notify_one();
        let _ = thread.join();
    }
}

impl Drop for Flusher {
    /// What came is worth keeping, whatever the session ends of.
    fn drop(&mut self) {
        self.end(End::Flushed);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every state is whole between two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Shared, at: &OwnedFd, mut map: Map) {
    loop {
        let state = shared.lock();
        let waited = shared.wake.wait_timeout_while(state, PERIOD, |state| {
            state.end.is_none() && state.batch.bytes < BATCH
        });
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let end = state.end;
        // Files without a whole piece stay in the batch: nothing is recorded of them yet.
        let due = !state.batch.pieces.is_empty() && end != Some(End::Abandoned);
        let batch = due.then(|| std::mem::take(&mut state.batch));
        state.syncing = batch.as_ref().map_or(0, |batch| batch.bytes);
        drop(state);
        if let Some(batch) = batch {
            let flushed = batch.flush(at, &mut map);
            let mut state = shared.lock();
            state.syncing = 0;
            state.recorded |= flushed.is_ok();
            state.failed = flushed.err();
            shared.done.notify_all();
            if state.failed.is_some() {
                return;
            }
        }
        if end.is_some() {
            return;
        }
    }
}

impl Batch {
    fn flush(&self, at: &OwnedFd, map: &mut Map) -> io::Result<()> {
        if self.everything {
            rustix::fs::syncfs(at)?;
        }
        for (_, file) in &self.files {
            file.sync_data()?;
        }
        map.append(&self.pieces)
    }
}

/// An error for one more listener.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Bytes of whole pieces that are synced together.
const BATCH: u64 = 16 << 20;
/// Bytes of whole pieces that may be on their way to the disk at a time: what an interruption costs at most.
const AHEAD_MAX: u64 = 2 * BATCH;
/// How long fewer wait.
const PERIOD: Duration = Duration::from_millis(500);
/// Up to so many files are synced one by one.
pub(super) const FEW: usize = 8;
