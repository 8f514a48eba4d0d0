//! Bundles from disk to disk: what is read from files and written in any order becomes the same files, whatever
//! interrupts it, and nothing else ever has their names.
//!
//! `CRASH=long` kills 100 times instead of 10.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use fulmar::bundle::{
    BundleSink, BundleSource, Cache, Finished, HEAD_LEN, Head, Ready, ScanError, ScanOptions,
    SinkError, SinkOptions, TRAILER_LEN, sweep,
};
use fulmar::file::{Directory, SourceError};
use fulmar_proto::sim::Rng;
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

use common::Mount;

/// Modes as they are, whatever this process withholds.
const EXACT: SinkOptions = SinkOptions { mask: Some(0) };
/// A piece.
const MIB: u64 = 1 << 20;

fn scan(paths: &[PathBuf]) -> BundleSource {
    BundleSource::scan(paths, &ScanOptions::default()).unwrap()
}

fn sink(into: &Path, len: u64) -> BundleSink {
    BundleSink::new(&Directory::open(into).unwrap(), len, &EXACT).unwrap()
}

/// All of a bundle.
fn read(source: &mut BundleSource) -> Vec<u8> {
    let mut bytes = vec![0; source.len() as usize];
    for (index, part) in bytes.chunks_mut(100_000).enumerate() {
        source.read_at(index as u64 * 100_000, part).unwrap();
    }
    bytes
}

/// Parts of about `size` bytes in an order of their own, not too far from the true one.
fn shuffled(len: u64, size: u64, rng: &mut Rng) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < len {
        let end = (at + 1 + rng.below(2 * size)).min(len);
        parts.push((at + rng.below(40 * size), at..end));
        at = end;
    }
    parts.sort_by_key(|(order, _)| *order);
    parts.into_iter().map(|(_, range)| range).collect()
}

fn write(
    sink: &mut BundleSink,
    bundle: &[u8],
    range: Range<u64>,
) -> Result<Option<Ready>, SinkError> {
    sink.write(
        range.start,
        &bundle[range.start as usize..range.end as usize],
    )
}

/// Everything, in an order of its own.
fn receive(bundle: &[u8], into: &Path, rng: &mut Rng) -> Result<Finished, SinkError> {
    let mut sink = sink(into, bundle.len() as u64);
    for range in shuffled(bundle.len() as u64, 40_000, rng) {
        write(&mut sink, bundle, range)?;
    }
    sink.finish()
}

/// Mode, time of change and, of a file, its content.
type Described = (u32, i64, i64, Option<Vec<u8>>);

/// What a tree is, apart from its own name, by path.
fn describe(root: &Path) -> BTreeMap<String, Described> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let content = metadata.is_file().then(|| fs::read(&path).unwrap());
            if metadata.is_dir() {
                open.push(path);
            }
            found.insert(
                name,
                (
                    metadata.mode(),
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                    content,
                ),
            );
        }
    }
    found
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanos,
        },
    };
    rustix::fs::futimens(File::open(path).unwrap(), &times).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn random(len: u64, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

/// A folder with one of everything, `files/dir`.
fn everything(place: &Path, seed: u64) -> PathBuf {
    let root = place.join("files/dir");
    fs::create_dir_all(root.join("sub/deeper/empty")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("naïve 文件 🐦"), "unicode").unwrap();
    fs::write(root.join("sub/large"), random(3 * MIB + 12_345, seed)).unwrap();
    fs::write(root.join("sub/deeper/exactly"), random(MIB, seed + 1)).unwrap();
    fs::write(root.join("sub-and-not-in-it"), "order").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(300 * MIB).unwrap();
    sparse
        .write_all_at(&random(200_000, seed + 2), 17 * MIB)
        .unwrap();
    sparse.write_all_at(b"nearly the end", 290 * MIB).unwrap();
    File::create(root.join("hole"))
        .unwrap()
        .set_len(5 * MIB)
        .unwrap();
    for number in 0..40 {
        let path = root.join(format!("sub/deeper/{number}"));
        fs::write(&path, random(number * number * 9, seed + number)).unwrap();
        set_mode(
            &path,
            [0o600, 0o755, 0o444, 0o4755, 0o640][number as usize % 5],
        );
        set_time(&path, number as i64 * 50_000_000 - 9, 123_456_789);
    }
    set_time(&root.join("sub/deeper/empty"), -5, 7);
    set_mode(&root.join("sub/deeper"), 0o500);
    set_mode(&root.join("sub"), 0o2775);
    set_mode(&root, 0o555);
    root
}

/// Lets a tree be removed whatever its modes are.
fn unlock(root: &Path) {
    let _ = Command::new("chmod")
        .arg("-R")
        .arg("u+rwx")
        .arg(root)
        .status();
}

fn inbox(place: &Path, name: &str) -> PathBuf {
    let path = place.join(name);
    fs::create_dir(&path).unwrap();
    path
}

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

/// A bundle of one folder with large and small files.
fn some_bundle(place: &Path, megabytes: u64) -> (PathBuf, Vec<u8>, BundleSource) {
    let root = place.join("folder");
    fs::create_dir_all(root.join("small")).unwrap();
    fs::write(root.join("large"), random(megabytes * MIB + 3, 1)).unwrap();
    for number in 0..300 {
        fs::write(
            root.join(format!("small/{number}")),
            random(number * 50, number),
        )
        .unwrap();
    }
    let mut source = scan(std::slice::from_ref(&root));
    let bundle = read(&mut source);
    (root, bundle, source)
}

#[test]
fn what_was_durable_is_not_asked_for_again() {
    let place = tempfile::tempdir().unwrap();
    let (root, bundle, source) = some_bundle(place.path(), 40);
    let into = inbox(place.path(), "in");
    let mut rng = Rng::new(77);
    let mut have: Vec<Range<u64>> = Vec::new();
    let covered =
        |have: &[Range<u64>]| -> u64 { have.iter().map(|range| range.end - range.start).sum() };
    for round in 0.. {
        let mut sink = sink(&into, bundle.len() as u64);
        // Head and manifest come first here, so that what is there is known.
        let start = source.head().content_start();
        let ready = write(&mut sink, &bundle, 0..start).unwrap().unwrap();
        assert!(covered(&ready.have) >= covered(&have), "nothing is lost");
        have = ready.have;
        let inside = |at: u64| have.iter().any(|range| range.contains(&at));
        let mut sent = 0;
        let limit = 1 + rng.below(14 * MIB);
        for range in shuffled(bundle.len() as u64, 40_000, &mut rng) {
            if sent > limit {
                break;
            }
            let range = range.start.max(start)..range.end;
            if range.is_empty() || (inside(range.start) && inside(range.end - 1)) {
                continue;
            }
            sent += range.end - range.start;
            write(&mut sink, &bundle, range).unwrap();
        }
        if sink.missing() == 0 {
            sink.finish().unwrap();
            assert!(round > 2, "it was interrupted");
            break;
        }
        drop(sink);
        assert!(!into.join("folder").exists());
        assert!(fs::read_dir(&into).unwrap().count() <= 1);
        // Next time all whole pieces of what was sent are there: what is asked again is the edges.
        let mut again = self::sink(&into, bundle.len() as u64);
        let ready = write(&mut again, &bundle, 0..start).unwrap().unwrap();
        let kept = covered(&ready.have);
        assert!(
            kept + 10 * MIB >= covered(&have) + sent,
            "{round}: {sent} sent, {kept} kept"
        );
    }
    assert!(describe(&root) == describe(&into.join("folder")));
    assert_eq!(
        fs::read_dir(&into).unwrap().count(),
        1,
        "the partial directory is gone"
    );
}

#[test]
fn what_need_not_come_may_come() {
    let place = tempfile::tempdir().unwrap();
    let (root, bundle, source) = some_bundle(place.path(), 3);
    let into = inbox(place.path(), "in");
    let mut first = sink(&into, bundle.len() as u64);
    write(
        &mut first,
        &bundle,
        0..source.head().content_start() + 2 * MIB,
    )
    .unwrap();
    drop(first);
    // Other bytes than those that are there: they are not looked at, before the manifest or after it.
    let start = source.head().content_start();
    let mut second = sink(&into, bundle.len() as u64);
    second.write(start + MIB, &[0xee; 5000]).unwrap();
    assert_eq!(second.held(), 5000);
    let ready = write(&mut second, &bundle, 0..start).unwrap().unwrap();
    assert_eq!(ready.have, std::slice::from_ref(&(start..start + 2 * MIB)));
    assert_eq!(second.held(), 0);
    assert_eq!(second.missing(), bundle.len() as u64 - start - 2 * MIB);
    second.write(start + 77, &[0xdd; 1000]).unwrap();
    assert_eq!(second.missing(), bundle.len() as u64 - start - 2 * MIB);
    write(&mut second, &bundle, start + MIB..bundle.len() as u64).unwrap();
    second.finish().unwrap();
    assert!(describe(&root) == describe(&into.join("folder")));
}

#[test]
fn a_second_contradicting_copy_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (root, bundle, _) = some_bundle(place.path(), 2);
    let into = inbox(place.path(), "in");
    let mut sink = sink(&into, bundle.len() as u64);
    let mut rng = Rng::new(3);
    for range in shuffled(bundle.len() as u64, 30_000, &mut rng) {
        write(&mut sink, &bundle, range.clone()).unwrap();
        let junk = vec![0xcc; (range.end - range.start) as usize];
        sink.write(range.start, &junk).unwrap();
    }
    sink.finish().unwrap();
    assert!(describe(&root) == describe(&into.join("folder")));
}

#[test]
fn wrong_bytes_are_found_and_not_kept() {
    let place = tempfile::tempdir().unwrap();
    let (_, bundle, source) = some_bundle(place.path(), 3);
    let into = inbox(place.path(), "in");
    let mut rng = Rng::new(8);
    let start = source.head().content_start();
    for (from, to) in [
        (start, bundle.len() as u64 - TRAILER_LEN as u64),
        (
            bundle.len() as u64 - TRAILER_LEN as u64,
            bundle.len() as u64,
        ),
    ] {
        for _ in 0..4 {
            let mut bad = bundle.clone();
            bad[(from + rng.below(to - from)) as usize] ^= 1 << rng.below(8);
            let result = receive(&bad, &into, &mut rng);
            assert!(matches!(result, Err(SinkError::Integrity)), "{result:?}");
            assert_eq!(
                fs::read_dir(&into).unwrap().count(),
                0,
                "the next try begins from zero"
            );
        }
    }
    receive(&bundle, &into, &mut rng).unwrap();
}

#[test]
fn what_does_not_begin_like_a_bundle_writes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (_, bundle, source) = some_bundle(place.path(), 1);
    let into = inbox(place.path(), "in");
    let mut rng = Rng::new(4);
    let front = source.head().content_start();
    let directory = Directory::open(&into).unwrap();
    for len in 0..=(HEAD_LEN + TRAILER_LEN) as u64 {
        assert!(BundleSink::new(&directory, len, &EXACT).is_err());
    }
    let (mut heads, mut manifests, mut stored) = (0, 0, 0);
    for round in 0..600 {
        let mut bad = bundle.clone();
        for _ in 0..=rng.below(3) {
            let within = match round % 4 {
                0 => 0..HEAD_LEN as u64,
                _ => HEAD_LEN as u64..front,
            };
            let at = within.start + rng.below(within.end - within.start);
            bad[at as usize] = rng.next_u64() as u8;
        }
        match receive(&bad, &into, &mut rng) {
            Err(SinkError::Head(_)) => heads += 1,
            Err(SinkError::Manifest(_)) => manifests += 1,
            // A manifest that can be read, and is another one.
            Err(SinkError::Integrity | SinkError::Incomplete { .. }) => stored += 1,
            Err(SinkError::Storage(error)) => panic!("round {round}: {error}"),
            Ok(finished) if bad == bundle => fs::remove_dir_all(&finished.paths[0]).unwrap(),
            other => panic!("round {round}: {other:?}"),
        }
        let left = fs::read_dir(&into).unwrap().count();
        assert_eq!(left, 0, "round {round}");
    }
    println!("heads {heads}, manifests {manifests}, stored and found wrong {stored}");
    assert!(heads > 20 && manifests > 100 && stored > 20);
    let mut sink = sink(&into, bundle.len() as u64);
    let beyond = sink.write(bundle.len() as u64 - 1, &[0; 2]);
    assert!(matches!(beyond, Err(SinkError::Beyond)));
    assert!(matches!(
        sink.write(u64::MAX, &[0; 2]),
        Err(SinkError::Beyond)
    ));
}

#[test]
fn nothing_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    let (_, bundle, source) = some_bundle(place.path(), 1);
    let into = inbox(place.path(), "in");
    let target = into.join("folder");
    let start = source.head().content_start();
    let exists = |result: Result<(), SinkError>| match result {
        Err(SinkError::Exists(path)) => assert_eq!(path, target),
        other => panic!("{other:?}"),
    };
    // There before it begins, whatever it is.
    symlink("/nowhere", &target).unwrap();
    exists(write(&mut sink(&into, bundle.len() as u64), &bundle, 0..start).map(drop));
    fs::remove_file(&target).unwrap();
    // There before it ends: all stays, and is moved once the way is free.
    let mut sink = sink(&into, bundle.len() as u64);
    write(&mut sink, &bundle, 0..bundle.len() as u64).unwrap();
    fs::create_dir(&target).unwrap();
    exists(sink.finish().map(drop));
    exists(
        write(
            &mut self::sink(&into, bundle.len() as u64),
            &bundle,
            0..start,
        )
        .map(drop),
    );
    fs::remove_dir(&target).unwrap();
    let mut sink = self::sink(&into, bundle.len() as u64);
    let ready = write(&mut sink, &bundle, 0..start).unwrap().unwrap();
    let end = bundle.len() as u64 - TRAILER_LEN as u64;
    assert_eq!(ready.have, std::slice::from_ref(&(start..end)));
    write(&mut sink, &bundle, end..bundle.len() as u64).unwrap();
    sink.finish().unwrap();
    assert_eq!(fs::read_dir(&into).unwrap().count(), 1);
}

#[test]
fn only_one_receives_it_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let (_, bundle, source) = some_bundle(place.path(), 1);
    let into = inbox(place.path(), "in");
    let start = source.head().content_start();
    let mut first = sink(&into, bundle.len() as u64);
    write(&mut first, &bundle, 0..start).unwrap();
    let second = write(&mut sink(&into, bundle.len() as u64), &bundle, 0..start);
    assert!(matches!(second, Err(SinkError::Busy)), "{second:?}");
    write(&mut first, &bundle, start..bundle.len() as u64).unwrap();
    first.finish().unwrap();
}

#[test]
fn a_partial_directory_that_was_meddled_with_begins_from_zero() {
    let place = tempfile::tempdir().unwrap();
    let (root, bundle, source) = some_bundle(place.path(), 3);
    let start = source.head().content_start();
    let meddle: [fn(&Path); 6] = [
        |part| fs::remove_file(part.join("map")).unwrap(),
        |part| fs::write(part.join("map"), [7; 200]).unwrap(),
        |part| fs::write(part.join("tree/folder/large"), "short").unwrap(),
        |part| fs::remove_dir_all(part.join("tree")).unwrap(),
        |part| {
            fs::remove_file(part.join("tree/folder/large")).unwrap();
            symlink("/etc/passwd", part.join("tree/folder/large")).unwrap();
        },
        |part| {
            fs::remove_dir_all(part.join("tree/folder")).unwrap();
            symlink("/tmp", part.join("tree/folder")).unwrap();
        },
    ];
    for (round, meddle) in meddle.into_iter().enumerate() {
        let into = inbox(place.path(), &format!("in{round}"));
        let mut first = sink(&into, bundle.len() as u64);
        write(&mut first, &bundle, 0..start + 3 * MIB / 2).unwrap();
        drop(first);
        let part = into.join(format!(".fulmar-{}.part", source.id()));
        assert_eq!(fs::metadata(&part).unwrap().mode() & 0o777, 0o700);
        meddle(&part);
        let mut second = sink(&into, bundle.len() as u64);
        let ready = write(&mut second, &bundle, 0..start).unwrap().unwrap();
        assert_eq!(ready.have, [], "round {round}");
        write(&mut second, &bundle, start..bundle.len() as u64).unwrap();
        second.finish().unwrap();
        assert!(
            describe(&root) == describe(&into.join("folder")),
            "round {round}"
        );
        assert_eq!(fs::read_dir(&into).unwrap().count(), 1, "round {round}");
    }
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
fn a_bundle_that_cannot_fit_is_refused_or_resumed() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let Some(_mount) = Mount::tmpfs(&into, "size=12m") else {
        return;
    };
    // A sparse source: what it announces is what it would write.
    let (root, bundle, source) = some_bundle(place.path(), 6);
    let start = source.head().content_start();
    fs::write(into.join("ballast"), vec![0; 8 << 20]).unwrap();
    let refused = write(&mut sink(&into, bundle.len() as u64), &bundle, 0..start);
    assert!(
        matches!(refused, Err(SinkError::NoSpace { .. })),
        "{refused:?}"
    );
    assert_eq!(
        fs::read_dir(&into).unwrap().count(),
        1,
        "nothing but the ballast"
    );

    fs::remove_file(into.join("ballast")).unwrap();
    let mut first = sink(&into, bundle.len() as u64);
    write(&mut first, &bundle, 0..start + 3 * MIB).unwrap();
    // Somebody else fills the disk.
    let mut ballast = File::create(into.join("ballast")).unwrap();
    while ballast.write(&[0; 4096]).is_ok_and(|len| len > 0) {}
    let mut failed = None;
    for range in shuffled(bundle.len() as u64, 30_000, &mut Rng::new(1)) {
        if let Err(error) = write(&mut first, &bundle, range) {
            failed = Some(error);
            break;
        }
    }
    assert!(matches!(failed, Some(SinkError::Storage(_))), "{failed:?}");
    drop(first);
    assert!(!into.join("folder").exists());
    drop(ballast);
    fs::remove_file(into.join("ballast")).unwrap();
    let mut second = sink(&into, bundle.len() as u64);
    write(&mut second, &bundle, 0..bundle.len() as u64).unwrap();
    second.finish().unwrap();
    assert!(describe(&root) == describe(&into.join("folder")));
}

#[test]
fn what_was_left_behind_is_swept_up() {
    let place = tempfile::tempdir().unwrap();
    let (_, bundle, source) = some_bundle(place.path(), 2);
    let into = inbox(place.path(), "in");
    let directory = Directory::open(&into).unwrap();
    fs::write(into.join(".x.0123456789abcdef.part"), "old").unwrap();
    fs::write(into.join("x.part"), "somebody's").unwrap();
    let live = directory.create("live", 5).unwrap();
    let mut sink = sink(&into, bundle.len() as u64);
    write(&mut sink, &bundle, 0..source.head().content_start() + MIB).unwrap();
    let count = || fs::read_dir(&into).unwrap().count();
    assert_eq!(count(), 4);
    assert_eq!(
        sweep(&directory, Duration::from_secs(3600)).unwrap(),
        0,
        "too young"
    );
    assert_eq!(
        sweep(&directory, Duration::ZERO).unwrap(),
        1,
        "the others are at work"
    );
    drop(sink);
    assert_eq!(count(), 3);
    let part = into.join(format!(".fulmar-{}.part", source.id()));
    assert_eq!(sweep(&directory, Duration::from_secs(3600)).unwrap(), 0);
    let past = SystemTime::now() - Duration::from_secs(7200);
    File::open(part.join("map"))
        .unwrap()
        .set_modified(past)
        .unwrap();
    assert_eq!(sweep(&directory, Duration::from_secs(3600)).unwrap(), 1);
    drop(live);
    assert_eq!(common::names_in(&into), ["x.part"]);
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

/// What the child of the next test does: receives the bundle in a file, and says what it asks for.
#[test]
#[ignore = "run by another test"]
fn receive_and_be_killed() {
    let bundle = fs::read(std::env::var("BUNDLE").unwrap()).unwrap();
    let into = PathBuf::from(std::env::var("INTO").unwrap());
    let seed = std::env::var("SEED_OF_CHILD").unwrap().parse().unwrap();
    let mut rng = Rng::new(seed);
    let mut sink = sink(&into, bundle.len() as u64);
    let head = Head::parse(bundle[..HEAD_LEN].try_into().unwrap(), bundle.len() as u64).unwrap();
    let ready = write(&mut sink, &bundle, 0..head.content_start())
        .unwrap()
        .unwrap();
    println!(
        "have {}",
        ready
            .have
            .iter()
            .map(|range| range.end - range.start)
            .sum::<u64>()
    );
    let parts = shuffled(bundle.len() as u64, 20_000, &mut rng);
    for (number, range) in parts.iter().enumerate() {
        write(&mut sink, &bundle, range.clone()).unwrap();
        println!("part {}", number * 1000 / parts.len());
        if number == parts.len() / 3 && ready.have.is_empty() {
            // Longer than what came waits to be recorded.
            thread::sleep(Duration::from_millis(1500));
        }
    }
    println!("received");
    sink.finish().unwrap();
    println!("finished");
}

#[test]
fn a_kill_at_any_moment_leaves_all_or_nothing() {
    let kills = if std::env::var("CRASH").is_ok_and(|value| value == "long") {
        100
    } else {
        10
    };
    let place = tempfile::tempdir().unwrap();
    // Three names at the top, so that there is a middle between the moves.
    let (root, _, _) = some_bundle(place.path(), 30);
    let other = everything(place.path(), 3);
    let single = place.path().join("single");
    fs::write(&single, random(5 * MIB, 4)).unwrap();
    let roots = [root, other, single];
    let bundle = read(&mut scan(&roots));
    let file = place.path().join("bundle");
    fs::write(&file, &bundle).unwrap();
    let into = inbox(place.path(), "in");
    let mut rng = Rng::new(11);
    let child = |seed: u64| {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "receive_and_be_killed",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env("BUNDLE", &file)
            .env("INTO", &into)
            .env("SEED_OF_CHILD", seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    assert!(child(0).wait_with_output().unwrap().status.success());
    let check = || {
        let mut there = 0;
        for root in &roots {
            let name = root.file_name().unwrap();
            let arrived = into.join(name);
            if !arrived.exists() {
                continue;
            }
            there += 1;
            if root.is_file() {
                assert!(fs::read(root).unwrap() == fs::read(&arrived).unwrap());
                continue;
            }
            let contents = |root: &Path| -> BTreeMap<_, _> {
                describe(root)
                    .into_iter()
                    .map(|(path, (.., content))| (path, content))
                    .collect()
            };
            assert!(contents(root) == contents(&arrived), "{name:?}");
        }
        there
    };
    let clean = || {
        for root in &roots {
            let path = into.join(root.file_name().unwrap());
            unlock(&path);
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    };
    assert_eq!(check(), 3);
    clean();
    let (mut middle, mut resumed) = (0, 0);
    for kill in 0..kills {
        let mut child = child(kill);
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let moment = rng.below(1500);
        let mut said = Vec::new();
        for line in lines.by_ref() {
            let part = line
                .strip_prefix("part ")
                .map(|part| part.parse::<u64>().unwrap());
            said.push(line);
            if part.is_some_and(|part| part >= moment) || said.last().unwrap() == "received" {
                break;
            }
        }
        if moment >= 1000 {
            // While it syncs and moves.
            thread::sleep(Duration::from_millis(rng.below(100)));
        }
        child.kill().unwrap();
        said.extend(lines);
        child.wait().unwrap();
        let have = said.iter().find_map(|line| line.strip_prefix("have "));
        resumed += u32::from(have.is_some_and(|have| have != "0"));
        let there = check();
        middle += u32::from(there < 3);
        if said.iter().any(|line| line == "finished") {
            assert_eq!(there, 3);
        }
        let part = fs::read_dir(&into).unwrap().any(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .starts_with(".fulmar-")
        });
        let committed = fs::read_dir(&into).unwrap().any(|entry| {
            let path = entry.unwrap().path();
            path.join("commit").exists()
        });
        if there == 3 && part && !committed {
            // Killed between its last two steps: it is over, and whoever comes next finds that, and tidies up.
            let mut next = sink(&into, bundle.len() as u64);
            let refused = next.write(0, &bundle);
            assert!(matches!(refused, Err(SinkError::Exists(_))), "{refused:?}");
            assert_eq!(fs::read_dir(&into).unwrap().count(), 3);
            clean();
        }
        if there == 3 && !part {
            clean();
        }
        assert!(
            there == 0 || part || there == 3,
            "whoever comes next can go on"
        );
    }
    // Whatever was left, the next run ends it, unless it had ended.
    if check() < 3 || fs::read_dir(&into).unwrap().count() > 3 {
        let output = child(1000).wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(check(), 3);
    for root in &roots[..1] {
        let arrived = into.join(root.file_name().unwrap());
        assert!(describe(root) == describe(&arrived));
    }
    assert_eq!(
        fs::read_dir(&into).unwrap().count(),
        3,
        "no partial directory"
    );
    println!("killed in the middle {middle} times, resumed {resumed} times");
    assert!(middle > 0 && resumed > 0);
    clean();
    unlock(&roots[1]);
}
