//! Numbers that wrap on the wire and never in memory: [`Wrapped`].
//!
//! A protocol widens a number where it parses and narrows it where it serialises; between the two every sequence
//! number and stream position is a plain `u64`. A `Wrapped` therefore has no order and no arithmetic. It does *not*
//! judge whether a number is plausible: widening always gives an answer, and the window it belongs to decides.

use std::fmt;

/// A number of `BITS` bits (1 to 64) as the wire carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wrapped<const BITS: u32>(u64);

impl<const BITS: u32> Wrapped<BITS> {
    /// From the wire; bits above `BITS` belong to other fields and are dropped.
    pub const fn new(raw: u64) -> Self {
        Self(raw & Self::MASK)
    }

    /// As the wire carries it.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The low bits of an engine number.
    pub const fn narrow(pos: u64) -> Self {
        Self::new(pos)
    }

    /// The engine number with these low bits that is closest to `near`; of two equally close the later one. Where
    /// the closest would be below zero or above `u64::MAX`, the closest that exists.
    pub const fn widen(self, near: u64) -> u64 {
        let ahead = self.0.wrapping_sub(near) & Self::MASK;
        // How far back the same number lies: the rest of a span, which with 64 bits does not fit when `ahead` is 0.
        let behind = (Self::MASK - ahead).saturating_add(1);
        match (near.checked_add(ahead), near.checked_sub(behind)) {
            (Some(later), Some(_)) if ahead <= behind => later,
            (_, Some(earlier)) => earlier,
            (Some(later), None) => later,
            // Cannot be: the two lie one span apart and all of 0..=MASK is a u64.
            (None, None) => self.0,
        }
    }

    const MASK: u64 = {
        assert!(1 <= BITS && BITS <= 64, "a wire number has 1 to 64 bits");
        u64::MAX >> (64 - BITS)
    };
}

impl<const BITS: u32> fmt::Debug for Wrapped<BITS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{BITS}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tries every candidate around `near` in arithmetic that cannot overflow.
    fn naive<const BITS: u32>(raw: u64, near: u64) -> u64 {
        let span = 1_i128 << BITS;
        let near = i128::from(near);
        let base = near - near.rem_euclid(span) + i128::from(raw);
        [base + span, base, base - span]
            .into_iter()
            .filter_map(|candidate| u64::try_from(candidate).ok())
            .min_by_key(|&candidate| (i128::from(candidate) - near).abs())
            .expect("one of three neighbours is a u64")
    }

    fn agrees<const BITS: u32>(raw: u64, near: u64) -> Result<(), TestCaseError> {
        let wrapped = Wrapped::<BITS>::new(raw);
        let wide = wrapped.widen(near);
        prop_assert_eq!(
            wide,
            naive::<BITS>(wrapped.raw(), near),
            "{:?} near {}",
            wrapped,
            near
        );
        prop_assert_eq!(Wrapped::<BITS>::narrow(wide), wrapped);
        Ok(())
    }

    /// Anything, with the edges and the surroundings of wrap points made likely.
    fn any_near() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0..=100_000_u64,
            u64::MAX - 100_000..=u64::MAX,
            (0..64_u32, -2..=2_i64).prop_map(|(bit, off)| (1_u64 << bit).wrapping_add_signed(off)),
        ]
    }

    proptest! {
        #[test]
        fn widening_finds_the_closest(raw in any_near(), near in any_near()) {
            agrees::<1>(raw, near)?;
            agrees::<16>(raw, near)?;
            agrees::<26>(raw, near)?;
            agrees::<31>(raw, near)?;
            agrees::<32>(raw, near)?;
            agrees::<63>(raw, near)?;
            agrees::<64>(raw, near)?;
        }

        #[test]
        fn what_was_narrowed_within_half_a_span_comes_back(pos in any_near(), off in -32_768..32_768_i64) {
            if let Some(near) = pos.checked_add_signed(off) {
                prop_assert_eq!(Wrapped::<16>::narrow(pos).widen(near), pos);
            }
        }
    }

    #[test]
    fn edges() {
        assert_eq!(Wrapped::<16>::new(0x1_0005).raw(), 5);
        assert_eq!(
            Wrapped::<16>::new(0xffff).widen(0),
            0xffff,
            "nothing lies below zero"
        );
        assert_eq!(Wrapped::<16>::new(0xffff).widen(0x1_0000), 0xffff);
        assert_eq!(Wrapped::<16>::new(0).widen(0xffff), 0x1_0000);
        assert_eq!(
            Wrapped::<16>::new(0x8000).widen(0x1_0000),
            0x1_8000,
            "of two the later"
        );
        assert_eq!(
            Wrapped::<16>::new(0).widen(u64::MAX),
            u64::MAX - 0xffff,
            "nothing lies above"
        );
        assert_eq!(Wrapped::<64>::new(7).widen(u64::MAX), 7);
    }
}
