//! Any bytes against the parsers of SRT: the corpus, the vectors of the text, and what comes of damaging both (SRT 22.1).
//!
//! What the parsers say of a vector is tested where they are; here nothing but that they survive, and understand what
//! they write.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fulmar_proto::sim::{Rng, hostile};

#[test]
fn the_corpus_is_read_and_written_back() {
    for (name, bytes) in corpus() {
        println!("{name}");
        hostile::parse_srt(&bytes);
    }
}

/// The fuzz target without a fuzzer.
#[test]
fn damaged_packets_are_read_and_written_back() {
    let corpus = corpus();
    let factor: u64 = std::env::var("HOSTILE").map_or(1, |n| n.parse().expect("a number"));
    for seed in 0..100_000 * factor {
        let mut rng = Rng::new(seed);
        let mut pick = |len: usize| rng.below(len as u64) as usize;
        let (name, bytes) = &corpus[pick(corpus.len())];
        let mut bytes = bytes.clone();
        match pick(4) {
            0 => bytes.truncate(pick(bytes.len() + 1)),
            1 => bytes.extend_from_slice(&corpus[pick(corpus.len())].1),
            2 => {
                // The tail of another behind the head of this one: blocks, runs and keys in a place not theirs.
                let other = &corpus[pick(corpus.len())].1;
                let at = 4 * pick(bytes.len().min(other.len()) / 4 + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at..]);
            }
            _ => {}
        }
        for _ in 0..pick(6) {
            if !bytes.is_empty() {
                let at = pick(bytes.len());
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ (1 << pick(8))][pick(6)];
            }
        }
        let survived = std::panic::catch_unwind(|| hostile::parse_srt(&bytes));
        assert!(survived.is_ok(), "seed {seed}, of {name}: {bytes:02x?}");
    }
}

#[test]
fn the_corpus_is_what_the_vectors_make_of_it() {
    let written: BTreeSet<_> = corpus().into_iter().collect();
    let vectors: BTreeSet<_> = vectors().into_iter().collect();
    assert!(vectors.len() > 150, "only {} vectors", vectors.len());
    let missing: Vec<_> = vectors.difference(&written).map(|(name, _)| name).collect();
    assert!(
        missing.is_empty(),
        "not in the corpus: {missing:?}; run write_the_corpus"
    );
}

#[test]
#[ignore = "writes into the source tree"]
fn write_the_corpus() {
    fs::create_dir_all(directory()).expect("a writable tree");
    for (name, bytes) in vectors() {
        fs::write(directory().join(name), bytes).expect("a writable tree");
    }
}

/// The inputs that fuzzing starts from, and those that once failed.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory()).expect("the corpus is committed");
    let mut out: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("a readable directory");
            let name = entry.file_name().into_string().expect("names are ASCII");
            (name, fs::read(entry.path()).expect("a readable file"))
        })
        .collect();
    out.sort();
    out
}

/// Packets of the text; of the packet filter and of Stream IDs, which are many and alike, a few.
fn vectors() -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for file in [
        "handshake",
        "data",
        "control",
        "encryption",
        "malformed",
        "fec",
    ] {
        let path = root().join(format!("specs/vectors/srt/{file}.txt"));
        let text = fs::read_to_string(path).expect("the vectors are committed");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for line in lines.take(if file == "fec" { 12 } else { usize::MAX }) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [name, _, hex] = fields[..] else {
                panic!("not name, clause and bytes: {line}")
            };
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
            let bytes = (0..hex.len()).step_by(2).map(byte).collect();
            out.push((format!("{file}-{name}"), bytes));
        }
    }
    out
}

fn directory() -> PathBuf {
    root().join("fuzz/corpora/parse_srt")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
