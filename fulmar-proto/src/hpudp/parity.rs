//! How many parity packets follow a block: the published table, or what ends the transfer soonest.
//!
//! Parity sent in advance never costs fewer packets than asking again for what was lost; it costs the same only
//! when it happens to fit. What it buys is time: no round trip, and no place in a heartbeat. So the adaptive rule
//! sends none while repair by request keeps up, covers what repair could not carry, and covers well the last blocks
//! of a file, whose repair would cost round trips with nothing else to send. This module does *not* measure loss.

use std::time::Duration;

use super::config::{DATAGRAM_MAX, NACKS};

/// The table of 6.2 for a block of `k` chunks at a reported loss between 0 and 1; rounded up, at least 2.
pub(super) fn table(loss: f64, k: u64) -> u8 {
    let percent = match loss {
        l if l < 0.005 => 2,
        l if l < 0.02 => 5,
        l if l < 0.05 => 10,
        l if l < 0.10 => 15,
        _ => 20,
    };
    ((k * percent).div_ceil(100)).max(2) as u8
}

/// What the adaptive rule looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// Raw loss, 0 to 1.
    pub(super) loss: f64,
    /// Sending rate, bytes a second.
    pub(super) rate: f64,
    pub(super) rtt: Duration,
    /// Time between heartbeats.
    pub(super) interval: Duration,
    /// Bytes the window, or the receiver's memory for open blocks, can hold.
    pub(super) room: f64,
    /// Chunks still unsent after this block.
    pub(super) left: u64,
}

/// Parity packets for a block of `k` chunks.
pub(super) fn adaptive(path: &Path, k: u64) -> u8 {
    let p = path.loss.clamp(0.0, 0.9);
    if p < 0.0005 {
        return 0;
    }
    let packets = path.rate / DATAGRAM_MAX as f64;
    let round = path.rtt + path.interval;
    // Repair by request needs a place in a heartbeat that arrives, for every loss and every loss of a repair.
    let asked = packets * p / (1.0 - p);
    let heard = NACKS as f64 / path.interval.as_secs_f64().max(1e-4) * (1.0 - p);
    // And it needs every block kept until the last of its chunks came: about log(100 losses) / log(1/p) rounds.
    let rounds = 1.0 + (100.0f64.ln() / (1.0 / p).ln());
    let kept = path.rate * round.as_secs_f64() * rounds;
    let tail = path.left as f64 <= packets * round.as_secs_f64() * 1.25;
    let spread = (k as f64 * p).sqrt() / (1.0 - p);
    let fair = k as f64 * p / (1.0 - p);
    let wanted = if tail {
        fair + 2.5 * spread + 1.0
    } else if asked < 0.5 * heard && kept < 0.5 * path.room {
        0.0
    } else {
        fair + 0.7 * spread
    };
    wanted.ceil().min((255 - k) as f64) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_6_2() {
        for (loss, m) in [
            (0.0, 2),
            (0.0049, 2),
            (0.005, 5),
            (0.02, 10),
            (0.05, 15),
            (0.1, 20),
            (1.0, 20),
        ] {
            assert_eq!(table(loss, 100), m, "{loss}");
        }
        assert_eq!(table(0.0, 1), 2, "the tail's minimum");
        assert_eq!(table(0.05, 31), 5, "rounded up");
    }

    #[test]
    fn none_on_a_clean_path_none_where_repair_keeps_up_enough_where_it_cannot() {
        let path = Path {
            loss: 0.0,
            rate: 12e6,
            rtt: Duration::from_millis(50),
            interval: Duration::from_millis(10),
            room: 24e6,
            left: 1_000_000,
        };
        assert_eq!(adaptive(&path, 100), 0);
        assert_eq!(adaptive(&Path { loss: 0.05, ..path }, 100), 0);
        let slow = Path {
            loss: 0.33,
            interval: Duration::from_millis(100),
            ..path
        };
        let m = f64::from(adaptive(&slow, 100));
        assert!(
            (100.0 + m) * 0.67 > 100.0,
            "a mean block must decode with {m}"
        );
        let tail = adaptive(
            &Path {
                loss: 0.05,
                left: 0,
                ..path
            },
            100,
        );
        assert!((9..=14).contains(&tail), "{tail}");
        assert!(
            u64::from(adaptive(
                &Path {
                    loss: 0.9,
                    left: 0,
                    ..path
                },
                100
            )) <= 155
        );
    }
}
