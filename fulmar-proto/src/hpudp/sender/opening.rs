//! How a sender's session begins: what is asked, what is answered, and the keys that come of it (4, 5, 18.7).
//!
//! It does *not* wait: the request's timer is the session's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::config::{
    BLOCK, CHUNK_PLAIN, CHUNK_SEALED, Config, HEADER, WINDOW_BLOCKS_EXTENDED,
};
use super::super::feedback::{Feedback, Marks};
use super::super::keys::{self, Bound, Host};
use super::super::packet::{Extension, Header, Kind, PushAccept, PushReq, SessionReq, feature};
use super::super::paths::Paths;
use super::super::pull::Asked;
use super::super::rate::Controller;
use super::super::session::{Counter, Shared, Timer};
use super::{Counts, FIRST_SILENCE, PACER_BURST, PROGRESS, START_PARITY, Sender, State};
use crate::crypto::Secret;
use crate::engine::{Bitrate, Pacer, RangeSet, ReplayWindow, RttEstimator, SendWindow, Timers};
use crate::fec::{BlockEncoder, Scheme};
use crate::hpudp::{Event, Failure, Reason, Request, Tag, Trust, Via};

/// What a new session needs of its endpoint.
#[derive(Debug)]
pub(in crate::hpudp) struct Start {
    pub(in crate::hpudp) id: u32,
    /// This side's fresh key, used if contents are encrypted.
    pub(in crate::hpudp) secret: Secret,
    /// A random number, the origin of the stamps.
    pub(in crate::hpudp) base: u64,
}

impl Sender {
    /// Asks the receiver.
    pub(in crate::hpudp) fn call(
        now: Instant,
        tag: Tag,
        request: Request,
        start: Start,
        shared: &mut Shared<'_>,
    ) -> Self {
        let config = shared.config;
        let asking = config.extensions.then(|| feature::asking(config.sockets));
        let asked = Self::first_request(&request, &start, asking);
        let patience = match request.via {
            Via::Direct | Via::Pull => config.request_timeout,
            Via::Push => config.call_timeout,
        };
        // Who must answer before anything is sent: whoever has to give a key, a place, or word about bundles.
        let state = match request.via {
            Via::Direct if !request.encrypt && !request.bundle => State::Streaming,
            Via::Direct | Via::Push | Via::Pull => State::Requesting,
        };
        let mut it = Self::new(now, tag, request, start, config, state, config.burst);
        it.outgoing.push_back(asked.clone());
        it.asked = asked;
        it.timers.set(Timer::Patience, now + patience);
        it.ask(shared);
        it
    }

    /// Answers a peer that asked for a file (4.5). Until it echoes a stamp, or signs, it may be anybody.
    pub(in crate::hpudp) fn serve(
        now: Instant,
        asked: &Asked,
        request: Request,
        start: Start,
        shared: &mut Shared<'_>,
    ) -> Result<Self, Failure> {
        let config = shared.config;
        let theirs = asked
            .request
            .extension
            .clone()
            .filter(|_| config.extensions);
        let key = asked.request.key.map(|_| start.secret.public());
        let bound = key.is_some() && theirs.as_ref().is_some_and(|it| it.has(feature::KEYS));
        let host = config.host_key.as_deref().filter(|_| bound);
        let paths = bound && theirs.as_ref().is_some_and(|it| it.has(feature::PATHS));
        let extension = theirs.as_ref().map(|theirs| Extension {
            host_key: host.map(Secret::public),
            ..ours(&request, feature::answering(theirs.features))
        });
        let answer = Self::session_request(&request, key, extension).encode(start.id, None);
        let mut keys = None;
        if let Some(peer) = &asked.request.key {
            let bound = bound.then(|| Bound {
                request: &asked.raw,
                answer: &answer,
                host: host.map_or(Host::None, Host::Ours),
            });
            let agreed = keys::agree(&start.secret, peer, start.id, bound.as_ref());
            keys = Some(agreed.ok_or(Failure::BadKey)?);
        }
        // The first packet waits for the echo, so a burst would measure nothing.
        let mut it = Self::new(now, asked.tag, request, start, config, State::Streaming, 0);
        it.outgoing.push_back(answer.clone());
        it.asked = answer;
        it.extension = theirs;
        it.gate = Some(asked.ledger);
        it.wish = asked.raw.clone();
        if let Some(keys) = keys {
            it.install(&keys, shared);
        }
        if paths {
            it.open_paths(now, 1);
        }
        it.timers.set(Timer::Patience, now + config.request_timeout);
        it.ask(shared);
        Ok(it)
    }

    /// SESSION_REQ or PUSH_REQ, with our extension block or without.
    fn first_request(request: &Request, start: &Start, asking: Option<u32>) -> Vec<u8> {
        let key = request.encrypt.then(|| start.secret.public());
        let extension = asking.map(|asking| ours(request, asking));
        match request.via {
            Via::Direct | Via::Pull => {
                Self::session_request(request, key, extension).encode(start.id, None)
            }
            Via::Push => PushReq {
                size: request.size,
                hash: None,
                key,
                name: request.name.clone().into_bytes(),
                extension,
            }
            .encode(start.id),
        }
    }

    /// Whether nothing has answered, and a peer that drops what it does not understand may be why (18.4.5). Whoever
    /// has something to prove, or is to take a bundle, is not asked without the block.
    pub(super) fn may_begin_anew(&self) -> bool {
        let waits = !self.answered && self.doubt.is_none() && self.gate.is_none();
        let free = self.request.trust == Trust::Anyone && !self.request.bundle;
        waits && free && self.extends
    }

    /// Whether it is time to; asked once.
    pub(in crate::hpudp) fn begins_anew(&mut self) -> bool {
        std::mem::take(&mut self.anew)
    }

    /// Asks again without the extension block, under another number and with another key: as a peer of v5.0 would.
    pub(in crate::hpudp) fn begin_anew(&mut self, now: Instant, start: Start, config: &Config) {
        self.extends = false;
        self.asked = Self::first_request(&self.request, &start, None);
        self.id = start.id;
        self.secret = self.request.encrypt.then_some(start.secret);
        self.start_over(now);
        self.outgoing.clear();
        self.outgoing.push_back(self.asked.clone());
        self.asks = 1;
        self.retry = config.request_retry;
        self.timers.set(Timer::Request, now + self.retry);
        self.timers
            .set(Timer::Patience, now + config.request_timeout / 3);
    }

    fn session_request(
        request: &Request,
        key: Option<[u8; 32]>,
        extension: Option<Extension>,
    ) -> SessionReq {
        SessionReq {
            size: request.size,
            hash: request.hash,
            rate: 0,
            key,
            name: request.name.clone().into_bytes(),
            nul_counted: false,
            extension,
        }
    }

    fn new(
        now: Instant,
        tag: Tag,
        request: Request,
        start: Start,
        config: &Config,
        state: State,
        burst: u64,
    ) -> Self {
        let chunk = if request.encrypt {
            CHUNK_SEALED
        } else {
            CHUNK_PLAIN
        };
        let controller = Controller::new(config);
        let rate = Bitrate::from_bytes_per_sec(controller.rate() as u64);
        let mut timers = Timers::new();
        timers.set(Timer::Request, now + config.request_retry);
        timers.set(Timer::Progress, now + PROGRESS);
        let home = request.to;
        Self {
            tag,
            peer: home,
            paths: Paths::one(now, home),
            seen: None,
            id: start.id,
            outgoing: VecDeque::new(),
            asked: Vec::new(),
            gate: None,
            wish: Vec::new(),
            identity: None,
            control: None,
            awaited: VecDeque::new(),
            had: RangeSet::new(),
            retry: config.request_retry,
            asks: 1,
            doubt: None,
            extends: config.extensions,
            anew: false,
            state,
            secret: request.encrypt.then_some(start.secret),
            sealer: None,
            peer_key: None,
            unheard_from: 0,
            answered: false,
            proved: false,
            extension: None,
            layout: None,
            chunk,
            total: request.size.div_ceil(chunk as u64),
            request,
            window: SendWindow::with_capacity(WINDOW_BLOCKS_EXTENDED as usize),
            spare: Vec::new(),
            wanted: 0,
            next: 0,
            contiguous: 0,
            repairs: RangeSet::new(),
            copies: VecDeque::new(),
            streak: 0,
            parities: VecDeque::new(),
            encoder: BlockEncoder::new(Scheme::Rs8 { k: BLOCK as u16 }, chunk),
            tail_encoder: None,
            marks: Marks::new(now, start.base),
            feedback: Feedback::new(burst),
            controller,
            pacer: Pacer::new(rate, PACER_BURST),
            cap: config.max_rate,
            rtt: RttEstimator::new(Duration::from_millis(200)),
            parity_now: START_PARITY,
            timers,
            wake: Some(now),
            repair_gate: None,
            probe_due: false,
            moved_at: None,
            home,
            looked_at: None,
            doubtful_since: None,
            started: now,
            heard: None,
            counts: Counts::default(),
        }
    }

    pub(super) fn on_session_accept(
        &mut self,
        now: Instant,
        payload: &[u8],
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) {
        let extension = Extension::unsigned(datagram, datagram.len() - HEADER - payload.len())
            .filter(|_| self.extends);
        let key = payload.first_chunk::<32>().copied();
        let waits = self.request.encrypt || self.request.bundle;
        if self.request.via != Via::Direct || !waits || key.is_some() != self.request.encrypt {
            shared.counters.add(Counter::Unexpected, 1);
            return;
        }
        if self.answered && self.peer_key == key {
            return;
        }
        if let Err(failure) = self.agree(now, key, extension, datagram, shared) {
            self.refuse(now, failure, shared);
            return;
        }
        if self.peer_key.is_some() && self.peer_key != key {
            self.peer_key = key;
            self.start_over(now);
        } else {
            self.peer_key = key;
            self.state = State::Streaming;
            self.connected(now, self.extension.is_some(), shared);
        }
    }

    /// PUSH_ACCEPT: the port the rest goes to, if the daemon says another (4.5).
    pub(in crate::hpudp) fn on_push_accept(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) -> Option<u16> {
        if self.request.via != Via::Push || self.state != State::Requesting {
            // A repetition, or nonsense.
            return None;
        }
        let Some(accept) = PushAccept::parse(header, datagram) else {
            shared.counters.add(Counter::Malformed, 1);
            return None;
        };
        if accept.key.is_some() != self.request.encrypt {
            shared.counters.add(Counter::Unexpected, 1);
            return None;
        }
        let extension = accept.extension.filter(|_| self.extends);
        if let Err(failure) = self.agree(now, accept.key, extension, datagram, shared) {
            self.refuse(now, failure, shared);
            return None;
        }
        self.peer_key = accept.key;
        self.asked = Vec::new();
        if accept.port.is_some() || self.extension.is_some() {
            let asking = feature::asking(shared.config.sockets);
            let extension = self
                .extension
                .is_some()
                .then(|| ours(&self.request, asking));
            let signer = self.control.as_mut().map(|it| &mut it.signer);
            self.asked =
                Self::session_request(&self.request, None, extension).encode(self.id, signer);
            self.outgoing.push_back(self.asked.clone());
            self.retry = shared.config.request_retry;
            self.timers.set(Timer::Request, now + self.retry);
        }
        self.state = State::Streaming;
        self.connected(now, self.extension.is_some(), shared);
        // Ours have one address, and whoever is in front of it may have given it another port.
        let elsewhere = accept.port.filter(|_| self.extension.is_none());
        Some(elsewhere.unwrap_or(0))
    }

    /// Takes over what the peer answered: its block, its identity, its key.
    fn agree(
        &mut self,
        now: Instant,
        key: Option<[u8; 32]>,
        extension: Option<Extension>,
        answer: &[u8],
        shared: &Shared<'_>,
    ) -> Result<(), Failure> {
        let bound = key.is_some() && extension.as_ref().is_some_and(|it| it.has(feature::KEYS));
        let identity = extension
            .as_ref()
            .and_then(|it| it.host_key)
            .filter(|_| bound);
        self.request.trust.check(identity.as_ref())?;
        if self.request.bundle && !extension.as_ref().is_some_and(|it| it.bundle) {
            return Err(Failure::NoBundles);
        }
        if let (Some(secret), Some(key)) = (&self.secret, &key) {
            let bound = bound.then(|| Bound {
                request: &self.asked,
                answer,
                host: identity.as_ref().map_or(Host::None, Host::Theirs),
            });
            let keys = keys::agree(secret, key, self.id, bound.as_ref()).ok_or(Failure::BadKey)?;
            self.install(&keys, shared);
        }
        let sockets = shared.config.sockets;
        let can = |it: &Extension| it.has(feature::PATHS);
        if bound && sockets > 1 && extension.as_ref().is_some_and(can) && !self.paths.is_open() {
            self.open_paths(now, sockets);
        }
        self.identity = identity;
        self.extension = extension;
        Ok(())
    }

    /// The peer will not do: it is told, in the clear if need be, and nothing is sent.
    pub(super) fn refuse(&mut self, now: Instant, failure: Failure, shared: &mut Shared<'_>) {
        shared.rejects.count(Reason::DISCONNECT);
        self.say(Kind::Reject, &[Reason::DISCONNECT.0]);
        self.end(now, Err(failure), shared);
        self.timers
            .set(Timer::Linger, now + Duration::from_millis(20));
    }

    /// The receiver forgot us before it heard a packet, and answered the repeated request as a stranger's, with
    /// another key: what left under the old key is lost to it.
    fn start_over(&mut self, now: Instant) {
        for block in self.window.base()..self.window.next() {
            if let Some(sent) = self.window.get_mut(block) {
                sent.stamps.fill(0);
                sent.resent.fill(0);
                sent.parity_used = 0;
            }
        }
        self.next = 0;
        self.parities.clear();
        self.repairs = RangeSet::new();
        self.copies = VecDeque::new();
        self.unheard_from = self.marks.sent();
        self.paths.start_over();
        self.wake = Some(now);
    }

    pub(super) fn connected(&mut self, now: Instant, extended: bool, shared: &mut Shared<'_>) {
        self.answered = true;
        self.doubt = None;
        self.timers.stop(Timer::Patience);
        self.timers.set(Timer::Silence, now + FIRST_SILENCE);
        self.wake = Some(now);
        let (tag, encrypted) = (self.tag, self.sealer.is_some());
        shared.events.push_back(Event::Connected {
            tag,
            encrypted,
            extended,
            identity: self.identity,
            paths: self.paths.is_open(),
        });
    }

    fn open_paths(&mut self, now: Instant, sockets: u8) {
        self.paths.open(now, sockets);
        self.seen = Some(ReplayWindow::new(SEEN));
    }
}

/// What a sender says of itself in its request.
fn ours(request: &Request, features: u32) -> Extension {
    Extension {
        features,
        bundle: request.bundle,
        ..Extension::default()
    }
}

/// Signed packets of the peer that are told from copies of them.
const SEEN: usize = 4096;
