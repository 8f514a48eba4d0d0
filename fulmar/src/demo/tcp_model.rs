//! What one TCP stream gets from a link, by a published model instead of a measurement.
//!
//! The steady-state throughput equation of Padhye, Firoiu, Towsley and Kurose in the form of RFC 5348, section 3.1,
//! with its simplifications: every segment is acknowledged (b = 1) and the retransmission timer is four round trips.
//! It describes a loss-based (Reno-like) sender and gives the rate at which segments are *sent*, so it flatters TCP a
//! little. It does *not* model slow start, a receive window, lost acknowledgements, or senders that do not take
//! loss for congestion, such as BBR.

use std::time::Duration;

use fulmar_proto::engine::Bitrate;

/// Payload bytes a second that one TCP stream gets through a link of this rate (IP headers included), round trip and
/// share of lost packets (0 to 1), at most what the link carries.
pub fn throughput(rate: Bitrate, rtt: Duration, loss: f64) -> Bitrate {
    let carried = rate.bits_per_sec() as f64 * (1.0 - loss) * MSS / PACKET;
    let model = 8.0 * MSS / seconds_per_segment(rtt.as_secs_f64(), loss);
    // Without loss or delay the equation has no bound of its own; the link is one.
    Bitrate::from_bits_per_sec(carried.min(model) as u64)
}

/// The denominator of the equation, RFC 5348 section 3.1.
fn seconds_per_segment(rtt: f64, p: f64) -> f64 {
    let timeout = 4.0 * rtt;
    let fast_recovery = rtt * (2.0 * B * p / 3.0).sqrt();
    let timeouts = timeout * (3.0 * (3.0 * B * p / 8.0).sqrt()) * p * (1.0 + 32.0 * p * p);
    fast_recovery + timeouts
}

/// Bytes of payload in a full segment over Ethernet, with timestamps.
const MSS: f64 = 1448.0;
/// Bytes of the packet that carries it.
const PACKET: f64 = 1500.0;
/// Segments one acknowledgement covers.
const B: f64 = 1.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn mbit(rate: u64, rtt: u64, loss: f64) -> f64 {
        let rate = Bitrate::from_bits_per_sec(rate * 1_000_000);
        throughput(rate, Duration::from_millis(rtt), loss).bits_per_sec() as f64 / 1e6
    }

    /// By hand: 0.14 * sqrt(0.1 / 3) + 0.56 * 3 * sqrt(0.15 / 8) * 0.05 * 1.08 = 0.03798 s a segment.
    #[test]
    fn a_segment_at_140_ms_and_5_per_cent() {
        let got = mbit(100, 140, 0.05);
        assert!(
            (got - 8.0 * 1448.0 / 0.037_983 / 1e6).abs() < 0.001,
            "{got} Mbit/s"
        );
        assert!((0.3..0.6).contains(&got), "{got} Mbit/s");
    }

    /// For small losses the equation is the well-known MSS / RTT * sqrt(3 / 2p).
    #[test]
    fn small_losses_give_the_square_root_law() {
        let got = mbit(1_000_000, 100, 1e-6);
        let law = 8.0 * 1448.0 / 0.1 * (1.5e6f64).sqrt() / 1e6;
        assert!((got / law - 1.0).abs() < 0.01, "{got} against {law} Mbit/s");
    }

    #[test]
    fn a_clean_link_is_the_bound() {
        assert_eq!(mbit(100, 140, 0.0), 96.533_333);
        assert_eq!(mbit(100, 0, 0.01), 95.568);
        assert_eq!(mbit(100, 140, 1.0), 0.0);
    }

    #[test]
    fn more_loss_or_delay_is_never_faster() {
        let losses = [0.0, 0.001, 0.01, 0.05, 0.1, 0.33, 0.6, 1.0];
        for pair in losses.windows(2) {
            assert!(mbit(100, 140, pair[0]) >= mbit(100, 140, pair[1]));
            assert!(mbit(100, 50, pair[1]) >= mbit(100, 140, pair[1]));
        }
    }
}
