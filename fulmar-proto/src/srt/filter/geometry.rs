//! Places and groups (13.3).
//!
//! It does *not* hold packets. Numbers count from the ISN: `n` 0 is the first packet of the direction.

use super::Config;

/// One group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GroupId {
    Row(u64),
    Column { column: u16, matrix: u64 },
}

/// Which packets belong to which groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {}

impl Geometry {
    pub(crate) fn new(config: &Config) -> Self {
        unimplemented!()
    }

    /// The row and the column that a packet is in; fewer before a column begins (13.3.4).
    pub(crate) fn groups_of(&self, n: u64) -> impl Iterator<Item = GroupId> + use<> {
        std::iter::empty()
    }

    /// The packets of a group in order.
    pub(crate) fn members(&self, group: GroupId) -> impl Iterator<Item = u64> + use<> {
        std::iter::empty()
    }

    /// The last of them: the number of the control packet (13.4.1).
    pub(crate) fn last(&self, group: GroupId) -> u64 {
        unimplemented!()
    }

    /// The groups that a packet is the last of, the column first (13.4.4).
    pub(crate) fn ends_at(&self, n: u64) -> impl Iterator<Item = GroupId> + use<> {
        std::iter::empty()
    }
}
