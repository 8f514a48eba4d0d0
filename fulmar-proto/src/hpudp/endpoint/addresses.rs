//! Sessions found by other addresses than the one they are known by: a daemon's second port, a rebound NAT, one path of
//! several (4.5.4, 4.8, 18.9).
//!
//! It does *not* believe an address: a session's packet proves it, or nothing does.

use std::net::SocketAddr;
use std::time::Instant;

use super::super::packet::{Header, Kind};
use super::super::paths::Path;
use super::super::session::Proof;
use super::Endpoint;
use super::roster::{Key, Session};
use crate::hpudp::Counter;

impl Endpoint {
    /// The push whose daemon speaks from the port it was asked at, though it wants the data at another (4.5.4).
    pub(super) fn at_either_port(&self, key: Key) -> Option<Key> {
        let mut known = self.roster.of_number(key.number);
        let push = known.find(|(_, session)| match session {
            Session::Sender(it) => it.was_asked_at(key.peer),
            Session::Receiver(_)
            | Session::Pull(_)
            | Session::Asked(_)
            | Session::Lister(_)
            | Session::ListAsked(_) => false,
        });
        push.map(|(key, _)| key)
    }

    /// The session that this path, not the one it is known by, belongs to or may belong to (18.9).
    pub(super) fn at_other_path(&self, path: Path, header: &Header) -> Option<Key> {
        let mut known = self.roster.of_number(header.session);
        let session = known.find(|(_, session)| session.may_use(path, header.kind));
        session.map(|(key, _)| key)
    }

    /// A packet of a session whose peer has another address now: a rebound NAT. A sealed packet that opens and is news,
    /// or a heartbeat that echoes a stamp only its receiver can know, proves it (E7); nothing else does.
    pub(super) fn on_rebound(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        datagram: &mut [u8],
    ) {
        let found = self.roster.of_number(header.session).find(|(_, session)| {
            match (session, header.kind) {
                (Session::Sender(_), Kind::Heartbeat) => true,
                (Session::Receiver(it), Kind::Data | Kind::Parity) => {
                    it.encrypted() && !it.is_half_open() && !it.is_over()
                }
                _ => false,
            }
        });
        let Some(old) = found.map(|(key, _)| key) else {
            self.common.counters.add(Counter::Stray, 1);
            return;
        };
        let proved = self.with(now, old, |session, shared| match session {
            Session::Sender(it) => {
                it.on_heartbeat_from_elsewhere(now, from, header, datagram, shared)
            }
            Session::Receiver(it) => {
                let path = Path {
                    socket: 0,
                    peer: from,
                };
                it.on_packet(now, path, header, datagram, shared)
            }
            Session::Pull(_) | Session::Asked(_) | Session::Lister(_) | Session::ListAsked(_) => {
                Proof::None
            }
        });
        match proved {
            Some(Proof::Fresh) => {
                let new = Key::new(from, header.session);
                if let Some(mut session) = self.roster.remove(old) {
                    match &mut session {
                        Session::Sender(it) => it.on_moved(now, from, &self.common.config),
                        Session::Receiver(it) => it.on_moved(from),
                        Session::Pull(_)
                        | Session::Asked(_)
                        | Session::Lister(_)
                        | Session::ListAsked(_) => {}
                    }
                    self.enrol(new, session);
                    self.common.counters.add(Counter::Rebound, 1);
                    self.with(now, new, |session, shared| {
                        if let Session::Sender(it) = session {
                            it.on_heartbeat(now, header, datagram, shared);
                        }
                    });
                }
            }
            // A sender whose address changed at the very end has nothing new to say; how it ended it may know.
            Some(Proof::Old) => {
                if let Some(verdict) = self.roster.get(old).and_then(Session::verdict) {
                    self.reply(now, from, verdict);
                }
            }
            Some(Proof::None) | None => {}
        }
    }

    /// PUSH_ACCEPT. The daemon may name another port, and may answer from either (4.5.4).
    pub(super) fn on_push_accept(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        datagram: &[u8],
    ) {
        let key = Key::new(from, header.session);
        let port = self.with(now, key, |session, shared| match session {
            Session::Sender(it) => it.on_push_accept(now, header, datagram, shared),
            Session::Receiver(_)
            | Session::Pull(_)
            | Session::Asked(_)
            | Session::Lister(_)
            | Session::ListAsked(_) => {
                shared.counters.add(Counter::Unexpected, 1);
                None
            }
        });
        let Some(port) = port else {
            return self.common.counters.add(Counter::Stray, 1);
        };
        let Some(port) = port.filter(|port| *port != 0 && *port != from.port()) else {
            return;
        };
        if let Some(mut session) = self.roster.remove(key) {
            let new = Key::new(SocketAddr::new(from.ip(), port), key.number);
            if let Session::Sender(it) = &mut session {
                it.on_port(new.peer);
            }
            self.enrol(new, session);
        }
    }
}
