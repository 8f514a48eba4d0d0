//! Pushes and pulls with peers of the known implementation's lineage, as client and as daemon (3.3-3.5, 4.5, 18.3).
use std::time::{Duration, Instant};

use crate::common::reference::{Dialect, RefReceiver, RefSender, Role};
use crate::common::{A, B, Host, Pair, kind, link, packet, seed, u32_at};
use fulmar_proto::hpudp::{Command, Config, Counter, Endpoint, Request, Tag, Via};
use fulmar_proto::sim::Rng;
use fulmar_proto::{Endpoint as _, Meta};

const SECOND: Duration = Duration::from_secs(1);
const LOSSES: [f64; 3] = [0.0, 0.05, 0.2];
const SIZES: [u64; 5] = [1, 1352, 1369, 136_800, 700_000];

fn daemon() -> Config {
    Config {
        port: 9000,
        ..Config::default()
    }
}

fn ours_receives(dialect: Dialect, size: u64, loss: f64) -> Pair {
    let (start, seed) = (Instant::now(), seed(1));
    let content = Rng::new(seed ^ 0xf11e).next_u64();
    let sender = RefSender::new(start, size, content, dialect);
    let hosts = (
        Host::scripted(start, Box::new(sender)),
        Host::fulmar(start, daemon(), &mut Rng::new(seed)),
    );
    let link = link(50, 40, loss);
    Pair::new(start, seed, hosts, (link.clone(), link), size)
}

fn ours_sends(role: Role, sealed: bool, size: u64, loss: f64) -> Pair {
    let (start, seed) = (Instant::now(), seed(1));
    let receiver = RefReceiver::new(start, role, sealed);
    let hosts = (
        Host::fulmar(start, daemon(), &mut Rng::new(seed)),
        Host::scripted(start, Box::new(receiver)),
    );
    let link = link(50, 40, loss);
    let mut pair = Pair::new(start, seed, hosts, (link.clone(), link), size);
    pair.apps.serving = true;
    pair
}

#[test]
fn a_reference_client_pushes_to_us() {
    use Dialect::{Push, Push52, PushSealed, PushSealedAgain};
    for dialect in [Push, PushSealed, PushSealedAgain, Push52] {
        for loss in LOSSES {
            for size in SIZES {
                let mut pair = ours_receives(dialect, size, loss);
                pair.finish(300 * SECOND);
                pair.assert_done(&format!("{dialect:?}, {size} bytes at loss {loss}"));
                assert_eq!(pair.apps.offers, 1, "junk makes no session");
                let junk = pair.net.node(pair.b).count(Counter::Malformed);
                assert!(size < 500_000 || junk > 0, "the junk reached the parser");
            }
        }
    }
}

#[test]
fn we_pull_from_a_reference_daemon() {
    for sealed in [false, true] {
        for loss in LOSSES {
            for size in SIZES {
                let mut pair = ours_receives(Dialect::Serves, size, loss);
                pair.pull(sealed);
                pair.finish(300 * SECOND);
                pair.assert_done(&format!("sealed {sealed}, {size} bytes at loss {loss}"));
            }
        }
    }
}

#[test]
fn we_push_to_a_reference_daemon() {
    for sealed in [false, true] {
        for loss in LOSSES {
            for size in SIZES {
                let mut pair = ours_sends(Role::Daemon, sealed, size, loss);
                pair.push(sealed);
                pair.finish(300 * SECOND);
                pair.assert_done(&format!("sealed {sealed}, {size} bytes at loss {loss}"));
                assert_eq!(pair.apps.connected, Some((sealed, false)), "no extension");
            }
        }
    }
}

/// Its PULL_REQ is not padded, so heartbeats have to pay for the first chunk.
#[test]
fn a_reference_client_pulls_from_us() {
    for sealed in [false, true] {
        for loss in LOSSES {
            for size in SIZES {
                let mut pair = ours_sends(Role::Pulls, sealed, size, loss);
                pair.finish(300 * SECOND);
                pair.assert_done(&format!("sealed {sealed}, {size} bytes at loss {loss}"));
            }
        }
    }
}

/// A daemon that takes data at another port than it was asked at: the rest goes there, and what it says from the first
/// port counts all the same and does not draw the data back (4.5.4).
#[test]
fn a_daemon_may_take_the_data_at_another_port() {
    let data = std::net::SocketAddr::new(B.ip(), 9001);
    let now = Instant::now();
    let mut client = Endpoint::new(Config::default(), [5; 32]);
    let request = Request {
        via: Via::Push,
        ..Request::new(B, "file", 5_000, 1)
    };
    let tag = Tag(1);
    client.handle_command(now, Command::Send { tag, request });
    let said = drain(&mut client, now);
    assert_eq!((said.len(), said[0].0, said[0].1[0]), (1, B, 0x08));
    let id = u32_at(&said[0].1, 1);
    hear(
        &mut client,
        now,
        B,
        &packet(0x09, id, (0, 0), 2, 0, 0, &9001u16.to_be_bytes()),
    );
    let said = drain(&mut client, now);
    assert_eq!(said[0].1[0], kind::SESSION_REQ);
    assert!(said.len() > 3 && said.iter().all(|(to, _)| *to == data));
    let stamp = said.last().map(|(_, bytes)| bytes[24..32].to_vec());
    let mut body = vec![0; 10];
    body.extend(stamp.expect("a chunk"));
    body.extend([0; 18]);
    let beat = packet(kind::HEARTBEAT, id, (0, 0), body.len(), 0, 0, &body);
    hear(&mut client, now, B, &beat);
    assert_eq!(
        client.counters().get(Counter::Rebound),
        0,
        "it has not moved"
    );
    hear(&mut client, now, A, &beat);
    assert_eq!(client.counters().get(Counter::Implausible), 1, "a stranger");
    hear(
        &mut client,
        now,
        B,
        &packet(kind::REJECT, id, (0, 0), 1, 0, 0, &[5]),
    );
    let mut events = std::iter::from_fn(|| client.poll_event());
    assert!(events.any(|it| matches!(it, fulmar_proto::hpudp::Event::Finished { .. })));
}

fn hear(client: &mut Endpoint, now: Instant, from: std::net::SocketAddr, bytes: &[u8]) {
    let meta = Meta {
        from,
        to_ip: None,
        ecn: None,
    };
    client.handle_datagram(now, meta, &mut bytes.to_vec());
}

/// What it says, after every wish of its application is granted.
fn drain(client: &mut Endpoint, now: Instant) -> Vec<(std::net::SocketAddr, Vec<u8>)> {
    let mut said = Vec::new();
    loop {
        while let Some(event) = client.poll_event() {
            if let fulmar_proto::hpudp::Event::Want {
                tag, offset, len, ..
            } = event
            {
                let bytes = vec![7; len];
                client.handle_command(now, Command::Supply { tag, offset, bytes });
            }
        }
        let mut buf = Vec::new();
        let Some(transmit) = client.poll_transmit(now, 1, &mut buf) else {
            return said;
        };
        said.push((transmit.to, buf));
    }
}
