//! The paths of one session: which socket here and which address there lead to the peer, and whose turn it is (18.9).
//!
//! A session begins on one path. If both sides can and its packets are authenticated it may have more: those through
//! this side's further sockets, or those its peer was heard on. What is said goes over the live ones in turn; one that is
//! not live is tried from time to time, by one packet. [`Paths`] does *not* know what makes a path live: the two halves
//! of a session tell it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::engine::Ledger;

/// One way to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Which of this side's sockets.
    pub(super) socket: u8,
    pub(super) peer: SocketAddr,
}

/// All paths of a session, each with what its half of the session keeps for it.
#[derive(Debug)]
pub(super) struct Paths<T> {
    /// Never empty; until there are more, the one where the session began.
    list: Vec<Member<T>>,
    /// Who spoke last.
    turn: usize,
    open: bool,
    /// They are this side's sockets. Otherwise they are addresses the peer was heard at, and come and go.
    own: bool,
}

#[derive(Debug)]
pub(super) struct Member<T> {
    pub(super) path: Path,
    pub(super) live: bool,
    pub(super) of: T,
    /// What an address may draw that was heard from and not reached yet (19.5.1).
    ledger: Ledger,
    heard: Instant,
    /// When it is tried next while it is not live, and how long after that.
    look_at: Instant,
    again: Duration,
    tries: u8,
}

impl<T: Default> Paths<T> {
    /// The one on which a session begins.
    pub(super) fn one(now: Instant, peer: SocketAddr) -> Self {
        let mut first = Member::new(now, Path { socket: 0, peer });
        first.live = true;
        first.ledger.prove();
        Self {
            list: vec![first],
            turn: 0,
            open: false,
            own: false,
        }
    }

    /// From now on there may be more: through so many sockets of this side, or, if it is one, as the peer is heard.
    pub(super) fn open(&mut self, now: Instant, sockets: u8) {
        self.open = true;
        self.own = sockets > 1;
        let peer = self.list[0].path.peer;
        for socket in 1..sockets.min(PATHS_MAX) {
            // The peer was chosen by this side.
            let mut member = Member::new(now, Path { socket, peer });
            member.ledger.prove();
            self.list.push(member);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member<T>> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member<T>> {
        self.list.iter_mut()
    }

    pub(super) fn find(&mut self, path: Path) -> Option<&mut Member<T>> {
        self.list.iter_mut().find(|it| it.path == path)
    }

    /// Whether a packet that came by this path is to be looked at: it is one of them, or could become one.
    pub(super) fn may_be(&self, path: Path) -> bool {
        let known = self.list.iter().any(|it| it.path == path);
        known || self.open && !self.own && self.list[0].path.peer.ip() == path.peer.ip()
    }

    /// An authentic packet of so many bytes, never seen before, came by this path.
    pub(super) fn hear(&mut self, now: Instant, path: Path, len: usize) -> Option<&mut Member<T>> {
        if !self.open || !self.may_be(path) {
            return None;
        }
        if !self.own {
            self.forget(now, path);
        }
        let at = match self.list.iter().position(|it| it.path == path) {
            Some(at) => at,
            None if self.list.len() < usize::from(PATHS_MAX) => {
                self.list.push(Member::new(now, path));
                self.list.len() - 1
            }
            None => return None,
        };
        let member = &mut self.list[at];
        member.heard = now;
        member.ledger.hear(len);
        Some(member)
    }

    /// Leaves addresses that have been silent; but of the live ones, to which more may be said than they paid for, one
    /// stays until another has shown that it works.
    fn forget(&mut self, now: Instant, speaks: Path) {
        let stays = |it: &Member<T>| it.path == speaks || now.duration_since(it.heard) < FORGOTTEN;
        let live = || self.list.iter().filter(|it| it.live);
        let last = live().max_by_key(|it| it.heard).map(|it| it.path);
        let last = last.filter(|_| !live().any(stays));
        let before = self.list.len();
        self.list.retain(|it| stays(it) || Some(it.path) == last);
        if self.list.len() < before {
            self.turn = 0;
        }
    }

    /// The peer is at another address altogether.
    pub(super) fn move_to(&mut self, peer: SocketAddr) {
        if !self.own {
            self.list.truncate(1);
        }
        self.turn = 0;
        for member in &mut self.list {
            member.path.peer = peer;
        }
    }

    /// Where what is said now goes.
    pub(super) fn current(&self) -> Path {
        self.list[self.turn].path
    }

    pub(super) fn current_mut(&mut self) -> &mut Member<T> {
        &mut self.list[self.turn]
    }

    /// Gives the turn to the next live path; if none is, to the next.
    pub(super) fn next(&mut self) {
        self.give(|it| it.live);
    }

    /// Gives the turn to the next path by which anything ever arrived, live or not.
    pub(super) fn next_of_all(&mut self) {
        self.give(|it| it.ledger.is_proved());
    }

    fn give(&mut self, may: impl Fn(&Member<T>) -> bool) {
        let count = self.list.len();
        let mut turns = (1..=count).map(|step| (self.turn + step) % count);
        self.turn = turns.find(|at| may(&self.list[*at])).unwrap_or(0);
    }

    /// Gives the turn to a path that is to be tried now by one datagram of so many bytes, if there is one.
    pub(super) fn look(&mut self, now: Instant, len: usize) -> bool {
        let due = |it: &mut Member<T>| !it.live && it.look_at <= now && it.ledger.say(len);
        let Some(at) = self.list.iter_mut().position(due) else {
            return false;
        };
        self.turn = at;
        let member = &mut self.list[at];
        member.tries = member.tries.saturating_add(1);
        if member.tries >= TRIES {
            member.look_at = now + member.again;
            member.again = (member.again * 2).min(LOOK_MAX);
        }
        true
    }

    /// Takes those for dead that `lost` says are, but never the last one that is live.
    pub(super) fn bury(&mut self, now: Instant, lost: impl Fn(&Member<T>) -> bool) {
        let mut live = self.list.iter().filter(|it| it.live).count();
        for member in &mut self.list {
            if live > 1 && member.live && lost(member) {
                live -= 1;
                member.live = false;
                member.look_at = now + LOOK_MAX;
                member.again = LOOK_MAX;
                member.tries = TRIES;
                member.of = T::default();
            }
        }
    }

    /// Takes those for dead that nothing has come by for a while, though something came by others.
    pub(super) fn bury_silent(&mut self, now: Instant) {
        let last = self.list.iter().map(|it| it.heard).max();
        self.bury(now, |it| {
            last.is_some_and(|last| last.duration_since(it.heard) > SILENT)
        });
    }
}

impl<T: Default> Member<T> {
    fn new(now: Instant, path: Path) -> Self {
        Self {
            path,
            live: false,
            of: T::default(),
            ledger: Ledger::default(),
            heard: now,
            look_at: now,
            again: LOOK_MIN,
            tries: 0,
        }
    }

    /// Packets that left by it arrive.
    pub(super) fn works(&mut self) {
        self.live = true;
        self.again = LOOK_MIN;
        self.ledger.prove();
    }
}

/// Paths of a session.
pub(super) const PATHS_MAX: u8 = 16;
/// Tries of a new path that need not wait: as many heartbeats as pay for one packet back.
const TRIES: u8 = 4;
/// Spacing of further tries of a path that is not live; doubled from the one to the other.
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// A path that nothing came by for so long, while something came by others, carries no answers.
const SILENT: Duration = Duration::from_secs(1);
/// An address of the peer that was silent for so long is none any more.
const FORGOTTEN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn path(port: u16) -> Path {
        Path {
            socket: 0,
            peer: at(port),
        }
    }

    #[test]
    fn live_paths_take_turns_and_the_last_one_stays() {
        let now = Instant::now();
        let mut paths = Paths::<()>::one(now, at(1));
        paths.open(now, 4);
        paths.next();
        assert_eq!(
            paths.current().socket,
            0,
            "no other has shown that it works"
        );
        let mut tried = Vec::new();
        while paths.look(now, 1400) {
            tried.push(paths.current().socket);
            paths.current_mut().works();
        }
        let mut dead = Paths::<()>::one(now, at(1));
        dead.open(now, 2);
        let tries = (0..20).filter(|_| dead.look(now, 1400)).count();
        assert_eq!(tries, usize::from(TRIES));
        assert_eq!(tried, [1, 2, 3]);
        paths.bury(now, |it| it.path.socket == 2);
        let turns: Vec<u8> = std::iter::repeat_with(|| {
            paths.next();
            paths.current().socket
        })
        .take(6)
        .collect();
        assert_eq!(turns, [0, 1, 3, 0, 1, 3]);
        paths.bury(now, |_| true);
        assert_eq!(paths.iter().filter(|it| it.live).count(), 1);
        assert!(!paths.look(now + LOOK_MAX / 2, 1400) && paths.look(now + LOOK_MAX, 1400));
    }

    #[test]
    fn an_address_draws_no_more_than_it_paid_for_until_it_is_reached() {
        let now = Instant::now();
        let mut paths = Paths::<()>::one(now, at(1));
        assert!(paths.hear(now, path(2), 9000).is_none(), "one path only");
        paths.open(now, 1);
        let elsewhere = SocketAddr::from(([192, 0, 2, 9], 1));
        let elsewhere = Path {
            socket: 0,
            peer: elsewhere,
        };
        assert!(paths.hear(now, elsewhere, 9000).is_none(), "another host");
        paths.hear(now, path(2), 466).unwrap();
        assert!(!paths.look(now, 1400), "466 * 3 < 1400");
        paths.hear(now, path(2), 1).unwrap();
        assert!(paths.look(now, 1400));
        assert_eq!(paths.current(), path(2));
        let later = now + LOOK_MIN;
        assert!(!paths.look(later, 1400), "it was not reached yet");
    }

    #[test]
    fn addresses_are_bounded_and_forgotten() {
        let now = Instant::now();
        let mut paths = Paths::<()>::one(now, at(1));
        paths.open(now, 1);
        for port in 2..=16 {
            assert!(paths.hear(now, path(port), 1).is_some());
        }
        assert!(paths.hear(now, path(17), 1).is_none(), "no more than 16");
        let later = now + FORGOTTEN;
        assert!(paths.hear(later, path(17), 1).is_some());
        assert_eq!(paths.iter().count(), 2, "all the others were silent");
        paths.next();
        assert_eq!(
            paths.current(),
            path(1),
            "nothing arrived at the new one yet"
        );
        paths.hear(later, path(17), 1).unwrap().works();
        paths.hear(later, path(17), 1).unwrap();
        paths.next();
        assert_eq!((paths.iter().count(), paths.current()), (1, path(17)));
    }
}
