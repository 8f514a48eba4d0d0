//! What a sender knows of each of its paths: what left by it, what a heartbeat says came by it (18.9).
//!
//! Packets overtake each other between paths, hardly ever on one. So order is judged path by path, losses are counted path
//! by path, and a path whose packets stay unanswered while those of others are answered is dead. It does *not* choose
//! the path of a packet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::feedback::Marks;
use super::super::paths::{Member, Paths};
use crate::engine::RttEstimator;

/// The packets of one path.
#[derive(Debug)]
pub(in crate::hpudp) struct Flight {
    /// Those that no heartbeat has answered for, in the order of their stamps.
    queue: VecDeque<Mark>,
    sent: u64,
    /// The highest stamp that came by it, and what had left by then; none before the first report.
    shown: Option<Mark>,
    /// What had come by then, as the receiver counts.
    came: u32,
    rtt: RttEstimator,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    stamp: u64,
    sent: u64,
    /// It left again since, perhaps by another path.
    again: bool,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            sent: 0,
            shown: None,
            came: 0,
            rtt: RttEstimator::new(Duration::ZERO).with_rto_bounds(Duration::ZERO, RTT_MAX),
        }
    }
}

impl Flight {
    /// A packet leaves under a stamp that nobody has seen.
    fn leave(&mut self, stamp: u64) {
        self.sent += 1;
        if self.queue.len() >= QUEUE {
            self.queue.pop_front();
        }
        self.queue.push_back(Mark {
            stamp,
            sent: self.sent,
            again: false,
        });
    }

    fn place(&self, stamp: u64) -> Option<usize> {
        self.queue
            .binary_search_by_key(&stamp, |mark| mark.stamp)
            .ok()
    }

    /// Takes what the receiver counted: packets that left since the last report, and those of them that came.
    fn report(&mut self, at: usize, came: u32) -> (f64, f64) {
        let mark = self.queue[at];
        self.queue.drain(..=at);
        let before = self.shown.replace(mark).map_or(0, |it| it.sent);
        let sent = (mark.sent - before) as f64;
        let fresh = came.wrapping_sub(std::mem::replace(&mut self.came, came));
        if fresh > u32::MAX / 2 || f64::from(fresh) > 2.0 * sent + 64.0 {
            // The receiver knew the path by another address before, and counts anew.
            return (0.0, 0.0);
        }
        (sent, f64::from(fresh))
    }

    /// The stamp before which everything that left by it has been answered for.
    fn front(&self) -> u64 {
        self.queue.front().map_or(u64::MAX, |mark| mark.stamp - 1)
    }
}

/// What one heartbeat adds, over all paths.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counted {
    pub(super) sent: f64,
    pub(super) came: f64,
}

impl Paths<Flight> {
    /// A packet leaves by the current path. `again` under a stamp that it had before.
    pub(super) fn leave(&mut self, stamp: u64, again: bool) {
        if !self.is_open() {
            return;
        }
        if !again {
            return self.current_mut().of.leave(stamp);
        }
        self.current_mut().of.sent += 1;
        for member in self.iter_mut() {
            if let Some(at) = member.of.place(stamp) {
                member.of.queue[at].again = true;
            }
        }
    }

    /// Takes the stamps and counts of a heartbeat, each of the path by which that stamp's packet left.
    pub(super) fn on_report(
        &mut self,
        now: Instant,
        reports: &[(u64, u32)],
        marks: &Marks,
    ) -> Counted {
        let mut counted = Counted::default();
        for &(stamp, came) in reports {
            let Some((member, at)) = self
                .iter_mut()
                .find_map(|it| it.of.place(stamp).map(|at| (it, at)))
            else {
                continue;
            };
            if member.of.queue[at].again {
                continue;
            }
            let (sent, came) = member.of.report(at, came);
            counted.sent += sent;
            counted.came += came;
            let rtt = now.saturating_duration_since(marks.time_of(stamp));
            member.of.rtt.sample(now, rtt);
            member.works();
        }
        counted
    }

    /// Takes paths for dead whose packets stay unanswered while later ones of others are answered.
    pub(super) fn judge(&mut self, now: Instant, marks: &Marks, interval: Duration) {
        let answered = self.iter().filter_map(|it| it.of.shown).map(|it| it.stamp);
        let answered = marks.time_of(answered.max().unwrap_or(0));
        let slowest = self.slowest().unwrap_or_default();
        self.bury(now, |it: &Member<Flight>| {
            let Some(oldest) = it.of.queue.front().filter(|_| it.of.queue.len() >= SILENT) else {
                return false;
            };
            let left = marks.time_of(oldest.stamp);
            answered.saturating_duration_since(left) > slowest + interval * 4 + PATIENCE
        });
    }

    /// What a round trip may take, by the slowest path.
    pub(super) fn slowest(&self) -> Option<Duration> {
        let live = self.iter().filter(|it| it.live && it.of.shown.is_some());
        live.map(|it| it.of.rtt.rto()).max()
    }

    /// The stamp up to which order shows what is lost: on every live path later ones came.
    pub(super) fn overtaken(&self) -> u64 {
        let live = self.iter().filter(|it| it.live);
        live.map(|it| it.of.front()).min().unwrap_or(u64::MAX)
    }

    /// The receiver began anew.
    pub(super) fn start_over(&mut self) {
        self.iter_mut().for_each(|it| it.of = Flight::default());
    }
}

/// Unanswered packets of one path that are remembered: the whole window.
const QUEUE: usize = 65_536;
/// Packets that have to stay unanswered.
const SILENT: usize = 8;
/// How much longer than a round trip by the slowest path.
const PATIENCE: Duration = Duration::from_millis(50);
const RTT_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use std::net::SocketAddr;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn three(now: Instant) -> (Paths<Flight>, Marks) {
        let mut paths = Paths::one(now, SocketAddr::from(([192, 0, 2, 1], 1)));
        paths.open(now, 3);
        paths.iter_mut().for_each(Member::works);
        (paths, Marks::new(now, 7))
    }

    fn send(paths: &mut Paths<Flight>, marks: &mut Marks, now: Instant) -> u64 {
        paths.next();
        let stamp = marks.issue(now);
        paths.leave(stamp, false);
        stamp
    }

    #[test]
    fn a_stamp_tells_its_path_and_losses_are_counted_by_path() {
        let start = Instant::now();
        let (mut paths, mut marks) = three(start);
        let stamps: Vec<u64> = (0..30)
            .map(|at| send(&mut paths, &mut marks, start + at * MS))
            .collect();
        // In turn 1, 2, 0: the last three are one of each.
        let now = start + 60 * MS;
        let reports = [(stamps[27], 10), (stamps[28], 7)];
        let counted = paths.on_report(now, &reports, &marks);
        assert_eq!((counted.sent, counted.came), (20.0, 17.0));
        assert_eq!(
            paths.overtaken(),
            stamps[2] - 1,
            "nothing is known of path 0"
        );
        let again = paths.on_report(now, &reports, &marks);
        assert_eq!(again, Counted::default(), "the same twice");
        let counted = paths.on_report(now, &[(stamps[29], 10)], &marks);
        assert_eq!((counted.sent, counted.came), (10.0, 10.0));
        assert_eq!(paths.overtaken(), u64::MAX);
    }

    #[test]
    fn a_repair_is_no_witness_for_the_path_it_left_by_first() {
        let start = Instant::now();
        let (mut paths, mut marks) = three(start);
        let first = send(&mut paths, &mut marks, start);
        paths.next();
        paths.leave(first, true);
        let counted = paths.on_report(start + 9 * MS, &[(first, 1)], &marks);
        assert_eq!(counted, Counted::default());
        assert!(paths.slowest().is_none());
    }

    #[test]
    fn a_path_is_dead_whose_packets_stay_unanswered_while_others_are_answered() {
        let start = Instant::now();
        let (mut paths, mut marks) = three(start);
        let mut dead = Vec::new();
        for at in 0..300u32 {
            let now = start + at * MS;
            let stamp = send(&mut paths, &mut marks, now);
            if paths.current().socket != 2 {
                paths.on_report(now + 20 * MS, &[(stamp, at)], &marks);
            }
            paths.judge(now + 20 * MS, &marks, 10 * MS);
            dead.extend(
                paths
                    .iter()
                    .filter(|it| !it.live)
                    .map(|it| (at, it.path.socket)),
            );
            if !dead.is_empty() {
                break;
            }
        }
        let (at, socket) = dead[0];
        assert_eq!(socket, 2);
        assert!((90..200).contains(&at), "{at} ms");
    }
}
