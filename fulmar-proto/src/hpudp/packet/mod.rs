//! The bytes of HP-UDP v5.0: header, control payloads, heartbeats and the extension block.
//!
//! Parsers are total: any byte string gives a value or `None`. All integers are big-endian and unaligned. This
//! module does *not* know sessions; whether a well-formed packet makes sense is for its receiver to say.

mod extension;
mod heartbeat;
mod request;

pub(super) use extension::{EXTENSION_MAX, Extension, Feedback, HAD_MAX, PATH, feature};
pub(super) use heartbeat::Heartbeat;
#[cfg(feature = "sim")]
use request::looks_like_name;
pub(super) use request::{ListReq, ListRes, PullReq, PushAccept, PushReq, SessionReq};

#[cfg(any(test, feature = "sim"))]
use super::config::Layout;
use super::config::{DATAGRAM_MAX, HEADER, TAG};
use super::keys::Signer;

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

    use super::super::config::NACKS;
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
    fn paths_vector_20_10() {
        let want = hex(
            "03deadbeef00000000000000000000000000000000003c00000000000000000002719c400269fb200096000000003b9aca0000000000009896800000000000000fff000300000000000010010000000000001004000000000000109248505831005401040000003f040400000e10102000000000000010cc000000012a05f200000000003b9aca00000000fa000023ee1218000000003b9aca0000000898000000003ade68b1000008340504a323bdbd",
        );
        let (header, _) = Header::parse(&want).unwrap();
        let beat = Heartbeat::parse(&header, &want, Layout::Text).unwrap();
        let extension = beat.extension.as_ref().unwrap();
        assert_eq!(extension.features, feature::ALL | feature::PATHS);
        let paths = [(1_000_000_000, 2200), (987_654_321, 2100)];
        assert_eq!(extension.paths, paths);
        let mut out = Vec::new();
        beat.encode(ID, Layout::Text, &mut out, None);
        assert_eq!(out, want);
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
            paths in proptest::collection::vec(any::<(u64, u32)>(), 0..=16),
        ) {
            let feedback = Some(Feedback { received, at, highest, held, room });
            let extension = Some(Extension {
                features, host_key, bundle, had, signed: false, socket_datagrams, feedback, paths,
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
