//! What both halves of a session use: timers, counters, the endpoint's shared state, the heartbeat table.
//!
//! It does *not* hold either half's state.

use std::collections::VecDeque;
use std::time::Duration;

use super::blocks::Run;
use super::pool::Pool;
use super::{Config, Event, Reason};
use crate::engine::{CounterKind, Counters, Figure, TimerKind};

/// What a session borrows from its endpoint for the length of one call.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) config: &'a Config,
    pub(super) pool: &'a mut Pool,
    pub(super) events: &'a mut VecDeque<Event>,
    pub(super) counters: &'a mut Counters<Counter>,
    pub(super) rejects: &'a mut Rejects,
    /// Scratch for runs on their way into events.
    pub(super) runs: &'a mut Vec<Run>,
    /// Watch nonces.
    pub(super) guard: bool,
}

/// What all sessions of an endpoint share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) config: Config,
    pub(super) pool: Pool,
    pub(super) events: VecDeque<Event>,
    pub(super) counters: Counters<Counter>,
    pub(super) rejects: Rejects,
    pub(super) runs: Vec<Run>,
    pub(super) guard: bool,
}

impl Common {
    pub(super) fn new(config: Config) -> Self {
        Self {
            pool: Pool::new(config.block_memory),
            config,
            events: VecDeque::new(),
            counters: Counters::new(),
            rejects: Rejects::default(),
            runs: Vec::new(),
            guard: false,
        }
    }

    pub(super) fn shared(&mut self) -> Shared<'_> {
        Shared {
            config: &self.config,
            pool: &mut self.pool,
            events: &mut self.events,
            counters: &mut self.counters,
            rejects: &mut self.rejects,
            runs: &mut self.runs,
            guard: self.guard,
        }
    }
}

/// How often which peer was told no, or that it is over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rejects {
    named: [u64; Reason::NAMED.len()],
    /// Of reasons without a name.
    other: u64,
}

impl Rejects {
    pub(super) fn count(&mut self, reason: Reason) {
        let at = Reason::NAMED.iter().position(|(it, _)| *it == reason);
        *at.map_or(&mut self.other, |at| &mut self.named[at]) += 1;
    }

    pub(super) fn figures(&self) -> impl Iterator<Item = Figure> {
        let named = Reason::NAMED
            .iter()
            .zip(self.named)
            .map(|((_, name), value)| (*name, value));
        named
            .chain([("other", self.other)])
            .map(|(reason, value)| Figure {
                name: "rejects",
                help: "Sessions refused or given up by this side, by the reason told to the peer.",
                gauge: false,
                label: Some(("reason", reason)),
                value,
            })
    }
}

/// What a packet tells about who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing.
    None,
    /// The session's peer made it, some time ago: anyone who saw it can send it again.
    Old,
    /// The session's peer made it, and nobody had delivered it before.
    Fresh,
}

/// The timers of a session, of either half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Receiver: the next heartbeat.
    Heartbeat,
    /// Receiver: the sender has been silent for too long.
    Inactivity,
    /// Receiver: TRANSFER_COMPLETE again.
    Complete,
    /// Sender: the request again.
    Request,
    /// Sender: the request has gone unanswered, or the receiver silent, for good.
    Patience,
    /// Sender: the receiver is silent; and then the next probe.
    Silence,
    /// Both: tell the application.
    Progress,
    /// Both: the end of answering stragglers.
    Linger,
}

impl TimerKind for Timer {
    const ALL: &'static [Self] = &[
        Self::Heartbeat,
        Self::Inactivity,
        Self::Complete,
        Self::Request,
        Self::Patience,
        Self::Silence,
        Self::Progress,
        Self::Linger,
    ];

    fn index(self) -> usize {
        self as usize
    }
}

/// What an endpoint counts besides its sessions' figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Datagrams taken.
    Datagrams,
    /// Datagrams that are no packet of this protocol.
    Malformed,
    /// Packets of no session here.
    Stray,
    /// Packets that make no sense in their session, or fail authentication.
    Refused,
    /// Control packets that come at the wrong time.
    Unexpected,
    /// Heartbeats that claim what cannot be.
    Implausible,
    /// DATA and PARITY after everything had come.
    Late,
    /// Packets dropped because storage was behind.
    Backpressure,
    /// Requests refused because of too many sessions.
    Busy,
    /// Sessions that followed their peer to a new address.
    Rebound,
    /// Bytes said to addresses that had proved nothing (E1).
    Unproved,
}

impl CounterKind for Counter {
    const ALL: &'static [Self] = &[
        Self::Datagrams,
        Self::Malformed,
        Self::Stray,
        Self::Refused,
        Self::Unexpected,
        Self::Implausible,
        Self::Late,
        Self::Backpressure,
        Self::Busy,
        Self::Rebound,
        Self::Unproved,
    ];

    fn index(self) -> usize {
        self as usize
    }

    fn name(self) -> &'static str {
        match self {
            Self::Datagrams => "datagrams",
            Self::Malformed => "malformed",
            Self::Stray => "stray",
            Self::Refused => "refused",
            Self::Unexpected => "unexpected",
            Self::Implausible => "implausible",
            Self::Late => "late",
            Self::Backpressure => "backpressure",
            Self::Busy => "busy",
            Self::Rebound => "rebound",
            Self::Unproved => "unproved_bytes",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::Datagrams => "Datagrams taken.",
            Self::Malformed => "Datagrams that are no packet of this protocol.",
            Self::Stray => "Packets of no session here.",
            Self::Refused => "Packets that make no sense in their session, or fail authentication.",
            Self::Unexpected => "Control packets that come at the wrong time.",
            Self::Implausible => "Heartbeats that claim what cannot be.",
            Self::Late => "Chunks and parity after everything had come.",
            Self::Backpressure => "Packets dropped because storage was behind.",
            Self::Busy => "Requests refused because of too many sessions.",
            Self::Rebound => "Sessions that followed their peer to a new address.",
            Self::Unproved => "Bytes sent to addresses that had proved nothing yet.",
        }
    }
}

/// Heartbeat interval at a delivery rate in bytes a second; 0 before anything is measured (7.1).
pub(super) fn table_interval(delivery: f64) -> Duration {
    Duration::from_millis(match delivery {
        rate if rate < 10e6 => 100,
        rate if rate < 100e6 => 50,
        rate if rate < 1e9 => 25,
        _ => 10,
    })
}
