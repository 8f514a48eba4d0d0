//! The sessions of an endpoint: [`Sessions`].
//!
//! An ordered map with one deadline for each entry and a bound on their number. Order is that of the names, so what
//! a peer sees does not depend on a hash. It does *not* choose names and does *not* judge whether a stranger deserves
//! a place: that comes before [`Sessions::insert`].

use std::collections::BTreeMap;
use std::time::Instant;

use super::Deadlines;

/// Sessions by name, at most a fixed number of them, each with at most one deadline.
#[derive(Clone, Debug)]
pub struct Sessions<Id, S> {
    entries: BTreeMap<Id, S>,
    deadlines: Deadlines<Id>,
    limit: usize,
}

impl<Id: Copy + Ord, S> Sessions<Id, S> {
    /// Room for `limit` sessions.
    pub const fn new(limit: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            deadlines: Deadlines::new(),
            limit,
        }
    }

    /// Adds a session without a deadline.
    ///
    /// # Errors
    ///
    /// Gives the session back when there is no room, or when the name is taken: a newcomer never ends a session that
    /// lives.
    pub fn insert(&mut self, id: Id, session: S) -> Result<(), S> {
        if self.is_full() || self.entries.contains_key(&id) {
            return Err(session);
        }
        self.entries.insert(id, session);
        Ok(())
    }

    /// The session of that name.
    pub fn get(&self, id: Id) -> Option<&S> {
        self.entries.get(&id)
    }

    /// The session of that name. [`reschedule`](Self::reschedule) it afterwards.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut S> {
        self.entries.get_mut(&id)
    }

    /// Takes a session out, and its deadline with it.
    pub fn remove(&mut self, id: Id) -> Option<S> {
        self.deadlines.remove(id);
        self.entries.remove(&id)
    }

    /// Whether there is a session of that name.
    pub fn contains(&self, id: Id) -> bool {
        self.entries.contains_key(&id)
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether another session would be refused.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.limit
    }

    /// All sessions, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &S)> {
        self.entries.iter().map(|(&id, session)| (id, session))
    }

    /// The sessions from this name on, in the order of their names.
    pub fn range_from(&self, id: Id) -> impl Iterator<Item = (Id, &S)> {
        self.entries.range(id..).map(|(&id, session)| (id, session))
    }

    /// All sessions, in the order of their names.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Id, &mut S)> {
        self.entries.iter_mut().map(|(&id, session)| (id, session))
    }

    /// Sets the deadline of a session, or takes it away. A name that is not there gets none.
    pub fn reschedule(&mut self, id: Id, at: Option<Instant>) {
        match at {
            Some(at) if self.contains(id) => self.deadlines.set(id, at),
            _ => self.deadlines.remove(id),
        }
    }

    /// The earliest deadline of all.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next().map(|(at, _)| at)
    }

    /// Takes the earliest deadline if it is due at `now`, and names its session, which stays and has no deadline
    /// until it is [rescheduled](Self::reschedule).
    pub fn pop_due(&mut self, now: Instant) -> Option<Id> {
        self.deadlines.pop_due(now)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_newcomer_is_refused_when_full_or_of_a_living_name() {
        let mut sessions = Sessions::new(2);
        assert_eq!(sessions.insert(7, 'a'), Ok(()));
        assert_eq!(sessions.insert(7, 'b'), Err('b'));
        assert_eq!(sessions.get(7), Some(&'a'));
        assert_eq!(sessions.insert(3, 'c'), Ok(()));
        assert!(sessions.is_full());
        assert_eq!(sessions.insert(9, 'd'), Err('d'));
        assert_eq!(sessions.remove(7), Some('a'));
        assert_eq!(sessions.insert(9, 'd'), Ok(()));
        sessions
            .iter_mut()
            .for_each(|(_, session)| session.make_ascii_uppercase());
        assert_eq!(sessions.iter().collect::<Vec<_>>(), [(3, &'C'), (9, &'D')]);
        assert_eq!(sessions.range_from(4).collect::<Vec<_>>(), [(9, &'D')]);
        assert_eq!(
            (sessions.len(), sessions.is_empty(), sessions.contains(7)),
            (2, false, false)
        );
    }

    #[test]
    fn deadlines_live_and_die_with_their_sessions() {
        let now = Instant::now();
        let mut sessions = Sessions::new(8);
        for id in 1..=4 {
            assert_eq!(sessions.insert(id, ()), Ok(()));
            sessions.reschedule(id, Some(now + MS * 10));
        }
        sessions.reschedule(99, Some(now));
        assert_eq!(
            sessions.next_deadline(),
            Some(now + MS * 10),
            "a stranger has no deadline"
        );
        sessions.reschedule(3, Some(now + MS * 5));
        sessions.reschedule(2, None);
        sessions.remove(1);
        assert_eq!(sessions.pop_due(now + MS * 4), None);
        assert_eq!(sessions.pop_due(now + MS * 20), Some(3));
        assert_eq!(sessions.pop_due(now + MS * 20), Some(4));
        assert_eq!(sessions.pop_due(now + MS * 20), None);
        assert!(
            sessions.contains(3) && sessions.contains(4),
            "what was due stays"
        );
        assert_eq!(sessions.next_deadline(), None);
    }
}
