//! Requests and their answers, with all that stands in them: names, keys, the list (3, 18.6).
//!
//! It does *not* decide what may be asked for.

use super::super::config::HEADER;
use super::super::keys::Signer;
use super::{Extension, Header, Kind, control, flag};

/// SESSION_REQ (3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hpudp) struct SessionReq {
    pub(in crate::hpudp) size: u64,
    pub(in crate::hpudp) hash: u64,
    pub(in crate::hpudp) rate: u32,
    pub(in crate::hpudp) key: Option<[u8; 32]>,
    /// The name's bytes, without NUL.
    pub(in crate::hpudp) name: Vec<u8>,
    /// Whether PayloadLen counted the NUL: the dialect's fingerprint (3.1).
    pub(in crate::hpudp) nul_counted: bool,
    pub(in crate::hpudp) extension: Option<Extension>,
}

impl SessionReq {
    /// The whole datagram, name terminator not counted unless `nul_counted` (3.1), extension block beyond it, signed by
    /// `signer` when the session has keys already (18.7.4).
    pub(in crate::hpudp) fn encode(&self, session: u32, signer: Option<&mut Signer>) -> Vec<u8> {
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
    pub(in crate::hpudp) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
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
    pub(in crate::hpudp) fn is_signed(&self) -> bool {
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
pub(in crate::hpudp) struct PushReq {
    pub(in crate::hpudp) size: u64,
    /// Only a later dialect says it here.
    pub(in crate::hpudp) hash: Option<u64>,
    pub(in crate::hpudp) key: Option<[u8; 32]>,
    pub(in crate::hpudp) name: Vec<u8>,
    pub(in crate::hpudp) extension: Option<Extension>,
}

impl PushReq {
    pub(in crate::hpudp) fn encode(&self, session: u32) -> Vec<u8> {
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
    pub(in crate::hpudp) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
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
pub(in crate::hpudp) struct PullReq {
    pub(in crate::hpudp) key: Option<[u8; 32]>,
    pub(in crate::hpudp) name: Vec<u8>,
    pub(in crate::hpudp) extension: Option<Extension>,
}

impl PullReq {
    /// Padded with zeros to `pad` bytes, which pay for the answer (19.5.5).
    pub(in crate::hpudp) fn encode(&self, session: u32, pad: usize) -> Vec<u8> {
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

    pub(in crate::hpudp) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
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
pub(in crate::hpudp) struct PushAccept {
    /// Where SESSION_REQ and DATA go; a later dialect leaves it out.
    pub(in crate::hpudp) port: Option<u16>,
    pub(in crate::hpudp) key: Option<[u8; 32]>,
    pub(in crate::hpudp) extension: Option<Extension>,
}

impl PushAccept {
    pub(in crate::hpudp) fn encode(&self, session: u32) -> Vec<u8> {
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

    pub(in crate::hpudp) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
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
pub(in crate::hpudp) struct ListReq {
    pub(in crate::hpudp) first: u64,
}

impl ListReq {
    /// Padded with zeros to `pad` bytes, which pay for the answer.
    pub(in crate::hpudp) fn encode(&self, session: u32, pad: usize) -> Vec<u8> {
        let header = Header {
            seq: self.first,
            ..Header::control(Kind::ListReq, session, 0, 0)
        };
        let mut out = header.encode().to_vec();
        out.resize(pad.max(HEADER), 0);
        out
    }

    pub(in crate::hpudp) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
        let empty = header.len == 0 && header.block == 0 && header.stamp == 0;
        trailer(datagram, datagram.get(HEADER..)?)?;
        empty.then_some(Self { first: header.seq })
    }
}

/// LIST_RES (18.6): lines of name, tab, size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hpudp) struct ListRes {
    /// Index of the first line, in SequenceNum.
    pub(in crate::hpudp) first: u64,
    /// How many there are, in BlockGroup; 0 from v5.2, which does not say.
    pub(in crate::hpudp) total: u64,
    pub(in crate::hpudp) text: Vec<u8>,
}

impl ListRes {
    /// `text` is at most 1368 bytes.
    pub(in crate::hpudp) fn encode(&self, session: u32) -> Vec<u8> {
        let header = Header {
            seq: self.first,
            block: self.total,
            ..Header::control(Kind::ListRes, session, self.text.len(), 0)
        };
        let mut out = header.encode().to_vec();
        out.extend_from_slice(&self.text);
        out
    }

    pub(in crate::hpudp) fn parse(header: &Header, datagram: &[u8]) -> Option<Self> {
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

pub(super) fn looks_like_name(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes);
    !bytes.is_empty() && text.is_ok_and(|text| !text.chars().any(char::is_control))
}
