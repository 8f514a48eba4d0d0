//! How much of a link a transfer fills, from its first packet to its last: figures in virtual time.
//!
//! A cell is a file of 200 MB over one round trip, loss and rate, with a drop-tail queue of one round trip (10 ms at
//! least). Its figure is payload over the time until the receiver has verified the file, as a share of what the link
//! carries: rate x (1 - loss). `GRID=long cargo test -p fulmar-proto --test hpudp goodput -- --nocapture` prints all
//! thirty beside what no sender could exceed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulmar_proto::crypto::Secret;
use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{CHUNK_SEALED, Config};
use fulmar_proto::sim::{LinkConfig, Loss, Outcome, Transfer, World};

#[derive(Clone, Copy, Debug)]
struct Cell {
    mbit: u64,
    rtt_ms: u64,
    loss: f64,
    /// The receiver tells how the burst came. Where hosts bundle packets it cannot, and the rate has to be found.
    burst: bool,
}

/// Bytes of the file.
const SIZE: u64 = 200_000_000;

impl Cell {
    fn link(&self) -> (LinkConfig, LinkConfig) {
        let rate = Bitrate::from_bits_per_sec(self.mbit * 1_000_000);
        let down = LinkConfig {
            delay: Duration::from_micros(self.rtt_ms * 500),
            loss: if self.loss > 0.0 {
                Loss::Independent(self.loss)
            } else {
                Loss::None
            },
            ..LinkConfig::default()
        };
        let queue = rate.bytes_in(Duration::from_millis(self.rtt_ms.max(10))) as usize;
        let up = LinkConfig {
            rate: Some(rate),
            queue,
            ..down.clone()
        };
        (up, down)
    }

    fn run(&self, seed: u64) -> Outcome {
        let (up, down) = self.link();
        let transfer = Transfer {
            size: SIZE,
            encrypt: true,
            up,
            down,
            sender: Config {
                burst: if self.burst { 10 } else { 1 },
                ..Config::default()
            },
            receiver: Config::default(),
            seed,
            limit: Duration::from_secs(600),
        };
        let outcome = transfer.run(Instant::now());
        assert_eq!(
            (outcome.sent, outcome.received, outcome.exact),
            (Some(Ok(())), Some(Ok(())), true),
            "{self:?}, seed {seed}: {outcome:#?}"
        );
        outcome
    }

    fn share(&self, outcome: &Outcome) -> f64 {
        let time = outcome
            .received_after
            .expect("it was received")
            .as_secs_f64();
        SIZE as f64 * 8.0 / time / (self.mbit as f64 * 1e6 * (1.0 - self.loss))
    }

    /// The median of the seeds.
    fn median(&self) -> (f64, Outcome) {
        let mut runs: Vec<(f64, Outcome)> = seeds()
            .map(|seed| {
                let outcome = self.run(seed);
                (self.share(&outcome), outcome)
            })
            .collect();
        runs.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        runs.swap_remove(runs.len() / 2)
    }

    /// What a sender could reach that knew the link's rate once its first packets were answered for, filled it from
    /// then on and never sent a packet in vain: the key exchange and the burst take a round trip each, the last packet
    /// half of one; headers take 76 bytes of 1428. `doubling`: that begins at 2 MB/s and doubles each round trip.
    fn bound(&self, doubling: bool) -> f64 {
        let rtt = self.rtt_ms as f64 / 1e3;
        let rate = self.mbit as f64 * 1e6 / 8.0 / 1428.0;
        let mut left = SIZE as f64 / CHUNK_SEALED as f64 / (1.0 - self.loss);
        let (mut time, mut now) = (1.5 * rtt, 2e6 / 1400.0_f64);
        while now < rate && left > now * rtt {
            left -= now * rtt;
            time += rtt;
            now = if doubling { now * 2.0 } else { rate };
        }
        time += left / now.min(rate);
        SIZE as f64 * 8.0 / time / (self.mbit as f64 * 1e6 * (1.0 - self.loss))
    }
}

/// By default one whose requests are not lost.
fn seeds() -> std::ops::RangeInclusive<u64> {
    match std::env::var("SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("SEED is a number");
            seed..=seed
        }
        Err(_) if long() => 1..=3,
        Err(_) => 2..=2,
    }
}

fn long() -> bool {
    std::env::var("GRID").is_ok_and(|grid| grid == "long")
}

fn cell(mbit: u64, rtt_ms: u64, loss: f64) -> Cell {
    Cell {
        mbit,
        rtt_ms,
        loss,
        burst: true,
    }
}

/// All cells in two threads, each with what is asked of it.
fn measure(cells: &[(Cell, f64)]) {
    let line = |(cell, least): &(Cell, f64)| {
        let (share, outcome) = cell.median();
        let (sender, up) = (&outcome.sender, &outcome.up);
        println!(
            "{:4} Mbit/s {:3} ms {:4.1} %{}: {share:.3} of {:.3} ({:.3} doubling); {} parity, {} again, {} in vain, {:.2} % overflow, {:.0} ms queue",
            cell.mbit,
            cell.rtt_ms,
            cell.loss * 100.0,
            if cell.burst { "" } else { ", no burst" },
            cell.bound(false),
            cell.bound(true),
            sender.parities,
            sender.retransmitted,
            outcome.receiver.duplicates,
            up.queue_dropped as f64 * 100.0 / up.offered as f64,
            up.queue_delay_max.as_secs_f64() * 1e3,
        );
        assert!(share >= *least, "{cell:?}: {share:.3}, wanted {least}");
    };
    std::thread::scope(|scope| {
        for me in 0..2 {
            scope.spawn(move || cells.iter().skip(me).step_by(2).for_each(line));
        }
    });
}

#[test]
fn a_transfer_fills_the_link() {
    let mut cells = Vec::new();
    if long() {
        for mbit in [100, 1000] {
            for rtt_ms in [1, 50, 140] {
                for loss in [0.0, 0.001, 0.01, 0.05, 0.33] {
                    let it = cell(mbit, rtt_ms, loss);
                    // What start-up leaves of a short transfer is its bound.
                    let share = if loss > 0.1 { 0.91 } else { 0.955 };
                    cells.push((it, share * it.bound(false)));
                }
            }
        }
    } else {
        cells.extend([
            (cell(100, 50, 0.0), 0.93),
            (cell(100, 50, 0.05), 0.93),
            (cell(100, 50, 0.33), 0.92),
            (cell(1000, 1, 0.01), 0.93),
            (cell(1000, 50, 0.01), 0.86),
            (cell(1000, 50, 0.33), 0.86),
            (cell(1000, 140, 0.05), 0.75),
            (cell(1000, 140, 0.33), 0.75),
        ]);
    }
    measure(&cells);
}

#[test]
fn a_rate_is_found_without_the_burst() {
    let cells = [
        (100, 50, 0.0, 0.92),
        (100, 50, 0.05, 0.92),
        (1000, 50, 0.01, 0.70),
        (1000, 50, 0.33, 0.70),
    ];
    let cells = cells.map(|(mbit, rtt_ms, loss, least)| {
        let it = cell(mbit, rtt_ms, loss);
        (Cell { burst: false, ..it }, least)
    });
    measure(&cells);
}

/// Until the sender has the receiver's key, where every third packet is lost: the round trip, and what lost requests
/// and answers cost.
#[test]
fn a_session_opens_soon_though_requests_are_lost() {
    for (rtt_ms, median, late) in [(1, 30, 160), (50, 90, 210), (140, 180, 300)] {
        let (up, down) = cell(1000, rtt_ms, 0.33).link();
        let mut times: Vec<Duration> = (0..400)
            .map(|seed| {
                let start = Instant::now();
                let mut world = World::new(start, seed);
                let a = world.add(Config::default());
                let b = world.add(Config {
                    host_key: Some(Arc::new(Secret::from_bytes([1; 32]))),
                    ..Config::default()
                });
                world.net.connect(a, b, up.clone(), down.clone());
                let flow = world.send(a, b, 1000, true);
                let limit = Duration::from_secs(10);
                // The identity is what the sender learns with the key.
                world.run_until(limit, |world| world.flow(flow).identity.is_some());
                world.net.now() - start
            })
            .collect();
        times.sort();
        let (half, most) = (times[200], times[380]);
        println!("{rtt_ms:4} ms: opened after {half:.0?}, 95 % by {most:.0?}");
        assert!(half <= Duration::from_millis(median), "{half:?}");
        assert!(most <= Duration::from_millis(late), "{most:?}");
    }
}
