//! What breaks in the middle: killed processes, full and failing disks, files that change while they are sent. Whatever
//! happens, what has its final name is whole, and who survives says what happened and ends by itself.
//!
//! `CRASH=long` kills at a hundred places instead of ten, lets every call fail instead of ten of them, and takes files
//! of a gibibyte.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod direct;
mod faults;
mod kills;
mod scene;

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::thread;

/// Whether there is time for everything.
fn long() -> bool {
    std::env::var("CRASH").is_ok_and(|value| value == "long")
}

/// Runs the cases, some at a time: most of the time of each is spent waiting for somebody to give up.
fn at_once<T: Send>(
    cases: impl IntoIterator<Item = T, IntoIter: Send>,
    threads: usize,
    run: impl Fn(T) + Sync,
) {
    let cases = Mutex::new(cases.into_iter());
    let next = || cases.lock().ok()?.next();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| std::iter::from_fn(next).for_each(&run)))
            .collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
}
