//! How datagrams are marked for the network: [`Dscp`], by name or number.
//!
//! It does *not* know what a network does with a mark; most remove it.

use std::fmt;
use std::str::FromStr;

/// A differentiated services code point (RFC 2474), 0 to 63. Prints as its name, or its number without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dscp(u8);

/// A text that is no code point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mark; write a name, such as le, cs1, af11 or ef, or a number from 0 to 63")]
pub struct NoDscp(String);

impl Dscp {
    /// Its six bits.
    pub fn value(self) -> u8 {
        self.0
    }
}

impl FromStr for Dscp {
    type Err = NoDscp;

    fn from_str(text: &str) -> Result<Self, NoDscp> {
        let name = text.to_ascii_lowercase();
        let named = NAMES.iter().find(|(known, _)| *known == name);
        let number = || {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse()
                .ok()
                .filter(|value: &u8| digits && *value <= MAX)
        };
        named
            .map(|&(_, value)| value)
            .or_else(number)
            .map(Self)
            .ok_or_else(|| NoDscp(text.to_owned()))
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

const MAX: u8 = 63;

/// The registry of names: RFC 2474, 2597, 3246, 5865, 8622.
const NAMES: &[(&str, u8)] = &[
    ("cs0", 0),
    ("df", 0),
    ("be", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, value) in [
            ("le", 1),
            ("CS1", 8),
            ("af11", 10),
            ("ef", 46),
            ("0", 0),
            ("63", 63),
        ] {
            assert_eq!(text.parse(), Ok(Dscp(value)));
        }
        for text in [
            "", "64", "-1", "+1", "256", "af14", "af51", "cs8", "af", "1 ", "0x1",
        ] {
            let sentence = text.parse::<Dscp>().map_err(|error| error.to_string());
            assert!(sentence.is_err_and(|it| it.contains("0 to 63")), "{text:?}");
        }
    }

    /// RFC 2474, 4.2.2.1 and RFC 2597, 6: how the names are made.
    #[test]
    fn the_table_follows_the_rules_of_its_families() {
        for class in 0..8u8 {
            assert_eq!(format!("cs{class}").parse(), Ok(Dscp(8 * class)));
        }
        for class in 1..=4u8 {
            for drop in 1..=3u8 {
                let name = format!("af{class}{drop}");
                assert_eq!(name.parse(), Ok(Dscp(8 * class + 2 * drop)));
            }
        }
    }

    proptest! {
        #[test]
        fn marks_read_back(value in 0..=MAX) {
            prop_assert_eq!(Dscp(value).to_string().parse(), Ok(Dscp(value)));
            prop_assert_eq!(value.to_string().parse(), Ok(Dscp(value)));
        }

        #[test]
        fn any_text_is_a_mark_or_a_sentence(text in "\\PC{0,8}") {
            if let Ok(mark) = text.parse::<Dscp>() {
                prop_assert!(mark.value() <= MAX);
            }
        }
    }
}
