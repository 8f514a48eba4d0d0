//! The keys of a link: both directions, their states, their renewal (6.5 to 6.8).
//!
//! It does *not* send: what it has to say is handed to `link`.

mod cipher;
mod kek;

use std::time::{Duration, Instant};

use zeroize::Zeroizing;

pub(crate) use kek::Keks;

use super::config::{KeyLength, Passphrase};
use super::packet::{Cipher, DataHeader, KeyMaterial, KmAnswer, KmState, Slot};

/// A stream encryption key; the first [`KeyLength::bytes`] of it.
pub(crate) type Sek = Zeroizing<[u8; 32]>;

/// All keys of one link; absent on a clear one.
#[derive(Debug)]
pub(crate) struct LinkKeys {}

impl LinkKeys {
    /// The side that brings the keys (6.5.1); the KM message is that of KMREQ. `None` above the ration (6.6.7).
    pub(crate) fn initiate(
        now: Instant,
        passphrase: &Passphrase,
        length: KeyLength,
        cipher: Cipher,
        salt: [u8; 16],
        sek: Sek,
        keks: &mut Keks,
    ) -> Option<(Self, Vec<u8>)> {
        unimplemented!()
    }

    /// The side that takes them. The error is what KMRSP says, or the ration.
    pub(crate) fn respond(
        now: Instant,
        passphrase: Option<&Passphrase>,
        km: KeyMaterial<'_>,
        keks: &mut Keks,
    ) -> Result<Self, Refusal> {
        unimplemented!()
    }

    /// Whether data may be sealed: not by a responder before its own key is answered (6.8.2).
    pub(crate) fn ready_to_send(&self) -> bool {
        unimplemented!()
    }

    /// Seals in place and says in the header with which key. Called once for each position (3.2.2, 19.3.2).
    pub(crate) fn seal(&mut self, header: &mut DataHeader, payload: &mut Vec<u8>) {
        unimplemented!()
    }

    /// Opens in place.
    pub(crate) fn open<'a>(
        &mut self,
        head: &[u8; DataHeader::LEN],
        header: &DataHeader,
        payload: &'a mut [u8],
    ) -> Opened<'a> {
        unimplemented!()
    }

    /// A KMREQ heard (6.6.6): whether to answer it, with the same bytes.
    pub(crate) fn on_request(
        &mut self,
        now: Instant,
        km: KeyMaterial<'_>,
        keks: &mut Keks,
    ) -> bool {
        unimplemented!()
    }

    /// A KMRSP heard. One that lowers the state is counted and nothing else (6.6.6).
    pub(crate) fn on_answer(&mut self, now: Instant, answer: KmAnswer<'_>) {
        unimplemented!()
    }

    /// The KMREQ that is due, to be sent as a control packet. `fresh` draws a key.
    pub(crate) fn on_timeout(
        &mut self,
        now: Instant,
        rtt: Duration,
        fresh: impl FnOnce() -> Sek,
        keks: &mut Keks,
    ) -> Result<Option<Vec<u8>>, Exhausted> {
        unimplemented!()
    }

    /// When that is.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// Length of the keys.
    pub(crate) fn length(&self) -> KeyLength {
        unimplemented!()
    }

    /// How many bytes longer sealed data is.
    pub(crate) fn overhead(&self) -> usize {
        unimplemented!()
    }
}

/// Why a responder takes no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    State(KmState),
    /// Above the ration: dropped, and comes again (6.6.7).
    Rationed,
}

/// The peer takes no new key and the old one is used up (6.6.5, 6.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// What became of a packet (6.4.2, 6.5.5).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened<'a> {
    Plain(&'a mut [u8]),
    /// No such key: received, never delivered.
    NoKey,
    /// Not what the peer sealed, or in the clear where there is a key: as if it had not come.
    Forged,
}
