//! Networks in virtual time: routing, timers, shared queues, rebinding NATs, and runs that repeat.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fulmar_proto::Ecn;
use fulmar_proto::engine::Bitrate;
use fulmar_proto::sim::{Fate, LinkConfig, LinkId, Loss, Net, NodeId, Profile};

use super::toy::{Toy, ToyCommand};

#[test]
fn same_seed_same_trace_and_another_seed_another() {
    let run = |seed| {
        let (mut net, a, b) = pair(Profile::named("wifi-bad").expect("a known name"), seed);
        net.command(a, Toy::stream(net.addr(b), 2000, 1200));
        net.run_until(Duration::from_secs(60), |_| false);
        (net.trace_hash(), net.node(b).received.len(), net.elapsed())
    };
    let first = run(1);
    assert!(first.1 > 1500 && first.1 < 2000, "{} arrived", first.1);
    assert_eq!(first, run(1));
    assert_ne!(first.0, run(2).0);
    assert_ne!(run(2).0, run(3).0);
}

#[test]
fn every_profile_carries_a_slow_stream() {
    for profile in Profile::ALL {
        let (mut net, a, b, up) = pair_with_link(profile.clone(), 1);
        // 1000 bytes every 10 ms: 0.8 Mbit/s, less than any of them carries.
        let command = ToyCommand::Stream {
            to: net.addr(b),
            size: 1000,
            count: 2000,
            every: Duration::from_millis(10),
            after: Duration::ZERO,
        };
        net.command(a, command);
        net.run_until(Duration::from_secs(30), |_| false);
        let stats = net.link(up).stats();
        assert_eq!(
            (stats.offered, stats.queue_dropped),
            (2000, 0),
            "{}",
            profile.name
        );
        assert_eq!(
            net.node(b).received.len() as u64,
            stats.delivered,
            "{}",
            profile.name
        );
        let most = 2000.0 * profile.up.loss.share() * 1.5 + 60.0;
        assert!(
            (stats.lost as f64) < most,
            "{}: {} lost",
            profile.name,
            stats.lost
        );
    }
}

#[test]
fn the_trace_sees_a_single_byte() {
    let run = |byte: u8| {
        let (mut net, a, b) = pair(perfect(), 1);
        net.command(
            a,
            ToyCommand::Send {
                to: net.addr(b),
                payload: vec![byte; 1000],
                ecn: None,
            },
        );
        net.run_until(Duration::from_secs(1), |_| false);
        net.trace_hash()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn an_echo_comes_back_after_the_round_trip_with_its_marks() {
    let profile = Profile {
        up: delayed(30),
        down: delayed(50),
        ..perfect()
    };
    let (mut net, a, b) = pair(profile, 1);
    net.node_mut(b).echo = true;
    let (at_a, at_b) = (net.addr(a), net.addr(b));
    net.command(
        a,
        ToyCommand::Send {
            to: at_b,
            payload: b"ping".to_vec(),
            ecn: Some(Ecn::Ect0),
        },
    );
    assert!(net.run_until(Duration::from_secs(1), |net| !net.events(a).is_empty()));
    assert_eq!(net.elapsed(), Duration::from_millis(80));
    let seen = &net.node(b).received[0];
    assert_eq!(
        (seen.meta.from, seen.meta.ecn, seen.payload.as_slice()),
        (at_a, Some(Ecn::Ect0), &b"ping"[..])
    );
    assert_eq!(seen.meta.to_ip, Some(at_b.ip()));
    assert_eq!(net.node(a).received[0].meta.from, at_b);
}

#[test]
fn segments_are_split_and_the_last_may_be_short() {
    let (mut net, a, b) = pair(perfect(), 1);
    let command = ToyCommand::Batch {
        to: net.addr(b),
        payload: (0..=255).cycle().take(1050).collect(),
        segment: 100,
    };
    net.command(a, command);
    net.run_until(Duration::from_secs(1), |_| false);
    let sizes: Vec<usize> = net
        .node(b)
        .received
        .iter()
        .map(|seen| seen.payload.len())
        .collect();
    assert_eq!(sizes, [[100; 10].as_slice(), &[50]].concat());
    assert_eq!(net.node(b).received[1].payload[0], 100);
}

#[test]
fn timers_fire_exactly_and_later_on_a_sleepy_host() {
    let fired = |lag: u64, nudge: Option<u64>| {
        let (mut net, a, _) = pair(perfect(), 1);
        net.set_wake_lag(a, Duration::from_millis(lag));
        net.command(a, ToyCommand::Timer(net.now() + Duration::from_millis(100)));
        net.command(a, ToyCommand::Timer(net.now() + Duration::from_millis(100)));
        if let Some(at) = nudge {
            net.alarm(net.now() + Duration::from_millis(at));
            net.run_until(Duration::from_millis(at), |_| false);
            net.inject(a, "192.0.2.9:9".parse().expect("an address"), b"wake up");
        }
        net.run_until(Duration::from_secs(1), |_| false);
        net.node(a)
            .fired
            .iter()
            .map(|at| (*at - (net.now() - net.elapsed())).as_millis())
            .collect::<Vec<_>>()
    };
    assert_eq!(fired(0, None), [100, 100]);
    assert_eq!(fired(15, None), [115, 115]);
    // A datagram that finds the timer due wakes the host first; one before it is due changes nothing.
    assert_eq!(fired(15, Some(105)), [105, 105]);
    assert_eq!(fired(15, Some(95)), [115, 115]);
}

#[test]
fn two_flows_share_one_bottleneck_first_come_first_served() {
    let start = Instant::now();
    let mut net = Net::new(start, 1);
    let nodes: Vec<NodeId> = (1..=4)
        .map(|n| net.add_node(addr(n), Toy::default()))
        .collect();
    let rate = Some(Bitrate::from_bytes_per_sec(1_000_000));
    let bottleneck = net.add_link(LinkConfig {
        rate,
        ..LinkConfig::default()
    });
    net.route(nodes[0], nodes[2], bottleneck);
    net.route(nodes[1], nodes[3], bottleneck);
    // Each offers 1000 bytes a millisecond, half a millisecond apart: twice what the link carries.
    let flow = |flow: usize, after: u64| ToyCommand::Stream {
        to: addr([3, 4][flow]),
        size: 972,
        count: 100,
        every: Duration::from_millis(1),
        after: Duration::from_micros(after),
    };
    net.command(nodes[0], flow(0, 0));
    net.command(nodes[1], flow(1, 500));
    net.run_until(Duration::from_secs(10), |_| false);
    let times = |id: NodeId| -> Vec<Duration> {
        net.node(id)
            .received
            .iter()
            .map(|seen| seen.at - start)
            .collect()
    };
    let alternate = |first: u64| -> Vec<Duration> {
        (0..100)
            .map(|n| Duration::from_millis(first + 2 * n))
            .collect()
    };
    assert_eq!(times(nodes[2]), alternate(1));
    assert_eq!(times(nodes[3]), alternate(2));
    assert_eq!(net.link(bottleneck).stats().delivered, 200);
}

#[test]
fn a_rebinding_changes_the_port_and_forgets_the_old_one() {
    let ms = Duration::from_millis;
    let up = LinkConfig {
        rebinds: vec![ms(100), ms(200)],
        ..delayed(10)
    };
    let (mut net, a, b) = pair(
        Profile {
            up,
            down: delayed(10),
            ..perfect()
        },
        1,
    );
    let (at_a, at_b) = (net.addr(a), net.addr(b));
    let ping = |net: &mut Net<Toy>, at: u64| {
        let wait = ms(at) - net.elapsed();
        net.run_until(wait, |_| false);
        net.command(
            a,
            ToyCommand::Send {
                to: at_b,
                payload: vec![at as u8],
                ecn: None,
            },
        );
    };
    for at in [0, 120, 240] {
        ping(&mut net, at);
    }
    net.run_until(ms(20), |_| false);
    let seen: Vec<SocketAddr> = net
        .node(b)
        .received
        .iter()
        .map(|seen| seen.meta.from)
        .collect();
    assert_eq!(seen[0], at_a);
    assert!(seen.iter().all(|seen| seen.ip() == at_a.ip()));
    assert!(
        seen[0] != seen[1] && seen[1] != seen[2] && seen[0] != seen[2],
        "{seen:?}"
    );
    // Of replies to the three, only the one to the present port gets back.
    for (n, &to) in seen.iter().enumerate() {
        net.command(
            b,
            ToyCommand::Send {
                to,
                payload: vec![n as u8],
                ecn: None,
            },
        );
    }
    net.run_until(ms(50), |_| false);
    let back: Vec<&[u8]> = net
        .node(a)
        .received
        .iter()
        .map(|seen| seen.payload.as_slice())
        .collect();
    assert_eq!(back, [&[2][..]]);
    assert_eq!(net.unroutable(), 2);
}

#[test]
fn a_reply_under_way_when_the_nat_forgets_vanishes() {
    let ms = Duration::from_millis;
    let up = LinkConfig {
        rebinds: vec![ms(100)],
        ..LinkConfig::default()
    };
    let (mut net, a, b) = pair(
        Profile {
            up,
            down: delayed(20),
            ..perfect()
        },
        1,
    );
    let at_a = net.addr(a);
    for at in [70, 90] {
        let wait = ms(at) - net.elapsed();
        net.run_until(wait, |_| false);
        net.command(
            b,
            ToyCommand::Send {
                to: at_a,
                payload: vec![at as u8],
                ecn: None,
            },
        );
    }
    net.run_until(ms(100), |_| false);
    let back: Vec<u8> = net
        .node(a)
        .received
        .iter()
        .map(|seen| seen.payload[0])
        .collect();
    assert_eq!(back, [70]);
}

#[test]
fn forged_and_lost_addresses() {
    let (mut net, a, _) = pair(perfect(), 1);
    let nobody: SocketAddr = "203.0.113.1:7".parse().expect("an address");
    net.node_mut(a).echo = true;
    net.inject(a, nobody, b"forged");
    net.run_until(Duration::from_secs(1), |_| false);
    assert_eq!(net.node(a).received[0].meta.from, nobody);
    // The echo goes to nobody, which is no error.
    assert_eq!(net.unroutable(), 1);
}

#[test]
fn alarms_wake_the_application_and_nothing_else() {
    let (mut net, _, _) = pair(perfect(), 1);
    assert!(!net.step());
    net.alarm(net.now() + Duration::from_millis(20));
    let mut ticks = 0;
    let done = net.run_until(Duration::from_secs(1), |net| {
        if net.elapsed() == Duration::from_millis(20) * (ticks + 1) {
            ticks += 1;
            net.alarm(net.now() + Duration::from_millis(20));
        }
        ticks == 10
    });
    assert!(done);
    assert_eq!(net.elapsed(), Duration::from_millis(200));
}

#[test]
fn run_until_passes_its_limit_even_when_nothing_is_left() {
    let (mut net, _, _) = pair(perfect(), 1);
    assert!(!net.run_until(Duration::from_secs(3), |_| false));
    assert_eq!(net.elapsed(), Duration::from_secs(3));
    assert!(net.run_until(Duration::ZERO, |_| true));
}

#[test]
#[should_panic(expected = "spins")]
fn an_endpoint_that_spins_is_named() {
    let (mut net, a, _) = pair(perfect(), 1);
    net.node_mut(a).spin = Some(net.now());
    net.run_until(Duration::from_secs(1), |_| false);
}

#[test]
#[should_panic(expected = "spins")]
fn endless_talk_at_one_instant_is_spinning_too() {
    let (mut net, a, b) = pair(perfect(), 1);
    net.node_mut(a).echo = true;
    net.node_mut(b).echo = true;
    net.command(
        a,
        ToyCommand::Send {
            to: net.addr(b),
            payload: vec![0],
            ecn: None,
        },
    );
    net.run_until(Duration::from_secs(1), |_| false);
}

#[test]
fn a_link_can_change_in_mid_run() {
    let (mut net, a, b, up) = pair_with_link(perfect(), 1);
    let at_b = net.addr(b);
    let ping = ToyCommand::Send {
        to: at_b,
        payload: vec![0],
        ecn: None,
    };
    net.command(a, ping.clone());
    net.link_mut(up).set_config(LinkConfig {
        loss: Loss::Independent(1.0),
        ..LinkConfig::default()
    });
    net.command(a, ping);
    net.run_until(Duration::from_secs(1), |_| false);
    assert_eq!(net.node(b).received.len(), 1);
    assert_eq!(
        (net.link(up).stats().delivered, net.link(up).stats().lost),
        (1, 1)
    );
    assert_eq!(
        net.link_mut(up).offer(Instant::now(), b"x").fate(),
        Fate::Lost
    );
}

fn delayed(ms: u64) -> LinkConfig {
    LinkConfig {
        delay: Duration::from_millis(ms),
        ..LinkConfig::default()
    }
}

fn perfect() -> Profile {
    Profile {
        name: "perfect",
        about: "",
        up: LinkConfig::default(),
        down: LinkConfig::default(),
    }
}

fn addr(node: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node], 4000))
}

fn pair(profile: Profile, seed: u64) -> (Net<Toy>, NodeId, NodeId) {
    let (net, a, b, _) = pair_with_link(profile, seed);
    (net, a, b)
}

fn pair_with_link(profile: Profile, seed: u64) -> (Net<Toy>, NodeId, NodeId, LinkId) {
    let mut net = Net::new(Instant::now(), seed);
    let (a, b) = (
        net.add_node(addr(1), Toy::default()),
        net.add_node(addr(2), Toy::default()),
    );
    let (up, _) = net.connect(a, b, profile.up, profile.down);
    (net, a, b, up)
}
