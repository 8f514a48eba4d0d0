//! Bundles that are none, or lie: nothing of them stays, and nothing that was there is replaced.

use std::fs;
use std::os::unix::fs::symlink;

use fulmar::bundle::{BundleSink, HEAD_LEN, SinkError, TRAILER_LEN};
use fulmar::file::Directory;
use fulmar_proto::sim::Rng;

use super::{EXACT, describe, inbox, receive, shuffled, sink, some_bundle, write};

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
