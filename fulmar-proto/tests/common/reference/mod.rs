//! Peers of the known implementation's lineage, written byte by byte and not with our encoder: a receiver and a sender,
//! each of which listens, calls, or is a daemon or its client.

mod receiver;
mod sender;

use std::net::SocketAddr;
use std::time::Duration;

use super::kind;
use fulmar_proto::Transmit;
use fulmar_proto::crypto::{Secret, hkdf_sha256};
use fulmar_proto::hpudp::Tag;

pub(crate) use receiver::{RefReceiver, Role};
pub(crate) use sender::{Dialect, RefSender};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

const REF_TAG: Tag = Tag(77);

fn transmit(to: SocketAddr, bytes: Vec<u8>, buf: &mut Vec<u8>) -> Option<Transmit> {
    buf.extend_from_slice(&bytes);
    Some(Transmit {
        to,
        from_ip: None,
        ecn: None,
        len: bytes.len(),
        segment: None,
    })
}

const SECRET: [u8; 32] = [0x42; 32];

/// The key of a session between that host and whoever sent this (5.2).
fn session_key(id: u32, theirs: &[u8]) -> [u8; 16] {
    let theirs = theirs.try_into().expect("32 bytes");
    let secret = Secret::from_bytes(SECRET);
    let shared = secret.agree(&theirs).expect("an honest key");
    let mut key = [0; 16];
    hkdf_sha256(
        shared.as_bytes(),
        &id.to_be_bytes(),
        b"hp-udp-aes128-v5",
        &mut key,
    );
    key
}

/// Of a DATA packet (5.4).
fn nonce(id: u32, seq: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&id.to_be_bytes());
    nonce[4..].copy_from_slice(&seq.to_be_bytes());
    nonce[4] = kind::DATA;
    nonce
}
