//! What a bundle holds: names, modes, times, holes and hashes, as they are on the disk and as they arrive.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fulmar::bundle::{
    BundleSink, BundleSource, Cache, HEAD_LEN, ScanError, ScanOptions, SinkOptions, TRAILER_LEN,
};
use fulmar::file::{Directory, SourceError};
use fulmar_proto::sim::Rng;

use super::{
    MIB, describe, everything, inbox, random, read, receive, scan, set_mode, set_time, shuffled,
    sink, some_bundle, unlock, write,
};

#[test]
fn a_folder_arrives_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let root = everything(place.path(), 1);
    let mut source = scan(std::slice::from_ref(&root));
    let bundle = read(&mut source);
    assert!(bundle.len() < 8 << 20, "holes are not sent");
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let into = inbox(place.path(), &format!("in{seed}"));
        let finished = receive(&bundle, &into, &mut rng).unwrap();
        assert_eq!(finished.id, source.id());
        assert_eq!(finished.paths, [into.join("dir")]);
        let mut sent = describe(root.parent().unwrap());
        for (mode, ..) in sent.values_mut() {
            // Set-user-id and its kind never travel.
            *mode &= !0o7000;
        }
        let mut arrived = describe(&into);
        for (mode, ..) in arrived.values_mut() {
            assert_eq!(*mode & 0o7000, 0);
        }
        assert!(
            sent == arrived,
            "seed {seed}: {:?} {:?}",
            sent.keys(),
            arrived.keys()
        );
        let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
        assert!(blocks(&into.join("dir/sparse")) < 4096, "holes stay holes");
        assert_eq!(blocks(&into.join("dir/hole")), 0);
        unlock(&into);
    }
    unlock(&root);
}

#[test]
fn the_hash_of_one_file_is_its_blake3() {
    let place = tempfile::tempdir().unwrap();
    for len in [0, 1, MIB, 2 * MIB + 77] {
        let content = random(len, len);
        let path = place.path().join(format!("f{len}"));
        fs::write(&path, &content).unwrap();
        let bundle = read(&mut scan(&[path]));
        let into = inbox(place.path(), &format!("in{len}"));
        let finished = receive(&bundle, &into, &mut Rng::new(1)).unwrap();
        assert_eq!(finished.content, *blake3::hash(&content).as_bytes());
        assert!(bundle.ends_with(&finished.content));
        let manifest = &bundle[HEAD_LEN..bundle.len() - TRAILER_LEN - len as usize];
        let hash = *blake3::hash(manifest).as_bytes();
        assert_eq!(bundle[bundle.len() - TRAILER_LEN..][..32], hash);
    }
}

#[test]
fn permissions_that_are_withheld_stay_withheld() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x");
    fs::write(&path, "x").unwrap();
    set_mode(&path, 0o777);
    let bundle = read(&mut scan(&[path]));
    let into = inbox(place.path(), "in");
    let directory = Directory::open(&into).unwrap();
    let options = SinkOptions { mask: Some(0o027) };
    let mut sink = BundleSink::new(&directory, bundle.len() as u64, &options).unwrap();
    sink.write(0, &bundle).unwrap();
    sink.finish().unwrap();
    let mode = fs::metadata(into.join("x")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o750);
}

#[test]
fn names_are_those_of_scp() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("a/b");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("c"), "c").unwrap();
    symlink(root.join("c"), root.join("link")).unwrap();
    symlink(&root, place.path().join("to-b")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    fs::create_dir(root.join(format!(".fulmar-{}.part", "0a".repeat(32)))).unwrap();
    fs::write(root.join(".x.0123456789abcdef.part"), "").unwrap();
    let paths = |source: &BundleSource| -> Vec<String> {
        let manifest = source.manifest();
        (0..manifest.entries().len())
            .map(|index| manifest.path(index))
            .collect()
    };
    for (path, top) in [
        ("a/b", "b"),
        ("a/b/", "b"),
        ("a/b/.", "b"),
        ("a/../a/b", "b"),
        ("to-b", "to-b"),
    ] {
        let source = scan(&[place.path().join(path)]);
        assert_eq!(
            paths(&source),
            [top.to_owned(), format!("{top}/c")],
            "{path}"
        );
        let mut skipped: Vec<_> = source
            .skipped()
            .iter()
            .map(|skipped| skipped.what)
            .collect();
        skipped.sort_unstable();
        let expected = ["a file under construction"; 2];
        assert_eq!(
            skipped,
            [&expected[..], &["a pipe", "a symbolic link"]].concat()
        );
    }
    assert_eq!(paths(&scan(&[root.join("link")])), ["link"]);
    assert_eq!(
        paths(&scan(&[root.join("c"), place.path().join("a")])).len(),
        4
    );

    let refused =
        |paths: &[PathBuf]| BundleSource::scan(paths, &ScanOptions::default()).unwrap_err();
    let twice = refused(&[root.clone(), place.path().join("a/b/../b")]);
    assert!(
        matches!(&twice, ScanError::Twice(name) if name == "b"),
        "{twice}"
    );
    assert!(matches!(refused(&["/".into()]), ScanError::NoName(_)));
    assert!(matches!(refused(&[root.join("pipe")]), ScanError::File(_)));
    assert!(matches!(refused(&[]), ScanError::Nothing));
    assert!(matches!(refused(&[root.join("none")]), ScanError::File(_)));
    for name in [&b"a\\b"[..], b"\xff", b"new\nline"] {
        let bad = root.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
        fs::write(&bad, "").unwrap();
        let error = refused(std::slice::from_ref(&root));
        assert!(
            matches!(&error, ScanError::File(error) if error.path == bad && matches!(error.error, SourceError::Name(_))),
            "{error}"
        );
        fs::remove_file(&bad).unwrap();
    }
}

#[test]
fn twenty_thousand_files() {
    let place = tempfile::tempdir().unwrap();
    let root = inbox(place.path(), "many");
    let mut rng = Rng::new(5);
    let content = random(20_000, 9);
    for number in 0..20_000u64 {
        if number % 500 == 0 {
            fs::create_dir(root.join(format!("{}", number / 500))).unwrap();
        }
        let path = root.join(format!("{}/{number}", number / 500));
        fs::write(path, &content[..1000 + rng.below(19_000) as usize]).unwrap();
    }
    let started = std::time::Instant::now();
    let mut source = scan(std::slice::from_ref(&root));
    let scanned = started.elapsed();
    let bundle = read(&mut source);
    let read = started.elapsed();
    let into = inbox(place.path(), "in");
    let mut sink = sink(&into, bundle.len() as u64);
    for range in shuffled(bundle.len() as u64, 70_000, &mut rng) {
        write(&mut sink, &bundle, range).unwrap();
    }
    let written = started.elapsed();
    let finished = sink.finish().unwrap();
    println!(
        "{} bytes: scan {scanned:?}, read {:?}, write {:?}, finish {:?}",
        bundle.len(),
        read - scanned,
        written - read,
        started.elapsed() - written
    );
    assert_eq!(finished.manifest.entries().len(), 20_041);
    assert!(describe(&root) == describe(&into.join("many")));
}

#[test]
fn a_changed_file_is_noticed_and_is_another_bundle() {
    let place = tempfile::tempdir().unwrap();
    let (root, bundle, source) = some_bundle(place.path(), 2);
    let change: [fn(&Path); 5] = [
        |path| fs::write(path, "short").unwrap(),
        |path| {
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"more").unwrap();
        },
        |path| set_time(path, 5, 5),
        |path| fs::remove_file(path).unwrap(),
        |path| {
            let other = path.with_extension("other");
            fs::copy(path, &other).unwrap();
            fs::rename(other, path).unwrap();
        },
    ];
    for change in change {
        let content = fs::read(root.join("large")).unwrap();
        for reading in [false, true] {
            fs::write(root.join("large"), &content).unwrap();
            let mut source = scan(std::slice::from_ref(&root));
            let mut buffer = vec![0; 1000];
            let end = source.len() - TRAILER_LEN as u64;
            if reading {
                source.read_at(0, &mut vec![0; 100_000]).unwrap();
            }
            change(&root.join("large"));
            let mut failed = None;
            for at in (100_000..end).step_by(1000) {
                let len = (end - at).min(1000) as usize;
                if let Err(error) = source.read_at(at, &mut buffer[..len]) {
                    failed = Some(error);
                    break;
                }
            }
            // Once it is open, what was put in its place is no concern of ours.
            let Some(error) = failed else {
                assert!(reading);
                continue;
            };
            assert_eq!(error.path, root.join("large"));
            assert!(
                matches!(
                    error.error,
                    SourceError::Changed | SourceError::Shortened | SourceError::Open(_)
                ),
                "{error}"
            );
        }
        fs::write(root.join("large"), &content).unwrap();
    }
    let other = scan(std::slice::from_ref(&root));
    assert_ne!(other.id(), source.id());
    let into = inbox(place.path(), "in");
    let mut first = sink(&into, bundle.len() as u64);
    write(&mut first, &bundle, 0..source.head().content_start() + MIB).unwrap();
    drop(first);
    let bundle = read(&mut scan(std::slice::from_ref(&root)));
    let mut second = sink(&into, bundle.len() as u64);
    let ready = write(&mut second, &bundle, 0..bundle.len() as u64)
        .unwrap()
        .unwrap();
    assert_eq!(ready.have, []);
    second.finish().unwrap();
}

#[test]
fn skipped_pieces_are_hashed_for_the_trailer() {
    let place = tempfile::tempdir().unwrap();
    let (root, bundle, first) = some_bundle(place.path(), 9);
    drop(first);
    thread::sleep(Duration::from_millis(2_100));
    let options = ScanOptions {
        cache: Cache::at(place.path().join("cache")),
    };
    let mut rng = Rng::new(6);
    // Without a cache, with an empty one, and with one that knows all.
    for round in 0..3 {
        let options = if round == 0 {
            &ScanOptions::default()
        } else {
            &options
        };
        let mut source = BundleSource::scan(std::slice::from_ref(&root), options).unwrap();
        let mut at = 0;
        while at < source.head().content_end() {
            let len = rng.below(2 * MIB).min(source.head().content_end() - at) as usize;
            let mut buffer = vec![0; len];
            source.read_at(at, &mut buffer).unwrap();
            assert!(buffer == bundle[at as usize..][..len]);
            at += len as u64 + rng.below(3 * MIB);
        }
        let mut trailer = [0; TRAILER_LEN];
        let end = source.head().content_end();
        source.read_at(end, &mut trailer).unwrap();
        assert_eq!(trailer, bundle[end as usize..], "round {round}");
        assert_eq!(place.path().join("cache").exists(), round > 0);
    }
    // What the cache knows is not read: not even if nobody could.
    let mut source = BundleSource::scan(std::slice::from_ref(&root), &options).unwrap();
    let hidden = place.path().join("hidden");
    fs::rename(root.join("large"), &hidden).unwrap();
    let end = source.head().content_end();
    let error = source.read_at(end, &mut [0; TRAILER_LEN]).unwrap_err();
    assert_eq!(error.path, root.join("large"), "but it is missed");
    fs::rename(&hidden, root.join("large")).unwrap();
    let mut trailer = [0; TRAILER_LEN];
    source.read_at(end, &mut trailer).unwrap();
    assert_eq!(trailer, bundle[end as usize..]);
}

#[test]
fn what_the_code_cites_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let spec = fs::read_to_string(root.join("../specs/bundle.md")).unwrap();
    let mut cited = 0;
    for entry in fs::read_dir(root.join("src/bundle")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for (at, name) in text.match_indices("bundle ") {
            let rest = &text[at + name.len()..];
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
            let clause = rest[..end.unwrap()].trim_end_matches('.');
            if !clause.contains('.') {
                continue;
            }
            cited += 1;
            let rule = [format!("- **{clause}** "), format!("### {clause} ")];
            let there = rule.iter().any(|rule| spec.contains(rule));
            assert!(there, "{} cites {clause}", path.display());
        }
    }
    assert!(cited > 10, "found {cited} citations: the reader is blind");
}
