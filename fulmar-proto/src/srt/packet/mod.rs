//! The bytes of SRT: data header, control packets, handshakes.
//!
//! Parsers are total: any byte string gives a value or a named error, and [`Control::write`] after [`parse`] gives the
//! same bytes for whatever this side would write itself. Numbers stay as the wire has them: `link` widens them. This
//! module does *not* know connections; whether a well-formed packet makes sense is for its receiver to say.

mod ack;
mod handshake;
mod km;
mod losses;

pub(crate) use ack::Ack;
pub(crate) use handshake::{Blocks, Flags, GroupWords, Handshake, HsWords, Kind};
pub(crate) use km::{Cipher, KeyMaterial, KmAnswer, KmState, Slots};
pub(crate) use losses::Losses;

use crate::engine::Wrapped;

/// Names a connection, or a group with bit 30, on the wire; 0 opens one (2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SocketId(pub(crate) u32);

impl SocketId {
    /// Where what opens a connection goes (2.4.3).
    pub(crate) const NONE: Self = Self(0);
}

/// A sequence number (2.1.1).
pub(crate) type Seq = Wrapped<31>;
/// A timestamp, microseconds of the sender's clock (2.1.4).
pub(crate) type Stamp = Wrapped<32>;

/// A datagram, read.
#[derive(Debug)]
pub(crate) enum Packet<'a> {
    Data {
        header: DataHeader,
        /// The header as it came, for what authenticates it and for the packet filter.
        head: [u8; DataHeader::LEN],
        payload: &'a mut [u8],
    },
    Control(Control<'a>),
}

/// Reads a datagram. Texts in a handshake are turned in place (5.2.4), so a datagram is read once.
pub(crate) fn parse(datagram: &mut [u8]) -> Result<Packet<'_>, Malformed> {
    unimplemented!()
}

/// Which rule a datagram breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("shorter than a header (2.4.1)")]
    Short,
    #[error("data without payload (3.1.5)")]
    Empty,
    #[error("data under both keys (3.1.3)")]
    BothKeys,
    #[error("handshake cut short (5.1.2)")]
    Handshake,
    #[error("handshake blocks do not add up (5.2.2)")]
    Blocks,
    #[error("key material (6.2.3)")]
    Km,
    #[error("ACK (8.2.4, 8.4.2)")]
    Ack,
    #[error("NAK (9.1.3)")]
    Nak,
    #[error("DROPREQ (9.7.2)")]
    DropReq,
    #[error("HSREQ or HSRSP of a peer with HSv4 (5.10.3)")]
    Hs,
}

/// Where in its message a packet stands (3.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Whole,
    First,
    Middle,
    Last,
}

/// One of the two keys in use (6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Even,
    Odd,
}

impl Slot {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Even => Self::Odd,
            Self::Odd => Self::Even,
        }
    }
}

/// The header of a data packet (3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataHeader {
    pub(crate) seq: Seq,
    pub(crate) place: Place,
    pub(crate) ordered: bool,
    /// The key it is sealed with; `None` in the clear.
    pub(crate) slot: Option<Slot>,
    /// Sent again. Of a peer without REXMITFLG the highest bit of the message number (2.1.2).
    pub(crate) again: bool,
    /// 26 bits.
    pub(crate) message: u32,
    pub(crate) stamp: Stamp,
    pub(crate) to: SocketId,
}

impl DataHeader {
    pub(crate) const LEN: usize = 16;

    /// As the wire has it.
    pub(crate) fn bytes(&self) -> [u8; Self::LEN] {
        unimplemented!()
    }

    /// Of a control packet of the packet filter, if one was agreed on (13.4, 3.2.4).
    pub(crate) fn is_filter(&self) -> bool {
        self.message == 0
    }
}

/// What AES-GCM authenticates of a header: all but R (6.4.1).
pub(crate) fn authenticated(head: &[u8; DataHeader::LEN]) -> [u8; DataHeader::LEN] {
    let mut head = *head;
    head[4] &= !0x04;
    head
}

/// A control packet (4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control<'a> {
    pub(crate) stamp: Stamp,
    pub(crate) to: SocketId,
    pub(crate) body: Body<'a>,
}

impl Control<'_> {
    /// Appends the datagram.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        unimplemented!()
    }
}

/// The types of control packets (4.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    Handshake(Handshake<'a>),
    KeepAlive,
    Ack(Ack),
    Nak(Losses<'a>),
    Congestion,
    Shutdown,
    /// The ACK number it answers.
    AckAck(u32),
    /// `last` is not before `first`.
    DropReq {
        /// 0 when unknown.
        message: u32,
        first: Seq,
        last: Seq,
    },
    PeerError(u32),
    HsReq(HsWords),
    HsRsp(HsWords),
    KmReq(KeyMaterial<'a>),
    KmRsp(KmAnswer<'a>),
    /// Counted and ignored (4.1.5).
    Unknown {
        kind: u16,
        subtype: u16,
    },
}
