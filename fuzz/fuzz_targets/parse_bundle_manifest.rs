//! Any bytes, read as the manifest of a bundle. Run with
//! `cargo +nightly fuzz run parse_bundle_manifest corpora/parse_bundle_manifest`.
#![no_main]

use fulmar::bundle::read_and_write_back;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| read_and_write_back(bytes));
