//! A limit that changes with the time of the day: [`Following`].
//!
//! A thread looks at the clock twice a second and tells the endpoint when another limit holds, so a clock that is set, a
//! machine that slept and a change of the time zone's offset need no thought. It does *not* measure or enforce a rate;
//! the endpoint does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::Command;

use crate::config::Schedule;
use crate::driver::Commands;

/// An endpoint that follows a schedule, until this is dropped.
#[derive(Debug)]
pub struct Following {
    thread: Option<JoinHandle<()>>,
    over: Arc<AtomicBool>,
}

impl Following {
    /// Limits the endpoint behind `commands` as `schedule` says for now, and from now on as it says for each minute of
    /// local time. What is commanded after this returns is under the limit from its first byte.
    pub fn start(schedule: Schedule, commands: Commands<Command>) -> Self {
        let tell = move |rate| commands.send(Command::Limit { rate }).is_ok();
        Self::telling(schedule, minute_of_day, tell)
    }

    /// As [`start`](Self::start), by another clock; `tell` says whether anybody still listens.
    fn telling(
        schedule: Schedule,
        clock: impl Fn() -> u16 + Send + 'static,
        tell: impl Fn(Option<Bitrate>) -> bool + Send + 'static,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut limit = schedule.at(clock());
        let heard = limit.is_none() || tell(limit);
        let mut following = Self {
            thread: None,
            over: Arc::clone(&over),
        };
        if schedule.is_constant() || !heard {
            return following;
        }
        let follow = move || {
            while !over.load(SeqCst) {
                let now = schedule.at(clock());
                if now != limit {
                    limit = now;
                    if !tell(limit) {
                        return;
                    }
                }
                thread::park_timeout(LOOK);
            }
        };
        // Without a thread the limit of the first minute holds: a limit, and never none by accident.
        following.thread = thread::Builder::new()
            .name("limit".into())
            .spawn(follow)
            .ok();
        following
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to say, and its panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// Minutes since midnight, by the local clock.
fn minute_of_day() -> u16 {
    let now = jiff::Zoned::now();
    u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs())
}

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::AtomicU16;
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn changes_are_told_once_each() {
        let clock = Arc::new(AtomicU16::new(0));
        let (told, tellings) = mpsc::channel();
        let schedule = "08:00-18:00=20M,18:00-23:00=50M,*=off".parse().unwrap();
        let following = Following::telling(
            schedule,
            {
                let clock = Arc::clone(&clock);
                move || clock.load(SeqCst)
            },
            move |rate| told.send(rate).is_ok(),
        );
        let mbit = |rate: u64| Some(Bitrate::from_bits_per_sec(rate * 1_000_000));
        for (hour, want) in [(9, mbit(20)), (19, mbit(50)), (23, None), (8, mbit(20))] {
            clock.store(60 * hour, SeqCst);
            assert_eq!(tellings.recv_timeout(LIMIT).unwrap(), want);
        }
        drop(following);
        assert!(tellings.try_recv().is_err(), "nothing is told twice");
    }

    #[test]
    fn what_never_changes_is_told_at_once_and_needs_no_thread() {
        let (told, tellings) = mpsc::channel();
        for (text, want) in [
            ("off", vec![]),
            ("5M", vec![Some(Bitrate::from_bits_per_sec(5_000_000))]),
        ] {
            let told = told.clone();
            let following = Following::telling(
                text.parse().unwrap(),
                || 0,
                move |rate| told.send(rate).is_ok(),
            );
            assert!(following.thread.is_none());
            assert_eq!(tellings.try_iter().collect::<Vec<_>>(), want);
        }
    }

    #[test]
    fn a_minute_of_the_day_is_within_it() {
        assert!(minute_of_day() < 24 * 60);
    }
}
