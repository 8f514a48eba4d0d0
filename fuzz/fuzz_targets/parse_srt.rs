//! Any bytes, read by every parser of SRT. Run with `cargo +nightly fuzz run parse_srt corpora/parse_srt`.
#![no_main]

use fulmar_proto::sim::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::parse_srt(bytes));
