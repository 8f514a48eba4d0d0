//! Interrupted bundles: what is kept, what is asked for again, what makes a receiver begin from zero.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use fulmar::bundle::{HEAD_LEN, Head, SinkError, sweep};
use fulmar::file::Directory;
use fulmar_proto::sim::Rng;

use super::{
    MIB, describe, everything, inbox, random, read, scan, shuffled, sink, some_bundle, unlock,
    write,
};
use crate::common::{Mount, names_in};

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
    assert_eq!(names_in(&into), ["x.part"]);
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
                "bundle::resuming::receive_and_be_killed",
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
