//! The link grid: every loss, round trip, kind of session and kind of mischief, many seeds, every byte exact.
//!
//! `SEED=n` replays one seed; `GRID=long` runs five times as many. A nonce used for two packets panics.

use std::time::{Duration, Instant};

use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::Config;
use fulmar_proto::sim::{LinkConfig, Loss, Rng, Transfer};

const LOSS: [f64; 6] = [0.0, 0.01, 0.05, 0.20, 0.40, 0.60];
const RTT_MS: [u64; 4] = [1, 50, 140, 600];

#[derive(Clone, Copy, Debug)]
enum Mischief {
    None,
    Reorder,
    Duplicate,
    Corrupt,
    Bursts,
    Everything,
}

const MISCHIEF: [Mischief; 6] = [
    Mischief::None,
    Mischief::Reorder,
    Mischief::Duplicate,
    Mischief::Corrupt,
    Mischief::Bursts,
    Mischief::Everything,
];

/// Seeds that once failed.
const KNOWN_SEEDS: [u64; 0] = [];

fn link(loss: f64, rtt_ms: u64, mischief: Mischief, rng: &mut Rng) -> LinkConfig {
    let delay = Duration::from_micros(rtt_ms * 500);
    let mbit = [4, 20, 100, 400][rng.below(4) as usize];
    let rate = Bitrate::from_bits_per_sec(mbit * 1_000_000);
    let queue = (rate.bytes_in(delay * 2) as usize).max(16 * 1428);
    let mut link = LinkConfig {
        delay,
        rate: Some(rate),
        queue,
        ..LinkConfig::default()
    };
    link.loss = if loss == 0.0 {
        Loss::None
    } else {
        Loss::Independent(loss)
    };
    let all = matches!(mischief, Mischief::Everything);
    if all || matches!(mischief, Mischief::Reorder) {
        link.reorder = 0.05;
        link.reorder_by = delay.max(Duration::from_millis(5));
        link.jitter = delay / 4;
    }
    if all || matches!(mischief, Mischief::Duplicate) {
        link.duplicate = 0.05;
    }
    if all || matches!(mischief, Mischief::Corrupt) {
        link.corrupt = 0.02;
    }
    if matches!(mischief, Mischief::Bursts) && loss > 0.0 {
        link.loss = Loss::bursts(loss, 8.0);
    }
    link
}

fn case(seed: u64) -> (String, Transfer) {
    let mut rng = Rng::new(seed);
    let cell = seed as usize;
    let loss = LOSS[cell % LOSS.len()];
    let rtt_ms = RTT_MS[cell / LOSS.len() % RTT_MS.len()];
    let mischief = MISCHIEF[cell / (LOSS.len() * RTT_MS.len()) % MISCHIEF.len()];
    let encrypt = (cell / (LOSS.len() * RTT_MS.len() * MISCHIEF.len())).is_multiple_of(2);
    let size = [1, 1_000, 137_000, 700_000, 2_000_000][rng.below(5) as usize] + rng.below(3000);
    // Where six packets of ten are lost each way, a handshake within ten seconds, or ten probes in a row, is a
    // matter of luck; the protocol must be right there, not lucky.
    let patience = Config {
        request_timeout: Duration::from_secs(120),
        probe_timeout: Duration::from_secs(120),
        inactivity: Duration::from_secs(120),
        ..Config::default()
    };
    let transfer = Transfer {
        size,
        encrypt,
        up: link(loss, rtt_ms, mischief, &mut rng),
        down: link(loss, rtt_ms, mischief, &mut rng),
        sender: patience.clone(),
        receiver: patience,
        seed,
        limit: Duration::from_secs(1800),
    };
    (
        format!(
            "SEED={seed}: {size} bytes, loss {loss}, rtt {rtt_ms} ms, {mischief:?}, encrypt {encrypt}"
        ),
        transfer,
    )
}

#[test]
fn every_cell_is_exact() {
    let seeds: Vec<u64> = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => {
            let count = if std::env::var("GRID").is_ok_and(|grid| grid == "long") {
                11_520
            } else {
                576
            };
            KNOWN_SEEDS.into_iter().chain(0..count).collect()
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|at| {
                let mine: Vec<u64> = seeds.iter().copied().skip(at).step_by(threads).collect();
                scope.spawn(move || mine.into_iter().filter_map(run).collect::<Vec<_>>())
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a case panicked; its seed is above"))
            .collect()
    });
    println!("{} transfers", seeds.len());
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn run(seed: u64) -> Option<String> {
    let (name, transfer) = case(seed);
    let outcome = std::panic::catch_unwind(|| transfer.run(Instant::now()));
    let Ok(outcome) = outcome else {
        panic!("{name}")
    };
    let good = outcome.exact && outcome.sent == Some(Ok(())) && outcome.received == Some(Ok(()));
    // Nothing but the hash over the whole file guards a plain chunk against damage that slips past UDP's checksum:
    // such a file may fail, but it must not pass.
    let damaged = !transfer.encrypt && outcome.up.corrupted > 0;
    let refused = damaged && outcome.received != Some(Ok(())) && outcome.sent != Some(Ok(()));
    (!good && !refused).then(|| {
        let (sent, received, exact) = (outcome.sent, outcome.received, outcome.exact);
        format!(
            "{name}: sent {sent:?}, received {received:?}, exact {exact}\n  {:?}\n  {:?}",
            outcome.sender, outcome.receiver
        )
    })
}
