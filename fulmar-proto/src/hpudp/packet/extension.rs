//! The extension block, which v5.0 peers never see (18.4).
//!
//! It does *not* check signatures: that takes the session's key.

use std::ops::Range;

use super::super::config::DATAGRAM_MAX;
use super::super::keys::{SIGNATURE, Signer};
use super::super::paths::PATHS_MAX;
use super::super::ranges::{self, TLV_RANGES};

/// The block `HPX1` beyond PayloadLen, where v5.0 peers never look (18.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::hpudp) struct Extension {
    /// What the side that sends it understands; see [`feature`].
    pub(in crate::hpudp) features: u32,
    /// The static key of the side that answers (18.7).
    pub(in crate::hpudp) host_key: Option<[u8; 32]>,
    /// The session carries a bundle, or should (18.8).
    pub(in crate::hpudp) bundle: bool,
    /// Blocks the receiver had before the session began, as first block and count (18.8).
    pub(in crate::hpudp) had: Vec<(u32, u32)>,
    /// The datagram is signed; whether rightly its session knows.
    pub(in crate::hpudp) signed: bool,
    /// Full datagrams the receiver's socket can hold; 0 when unknown.
    pub(in crate::hpudp) socket_datagrams: u32,
    pub(in crate::hpudp) feedback: Option<Feedback>,
    /// Of each path that packets came by: the highest stamp, and how many came (18.9.4).
    pub(in crate::hpudp) paths: Vec<(u64, u32)>,
}

/// Bits of [`Extension::features`].
pub(in crate::hpudp) mod feature {
    /// Heartbeats as often as one hundredth of the arriving bytes pays for, each with [`super::Feedback`].
    pub(in crate::hpudp) const FEEDBACK: u32 = 1;
    /// A file of no bytes may be offered.
    pub(in crate::hpudp) const EMPTY: u32 = 2;
    /// The receiver answers ACK_CLOSE with ACK_CLOSE, which ends the sender's linger.
    pub(in crate::hpudp) const CLOSE_ECHO: u32 = 4;
    /// Keys bound to the whole handshake and the answering side's identity, and signed control packets (18.7).
    pub(in crate::hpudp) const KEYS: u32 = 8;
    /// Heartbeats name missing chunks in runs.
    pub(in crate::hpudp) const RANGES: u32 = 16;
    /// Several paths in one session. Asked for by a client that has several sockets, answered to it only.
    pub(in crate::hpudp) const PATHS: u32 = 32;
    /// All that this version says to everybody.
    pub(in crate::hpudp) const ALL: u32 = FEEDBACK | EMPTY | CLOSE_ECHO | KEYS | RANGES;

    /// What a client says that has so many sockets.
    pub(in crate::hpudp) fn asking(sockets: u8) -> u32 {
        if sockets > 1 { ALL | PATHS } else { ALL }
    }

    /// What is answered to who said this.
    pub(in crate::hpudp) fn answering(theirs: u32) -> u32 {
        ALL | theirs & PATHS
    }
}

/// Exact counts, from which a sender derives delivery rate and loss without guessing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::hpudp) struct Feedback {
    /// DATA and PARITY datagrams accepted so far, duplicates too.
    pub(in crate::hpudp) received: u64,
    /// Receiver's clock, in nanoseconds from an arbitrary start, when the last of them came.
    pub(in crate::hpudp) at: u64,
    /// The highest stamp among them.
    pub(in crate::hpudp) highest: u64,
    /// Microseconds from that packet's arrival to this heartbeat.
    pub(in crate::hpudp) held: u32,
    /// Datagrams the receiver has room for beyond those counted here while storage is behind; the greatest number
    /// while it keeps up.
    pub(in crate::hpudp) room: u32,
}

impl Extension {
    /// Appends the block to `out`, which holds the datagram so far: the block ends with a CRC-32 of all before it,
    /// because nothing else guards a control packet against damage that slips past UDP's checksum.
    /// `signer` proves more, and takes its place.
    pub(in crate::hpudp) fn encode(&self, out: &mut Vec<u8>, signer: Option<&mut Signer>) {
        self.write(&[], out, signer);
    }

    pub(super) fn write(
        &self,
        runs: &[Range<u64>],
        out: &mut Vec<u8>,
        signer: Option<&mut Signer>,
    ) {
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
        let paths = &self.paths[..self.paths.len().min(usize::from(PATHS_MAX))];
        if !paths.is_empty() {
            out.extend_from_slice(&[TLV_PATHS, (paths.len() * PATH) as u8]);
            for (stamp, count) in paths {
                out.extend_from_slice(&stamp.to_be_bytes());
                out.extend_from_slice(&count.to_be_bytes());
            }
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
    pub(in crate::hpudp) fn parse(datagram: &[u8], beyond: usize) -> Option<Self> {
        Self::read(datagram, beyond, &mut Vec::new())
    }

    pub(super) fn read(datagram: &[u8], beyond: usize, runs: &mut Vec<Range<u64>>) -> Option<Self> {
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
                (TLV_PATHS, len) if len % PATH == 0 => {
                    let (paths, _) = value.as_chunks::<PATH>();
                    out.paths = paths
                        .iter()
                        .filter_map(|path| Some((u64_of(path)?, u32_of(path.get(8..)?)?)))
                        .collect();
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
    pub(in crate::hpudp) fn unsigned(datagram: &[u8], beyond: usize) -> Option<Self> {
        Self::parse(datagram, beyond).filter(|it| !it.signed)
    }

    pub(in crate::hpudp) fn has(&self, bit: u32) -> bool {
        self.features & bit != 0
    }
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|chunk| u64::from_be_bytes(*chunk))
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
pub(in crate::hpudp) const HAD_MAX: usize = 31;
const TLV_FEEDBACK: u8 = 0x10;
const TLV_PATHS: u8 = 0x12;
/// Bytes of one path in its field.
pub(in crate::hpudp) const PATH: usize = 12;
/// Bytes of the largest block this version writes, ranges, runs and paths not counted.
pub(in crate::hpudp) const EXTENSION_MAX: usize = 6 + 6 + 6 + 34 + SIGNATURE_FIELD;
