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
