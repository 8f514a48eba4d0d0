//! How a receiver's session begins: the offer, whether it can be, the answer to it and the keys (3.2, 4, 5, 18.7).
//!
//! It does *not* decide whether the file is welcome: the application does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::super::blocks::Blocks;
use super::super::config::{CHUNK_PLAIN, CHUNK_SEALED, Config, FILE_MAX, Layout, NAME_MAX};
use super::super::keys::{self, Bound, Host, Role};
use super::super::packet::{
    Extension, Kind, PushAccept, PushReq, SessionReq, control, feature, flag,
};
use super::super::paths::Paths;
use super::super::pull::Pull;
use super::super::session::{Counter, Shared, Timer};
use super::beat::{Arrivals, Beat, Train, extension};
use super::{REMIND_SPACING, Receiver, State};
use crate::crypto::Secret;
use crate::engine::{Ledger, Timers};
use crate::hpudp::{Event, Failure, Reason, Tag, Via};

/// What a peer wants to send, however it said so.
#[derive(Clone, Debug)]
pub(in crate::hpudp) struct Offer {
    pub(in crate::hpudp) via: Via,
    pub(in crate::hpudp) size: u64,
    /// A push tells it with the SESSION_REQ that follows (4.5.3); nothing is taken before.
    pub(super) hash: Option<u64>,
    pub(super) key: Option<[u8; 32]>,
    pub(in crate::hpudp) name: Vec<u8>,
    pub(super) extension: Option<Extension>,
    pub(super) layout: Layout,
    /// PUSH_REQ of a later dialect, answered in kind.
    pub(super) portless: bool,
}

impl Offer {
    pub(in crate::hpudp) fn from_request(request: SessionReq, via: Via) -> Self {
        Self {
            via,
            size: request.size,
            hash: Some(request.hash),
            key: request.key,
            name: request.name,
            extension: request.extension,
            layout: dialect(request.nul_counted),
            portless: false,
        }
    }

    pub(in crate::hpudp) fn from_push(request: PushReq) -> Self {
        Self {
            via: Via::Push,
            size: request.size,
            hash: request.hash,
            key: request.key,
            name: request.name,
            extension: request.extension,
            // The later dialect sends no SESSION_REQ to tell its field order by; there is but one lineage of it.
            layout: dialect(request.hash.is_some()),
            portless: request.hash.is_some(),
        }
    }

    /// Why it cannot be, before anything is asked of the application (4.2).
    pub(in crate::hpudp) fn check(&self, config: &Config) -> Result<(), Reason> {
        let extension = self.extension.as_ref().filter(|_| config.extensions);
        let empty = extension.is_some_and(|it| it.has(feature::EMPTY));
        let sized = self.size <= FILE_MAX && (self.size > 0 || empty);
        if !sized || self.name.is_empty() || self.name.len() > NAME_MAX {
            return Err(Reason::INVALID);
        }
        if config.require_encryption && self.key.is_none() {
            return Err(Reason::NEEDS_ENCRYPTION);
        }
        if self.portless && self.key.is_some() {
            // That dialect seals data and parity with one nonce (19.2).
            return Err(Reason::NO_ENCRYPTION);
        }
        Ok(())
    }

    fn bundle(&self, config: &Config) -> bool {
        config.extensions && self.extension.as_ref().is_some_and(|it| it.bundle)
    }
}

/// Counted or not, the NUL of a name is the fingerprint of who sends it (3.1, 7.2.5).
fn dialect(nul_counted: bool) -> Layout {
    if nul_counted {
        Layout::Reference
    } else {
        Layout::Text
    }
}

/// What a new session needs besides the offer.
pub(in crate::hpudp) struct Start<'a> {
    pub(in crate::hpudp) now: Instant,
    pub(in crate::hpudp) tag: Tag,
    pub(in crate::hpudp) peer: SocketAddr,
    pub(in crate::hpudp) id: u32,
    /// The datagram that offers.
    pub(in crate::hpudp) raw: &'a [u8],
    /// This side's fresh key.
    pub(in crate::hpudp) secret: &'a Secret,
    /// This side asked for it.
    pub(in crate::hpudp) pull: Option<&'a Pull>,
}

impl Receiver {
    /// A session for an offer that was found valid.
    pub(in crate::hpudp) fn new(
        start: &Start<'_>,
        offer: Offer,
        shared: &mut Shared<'_>,
    ) -> Result<Self, Failure> {
        let &Start {
            now,
            tag,
            peer,
            id,
            raw,
            pull,
            ..
        } = start;
        let config = shared.config;
        let theirs = offer.extension.as_ref().filter(|_| config.extensions);
        let extended = theirs.is_some();
        let bundle = offer.bundle(config);
        let bound = theirs.is_some_and(|it| it.has(feature::KEYS)) && offer.key.is_some();
        let ours = theirs.map(|theirs| Extension {
            bundle,
            host_key: config
                .host_key
                .as_ref()
                .filter(|_| bound && pull.is_none())
                .map(|host| host.public()),
            features: feature::answering(theirs.features),
            ..extension(config, None)
        });
        // This side asked for several only if it has the sockets.
        let several = bound && theirs.is_some_and(|it| it.has(feature::PATHS));
        let accept = match offer.via {
            Via::Pull => None,
            Via::Push => Some(
                PushAccept {
                    port: (!offer.portless).then_some(config.port),
                    key: offer.key.map(|_| start.secret.public()),
                    extension: ours,
                }
                .encode(id),
            ),
            Via::Direct if offer.key.is_some() || bundle => {
                let key = offer.key.map(|_| start.secret.public());
                let (payload, flags) = key.as_ref().map_or((&[][..], 0), |key| (key, flag::SEALED));
                let mut bytes = control(Kind::SessionAccept, id, payload, flags);
                if let Some(ours) = &ours {
                    ours.encode(&mut bytes, None);
                }
                Some(bytes)
            }
            Via::Direct => None,
        };
        let identity = theirs
            .and_then(|it| it.host_key)
            .filter(|_| bound && pull.is_some());
        if let Some(pull) = pull {
            if pull.wish.encrypt != offer.key.is_some() {
                return Err(Failure::Refused(Reason::NO_ENCRYPTION));
            }
            pull.wish.trust.check(identity.as_ref())?;
            // Something else than was asked for (4.5.6).
            let named = bundle || offer.name == pull.wish.name.as_bytes();
            if !named || (bundle && !pull.wish.bundle) {
                return Err(Failure::Aborted(Reason::INVALID));
            }
        }
        let mut opener = None;
        let mut control = None;
        if let Some(key) = &offer.key {
            let host = match (&identity, &config.host_key) {
                (Some(host), _) => Host::Theirs(host),
                (None, Some(host)) if pull.is_none() => Host::Ours(host),
                (None, _) => Host::None,
            };
            let bound = bound.then(|| Bound {
                request: pull.map_or(raw, |pull| &pull.asked),
                answer: accept.as_deref().unwrap_or(raw),
                host,
            });
            let keys = keys::agree(start.secret, key, id, bound.as_ref()).ok_or(Failure::BadKey)?;
            opener = keys.opener();
            control = keys.control(Role::Receiver);
        }
        let chunk = if opener.is_some() {
            CHUNK_SEALED
        } else {
            CHUNK_PLAIN
        };
        // The daemon was chosen by this side, and lives on what our heartbeats pay for until it has proved us (19.5.4).
        let mut ledger = Ledger::default();
        if pull.is_some() && extended {
            ledger.prove();
        }
        let mut timers = Timers::new();
        timers.set(Timer::Inactivity, now + config.inactivity);
        let mut paths = Paths::one(now, peer);
        if several {
            paths.open(now, if pull.is_some() { config.sockets } else { 1 });
        }
        let it = Self {
            tag,
            peer,
            paths,
            id,
            layout: config.layout.unwrap_or(offer.layout),
            extended,
            state: State::Offered,
            opener,
            control,
            accept,
            chunk,
            blocks: Blocks::new(offer.size, chunk),
            offer,
            raw: raw.to_vec(),
            timers,
            outgoing: VecDeque::new(),
            started: now,
            arrivals: Arrivals {
                count: 0,
                last: now,
                echo: 0,
                highest: 0,
                highest_at: now,
                fresh: 0,
            },
            beat: Beat {
                due: false,
                last: now,
                delivery: 0.0,
                smooth: 0.0,
                loss: 0,
                cursor: 0,
                len: 0,
                idle: true,
                told: 0,
            },
            train: Train::default(),
            early: Vec::new(),
            unstored: 0,
            stored_since_beat: 0,
            throttled: false,
            duplicates: 0,
            parities: 0,
            data: 0,
            answered_at: None,
            heard: now,
            ledger,
            verdict: None,
            accepts: 0,
        };
        shared.events.push_back(Event::Offered {
            tag,
            from: peer,
            name: it.offer.name.clone(),
            size: it.offer.size,
            hash: it.offer.hash,
            encrypted: it.opener.is_some(),
            via: it.offer.via,
            bundle,
            identity,
            paths: several,
        });
        Ok(it)
    }

    /// The SESSION_REQ that follows an accepted PUSH_REQ and tells the hash (4.5.3). `false` when it is none, or says
    /// something else than the push did.
    pub(in crate::hpudp) fn on_push_data(
        &mut self,
        now: Instant,
        request: &SessionReq,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) -> bool {
        let offer = &self.offer;
        let same =
            offer.via == Via::Push && offer.size == request.size && offer.name == request.name;
        let key = request.key.is_none() || request.key == offer.key;
        if !same || !key || offer.hash.is_some_and(|hash| hash != request.hash) {
            return false;
        }
        if self.control.is_some() && !(request.is_signed() && self.is_genuine(datagram)) {
            shared.counters.add(Counter::Refused, 1);
            return true;
        }
        self.hear(datagram.len());
        self.offer.hash = Some(request.hash);
        if self.beat.len == 0 {
            self.layout = dialect(request.nul_counted);
        }
        self.heard = now;
        match self.state {
            State::Offered => {}
            State::Receiving => {
                self.beat.due |= self.may_answer(now, REMIND_SPACING);
                self.verify_if_whole(now, shared);
            }
            State::Verifying | State::Complete { .. } | State::Lingering | State::Closed => {
                self.remind(now);
            }
        }
        true
    }
}
