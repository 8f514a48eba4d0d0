//! Manifests: what is written is read, and what may not be is refused.
#![allow(
    clippy::unwrap_used,
    clippy::single_range_in_vec_init,
    clippy::reversed_empty_ranges,
    clippy::type_complexity
)]

use std::collections::{BTreeMap, BTreeSet};

use fulmar_proto::sim::Rng;
use proptest::prelude::*;

use super::*;

const NOW: Modified = Modified {
    seconds: 1_700_000_000,
    nanos: 999_999_999,
};

fn file(size: u64) -> Kind {
    Kind::File { size, data: None }
}

/// Entries by depth, name and kind.
fn build(entries: &[(usize, &str, Kind)]) -> Result<Manifest, ManifestError> {
    let mut builder = Builder::default();
    for (depth, name, kind) in entries {
        builder.push(*depth, name.as_bytes(), 0o644, NOW, kind.clone())?;
    }
    builder.finish()
}

fn sparse(size: u64, data: &[Range<u64>]) -> Kind {
    Kind::File {
        size,
        data: Some(data.into()),
    }
}

#[test]
fn the_vector_of_the_specification() {
    // The bundle of specs/bundle.md, 8.
    let mut builder = Builder::default();
    let time = Modified {
        seconds: 1,
        nanos: 2,
    };
    builder.push(0, b"d", 0o755, time, Kind::Directory).unwrap();
    builder.push(1, b"a", 0o644, time, file(3)).unwrap();
    builder
        .push(1, b"s", 0o600, time, sparse(1 << 20, &[4096..8192]))
        .unwrap();
    let bytes = builder.finish().unwrap().encode();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "0001640 0ed030202".replace(' ', "")
            + "010161 01a4030202 03".replace(' ', "").as_str()
            + "010173 02800302 02808040 01802080 20"
                .replace(' ', "")
                .as_str()
    );
    let manifest = Manifest::decode(&bytes).unwrap();
    assert_eq!(manifest.content_len(), 3 + 4096);
    assert_eq!(manifest.path(2), "d/s");
}

#[test]
fn what_may_not_stand_is_refused() {
    use ManifestError as E;
    let dir = || Kind::Directory;
    let deep: Vec<_> = (0..2001).map(|depth| (depth, "a", dir())).collect();
    let cases: Vec<(Vec<(usize, &str, Kind)>, ManifestError)> = vec![
        (vec![], E::Empty),
        (vec![(1, "a", dir())], E::Depth),
        (vec![(0, "a", file(1)), (1, "b", file(1))], E::Depth),
        (vec![(0, "a", dir()), (2, "b", dir())], E::Depth),
        (vec![(0, "a", dir()), (0, "a", file(1))], E::Order),
        (vec![(0, "b", dir()), (0, "a", dir())], E::Order),
        (
            vec![
                (0, "a", dir()),
                (1, "x", dir()),
                (2, "z", dir()),
                (1, "x", file(0)),
            ],
            E::Order,
        ),
        (vec![(0, "..", dir())], E::Name(NameError::Dots)),
        (vec![(0, "", dir())], E::Name(NameError::Empty)),
        (vec![(0, "a/b", dir())], E::Name(NameError::Separator)),
        (vec![(0, "/etc", dir())], E::Name(NameError::Separator)),
        (vec![(0, "a\\b", dir())], E::Name(NameError::Separator)),
        (vec![(0, "a\0", dir())], E::Name(NameError::Character)),
        (vec![(0, "a\n", dir())], E::Name(NameError::Character)),
        (
            vec![(0, ".x.0123456789abcdef.part", file(1))],
            E::Name(NameError::Temporary),
        ),
        (deep, E::Path),
        (vec![(0, "a", file(CONTENT_MAX + 1))], E::Content),
        (
            vec![(0, "a", file(CONTENT_MAX)), (0, "b", file(1))],
            E::Content,
        ),
        (vec![(0, "a", file(u64::MAX))], E::Content),
        (vec![(0, "a", sparse(u64::MAX, &[]))], E::Content),
        (vec![(0, "a", sparse(9, &[5..4]))], E::Data),
        (vec![(0, "a", sparse(9, &[4..4]))], E::Data),
        (vec![(0, "a", sparse(9, &[0..3, 3..5]))], E::Data),
        (vec![(0, "a", sparse(9, &[5..10]))], E::Data),
        (vec![(0, "a", sparse(9, &[0..9]))], E::Data),
        (vec![(0, "a", sparse(0, &[]))], E::Data),
    ];
    for (entries, error) in cases {
        assert_eq!(build(&entries), Err(error), "{entries:?}");
    }
    let mut builder = Builder::default();
    let push =
        |builder: &mut Builder, mode, modified| builder.push(0, b"a", mode, modified, file(0));
    assert_eq!(push(&mut builder, 0o4755, NOW), Err(E::Mode));
    let late = Modified {
        seconds: 0,
        nanos: 1_000_000_000,
    };
    assert_eq!(push(&mut builder, 0o644, late), Err(E::Time));
    assert_eq!(builder.finish().unwrap_err(), E::Empty, "nothing was added");
}

#[test]
fn too_many_are_refused() {
    let mut builder = Builder::default();
    for number in 0..ENTRIES_MAX {
        builder
            .push(
                0,
                format!("{number:08}").as_bytes(),
                0,
                NOW,
                Kind::Directory,
            )
            .unwrap();
    }
    let more = builder.push(0, b"x", 0, NOW, Kind::Directory);
    assert_eq!(more, Err(ManifestError::Entries));

    // A count of ranges takes no memory by itself.
    let mut bytes = vec![0, 1, b'a', SPARSE, 0, 0, 0];
    put(&mut bytes, 1 << 40);
    put(&mut bytes, ENTRIES_MAX as u64 + 1);
    assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Entries));
    bytes.truncate(bytes.len() - 4);
    put(&mut bytes, ENTRIES_MAX as u64);
    assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Truncated));
}

#[test]
fn numbers_are_written_in_one_way() {
    let read = |bytes: &[u8]| Reader(bytes).number();
    for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
        let mut out = Vec::new();
        put(&mut out, number);
        assert_eq!(read(&out), Ok(number));
        for cut in 0..out.len() {
            assert_eq!(read(&out[..cut]), Err(ManifestError::Truncated));
        }
    }
    assert_eq!(read(&[0x80, 0]), Err(ManifestError::Number));
    let mut wide = vec![0xff; 9];
    wide.push(2);
    assert_eq!(read(&wide), Err(ManifestError::Number));
    assert_eq!(read(&[0x80; 11]), Err(ManifestError::Number));
}

/// What fuzzing starts from, and what once failed; and each of them damaged.
#[test]
fn the_corpus_is_read_without_a_fault() {
    let root = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fuzz/corpora/parse_bundle_manifest"
    );
    let mut rng = Rng::new(1);
    let (mut inputs, mut good) = (0, 0);
    for entry in std::fs::read_dir(root).expect("the corpus is committed") {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        inputs += 1;
        good += u32::from(Manifest::decode(&bytes).is_ok());
        read_and_write_back(&bytes);
        for _ in 0..3000 {
            let mut bad = bytes.clone();
            for _ in 0..=rng.below(4) {
                let at = rng.below(bad.len() as u64) as usize;
                match rng.below(4) {
                    0 => bad[at] = rng.next_u64() as u8,
                    1 => bad[at] ^= 1 << rng.below(8),
                    2 => bad.insert(at, bad[at]),
                    _ => bad.truncate(at + 1),
                }
            }
            read_and_write_back(&bad);
        }
    }
    assert!(
        inputs >= 16 && good >= 5 && good < inputs,
        "{good} of {inputs}"
    );
}

/// A manifest from a set of paths, as a walk would make it.
pub(crate) fn from_paths(paths: &BTreeSet<Vec<String>>, sizes: &[u64]) -> Manifest {
    let mut kinds: BTreeMap<Vec<String>, bool> = BTreeMap::new();
    for path in paths {
        for end in 1..path.len() {
            kinds.insert(path[..end].to_vec(), true);
        }
        kinds.entry(path.clone()).or_insert(false);
    }
    let mut builder = Builder::default();
    for (number, (path, directory)) in kinds.iter().enumerate() {
        let kind = if *directory {
            Kind::Directory
        } else {
            let size = sizes[number % sizes.len()];
            match size % 3 {
                0 => file(size),
                1 => sparse(size + 10, &[3..5, 6..size + 7]),
                _ => sparse(size, &[]),
            }
        };
        let name = path.last().unwrap();
        let modified = Modified {
            seconds: (size_of_val(&kind) as i64 - sizes[0] as i64) << (number % 40),
            nanos: number as u32,
        };
        builder
            .push(
                path.len() - 1,
                name.as_bytes(),
                (number % 0o1000) as u16,
                modified,
                kind,
            )
            .unwrap();
    }
    builder.finish().unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        paths in prop::collection::btree_set(prop::collection::vec("[a-dß文 .]{1,3}x", 1..5), 1..30),
        sizes in prop::collection::vec(0u64..100_000, 1..9),
    ) {
        let manifest = from_paths(&paths, &sizes);
        let bytes = manifest.encode();
        let read = Manifest::decode(&bytes);
        prop_assert_eq!(read.as_ref(), Ok(&manifest));
        for (index, entry) in manifest.entries().iter().enumerate() {
            let path = manifest.path(index);
            prop_assert_eq!(path.split('/').count(), usize::from(entry.depth) + 1);
            let parts: Vec<String> = path.split('/').map(ToOwned::to_owned).collect();
            prop_assert!(paths.iter().any(|path| path.starts_with(&parts)));
        }
        for path in &paths {
            prop_assert!((0..manifest.entries().len()).any(|index| manifest.path(index) == path.join("/")));
        }
        // Cut anywhere, it is shorter or nothing.
        for cut in 0..bytes.len() {
            if let Ok(shorter) = Manifest::decode(&bytes[..cut]) {
                prop_assert!(manifest.entries().starts_with(shorter.entries()));
            }
        }
    }

    #[test]
    fn any_bytes_are_a_manifest_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_and_write_back(&bytes);
    }

    #[test]
    fn damage_is_a_manifest_or_an_error(
        paths in prop::collection::btree_set(prop::collection::vec("[a-c]{1,2}", 1..4), 1..20),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let mut bytes = from_paths(&paths, &[1, 2, 3]).encode();
        for (at, byte, how) in damage {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            read_and_write_back(&bytes);
        }
    }
}
