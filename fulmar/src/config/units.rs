//! Numbers with units, as people write them: `10M`, `1.5Gbit`, `200ms`, `2KiB`, `5%`.
//!
//! Arithmetic is exact: the digits are read as an integer of billionths and multiplied by the unit, never through a
//! floating-point number, so `0.1Gbit` is 100,000,000 bit/s to the bit. It does *not* guess: a number without a unit
//! is refused wherever two readings are common (`10` is no duration), and so is a unit in the wrong case (`10m`).

use std::time::Duration;

use fulmar_proto::engine::{Bitrate, Bytes};

/// A text that is not the quantity it should be. Prints as one sentence with the text and the allowed forms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is {problem}; write {allowed}")]
pub struct UnitError {
    text: String,
    problem: &'static str,
    allowed: &'static str,
}

/// Reads a rate in bits per second: `10M`, `1.5Gbit`, `800kbit/s`, or in bytes per second: `2MB/s`, `1MiB/s`. Zero is
/// refused, for nothing moves at it.
///
/// # Errors
///
/// One sentence with the text and the allowed forms.
pub fn parse_bitrate(text: &str) -> Result<Bitrate, UnitError> {
    let error = |problem| UnitError {
        text: text.to_owned(),
        problem,
        allowed: RATE_FORMS,
    };
    let (number, unit) = split(text).ok_or_else(|| error("no rate"))?;
    let unit = unit.strip_suffix("/s").unwrap_or(unit);
    let scale = scale_of(unit, RATE_UNITS).ok_or_else(|| error("no rate"))?;
    match number.times(scale) {
        Some(0) => Err(error("a rate of zero")),
        Some(bits) => Ok(Bitrate::from_bits_per_sec(bits)),
        None => Err(error("too large a rate")),
    }
}

/// Reads a count of bytes: `2KiB`, `50MiB`, `10MB`, `1.5G`, `1400`.
///
/// # Errors
///
/// One sentence with the text and the allowed forms.
pub fn parse_bytes(text: &str) -> Result<Bytes, UnitError> {
    let error = |problem| UnitError {
        text: text.to_owned(),
        problem,
        allowed: BYTES_FORMS,
    };
    let (number, unit) = split(text).ok_or_else(|| error("no size"))?;
    let scale = scale_of(unit, BYTES_UNITS).ok_or_else(|| error("no size"))?;
    number
        .times(scale)
        .map(Bytes)
        .ok_or_else(|| error("too large a size"))
}

/// Reads a time: `200ms`, `1.5s`, `50us`, `2min`; `0` needs no unit.
///
/// # Errors
///
/// One sentence with the text and the allowed forms.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let error = |problem| UnitError {
        text: text.to_owned(),
        problem,
        allowed: DURATION_FORMS,
    };
    let (number, unit) = split(text).ok_or_else(|| error("no duration"))?;
    if unit.is_empty() && number.billionths == 0 {
        return Ok(Duration::ZERO);
    }
    let scale = scale_of(unit, DURATION_UNITS).ok_or_else(|| error("no duration"))?;
    number
        .times(scale)
        .map(Duration::from_nanos)
        .ok_or_else(|| error("too long a duration"))
}

/// Reads a share of a whole, 0 to 1: `5%`, `0.05`.
///
/// # Errors
///
/// One sentence with the text and the allowed forms.
pub fn parse_fraction(text: &str) -> Result<f64, UnitError> {
    let error = |problem| UnitError {
        text: text.to_owned(),
        problem,
        allowed: FRACTION_FORMS,
    };
    let (number, unit) = split(text).ok_or_else(|| error("no share"))?;
    let whole = match unit {
        "%" => 100 * BILLION,
        "" => BILLION,
        _ => return Err(error("no share")),
    };
    if number.billionths > whole {
        return Err(error("more than the whole"));
    }
    Ok(number.billionths as f64 / whole as f64)
}

/// A decimal number, exact to nine places.
struct Decimal {
    billionths: u128,
}

impl Decimal {
    /// The product with `scale`, rounded down; `None` when it does not fit.
    fn times(&self, scale: u64) -> Option<u64> {
        let product = self.billionths.checked_mul(u128::from(scale))?;
        u64::try_from(product / BILLION).ok()
    }
}

/// Splits `1.5Gbit` into 1.5 and `Gbit`; `None` when no number stands first, or one with more digits than any
/// quantity here needs.
fn split(text: &str) -> Option<(Decimal, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || whole.len() > 20 {
        return None;
    }
    let scale = 10u128.pow(9 - u32::try_from(fraction.len()).ok()?);
    let whole: u128 = whole.parse().ok()?;
    // A second point would be left in the fraction, and is no digit.
    let fraction: u128 = fraction.parse().ok()?;
    Some((
        Decimal {
            billionths: whole * BILLION + fraction * scale,
        },
        unit.trim_start(),
    ))
}

fn scale_of(unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|&(_, scale)| scale)
}

const BILLION: u128 = 1_000_000_000;

const RATE_FORMS: &str = "a number and a unit, such as 10M, 1.5Gbit, 800kbit/s (bits, powers of 1000) or 2MB/s, 1MiB/s (bytes)";
const BYTES_FORMS: &str = "a number and a unit, such as 50MiB, 2KiB (powers of 1024), 10MB, 1.5G (powers of 1000) or plain bytes";
const DURATION_FORMS: &str = "a number and one of us, ms, s, min, h, such as 200ms or 1.5s";
const FRACTION_FORMS: &str = "0% to 100%, such as 5%, or 0 to 1, such as 0.05";

/// Bits in one of each unit; `/s` is stripped before.
const RATE_UNITS: &[(&str, u64)] = &[
    ("bit", 1),
    ("k", 1_000),
    ("K", 1_000),
    ("kbit", 1_000),
    ("Kbit", 1_000),
    ("M", 1_000_000),
    ("Mbit", 1_000_000),
    ("G", 1_000_000_000),
    ("Gbit", 1_000_000_000),
    ("B", 8),
    ("kB", 8_000),
    ("KB", 8_000),
    ("MB", 8_000_000),
    ("GB", 8_000_000_000),
    ("KiB", 8 << 10),
    ("MiB", 8 << 20),
    ("GiB", 8 << 30),
];

/// Bytes in one of each unit.
const BYTES_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("k", 1_000),
    ("K", 1_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Nanoseconds in one of each unit.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_manual_shows() {
        assert_eq!(parse_bitrate("10M").unwrap().bits_per_sec(), 10_000_000);
        assert_eq!(
            parse_bitrate("1.5Gbit").unwrap().bits_per_sec(),
            1_500_000_000
        );
        assert_eq!(parse_bitrate("800kbit/s").unwrap().bits_per_sec(), 800_000);
        assert_eq!(parse_bitrate("2MB/s").unwrap().bytes_per_sec(), 2_000_000);
        assert_eq!(parse_bitrate("1MiB/s").unwrap().bytes_per_sec(), 1 << 20);
        assert_eq!(parse_bytes("2KiB").unwrap(), Bytes(2048));
        assert_eq!(parse_bytes("1400").unwrap(), Bytes(1400));
        assert_eq!(parse_bytes("1.5G").unwrap(), Bytes(1_500_000_000));
        assert_eq!(parse_bytes("50 MiB").unwrap(), Bytes(50 << 20));
        assert_eq!(parse_duration("200ms").unwrap(), Duration::from_millis(200));
        assert_eq!(parse_duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(parse_duration("0").unwrap(), Duration::ZERO);
        assert_eq!(parse_fraction("5%").unwrap(), 0.05);
        assert_eq!(parse_fraction("0.05").unwrap(), 0.05);
        assert_eq!(parse_fraction("100%").unwrap(), 1.0);
        // Through a float, 0.1 G would be one bit off at some scale or other.
        assert_eq!(
            parse_bitrate("0.1Gbit").unwrap().bits_per_sec(),
            100_000_000
        );
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "", "M", "10", "10m", "10Mb", "-1M", "1e6", "1..5M", ".5M", "5.M", "10 M bit", "0M",
            "NaN", "1_000M",
        ] {
            assert!(parse_bitrate(text).is_err(), "{text:?}");
        }
        for text in [
            "",
            "KiB",
            "-1",
            "2kib",
            "99999999999TiB",
            "1.0000000001G",
            "340282366920938463463374607431768211456",
        ] {
            assert!(parse_bytes(text).is_err(), "{text:?}");
        }
        for text in ["", "10", "10 m", "1d", "1S", "99999999999h"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        for text in ["", "101%", "1.1", "5", "-5%", "5 per cent"] {
            assert!(parse_fraction(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_error_names_the_text_and_the_forms() {
        let sentence = parse_bitrate("10m").unwrap_err().to_string();
        assert!(
            sentence.contains("\"10m\"") && sentence.contains("1.5Gbit"),
            "{sentence}"
        );
        assert!(!sentence.contains('\n'), "{sentence}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_a_sentence(text in "\\PC{0,40}") {
            let _ = (parse_bitrate(&text), parse_bytes(&text), parse_duration(&text), parse_fraction(&text));
        }

        #[test]
        fn digits_and_units_never_overflow(text in "[0-9.]{1,60}(k|M|G|T|KiB|TiB|h|ms|%)?") {
            let _ = (parse_bitrate(&text), parse_bytes(&text), parse_duration(&text), parse_fraction(&text));
        }

        /// The naive twin: whole and thousandths, in plain integers.
        #[test]
        fn agrees_with_integers(whole in 0u64..9_000, thousandths in 0u64..1000, unit in 0usize..BYTES_UNITS.len()) {
            let (name, scale) = BYTES_UNITS[unit];
            let want = (u128::from(whole) * 1000 + u128::from(thousandths)) * u128::from(scale) / 1000;
            let got = parse_bytes(&format!("{whole}.{thousandths:03}{name}")).unwrap();
            prop_assert_eq!(u128::from(got.0), want);
        }

        #[test]
        fn fractions_stay_within_one(text in "[0-9]{1,3}(\\.[0-9]{1,4})?%?") {
            if let Ok(share) = parse_fraction(&text) {
                prop_assert!((0.0..=1.0).contains(&share));
            }
        }
    }
}
