//! The sessions of an endpoint: found by number and peer, or by the number alone; woken when due, and in turn when
//! several are; counted by the place they hold.
//!
//! A call costs the logarithm of their number, whatever the others do: strangers that wait cost a busy session
//! nothing. It does *not* admit anybody and does *not* know what a session says.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::super::packet::{Header, Kind};
use super::super::paths::Path;
use super::super::pull::{Asked, ListAsked, Lister, Pull};
use super::super::receiver::Receiver;
use super::super::sender::Sender;
use super::super::session::{Counter, Proof, Shared};
use super::super::{Command, Failure, Tag, Via};
use crate::engine::Sessions;

/// A session is known by its number and its peer (2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) number: u32,
    pub(super) peer: SocketAddr,
}

impl Key {
    pub(super) fn new(peer: SocketAddr, number: u32) -> Self {
        Self { number, peer }
    }

    /// The least one of a number.
    pub(super) fn least(number: u32) -> Self {
        Self::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), number)
    }
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Roster {
    members: Sessions<Key, Member>,
    /// Those whose peer has shown nothing yet, in no order.
    half_open: Vec<Key>,
    seated: usize,
    sending: usize,
    /// Due, and since when; each has one turn to send before the first has its next.
    ready: VecDeque<(Instant, Key)>,
}

#[derive(Debug)]
struct Member {
    session: Session,
    standing: Standing,
    /// Index among the half-open, if it is one.
    place: usize,
    sending: bool,
    ready: bool,
}

/// What a session holds of what there is not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    HalfOpen,
    /// It moves a stranger's data.
    Seated,
    Other,
}

impl Roster {
    pub(super) fn new() -> Self {
        Self {
            // Strangers are bounded where they are admitted; what the application begins is its own business.
            members: Sessions::new(usize::MAX),
            half_open: Vec::new(),
            seated: 0,
            sending: 0,
            ready: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.members.iter().map(|(_, member)| &member.session)
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.members.contains(key)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Session> {
        self.members.get(key).map(|member| &member.session)
    }

    /// Sessions of one number, whoever the peers are.
    pub(super) fn of_number(&self, number: u32) -> impl Iterator<Item = (Key, &Session)> {
        let from = self.members.range_from(Key::least(number));
        from.take_while(move |(key, _)| key.number == number)
            .map(|(key, member)| (key, &member.session))
    }

    /// Adds a session, in place of one that has its key.
    pub(super) fn insert(&mut self, key: Key, session: Session) {
        self.remove(key);
        let member = Member {
            session,
            standing: Standing::Other,
            place: 0,
            sending: false,
            ready: false,
        };
        let added = self.members.insert(key, member);
        debug_assert!(added.is_ok(), "the key was freed above");
        self.book(key);
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Session> {
        self.stand(key, Standing::Other, false);
        self.members.remove(key).map(|member| member.session)
    }

    /// Calls a session, and books what became of it. What the call returned, and whether the session is closed now.
    pub(super) fn change<R>(
        &mut self,
        key: Key,
        call: impl FnOnce(&mut Session) -> R,
    ) -> Option<(R, bool)> {
        let member = self.members.get_mut(key)?;
        let result = call(&mut member.session);
        let closed = member.session.is_closed();
        self.book(key);
        Some((result, closed))
    }

    /// Calls every sender that is not over.
    pub(super) fn each_sender(&mut self, mut call: impl FnMut(&mut Sender)) {
        let keys: Vec<_> = self.members.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.change(key, |session| match session {
                Session::Sender(it) if !it.is_over() => call(it),
                Session::Sender(_)
                | Session::Receiver(_)
                | Session::Pull(_)
                | Session::Asked(_)
                | Session::Lister(_)
                | Session::ListAsked(_) => {}
            });
        }
    }

    /// How many senders are not over.
    pub(super) fn sending(&self) -> usize {
        self.sending
    }

    /// How many sessions move strangers' data.
    pub(super) fn seated(&self) -> usize {
        self.seated
    }

    /// Those whose peer has shown nothing yet.
    pub(super) fn half_open(&self) -> &[Key] {
        &self.half_open
    }

    /// Finds out who is due. They stay so until each has had a [turn](Self::turn).
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(key) = self.members.pop_due(now) {
            if let Some(member) = self.members.get_mut(key) {
                member.ready = true;
                self.ready.push_back((now, key));
            }
        }
    }

    /// Whoever is due, by index.
    pub(super) fn ready(&self, at: usize) -> Option<Key> {
        self.ready.get(at).map(|(_, key)| *key)
    }

    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Whose turn it is.
    pub(super) fn turn(&mut self) -> Option<Key> {
        let (_, key) = self.ready.pop_front()?;
        if let Some(member) = self.members.get_mut(key) {
            member.ready = false;
        }
        Some(key)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let ready = self.ready.front().map(|(since, _)| *since);
        ready.or_else(|| self.members.next_deadline())
    }

    fn book(&mut self, key: Key) {
        let Some(member) = self.members.get(key) else {
            return;
        };
        let (standing, sending) = (member.session.standing(), member.session.is_sending());
        // Who is due already needs no other date.
        let deadline = member.session.deadline().filter(|_| !member.ready);
        self.stand(key, standing, sending);
        self.members.reschedule(key, deadline);
    }

    fn stand(&mut self, key: Key, standing: Standing, sending: bool) {
        let Some(member) = self.members.get_mut(key) else {
            return;
        };
        self.sending += usize::from(sending);
        self.sending -= usize::from(std::mem::replace(&mut member.sending, sending));
        let was = std::mem::replace(&mut member.standing, standing);
        if was == standing {
            return;
        }
        let place = std::mem::replace(&mut member.place, self.half_open.len());
        self.seated += usize::from(standing == Standing::Seated);
        self.seated -= usize::from(was == Standing::Seated);
        if standing == Standing::HalfOpen {
            self.half_open.push(key);
        }
        if was == Standing::HalfOpen {
            self.half_open.swap_remove(place);
            if let Some(moved) = self.half_open.get(place).copied()
                && let Some(member) = self.members.get_mut(moved)
            {
                member.place = place;
            }
        }
    }
}

#[derive(Debug)]
pub(super) enum Session {
    Sender(Box<Sender>),
    Receiver(Box<Receiver>),
    /// A file this side asked for.
    Pull(Box<Pull>),
    /// A file the peer asked for.
    Asked(Box<Asked>),
    /// A list this side asked for.
    Lister(Box<Lister>),
    /// A list the peer asked for.
    ListAsked(Box<ListAsked>),
}

impl Session {
    pub(super) fn tag(&self) -> Tag {
        match self {
            Self::Sender(it) => it.tag,
            Self::Receiver(it) => it.tag,
            Self::Pull(it) => it.tag,
            Self::Asked(it) => it.tag,
            Self::Lister(it) => it.tag,
            Self::ListAsked(it) => it.tag,
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Sender(it) => it.is_closed(),
            Self::Receiver(it) => it.is_closed(),
            Self::Pull(it) => it.is_closed(),
            Self::Asked(it) => it.is_closed(),
            Self::Lister(it) => it.is_closed(),
            Self::ListAsked(it) => it.is_closed(),
        }
    }

    pub(super) fn is_half_open(&self) -> bool {
        match self {
            Self::Sender(it) => it.is_half_open(),
            Self::Receiver(it) => it.is_half_open(),
            Self::Asked(_) | Self::ListAsked(_) => true,
            Self::Pull(_) | Self::Lister(_) => false,
        }
    }

    /// Whether its peer is where its packets say, or was chosen by this side (E1).
    pub(super) fn is_proved(&self) -> bool {
        match self {
            Self::Sender(it) => it.is_proved(),
            Self::Receiver(it) => it.is_proved(),
            Self::Pull(_) | Self::Lister(_) => true,
            Self::Asked(_) | Self::ListAsked(_) => false,
        }
    }

    /// Whether it takes a share of what all senders may use: requests whose addresses have proved nothing take none.
    fn is_sending(&self) -> bool {
        match self {
            Self::Sender(it) => !it.is_over() && !it.is_half_open(),
            Self::Receiver(_)
            | Self::Pull(_)
            | Self::Asked(_)
            | Self::Lister(_)
            | Self::ListAsked(_) => false,
        }
    }

    fn standing(&self) -> Standing {
        let seated = match self {
            _ if self.is_half_open() => return Standing::HalfOpen,
            Self::Receiver(it) if it.is_idle() => return Standing::HalfOpen,
            Self::Sender(it) => it.is_served() && !it.is_over(),
            Self::Receiver(it) => it.via() != Via::Pull && !it.is_over(),
            Self::Pull(_) | Self::Asked(_) | Self::Lister(_) | Self::ListAsked(_) => false,
        };
        if seated {
            Standing::Seated
        } else {
            Standing::Other
        }
    }

    /// Whether it wants to ask again under another number; asked once.
    pub(super) fn begins_anew(&mut self) -> bool {
        match self {
            Self::Sender(it) => it.begins_anew(),
            Self::Receiver(_)
            | Self::Pull(_)
            | Self::Asked(_)
            | Self::Lister(_)
            | Self::ListAsked(_) => false,
        }
    }

    /// Whether its number must not be used again for a while: something happened under it (4.1.4).
    pub(super) fn is_used(&self) -> bool {
        match self {
            // A stranger that asked for a file, and has shown nothing, may ask again.
            Self::Sender(it) => it.is_proved(),
            Self::Receiver(it) => it.is_used(),
            Self::Pull(_) | Self::Asked(_) | Self::Lister(_) | Self::ListAsked(_) => false,
        }
    }

    pub(super) fn verdict(&self) -> Option<Vec<u8>> {
        match self {
            Self::Receiver(it) => it.verdict(),
            Self::Sender(_)
            | Self::Pull(_)
            | Self::Asked(_)
            | Self::Lister(_)
            | Self::ListAsked(_) => None,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Sender(it) => it.deadline(),
            Self::Receiver(it) => it.deadline(),
            Self::Pull(it) => it.deadline(),
            Self::Asked(it) => Some(it.deadline()),
            Self::Lister(it) => it.deadline(),
            Self::ListAsked(it) => Some(it.deadline()),
        }
    }

    pub(super) fn on_timeout(&mut self, now: Instant, shared: &mut Shared<'_>) {
        match self {
            Self::Sender(it) => it.on_timeout(now, shared),
            Self::Receiver(it) => it.on_timeout(now, shared),
            Self::Pull(it) => it.on_timeout(now, shared),
            Self::Asked(it) => it.on_timeout(now, shared),
            Self::Lister(it) => it.on_timeout(now, shared),
            Self::ListAsked(it) => it.on_timeout(now, shared),
        }
    }

    /// The path of what was polled; `None` is the one it is known by.
    pub(super) fn path(&self) -> Option<Path> {
        match self {
            Self::Sender(it) => Some(it.path()),
            Self::Receiver(it) => Some(it.path()),
            Self::Pull(_) | Self::Asked(_) | Self::Lister(_) | Self::ListAsked(_) => None,
        }
    }

    /// Whether what came by this path, not the one it is known by, may be its peer's.
    pub(super) fn may_use(&self, path: Path, kind: Kind) -> bool {
        match (self, kind) {
            (
                Self::Sender(it),
                Kind::Heartbeat | Kind::Complete | Kind::AckClose | Kind::Reject,
            ) => it.may_use(path),
            (
                Self::Receiver(it),
                Kind::Data | Kind::Parity | Kind::Complete | Kind::AckClose | Kind::Reject,
            ) => it.may_use(path),
            _ => false,
        }
    }

    /// Appends what it has to say; the length of the first datagram.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
        shared: &mut Shared<'_>,
    ) -> Option<usize> {
        match self {
            Self::Sender(it) => it.poll_transmit(now, max_segments, buf, shared),
            Self::Receiver(it) => it.poll_transmit(now, buf, shared).then_some(usize::MAX),
            Self::Pull(it) => it.poll_transmit(buf).then_some(usize::MAX),
            Self::Lister(it) => it.poll_transmit(buf).then_some(usize::MAX),
            Self::Asked(_) | Self::ListAsked(_) => None,
        }
    }

    /// A datagram of so many bytes came from its peer's address.
    pub(super) fn hear(&mut self, now: Instant, len: usize) {
        match self {
            Self::Receiver(it) => it.hear(len),
            Self::Sender(it) => it.hear(now, len),
            Self::Pull(_) | Self::Asked(_) | Self::Lister(_) | Self::ListAsked(_) => {}
        }
    }

    pub(super) fn on_datagram(
        &mut self,
        now: Instant,
        path: Path,
        header: &Header,
        datagram: &mut [u8],
        shared: &mut Shared<'_>,
    ) {
        if !self.is_genuine(now, path, header, datagram) {
            return shared.counters.add(Counter::Refused, 1);
        }
        match (self, header.kind) {
            (Self::Pull(it), Kind::Reject) => it.on_reject(now, header, datagram, shared),
            (Self::Lister(it), Kind::Reject | Kind::ListRes) => {
                it.on_answer(now, header, datagram, shared);
            }
            (Self::Receiver(it), Kind::Data | Kind::Parity) => {
                if it.on_packet(now, path, header, datagram, shared) != Proof::None {
                    it.remind(now);
                }
            }
            (Self::Receiver(it), Kind::Complete | Kind::AckClose | Kind::Reject) => {
                it.on_control(now, header, datagram, shared);
            }
            (Self::Sender(it), Kind::Heartbeat) => {
                it.on_heartbeat(now, header, datagram, shared);
            }
            (
                Self::Sender(it),
                Kind::SessionAccept | Kind::Complete | Kind::AckClose | Kind::Reject,
            ) => {
                it.on_control(now, header, datagram, shared);
            }
            _ => shared.counters.add(Counter::Unexpected, 1),
        }
    }

    /// Whether a control packet was made by the peer, where that can be known (18.7.4).
    fn is_genuine(&mut self, now: Instant, path: Path, header: &Header, datagram: &[u8]) -> bool {
        let control = matches!(
            header.kind,
            Kind::Heartbeat | Kind::Reject | Kind::Complete | Kind::AckClose
        );
        match self {
            Self::Sender(it) if control => it.is_genuine(now, path, datagram),
            Self::Receiver(it) if control => it.is_genuine(datagram),
            Self::Sender(_)
            | Self::Receiver(_)
            | Self::Pull(_)
            | Self::Asked(_)
            | Self::Lister(_)
            | Self::ListAsked(_) => true,
        }
    }

    pub(super) fn on_command(&mut self, now: Instant, command: Command, shared: &mut Shared<'_>) {
        match (self, command) {
            (Self::Pull(it), Command::Abort { reason, .. }) => {
                it.end(now, Failure::Aborted(reason), shared);
            }
            (Self::Lister(it), Command::Abort { reason, .. }) => {
                it.end(now, Failure::Aborted(reason), shared);
            }
            (Self::Receiver(it), Command::Have { ranges, .. }) => it.on_have(now, &ranges, shared),
            (Self::Sender(it), Command::Supply { offset, bytes, .. }) => {
                it.on_supply(now, offset, bytes, shared)
            }
            (Self::Sender(it), Command::Abort { reason, .. }) => it.on_abort(now, reason, shared),
            (Self::Receiver(it), Command::Accept { .. }) => it.on_accept(now, shared),
            (Self::Receiver(it), Command::Stored { len, .. }) => it.on_stored(len, shared.config),
            (Self::Receiver(it), Command::Verified { .. }) => it.on_verified(now, shared),
            (Self::Receiver(it), Command::Abort { reason, .. }) => it.on_abort(now, reason, shared),
            // An answer to a question of the other role: late, after its session's name was used again.
            (
                Self::Sender(_)
                | Self::Receiver(_)
                | Self::Pull(_)
                | Self::Asked(_)
                | Self::Lister(_)
                | Self::ListAsked(_),
                _,
            ) => {}
        }
    }
}
