//! The sending half of one session: from SESSION_REQ to the end of its linger (4, 6, 7, 9, 10, 11).
//!
//! The application supplies the file in whole blocks, ahead of need; blocks stay in the window as plaintext with
//! the stamps of their packets until the receiver has them, so that a repair is the same bytes again, sealed to the
//! same ciphertext, and never a second reading of the file (19.1). It does *not* read files, hash, or choose rates:
//! [`rate`](super::rate) and [`parity`](super::parity) do that.

mod heartbeat;
mod transmit;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::{BLOCK, CHUNK_PLAIN, CHUNK_SEALED, Config, HEADER, Layout, WINDOW_BLOCKS};
use super::feedback::{Feedback, Marks};
use super::keys::{self, Bound, Control, Host, Keys, Role};
use super::packet::{
    Extension, Header, Kind, PushAccept, PushReq, SessionReq, exact, feature, signed,
};
use super::pull::Asked;
use super::rate::Controller;
use super::session::{Counter, Shared, Timer};
use super::{Event, Failure, Phase, Reason, Request, Snapshot, Tag, Via, blocks};
use crate::crypto::{Sealer, Secret};
use crate::engine::{Bitrate, Ledger, Pacer, RangeSet, RttEstimator, SendWindow, Timers};
use crate::fec::{BlockEncoder, Scheme};

/// One file on its way out.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) tag: Tag,
    pub(super) peer: SocketAddr,
    id: u32,
    request: Request,
    /// SESSION_REQ or PUSH_REQ, resent verbatim (4.6); empty when nothing need be asked any more.
    asked: Vec<u8>,
    /// What an address that asked for a file, and has shown nothing yet, may draw (19.5.4).
    gate: Option<Ledger>,
    /// PULL_REQ as it came.
    wish: Vec<u8>,
    /// The static key the receiver proves to hold.
    identity: Option<[u8; 32]>,
    control: Option<Control>,
    /// Blocks asked of the application that it has not supplied.
    awaited: VecDeque<u64>,
    /// Blocks the receiver had before the session.
    had: RangeSet,
    retry: Duration,
    secret: Option<Secret>,
    sealer: Option<Sealer>,
    /// The key in the receiver's answer.
    peer_key: Option<[u8; 32]>,
    /// Packets sent before the receiver started over.
    unheard_from: u64,
    state: State,
    /// The receiver answered; with which extension block.
    answered: bool,
    /// And showed that it got something of ours: a key it answered with a key, or a stamp it echoed.
    proved: bool,
    extension: Option<Extension>,
    layout: Option<Layout>,
    chunk: usize,
    total: u64,
    window: SendWindow<Sent>,
    spare: Vec<Vec<u8>>,
    /// Next block to ask the application for.
    wanted: u64,
    /// Next chunk to send for the first time.
    next: u64,
    /// Chunks known to be at the receiver, from the first on without a hole.
    contiguous: u64,
    repairs: RangeSet,
    /// Chunks to send again once more (6.7).
    copies: VecDeque<u64>,
    /// Repairs sent since the last new packet.
    streak: u32,
    parities: VecDeque<(u64, u8)>,
    encoder: BlockEncoder,
    tail_encoder: Option<BlockEncoder>,
    marks: Marks,
    feedback: Feedback,
    controller: Controller,
    pacer: Pacer,
    /// Set from outside; above it nothing leaves, whatever the controller says.
    cap: Option<Bitrate>,
    rtt: RttEstimator,
    parity_now: u8,
    timers: Timers<Timer>,
    outgoing: VecDeque<Vec<u8>>,
    /// When `poll_transmit` may have something again; `None` while only a heartbeat or the application can tell.
    wake: Option<Instant>,
    /// Between batches of repairs at the end, under the published rules.
    repair_gate: Option<Instant>,
    probe_due: bool,
    /// The receiver's address changed: the last stamp issued before. Only a later one, echoed, shows that the receiver
    /// is there; until then one packet at a time looks for it.
    moved_at: Option<u64>,
    /// Where it was last known to be, and when a packet last looked for it elsewhere.
    home: SocketAddr,
    looked_at: Option<Instant>,
    /// When the receiver's completion first came without a heartbeat that bears it out.
    doubtful_since: Option<Instant>,
    started: Instant,
    heard: Option<Instant>,
    counts: Counts,
}

/// What a new session needs of its endpoint.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) id: u32,
    /// This side's fresh key, used if contents are encrypted.
    pub(super) secret: Secret,
    /// A random number, the origin of the stamps.
    pub(super) base: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No data before SESSION_ACCEPT.
    Requesting,
    Streaming,
    /// The receiver is silent; one packet every half second looks for it.
    Probing,
    Lingering,
    Closed,
}

/// A block in the window.
#[derive(Debug, Default)]
struct Sent {
    /// k chunks, the last one padded with zeros; none if the receiver had the block before the session.
    bytes: Vec<u8>,
    /// Stamp of each chunk's packet; 0 before it was sent.
    stamps: Vec<u64>,
    /// Stamp under which each chunk would have left last, had it not kept its first; 0 if it left once.
    resent: Vec<u64>,
    /// The same of the last packet of the block, parity too.
    last: u64,
    /// Parity indices used; each is sealed once.
    parity_used: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    data: u64,
    parities: u64,
    retransmitted: u64,
}

impl Sender {
    /// Asks the receiver.
    pub(super) fn call(
        now: Instant,
        tag: Tag,
        request: Request,
        start: Start,
        shared: &mut Shared<'_>,
    ) -> Self {
        let config = shared.config;
        let key = request.encrypt.then(|| start.secret.public());
        let extension = config.extensions.then(|| ours(&request));
        let asked = match request.via {
            Via::Direct | Via::Pull => {
                Self::session_request(&request, key, extension).encode(start.id, None)
            }
            Via::Push => PushReq {
                size: request.size,
                hash: None,
                key,
                name: request.name.clone().into_bytes(),
                extension,
            }
            .encode(start.id),
        };
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
    pub(super) fn serve(
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
        let extension = theirs.is_some().then(|| Extension {
            host_key: host.map(Secret::public),
            ..ours(&request)
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
        it.timers.set(Timer::Patience, now + config.request_timeout);
        it.ask(shared);
        Ok(it)
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
            window: SendWindow::with_capacity(WINDOW_BLOCKS as usize),
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

    /// A datagram of so many bytes came from the peer's address.
    pub(super) fn hear(&mut self, now: Instant, len: usize) {
        if let Some(gate) = &mut self.gate {
            gate.hear(len);
            self.wake = Some(now);
        }
    }

    /// The daemon wants the rest at another port.
    pub(super) fn on_port(&mut self, peer: SocketAddr) {
        self.peer = peer;
        self.home = peer;
    }

    /// Whether it is a push that began at this address, wherever the daemon wants the rest (4.5.4).
    pub(super) fn was_asked_at(&self, address: SocketAddr) -> bool {
        self.request.via == Via::Push && self.request.to == address
    }

    /// Whether a request for a file is the one this session answers.
    pub(super) fn is_repeat(&self, datagram: &[u8]) -> bool {
        self.wish == datagram
    }

    /// Whether a peer asked for it.
    pub(super) fn is_served(&self) -> bool {
        self.request.via == Via::Pull
    }

    /// Whether the peer was chosen by this side, or has proved where it is.
    pub(super) fn is_proved(&self) -> bool {
        self.gate.is_none()
    }

    /// Whether who asked for it has shown nothing yet.
    pub(super) fn is_half_open(&self) -> bool {
        !self.is_proved() && !self.is_over()
    }

    /// Another session took its place.
    pub(super) fn on_displaced(&mut self, now: Instant, shared: &mut Shared<'_>) {
        self.end(now, Err(Failure::Silent), shared);
        self.close(shared);
    }

    /// The same request for a file again: its sender may not have had the answer.
    pub(super) fn on_repeat(&mut self) {
        if self.gate.is_some() && self.outgoing.is_empty() {
            self.outgoing.push_back(self.asked.clone());
        }
    }

    /// Whether a control packet comes from the peer, as far as the session can tell (18.7.4).
    pub(super) fn is_genuine(&mut self, now: Instant, datagram: &[u8]) -> bool {
        let Some(control) = &mut self.control else {
            return true;
        };
        let genuine = control.check(datagram);
        if genuine && self.gate.take().is_some() {
            // Its key took a number that we sent there.
            self.wake = Some(now);
        }
        genuine
    }

    fn install(&mut self, keys: &Keys, shared: &Shared<'_>) {
        self.sealer = keys.sealer();
        self.control = keys.control(Role::Sender);
        if shared.guard
            && let Some(sealer) = &mut self.sealer
        {
            sealer.guard();
        }
    }

    fn say(&mut self, kind: Kind, payload: &[u8]) {
        let signer = self.control.as_mut().map(|it| &mut it.signer);
        self.outgoing
            .push_back(signed(kind, self.id, payload, signer));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Lingering | State::Closed)
    }

    /// Sends no faster than `cap` from now on.
    pub(super) fn set_cap(&mut self, now: Instant, cap: Option<Bitrate>) {
        if self.cap != cap {
            self.cap = cap;
            self.controller
                .set_max(cap.map_or(f64::INFINITY, |cap| cap.bytes_per_sec() as f64));
            self.pace(now);
            // Whatever it waited for was reckoned at another rate.
            self.wake = self.wake.map(|wake| wake.min(now));
        }
    }

    /// Takes over the controller's rate.
    fn pace(&mut self, now: Instant) {
        let rate = Bitrate::from_bytes_per_sec(self.controller.rate() as u64);
        self.pacer
            .set_rate(now, self.cap.map_or(rate, |cap| rate.min(cap)));
    }

    fn all_sent(&self) -> bool {
        self.next >= self.total
    }

    /// Asks the application for blocks, as far ahead as the window allows.
    fn ask(&mut self, shared: &mut Shared<'_>) {
        let block_bytes = BLOCK * self.chunk as u64;
        let end = self.total.div_ceil(BLOCK);
        // Who has shown nothing costs one block, however many there are of them.
        let ahead = self.gate.map_or(READ_AHEAD, |_| 1);
        loop {
            let front = self.contiguous / BLOCK;
            self.wanted = self.had.next_gap(self.wanted.max(front));
            if self.wanted >= end
                || self.wanted >= self.next / BLOCK + ahead
                || self.wanted - front >= WINDOW_BLOCKS
            {
                return;
            }
            let offset = self.wanted * block_bytes;
            let len = (self.request.size - offset).min(block_bytes) as usize;
            let buffer = self.spare.pop().unwrap_or_default();
            shared.events.push_back(Event::Want {
                tag: self.tag,
                offset,
                len,
                buffer,
            });
            self.awaited.push_back(self.wanted);
            self.wanted += 1;
        }
    }

    /// The application's answer. Bytes that were not asked for end the session: the file would arrive wrong.
    pub(super) fn on_supply(
        &mut self,
        now: Instant,
        offset: u64,
        mut bytes: Vec<u8>,
        shared: &mut Shared<'_>,
    ) {
        if self.is_over() {
            return;
        }
        let want = (self.request.size.saturating_sub(offset)).min(BLOCK * self.chunk as u64);
        let asked = self.awaited.pop_front();
        let Some(block) = asked.filter(|block| {
            offset == block * BLOCK * self.chunk as u64 && bytes.len() as u64 == want
        }) else {
            self.on_abort(now, Reason::INVALID, shared);
            return;
        };
        if block < self.window.base() {
            // It turned out to be there already.
            return;
        }
        while self.window.next() < block && self.window.push(Sent::default()).is_some() {}
        let k = blocks::k(self.total, block) as usize;
        bytes.resize(k * self.chunk, 0);
        let sent = Sent {
            bytes,
            stamps: vec![0; k],
            resent: vec![0; k],
            last: 0,
            parity_used: 0,
        };
        if self.window.push(sent).is_none() {
            self.on_abort(now, Reason::INVALID, shared);
        }
        self.wake = Some(now);
    }

    pub(super) fn on_abort(&mut self, now: Instant, reason: Reason, shared: &mut Shared<'_>) {
        if self.is_over() {
            return;
        }
        shared.rejects.count(reason);
        self.say(Kind::Reject, &[reason.0]);
        self.end(now, Err(Failure::Aborted(reason)), shared);
        self.timers
            .set(Timer::Linger, now + Duration::from_millis(20));
    }

    /// SESSION_ACCEPT, TRANSFER_COMPLETE, ACK_CLOSE and SESSION_REJECT.
    pub(super) fn on_control(
        &mut self,
        now: Instant,
        header: &Header,
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) {
        let Some(payload) = exact(header, datagram) else {
            shared.counters.add(Counter::Malformed, 1);
            return;
        };
        match (header.kind, self.state) {
            (Kind::SessionAccept, State::Requesting | State::Streaming | State::Probing) => {
                self.on_session_accept(now, payload, datagram, shared)
            }
            (Kind::Complete, State::Lingering) => {
                self.say(Kind::AckClose, &[]);
                self.outgoing.truncate(4);
            }
            (Kind::Complete | Kind::AckClose, State::Streaming | State::Probing) => {
                self.on_complete(now, shared)
            }
            (Kind::AckClose, State::Lingering) => self.close(shared),
            (Kind::Reject, State::Requesting | State::Streaming | State::Probing) => {
                let reason = Reason(payload.first().copied().unwrap_or(0));
                // A mismatch can only be known once everything was sent (19.4), and a receiver that answered has
                // this session and no other.
                let early = reason == Reason::HASH_MISMATCH && !self.all_sent();
                let late = reason == Reason::COLLISION && self.proved;
                if early || late {
                    shared.counters.add(Counter::Unexpected, 1);
                    return;
                }
                self.end(now, Err(Failure::Refused(reason)), shared);
                self.timers.set(Timer::Linger, now);
            }
            _ => shared.counters.add(Counter::Unexpected, 1),
        }
    }

    fn on_session_accept(
        &mut self,
        now: Instant,
        payload: &[u8],
        datagram: &[u8],
        shared: &mut Shared<'_>,
    ) {
        let extension = Extension::unsigned(datagram, datagram.len() - HEADER - payload.len())
            .filter(|_| shared.config.extensions);
        let key = payload.first_chunk::<32>().copied();
        let waits = self.request.encrypt || self.request.bundle;
        if self.request.via != Via::Direct || !waits || key.is_some() != self.request.encrypt {
            shared.counters.add(Counter::Unexpected, 1);
            return;
        }
        if self.answered && self.peer_key == key {
            return;
        }
        if let Err(failure) = self.agree(key, extension, datagram, shared) {
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

    /// PUSH_ACCEPT: the port the rest goes to, 0 if that is the one that was asked (4.5.4).
    pub(super) fn on_push_accept(
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
        let extension = accept.extension.filter(|_| shared.config.extensions);
        if let Err(failure) = self.agree(accept.key, extension, datagram, shared) {
            self.refuse(now, failure, shared);
            return None;
        }
        self.peer_key = accept.key;
        self.asked = Vec::new();
        if accept.port.is_some() || self.extension.is_some() {
            let extension = self.extension.is_some().then(|| ours(&self.request));
            let signer = self.control.as_mut().map(|it| &mut it.signer);
            self.asked =
                Self::session_request(&self.request, None, extension).encode(self.id, signer);
            self.outgoing.push_back(self.asked.clone());
            self.retry = shared.config.request_retry;
            self.timers.set(Timer::Request, now + self.retry);
        }
        self.state = State::Streaming;
        self.connected(now, self.extension.is_some(), shared);
        // Ours have one socket, and whoever is in front of it may have given it another port.
        let elsewhere = accept.port.filter(|_| self.extension.is_none());
        Some(elsewhere.unwrap_or(0))
    }

    /// Takes over what the peer answered: its block, its identity, its key.
    fn agree(
        &mut self,
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
        self.identity = identity;
        self.extension = extension;
        Ok(())
    }

    /// The peer will not do: it is told, in the clear if need be, and nothing is sent.
    fn refuse(&mut self, now: Instant, failure: Failure, shared: &mut Shared<'_>) {
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
        self.wake = Some(now);
    }

    fn connected(&mut self, now: Instant, extended: bool, shared: &mut Shared<'_>) {
        self.answered = true;
        self.timers.stop(Timer::Patience);
        self.timers.set(Timer::Silence, now + FIRST_SILENCE);
        self.wake = Some(now);
        let (tag, encrypted) = (self.tag, self.sealer.is_some());
        shared.events.push_back(Event::Connected {
            tag,
            encrypted,
            extended,
            identity: self.identity,
        });
    }

    /// The receiver says that it has the file. Believed when everything was sent and a heartbeat bears it out, or
    /// when none contradicts it for a while (11, 19.4).
    fn on_complete(&mut self, now: Instant, shared: &mut Shared<'_>) {
        // A heartbeat cannot tell "chunk 0" from "nothing", so a file of one chunk has no better witness.
        let borne_out = self.contiguous >= self.total || self.total <= 1;
        let insisted = self.all_sent()
            && now.duration_since(*self.doubtful_since.get_or_insert(now)) >= INSIST;
        if !self.all_sent() || !(borne_out || insisted) {
            shared.counters.add(Counter::Unexpected, 1);
            return;
        }
        self.complete(now, shared);
    }

    fn complete(&mut self, now: Instant, shared: &mut Shared<'_>) {
        if !self.answered {
            self.connected(now, self.extension.is_some(), shared);
        }
        self.contiguous = self.total;
        self.say(Kind::AckClose, &[]);
        self.end(now, Ok(()), shared);
    }

    pub(super) fn on_timeout(&mut self, now: Instant, shared: &mut Shared<'_>) {
        let config = shared.config;
        if self.timers.expire(Timer::Request, now) && !self.proved {
            self.retry = (self.retry * 2).min(config.request_retry_max);
            self.timers.set(Timer::Request, now + self.retry);
            if !self.asked.is_empty() {
                self.outgoing.push_back(self.asked.clone());
            }
            // Behind the gate the one packet that may be out is as easily lost as the answer.
            self.probe_due |= self.gate.is_some() && self.next > 0;
        }
        if self.timers.expire(Timer::Patience, now) {
            let failure = if self.answered {
                Failure::Silent
            } else {
                Failure::NoAnswer
            };
            self.end(now, Err(failure), shared);
            self.timers.set(Timer::Linger, now);
        }
        if self.timers.expire(Timer::Silence, now) && !self.is_over() {
            // It said that it has everything, has not contradicted itself since, and is gone.
            let insisted = |at| now.duration_since(at) >= INSIST;
            if self.all_sent() && self.doubtful_since.is_some_and(insisted) {
                return self.complete(now, shared);
            }
            if self.state == State::Streaming {
                self.state = State::Probing;
                self.timers.set(Timer::Patience, now + config.probe_timeout);
            }
            self.probe_due = true;
            self.timers.set(Timer::Silence, now + config.probe_interval);
        }
        if self.timers.expire(Timer::Progress, now) && !self.is_over() {
            self.timers.set(Timer::Progress, now + PROGRESS);
            let snapshot = self.snapshot(now);
            shared.events.push_back(Event::Progress {
                tag: self.tag,
                snapshot,
            });
        }
        if self.timers.expire(Timer::Linger, now) {
            self.close(shared);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if !self.outgoing.is_empty() || self.probe_due {
            return Some(self.started);
        }
        let timer = self.timers.next().map(|(at, _)| at);
        [timer, self.wake].into_iter().flatten().min()
    }

    fn end(&mut self, now: Instant, result: Result<(), Failure>, shared: &mut Shared<'_>) {
        let snapshot = Snapshot {
            phase: Phase::Lingering,
            ..self.snapshot(now)
        };
        shared.events.push_back(Event::Finished {
            tag: self.tag,
            snapshot,
            result,
        });
        self.state = State::Lingering;
        self.timers = Timers::new();
        self.timers.set(Timer::Linger, now + shared.config.linger);
        self.window = SendWindow::with_capacity(1);
        self.spare = Vec::new();
        self.repairs = RangeSet::new();
        self.copies = VecDeque::new();
        self.parities = VecDeque::new();
        self.awaited = VecDeque::new();
        self.had = RangeSet::new();
        self.sealer = None;
        self.secret = None;
        self.probe_due = false;
        self.wake = None;
    }

    fn close(&mut self, shared: &mut Shared<'_>) {
        self.state = State::Closed;
        self.timers = Timers::new();
        shared.events.push_back(Event::Closed { tag: self.tag });
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            phase: match self.state {
                _ if !self.answered => Phase::Connecting,
                State::Requesting => Phase::Connecting,
                State::Probing => Phase::Probing,
                State::Streaming if self.contiguous >= self.total => Phase::Verifying,
                State::Streaming if self.all_sent() => Phase::Repairing,
                State::Streaming => Phase::Transferring,
                State::Lingering | State::Closed => Phase::Lingering,
            },
            size: self.request.size,
            done: (self.contiguous * self.chunk as u64).min(self.request.size),
            elapsed: now.duration_since(self.started),
            goodput: Bitrate::from_bytes_per_sec(self.feedback.delivery() as u64),
            pacing: self.pacer.rate(),
            rtt: self.rtt.smoothed(),
            min_rtt: self.rtt.min(),
            loss: self.feedback.loss(),
            parity: self.parity_now,
            data: self.counts.data,
            parities: self.counts.parities,
            retransmitted: self.counts.retransmitted,
            encrypted: self.request.encrypt,
            ..Snapshot::default()
        }
    }
}

/// What a sender says of itself in its request.
fn ours(request: &Request) -> Extension {
    Extension {
        features: feature::ALL,
        bundle: request.bundle,
        ..Extension::default()
    }
}

/// Percent of parity before any loss is known (6.2).
const START_PARITY: u8 = 5;
/// Blocks asked for ahead of the next chunk to send: 3.3 MB, which a processor still holds in its cache.
const READ_AHEAD: u64 = 24;
/// Credit the pacer may save up (8.6).
const PACER_BURST: Duration = Duration::from_millis(2);
/// Cooldown of a repair while the round trip is unknown (9).
const COOLDOWN: Duration = Duration::from_millis(200);
/// Silence before the first heartbeat, and the least later, that makes a sender probe (10).
const FIRST_SILENCE: Duration = Duration::from_millis(1500);
/// A completion without a heartbeat that bears it out is believed when it is repeated this much later.
const INSIST: Duration = Duration::from_millis(900);
/// How often the application hears.
const PROGRESS: Duration = Duration::from_millis(100);
