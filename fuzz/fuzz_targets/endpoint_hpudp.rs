//! Two HP-UDP endpoints and an attacker, directed by any bytes. Run with
//! `cargo +nightly fuzz run endpoint_hpudp corpora/endpoint_hpudp`.
#![no_main]

use std::time::Instant;

use fulmar_proto::sim::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::endpoint_hpudp(Instant::now(), bytes));
