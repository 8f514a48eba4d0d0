//! What both halves of a session use: timers, counters, the endpoint's shared state, the heartbeat table.
//!
//! It does *not* hold either half's state.

use std::collections::VecDeque;
use std::time::Duration;

use super::blocks::{Pool, Run};
use super::{Config, Event};
use crate::engine::{CounterKind, Counters, TimerKind};

/// What a session borrows from its endpoint for the length of one call.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) config: &'a Config,
    pub(super) pool: &'a mut Pool,
    pub(super) events: &'a mut VecDeque<Event>,
    pub(super) counters: &'a mut Counters<Counter>,
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
            runs: &mut self.runs,
            guard: self.guard,
        }
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
