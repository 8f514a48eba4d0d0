//! How many parity packets follow a block: the published table, or what ends the transfer soonest.
//!
//! Parity sent in advance never costs fewer packets than asking again for what was lost; it costs the same only
//! when it happens to fit. What it buys is time: no round trip, and no place in a list of missing chunks. So the
//! adaptive rule sends none in the middle of a transfer, unless the receiver's list is too short to ask for everything,
//! and covers the end, where a repair costs a round trip with nothing else to send, by what that round trip is worth.
//! This module does *not* measure loss.

use std::time::Duration;

use super::config::NACKS;

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

/// Packets to send so that `need` of them arrive, at the end of a transfer: one more costs the time of one packet, and
/// saves a round trip, worth `flight` packets, whenever exactly it was what lacked. At least `need`, at most 255.
pub(super) fn enough(need: u64, loss: f64, flight: f64) -> u64 {
    let p = loss.clamp(0.0, 0.9);
    let q = 1.0 - p;
    let mut n = need.min(255);
    // Probability that one too few of n arrive: at first n p q^(n-1).
    let mut short = n as f64 * p * q.powi(n as i32 - 1);
    while n < 255 && (n as f64 * q < need as f64 || flight * q * short >= 1.0) {
        n += 1;
        short *= p * n as f64 / (n - need + 1) as f64;
    }
    n
}

/// Parity for a block of `k` chunks in the middle of a transfer to a receiver that names at most 166 missing chunks in
/// a heartbeat: none while that suffices for repair on request at `packets` a second, the mean block's otherwise.
pub(super) fn unasked(loss: f64, packets: f64, interval: Duration, k: u64) -> u8 {
    let p = loss.clamp(0.0, 0.9);
    // Repair by request needs a place in a heartbeat that arrives, for every loss and every loss of a repair.
    let asked = packets * p / (1.0 - p);
    let heard = NACKS as f64 / interval.as_secs_f64().max(1e-4) * (1.0 - p);
    if asked < 0.5 * heard {
        return 0;
    }
    let spread = (k as f64 * p).sqrt() / (1.0 - p);
    let wanted = k as f64 * p / (1.0 - p) + 0.7 * spread;
    wanted.ceil().min((255 - k) as f64) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn enough_is_what_a_round_trip_is_worth() {
        assert_eq!(enough(100, 0.0, 1e4), 100, "none on a clean path");
        assert_eq!(enough(100, 0.001, 10_000.0), 103);
        assert_eq!(
            enough(1, 0.5, 1000.0),
            9,
            "a tenth copy would save the round trip once in 1024"
        );
        assert_eq!(enough(255, 0.9, 1e6), 255);
        assert_eq!(enough(0, 0.5, 1e6), 0);
    }

    proptest! {
        #[test]
        fn one_more_would_not_pay_and_one_less_would_lose(
            need in 1u64..100, loss in 0.0f64..0.5, flight in 1.0f64..20_000.0,
        ) {
            // The twin: the chance that fewer than `need` of n arrive, summed up term by term.
            let fails = |n: u64| {
                let mut chance = 0.0;
                for came in 0..need {
                    let ways: f64 = (0..came).map(|i| (n - i) as f64 / (came - i) as f64).product();
                    chance += ways * (1.0 - loss).powi(came as i32) * loss.powi((n - came) as i32);
                }
                chance
            };
            let n = enough(need, loss, flight);
            prop_assume!(n < 255);
            prop_assert!(n as f64 * (1.0 - loss) >= need as f64);
            prop_assert!(flight * (fails(n) - fails(n + 1)) < 1.0 + 1e-6);
            let fair = (n - 1) as f64 * (1.0 - loss) >= need as f64;
            prop_assert!(n == need || !fair || flight * (fails(n - 1) - fails(n)) >= 1.0 - 1e-6);
        }
    }

    #[test]
    fn a_short_list_is_helped_out() {
        let fast = Duration::from_millis(10);
        assert_eq!(unasked(0.05, 8500.0, fast, 100), 0);
        let m = f64::from(unasked(0.33, 8500.0, fast * 10, 100));
        assert!(
            (100.0 + m) * 0.67 > 100.0,
            "a mean block must decode with {m}"
        );
    }
}
