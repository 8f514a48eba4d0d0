//! Pushes, pulls, identities, signed control packets and what a receiver had before, in virtual time (HP-UDP 4.5, 18.7,
//! 18.8, 19.5).
use std::sync::Arc;
use std::time::{Duration, Instant};

use fulmar_proto::crypto::{Secret, sha256};
use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{Config, Counter, Failure, Trust, Via};
use fulmar_proto::sim::{Flow, LinkConfig, Loss, Terms, World};

const WAYS: [Via; 3] = [Via::Direct, Via::Push, Via::Pull];
const SIZE: u64 = 3_000_000;

fn link(loss: f64) -> LinkConfig {
    LinkConfig {
        rate: Some(Bitrate::from_bits_per_sec(50_000_000)),
        delay: Duration::from_millis(20),
        queue: 500_000,
        loss: Loss::Independent(loss),
        ..LinkConfig::default()
    }
}

fn host() -> Arc<Secret> {
    Arc::new(Secret::from_bytes([7; 32]))
}

fn daemon() -> Config {
    Config {
        host_key: Some(host()),
        port: 9000,
        ..Config::default()
    }
}

fn plain_v5() -> Config {
    Config {
        extensions: false,
        ..Config::default()
    }
}

/// One transfer between a client and a daemon; the link is as lossy either way.
fn run(client: Config, daemon: Config, loss: f64, seed: u64, terms: Terms) -> (World, Flow) {
    let mut world = World::new(Instant::now(), seed);
    let (a, b) = (world.add(client), world.add(daemon));
    world.net.connect(a, b, link(loss), link(loss));
    let (from, to) = match terms.via {
        Via::Pull => (b, a),
        Via::Direct | Via::Push => (a, b),
    };
    let id = world.start(from, to, SIZE, terms);
    world.run_until(Duration::from_secs(60), |world| {
        let flow = world.flow(id);
        flow.received.is_some() && flow.sent.is_some()
    });
    let flow = world.take(id);
    (world, flow)
}

fn arrives(flow: &Flow) -> bool {
    flow.exact() && flow.sent == Some(Ok(())) && flow.received == Some(Ok(()))
}

#[test]
fn every_way_works_over_bad_links_between_new_and_old_peers() {
    for via in WAYS {
        for encrypt in [false, true] {
            for (client, daemon) in [
                (Config::default(), daemon()),
                (plain_v5(), daemon()),
                (Config::default(), plain_v5()),
                (plain_v5(), plain_v5()),
            ] {
                for (loss, seed) in [(0.0, 1), (0.1, 2), (0.1, 3), (0.3, 4)] {
                    let terms = Terms {
                        via,
                        encrypt,
                        ..Terms::default()
                    };
                    let new = (client.extensions, daemon.extensions);
                    let (_, flow) = run(client.clone(), daemon.clone(), loss, seed, terms);
                    assert!(
                        arrives(&flow),
                        "{via:?} encrypt {encrypt} new {new:?} loss {loss}: {:?} {:?}",
                        flow.sent,
                        flow.received
                    );
                }
            }
        }
    }
}

#[test]
fn an_identity_is_proved_and_a_wrong_one_or_none_is_refused_before_data() {
    let public = host().public();
    let good = sha256(&public);
    for via in WAYS {
        let terms = |trust| Terms {
            via,
            encrypt: true,
            trust,
            ..Terms::default()
        };
        for trust in [Trust::Anyone, Trust::AnyKey, Trust::Key(good)] {
            let (_, flow) = run(Config::default(), daemon(), 0.05, 5, terms(trust));
            assert!(arrives(&flow), "{via:?} {trust:?} {:?}", flow.sent);
            assert_eq!(flow.identity, Some(public), "{via:?}");
        }
        let (_, flow) = run(
            Config::default(),
            daemon(),
            0.0,
            6,
            terms(Trust::Key([1; 32])),
        );
        let other = Some(Err(Failure::OtherIdentity(public)));
        let none = Some(Err(Failure::NoIdentity));
        let client = |flow: &Flow| match via {
            Via::Pull => flow.received,
            Via::Direct | Via::Push => flow.sent,
        };
        assert_eq!(client(&flow), other, "{via:?}");
        assert_eq!(flow.bytes, 0, "{via:?}");
        for nameless in [plain_v5(), Config::default()] {
            let (_, flow) = run(Config::default(), nameless, 0.0, 7, terms(Trust::AnyKey));
            assert_eq!(client(&flow), none, "{via:?}");
            assert_eq!(flow.bytes, 0, "{via:?}");
        }
    }
}

#[test]
fn what_the_receiver_had_is_not_sent_again() {
    for via in WAYS {
        for (loss, seed) in [(0.0, 8), (0.1, 9), (0.3, 10)] {
            let terms = Terms {
                via,
                encrypt: true,
                bundle: true,
                had: vec![0..1_000_000, 1_200_000..2_500_000, 2_900_000..SIZE],
                had_after: 1,
                ..Terms::default()
            };
            let (_, flow) = run(Config::default(), daemon(), loss, seed, terms);
            assert!(
                arrives(&flow),
                "{via:?} loss {loss}: {:?} {:?} {:?} {:?}",
                flow.sent,
                flow.received,
                flow.sender,
                flow.receiver
            );
            // 600 kB were missing; what left before the word came back, and what blocks hold besides, comes on top.
            assert!(
                flow.bytes < 1_700_000,
                "{via:?} loss {loss}: {}",
                flow.bytes
            );
        }
    }
}

#[test]
fn a_bundle_to_a_peer_that_knows_none_fails_before_data() {
    for via in [Via::Direct, Via::Push] {
        for encrypt in [false, true] {
            let terms = Terms {
                via,
                encrypt,
                bundle: true,
                ..Terms::default()
            };
            let (_, flow) = run(Config::default(), plain_v5(), 0.0, 11, terms);
            assert_eq!(flow.sent, Some(Err(Failure::NoBundles)), "{via:?}");
            assert_eq!(flow.bytes, 0);
        }
    }
}

#[test]
fn twenty_at_once_each_way_share_one_socket_fairly() {
    let mut world = World::new(Instant::now(), 12);
    let server = world.add(daemon());
    let mut flows = Vec::new();
    for i in 0..20 {
        let client = world.add(Config::default());
        world.net.connect(client, server, link(0.05), link(0.05));
        let terms = Terms {
            via: if i % 2 == 0 { Via::Push } else { Via::Pull },
            encrypt: true,
            ..Terms::default()
        };
        let (from, to) = if i % 2 == 0 {
            (client, server)
        } else {
            (server, client)
        };
        flows.push(world.start(from, to, SIZE, terms));
    }
    let done = world.run_until(Duration::from_secs(60), |world| {
        flows.iter().all(|id| world.flow(*id).sent.is_some())
    });
    assert!(done);
    let times = flows.iter().map(|id| {
        let flow = world.flow(*id);
        assert!(arrives(flow), "{:?} {:?}", flow.sent, flow.received);
        flow.received_after.unwrap().as_secs_f64()
    });
    let times: Vec<f64> = times.collect();
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    let slowest = times.iter().copied().fold(0.0, f64::max);
    assert!(slowest < 4.0 * mean, "slowest {slowest}, mean {mean}");
}

#[test]
fn no_control_packet_is_refused_between_honest_peers() {
    for via in WAYS {
        let terms = Terms {
            via,
            encrypt: true,
            ..Terms::default()
        };
        let (world, flow) = run(Config::default(), daemon(), 0.1, 13, terms);
        assert!(arrives(&flow));
        let refused = world
            .endpoints()
            .map(|it| it.counters().get(Counter::Refused));
        assert_eq!(refused.sum::<u64>(), 0, "{via:?}");
    }
}

/// A NAT in front of a daemon forwards a port of its own, and the daemon names the one that it knows of (4.5.4).
#[test]
fn a_push_stays_with_the_port_that_answered() {
    for encrypt in [false, true] {
        let terms = Terms {
            via: Via::Push,
            encrypt,
            ..Terms::default()
        };
        let behind = Config {
            port: 4711,
            ..daemon()
        };
        let (_, flow) = run(Config::default(), behind, 0.0, 9, terms);
        assert!(arrives(&flow), "{flow:?}");
    }
}
