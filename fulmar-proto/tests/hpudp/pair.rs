//! Two HP-UDP endpoints over a link: the plain cases, one by one.

use std::time::{Duration, Instant};

use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{BLOCK, CHUNK_PLAIN, CHUNK_SEALED, Config, Control};
use fulmar_proto::sim::{LinkConfig, Loss, Outcome, Transfer, World};

fn link(rtt_ms: u64, loss: f64) -> LinkConfig {
    LinkConfig {
        delay: Duration::from_micros(rtt_ms * 500),
        loss: if loss > 0.0 {
            Loss::Independent(loss)
        } else {
            Loss::None
        },
        ..LinkConfig::default()
    }
}

fn bottleneck(mbit: u64, rtt_ms: u64, loss: f64) -> LinkConfig {
    let rate = Bitrate::from_bits_per_sec(mbit * 1_000_000);
    let queue = rate.bytes_in(Duration::from_millis(rtt_ms)) as usize;
    LinkConfig {
        rate: Some(rate),
        queue,
        ..link(rtt_ms, loss)
    }
}

fn transfer(size: u64, encrypt: bool, up: LinkConfig, down: LinkConfig) -> Transfer {
    Transfer {
        size,
        encrypt,
        up,
        down,
        sender: Config::default(),
        receiver: Config::default(),
        seed: std::env::var("SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(1),
        limit: Duration::from_secs(600),
    }
}

fn assert_done(outcome: &Outcome) {
    assert_eq!(
        (outcome.sent, outcome.received, outcome.exact),
        (Some(Ok(())), Some(Ok(())), true),
        "{outcome:#?}"
    );
}

#[test]
fn sizes_around_every_edge() {
    for encrypt in [false, true] {
        let chunk = if encrypt { CHUNK_SEALED } else { CHUNK_PLAIN } as u64;
        for size in [
            0,
            1,
            chunk - 1,
            chunk,
            chunk + 1,
            BLOCK * chunk - 1,
            BLOCK * chunk,
            BLOCK * chunk + 1,
            731 * chunk + 5,
        ] {
            let outcome = transfer(size, encrypt, link(20, 0.0), link(20, 0.0)).run(Instant::now());
            assert_done(&outcome);
        }
    }
}

#[test]
fn same_seed_same_trace() {
    let run = |seed| {
        Transfer {
            seed,
            ..transfer(3_000_000, true, bottleneck(50, 40, 0.05), link(40, 0.05))
        }
        .run(Instant::now())
    };
    let (one, two, other) = (run(5), run(5), run(6));
    assert_eq!(one.trace, two.trace);
    assert_ne!(one.trace, other.trace);
}

#[test]
fn loss_both_ways() {
    for loss in [0.01, 0.1, 0.33] {
        for encrypt in [false, true] {
            let outcome = transfer(
                5_000_000,
                encrypt,
                bottleneck(100, 50, loss),
                link(50, loss),
            )
            .run(Instant::now());
            assert_done(&outcome);
        }
    }
}

/// What the second controller is for: the published rules sink where loss is steady.
#[test]
fn steady_loss_is_no_congestion() {
    let size: u64 = 10 << 20;
    for loss in [0.05, 0.33] {
        let share = |control| {
            let mut it = transfer(size, true, bottleneck(100, 50, loss), link(50, loss));
            it.sender.control = control;
            it.limit = Duration::from_secs(20);
            let outcome = it.run(Instant::now());
            outcome.received_after.map_or(0.0, |time| {
                size as f64 * 8.0 / time.as_secs_f64() / (100e6 * (1.0 - loss))
            })
        };
        let (ours, published) = (share(Control::Delivery), share(Control::Hpudp));
        println!("loss {loss}: {ours:.3}, by the published rules {published:.3}");
        assert!(ours > 0.4 && published < 0.1, "{loss}: {ours}, {published}");
    }
}

/// Bytes that arrived of each flow, and the share the bottleneck's queue dropped, between two instants.
fn share(queue_ms: u64, starts: &[u64], from: u64, to: u64, seed: u64) -> (Vec<u64>, f64) {
    let mut world = World::new(Instant::now(), seed);
    let receiver = world.add(Config::default());
    let rate = Bitrate::from_bits_per_sec(100_000_000);
    let queue = rate.bytes_in(Duration::from_millis(queue_ms)) as usize;
    let up = world.net.add_link(LinkConfig {
        rate: Some(rate),
        queue,
        ..link(50, 0.0)
    });
    let down = world.net.add_link(link(50, 0.0));
    let mut flows = Vec::new();
    let mut clock = 0;
    for &at in starts {
        world.run_until(Duration::from_millis(at - clock), |_| false);
        clock = at;
        let sender = world.add(Config::default());
        world.net.route(sender, receiver, up);
        world.net.route(receiver, sender, down);
        flows.push(world.send(sender, receiver, 4 << 30, true));
    }
    world.run_until(Duration::from_millis(from - clock), |_| false);
    let bytes = |world: &World| {
        flows
            .iter()
            .map(|flow| world.flow(*flow).bytes)
            .collect::<Vec<_>>()
    };
    let (before, was) = (bytes(&world), *world.net.link(up).stats());
    world.run_until(Duration::from_millis(to - from), |_| false);
    let (after, is) = (bytes(&world), *world.net.link(up).stats());
    let dropped = (is.queue_dropped - was.queue_dropped) as f64 / (is.offered - was.offered) as f64;
    (
        after
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect(),
        dropped,
    )
}

#[test]
fn a_drop_tail_queue_is_not_kept_overflowing() {
    for queue_ms in [3, 12, 50, 200] {
        let (bytes, dropped) = share(queue_ms, &[0], 3_000, 13_000, 1);
        let used = bytes[0] as f64 / 125e6;
        println!("one flow, queue {queue_ms} ms: used {used:.3}, dropped {dropped:.4}");
        assert!(
            dropped < 0.05 && used > 0.85,
            "queue {queue_ms} ms: used {used}, dropped {dropped}"
        );
    }
}

#[test]
fn two_transfers_share_a_bottleneck() {
    for queue_ms in [12, 50, 200] {
        for starts in [[0, 0], [0, 5_000]] {
            let (bytes, dropped) = share(queue_ms, &starts, 10_000, 40_000, 2);
            let ratio = bytes[0] as f64 / bytes[1] as f64;
            let used = (bytes[0] + bytes[1]) as f64 / 375e6;
            println!(
                "two flows {starts:?}, queue {queue_ms} ms: ratio {ratio:.2}, used {used:.3}, dropped {dropped:.4}"
            );
            assert!(
                (0.9..=1.1).contains(&ratio) && dropped < 0.05,
                "{starts:?}, {queue_ms} ms: {ratio}, {dropped}"
            );
        }
    }
}

/// A scavenger alone, and beside a fair flow that comes before it, after it, or goes.
#[test]
fn low_takes_what_is_left() {
    let low = Config {
        control: Control::Low,
        ..Config::default()
    };
    for queue_ms in [12, 50, 200] {
        let mut world = World::new(Instant::now(), 1);
        let receiver = world.add(Config::default());
        let rate = Bitrate::from_bits_per_sec(20_000_000);
        let queue = rate.bytes_in(Duration::from_millis(queue_ms)) as usize;
        let up = world.net.add_link(LinkConfig {
            rate: Some(rate),
            queue,
            ..link(50, 0.0)
        });
        let down = world.net.add_link(link(50, 0.0));
        let start = |world: &mut World, config: &Config, size| {
            let sender = world.add(config.clone());
            world.net.route(sender, receiver, up);
            world.net.route(receiver, sender, down);
            world.send(sender, receiver, size, true)
        };
        let run = |world: &mut World, seconds, flow| {
            let before = world.flow(flow).bytes;
            world.run_until(Duration::from_secs(seconds), |_| false);
            (world.flow(flow).bytes - before) as f64 / (2.5e6 * seconds as f64)
        };
        let scavenger = start(&mut world, &low, 4 << 30);
        run(&mut world, 5, scavenger);
        let alone = run(&mut world, 10, scavenger);
        // 25 s of the link: there until after the second look.
        let fair = start(&mut world, &Config::default(), 60_000_000);
        run(&mut world, 5, scavenger);
        let before = world.flow(fair).bytes;
        let beside = run(&mut world, 15, scavenger);
        let fairs = (world.flow(fair).bytes - before) as f64 / (2.5e6 * 15.0);
        run(&mut world, 15, scavenger);
        let again = run(&mut world, 5, scavenger);
        println!(
            "queue {queue_ms} ms: alone {alone:.3}, beside a fair flow {beside:.3} ({fairs:.3}), alone again {again:.3}"
        );
        assert!(
            alone > 0.85 && beside < 0.10 && fairs > 0.8 && again > 0.85,
            "queue {queue_ms} ms: {alone}, {beside}, {fairs}, {again}"
        );
    }
}
