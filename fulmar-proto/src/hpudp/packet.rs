//! The bytes of HP-UDP v5.0: header, control payloads, heartbeats and the extension block.
//!
//! Parsers are total: any byte string gives a value or `None`. All integers are big-endian and unaligned. This
//! module does *not* know sessions; whether a well-formed packet makes sense is for its receiver to say.

use std::ops::Range;

use super::config::{DATAGRAM_MAX, HEADER, Layout, NACKS, TAG};
use super::keys::{SIGNATURE, Signer};
use super::ranges::{self, TLV_RANGES};

/// The packet types of v5.0 (2.3), and the list of v5.2 (18.6). Other types are unknown here and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    SessionReq = 0x00,
    Data = 0x01,
    Parity = 0x02,
    Heartbeat = 0x03,
    Reject = 0x04,
    Complete = 0x05,
    AckClose = 0x06,
    PullReq = 0x07,
    PushReq = 0x08,
    PushAccept = 0x09,
    SessionAccept = 0x0a,
    ListReq = 0x0d,
    ListRes = 0x0e,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Self::SessionReq,
            0x01 => Self::Data,
            0x02 => Self::Parity,
            0x03 => Self::Heartbeat,
            0x04 => Self::Reject,
            0x05 => Self::Complete,
            0x06 => Self::AckClose,
            0x07 => Self::PullReq,
            0x08 => Self::PushReq,
            0x09 => Self::PushAccept,
            0x0a => Self::SessionAccept,
            0x0d => Self::ListReq,
            0x0e => Self::ListRes,
            _ => return None,
        })
    }
}

/// Flag bits of the header (2.1).
pub(super) mod flag {
    pub(in super::super) const END: u8 = 0x01;
    pub(in super::super) const CALIBRATION: u8 = 0x02;
    pub(in super::super) const SEALED: u8 = 0x04;
}

/// The fixed header of every packet (2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) session: u32,
    pub(super) seq: u64,
    pub(super) block: u64,
    pub(super) len: u16,
    pub(super) flags: u8,
    pub(super) stamp: u64,
}

impl Header {
    /// A control packet's header: sequence, block and stamp are 0.
    pub(super) fn control(kind: Kind, session: u32, len: usize, flags: u8) -> Self {
        let len = u16::try_from(len).expect("control payloads are under 1368 bytes");
        Self {
            kind,
            session,
            seq: 0,
            block: 0,
            len,
            flags,
            stamp: 0,
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0] = self.kind as u8;
        out[1..5].copy_from_slice(&self.session.to_be_bytes());
        out[5..13].copy_from_slice(&self.seq.to_be_bytes());
        out[13..21].copy_from_slice(&self.block.to_be_bytes());
        out[21..23].copy_from_slice(&self.len.to_be_bytes());
        out[23] = self.flags;
        out[24..32].copy_from_slice(&self.stamp.to_be_bytes());
        out
    }

    /// Splits a datagram into its header and all that follows, by the rules of 2.4. The rest is at least
    /// `header.len` bytes.
    pub(super) fn parse(datagram: &[u8]) -> Option<(Self, &[u8])> {
        if datagram.len() > DATAGRAM_MAX {
            return None;
        }
        let (head, rest) = datagram.split_first_chunk::<HEADER>()?;
        let header = Self {
            kind: Kind::from_byte(head[0])?,
            session: u32::from_be_bytes(sub(head, 1)),
            seq: u64::from_be_bytes(sub(head, 5)),
            block: u64::from_be_bytes(sub(head, 13)),
            len: u16::from_be_bytes(sub(head, 21)),
            flags: head[23],
            stamp: u64::from_be_bytes(sub(head, 24)),
        };
        (rest.len() >= usize::from(header.len)).then_some((header, rest))
    }

    pub(super) fn sealed(&self) -> bool {
        self.flags & flag::SEALED != 0
    }

    /// Plaintext length of a sealed packet with `body` bytes after the header: PayloadLen counts the plaintext in
    /// the seed's form and plaintext plus tag in a later dialect's; the datagram's length tells which (2.4).
    pub(super) fn sealed_plaintext_len(&self, body: usize) -> Option<usize> {
        let len = usize::from(self.len);
        if body >= len + TAG {
            Some(len)
        } else {
            len.checked_sub(TAG)
        }
    }
}

fn sub<const N: usize>(head: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&head[at..at + N]);
    out
}

/// SESSION_REQ (3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionReq {
    pub(super) size: u64,
    pub(super) hash: u64,
    pub(super) rate: u32,
    pub(super) key: Option<[u8; 32]>,
    /// The name's bytes, without NUL.
    pub(super) name: Vec<u8>,
    /// Whether PayloadLen counted the NUL: the dialect's fingerprint (3.1).
    pub(super) nul_counted: bool,
    pub(super) extension: Option<Extension>,
}

impl SessionReq {
    /// The whole datagram, name terminator not counted unless `nul_counted` (3.1), extension block beyond it, signed by
    /// `signer` when the session has keys already (18.7.4).
    pub(super) fn encode(&self, session: u32, signer: Option<&mut Signer>) -> Vec<u8> {
        let key = self.key.map_or(0, |key| key.len());
        let len = 20 + key + self.name.len() + usize::from(self.nul_counted);
        let flags = if self.key.is_some() { flag::SEALED } else { 0 };
        let mut out = Header::control(Kind::SessionReq, session, len, flags)
            .encode()
            .to_vec();
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.hash.to_be_bytes());
        out.extend_from_slice(&self.rate.to_be_bytes());
        out.extend_from_slice(self.key.as_ref().map_or(&[], |key| &key[..]));
        out.extend_from_slice(&self.name);
        out.push(0);
        if let Some(extension) = &self.extension {
            extension.encode(&mut out, signer);
        }
        out
    }

    /// `None` also for the headerless parity that a known peer emits, which starts like a SESSION_REQ (6.6): a real
    /// one has no sequence, block or stamp, and nothing but a NUL and our block after its payload.
    pub(super) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
        let rest = datagram.get(HEADER..)?;
        if header.seq != 0 || header.block != 0 || header.stamp != 0 {
            return None;
        }
        let (payload, beyond) = rest.split_at_checked(usize::from(header.len))?;
        let (size, payload) = payload.split_first_chunk::<8>()?;
        let (hash, payload) = payload.split_first_chunk::<8>()?;
        let (rate, mut payload) = payload.split_first_chunk::<4>()?;
        let mut key = None;
        if header.sealed() {
            let (bytes, rest) = payload.split_first_chunk::<32>()?;
            key = Some(*bytes);
            payload = rest;
        }
        let (name, nul_counted, beyond) = name_and_rest(payload, beyond);
        let extension = Extension::parse(datagram, beyond.len());
        if extension.is_none() && !beyond.is_empty() {
            return None;
        }
        Some(Self {
            size: u64::from_be_bytes(*size),
            hash: u64::from_be_bytes(*hash),
            rate: u32::from_be_bytes(*rate),
            key,
            name,
            nul_counted,
            extension,
        })
    }
}

impl SessionReq {
    /// Whether it bears a signature, right or wrong.
    pub(super) fn is_signed(&self) -> bool {
        self.extension.as_ref().is_some_and(|it| it.signed)
    }
}

/// A name up to its NUL, whether PayloadLen counted that, and what follows it (3.1).
fn name_and_rest<'a>(payload: &[u8], beyond: &'a [u8]) -> (Vec<u8>, bool, &'a [u8]) {
    match payload.iter().position(|&byte| byte == 0) {
        Some(at) => (payload[..at].to_vec(), true, beyond),
        None => {
            let rest = beyond.strip_prefix(&[0]).unwrap_or(beyond);
            (payload.to_vec(), false, rest)
        }
    }
}

/// PUSH_REQ (3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PushReq {
    pub(super) size: u64,
    /// Only a later dialect says it here.
    pub(super) hash: Option<u64>,
    pub(super) key: Option<[u8; 32]>,
    pub(super) name: Vec<u8>,
    pub(super) extension: Option<Extension>,
}

impl PushReq {
    pub(super) fn encode(&self, session: u32) -> Vec<u8> {
        let mut payload = self.size.to_be_bytes().to_vec();
        payload.extend_from_slice(self.key.as_ref().map_or(&[], |key| &key[..]));
        payload.extend_from_slice(&self.name);
        payload.push(0);
        let flags = if self.key.is_some() { flag::SEALED } else { 0 };
        let mut out = control(Kind::PushReq, session, &payload, flags);
        if let Some(extension) = &self.extension {
            extension.encode(&mut out, None);
        }
        out
    }

    /// Tells the two dialects apart by whether what follows the size can be a name (18.3.1).
    pub(super) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
        let (payload, beyond) = bare(header, datagram)?;
        let (size, payload) = payload.split_first_chunk::<8>()?;
        let (key, payload) = split_key(header, payload)?;
        let (hash, named) = if looks_like_name(payload) {
            (None, payload)
        } else {
            let (hash, rest) = payload.split_first_chunk::<8>()?;
            let (_rate, rest) = rest.split_first_chunk::<4>()?;
            (Some(u64::from_be_bytes(*hash)), rest)
        };
        let (name, _, beyond) = name_and_rest(named, beyond);
        Some(Self {
            size: u64::from_be_bytes(*size),
            hash,
            key,
            name,
            extension: trailer(datagram, beyond)?,
        })
    }
}

/// PULL_REQ (3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PullReq {
    pub(super) key: Option<[u8; 32]>,
    pub(super) name: Vec<u8>,
    pub(super) extension: Option<Extension>,
}

impl PullReq {
    /// Padded with zeros to `pad` bytes, which pay for the answer (19.5.5).
    pub(super) fn encode(&self, session: u32, pad: usize) -> Vec<u8> {
        let mut payload = self.key.map_or_else(Vec::new, |key| key.to_vec());
        payload.extend_from_slice(&self.name);
        payload.push(0);
        let flags = if self.key.is_some() { flag::SEALED } else { 0 };
        let mut out = control(Kind::PullReq, session, &payload, flags);
        if let Some(extension) = &self.extension {
            extension.encode(&mut out, None);
        }
        let padded = out.len().max(pad);
        out.resize(padded, 0);
        out
    }

    pub(super) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
        let (payload, beyond) = bare(header, datagram)?;
        let (key, payload) = split_key(header, payload)?;
        let (name, _, beyond) = name_and_rest(payload, beyond);
        Some(Self {
            key,
            name,
            extension: trailer(datagram, beyond)?,
        })
    }
}

/// PUSH_ACCEPT (3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PushAccept {
    /// Where SESSION_REQ and DATA go; a later dialect leaves it out.
    pub(super) port: Option<u16>,
    pub(super) key: Option<[u8; 32]>,
    pub(super) extension: Option<Extension>,
}

impl PushAccept {
    pub(super) fn encode(&self, session: u32) -> Vec<u8> {
        let mut payload = self
            .port
            .map_or_else(Vec::new, |port| port.to_be_bytes().to_vec());
        payload.extend_from_slice(self.key.as_ref().map_or(&[], |key| &key[..]));
        let flags = if self.key.is_some() { flag::SEALED } else { 0 };
        let mut out = control(Kind::PushAccept, session, &payload, flags);
        if let Some(extension) = &self.extension {
            extension.encode(&mut out, None);
        }
        out
    }

    pub(super) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
        let (payload, beyond) = bare(header, datagram)?;
        let (port, rest) = match payload.len() % 32 {
            0 => (None, payload),
            _ => {
                let (port, rest) = payload.split_first_chunk::<2>()?;
                (Some(u16::from_be_bytes(*port)), rest)
            }
        };
        let key = match (header.sealed(), rest.len()) {
            (true, 32) => rest.first_chunk().copied(),
            (false, 0) => None,
            _ => return None,
        };
        Some(Self {
            port,
            key,
            extension: trailer(datagram, beyond)?,
        })
    }
}

/// LIST_REQ (18.6): no payload; the first entry wanted stands in SequenceNum, where v5.2 has 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListReq {
    pub(super) first: u64,
}

impl ListReq {
    /// Padded with zeros to `pad` bytes, which pay for the answer.
    pub(super) fn encode(&self, session: u32, pad: usize) -> Vec<u8> {
        let header = Header {
            seq: self.first,
            ..Header::control(Kind::ListReq, session, 0, 0)
        };
        let mut out = header.encode().to_vec();
        out.resize(pad.max(HEADER), 0);
        out
    }

    pub(super) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
        let empty = header.len == 0 && header.block == 0 && header.stamp == 0;
        trailer(datagram, datagram.get(HEADER..)?)?;
        empty.then_some(Self { first: header.seq })
    }
}

/// LIST_RES (18.6): lines of name, tab, size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListRes {
    /// Index of the first line, in SequenceNum.
    pub(super) first: u64,
    /// How many there are, in BlockGroup; 0 from v5.2, which does not say.
    pub(super) total: u64,
    pub(super) text: Vec<u8>,
}

impl ListRes {
    /// `text` is at most 1368 bytes.
    pub(super) fn encode(&self, session: u32) -> Vec<u8> {
        let header = Header {
            seq: self.first,
            block: self.total,
            ..Header::control(Kind::ListRes, session, self.text.len(), 0)
        };
        let mut out = header.encode().to_vec();
        out.extend_from_slice(&self.text);
        out
    }

    pub(super) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
        let rest = datagram.get(HEADER..)?;
        let (text, beyond) = rest.split_at_checked(usize::from(header.len))?;
        trailer(datagram, beyond)?;
        (header.stamp == 0).then(|| Self {
            first: header.seq,
            total: header.block,
            text: text.to_vec(),
        })
    }
}

/// Payload of a request or answer and what lies beyond it; none has a sequence, a block or a stamp.
fn bare<'a>(header: &Header, datagram: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    if header.seq != 0 || header.block != 0 || header.stamp != 0 {
        return None;
    }
    datagram
        .get(HEADER..)?
        .split_at_checked(usize::from(header.len))
}

fn split_key<'a>(header: &Header, payload: &'a [u8]) -> Option<(Option<[u8; 32]>, &'a [u8])> {
    if !header.sealed() {
        return Some((None, payload));
    }
    let (key, rest) = payload.split_first_chunk::<32>()?;
    Some((Some(*key), rest))
}

/// What may follow a request or an answer: our block, or padding. Anything else is damage, and one damaged bit must not
/// turn another packet into this one.
fn trailer(datagram: &[u8], beyond: &[u8]) -> Option<Option<Extension>> {
    match Extension::unsigned(datagram, beyond.len()) {
        None if beyond.iter().any(|byte| *byte != 0) => None,
        extension => Some(extension),
    }
}

fn looks_like_name(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes);
    !bytes.is_empty() && text.is_ok_and(|text| !text.chars().any(char::is_control))
}

/// HEARTBEAT (7.2), and what our extension adds beyond its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heartbeat {
    /// New file bytes a second at the receiver.
    pub(super) delivery: u32,
    /// File bytes a second reaching the disk; informational.
    pub(super) flush: u32,
    /// Raw loss in basis points.
    pub(super) loss: u16,
    pub(super) echo: u64,
    pub(super) dispersion: u64,
    pub(super) contiguous: u64,
    pub(super) nacks: Vec<u64>,
    pub(super) extension: Option<Extension>,
    /// Missing chunks in runs, in the extension block (18.5.4); they take the place of `nacks`.
    pub(super) runs: Vec<Range<u64>>,
}

const FIXED: usize = 36;

impl Heartbeat {
    /// Signed by `signer` when the session has one (18.7).
    pub(super) fn encode(
        &self,
        session: u32,
        layout: Layout,
        out: &mut Vec<u8>,
        signer: Option<&mut Signer>,
    ) {
        let count = self.nacks.len().min(NACKS);
        let header = Header::control(Kind::Heartbeat, session, FIXED + 8 * count, 0);
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&self.delivery.to_be_bytes());
        out.extend_from_slice(&self.flush.to_be_bytes());
        out.extend_from_slice(&self.loss.to_be_bytes());
        let front = |out: &mut Vec<u8>| {
            out.extend_from_slice(&self.contiguous.to_be_bytes());
            out.extend_from_slice(&(count as u16).to_be_bytes());
        };
        let times = |out: &mut Vec<u8>| {
            out.extend_from_slice(&self.echo.to_be_bytes());
            out.extend_from_slice(&self.dispersion.to_be_bytes());
        };
        match layout {
            Layout::Text => {
                times(out);
                front(out);
            }
            Layout::Reference => {
                front(out);
                times(out);
            }
        }
        for seq in &self.nacks[..count] {
            out.extend_from_slice(&seq.to_be_bytes());
        }
        if let Some(extension) = &self.extension {
            extension.write(&self.runs, out, signer);
        }
    }

    /// Reads the payload in one field order; whether the values can be true is for the sender to judge, which
    /// tries both orders (7.2).
    pub(super) fn parse(header: &Header, datagram: &[u8], layout: Layout) -> Option<Self> {
        let rest = datagram.get(HEADER..)?;
        let (payload, beyond) = rest.split_at_checked(usize::from(header.len))?;
        let (fixed, list) = payload.split_first_chunk::<FIXED>()?;
        let u64_at = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&fixed[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let (echo, dispersion, contiguous, count) = match layout {
            Layout::Text => (u64_at(10), u64_at(18), u64_at(26), [fixed[34], fixed[35]]),
            Layout::Reference => (u64_at(20), u64_at(28), u64_at(10), [fixed[18], fixed[19]]),
        };
        if list.len() != 8 * usize::from(u16::from_be_bytes(count)) {
            return None;
        }
        let (nacks, _) = list.as_chunks::<8>();
        let mut runs = Vec::new();
        let extension = Extension::read(datagram, beyond.len(), &mut runs);
        if extension.is_none() {
            runs.clear();
        }
        Some(Self {
            delivery: u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]),
            flush: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            loss: u16::from_be_bytes([fixed[8], fixed[9]]).min(10_000),
            echo,
            dispersion,
            contiguous,
            nacks: nacks.iter().map(|seq| u64::from_be_bytes(*seq)).collect(),
            extension,
            runs,
        })
    }
}

/// The block `HPX1` beyond PayloadLen, where v5.0 peers never look (18.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extension {
    /// What the side that sends it understands; see [`feature`].
    pub(super) features: u32,
    /// The static key of the side that answers (18.7).
    pub(super) host_key: Option<[u8; 32]>,
    /// The session carries a bundle, or should (18.8).
    pub(super) bundle: bool,
    /// Blocks the receiver had before the session began, as first block and count (18.8).
    pub(super) had: Vec<(u32, u32)>,
    /// The datagram is signed; whether rightly its session knows.
    pub(super) signed: bool,
    /// Full datagrams the receiver's socket can hold; 0 when unknown.
    pub(super) socket_datagrams: u32,
    pub(super) feedback: Option<Feedback>,
}

/// Bits of [`Extension::features`].
pub(super) mod feature {
    /// Heartbeats as often as one hundredth of the arriving bytes pays for, each with [`super::Feedback`].
    pub(in super::super) const FEEDBACK: u32 = 1;
    /// A file of no bytes may be offered.
    pub(in super::super) const EMPTY: u32 = 2;
    /// The receiver answers ACK_CLOSE with ACK_CLOSE, which ends the sender's linger.
    pub(in super::super) const CLOSE_ECHO: u32 = 4;
    /// Keys bound to the whole handshake and the answering side's identity, and signed control packets (18.7).
    pub(in super::super) const KEYS: u32 = 8;
    /// Heartbeats name missing chunks in runs.
    pub(in super::super) const RANGES: u32 = 16;
    /// All that this version knows.
    pub(in super::super) const ALL: u32 = FEEDBACK | EMPTY | CLOSE_ECHO | KEYS | RANGES;
}

/// Exact counts, from which a sender derives delivery rate and loss without guessing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Feedback {
    /// DATA and PARITY datagrams accepted so far, duplicates too.
    pub(super) received: u64,
    /// Receiver's clock, in nanoseconds from an arbitrary start, when the last of them came.
    pub(super) at: u64,
    /// The highest stamp among them.
    pub(super) highest: u64,
    /// Microseconds from that packet's arrival to this heartbeat.
    pub(super) held: u32,
    /// Datagrams the receiver has room for beyond those counted here while storage is behind; the greatest number
    /// while it keeps up.
    pub(super) room: u32,
}

const MAGIC: [u8; 4] = *b"HPX1";
const TLV_FEATURES: u8 = 0x01;
const TLV_SOCKET: u8 = 0x04;
const TLV_SUM: u8 = 0x05;
const TLV_HOST_KEY: u8 = 0x06;
const TLV_BUNDLE: u8 = 0x07;
const TLV_HAD: u8 = 0x08;
const TLV_SIGNATURE: u8 = 0x09;
const SIGNATURE_FIELD: usize = 2 + SIGNATURE;
/// Ranges that fit in a field.
pub(super) const HAD_MAX: usize = 31;
const TLV_FEEDBACK: u8 = 0x10;
/// Bytes of the largest block this version writes, ranges and runs not counted.
pub(super) const EXTENSION_MAX: usize = 6 + 6 + 6 + 34 + SIGNATURE_FIELD;

impl Extension {
    /// Appends the block to `out`, which holds the datagram so far: the block ends with a CRC-32 of all before it,
    /// because nothing else guards a control packet against damage that slips past UDP's checksum.
    /// `signer` proves more, and takes its place.
    pub(super) fn encode(&self, out: &mut Vec<u8>, signer: Option<&mut Signer>) {
        self.write(&[], out, signer);
    }

    fn write(&self, runs: &[Range<u64>], out: &mut Vec<u8>, signer: Option<&mut Signer>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0, 0]);
        if self.features != 0 {
            out.extend_from_slice(&[TLV_FEATURES, 4]);
            out.extend_from_slice(&self.features.to_be_bytes());
        }
        if let Some(key) = &self.host_key {
            out.extend_from_slice(&[TLV_HOST_KEY, 32]);
            out.extend_from_slice(key);
        }
        if self.bundle {
            out.extend_from_slice(&[TLV_BUNDLE, 0]);
        }
        let had = &self.had[..self.had.len().min(HAD_MAX)];
        if !had.is_empty() {
            out.extend_from_slice(&[TLV_HAD, (had.len() * 8) as u8]);
            for (first, count) in had {
                out.extend_from_slice(&first.to_be_bytes());
                out.extend_from_slice(&count.to_be_bytes());
            }
        }
        if self.socket_datagrams != 0 {
            out.extend_from_slice(&[TLV_SOCKET, 4]);
            out.extend_from_slice(&self.socket_datagrams.to_be_bytes());
        }
        if let Some(feedback) = &self.feedback {
            out.extend_from_slice(&[TLV_FEEDBACK, 32]);
            out.extend_from_slice(&feedback.received.to_be_bytes());
            out.extend_from_slice(&feedback.at.to_be_bytes());
            out.extend_from_slice(&feedback.highest.to_be_bytes());
            out.extend_from_slice(&feedback.held.to_be_bytes());
            out.extend_from_slice(&feedback.room.to_be_bytes());
        }
        let (last, value) = match signer {
            Some(_) => (TLV_SIGNATURE, SIGNATURE),
            None => (TLV_SUM, 4),
        };
        ranges::encode(
            runs,
            DATAGRAM_MAX.saturating_sub(out.len() + 2 + value),
            out,
        );
        out.extend_from_slice(&[last, value as u8]);
        let len = (out.len() + value - start) as u16;
        out[start + 4..start + 6].copy_from_slice(&len.to_be_bytes());
        match signer {
            Some(signer) => signer.sign(out),
            None => out.extend_from_slice(&crc32fast::hash(out).to_be_bytes()),
        }
    }

    /// Reads the block in the last `beyond` bytes of a datagram. `None` when there is none, or a damaged one;
    /// unknown fields, and padding behind the block, are skipped.
    pub(super) fn parse(datagram: &[u8], beyond: usize) -> Option<Self> {
        Self::read(datagram, beyond, &mut Vec::new())
    }

    fn read(datagram: &[u8], beyond: usize, runs: &mut Vec<Range<u64>>) -> Option<Self> {
        let start = datagram.len().checked_sub(beyond)?;
        let head = datagram.get(start..)?.first_chunk::<6>()?;
        if head[..4] != MAGIC {
            return None;
        }
        let end = start + usize::from(u16::from_be_bytes([head[4], head[5]]));
        let mut fields = datagram.get(start + 6..end)?;
        let mut out = Self::default();
        let mut whole = false;
        while let Some((&[kind, len], rest)) = fields.split_first_chunk::<2>() {
            let (value, rest) = rest.split_at_checked(usize::from(len))?;
            fields = rest;
            match (kind, value.len()) {
                (TLV_FEATURES, 4) => out.features = u32_of(value)?,
                (TLV_SOCKET, 4) => out.socket_datagrams = u32_of(value)?,
                (TLV_FEEDBACK, 32) => {
                    out.feedback = Some(Feedback {
                        received: u64_of(value)?,
                        at: u64_of(value.get(8..)?)?,
                        highest: u64_of(value.get(16..)?)?,
                        held: u32_of(value.get(24..)?)?,
                        room: u32_of(value.get(28..)?)?,
                    });
                }
                (TLV_RANGES, _) => ranges::parse(value, runs)?,
                (TLV_HOST_KEY, 32) => out.host_key = value.first_chunk().copied(),
                (TLV_BUNDLE, 0) => out.bundle = true,
                (TLV_HAD, len) if len % 8 == 0 => {
                    let (ranges, _) = value.as_chunks::<8>();
                    let range = |&[a, b, c, d, e, f, g, h]: &[u8; 8]| {
                        let (first, count) = ([a, b, c, d], [e, f, g, h]);
                        (u32::from_be_bytes(first), u32::from_be_bytes(count))
                    };
                    out.had = ranges.iter().map(range).collect();
                }
                (TLV_SUM, 4) if rest.is_empty() => {
                    whole = u32_of(value)? == crc32fast::hash(&datagram[..end - 4]);
                }
                // Nothing may follow a signature: what it does not cover would be anybody's.
                (TLV_SIGNATURE, SIGNATURE) if rest.is_empty() && end == datagram.len() => {
                    out.signed = true;
                    whole = true;
                }
                _ => {}
            }
        }
        whole.then_some(out)
    }

    /// The block of a request or an answer: there is no key yet to sign with.
    pub(super) fn unsigned(datagram: &[u8], beyond: usize) -> Option<Self> {
        Self::parse(datagram, beyond).filter(|it| !it.signed)
    }

    pub(super) fn has(&self, bit: u32) -> bool {
        self.features & bit != 0
    }
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|chunk| u64::from_be_bytes(*chunk))
}

/// A control packet without structure: REJECT with its reason byte, TRANSFER_COMPLETE, ACK_CLOSE, SESSION_ACCEPT.
pub(super) fn control(kind: Kind, session: u32, payload: &[u8], flags: u8) -> Vec<u8> {
    let mut out = Header::control(kind, session, payload.len(), flags)
        .encode()
        .to_vec();
    out.extend_from_slice(payload);
    out
}

/// The same, signed when the session has the means (18.7.4).
pub(super) fn signed(
    kind: Kind,
    session: u32,
    payload: &[u8],
    signer: Option<&mut Signer>,
) -> Vec<u8> {
    let mut out = control(kind, session, payload, 0);
    if signer.is_some() {
        Extension::default().encode(&mut out, signer);
    }
    out
}

/// The payload of such a packet. `None` unless it has exactly the shape its kind has: one damaged bit must not turn a
/// heartbeat or a chunk into a packet that ends a session.
pub(super) fn exact<'a>(header: &Header, datagram: &'a [u8]) -> Option<&'a [u8]> {
    let rest = datagram.get(HEADER..)?;
    let (payload, beyond) = rest.split_at_checked(usize::from(header.len))?;
    let zero = header.seq == 0 && header.block == 0 && header.stamp == 0;
    let shape = match header.kind {
        Kind::Reject => payload.len() == 1,
        Kind::Complete | Kind::AckClose => payload.is_empty(),
        // Without a key it accepts a bundle that goes in the clear (18.8).
        Kind::SessionAccept => payload.len() == if header.sealed() { 32 } else { 0 },
        Kind::SessionReq
        | Kind::Data
        | Kind::Parity
        | Kind::Heartbeat
        | Kind::PullReq
        | Kind::PushReq
        | Kind::PushAccept
        | Kind::ListReq
        | Kind::ListRes => false,
    };
    let known = beyond.is_empty() || Extension::parse(datagram, beyond.len()).is_some();
    (zero && shape && known).then_some(payload)
}

/// Reads any bytes with every parser of the protocol, and checks that what they understood reads the same once it is
/// written again: the body of a fuzz target.
///
/// # Panics
/// When a parser and its writer disagree.
#[cfg(feature = "sim")]
pub fn read_and_write_back(bytes: &[u8]) {
    let Some((header, rest)) = Header::parse(bytes) else {
        return;
    };
    assert_eq!(header.encode(), bytes[..HEADER], "header");
    let plain = header.sealed_plaintext_len(rest.len());
    assert!(
        plain.is_none_or(|len| len + TAG <= rest.len()),
        "sealed length"
    );
    assert!(
        exact(&header, bytes).is_none_or(|payload| payload.len() <= 32),
        "control packet"
    );
    // What is signed is checked by those who have the key; written back it has a checksum.
    if let Some(request) = SessionReq::parse(&header, bytes).filter(|it| !it.is_signed()) {
        let again = request.encode(header.session, None);
        // What we leave out is understood as well, what we put in need not fit.
        if let Some((header, _)) = Header::parse(&again) {
            assert_eq!(SessionReq::parse(&header, &again), Some(request));
        }
    }
    if let Some(request) = PushReq::parse(&header, bytes).filter(|it| it.hash.is_none())
        && header.kind == Kind::PushReq
        && looks_like_name(&request.name)
    {
        let again = request.encode(header.session);
        if let Some((header, _)) = Header::parse(&again) {
            assert_eq!(PushReq::parse(&header, &again), Some(request));
        }
    }
    if let Some(request) = PullReq::parse(&header, bytes).filter(|_| header.kind == Kind::PullReq) {
        let again = request.encode(header.session, 0);
        if let Some((header, _)) = Header::parse(&again) {
            assert_eq!(PullReq::parse(&header, &again), Some(request));
        }
    }
    if let Some(accept) =
        PushAccept::parse(&header, bytes).filter(|_| header.kind == Kind::PushAccept)
    {
        let again = accept.encode(header.session);
        if let Some((header, _)) = Header::parse(&again) {
            assert_eq!(PushAccept::parse(&header, &again), Some(accept));
        }
    }
    if let Some(request) = ListReq::parse(&header, bytes).filter(|_| header.kind == Kind::ListReq) {
        let again = request.encode(header.session, 0);
        if let Some((header, _)) = Header::parse(&again) {
            assert_eq!(ListReq::parse(&header, &again), Some(request));
        }
    }
    if let Some(answer) = ListRes::parse(&header, bytes).filter(|_| header.kind == Kind::ListRes) {
        let again = answer.encode(header.session);
        if let Some((header, _)) = Header::parse(&again) {
            assert_eq!(ListRes::parse(&header, &again), Some(answer));
        }
    }
    for layout in [Layout::Text, Layout::Reference] {
        let Some(beat) = Heartbeat::parse(&header, bytes, layout) else {
            continue;
        };
        // A signature is checked by those who have the key; written back it is a checksum.
        if beat.extension.as_ref().is_some_and(|it| it.signed) {
            continue;
        }
        let mut again = Vec::new();
        beat.encode(header.session, layout, &mut again, None);
        if let Some((header, _)) = Header::parse(&again) {
            assert_eq!(Heartbeat::parse(&header, &again, layout), Some(beat));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    const ID: u32 = 0xdead_beef;

    #[test]
    fn header_vector_20_1() {
        let header = Header {
            kind: Kind::Data,
            session: 0x0102_0304,
            seq: 4386,
            block: 43,
            len: 1368,
            flags: flag::CALIBRATION,
            stamp: 0x0123_4567_89ab_cdef,
        };
        let bytes = hex("01010203040000000000001122000000000000002b0558020123456789abcdef");
        assert_eq!(header.encode().to_vec(), bytes);
        let mut datagram = bytes;
        datagram.resize(1400, 0);
        assert_eq!(Header::parse(&datagram).unwrap().0, header);
        assert!(
            Header::parse(&datagram[..1399]).is_none(),
            "payload cut short"
        );
        datagram.push(0);
        assert!(Header::parse(&datagram).is_none(), "over 1400 bytes");
    }

    fn request(key: Option<[u8; 32]>, nul_counted: bool) -> SessionReq {
        SessionReq {
            size: 1_000_000,
            hash: 0xb978_085c_c8e7_010e,
            rate: 0,
            key,
            name: b"report.bin".to_vec(),
            nul_counted,
            extension: None,
        }
    }

    #[test]
    fn session_request_vectors_20_3_and_20_4() {
        let plain = hex(
            "00deadbeef00000000000000000000000000000000001e00000000000000000000000000000f4240b978085cc8e7010e000000007265706f72742e62696e00",
        );
        assert_eq!(request(None, false).encode(ID, None), plain);
        let mut counted = plain.clone();
        counted[0x16] = 0x1f;
        assert_eq!(request(None, true).encode(ID, None), counted);
        let key = hex("07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c")
            .try_into()
            .unwrap();
        let sealed = hex(
            "00deadbeef00000000000000000000000000000000003e04000000000000000000000000000f4240b978085cc8e7010e0000000007a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c7265706f72742e62696e00",
        );
        assert_eq!(request(Some(key), false).encode(ID, None), sealed);
        for (bytes, want) in [
            (plain, request(None, false)),
            (counted, request(None, true)),
            (sealed, request(Some(key), false)),
        ] {
            let (header, _) = Header::parse(&bytes).unwrap();
            assert_eq!(SessionReq::parse(&header, &bytes), Some(want));
        }
    }

    #[test]
    fn heartbeat_vectors_20_7() {
        let beat = Heartbeat {
            delivery: 41_000_000,
            flush: 40_500_000,
            loss: 150,
            echo: 1_000_000_000,
            dispersion: 10_000_000,
            contiguous: 4095,
            nacks: vec![4097, 4100, 4242],
            extension: None,
            runs: Vec::new(),
        };
        let head = "03deadbeef00000000000000000000000000000000003c000000000000000000";
        let text = "02719c400269fb200096000000003b9aca0000000000009896800000000000000fff0003000000000000100100000000000010040000000000001092";
        let reference = "02719c400269fb2000960000000000000fff0003000000003b9aca000000000000989680000000000000100100000000000010040000000000001092";
        for (layout, body) in [(Layout::Text, text), (Layout::Reference, reference)] {
            let want = hex(&format!("{head}{body}"));
            let mut out = Vec::new();
            beat.encode(ID, layout, &mut out, None);
            assert_eq!(out, want);
            let (header, _) = Header::parse(&out).unwrap();
            assert_eq!(
                Heartbeat::parse(&header, &out, layout).as_ref(),
                Some(&beat)
            );
        }
    }

    #[test]
    fn small_control_vectors_20_8() {
        assert_eq!(
            control(Kind::Reject, ID, &[5], 0),
            hex("04deadbeef00000000000000000000000000000000000100000000000000000005")
        );
        assert_eq!(
            control(Kind::Complete, ID, &[], 0),
            hex("05deadbeef000000000000000000000000000000000000000000000000000000")
        );
        let key = hex("5869aff450549732cbaaed5e5df9b30a6da31cb0e5742bad5ad4a1a768f1a67b");
        assert_eq!(
            control(Kind::SessionAccept, ID, &key, flag::SEALED),
            hex(
                "0adeadbeef0000000000000000000000000000000000200400000000000000005869aff450549732cbaaed5e5df9b30a6da31cb0e5742bad5ad4a1a768f1a67b"
            )
        );
    }

    #[test]
    fn both_sealed_length_forms_are_read() {
        let mut header = Header::control(Kind::Data, 1, 100, flag::SEALED);
        assert_eq!(header.sealed_plaintext_len(116), Some(100));
        header.len = 116;
        assert_eq!(header.sealed_plaintext_len(116), Some(100));
        header.len = 5;
        assert_eq!(header.sealed_plaintext_len(5), None);
    }

    #[test]
    fn push_and_pull_vectors_20_8() {
        let pull = hex(
            "07deadbeef00000000000000000000000000000000000b0000000000000000007265706f72742e62696e00",
        );
        let push = hex(
            "08deadbeef00000000000000000000000000000000001300000000000000000000000000000f42407265706f72742e62696e00",
        );
        let accept = hex("09deadbeef0000000000000000000000000000000000020000000000000000002329");
        let (header, _) = Header::parse(&pull).unwrap();
        let request = PullReq::parse(&header, &pull).unwrap();
        assert_eq!(request.name, b"report.bin");
        assert_eq!(request.encode(ID, 0), pull);
        let (header, _) = Header::parse(&push).unwrap();
        let request = PushReq::parse(&header, &push).unwrap();
        assert_eq!((request.size, request.hash), (1_000_000, None));
        assert_eq!(request.name, b"report.bin");
        assert_eq!(request.encode(ID), push);
        let (header, _) = Header::parse(&accept).unwrap();
        let answer = PushAccept::parse(&header, &accept).unwrap();
        assert_eq!((answer.port, answer.key), (Some(9001), None));
        assert_eq!(answer.encode(ID), accept);
        // The later dialect puts hash and rate before the name (18.3.1).
        let mut later = push[..40].to_vec();
        later.extend(0xb978_085c_c8e7_010e_u64.to_be_bytes());
        later.extend([0; 4]);
        later.extend(b"report.bin\0");
        later[22] = 31;
        let (header, _) = Header::parse(&later).unwrap();
        let request = PushReq::parse(&header, &later).unwrap();
        assert_eq!(request.hash, Some(0xb978_085c_c8e7_010e));
        assert_eq!(request.name, b"report.bin");
    }

    #[test]
    fn headerless_parity_of_the_known_peer_is_no_request() {
        let mut junk = vec![0u8; 1372];
        junk[..4].copy_from_slice(&[0, 100, 0, 5]);
        for (at, byte) in junk.iter_mut().enumerate().skip(4) {
            *byte = (at * 37 % 251) as u8;
        }
        let parsed = Header::parse(&junk).and_then(|(header, _)| SessionReq::parse(&header, &junk));
        assert_eq!(parsed, None);
    }

    proptest! {
        #[test]
        fn parsers_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            if let Some((header, rest)) = Header::parse(&bytes) {
                let _ = SessionReq::parse(&header, &bytes);
                let _ = PushReq::parse(&header, &bytes);
                let _ = PullReq::parse(&header, &bytes);
                let _ = PushAccept::parse(&header, &bytes);
                let _ = Heartbeat::parse(&header, &bytes, Layout::Text);
                let _ = Heartbeat::parse(&header, &bytes, Layout::Reference);
                let _ = header.sealed_plaintext_len(rest.len());
            }
            let _ = Extension::parse(&bytes, bytes.len() / 2);
        }

        #[test]
        fn header_round_trips(kind in 0u8..16, session: u32, seq: u64, block: u64, flags: u8, stamp: u64) {
            prop_assume!(Kind::from_byte(kind).is_some());
            let header = Header { kind: Kind::from_byte(kind).unwrap(), session, seq, block, len: 0, flags, stamp };
            prop_assert_eq!(Header::parse(&header.encode()).unwrap().0, header);
        }

        #[test]
        fn request_and_heartbeat_round_trip(
            name in "[a-z]{1,64}", size: u64, hash: u64, rate: u32, key: Option<[u8; 32]>, nul_counted: bool,
            features: u32, host_key: Option<[u8; 32]>, bundle: bool,
            had in proptest::collection::vec(any::<(u32, u32)>(), 0..=HAD_MAX),
            port: Option<u16>, socket_datagrams: u32, received: u64, at: u64, highest: u64, held: u32, room: u32,
            nacks in prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u64>(), 0..=NACKS)], loss in 0u16..=10_000, reference: bool,
            starts in proptest::collection::vec((0u64..1 << 50, 1u64..1 << 40), 0..20),
        ) {
            let feedback = Some(Feedback { received, at, highest, held, room });
            let extension = Some(Extension {
                features, host_key, bundle, had, signed: false, socket_datagrams, feedback,
            });
            let push = PushReq {
                size, hash: None, key, name: name.clone().into_bytes(), extension: extension.clone(),
            };
            let bytes = push.encode(7);
            let (header, _) = Header::parse(&bytes).unwrap();
            prop_assert_eq!(PushReq::parse(&header, &bytes).unwrap(), push);
            let pull = PullReq {
                key, name: name.clone().into_bytes(), extension: extension.clone(),
            };
            let bytes = pull.encode(7, 1000);
            prop_assert!(bytes.len() >= 1000);
            let (header, _) = Header::parse(&bytes).unwrap();
            prop_assert_eq!(PullReq::parse(&header, &bytes).unwrap(), pull);
            let accept = PushAccept { port, key, extension: extension.clone() };
            let bytes = accept.encode(7);
            let (header, _) = Header::parse(&bytes).unwrap();
            prop_assert_eq!(PushAccept::parse(&header, &bytes).unwrap(), accept);
            let request = SessionReq { size, hash, rate, key, name: name.into_bytes(), nul_counted, extension: extension.clone() };
            let bytes = request.encode(7, None);
            let (header, _) = Header::parse(&bytes).unwrap();
            prop_assert_eq!(SessionReq::parse(&header, &bytes).unwrap(), request);

            let extension = if nacks.len() > 100 { None } else { extension };
            let runs = starts.into_iter().map(|(start, len)| start..start + len);
            let runs = if nacks.is_empty() && extension.is_some() { runs.collect() } else { Vec::new() };
            let beat = Heartbeat {
                delivery: rate, flush: rate, loss, echo: hash, dispersion: at, contiguous: size, nacks, extension, runs,
            };
            let layout = if reference { Layout::Reference } else { Layout::Text };
            let mut bytes = Vec::new();
            beat.encode(7, layout, &mut bytes, None);
            let (header, _) = Header::parse(&bytes).unwrap();
            prop_assert_eq!(Heartbeat::parse(&header, &bytes, layout).unwrap(), beat);
        }
    }
}
