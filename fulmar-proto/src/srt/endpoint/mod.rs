//! All connections of one socket (2.4).
//!
//! It does *not* know what they carry.

use std::time::Instant;

use super::{Command, Event, Limits};
use crate::engine::{self, Meta, Transmit};

/// SRT behind one UDP socket: a listener, callers, rendezvous, and all their connections.
#[derive(Debug)]
pub struct Endpoint {}

impl Endpoint {
    /// An endpoint that draws all its randomness from `seed`: a driver passes 32 bytes of entropy, a simulation its
    /// own. Two endpoints with one seed on a network would share their keys.
    pub fn new(limits: Limits, seed: [u8; 32]) -> Self {
        unimplemented!()
    }
}

impl engine::Endpoint for Endpoint {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, meta: Meta, payload: &mut [u8]) {
        unimplemented!()
    }

    fn handle_timeout(&mut self, now: Instant) {
        unimplemented!()
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        unimplemented!()
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        unimplemented!()
    }

    fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }
}
