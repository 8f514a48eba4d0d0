//! A caller (5.3, 5.4, 5.9).
//!
//! It does *not* answer strangers.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Attempt, Context};
use crate::srt::Call;
use crate::srt::packet::{Handshake, SocketId, Stamp};

/// A call that is not answered yet.
#[derive(Debug)]
pub(crate) struct Caller {}

impl Caller {
    pub(crate) fn new(
        now: Instant,
        own_id: SocketId,
        call: &Call,
        context: &mut Context<'_>,
    ) -> Self {
        unimplemented!()
    }

    /// Takes a handshake for its id from the address called.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        stamp: Stamp,
        handshake: &Handshake<'_>,
        context: &mut Context<'_>,
    ) -> Attempt {
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
