//! What is due when: [`Timers`] of one session, [`Deadlines`] of all sessions of an endpoint.
//!
//! Ties are settled by the order of kinds and of names, so a run in virtual time repeats itself. They do *not* run
//! anything and do *not* know the time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::time::Instant;

/// The timers of one session: an array indexed by an enum, so that each wake-up can name its reason.
#[derive(Clone)]
pub struct Timers<T> {
    due: Box<[Option<Instant>]>,
    /// The one due first: asked for with every packet, changed by few.
    first: Option<(Instant, usize)>,
    kinds: PhantomData<T>,
}

impl<T: TimerKind> Timers<T> {
    /// All stopped.
    pub fn new() -> Self {
        debug_assert!(
            T::ALL
                .iter()
                .enumerate()
                .all(|(at, kind)| kind.index() == at),
            "index follows ALL"
        );
        Self {
            due: vec![None; T::COUNT].into_boxed_slice(),
            first: None,
            kinds: PhantomData,
        }
    }

    /// Starts a timer, or moves it.
    pub fn set(&mut self, kind: T, at: Instant) {
        let index = kind.index();
        self.due[index] = Some(at);
        match self.first {
            Some((_, first)) if first == index => self.seek(),
            Some(first) if first < (at, index) => {}
            Some(_) | None => self.first = Some((at, index)),
        }
    }

    /// Stops a timer, if it runs.
    pub fn stop(&mut self, kind: T) {
        let index = kind.index();
        self.due[index] = None;
        if self.first.is_some_and(|(_, first)| first == index) {
            self.seek();
        }
    }

    /// Whether a timer runs.
    pub fn is_set(&self, kind: T) -> bool {
        self.when(kind).is_some()
    }

    /// When a timer is due, if it runs.
    pub fn when(&self, kind: T) -> Option<Instant> {
        self.due[kind.index()]
    }

    /// Whether a timer is due at `now`; if so it is stopped, so each setting is reported once.
    pub fn expire(&mut self, kind: T, now: Instant) -> bool {
        let due = self.when(kind).is_some_and(|at| at <= now);
        if due {
            self.stop(kind);
        }
        due
    }

    /// The timer due first; of several at one instant the first of [`TimerKind::ALL`].
    pub fn next(&self) -> Option<(Instant, T)> {
        self.first.map(|(at, index)| (at, T::ALL[index]))
    }

    /// Finds the first anew.
    fn seek(&mut self) {
        let running = self.due.iter().enumerate();
        self.first = running
            .filter_map(|(index, at)| Some(((*at)?, index)))
            .min();
    }
}

impl<T: TimerKind> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: TimerKind + fmt::Debug> fmt::Debug for Timers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = T::ALL
            .iter()
            .filter_map(|&kind| Some((kind, self.when(kind)?)));
        f.debug_map().entries(running).finish()
    }
}

/// One deadline for each of many names. Every operation costs the logarithm of their number.
#[derive(Clone, Debug)]
pub struct Deadlines<Id> {
    order: BTreeSet<(Instant, Id)>,
    due: BTreeMap<Id, Instant>,
}

impl<Id: Copy + Ord> Deadlines<Id> {
    /// No deadline.
    pub const fn new() -> Self {
        Self {
            order: BTreeSet::new(),
            due: BTreeMap::new(),
        }
    }

    /// Gives `id` its deadline, in place of the one it had.
    pub fn set(&mut self, id: Id, at: Instant) {
        match self.due.get_mut(&id) {
            Some(before) if *before == at => return,
            Some(before) => _ = self.order.remove(&(std::mem::replace(before, at), id)),
            None => _ = self.due.insert(id, at),
        }
        self.order.insert((at, id));
    }

    /// Takes the deadline of `id` away, if it has one.
    pub fn remove(&mut self, id: Id) {
        if let Some(at) = self.due.remove(&id) {
            self.order.remove(&(at, id));
        }
    }

    /// The earliest deadline; of several at one instant the least name.
    pub fn next(&self) -> Option<(Instant, Id)> {
        self.order.first().copied()
    }

    /// Takes out the earliest deadline if it is due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<Id> {
        let (_, id) = self.next().filter(|&(at, _)| at <= now)?;
        self.remove(id);
        Some(id)
    }
}

impl<Id: Copy + Ord> Default for Deadlines<Id> {
    fn default() -> Self {
        Self::new()
    }
}

/// An enum that names the timers of a session.
pub trait TimerKind: Copy + 'static {
    /// Every kind, in the order of [`index`](Self::index).
    const ALL: &'static [Self];
    /// How many kinds there are.
    const COUNT: usize = Self::ALL.len();

    /// Place of this kind in [`ALL`](Self::ALL); for a plain enum `self as usize`.
    fn index(self) -> usize;
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Kind {
        Probe,
        Heartbeat,
        Linger,
    }

    impl TimerKind for Kind {
        const ALL: &'static [Self] = &[Self::Probe, Self::Heartbeat, Self::Linger];

        fn index(self) -> usize {
            self as usize
        }
    }

    #[test]
    fn a_timer_expires_once_and_names_itself() {
        let now = Instant::now();
        let mut timers = Timers::new();
        assert_eq!(timers.next(), None);
        timers.set(Kind::Linger, now + MS * 5);
        timers.set(Kind::Heartbeat, now + MS * 5);
        timers.set(Kind::Probe, now + MS * 9);
        assert_eq!(
            timers.next(),
            Some((now + MS * 5, Kind::Heartbeat)),
            "of two the first kind"
        );
        assert!(!timers.expire(Kind::Heartbeat, now + MS * 4));
        assert!(timers.is_set(Kind::Heartbeat));
        assert!(timers.expire(Kind::Heartbeat, now + MS * 5));
        assert!(!timers.expire(Kind::Heartbeat, now + MS * 5));
        assert_eq!(timers.next(), Some((now + MS * 5, Kind::Linger)));
        timers.stop(Kind::Linger);
        assert_eq!(
            (timers.when(Kind::Linger), timers.when(Kind::Probe)),
            (None, Some(now + MS * 9))
        );
        timers.set(Kind::Probe, now + MS);
        assert_eq!(timers.next(), Some((now + MS, Kind::Probe)));
    }

    #[derive(Clone, Debug)]
    enum Move {
        Set(Kind, u32),
        Stop(Kind),
        Expire(Kind, u32),
    }

    fn timer_move() -> impl Strategy<Value = Move> {
        let kind = || prop::sample::select(Kind::ALL);
        prop_oneof![
            3 => (kind(), 0..6_u32).prop_map(|(kind, at)| Move::Set(kind, at)),
            1 => kind().prop_map(Move::Stop),
            2 => (kind(), 0..6_u32).prop_map(|(kind, now)| Move::Expire(kind, now)),
        ]
    }

    proptest! {
        #[test]
        fn the_first_is_the_least_of_all(moves in prop::collection::vec(timer_move(), 1..60)) {
            let start = Instant::now();
            let (mut timers, mut twin) = (Timers::new(), [None; Kind::COUNT]);
            for step in moves {
                match step {
                    Move::Set(kind, at) => {
                        timers.set(kind, start + MS * at);
                        twin[kind.index()] = Some(at);
                    }
                    Move::Stop(kind) => {
                        timers.stop(kind);
                        twin[kind.index()] = None;
                    }
                    Move::Expire(kind, now) => {
                        let due = twin[kind.index()].take_if(|at| *at <= now).is_some();
                        prop_assert_eq!(timers.expire(kind, start + MS * now), due);
                    }
                }
                let running = Kind::ALL.iter().filter_map(|kind| Some((twin[kind.index()]?, *kind)));
                let first = running.min_by_key(|(at, _)| *at);
                prop_assert_eq!(timers.next(), first.map(|(at, kind)| (start + MS * at, kind)));
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, u32),
        Remove(u8),
        PopDue(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..12_u8, 0..20_u32).prop_map(|(id, at)| Step::Set(id, at)),
            1 => (0..12_u8).prop_map(Step::Remove),
            2 => (0..20_u32).prop_map(Step::PopDue),
        ]
    }

    proptest! {
        #[test]
        fn deadlines_behave_like_a_sorted_list(steps in prop::collection::vec(step(), 1..200)) {
            let start = Instant::now();
            let mut deadlines = Deadlines::new();
            let mut twin: Vec<(u32, u8)> = Vec::new();
            for step in steps {
                match step {
                    Step::Set(id, at) => {
                        deadlines.set(id, start + MS * at);
                        twin.retain(|entry| entry.1 != id);
                        twin.push((at, id));
                        twin.sort_unstable();
                    }
                    Step::Remove(id) => {
                        deadlines.remove(id);
                        twin.retain(|entry| entry.1 != id);
                    }
                    Step::PopDue(now) => {
                        let due = twin.first().copied().filter(|entry| entry.0 <= now);
                        twin.retain(|entry| Some(*entry) != due);
                        prop_assert_eq!(deadlines.pop_due(start + MS * now), due.map(|entry| entry.1));
                    }
                }
                let next = twin.first().map(|&(at, id)| (start + MS * at, id));
                prop_assert_eq!(deadlines.next(), next);
            }
        }
    }
}
