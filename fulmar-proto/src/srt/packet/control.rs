//! Control packets: header, types, and the bodies that need no file of their own (4).
//!
//! It does *not* know what was sent: whether numbers make sense is for `sender` and `receiver` to say.

use super::{
    Ack, DataHeader, Handshake, HsWords, KeyMaterial, KmAnswer, Losses, Malformed, Seq, SocketId,
    Stamp, in_order, low, words,
};
use crate::engine::{Reader, Writer};

/// A control packet (4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control<'a> {
    pub(crate) stamp: Stamp,
    pub(crate) to: SocketId,
    pub(crate) body: Body<'a>,
}

impl<'a> Control<'a> {
    pub(super) fn parse(
        head: &[u8; DataHeader::LEN],
        bytes: &'a mut [u8],
    ) -> Result<Self, Malformed> {
        let [types, information, stamp, to] = words(head);
        let (kind, subtype) = ((types >> 16 & 0x7fff) as u16, types as u16);
        Ok(Self {
            stamp: Stamp::new(stamp.into()),
            to: SocketId(to),
            body: Body::parse(kind, subtype, information, bytes)?,
        })
    }

    /// Appends the datagram.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (kind, subtype, information) = self.body.head();
        let mut writer = Writer::new(out);
        writer.u16(kind | 0x8000);
        writer.u16(subtype);
        writer.u32(information);
        writer.u32(low(self.stamp));
        writer.u32(self.to.0);
        self.body.write(out);
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

impl<'a> Body<'a> {
    fn parse(
        kind: u16,
        subtype: u16,
        information: u32,
        bytes: &'a mut [u8],
    ) -> Result<Self, Malformed> {
        Ok(match (kind, subtype) {
            (HANDSHAKE, 0) => Self::Handshake(Handshake::parse(bytes)?),
            (KEEPALIVE, 0) => Self::KeepAlive,
            (ACK, 0) => Self::Ack(Ack::parse(information, bytes)?),
            (NAK, 0) => Self::Nak(Losses::parse(bytes)?),
            (CONGESTION, 0) => Self::Congestion,
            (SHUTDOWN, 0) => Self::Shutdown,
            (ACKACK, 0) => Self::AckAck(information),
            (DROPREQ, 0) => Self::drop_req(information, bytes).ok_or(Malformed::DropReq)?,
            (PEERERROR, 0) => Self::PeerError(information),
            (EXTENSION, HSREQ) => Self::HsReq(HsWords::parse(bytes).ok_or(Malformed::Hs)?),
            (EXTENSION, HSRSP) => Self::HsRsp(HsWords::parse(bytes).ok_or(Malformed::Hs)?),
            (EXTENSION, KMREQ) => Self::KmReq(KeyMaterial::parse(bytes)?),
            (EXTENSION, KMRSP) => Self::KmRsp(KmAnswer::parse(bytes)?),
            _ => Self::Unknown { kind, subtype },
        })
    }

    fn drop_req(message: u32, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let [first, last] = [reader.u32()?, reader.u32()?].map(|word| Seq::new(word.into()));
        let whole = reader.remaining() == 0 && in_order(first, last);
        whole.then_some(Self::DropReq {
            message,
            first,
            last,
        })
    }

    /// Type, subtype and information.
    fn head(&self) -> (u16, u16, u32) {
        match self {
            Self::Handshake(_) => (HANDSHAKE, 0, 0),
            Self::KeepAlive => (KEEPALIVE, 0, 0),
            Self::Ack(ack) => (ACK, 0, ack.number.unwrap_or(0)),
            Self::Nak(_) => (NAK, 0, 0),
            Self::Congestion => (CONGESTION, 0, 0),
            Self::Shutdown => (SHUTDOWN, 0, 0),
            Self::AckAck(number) => (ACKACK, 0, *number),
            Self::DropReq { message, .. } => (DROPREQ, 0, *message),
            Self::PeerError(code) => (PEERERROR, 0, *code),
            Self::HsReq(_) => (EXTENSION, HSREQ, 0),
            Self::HsRsp(_) => (EXTENSION, HSRSP, 0),
            Self::KmReq(_) => (EXTENSION, KMREQ, 0),
            Self::KmRsp(_) => (EXTENSION, KMRSP, 0),
            Self::Unknown { kind, subtype } => (*kind, *subtype, 0),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Handshake(handshake) => handshake.write(out),
            Self::Ack(ack) => ack.write(out),
            Self::Nak(losses) => losses.write(out),
            Self::DropReq { first, last, .. } => {
                let mut writer = Writer::new(out);
                writer.u32(low(*first));
                writer.u32(low(*last));
            }
            Self::HsReq(words) | Self::HsRsp(words) => words.write(out),
            Self::KmReq(km) => km.write(out),
            Self::KmRsp(answer) => answer.write(out),
            // 4.1.3: never a datagram of 16 bytes.
            Self::KeepAlive
            | Self::Congestion
            | Self::Shutdown
            | Self::AckAck(_)
            | Self::PeerError(_)
            | Self::Unknown { .. } => Writer::new(out).zeros(4),
        }
    }
}

/// Types of control packets, and the subtypes of the last (4.1.2).
const HANDSHAKE: u16 = 0;
const KEEPALIVE: u16 = 1;
const ACK: u16 = 2;
const NAK: u16 = 3;
const CONGESTION: u16 = 4;
const SHUTDOWN: u16 = 5;
const ACKACK: u16 = 6;
const DROPREQ: u16 = 7;
const PEERERROR: u16 = 8;
const EXTENSION: u16 = 0x7fff;
const HSREQ: u16 = 1;
const HSRSP: u16 = 2;
const KMREQ: u16 = 3;
const KMRSP: u16 = 4;
