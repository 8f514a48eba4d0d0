//! XOR parity: the sum of all shards, which is also any one of them given the rest and the parity.
//!
//! Does not know which shards it adds up.

/// Writes the XOR of all shards of `out.len()` bytes in `shards` to `out`.
pub(super) fn sum(shards: &[u8], out: &mut [u8]) {
    out.fill(0);
    for shard in shards.chunks_exact(out.len()) {
        for (sum, byte) in out.iter_mut().zip(shard) {
            *sum ^= byte;
        }
    }
}

/// A running XOR of shards that differ in length, each padded with zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    bytes: Vec<u8>,
}

impl Sum {
    /// Of nothing, with room for shards of up to `len` bytes.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len];
        Self { bytes }
    }

    /// Adds a shard; what is beyond the room is left out.
    pub fn add(&mut self, shard: &[u8]) {
        for (sum, byte) in self.bytes.iter_mut().zip(shard) {
            *sum ^= byte;
        }
    }

    /// The sum so far, as long as the room.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Back to nothing.
    pub fn clear(&mut self) {
        self.bytes.fill(0);
    }
}
