//! From two public keys to one packet's nonce (5), the keys of the extension (18.7), and the endpoint's random numbers.
//!
//! A nonce seals exactly one header and payload. DATA numbers never repeat in a session, nor does a parity index in
//! its block; the type byte keeps the two apart and the session number scopes both. This module does *not* seal
//! packets: [`crate::crypto`] does, and checks.

use zeroize::Zeroizing;

use super::packet::{Header, Kind};
use crate::crypto::{Nonce, Opener, Sealer, Secret, Suite, hkdf_sha256};

const INFO: &[u8; 16] = b"hp-udp-aes128-v5";
const INFO_BOUND: &[u8] = b"hp-udp hpx1 session keys";
const KEY: usize = 16;

/// What a session's keys are bound to when both sides have the extension (18.7.2).
pub(super) struct Bound<'a> {
    /// The datagram that asked, and the one that answered, as they were on the wire.
    pub(super) request: &'a [u8],
    pub(super) answer: &'a [u8],
    pub(super) host: Host<'a>,
}

/// The static key of the side that answered.
pub(super) enum Host<'a> {
    /// It has none: nobody is authenticated.
    None,
    Ours(&'a Secret),
    Theirs(&'a [u8; 32]),
}

/// The keys of one session.
pub(super) struct Keys {
    data: Zeroizing<[u8; KEY]>,
    /// Of the sender's control packets and of the receiver's.
    control: Option<[Zeroizing<[u8; KEY]>; 2]>,
}

/// Derives a session's keys; `None` when a public key is one that no honest peer sends.
pub(super) fn agree(
    secret: &Secret,
    peer: &[u8; 32],
    session: u32,
    bound: Option<&Bound<'_>>,
) -> Option<Keys> {
    let ephemeral = secret.agree(peer)?;
    let Some(bound) = bound else {
        let mut data = Zeroizing::new([0; KEY]);
        let salt = session.to_be_bytes();
        hkdf_sha256(ephemeral.as_bytes(), &salt, INFO, &mut data[..]);
        return Some(Keys {
            data,
            control: None,
        });
    };
    let mut input = Zeroizing::new(ephemeral.as_bytes().to_vec());
    let host = match bound.host {
        Host::None => None,
        Host::Ours(host) => Some(host.agree(peer)?),
        Host::Theirs(host) => Some(secret.agree(host)?),
    };
    if let Some(host) = host {
        input.extend_from_slice(host.as_bytes());
    }
    let mut salt = (bound.request.len() as u32).to_be_bytes().to_vec();
    salt.extend_from_slice(bound.request);
    salt.extend_from_slice(bound.answer);
    let mut all = Zeroizing::new([0; 3 * KEY]);
    hkdf_sha256(&input, &salt, INFO_BOUND, &mut all[..]);
    let part = |at: usize| {
        let mut key = Zeroizing::new([0; KEY]);
        key.copy_from_slice(&all[at * KEY..(at + 1) * KEY]);
        key
    };
    Some(Keys {
        data: part(0),
        control: Some([part(1), part(2)]),
    })
}

/// Which half of a session this side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Sender,
    Receiver,
}

impl Keys {
    /// The sender's half for data.
    pub(super) fn sealer(&self) -> Option<Sealer> {
        Sealer::new(Suite::Aes128Gcm, &self.data[..])
    }

    /// The receiver's half for data.
    pub(super) fn opener(&self) -> Option<Opener> {
        Opener::new(Suite::Aes128Gcm, &self.data[..])
    }

    /// Both halves for control packets, when the extension is in force.
    pub(super) fn control(&self, role: Role) -> Option<Control> {
        let [sender, receiver] = self.control.as_ref()?;
        let (ours, theirs) = match role {
            Role::Sender => (sender, receiver),
            Role::Receiver => (receiver, sender),
        };
        Some(Control {
            signer: Signer {
                sealer: Sealer::new(Suite::Aes128Gcm, &ours[..])?,
                count: 0,
            },
            opener: Opener::new(Suite::Aes128Gcm, &theirs[..])?,
        })
    }
}

/// Bytes of a signature: a counter and a tag.
pub(super) const SIGNATURE: usize = 24;

/// Signs and checks control packets (18.7.4).
#[derive(Debug)]
pub(super) struct Control {
    pub(super) signer: Signer,
    opener: Opener,
}

impl Control {
    /// Whether the peer made this datagram, whose end is the signature. One that comes a second time says nothing new:
    /// an echo counts once, and what ends a session ends it once.
    pub(super) fn check(&self, datagram: &[u8]) -> bool {
        self.count(datagram).is_some()
    }

    /// The number the peer gave this datagram, if the peer made it.
    pub(super) fn count(&self, datagram: &[u8]) -> Option<u64> {
        let (body, tag) = datagram.split_last_chunk::<16>()?;
        let (_, count) = body.split_last_chunk::<8>()?;
        let count = u64::from_be_bytes(*count);
        let mut tag = *tag;
        self.opener.open(counted(count), body, &mut tag)?;
        Some(count)
    }
}

/// Signs control packets.
#[derive(Debug)]
pub(super) struct Signer {
    sealer: Sealer,
    count: u64,
}

impl Signer {
    /// Appends the signature of all that `datagram` holds.
    pub(super) fn sign(&mut self, datagram: &mut Vec<u8>) {
        self.count += 1;
        datagram.extend_from_slice(&self.count.to_be_bytes());
        let tag = self.sealer.seal(counted(self.count), datagram, &mut []);
        datagram.extend_from_slice(&tag);
    }
}

fn counted(count: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&count.to_be_bytes());
    Nonce(bytes)
}

/// `SessionID ‖ PacketType ‖ U`, U being 56 bits of the sequence, or of block and parity index.
pub(super) fn nonce(header: &Header) -> Nonce {
    let unique = match header.kind {
        Kind::Parity => (header.block << 8) | (header.seq & 0xff),
        Kind::SessionReq
        | Kind::Data
        | Kind::Heartbeat
        | Kind::Reject
        | Kind::Complete
        | Kind::AckClose
        | Kind::PullReq
        | Kind::PushReq
        | Kind::PushAccept
        | Kind::SessionAccept
        | Kind::ListReq
        | Kind::ListRes => header.seq,
    };
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&header.session.to_be_bytes());
    bytes[4..].copy_from_slice(&unique.to_be_bytes());
    bytes[4] = header.kind as u8;
    Nonce(bytes)
}

/// Random numbers from one seed: HKDF in counter mode.
pub(super) struct Entropy {
    seed: [u8; 32],
    drawn: u64,
}

impl Entropy {
    /// No two endpoints may have one seed.
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    pub(super) fn bytes(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        self.drawn += 1;
        hkdf_sha256(
            &self.seed,
            &self.drawn.to_be_bytes(),
            b"fulmar hp-udp entropy",
            &mut out,
        );
        out
    }

    pub(super) fn u64(&mut self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Nearly uniform in `0..n`; 0 when `n` is 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.u64() % (n as u64).max(1)) as usize
    }
}

impl Drop for Entropy {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.seed);
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entropy")
            .field("drawn", &self.drawn)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn counting(from: u8) -> Secret {
        Secret::from_bytes(std::array::from_fn(|i| from + i as u8))
    }

    #[test]
    fn key_vector_20_4() {
        let (sender, receiver) = (counting(0x01), counting(0x21));
        let one = agree(&sender, &receiver.public(), 0xdead_beef, None).unwrap();
        let two = agree(&receiver, &sender.public(), 0xdead_beef, None).unwrap();
        assert_eq!(*one.data, *two.data);
        assert_eq!(
            u128::from_be_bytes(*one.data),
            0x8883_8048_f2f6_efb7_f426_50b8_b6e8_64b9
        );
        assert!(one.control(Role::Sender).is_none());
    }

    #[test]
    fn bound_keys_depend_on_every_byte_of_the_handshake_and_on_the_host() {
        let (client, server, host) = (counting(0x01), counting(0x21), counting(0x41));
        let wrong = counting(0x61);
        let ours = |request: &[u8], answer: &[u8], host: Host<'_>| {
            let bound = Bound {
                request,
                answer,
                host,
            };
            *agree(&server, &client.public(), 7, Some(&bound))
                .unwrap()
                .data
        };
        let theirs = |request: &[u8], answer: &[u8], host: Host<'_>| {
            let bound = Bound {
                request,
                answer,
                host,
            };
            *agree(&client, &server.public(), 7, Some(&bound))
                .unwrap()
                .data
        };
        let public = host.public();
        let key = ours(b"ask", b"answer", Host::Ours(&host));
        assert_eq!(key, theirs(b"ask", b"answer", Host::Theirs(&public)));
        assert_ne!(key, theirs(b"asK", b"answer", Host::Theirs(&public)));
        assert_ne!(key, theirs(b"aska", b"nswer", Host::Theirs(&public)));
        assert_ne!(key, theirs(b"ask", b"answer", Host::None));
        assert_ne!(key, ours(b"ask", b"answer", Host::Ours(&wrong)));
    }

    #[test]
    fn a_signature_holds_for_every_byte_and_only_in_its_direction() {
        let (client, server) = (counting(0x01), counting(0x21));
        let bound = Bound {
            request: b"ask",
            answer: b"answer",
            host: Host::None,
        };
        let one = agree(&client, &server.public(), 7, Some(&bound)).unwrap();
        let two = agree(&server, &client.public(), 7, Some(&bound)).unwrap();
        let sender = one.control(Role::Sender).unwrap();
        let mut receiver = two.control(Role::Receiver).unwrap();
        let mut datagram = b"heartbeat".to_vec();
        receiver.signer.sign(&mut datagram);
        assert!(!receiver.check(&datagram), "our own, reflected");
        for at in 0..datagram.len() {
            let mut damaged = datagram.clone();
            damaged[at] ^= 0x10;
            assert!(!sender.check(&damaged), "byte {at}");
        }
        assert!(!sender.check(&datagram[..23]));
        assert!(sender.check(&datagram));
    }

    #[test]
    fn nonce_vectors_20_5() {
        let data = Header {
            seq: 739,
            block: 7,
            ..Header::control(Kind::Data, 0xdead_beef, 0, 0)
        };
        assert_eq!(
            nonce(&data).0,
            [0xde, 0xad, 0xbe, 0xef, 1, 0, 0, 0, 0, 0, 2, 0xe3]
        );
        let parity = Header {
            seq: 3,
            block: 7,
            ..Header::control(Kind::Parity, 0xdead_beef, 0, 0)
        };
        assert_eq!(
            nonce(&parity).0,
            [0xde, 0xad, 0xbe, 0xef, 2, 0, 0, 0, 0, 0, 7, 3]
        );
    }
}
