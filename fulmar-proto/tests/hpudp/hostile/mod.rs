//! Hostile bytes against HP-UDP: forged, damaged and absurd datagrams at both roles, beside an honest transfer.
//!
//! What v5.0 can promise depends on where the attacker stands. *Off the path*, with a wrong address, a wrong session
//! number or stamps that it has to guess, it changes nothing at all, and the tests say so literally: the honest sides
//! send the same bytes at the same instants with and without the attack. *On the path* it can do nothing to the
//! contents of a sealed session; of a plain one it can spoil the file, which is then refused, never accepted. Ending
//! a session with a forged control packet remains possible there, because v5.0 authenticates none.
//!
//! `SEED=n` replays; `HOSTILE=n` multiplies the size of the smoke.

mod corpus;
mod daemon;
mod damage;
mod handshake;
mod honest;
mod liar;
mod memory;
mod strangers;

use std::net::SocketAddr;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Elsewhere: an address nobody has.
const MALLORY: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 66)),
    666,
);

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}
