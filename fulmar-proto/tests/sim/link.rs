//! One link does what its configuration says: each impairment by its figures, order kept.
//!
//! Statistical bounds are six standard deviations wide, and every seed is fixed.

use std::time::{Duration, Instant};

use fulmar_proto::sim::{Delivery, Fate, Link, LinkConfig, Loss, Rng};

#[test]
fn a_perfect_link_delivers_at_once_and_unchanged() {
    let mut run = Run::new(LinkConfig::default(), 1);
    for _ in 0..100 {
        let arrived = run.offer(Duration::ZERO, b"payload");
        assert_eq!(
            arrived,
            [Delivery {
                at: run.start,
                payload: None
            }]
        );
    }
}

#[test]
fn delay_is_exact() {
    let delay = Duration::from_nanos(70_000_001);
    let mut run = Run::new(
        LinkConfig {
            delay,
            ..LinkConfig::default()
        },
        1,
    );
    for step in 0..100 {
        let at = Duration::from_micros(step * 13);
        let arrived = run.offer(at, b"payload");
        assert_eq!(arrived[0].at - run.start, at + delay);
    }
}

#[test]
fn independent_loss_is_binomial_and_memoryless() {
    let (n, p) = (200_000u64, 0.05);
    let mut run = Run::new(lossy(Loss::Independent(p)), 2);
    let lost: Vec<bool> = (0..n)
        .map(|_| run.offer(Duration::ZERO, b"x").is_empty())
        .collect();
    assert_binomial(run.link.stats().lost, n, p);
    assert_eq!(run.link.stats().lost + run.link.stats().delivered, n);
    // Given a loss, the next is as likely as ever.
    let pairs = lost.windows(2).filter(|pair| pair[0]);
    let after = pairs.clone().filter(|pair| pair[1]).count() as u64;
    assert_binomial(after, pairs.count() as u64, p);
}

#[test]
fn loss_at_its_ends() {
    for (p, lost) in [(0.0, 0), (1.0, 1000)] {
        let mut run = Run::new(lossy(Loss::Independent(p)), 3);
        for _ in 0..1000 {
            run.offer(Duration::ZERO, b"x");
        }
        assert_eq!(run.link.stats().lost, lost);
    }
}

#[test]
fn gilbert_elliott_bursts_have_their_mean_length_and_share() {
    let (n, share, mean) = (1_000_000usize, 0.04, 5.0);
    let loss = Loss::bursts(share, mean);
    assert!((loss.share() - share).abs() < 1e-12);
    let mut run = Run::new(lossy(loss), 4);
    let lost: Vec<bool> = (0..n)
        .map(|_| run.offer(Duration::ZERO, b"x").is_empty())
        .collect();
    let bursts = lost.chunk_by(|a, b| a == b).filter(|run| run[0]).count();
    let total = lost.iter().filter(|&&lost| lost).count();
    // A burst's length is geometric: variance mean * (mean - 1).
    let deviation = (mean * (mean - 1.0) / bursts as f64).sqrt();
    let measured = total as f64 / bursts as f64;
    assert!(
        (measured - mean).abs() < 6.0 * deviation,
        "mean burst {measured}"
    );
    let expected = n as f64 * share / mean;
    assert!(
        (bursts as f64 - expected).abs() < 6.0 * expected.sqrt(),
        "{bursts} bursts, not {expected}"
    );
}

#[test]
fn gilbert_elliott_states_have_their_own_loss() {
    let loss = |enter_bad| Loss::GilbertElliott {
        enter_bad,
        leave_bad: 0.0,
        loss_good: 0.1,
        loss_bad: 0.6,
    };
    let n = 100_000;
    // Never bad, and bad for good after the first datagram.
    for (enter_bad, p) in [(0.0, 0.1), (1.0, 0.6)] {
        let mut run = Run::new(lossy(loss(enter_bad)), 5);
        for _ in 0..n {
            run.offer(Duration::ZERO, b"x");
        }
        assert_binomial(run.link.stats().lost, n, p);
        assert!((loss(enter_bad).share() - p).abs() < 1e-12);
    }
}

#[test]
fn jitter_fills_its_range_and_keeps_order() {
    let (delay, jitter) = (Duration::from_millis(10), Duration::from_millis(40));
    let mut run = Run::new(
        LinkConfig {
            delay,
            jitter,
            ..LinkConfig::default()
        },
        9,
    );
    let mut last = run.start;
    let mut bunched = 0;
    // Faster than the jitter: datagrams would overtake each other.
    for step in 0..10_000 {
        let sent = Duration::from_millis(step);
        let at = run.offer(sent, b"x")[0].at;
        assert!(at >= last, "order broke at {step}");
        assert!((delay..=delay + jitter).contains(&(at - run.start - sent)));
        bunched += u32::from(at == last);
        last = at;
    }
    assert!(bunched > 1000, "only {bunched} arrived together");
    // Slower than the jitter: each draw is seen, and they are uniform.
    let base = Duration::from_secs(100);
    let waits: Vec<Duration> = (0..10_000)
        .map(|step| {
            let sent = base + Duration::from_millis(100 * step);
            run.offer(sent, b"x")[0].at - run.start - sent - delay
        })
        .collect();
    let mean = waits.iter().sum::<Duration>().as_secs_f64() / waits.len() as f64;
    // Uniform: deviation jitter / sqrt(12), over the root of n.
    assert!(
        (mean - 0.020).abs() < 6.0 * 0.040 / 12f64.sqrt() / 100.0,
        "mean jitter {mean}"
    );
    assert!(waits.iter().min().unwrap() < &Duration::from_millis(1));
    assert!(waits.iter().max().unwrap() > &Duration::from_millis(39));
}

#[test]
fn reordering_reorders_its_share_and_only_that() {
    let config = LinkConfig {
        reorder: 0.1,
        reorder_by: Duration::from_millis(20),
        ..LinkConfig::default()
    };
    let mut run = Run::new(config, 10);
    let n = 20_000;
    let sent = |step| Duration::from_micros(100 * step);
    let arrivals: Vec<Duration> = (0..n)
        .map(|step| run.offer(sent(step), b"x")[0].at - run.start)
        .collect();
    let held = (0..n)
        .filter(|&step| arrivals[step as usize] > sent(step))
        .count() as u64;
    assert_binomial(run.link.stats().reordered, n, 0.1);
    assert_eq!(held, run.link.stats().reordered);
    assert!((0..n).all(|step| arrivals[step as usize] <= sent(step) + Duration::from_millis(20)));
    // Most holds are longer than the spacing, so later ones did overtake.
    let overtaken = arrivals.windows(2).filter(|pair| pair[1] < pair[0]).count() as u64;
    assert!(overtaken > held / 2, "{overtaken} overtaken of {held} held");
}

#[test]
fn duplicates_come_after_the_first_and_are_counted() {
    let by = Duration::from_millis(5);
    let config = LinkConfig {
        duplicate: 0.2,
        reorder_by: by,
        ..LinkConfig::default()
    };
    let mut run = Run::new(config, 11);
    let n = 20_000;
    let (mut twice, mut later) = (0, 0);
    for _ in 0..n {
        let copies = run.offer(Duration::ZERO, b"copied");
        twice += u64::from(copies.len() == 2);
        later += u64::from(copies.iter().any(|copy| copy.at > run.start + by / 2));
        assert_eq!(copies[0].at, run.start);
        assert!(
            copies
                .iter()
                .all(|copy| copy.payload.is_none() && copy.at <= run.start + by)
        );
    }
    assert_binomial(twice, n, 0.2);
    assert_binomial(later, twice, 0.5);
    assert_eq!(run.link.stats().duplicated, twice);
    assert_eq!(run.link.stats().bytes_delivered, (n + twice) * 6);
}

#[test]
fn corruption_flips_few_bits_or_cuts() {
    let mut run = Run::new(
        LinkConfig {
            corrupt: 0.3,
            ..LinkConfig::default()
        },
        12,
    );
    let (n, payload) = (20_000, [0u8; 100]);
    let (mut changed, mut cut, mut flips) = (0, 0, [0u32; 9]);
    for _ in 0..n {
        let Some(damaged) = run.offer(Duration::ZERO, &payload).remove(0).payload else {
            continue;
        };
        assert_ne!(damaged, payload, "a changed payload differs");
        changed += 1;
        if damaged.len() < payload.len() {
            cut += 1;
            continue;
        }
        let flipped: u32 = damaged.iter().map(|byte| byte.count_ones()).sum();
        flips[flipped as usize] += 1;
    }
    assert_binomial(changed, n, 0.3);
    assert_binomial(cut, changed, 0.25);
    assert_eq!(run.link.stats().corrupted, changed);
    assert!(
        flips[1..].iter().all(|&count| count > 0) && flips[0] == 0,
        "{flips:?}"
    );
}

#[test]
fn corruption_of_a_single_byte_and_of_none() {
    let mut run = Run::new(
        LinkConfig {
            corrupt: 1.0,
            ..LinkConfig::default()
        },
        13,
    );
    for _ in 0..1000 {
        let damaged = run
            .offer(Duration::ZERO, &[0x5a])
            .remove(0)
            .payload
            .unwrap();
        assert!(damaged.is_empty() || (damaged.len() == 1 && damaged != [0x5a]));
        assert_eq!(run.offer(Duration::ZERO, &[]).remove(0).payload, None);
    }
    assert_eq!(run.link.stats().corrupted, 1000);
}

#[test]
fn an_mtu_hole_swallows_only_what_is_larger() {
    let mut run = Run::new(
        LinkConfig {
            mtu: Some(1392),
            ..LinkConfig::default()
        },
        14,
    );
    assert_eq!(run.offer(Duration::ZERO, &[0; 1392]).len(), 1);
    assert_eq!(run.offer(Duration::ZERO, &[0; 1393]).len(), 0);
    assert_eq!(run.link.stats().oversized, 1);
}

#[test]
fn an_outage_swallows_what_is_offered_inside() {
    let ms = Duration::from_millis;
    let outages = vec![ms(10)..ms(20), ms(30)..ms(31)];
    let mut run = Run::new(
        LinkConfig {
            delay: ms(15),
            outages,
            ..LinkConfig::default()
        },
        15,
    );
    let alive: Vec<u64> = (0..40)
        .filter(|&step| run.offer(ms(step), b"x").len() == 1)
        .collect();
    let expected: Vec<u64> = (0..10).chain(20..30).chain(31..40).collect();
    assert_eq!(alive, expected);
    assert_eq!(run.link.stats().outage, 11);
}

#[test]
fn rebindings_count_from_the_start() {
    let rebinds = vec![Duration::from_secs(1), Duration::from_secs(3)];
    let run = Run::new(
        LinkConfig {
            rebinds,
            ..LinkConfig::default()
        },
        16,
    );
    let counts: Vec<usize> = [0, 999, 1000, 2999, 3000, 9000]
        .map(|ms| run.link.rebindings(run.start + Duration::from_millis(ms)))
        .into();
    assert_eq!(counts, [0, 0, 1, 1, 2, 2]);
}

#[test]
fn a_change_in_mid_run_keeps_order() {
    let mut run = Run::new(
        LinkConfig {
            delay: Duration::from_millis(100),
            ..LinkConfig::default()
        },
        17,
    );
    let before = run.offer(Duration::ZERO, b"x")[0].at;
    run.link.set_config(LinkConfig::default());
    assert_eq!(run.offer(Duration::from_millis(1), b"x")[0].at, before);
    assert_eq!(
        run.offer(Duration::from_millis(200), b"x")[0].at,
        run.start + Duration::from_millis(200)
    );
}

#[test]
fn impairments_draw_apart() {
    // Switching on everything else leaves which datagrams are lost as it was.
    let pattern = |config: LinkConfig| -> Vec<bool> {
        let mut run = Run::new(config, 18);
        (0..2000)
            .map(|_| run.offer(Duration::ZERO, b"payload").is_empty())
            .collect()
    };
    let plain = lossy(Loss::Independent(0.2));
    let rich = LinkConfig {
        jitter: Duration::from_millis(3),
        reorder: 0.3,
        reorder_by: Duration::from_millis(9),
        duplicate: 0.3,
        corrupt: 0.3,
        ..plain.clone()
    };
    assert_eq!(pattern(plain), pattern(rich));
}

pub(super) struct Run {
    pub(super) start: Instant,
    pub(super) link: Link,
}

impl Run {
    pub(super) fn new(config: LinkConfig, seed: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            link: Link::new(config, start, Rng::new(seed)),
        }
    }

    pub(super) fn offer(&mut self, after: Duration, payload: &[u8]) -> Vec<Delivery> {
        let deliveries = self.link.offer(self.start + after, payload);
        assert_eq!(deliveries.is_empty(), deliveries.fate() != Fate::Delivered);
        deliveries.into_iter().collect()
    }
}

pub(super) fn assert_binomial(count: u64, n: u64, p: f64) {
    let (mean, deviation) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
    assert!(
        (count as f64 - mean).abs() < 6.0 * deviation,
        "{count} of {n} is not a share of {p}"
    );
}

pub(super) fn lossy(loss: Loss) -> LinkConfig {
    LinkConfig {
        loss,
        ..LinkConfig::default()
    }
}
