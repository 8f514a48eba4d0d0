//! The bytes of SRT: data header, control packets, handshakes.
//!
//! Parsers are total: any byte string gives a value or a named error, and [`Control::write`] after [`parse`] gives the
//! same bytes for whatever this side would write itself. Numbers stay as the wire has them: `link` widens them. This
//! module does *not* know connections; whether a well-formed packet makes sense is for its receiver to say.

mod ack;
mod control;
mod handshake;
mod km;
mod losses;

pub(crate) use ack::Ack;
pub(crate) use control::{Body, Control};
pub(crate) use handshake::{Blocks, Flags, GroupWords, Handshake, HsWords, Kind, STREAM_ID_MAX};
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
    let (head, body) = datagram
        .split_first_chunk_mut::<{ DataHeader::LEN }>()
        .ok_or(Malformed::Short)?;
    if head[0] & 0x80 != 0 {
        return Control::parse(head, body).map(Packet::Control);
    }
    if body.is_empty() {
        return Err(Malformed::Empty);
    }
    Ok(Packet::Data {
        header: DataHeader::parse(head)?,
        head: *head,
        payload: body,
    })
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

    /// The value of KK, in data and in key material.
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::Even => 1,
            Self::Odd => 2,
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

    /// Reads a header, which the caller knows to be that of a data packet.
    pub(crate) fn parse(head: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let [seq, word, stamp, to] = words(head);
        let place = match word >> 30 {
            0b11 => Place::Whole,
            0b10 => Place::First,
            0b00 => Place::Middle,
            _ => Place::Last,
        };
        let slot = match word >> 27 & 3 {
            0b00 => None,
            0b01 => Some(Slot::Even),
            0b10 => Some(Slot::Odd),
            _ => return Err(Malformed::BothKeys),
        };
        Ok(Self {
            seq: Seq::new(seq.into()),
            place,
            ordered: word & ORDERED != 0,
            slot,
            again: word & AGAIN != 0,
            message: word & MESSAGE,
            stamp: Stamp::new(stamp.into()),
            to: SocketId(to),
        })
    }

    /// As the wire has it.
    pub(crate) fn bytes(&self) -> [u8; Self::LEN] {
        let place = match self.place {
            Place::Whole => 0b11,
            Place::First => 0b10,
            Place::Middle => 0b00,
            Place::Last => 0b01,
        };
        let flag = |set, bit| if set { bit } else { 0 };
        let word = place << 30
            | flag(self.ordered, ORDERED)
            | self.slot.map_or(0, Slot::bits) << 27
            | flag(self.again, AGAIN)
            | self.message & MESSAGE;
        let mut head = [0; Self::LEN];
        let words = [low(self.seq), word, low(self.stamp), self.to.0];
        for (bytes, word) in head.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        head
    }

    /// Of a control packet of the packet filter, if one was agreed on (13.4, 3.2.4).
    pub(crate) fn is_filter(&self) -> bool {
        self.message == 0
    }
}

/// What AES-GCM authenticates of a header: all but R (6.4.1).
pub(crate) fn authenticated(head: &[u8; DataHeader::LEN]) -> [u8; DataHeader::LEN] {
    let mut head = *head;
    head[4] &= !((AGAIN >> 24) as u8);
    head
}

/// Any bytes, parsed; what was understood is written and understood again (22.1).
///
/// # Panics
/// When that fails.
#[cfg(feature = "sim")]
pub fn read_and_write_back(bytes: &[u8]) {
    let mut datagram = bytes.to_vec();
    let control = match parse(&mut datagram) {
        Err(_) => return,
        Ok(Packet::Data { header, head, .. }) => {
            assert_eq!(head, bytes[..DataHeader::LEN], "header as it came");
            assert_eq!(header.bytes(), head, "header written");
            return;
        }
        Ok(Packet::Control(control)) => control,
    };
    if let Body::Handshake(handshake) = &control.body {
        let Ok(blocks) = handshake.blocks else {
            return;
        };
        assert!(blocks.stream_id.len() <= STREAM_ID_MAX, "Stream ID");
        let id = super::StreamId::parse(blocks.stream_id);
        if let Some((id, text)) = id.and_then(|id| Some((id.clone(), id.write()?))) {
            assert_eq!(super::StreamId::parse(&text), Some(id), "Stream ID");
        }
        if let Some(answer) = blocks.km_rsp.and_then(|bytes| KmAnswer::parse(bytes).ok()) {
            let mut again = Vec::new();
            answer.write(&mut again);
            assert_eq!(Some(&again[..]), blocks.km_rsp, "KMRSP");
        }
    }
    let mut again = Vec::new();
    control.write(&mut again);
    let least = DataHeader::LEN + 4;
    assert!(
        (least..=bytes.len().max(least)).contains(&again.len()),
        "length"
    );
    let Ok(Packet::Control(read)) = parse(&mut again) else {
        panic!("{control:?} was not understood again");
    };
    assert_eq!(read, control);
}

/// The four words of a header.
fn words(head: &[u8; DataHeader::LEN]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(head.chunks_exact(4)) {
        *word = bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    words
}

/// A number of at most 32 bits as a word.
fn low<const BITS: u32>(number: Wrapped<BITS>) -> u32 {
    const { assert!(BITS <= 32, "more than a word") };
    number.raw() as u32
}

/// Whether `last` is `first` or behind it (2.1.5).
fn in_order(first: Seq, last: Seq) -> bool {
    let near = first.raw() + (1 << 31);
    last.widen(near) >= near
}

/// Bits of the second word of a data header (3.1.2).
const ORDERED: u32 = 0x2000_0000;
const AGAIN: u32 = 0x0400_0000;
const MESSAGE: u32 = 0x03ff_ffff;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::srt::config::Bonding;
    use crate::srt::reject::Reason;
    use crate::srt::vectors::{self, Vector};

    /// The datagram that says the same.
    fn rewritten(bytes: &[u8]) -> Vec<u8> {
        let mut datagram = bytes.to_vec();
        let mut again = Vec::new();
        match parse(&mut datagram).unwrap() {
            Packet::Data {
                header, payload, ..
            } => {
                again.extend(header.bytes());
                again.extend_from_slice(payload);
            }
            Packet::Control(control) => control.write(&mut again),
        }
        again
    }

    fn control(file: &'static str, name: &str, check: impl FnOnce(Control<'_>)) {
        let mut datagram = vectors::packet(file, name);
        match parse(&mut datagram) {
            Ok(Packet::Control(control)) => check(control),
            other => panic!("{name} is {other:?}"),
        }
    }

    fn handshake(file: &'static str, name: &str, check: impl FnOnce(&Handshake<'_>, Blocks<'_>)) {
        control(file, name, |control| {
            let Body::Handshake(handshake) = &control.body else {
                panic!("{name} is {control:?}")
            };
            check(handshake, handshake.blocks.unwrap());
        });
    }

    #[test]
    fn every_vector_is_understood_and_written_to_the_byte() {
        let mut seen = 0;
        for file in [
            vectors::HANDSHAKE,
            vectors::DATA,
            vectors::CONTROL,
            vectors::ENCRYPTION,
            vectors::FEC,
        ] {
            for Vector {
                name,
                clause,
                mut bytes,
            } in vectors::packets(file)
            {
                let again = rewritten(&bytes);
                if name.ends_with("_bare") {
                    bytes.extend([0; 4]);
                }
                assert_eq!(again, bytes, "{name} ({clause})");
                seen += 1;
            }
        }
        assert!(seen > 200, "{seen} vectors");
    }

    /// What parsing alone can tell of each line of `malformed.txt`; the rest is for those who know the connection.
    #[test]
    fn malformed_datagrams_have_their_error_or_a_value() {
        use Malformed::*;
        let errors = |name: &str| {
            Some(match name {
                "short_header" => Short,
                "data_without_payload" => Empty,
                "data_both_keys" => BothKeys,
                "handshake_truncated" | "induction_truncated" => Handshake,
                "extension_overrun" | "extension_header_cut" | "hsreq_short" | "sid_129_words" => {
                    Blocks
                }
                "ack_high_bit" | "ack_3_bytes" => Ack,
                "nak_reversed" | "nak_cut_range" | "nak_two_starts" | "nak_everything"
                | "nak_empty" => Nak,
                "dropreq_reversed" | "dropreq_everything" | "dropreq_short" => DropReq,
                km if km.starts_with("km_") => Km,
                _ => return None,
            })
        };
        let values = [
            "data_far_ahead",
            "unknown_control",
            "unknown_extension_control",
            "filter_huge",
            "filter_zero",
            "mss_0",
            "mss_60",
            "mss_76",
            "window_0",
            "window_max",
            "latency_max",
            "kmrsp_lowers_state",
            "ack_unsent",
            "nak_unsent",
            "dropreq_far",
            "filter_body_short",
            "filter_column_unknown",
        ];
        let mut seen = 0;
        for Vector {
            name,
            clause,
            mut bytes,
        } in vectors::packets(vectors::MALFORMED)
        {
            let found = match parse(&mut bytes) {
                Err(malformed) => Some(malformed),
                Ok(Packet::Control(Control {
                    body: Body::Handshake(handshake),
                    ..
                })) => handshake.blocks.err(),
                Ok(_) => None,
            };
            assert_eq!(found, errors(name), "{name} ({clause})");
            assert_eq!(found.is_none(), values.contains(&name), "{name} ({clause})");
            seen += 1;
        }
        assert_eq!(seen, 45);
    }

    #[test]
    fn every_bit_of_a_data_header_has_its_field() {
        let base = DataHeader {
            seq: Seq::new(0),
            place: Place::Whole,
            ordered: false,
            slot: None,
            again: false,
            message: 1,
            stamp: Stamp::new(0),
            to: SocketId(0x0a0b_0c0d),
        };
        let odd = Some(Slot::Odd);
        let last = DataHeader {
            seq: Seq::new(0x7fff_ffff),
            message: 0x03ff_ffff,
            stamp: Stamp::new(0xffff_ffff),
            ..base
        };
        let cases = [
            ("made_whole", base),
            (
                "made_begin",
                DataHeader {
                    place: Place::First,
                    ..base
                },
            ),
            (
                "made_middle",
                DataHeader {
                    place: Place::Middle,
                    ..base
                },
            ),
            (
                "made_end",
                DataHeader {
                    place: Place::Last,
                    ..base
                },
            ),
            (
                "made_ordered",
                DataHeader {
                    ordered: true,
                    ..base
                },
            ),
            (
                "made_even",
                DataHeader {
                    slot: Some(Slot::Even),
                    ..base
                },
            ),
            ("made_odd", DataHeader { slot: odd, ..base }),
            (
                "made_rexmit",
                DataHeader {
                    again: true,
                    ..base
                },
            ),
            ("made_filter", DataHeader { message: 0, ..base }),
            ("made_last_sequence", last),
        ];
        for (name, expected) in cases {
            let mut datagram = vectors::packet(vectors::DATA, name);
            let Ok(Packet::Data {
                header, payload, ..
            }) = parse(&mut datagram)
            else {
                panic!("{name} is no data");
            };
            assert_eq!((header, &*payload), (expected, &[0x47][..]), "{name}");
            assert_eq!(header.is_filter(), name == "made_filter");
        }
        let again = DataHeader {
            again: true,
            ..last
        };
        assert_eq!(authenticated(&again.bytes()), last.bytes(), "all but R");
        assert_eq!(authenticated(&last.bytes()), last.bytes());
    }

    #[test]
    fn handshakes_say_what_the_text_says() {
        let file = vectors::HANDSHAKE;
        handshake(file, "induction_request", |one, blocks| {
            let said = (
                one.version,
                one.encryption,
                one.extension,
                one.kind,
                one.cookie,
            );
            assert_eq!(said, (4, 0, 2, Kind::Induction, 0), "5.3.1");
            assert_eq!((one.mss, one.window), (1500, 8192));
            assert_eq!(one.address[..5], [1, 0, 0, 127, 0], "5.1.6: 127.0.0.1");
            assert!(blocks.is_empty());
        });
        handshake(file, "induction_response", |one, _| {
            assert_eq!((one.version, one.extension), (5, Handshake::MAGIC), "5.3.2");
        });
        handshake(file, "conclusion_request", |one, blocks| {
            let words = blocks.hs_req.unwrap();
            assert_eq!(words.version, 0x01_0501);
            assert_eq!(words.flags, Flags(0xbf), "5.5.2: live");
            let latencies = (words.receive_latency, words.peer_latency);
            assert_eq!(latencies, (550, 250), "5.6.3");
            assert_eq!((one.extension, blocks.field()), (1, 1));
        });
        handshake(file, "conclusion_response", |_, blocks| {
            let words = blocks.hs_rsp.unwrap();
            let latencies = (words.receive_latency, words.peer_latency);
            assert_eq!(latencies, (300, 550), "5.6.3");
            assert!(blocks.hs_req.is_none());
        });
        let digits: Vec<u8> = (0..512).map(|at| b'0' + (at % 10) as u8).collect();
        let texts = [
            &b"a"[..],
            b"ab",
            b"abc",
            b"abcd",
            b"abcde",
            &digits[..511],
            &digits,
        ];
        for text in texts {
            let name = format!("conclusion_sid_{}", text.len());
            handshake(file, &name, |one, blocks| {
                assert_eq!(blocks.stream_id, text, "5.2.4: padding is no text");
                assert_eq!((one.extension, blocks.field()), (5, 5), "5.2.6");
            });
        }
        handshake(file, "conclusion_file_stream", |_, blocks| {
            assert!(blocks.hs_req.unwrap().flags.has(Flags::STREAM), "5.5.2");
            assert_eq!(blocks.congestion, b"file");
        });
        handshake(file, "conclusion_filter_response", |_, blocks| {
            let text = b"fec,arq:onreq,cols:4,layout:staircase,rows:3";
            assert_eq!(blocks.filter, text, "13.2.2");
        });
        handshake(file, "conclusion_group_backup", |_, blocks| {
            let group = blocks.group.unwrap();
            assert_eq!((group.bonding(), group.weight), (Some(Bonding::Backup), 20));
            assert_eq!((group.id.0 >> 30, group.flags), (1, 0), "14.1.1");
        });
        handshake(file, "reject_forbidden", |one, _| {
            assert_eq!(one.kind, Kind::Rejection(Reason::FORBIDDEN), "16.2");
        });
        handshake(file, "rdv_5105_wave", |one, _| {
            assert_eq!(one.kind, Kind::Wave)
        });
        handshake(file, "v4_conclusion_request", |one, blocks| {
            let kind = (one.version, one.encryption, one.extension, one.kind);
            assert_eq!(kind, (4, 0, 2, Kind::Conclusion), "5.10.1");
            assert!(blocks.is_empty());
        });
        for (name, state) in [
            ("kmrsp_badsecret", KmState::BAD_SECRET),
            ("kmrsp_nosecret", KmState::NO_SECRET),
            ("kmrsp_unsecured", KmState::UNSECURED),
        ] {
            handshake(vectors::ENCRYPTION, name, |_, blocks| {
                let answer = KmAnswer::parse(blocks.km_rsp.unwrap());
                assert_eq!(answer, Ok(KmAnswer::Failed(state)), "6.5.1");
            });
        }
        handshake(
            vectors::ENCRYPTION,
            "aes128_conclusion_request",
            |one, blocks| {
                assert_eq!((one.encryption, blocks.field()), (2, 7));
                assert_eq!(blocks.stream_id, b"#!::u=alice,r=cam1,m=publish");
                let km = KeyMaterial::parse(blocks.km_req.unwrap()).unwrap();
                assert_eq!((km.slots, km.cipher), (Slots::One(Slot::Even), Cipher::Ctr));
            },
        );
    }

    #[test]
    fn control_packets_say_what_the_text_says() {
        let body = |name: &str, check: &dyn Fn(Body<'_>)| {
            control(vectors::CONTROL, name, |control| check(control.body));
        };
        body("ack_full_first", &|body| {
            let full = Ack {
                number: Some(1),
                next: Seq::new(0x0078_51a5),
                rtt: Some(100_000),
                rtt_var: Some(50_000),
                free: Some(8190),
                packet_rate: Some(2),
                capacity: Some(1000),
                byte_rate: Some(1454),
            };
            assert_eq!(body, Body::Ack(full));
        });
        body("ack_24", &|body| {
            let Body::Ack(ack) = body else {
                panic!("{body:?}")
            };
            assert_eq!((ack.capacity, ack.byte_rate), (Some(50_000), None), "8.2.4");
        });
        body("ack_light", &|body| {
            assert_eq!(body, Body::Ack(Ack::light(Seq::new(0x2086_9be5))));
        });
        body("nak_list", &|body| {
            let Body::Nak(losses) = body else {
                panic!("{body:?}")
            };
            let runs: Vec<_> = losses.runs().map(|(a, b)| (a.raw(), b.raw())).collect();
            assert_eq!(runs, [(5, 5), (9, 9), (11, 15)], "9.1.1");
        });
        body("nak_wrapping", &|body| {
            let Body::Nak(losses) = body else {
                panic!("{body:?}")
            };
            let runs: Vec<_> = losses.runs().map(|(a, b)| (a.raw(), b.raw())).collect();
            assert_eq!(runs, [(0x7fff_fffe, 1)]);
        });
        body("dropreq_unknown", &|body| {
            let (first, last) = (Seq::new(0x7fff_fffe), Seq::new(1));
            let message = 0;
            assert_eq!(
                body,
                Body::DropReq {
                    message,
                    first,
                    last
                }
            );
        });
        body("peererror", &|body| assert_eq!(body, Body::PeerError(4000)));
        body("ackack_bare", &|body| {
            assert_eq!(body, Body::AckAck(9), "4.1.3")
        });
        control(vectors::HANDSHAKE, "v4_hsreq", |control| {
            let Body::HsReq(words) = control.body else {
                panic!("{control:?}")
            };
            assert_eq!(
                (words.version, words.peer_latency),
                (0x01_0200, 200),
                "5.10.3"
            );
        });
        control(vectors::ENCRYPTION, "own_key_kmrsp", |control| {
            let Body::KmRsp(KmAnswer::Taken(km)) = control.body else {
                panic!("{control:?}")
            };
            assert_eq!(km.slots, Slots::One(Slot::Odd), "6.8.2");
        });
    }

    /// 5.2.1, 5.2.5: in any order, unknown ones skipped, the first of each counts.
    #[test]
    fn blocks_in_any_order() {
        let mut datagram = vectors::packet(vectors::HANDSHAKE, "conclusion_sid_5");
        let own = datagram.split_off(64);
        let (hs, sid) = own.split_at(16);
        let group = [&[0, 8, 0, 2][..], &[0x40, 0, 0, 1, 1, 0, 0, 20]].concat();
        let unknown = [0, 99, 0, 1, 1, 2, 3, 4];
        let empty = [0, 7, 0, 0];
        let other = [0, 5, 0, 1, 0, 0, 0, b'x'];
        let broken = [0, 1, 0, 1, 0, 0, 0, 0];
        let parts = [&unknown[..], sid, &empty, &group, hs, &other, &broken];
        datagram.extend(parts.concat());
        let Ok(Packet::Control(Control {
            body: Body::Handshake(read),
            ..
        })) = parse(&mut datagram)
        else {
            panic!("no handshake");
        };
        let blocks = read.blocks.unwrap();
        assert_eq!(blocks.stream_id, b"abcde");
        assert!(blocks.hs_req.is_some() && blocks.group.is_some() && blocks.filter.is_empty());
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "[a-z#!:=,]{0,512}", filter in "(fec,cols:[0-9]{1,3})?", group: (u32, u16)) {
            let blocks = Blocks {
                stream_id: text.as_bytes(),
                filter: filter.as_bytes(),
                group: Some(GroupWords { id: SocketId(group.0), kind: 1, flags: 0, weight: group.1 }),
                ..Blocks::default()
            };
            let handshake = Handshake {
                version: 5,
                encryption: 0,
                extension: blocks.field(),
                isn: Seq::new(1),
                mss: 1500,
                window: 8192,
                kind: Kind::Conclusion,
                id: SocketId(2),
                cookie: 3,
                address: [0; 16],
                blocks: Ok(blocks),
            };
            let control = Control { stamp: Stamp::new(4), to: SocketId::NONE, body: Body::Handshake(handshake) };
            let mut datagram = Vec::new();
            control.write(&mut datagram);
            let Ok(Packet::Control(read)) = parse(&mut datagram) else {
                return Err(TestCaseError::fail("not understood"));
            };
            prop_assert_eq!(read, control);
        }

        #[test]
        fn damaged_vectors_are_read_and_written_back(
            which: prop::sample::Index,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let files = [vectors::HANDSHAKE, vectors::CONTROL, vectors::ENCRYPTION, vectors::MALFORMED];
            let all: Vec<_> = files.into_iter().flat_map(vectors::packets).collect();
            let mut bytes = which.get(&all).bytes.clone();
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            read_and_write_back(&bytes);
        }
    }
}
