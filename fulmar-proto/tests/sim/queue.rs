//! The rate and the queue of one link: exact, bounded, and by the book.

use std::collections::VecDeque;
use std::time::Duration;

use fulmar_proto::engine::Bitrate;
use fulmar_proto::sim::{LinkConfig, Loss};
use proptest::prelude::*;

use super::link::Run;

#[test]
fn the_rate_is_exact_over_any_number_of_datagrams() {
    // 7 Gbit/s: a datagram takes 1632 ns and a fraction that must not be lost.
    for (rate, size) in [(7_000_000_000, 1400), (3_000_001, 100), (999_999_999, 1)] {
        let rate = Bitrate::from_bits_per_sec(rate);
        let mut run = Run::new(
            LinkConfig {
                rate: Some(rate),
                ..LinkConfig::default()
            },
            6,
        );
        let n = 10_000;
        let payload = vec![0; size];
        let last = (0..n)
            .map(|_| run.offer(Duration::ZERO, &payload)[0].at)
            .last()
            .unwrap();
        let exact = rate.time_for(n * (size as u64 + 28));
        assert_eq!(last - run.start, exact);
    }
}

#[test]
fn a_rate_of_nothing_carries_nothing() {
    let rate = Some(Bitrate::from_bits_per_sec(0));
    let mut run = Run::new(
        LinkConfig {
            rate,
            ..LinkConfig::default()
        },
        6,
    );
    assert!(run.offer(Duration::ZERO, b"x").is_empty());
    assert_eq!(run.link.stats().queue_dropped, 1);
}

#[test]
fn the_queue_drops_at_its_tail_and_bounds_the_wait() {
    // 1000 bytes on the link take a millisecond; the queue holds five.
    let rate = Some(Bitrate::from_bytes_per_sec(1_000_000));
    let mut run = Run::new(
        LinkConfig {
            rate,
            queue: 5_000,
            ..LinkConfig::default()
        },
        7,
    );
    let payload = [0; 972];
    let arrivals: Vec<_> = (0..20)
        .flat_map(|_| run.offer(Duration::ZERO, &payload))
        .map(|d| d.at)
        .collect();
    // One being sent counts while it is; so five in all.
    let expected: Vec<_> = (1..=5)
        .map(|ms| run.start + Duration::from_millis(ms))
        .collect();
    assert_eq!(arrivals, expected);
    assert_eq!(run.link.stats().queue_dropped, 15);
    assert_eq!(run.link.stats().queue_delay_max, Duration::from_millis(4));
    // Half a millisecond later half a datagram has left: not enough room. After a whole one there is.
    assert!(run.offer(Duration::from_micros(500), &payload).is_empty());
    assert_eq!(
        run.offer(Duration::from_micros(1000), &payload)[0].at,
        run.start + Duration::from_millis(6)
    );
    // A small one still fits where a large one does not.
    assert!(run.offer(Duration::from_micros(1500), &payload).is_empty());
    assert_eq!(run.offer(Duration::from_micros(1500), &[0; 472]).len(), 1);
}

#[test]
fn an_idle_wire_takes_a_datagram_without_any_queue() {
    let rate = Some(Bitrate::from_bytes_per_sec(1_000_000));
    let mut run = Run::new(
        LinkConfig {
            rate,
            queue: 0,
            ..LinkConfig::default()
        },
        7,
    );
    assert_eq!(run.offer(Duration::ZERO, &[0; 972]).len(), 1);
    assert_eq!(run.offer(Duration::from_micros(999), &[0; 972]).len(), 0);
    assert_eq!(run.offer(Duration::from_micros(1000), &[0; 972]).len(), 1);
}

#[test]
fn a_lost_datagram_has_used_the_wire() {
    let rate = Some(Bitrate::from_bytes_per_sec(1_000_000));
    let config = LinkConfig {
        rate,
        queue: 3_000,
        loss: Loss::Independent(1.0),
        ..LinkConfig::default()
    };
    let mut run = Run::new(config, 8);
    for _ in 0..10 {
        run.offer(Duration::ZERO, &[0; 972]);
    }
    assert_eq!(
        (run.link.stats().lost, run.link.stats().queue_dropped),
        (3, 7)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every datagram is accounted for once, and an arrival is never before it was offered plus the delay.
    #[test]
    fn the_books_balance(
        config in any_config(),
        offers in prop::collection::vec((0u64..500, 0usize..1500), 1..400),
        seed: u64,
    ) {
        let mut run = Run::new(config.clone(), seed);
        let mut at = Duration::ZERO;
        let (mut copies, mut bytes) = (0u64, 0u64);
        for (gap, size) in offers {
            at += Duration::from_micros(gap);
            let payload = vec![0; size];
            for delivery in run.offer(at, &payload) {
                prop_assert!(delivery.at >= run.start + at + config.delay);
                copies += 1;
                bytes += delivery.payload.as_ref().map_or(size, Vec::len) as u64;
            }
        }
        let stats = *run.link.stats();
        let dropped = stats.lost + stats.queue_dropped + stats.oversized + stats.outage;
        prop_assert_eq!(stats.offered + stats.duplicated, stats.delivered + dropped);
        prop_assert_eq!((copies, bytes), (stats.delivered, stats.bytes_delivered));
        if let Some(rate) = config.rate {
            prop_assert!(stats.queue_delay_max <= rate.time_for(config.queue as u64));
        }
    }

    /// The drop-tail queue decides like one that keeps every waiting datagram in a list.
    #[test]
    fn the_queue_agrees_with_a_list(
        offers in prop::collection::vec((0u64..3000, 1usize..1400), 1..300),
        queue in 0usize..20_000,
    ) {
        // A byte takes exactly a microsecond.
        let rate = Some(Bitrate::from_bytes_per_sec(1_000_000));
        let mut run = Run::new(LinkConfig { rate, queue, overhead: 0, ..LinkConfig::default() }, 1);
        let mut twin: VecDeque<usize> = VecDeque::new();
        let mut now = 0;
        for (gap, size) in offers {
            now += gap;
            let mut budget = gap as usize;
            while let Some(head) = twin.front_mut() {
                let sent = budget.min(*head);
                budget -= sent;
                *head -= sent;
                if *head > 0 {
                    break;
                }
                twin.pop_front();
            }
            let waiting: usize = twin.iter().sum();
            let fits = waiting == 0 || waiting + size <= queue;
            let arrived = run.offer(Duration::from_micros(now), &vec![0; size]);
            prop_assert_eq!(!arrived.is_empty(), fits);
            if fits {
                twin.push_back(size);
                let done = Duration::from_micros(now + (waiting + size) as u64);
                prop_assert_eq!(arrived[0].at, run.start + done);
            }
        }
    }
}

fn any_config() -> impl Strategy<Value = LinkConfig> {
    let share = || prop_oneof![Just(0.0), 0.0..1.0f64];
    let time = || (0u64..30_000).prop_map(Duration::from_micros);
    let loss = prop_oneof![
        Just(Loss::None),
        share().prop_map(Loss::Independent),
        (share(), share(), share(), share()).prop_map(
            |(enter_bad, leave_bad, loss_good, loss_bad)| {
                Loss::GilbertElliott {
                    enter_bad,
                    leave_bad,
                    loss_good,
                    loss_bad,
                }
            }
        ),
    ];
    let rate = prop::option::of((1u64..2_000_000_000).prop_map(Bitrate::from_bits_per_sec));
    let outage = prop::collection::vec(
        (time(), time()).prop_map(|(from, len)| from..from + len),
        0..3,
    );
    let sizes = (0usize..100_000, 0usize..60, prop::option::of(0usize..1500));
    (
        time(),
        time(),
        loss,
        rate,
        sizes,
        (share(), time(), share(), share()),
        outage,
    )
        .prop_map(
            |(
                delay,
                jitter,
                loss,
                rate,
                (queue, overhead, mtu),
                (reorder, reorder_by, duplicate, corrupt),
                outages,
            )| {
                LinkConfig {
                    delay,
                    jitter,
                    loss,
                    rate,
                    queue,
                    overhead,
                    reorder,
                    reorder_by,
                    duplicate,
                    corrupt,
                    mtu,
                    outages,
                    rebinds: Vec::new(),
                }
            },
        )
}
