//! Handshakes and their blocks (5.1, 5.2).
//!
//! It does *not* judge versions, cookies or wishes: `connect` does.

use super::{Malformed, Seq, SocketId, low};
use crate::engine::{Reader, Writer};
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

impl<'a> Handshake<'a> {
    /// The extension field of an induction response (5.3.2).
    pub(crate) const MAGIC: u16 = 0x4a17;

    /// Reads the body, turning texts in place. What follows where no blocks belong is not looked at (5.3.5).
    pub(super) fn parse(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = bytes
            .split_first_chunk_mut::<48>()
            .ok_or(Malformed::Handshake)?;
        let mut handshake = Self::read(fixed).ok_or(Malformed::Handshake)?;
        if handshake.has_blocks() {
            handshake.blocks = Blocks::parse(rest);
        }
        Ok(handshake)
    }

    /// Appends the body.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.u32(self.version);
        writer.u16(self.encryption);
        writer.u16(self.extension);
        writer.u32(low(self.isn));
        writer.u32(self.mss);
        writer.u32(self.window);
        writer.u32(self.kind.word());
        writer.u32(self.id.0);
        writer.u32(self.cookie);
        writer.bytes(&self.address);
        if let Ok(blocks) = &self.blocks
            && self.has_blocks()
        {
            blocks.write(out);
        }
    }

    fn read(fixed: &[u8; 48]) -> Option<Self> {
        let mut reader = Reader::new(fixed);
        Some(Self {
            version: reader.u32()?,
            encryption: reader.u16()?,
            extension: reader.u16()?,
            isn: Seq::new(reader.u32()?.into()),
            mss: reader.u32()?,
            window: reader.u32()?,
            kind: Kind::from_word(reader.u32()?),
            id: SocketId(reader.u32()?),
            cookie: reader.u32()?,
            address: reader.array()?,
            blocks: Ok(Blocks::default()),
        })
    }

    fn has_blocks(&self) -> bool {
        self.version == 5 && self.kind == Kind::Conclusion
    }
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

impl Kind {
    fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Wave,
            1 => Self::Induction,
            CONCLUSION => Self::Conclusion,
            AGREEMENT => Self::Agreement,
            DONE => Self::Other(DONE),
            _ => Reason::from_wire(word).map_or(Self::Other(word), Self::Rejection),
        }
    }

    fn word(self) -> u32 {
        match self {
            Self::Wave => 0,
            Self::Induction => 1,
            Self::Conclusion => CONCLUSION,
            Self::Agreement => AGREEMENT,
            Self::Rejection(reason) => reason.to_wire(),
            Self::Other(word) => word,
        }
    }
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

impl<'a> Blocks<'a> {
    /// What the extension field says of them (5.2.6).
    pub(crate) fn field(&self) -> u16 {
        let hs = self.hs_req.is_some() || self.hs_rsp.is_some();
        let km = self.km_req.is_some() || self.km_rsp.is_some();
        let texts = [self.stream_id, self.congestion, self.filter];
        let other = self.group.is_some() || texts.iter().any(|text| !text.is_empty());
        u16::from(hs) | u16::from(km) << 1 | u16::from(other) << 2
    }

    /// Whether there is none: an AGREEMENT in all but name (5.11.3).
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn parse(mut rest: &'a mut [u8]) -> Result<Self, Malformed> {
        let mut blocks = Self::default();
        let mut seen = [false; 9];
        while !rest.is_empty() {
            let (head, tail) = rest.split_first_chunk_mut::<4>().ok_or(Malformed::Blocks)?;
            let [kind, words] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_be_bytes);
            let cut = tail.split_at_mut_checked(4 * usize::from(words));
            let (data, tail) = cut.ok_or(Malformed::Blocks)?;
            rest = tail;
            // 5.2.1, 5.2.5: of a known type, and the first of it.
            if let Some(seen) = seen.get_mut(usize::from(kind))
                && !std::mem::replace(seen, true)
            {
                blocks.take(kind, data)?;
            }
        }
        Ok(blocks)
    }

    fn take(&mut self, kind: u16, data: &'a mut [u8]) -> Result<(), Malformed> {
        match kind {
            HSREQ => self.hs_req = Some(HsWords::parse(data).ok_or(Malformed::Blocks)?),
            HSRSP => self.hs_rsp = Some(HsWords::parse(data).ok_or(Malformed::Blocks)?),
            KMREQ => self.km_req = Some(data),
            KMRSP => self.km_rsp = Some(data),
            SID if data.len() > STREAM_ID_MAX => return Err(Malformed::Blocks),
            SID => self.stream_id = turned(data),
            CONGESTION => self.congestion = turned(data),
            FILTER => self.filter = turned(data),
            GROUP => self.group = Some(GroupWords::parse(data).ok_or(Malformed::Blocks)?),
            _ => {}
        }
        Ok(())
    }

    /// In the order of 5.4.1 and 5.4.2.
    fn write(&self, out: &mut Vec<u8>) {
        let mut block = |kind: u16, write: &dyn Fn(&mut Vec<u8>)| {
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            write(out);
            out.resize(out.len().next_multiple_of(4), 0);
            let words = (out.len() - start) / 4 - 1;
            let words = u16::try_from(words).expect("a block fits in a datagram");
            out[start..start + 2].copy_from_slice(&kind.to_be_bytes());
            out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
        };
        for (kind, words) in [(HSREQ, self.hs_req), (HSRSP, self.hs_rsp)] {
            if let Some(words) = words {
                block(kind, &|out| words.write(out));
            }
        }
        let texts = [
            (SID, self.stream_id),
            (CONGESTION, self.congestion),
            (FILTER, self.filter),
        ];
        for (kind, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            block(kind, &|out| turn(text, out));
        }
        if let Some(words) = self.group {
            block(GROUP, &|out| words.write(out));
        }
        for (kind, bytes) in [(KMREQ, self.km_req), (KMRSP, self.km_rsp)] {
            if let Some(bytes) = bytes {
                block(kind, &|out| out.extend_from_slice(bytes));
            }
        }
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

impl HsWords {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let words = Self {
            version: reader.u32()?,
            flags: Flags(reader.u32()?),
            receive_latency: reader.u16()?,
            peer_latency: reader.u16()?,
        };
        (reader.remaining() == 0).then_some(words)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.u32(self.version);
        writer.u32(self.flags.0);
        writer.u16(self.receive_latency);
        writer.u16(self.peer_latency);
    }
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

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let words = Self {
            id: SocketId(reader.u32()?),
            kind: reader.u8()?,
            flags: reader.u8()?,
            weight: reader.u16()?,
        };
        (reader.remaining() == 0).then_some(words)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.u32(self.id.0);
        writer.u8(self.kind);
        writer.u8(self.flags);
        writer.u16(self.weight);
    }
}

/// A text of the wire, the right way round and without the zeros at its end (5.2.4).
fn turned(words: &mut [u8]) -> &[u8] {
    words.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    let end = words
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    &words[..end]
}

/// Appends a text as the wire has it.
fn turn(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.chunks(4) {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        word.reverse();
        out.extend_from_slice(&word);
    }
}

/// Longest Stream ID, bytes (15.1.1).
pub(crate) const STREAM_ID_MAX: usize = 512;
/// Types of handshakes (5.1.3).
const CONCLUSION: u32 = 0xffff_ffff;
const AGREEMENT: u32 = 0xffff_fffe;
const DONE: u32 = 0xffff_fffd;
/// Types of blocks (5.2.3).
const HSREQ: u16 = 1;
const HSRSP: u16 = 2;
const KMREQ: u16 = 3;
const KMRSP: u16 = 4;
const SID: u16 = 5;
const CONGESTION: u16 = 6;
const FILTER: u16 = 7;
const GROUP: u16 = 8;
