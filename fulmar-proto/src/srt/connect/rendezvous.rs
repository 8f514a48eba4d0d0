//! A rendezvous (5.11).
//!
//! It does *not* take packets from others than the address called.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Attempt, Context};
use crate::srt::Call;
use crate::srt::packet::{Handshake, SocketId, Stamp};

/// A meeting that has not come about yet.
#[derive(Debug)]
pub(crate) struct Rendezvous {}

impl Rendezvous {
    pub(crate) fn new(
        now: Instant,
        own_id: SocketId,
        call: &Call,
        context: &mut Context<'_>,
    ) -> Self {
        unimplemented!()
    }

    /// Takes a handshake from the address called.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        stamp: Stamp,
        handshake: &Handshake<'_>,
        context: &mut Context<'_>,
    ) -> Attempt {
        unimplemented!()
    }

    /// Anything but a handshake was heard: it may stand for a lost AGREEMENT (5.11.4).
    pub(crate) fn handle_other(&mut self, now: Instant) -> Attempt {
        unimplemented!()
    }

    /// Appends the packet that is due, and says whereto.
    pub(crate) fn poll(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        unimplemented!()
    }

    /// When to poll next, or to give up.
    pub(crate) fn deadline(&self) -> Instant {
        unimplemented!()
    }
}
