//! How much of a link a transfer fills, from its first packet to its last: figures in virtual time.
//!
//! A cell is a file of 200 MB over one round trip, loss and rate, with a drop-tail queue of one round trip (10 ms at
//! least). Its figure is payload over the time until the receiver has verified the file, as a share of what the link
//! carries: rate x (1 - loss). `GRID=long cargo test -p fulmar-proto --test hpudp_goodput -- --nocapture` prints all
//! thirty beside what no sender could exceed.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{CHUNK_SEALED, Config};
use fulmar_proto::sim::{LinkConfig, Loss, Outcome, Transfer};

#[derive(Clone, Copy, Debug)]
struct Cell {
    mbit: u64,
    rtt_ms: u64,
    loss: f64,
    size: u64,
}

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
            size: self.size,
            encrypt: true,
            up,
            down,
            sender: Config::default(),
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
        self.size as f64 * 8.0 / time / (self.mbit as f64 * 1e6 * (1.0 - self.loss))
    }

    /// What a sender could reach that knew the link's rate once its first packets were answered for, filled it from
    /// then on and never sent a packet in vain: the key exchange and the burst take a round trip each, the last packet
    /// half of one; headers take 76 bytes of 1428. `doubling`: that begins at 2 MB/s and doubles each round trip.
    fn bound(&self, doubling: bool) -> f64 {
        let rtt = self.rtt_ms as f64 / 1e3;
        let rate = self.mbit as f64 * 1e6 / 8.0 / 1428.0;
        let mut left = self.size as f64 / CHUNK_SEALED as f64 / (1.0 - self.loss);
        let (mut time, mut now) = (1.5 * rtt, 2e6 / 1400.0_f64);
        while now < rate && left > now * rtt {
            left -= now * rtt;
            time += rtt;
            now = if doubling { now * 2.0 } else { rate };
        }
        time += left / now.min(rate);
        self.size as f64 * 8.0 / time / (self.mbit as f64 * 1e6 * (1.0 - self.loss))
    }
}

/// The thirty cells of the target.
fn grid() -> Vec<Cell> {
    let mut cells = Vec::new();
    for mbit in [100, 1000] {
        for rtt_ms in [1, 50, 140] {
            for loss in [0.0, 0.001, 0.01, 0.05, 0.33] {
                let size = 200_000_000;
                cells.push(Cell {
                    mbit,
                    rtt_ms,
                    loss,
                    size,
                });
            }
        }
    }
    cells
}

#[test]
fn a_transfer_fills_the_link() {
    let filter = std::env::var("CELL").unwrap_or_default();
    let cells = grid();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    let mut lines: Vec<(usize, String)> = std::thread::scope(|scope| {
        let cells = &cells;
        let filter = &filter;
        let workers: Vec<_> = (0..threads)
            .map(|me| {
                scope.spawn(move || {
                    let mine = cells.iter().enumerate().skip(me).step_by(threads);
                    mine.filter(|(_, cell)| {
                        let name = format!("{}/{}/{}", cell.mbit, cell.rtt_ms, cell.loss);
                        name.contains(filter.as_str())
                    })
                    .map(|(at, cell)| (at, line(cell, seed)))
                    .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a cell failed; it is above"))
            .collect()
    });
    lines.sort();
    for (_, line) in lines {
        println!("{line}");
    }
}

fn line(cell: &Cell, seed: u64) -> String {
    let wall = Instant::now();
    let outcome = cell.run(seed);
    let sender = &outcome.sender;
    format!(
        "{:4} Mbit/s {:3} ms {:4.1} %: {:.3} of {:.3} ({:.3} doubling)   {} data {} parity {} again {} twice, {:.2} % overflow, {:.0} ms queue, {:.1} s",
        cell.mbit,
        cell.rtt_ms,
        cell.loss * 100.0,
        cell.share(&outcome),
        cell.bound(false),
        cell.bound(true),
        sender.data,
        sender.parities,
        sender.retransmitted,
        outcome.receiver.duplicates,
        outcome.up.queue_dropped as f64 * 100.0 / outcome.up.offered as f64,
        outcome.up.queue_delay_max.as_secs_f64() * 1e3,
        wall.elapsed().as_secs_f64(),
    )
}
