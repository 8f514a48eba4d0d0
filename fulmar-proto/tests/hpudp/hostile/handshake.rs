//! Each handshake packet lost, repeated or changed; control packets that are forged.

use std::time::Duration;

use fulmar_proto::crypto::sha256;
use fulmar_proto::hpudp::{Config, Trust, Via};

use super::{MALLORY, SECOND, crc32};
use crate::common::duo::{CLIENT, DAEMON, Deal, Duo, MS};
use crate::common::server::{daemon, host};
use crate::common::{A, B, kind, packet, u16_at, u32_at};

pub(super) const WAYS: [Via; 3] = [Via::Direct, Via::Push, Via::Pull];

pub(super) fn v5() -> Config {
    Config {
        extensions: false,
        port: 9000,
        ..Config::default()
    }
}

/// Every way to begin, plain, sealed, and as a bundle.
pub(super) fn deals(size: u64) -> Vec<Deal> {
    let kinds = [(false, false), (true, false), (false, true), (true, true)];
    let ways = WAYS.into_iter();
    ways.flat_map(|via| {
        kinds.map(|(encrypt, bundle)| Deal {
            via,
            encrypt,
            bundle,
            size,
            ..Deal::default()
        })
    })
    .collect()
}

#[test]
fn any_one_packet_may_be_lost_or_come_twice() {
    for size in [0, 1, 30_000] {
        for deal in deals(size) {
            for old in [false, true] {
                if old && (deal.bundle || size == 0) {
                    continue;
                }
                for side in [CLIENT, DAEMON] {
                    for copies in [0, 2] {
                        for nth in 0..12 {
                            let server = if old { v5() } else { daemon() };
                            let mut duo = Duo::new(Config::default(), server, deal.clone());
                            duo.run(40 * SECOND, |whose, number, _| {
                                if whose == side && number == nth {
                                    copies
                                } else {
                                    1
                                }
                            });
                            duo.assert_done(&format!(
                                "packet {nth} of {side} {copies} times, old {old}"
                            ));
                        }
                    }
                }
            }
        }
    }
}

/// One byte of one handshake packet changed, its checksum made right again: whoever demands an identity ends without a
/// byte out of place, and nobody ends with success and other keys than the peer's.
#[test]
fn a_changed_handshake_is_never_a_weaker_session() {
    let key = Trust::Key(sha256(&host().public()));
    for via in WAYS {
        for trust in [Trust::Anyone, key] {
            for side in [CLIENT, DAEMON] {
                for at in (1..130).step_by(3) {
                    let deal = Deal {
                        via,
                        trust,
                        encrypt: true,
                        size: 3_000,
                        ..Deal::default()
                    };
                    let mut duo = Duo::new(Config::default(), daemon(), deal);
                    let mut changed = 0;
                    duo.run(30 * SECOND, |whose, _, bytes| {
                        let handshake = matches!(bytes[0], 0x00 | 0x07..=0x0a);
                        if whose == side && handshake && at < bytes.len() {
                            let was = bytes.clone();
                            bytes[at] ^= 0x04;
                            repair_sum(bytes);
                            changed += u32::from(was != *bytes);
                        }
                        1
                    });
                    let fine = duo.results == [Some(Ok(())); 2];
                    assert!(
                        changed == 0 || !fine,
                        "{via:?} {trust:?}, byte {at} of {side}"
                    );
                    assert_eq!(duo.content.wrong(), 0);
                }
            }
        }
    }
}

/// The extension cut off one packet, or off both.
#[test]
fn a_stripped_extension_is_refused_by_who_knows_the_peer() {
    let key = Trust::Key(sha256(&host().public()));
    for via in WAYS {
        for (client, server) in [(true, false), (false, true), (true, true)] {
            for trust in [Trust::Anyone, Trust::AnyKey, key] {
                let deal = Deal {
                    via,
                    trust,
                    encrypt: true,
                    size: 3_000,
                    ..Deal::default()
                };
                let mut duo = Duo::new(Config::default(), daemon(), deal);
                duo.run(40 * SECOND, |whose, _, bytes| {
                    if (whose == CLIENT && client) || (whose == DAEMON && server) {
                        strip(bytes);
                    }
                    1
                });
                let what = format!("{via:?} {trust:?}, client {client}, server {server}");
                if trust == Trust::Anyone {
                    // Both sides agree that there is none (then it is v5.0), or they cannot talk.
                    let fine = duo.results == [Some(Ok(())); 2];
                    assert!(!fine || client, "{what}");
                } else {
                    assert_ne!(duo.results[CLIENT], Some(Ok(())), "{what}");
                    assert_eq!(duo.content.bytes(), 0, "{what}");
                }
            }
        }
    }
}

/// In a session with bound keys, unsigned, reflected and repeated control packets say nothing: what the honest sides say,
/// and when, is the same.
#[test]
fn forged_control_packets_go_unnoticed_in_a_bound_session() {
    for via in WAYS {
        let run = |attack: bool| {
            let deal = Deal {
                via,
                encrypt: true,
                size: 400_000,
                ..Deal::default()
            };
            let mut duo = Duo::new(Config::default(), daemon(), deal);
            let mut log: [Vec<(Duration, Vec<u8>)>; 2] = Default::default();
            let start = duo.now;
            let mut id = 0;
            let mut heard: Vec<(usize, Duration, Vec<u8>)> = Vec::new();
            for round in 1..4_000u32 {
                let at = start + round * 5 * MS - duo.now;
                let clock = duo.now - start;
                duo.run(at, |whose, _, bytes| {
                    id = u32_at(bytes, 1);
                    log[whose].push((clock, bytes.clone()));
                    if matches!(bytes[0], 0x03..=0x06) && heard.len() < 200 {
                        heard.push((whose, clock, bytes.clone()));
                    }
                    1
                });
                if duo.results.iter().all(Option::is_some) {
                    break;
                }
                // Before the keys are agreed a refusal counts.
                let agreed = log
                    .iter()
                    .flatten()
                    .any(|(_, bytes)| bytes[0] == kind::HEARTBEAT);
                if !attack || !agreed {
                    continue;
                }
                for (to, from) in [(CLIENT, B), (DAEMON, A)] {
                    for reason in [1, 2, 3, 5, 8, 0xf1] {
                        duo.inject(
                            to,
                            from,
                            &packet(kind::REJECT, id, (0, 0), 1, 0, 0, &[reason]),
                        );
                    }
                    for kind in [kind::COMPLETE, kind::ACK_CLOSE] {
                        duo.inject(to, from, &packet(kind, id, (0, 0), 0, 0, 0, &[]));
                    }
                    // One who copies a packet and overtakes it is believed until it arrives (4.8).
                    let arrived = (duo.now - start).saturating_sub(40 * MS);
                    for (whose, _, bytes) in heard.iter().filter(|it| it.1 < arrived) {
                        // Reflected to who said it. (What was said before and is said again is an old heartbeat.)
                        if *whose == to {
                            duo.inject(to, from, bytes);
                        }
                        duo.inject(to, MALLORY, bytes);
                    }
                }
            }
            duo.assert_done(&format!("{via:?}"));
            log
        };
        assert!(run(false) == run(true), "{via:?}: the honest sides noticed");
    }
}

/// The extension block with these fields, and its checksum.
pub(super) fn with_block(mut bytes: Vec<u8>, fields: &[u8]) -> Vec<u8> {
    bytes.extend(b"HPX1");
    bytes.extend((fields.len() as u16 + 12).to_be_bytes());
    bytes.extend(fields);
    bytes.extend([5, 4]);
    let sum = crc32(&bytes);
    bytes.extend(sum.to_be_bytes());
    bytes
}

/// Where a packet's extension block begins, and where its checksum stands.
fn block(bytes: &[u8]) -> Option<(usize, usize)> {
    let at = bytes.windows(4).position(|it| it == b"HPX1")?;
    let end = at + usize::from(u16_at(bytes, at + 4));
    (end <= bytes.len() && end >= at + 12).then_some((at, end - 4))
}

pub(super) fn repair_sum(bytes: &mut [u8]) {
    if let Some((_, at)) = block(bytes) {
        let sum = crc32(&bytes[..at]).to_be_bytes();
        bytes[at..at + 4].copy_from_slice(&sum);
    }
}

/// Takes the extension off a handshake packet.
fn strip(bytes: &mut Vec<u8>) {
    if matches!(bytes[0], 0x00 | 0x07..=0x0a)
        && let Some((at, _)) = block(bytes)
    {
        bytes.truncate(at);
    }
}
