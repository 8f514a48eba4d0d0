//! Forward error correction at the size HP-UDP uses it: blocks of 100 shards of 1368 bytes.
//!
//! One iteration is one block, so nanoseconds per data packet are a hundredth of the time shown.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use fulmar_proto::fec::{BlockDecoder, BlockEncoder, Scheme, Scratch};

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 2, 5, 20, 60])]
fn rs8_encode(bencher: Bencher, m: u8) {
    let block = block();
    let mut encoder = BlockEncoder::new(RS8, SHARD);
    let mut out = Vec::new();
    per_block(bencher)
        .bench_local(|| encoder.parities(0, m, black_box(&block), black_box(&mut out)));
}

#[divan::bench(args = [1, 2, 5, 20, 60])]
fn rs8_repair(bencher: Bencher, lost: u8) {
    repair(bencher, RS8, lost);
}

/// What a block costs a receiver when nothing is lost.
#[divan::bench]
fn rs8_insert(bencher: Bencher) {
    let block = block();
    let mut memory = Vec::new();
    per_block(bencher).bench_local(|| {
        let mut decoder = BlockDecoder::new(RS8, SHARD, std::mem::take(&mut memory));
        for (index, chunk) in (0..).zip(block.chunks(SHARD)) {
            decoder.insert(index, black_box(chunk));
        }
        memory = decoder.into_buffer();
    });
}

#[divan::bench]
fn xor_encode(bencher: Bencher) {
    let block = block();
    let mut encoder = BlockEncoder::new(XOR, SHARD);
    let mut out = Vec::new();
    per_block(bencher)
        .bench_local(|| encoder.parities(0, 1, black_box(&block), black_box(&mut out)));
}

#[divan::bench]
fn xor_repair(bencher: Bencher) {
    repair(bencher, XOR, 1);
}

fn repair(bencher: Bencher, scheme: Scheme, lost: u8) {
    let block = block();
    let mut parities = Vec::new();
    BlockEncoder::new(scheme, SHARD).parities(0, lost, &block, &mut parities);
    let mut scratch = Scratch::default();
    per_block(bencher)
        .with_inputs(|| {
            let mut decoder = BlockDecoder::new(scheme, SHARD, Vec::new());
            // Losses spread over the block.
            let kept = (0..)
                .zip(block.chunks(SHARD))
                .filter(|(j, _)| j * 37 % K >= u16::from(lost));
            for (index, chunk) in kept.chain((K..).zip(parities.chunks(SHARD))) {
                decoder.insert(index, chunk);
            }
            decoder
        })
        .bench_local_refs(|decoder| {
            assert_eq!(decoder.repair(&mut scratch).len(), usize::from(lost))
        });
}

fn per_block<'a, 'b>(bencher: Bencher<'a, 'b>) -> Bencher<'a, 'b> {
    bencher
        .counter(ItemsCount::new(K))
        .counter(BytesCount::new(usize::from(K) * SHARD))
}

fn block() -> Vec<u8> {
    (0..usize::from(K) * SHARD)
        .map(|i| (i * i / 7) as u8)
        .collect()
}

const K: u16 = 100;
const SHARD: usize = 1368;
const RS8: Scheme = Scheme::Rs8 { k: K };
const XOR: Scheme = Scheme::Xor { k: K };
