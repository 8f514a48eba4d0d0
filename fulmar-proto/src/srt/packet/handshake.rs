//! Handshakes and their blocks (5.1, 5.2).
//!
//! It does *not* judge versions, cookies or wishes: `connect` does.

use super::{Malformed, Seq, SocketId};
use crate::srt::config::Bonding;
use crate::srt::reject::Reason;

/// A HANDSHAKE (5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handshake<'a> {
    pub(crate) version: u32,
    /// Advertised length of the keys / 8; of HSv4 the upper half of the socket type.
    pub(crate) encryption: u16,
    /// 2 in an induction, [`MAGIC`](Self::MAGIC) in its answer, [`Blocks::field`] in a conclusion; of HSv4 the lower
    /// half of the socket type.
    pub(crate) extension: u16,
    pub(crate) isn: Seq,
    pub(crate) mss: u32,
    pub(crate) window: u32,
    pub(crate) kind: Kind,
    /// Of the side that sends this.
    pub(crate) id: SocketId,
    pub(crate) cookie: u32,
    /// The other side's, as this side sees it, in the wire's order (5.1.6).
    pub(crate) address: [u8; 16],
    /// None in other kinds than CONCLUSION and in other versions than 5; what breaks 5.2.2 makes the attempt fail with
    /// ROGUE, so the rest of the handshake is wanted all the same.
    pub(crate) blocks: Result<Blocks<'a>, Malformed>,
}

impl Handshake<'_> {
    /// The extension field of an induction response (5.3.2).
    pub(crate) const MAGIC: u16 = 0x4a17;
}

/// What a handshake is for (5.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Wave,
    Induction,
    Conclusion,
    Agreement,
    Rejection(Reason),
    /// Ignored (16.4).
    Other(u32),
}

/// The blocks behind a conclusion, each the first of its type (5.2). Texts are the right way round and without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks<'a> {
    pub(crate) hs_req: Option<HsWords>,
    pub(crate) hs_rsp: Option<HsWords>,
    /// At most 512 bytes (15.1.1); an empty one is not written.
    pub(crate) stream_id: &'a [u8],
    /// Empty for `live`.
    pub(crate) congestion: &'a [u8],
    pub(crate) filter: &'a [u8],
    pub(crate) group: Option<GroupWords>,
    /// As it came: a malformed one is BADSECRET, not ROGUE (6.2.5), so its reader calls `KeyMaterial::parse`.
    pub(crate) km_req: Option<&'a [u8]>,
    /// As it came; for `KmAnswer::parse`.
    pub(crate) km_rsp: Option<&'a [u8]>,
}

impl Blocks<'_> {
    /// What the extension field says of them (5.2.6).
    pub(crate) fn field(&self) -> u16 {
        unimplemented!()
    }

    /// Whether there is none: an AGREEMENT in all but name (5.11.3).
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// HSREQ and HSRSP (5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HsWords {
    /// `0x00MMmmpp`.
    pub(crate) version: u32,
    pub(crate) flags: Flags,
    /// Milliseconds: what this side holds (5.6.1).
    pub(crate) receive_latency: u16,
    /// Milliseconds: what it wants the other side to hold.
    pub(crate) peer_latency: u16,
}

/// What a side can and does (5.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u32);

impl Flags {
    pub(crate) const TSBPD_SND: Self = Self(0x01);
    pub(crate) const TSBPD_RCV: Self = Self(0x02);
    pub(crate) const CRYPT: Self = Self(0x04);
    pub(crate) const TLPKTDROP: Self = Self(0x08);
    pub(crate) const NAKREPORT: Self = Self(0x10);
    pub(crate) const REXMITFLG: Self = Self(0x20);
    pub(crate) const STREAM: Self = Self(0x40);
    pub(crate) const FILTERCAP: Self = Self(0x80);

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub(crate) const fn with(self, other: Self, on: bool) -> Self {
        if on { Self(self.0 | other.0) } else { self }
    }
}

/// GROUP (14.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupWords {
    pub(crate) id: SocketId,
    /// The type as it came.
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// Of this link.
    pub(crate) weight: u16,
}

impl GroupWords {
    /// The type, if it is known.
    pub(crate) fn bonding(self) -> Option<Bonding> {
        match self.kind {
            1 => Some(Bonding::Broadcast),
            2 => Some(Bonding::Backup),
            _ => None,
        }
    }
}
