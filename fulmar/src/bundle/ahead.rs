//! Small files are asked for before they are read: [`Ahead`].
//!
//! The kernel reads ahead inside a file, not from one to the next; on a cold disk each small file would cost a seek or a
//! round trip. A thread of its own opens the next ones and says that they will be needed. It does *not* wait for them,
//! and whatever fails here is found again by the reader.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rustix::fs::{Advice, Mode, OFlags};

/// The thread, for as long as the source is.
#[derive(Debug)]
pub(super) struct Ahead {
    reached: Option<mpsc::SyncSender<usize>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Runs ahead of a reader of `files`, which are numbered in order. Too few are not worth a thread.
    pub(super) fn start(files: Vec<(usize, PathBuf)>) -> Option<Self> {
        if files.len() < FILES_MIN {
            return None;
        }
        let (reached, heard) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("read ahead".to_owned())
            .spawn(move || run(&files, &heard))
            .ok()?;
        Some(Self {
            reached: Some(reached),
            thread: Some(thread),
        })
    }

    /// The reader is at the file `number`.
    pub(super) fn reached(&self, number: usize) {
        if let Some(reached) = &self.reached {
            // Full while it is busy: a later number will do. Closed after the last file.
            let _ = reached.try_send(number);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.reached = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(files: &[(usize, PathBuf)], heard: &mpsc::Receiver<usize>) {
    let mut next = 0;
    while let Ok(mut number) = heard.recv() {
        while let Ok(later) = heard.try_recv() {
            number = later;
        }
        let reader = files.partition_point(|(file, _)| *file <= number);
        next = next.max(reader);
        let until = (reader + FILES_AHEAD).min(files.len());
        // In batches, or every file read would be answered by one asked for.
        if until - next.min(until) < FILES_AHEAD / 2 && until < files.len() {
            continue;
        }
        for (_, path) in &files[next.min(until)..until] {
            let flags = OFlags::RDONLY
                | OFlags::NONBLOCK
                | OFlags::NOCTTY
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC;
            if let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) {
                let _ = rustix::fs::fadvise(&file, 0, None, Advice::WillNeed);
            }
        }
        next = until;
        if next == files.len() {
            return;
        }
    }
}

/// How many files it stays ahead of the reader: at 256 KiB each, no more than 64 MiB.
const FILES_AHEAD: usize = 256;
const FILES_MIN: usize = 16;
