//! Peers that speak HP-UDP otherwise than we do: written out byte by byte, not with our encoder. And ours among
//! themselves with the extension off, with the published controller, and with hosts that die and return.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::reference::{Dialect, RefReceiver, RefSender, Role};
use crate::common::{Host, Pair, kind, link, seed, u64_at};
use fulmar_proto::hpudp::{Config, Control, Counter, Failure, Layout, Parity};
use fulmar_proto::sim::{LinkConfig, Loss, Rng};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn to_reference(seed: u64, size: u64, link: LinkConfig, deaf_to_first: u32) -> Pair {
    let start = Instant::now();
    let sender = Host::fulmar(start, Config::default(), &mut Rng::new(seed));
    let mut receiver = RefReceiver::new(start, Role::Waits, false);
    receiver.deaf_to_first = deaf_to_first;
    let hosts = (sender, Host::scripted(start, Box::new(receiver)));
    let mut pair = Pair::new(start, seed, hosts, (link.clone(), link), size);
    pair.send(false);
    pair
}

#[test]
fn a_file_reaches_the_reference_receiver() {
    for loss in [0.0, 0.05, 0.2] {
        for size in [1, 1368, 1369, 136_800, 3_000_000] {
            let mut pair = to_reference(seed(1), size, link(50, 40, loss), 0);
            pair.finish(300 * SECOND);
            pair.assert_done(&format!("{size} bytes at loss {loss}"));
            assert_eq!(pair.apps.connected, Some((false, false)), "no extension");
        }
    }
}

/// Its list of holes starts at chunk 1 (7.3), so nothing asks for chunk 0. With a file larger than the window nothing
/// else goes on either, until the sender offers it unasked (9).
#[test]
fn chunk_0_is_repaired_though_nobody_asks_for_it() {
    for size in [3_000_000, 66_000 * 1368] {
        let mut pair = to_reference(seed(1), size, link(1000, 10, 0.0), 3);
        pair.finish(120 * SECOND);
        pair.assert_done(&format!("{size} bytes"));
    }
}

fn from_reference(seed: u64, size: u64, dialect: Dialect, loss: f64) -> Pair {
    let start = Instant::now();
    let content = Rng::new(seed ^ 0xf11e).next_u64();
    let sender = RefSender::new(start, size, content, dialect);
    let hosts = (
        Host::scripted(start, Box::new(sender)),
        Host::fulmar(start, Config::default(), &mut Rng::new(seed)),
    );
    let link = link(50, 40, loss);
    Pair::new(start, seed, hosts, (link.clone(), link), size)
}

#[test]
fn a_file_comes_from_the_reference_sender() {
    for dialect in [Dialect::Plain, Dialect::LateSealed] {
        for loss in [0.0, 0.05, 0.2] {
            for size in [1, 1352, 1368, 1369, 136_800, 1_000_000] {
                let mut pair = from_reference(seed(1), size, dialect, loss);
                pair.finish(300 * SECOND);
                pair.assert_done(&format!("{dialect:?}, {size} bytes at loss {loss}"));
                let junk = pair.net.node(pair.b).count(Counter::Malformed);
                assert!(size < 500_000 || junk > 0, "the junk reached the parser");
                assert_eq!(pair.apps.offers, 1, "and made no session");
            }
        }
    }
}

/// The sender announces the end (11): our receiver answers ACK_CLOSE, but not before the file is verified.
#[test]
fn a_completion_by_the_sender_is_acknowledged_once_verified() {
    for loss in [0.0, 0.2] {
        let mut pair = from_reference(seed(1), 300_000, Dialect::Reversed, loss);
        pair.apps.verifying = 700 * MS;
        pair.net.node_mut(pair.b).tapping = true;
        pair.finish(100 * SECOND);
        pair.assert_done("reversed");
        let verified =
            pair.apps.received_at.expect("it was") - (pair.net.now() - pair.net.elapsed());
        let closes = pair.net.node(pair.b).sent.iter();
        let first = closes
            .filter(|sent| matches!(sent.bytes[0], kind::ACK_CLOSE | kind::COMPLETE))
            .map(|sent| sent.at)
            .min();
        assert!(
            first.is_some_and(|at| at >= verified),
            "{first:?} before {verified:?}"
        );
    }
}

fn v5() -> Config {
    Config {
        extensions: false,
        ..Config::default()
    }
}

#[test]
fn either_side_may_be_without_the_extension() {
    for (sender, receiver) in [
        (v5(), Config::default()),
        (Config::default(), v5()),
        (v5(), v5()),
    ] {
        let extended = sender.extensions && receiver.extensions;
        for encrypt in [false, true] {
            for loss in [0.0, 0.05, 0.2] {
                for size in [1, 1369, 2_000_000] {
                    let config = (sender.clone(), receiver.clone());
                    let mut pair = Pair::fulmars(seed(1), config, link(50, 40, loss), size);
                    pair.send(encrypt);
                    pair.finish(300 * SECOND);
                    pair.assert_done(&format!("{size} bytes, encrypt {encrypt}, loss {loss}"));
                    assert_eq!(pair.apps.connected, Some((encrypt, extended)));
                }
            }
        }
    }
}

#[test]
fn either_field_order_can_be_forced() {
    for layout in [Layout::Text, Layout::Reference] {
        for receiver in [Config::default(), v5()] {
            let receiver = Config {
                layout: Some(layout),
                ..receiver
            };
            let config = (Config::default(), receiver);
            let mut pair = Pair::fulmars(seed(1), config, link(50, 40, 0.05), 1_000_000);
            pair.send(true);
            pair.finish(100 * SECOND);
            pair.assert_done(&format!("{layout:?}"));
        }
    }
}

#[test]
fn the_published_controller_and_parity_finish() {
    let published = Config {
        control: Control::Hpudp,
        parity: Parity::Table,
        ..Config::default()
    };
    for extensions in [true, false] {
        for loss in [0.0, 0.005, 0.01, 0.03] {
            let sender = Config {
                extensions,
                ..published.clone()
            };
            let config = (sender, Config::default());
            let mut pair = Pair::fulmars(seed(1), config, link(50, 40, loss), 5_000_000);
            pair.send(true);
            pair.finish(100 * SECOND);
            pair.assert_done(&format!("loss {loss}, extensions {extensions}"));
        }
    }
}

/// 19.1: a sealed packet leaves again as the same bytes or not at all. The sealer's guard watches the nonces besides.
#[test]
fn sealed_packets_leave_again_byte_for_byte() {
    for (loss, outages) in [(0.0, vec![]), (0.2, vec![300 * MS..3 * SECOND])] {
        let config = (Config::default(), Config::default());
        let link = LinkConfig {
            outages,
            ..link(20, 60, loss)
        };
        let mut pair = Pair::fulmars(seed(1), config, link, 3_000_000);
        pair.net.node_mut(pair.a).tapping = true;
        pair.send(true);
        pair.finish(300 * SECOND);
        pair.assert_done("sealed");
        let mut first: BTreeMap<(u8, u64, u64), Vec<u8>> = BTreeMap::new();
        let mut again = 0;
        for sent in &pair.net.node(pair.a).sent {
            let bytes = &sent.bytes;
            if !matches!(bytes[0], kind::DATA | kind::PARITY) {
                continue;
            }
            assert_ne!(bytes[23] & 4, 0, "an unsealed chunk in a sealed session");
            let name = (bytes[0], u64_at(bytes, 5), u64_at(bytes, 13));
            match first.get(&name) {
                Some(was) => {
                    again += 1;
                    assert!(was == bytes, "{name:?} was sealed twice");
                }
                None => {
                    first.insert(name, bytes.clone());
                }
            }
        }
        assert!(again > 20 || loss == 0.0, "{again} packets sent again");
    }
}

/// The link is cut for good at many instants of a transfer's life; both sides must know in bounded time.
fn cut(pair: &mut Pair, which: &[fulmar_proto::sim::LinkId]) {
    for &id in which {
        let link = pair.net.link_mut(id);
        let config = link.config().clone();
        link.set_config(LinkConfig {
            loss: Loss::Independent(1.0),
            ..config
        });
    }
}

#[test]
fn a_peer_that_dies_leaves_a_failure_in_bounded_time() {
    let mut rng = Rng::new(seed(1));
    for round in 0..60 {
        let encrypt = round % 2 == 0;
        let config = Config {
            extensions: round % 3 != 0,
            ..Config::default()
        };
        let patience = config.probe_timeout.max(config.inactivity) + 3 * SECOND;
        let link = link(20, 40, 0.02);
        let mut pair = Pair::fulmars(round, (config.clone(), config), link, 4_000_000);
        pair.send(encrypt);
        // It takes about 1.7 s.
        pair.run_for(Duration::from_micros(60_000 + rng.below(1_400_000)));
        match round % 4 {
            // Killed: nobody at the address, or another process that knows nothing of it.
            0 => {
                let (up, down) = (pair.up, pair.down);
                cut(&mut pair, &[up, down]);
            }
            1 => {
                let now = pair.net.now();
                *pair.net.node_mut(pair.b) = Host::fulmar(now, Config::default(), &mut rng);
                pair.apps.received = Some(Err(Failure::Silent));
            }
            2 => {
                let now = pair.net.now();
                *pair.net.node_mut(pair.a) = Host::fulmar(now, Config::default(), &mut rng);
                pair.apps.sent = Some(Err(Failure::Silent));
            }
            // Half a path.
            _ => {
                let id = if round % 8 == 3 { pair.up } else { pair.down };
                cut(&mut pair, &[id]);
            }
        }
        let died = pair.net.now();
        pair.finish(60 * SECOND);
        let told = match pair.apps.connected {
            Some(_) => Failure::Silent,
            None => Failure::NoAnswer,
        };
        let ended = (pair.apps.sent, pair.apps.received);
        let sender = ended.0 == Some(Err(told)) || round % 4 == 2;
        let forgotten = ended.1.is_none() && pair.apps.forgotten > 0;
        let receiver = ended.1 == Some(Err(Failure::Silent)) || forgotten;
        assert!(sender && receiver, "round {round}: {ended:?}");
        let latest = [pair.apps.sent_at, pair.apps.received_at]
            .into_iter()
            .flatten()
            .max();
        let took = latest.map(|at| at.duration_since(died));
        assert!(took <= Some(2 * patience), "round {round}: {took:?}");
        pair.run_for(20 * SECOND);
        for node in [pair.a, pair.b] {
            assert_eq!(
                pair.net.node(node).endpoint().sessions(),
                0,
                "round {round}"
            );
        }
    }
}

/// What the probe is for (10): the path comes back, and the transfer with it.
#[test]
fn an_outage_within_the_probe_window_is_survived() {
    for seconds in [3, 8] {
        for encrypt in [false, true] {
            for extensions in [true, false] {
                for start in [5, 100, 700, 1_300] {
                    for (up, down) in [(true, true), (true, false), (false, true)] {
                        let config = Config {
                            extensions,
                            ..Config::default()
                        };
                        let config = (config.clone(), config);
                        let link = link(20, 40, 0.02);
                        let mut pair = Pair::fulmars(seed(1), config, link.clone(), 4_000_000);
                        let outages = vec![start * MS..start * MS + seconds * SECOND];
                        for (id, out) in [(pair.up, up), (pair.down, down)] {
                            if out {
                                let outages = outages.clone();
                                let link = link.clone();
                                pair.net
                                    .link_mut(id)
                                    .set_config(LinkConfig { outages, ..link });
                            }
                        }
                        pair.send(encrypt);
                        pair.finish(100 * SECOND);
                        pair.assert_done(&format!(
                            "{seconds} s out after {start} ms (up {up}, down {down}), encrypt {encrypt}, extensions {extensions}"
                        ));
                    }
                }
            }
        }
    }
}

/// A NAT that forgets in mid-transfer. A sealed session follows either side. A plain one follows its receiver, which
/// proves itself by an echo; a sender has no way to (v5.0), so both sides find the other silent.
#[test]
fn a_rebound_nat_is_followed_as_far_as_it_can_be_proved() {
    for encrypt in [false, true] {
        for extensions in [true, false] {
            for at in [100, 500, 900, 1_650, 1_700] {
                for sender_side in [true, false] {
                    let config = Config {
                        extensions,
                        ..Config::default()
                    };
                    let config = (config.clone(), config);
                    let link = link(20, 40, 0.01);
                    let mut pair = Pair::fulmars(seed(1), config, link.clone(), 4_200_000);
                    let id = if sender_side { pair.up } else { pair.down };
                    let rebinds = vec![at * MS];
                    pair.net
                        .link_mut(id)
                        .set_config(LinkConfig { rebinds, ..link });
                    pair.send(encrypt);
                    pair.finish(100 * SECOND);
                    let what = format!(
                        "encrypt {encrypt}, extensions {extensions}, {at} ms, sender {sender_side}"
                    );
                    if encrypt || !sender_side {
                        pair.assert_done(&what);
                    } else {
                        let silent = Some(Err(Failure::Silent));
                        assert_eq!(
                            (pair.apps.sent, pair.apps.received),
                            (silent, silent),
                            "{what}"
                        );
                    }
                }
            }
        }
    }
}

/// A disk that takes nothing for longer than any timer: the receiver says so by its silence on the front, the sender
/// keeps looking, and both go on when it is back.
#[test]
fn a_disk_that_stalls_is_waited_for() {
    for encrypt in [false, true] {
        for extensions in [true, false] {
            for stall in [3, 20] {
                let config = Config {
                    extensions,
                    unstored_memory: 1 << 20,
                    ..Config::default()
                };
                let config = (config.clone(), config);
                let mut pair = Pair::fulmars(seed(1), config, link(50, 40, 0.01), 4_000_000);
                pair.apps.stalled = Some(300 * MS..300 * MS + stall * SECOND);
                pair.send(encrypt);
                pair.finish(100 * SECOND);
                pair.assert_done(&format!(
                    "{stall} s, encrypt {encrypt}, extensions {extensions}"
                ));
            }
        }
    }
}
