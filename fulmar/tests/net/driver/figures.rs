//! Figures of the driver and of the machine it runs on; measured when asked for.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use fulmar::driver::{self, Options, Socket};
use fulmar_proto::{Endpoint, Meta, Transmit};

use super::loopback;

/// How close the driver comes to [`driver::raw_limit`], with and without gathering. Run with
/// `cargo test --release -p fulmar --test net -- --ignored --nocapture figures`.
#[test]
#[ignore = "a measurement"]
fn measure_a_blast_through_two_drivers() {
    for _ in 0..2 {
        let limit = driver::raw_limit(Duration::from_secs(1)).unwrap();
        println!(
            "raw limit {}, {} segments, {:.1} merged, {:.1} % lost",
            limit.rate(),
            limit.segments,
            limit.merged,
            100.0 - 100.0 * limit.received as f64 / limit.sent as f64
        );
        for gather in [0, 50, 100] {
            let options = Options {
                gather: Duration::from_micros(gather),
                ..Options::default()
            };
            let far =
                driver::spawn_with(Socket::bind(loopback()).unwrap(), Blast::default(), options)
                    .unwrap();
            let near = driver::spawn(Socket::bind(loopback()).unwrap(), Blast::default()).unwrap();
            for rate in [1_000_000_000, 10_000_000_000, u64::MAX] {
                let (before, begin) = (far.stats(), Instant::now());
                let sent = near.stats();
                near.command((far.local_addr(), rate)).unwrap();
                thread::sleep(Duration::from_millis(700));
                near.command((far.local_addr(), 0)).unwrap();
                thread::sleep(Duration::from_millis(20));
                let (after, out, elapsed) =
                    (far.stats(), near.stats(), begin.elapsed().as_secs_f64());
                let got = (after.datagrams_in - before.datagrams_in) as f64;
                println!(
                    "gather {gather:>3} us, offered {:>5.1} Gbit/s: {:>5.2} Gbit/s, {:>4.1} % lost, {:.1} datagrams a turn, {:.1} a merged batch",
                    rate.min(999_000_000_000) as f64 / 1e9,
                    got * 1400.0 * 8.0 / elapsed / 1e9,
                    100.0 - 100.0 * got / (out.datagrams_out - sent.datagrams_out) as f64,
                    got / (after.turns - before.turns) as f64,
                    got / (after.batches_in - before.batches_in) as f64,
                );
            }
        }
    }
}

/// How late the poller ends a wait.
#[test]
#[ignore = "a measurement"]
fn measure_the_lateness_of_a_timer() {
    for micros in [50, 200, 1000, 5000] {
        let poller = polling::Poller::new().unwrap();
        let mut ready = polling::Events::new();
        let mut late: Vec<Duration> = (0..1000)
            .map(|_| {
                let due = Instant::now() + Duration::from_micros(micros);
                poller.wait_deadline(&mut ready, due).unwrap();
                Instant::now().saturating_duration_since(due)
            })
            .collect();
        late.sort();
        println!(
            "{micros:>5} us: median {:?} late, 99 % {:?}",
            late[500], late[990]
        );
    }
}

/// Full batches at a rate, forever.
#[derive(Debug, Default)]
struct Blast {
    to: Option<(SocketAddr, u64)>,
    due: Option<Instant>,
}

impl Endpoint for Blast {
    type Command = (SocketAddr, u64);
    type Event = ();

    fn handle_datagram(&mut self, _: Instant, _: Meta, payload: &mut [u8]) {
        std::hint::black_box(payload[0]);
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn handle_command(&mut self, now: Instant, command: (SocketAddr, u64)) {
        self.to = (command.1 > 0).then_some(command);
        self.due = self.to.map(|_| now);
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let ((to, rate), due) = (self.to?, self.due?);
        if due > now {
            return None;
        }
        buf.resize(segments * 1400, 0xa5);
        self.due = Some(
            due.max(now - Duration::from_millis(2))
                + Duration::from_secs_f64(buf.len() as f64 * 8.0 / rate as f64),
        );
        Some(Transmit {
            to,
            from_ip: None,
            ecn: None,
            len: buf.len(),
            segment: Some(1400),
        })
    }

    fn poll_event(&mut self) -> Option<()> {
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}
