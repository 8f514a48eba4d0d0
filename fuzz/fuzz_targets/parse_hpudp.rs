//! Any bytes, read by every parser of HP-UDP. Run with `cargo +nightly fuzz run parse_hpudp corpora/parse_hpudp`.
#![no_main]

use fulmar_proto::sim::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::parse_hpudp(bytes));
