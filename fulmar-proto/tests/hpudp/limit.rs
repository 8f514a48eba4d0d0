//! A limit for a whole endpoint, changed while files move.

use std::time::{Duration, Instant};

use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{Command, Config, Control};
use fulmar_proto::sim::{LinkConfig, LinkId, Loss, NodeId, World};

/// What leaves follows every change within a second, under every controller, with loss and without; and comes back when
/// the limit is lifted.
#[test]
fn a_running_transfer_follows_its_limit() {
    for control in [Control::Delivery, Control::Hpudp, Control::Fixed] {
        for loss in [0.0, 0.02] {
            let config = Config {
                control,
                max_rate: Some(mbit(60)),
                ..Config::default()
            };
            let (mut world, from, up) = start(config, 1, loss);
            for limit in [20, 4, 40, 10] {
                world.net.command(
                    from,
                    Command::Limit {
                        rate: Some(mbit(limit)),
                    },
                );
                pass(&mut world, 1000);
                let seen = used(&mut world, up, 3000);
                assert!(
                    seen <= limit as f64 * 1.02 + 0.1,
                    "{control:?}, {loss}: {seen} Mbit/s under a limit of {limit}"
                );
                if control != Control::Hpudp {
                    assert!(
                        seen >= limit as f64 * 0.7,
                        "{control:?}, {loss}: {seen} Mbit/s of {limit}"
                    );
                }
            }
            world.net.command(from, Command::Limit { rate: None });
            pass(&mut world, 5000);
            let seen = used(&mut world, up, 3000);
            assert!(
                seen <= 61.3,
                "{control:?}, {loss}: {seen} Mbit/s over the cap of 60"
            );
            if control != Control::Hpudp {
                assert!(seen >= 42.0, "{control:?}, {loss}: {seen} Mbit/s of 60");
            }
        }
    }
}

/// The limit is one for all sessions, and those that end leave their shares to the others.
#[test]
fn sessions_share_one_limit() {
    let config = Config {
        max_rate: Some(mbit(60)),
        ..Config::default()
    };
    let (mut world, from, up) = start(config, 3, 0.0);
    let rate = Some(mbit(24));
    world.net.command(from, Command::Limit { rate });
    pass(&mut world, 1000);
    let seen = used(&mut world, up, 3000);
    assert!((17.0..=24.6).contains(&seen), "{seen} Mbit/s for three");

    let gone = |tag| Command::Abort {
        tag: fulmar_proto::hpudp::Tag(tag),
        reason: fulmar_proto::hpudp::Reason::DISCONNECT,
    };
    world.net.command(from, gone(0));
    world.net.command(from, gone(1));
    pass(&mut world, 3000);
    let seen = used(&mut world, up, 3000);
    assert!(
        (17.0..=24.6).contains(&seen),
        "{seen} Mbit/s for the one that is left"
    );
}

/// A path that carries less than the limit is still found out.
#[test]
fn a_limit_does_not_hide_congestion() {
    let (mut world, from, up) = start(Config::default(), 1, 0.0);
    let rate = Some(mbit(40));
    world.net.command(from, Command::Limit { rate });
    pass(&mut world, 4000);
    let narrow = LinkConfig {
        rate: Some(mbit(10)),
        queue: 100_000,
        ..link(0.0)
    };
    world.net.link_mut(up).set_config(narrow);
    pass(&mut world, 4000);
    let before = *world.net.link(up).stats();
    pass(&mut world, 10_000);
    let after = *world.net.link(up).stats();
    let share =
        (after.delivered - before.delivered) as f64 / (after.offered - before.offered) as f64;
    assert!(share > 0.9, "{share} of what was sent arrives");
}

fn start(config: Config, files: u64, loss: f64) -> (World, NodeId, LinkId) {
    let mut world = World::new(Instant::now(), 11);
    let from = world.add(config);
    let to = world.add(Config::default());
    let (up, _) = world.net.connect(from, to, link(loss), link(loss));
    for _ in 0..files {
        world.send(from, to, 1 << 30, true);
    }
    pass(&mut world, 3000);
    (world, from, up)
}

fn link(loss: f64) -> LinkConfig {
    LinkConfig {
        delay: Duration::from_millis(20),
        rate: Some(mbit(100)),
        queue: 500_000,
        loss: if loss > 0.0 {
            Loss::Independent(loss)
        } else {
            Loss::None
        },
        ..LinkConfig::default()
    }
}

fn pass(world: &mut World, millis: u64) {
    world.run_until(Duration::from_millis(millis), |_| false);
}

/// Mbit/s of UDP payload that enter the link in so much time.
fn used(world: &mut World, up: LinkId, millis: u64) -> f64 {
    let before = world.net.link(up).stats().bytes_offered;
    pass(world, millis);
    let bytes = world.net.link(up).stats().bytes_offered - before;
    bytes as f64 * 8.0 / 1e3 / millis as f64
}

fn mbit(rate: u64) -> Bitrate {
    Bitrate::from_bits_per_sec(rate * 1_000_000)
}
