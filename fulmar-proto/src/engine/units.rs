//! Units that live in types: [`Bitrate`], [`Bytes`].
//!
//! Arithmetic saturates: a rate or a size beyond `u64` has no other meaning than "too much". They do *not* parse what
//! people type; that belongs to the configuration.

use std::fmt;
use std::time::Duration;

/// Bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitrate(u64);

impl Bitrate {
    /// From bits per second.
    pub const fn from_bits_per_sec(bits: u64) -> Self {
        Self(bits)
    }

    /// From bytes per second.
    pub const fn from_bytes_per_sec(bytes: u64) -> Self {
        Self(bytes.saturating_mul(8))
    }

    /// The rate at which `bytes` pass in `time`, rounded down; the greatest there is when `time` is zero.
    pub fn from_transfer(bytes: u64, time: Duration) -> Self {
        let bits = (u128::from(bytes) * 8_000_000_000).checked_div(time.as_nanos());
        Self(bits.map_or(u64::MAX, |bits| u64::try_from(bits).unwrap_or(u64::MAX)))
    }

    /// Bits per second.
    pub const fn bits_per_sec(self) -> u64 {
        self.0
    }

    /// Bytes per second, rounded down.
    pub const fn bytes_per_sec(self) -> u64 {
        self.0 / 8
    }

    /// How long `bytes` take at this rate; [`Duration::MAX`] at rate zero.
    pub fn time_for(self, bytes: u64) -> Duration {
        if self.0 == 0 {
            return Duration::MAX;
        }
        let nanos = u128::from(bytes) * 8_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Bytes that pass in `time`, rounded down, saturating.
    pub fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.0).saturating_mul(time.as_nanos()) / 8_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// `factor` times this rate, saturating; zero when `factor` is negative or not a number.
    #[must_use]
    pub fn scale(self, factor: f64) -> Self {
        Self((self.0 as f64 * factor) as u64)
    }

    /// The sum of two rates.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left of this rate beside `other`.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} bit/s", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kbit/s", bits / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} Mbit/s", bits / 1e6),
            _ => write!(f, "{:.2} Gbit/s", bits / 1e9),
        }
    }
}

/// A number of bytes, for people: displayed in binary units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The sum of two sizes.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = "";
        for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
            // What would be shown as 1024.0 of a unit is 1.0 of the next.
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        write!(f, "{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times_agree() {
        let rate = Bitrate::from_bytes_per_sec(2_000_000);
        assert_eq!(
            (rate.bits_per_sec(), rate.bytes_per_sec()),
            (16_000_000, 2_000_000)
        );
        assert_eq!(rate.time_for(1400), Duration::from_micros(700));
        assert_eq!(rate.bytes_in(Duration::from_micros(700)), 1400);
        assert_eq!(
            Bitrate::from_transfer(1400, Duration::from_micros(700)),
            rate
        );
    }

    #[test]
    fn extremes_saturate() {
        let most = Bitrate::from_bits_per_sec(u64::MAX);
        assert_eq!(Bitrate::from_bytes_per_sec(u64::MAX), most);
        assert_eq!(Bitrate::from_transfer(u64::MAX, Duration::ZERO), most);
        assert_eq!(
            Bitrate::from_transfer(u64::MAX, Duration::from_nanos(1)),
            most
        );
        assert_eq!(most.bytes_in(Duration::MAX), u64::MAX);
        assert_eq!(most.scale(2.0), most);
        assert_eq!(most.saturating_add(most), most);
        assert_eq!(Bitrate::default().saturating_sub(most), Bitrate::default());
        assert_eq!(Bitrate::default().time_for(1), Duration::MAX);
        assert_eq!(
            Bitrate::from_bits_per_sec(1).time_for(u64::MAX),
            Duration::from_nanos(u64::MAX)
        );
        assert_eq!(
            [-1.0, f64::NAN].map(|factor| most.scale(factor)),
            [Bitrate::default(); 2]
        );
        assert_eq!(
            Bitrate::from_bits_per_sec(1000).scale(1.25).bits_per_sec(),
            1250
        );
    }

    #[test]
    fn people_read_them() {
        let rates = [999, 1_500, 16_000_000, 2_340_000_000].map(|bits| Bitrate(bits).to_string());
        assert_eq!(
            rates,
            ["999 bit/s", "1.5 kbit/s", "16.0 Mbit/s", "2.34 Gbit/s"]
        );
        let sizes = [0, 1023, 1024, 1536 << 20, (1 << 20) - 1, u64::MAX]
            .map(|bytes| Bytes(bytes).to_string());
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "1.0 MiB", "16.0 EiB"]
        );
    }
}
