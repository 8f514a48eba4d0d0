//! HEARTBEAT in both field orders (7.2).
//!
//! It does *not* decide which of them a peer speaks.

use std::ops::Range;

use super::super::config::{HEADER, Layout, NACKS};
use super::super::keys::Signer;
use super::{Extension, Header, Kind};

/// HEARTBEAT (7.2), and what our extension adds beyond its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::hpudp) struct Heartbeat {
    /// New file bytes a second at the receiver.
    pub(in crate::hpudp) delivery: u32,
    /// File bytes a second reaching the disk; informational.
    pub(in crate::hpudp) flush: u32,
    /// Raw loss in basis points.
    pub(in crate::hpudp) loss: u16,
    pub(in crate::hpudp) echo: u64,
    pub(in crate::hpudp) dispersion: u64,
    pub(in crate::hpudp) contiguous: u64,
    pub(in crate::hpudp) nacks: Vec<u64>,
    pub(in crate::hpudp) extension: Option<Extension>,
    /// Missing chunks in runs, in the extension block (18.5.4); they take the place of `nacks`.
    pub(in crate::hpudp) runs: Vec<Range<u64>>,
}

impl Heartbeat {
    /// Signed by `signer` when the session has one (18.7).
    pub(in crate::hpudp) fn encode(
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
    pub(in crate::hpudp) fn parse(
        header: &Header,
        datagram: &[u8],
        layout: Layout,
    ) -> Option<Self> {
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

/// Bytes of a payload before its list.
const FIXED: usize = 36;
