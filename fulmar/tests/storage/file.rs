//! Files on a real disk: what may be sent, and rule E11 for what is received.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fulmar::file::{CreateError, Directory, FinishError, NameError, Source, SourceError};
use xxhash_rust::xxh64::xxh64;

use crate::common::{Mount, skip};

// Sources.

#[test]
fn a_source_is_hashed_and_read_by_position() {
    let place = tempfile::tempdir().unwrap();
    let content = content(1, 3_500_000);
    let path = place.path().join("a file.bin");
    fs::write(&path, &content).unwrap();
    let source = Source::open(&path).unwrap();
    assert_eq!((source.name(), source.size()), ("a file.bin", 3_500_000));
    let mut steps = Vec::new();
    let hash = source.hash(|done| {
        steps.push(done);
        ControlFlow::Continue(())
    });
    assert_eq!(hash.unwrap(), xxh64(&content, 0));
    assert_eq!(steps, [1 << 20, 2 << 20, 3 << 20, 3_500_000]);
    let mut part = vec![0; 1368];
    source.read_at(1_234_567, &mut part).unwrap();
    assert_eq!(part, content[1_234_567..][..1368]);
    assert!(matches!(
        source.hash(|_| ControlFlow::Break(())),
        Err(SourceError::Stopped)
    ));
    source.unchanged().unwrap();
}

#[test]
fn an_empty_source_is_a_source() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("empty"), b"").unwrap();
    let source = Source::open(&place.path().join("empty")).unwrap();
    assert_eq!(source.size(), 0);
    assert_eq!(
        source.hash(|_| ControlFlow::Continue(())).unwrap(),
        0xef46_db37_51d8_e999
    );
}

#[test]
fn only_regular_files_are_sources() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    assert!(
        Command::new("mkfifo")
            .arg(at("pipe"))
            .status()
            .unwrap()
            .success()
    );
    let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    symlink("pipe", at("link to pipe")).unwrap();
    for (path, what) in [
        (place.path().to_owned(), "a directory"),
        (at("pipe"), "a pipe"),
        (at("link to pipe"), "a pipe"),
        (at("socket"), "a socket"),
        (PathBuf::from("/dev/zero"), "a device"),
    ] {
        let refused = Source::open(&path).unwrap_err();
        assert!(
            matches!(refused, SourceError::NotAFile(kind) if kind == what),
            "{path:?}: {refused}"
        );
    }
    assert!(matches!(
        Source::open(&at("nothing")),
        Err(SourceError::Open(_))
    ));
}

#[test]
fn a_name_the_receiver_would_refuse_is_refused_here() {
    let place = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        fs::write(place.path().join(name), b"x").unwrap();
        Source::open(&place.path().join(name))
    };
    assert!(matches!(open("a\\b"), Err(SourceError::Backslash)));
    assert!(matches!(
        open("a\nb"),
        Err(SourceError::Name(NameError::Character))
    ));
    assert_eq!(open(".profile").unwrap().name(), ".profile");
}

#[test]
fn a_source_that_changes_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x");
    let begin = || {
        fs::write(&path, content(2, 100_000)).unwrap();
        Source::open(&path).unwrap()
    };
    let shorter = begin();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(50_000)
        .unwrap();
    assert!(matches!(
        shorter.read_at(49_000, &mut [0; 2000]),
        Err(SourceError::Shortened)
    ));
    assert!(matches!(
        shorter.hash(|_| ControlFlow::Continue(())),
        Err(SourceError::Shortened)
    ));
    let longer = begin();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(100_001)
        .unwrap();
    assert!(matches!(
        longer.hash(|_| ControlFlow::Continue(())),
        Err(SourceError::Changed)
    ));
    let touched = begin();
    fs::File::open(&path)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    assert!(matches!(touched.unchanged(), Err(SourceError::Changed)));
}

// Sinks.

#[test]
fn a_file_appears_under_its_name_only_when_it_is_whole() {
    let place = tempfile::tempdir().unwrap();
    let directory = Directory::open(place.path()).unwrap();
    let content = content(3, 300_000);
    let mut partial = directory.create("report.bin", 300_000).unwrap();
    for (index, part) in content.chunks(1000).enumerate().rev() {
        partial.write_at(index as u64 * 1000, part).unwrap();
    }
    let under_construction = only_file(place.path());
    let name = under_construction.file_name().unwrap().to_str().unwrap();
    assert!(
        name.starts_with(".report.bin.") && name.ends_with(".part"),
        "{name}"
    );
    assert_eq!(
        fs::metadata(&under_construction).unwrap().mode() & 0o7777,
        0o600
    );
    let path = partial.finish(xxh64(&content, 0)).unwrap();
    assert_eq!(path, place.path().join("report.bin"));
    assert_eq!(only_file(place.path()), path);
    assert_eq!(fs::read(&path).unwrap(), content);

    fs::write(place.path().join("ordinary"), b"").unwrap();
    let ordinary = fs::metadata(place.path().join("ordinary")).unwrap().mode();
    assert_eq!(
        fs::metadata(&path).unwrap().mode(),
        ordinary,
        "permissions of any new file"
    );
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let directory = Directory::open(place.path()).unwrap();
    let mut partial = directory.create("x", 10).unwrap();
    partial.write_at(0, b"12345").unwrap();
    assert_eq!(entries(place.path()), 1);
    drop(partial);
    assert_eq!(entries(place.path()), 0);
}

#[test]
fn wrong_bytes_and_missing_bytes_leave_nothing() {
    let place = tempfile::tempdir().unwrap();
    let directory = Directory::open(place.path()).unwrap();
    let mut wrong = directory.create("x", 5).unwrap();
    wrong.write_at(0, b"12345").unwrap();
    let failed = wrong.finish(7).unwrap_err();
    assert!(
        matches!(failed, FinishError::HashMismatch { expected: 7, actual } if actual == xxh64(b"12345", 0))
    );
    let mut gap = directory.create("x", 10).unwrap();
    gap.write_at(0, b"12").unwrap();
    gap.write_at(6, b"78").unwrap();
    assert!(matches!(
        gap.finish(7).unwrap_err(),
        FinishError::Incomplete { missing: 6 }
    ));
    assert_eq!(entries(place.path()), 0);
}

#[test]
fn nothing_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let directory = Directory::open(place.path()).unwrap();
    fs::write(place.path().join("file"), b"mine").unwrap();
    symlink("nowhere", place.path().join("link")).unwrap();
    fs::create_dir(place.path().join("dir")).unwrap();
    for name in ["file", "link", "dir"] {
        assert!(matches!(
            directory.create(name, 1),
            Err(CreateError::Exists)
        ));
    }
    // Two at once: the first to finish wins.
    let mut one = directory.create("new", 1).unwrap();
    let mut two = directory.create("new", 1).unwrap();
    one.write_at(0, b"1").unwrap();
    two.write_at(0, b"2").unwrap();
    two.finish(xxh64(b"2", 0)).unwrap();
    assert!(matches!(
        one.finish(xxh64(b"1", 0)),
        Err(FinishError::Exists)
    ));
    assert_eq!(fs::read(place.path().join("new")).unwrap(), b"2");
    assert_eq!(fs::read(place.path().join("file")).unwrap(), b"mine");
    assert_eq!(entries(place.path()), 4);
}

#[test]
fn names_and_sizes_stay_within_bounds() {
    let place = tempfile::tempdir().unwrap();
    let directory = Directory::open(place.path()).unwrap();
    assert!(matches!(
        directory.create("..", 1),
        Err(CreateError::Name(NameError::Dots))
    ));
    assert!(matches!(
        directory.create("huge", 1 << 60),
        Err(CreateError::NoSpace { .. })
    ));
    let mut partial = directory.create(&"é".repeat(127), 4).unwrap();
    assert!(
        partial.write_at(2, b"345").is_err(),
        "beyond the announced size"
    );
    assert!(partial.write_at(u64::MAX, b"1").is_err());
    partial.write_at(0, b"1234").unwrap();
    let path = partial.finish(xxh64(b"1234", 0)).unwrap();
    assert_eq!(path.file_name().unwrap().len(), 254);
    let empty = directory.create("empty", 0).unwrap();
    assert_eq!(fs::read(empty.finish(xxh64(b"", 0)).unwrap()).unwrap(), b"");
}

#[test]
fn an_announced_size_allocates_nothing() {
    let place = tempfile::tempdir().unwrap();
    let directory = Directory::open(place.path()).unwrap();
    let mut partial = directory.create("x", 1 << 30).unwrap();
    partial.write_at((1 << 30) - 1, b"z").unwrap();
    assert!(fs::metadata(only_file(place.path())).unwrap().blocks() * 512 < 1 << 20);
    drop(partial);
}

#[test]
fn the_directory_is_the_one_that_was_opened() {
    let place = tempfile::tempdir().unwrap();
    let (before, after) = (place.path().join("before"), place.path().join("after"));
    fs::create_dir(&before).unwrap();
    let directory = Directory::open(&before).unwrap();
    fs::rename(&before, &after).unwrap();
    let mut partial = directory.create("x", 1).unwrap();
    partial.write_at(0, b"1").unwrap();
    partial.finish(xxh64(b"1", 0)).unwrap();
    assert_eq!(fs::read(after.join("x")).unwrap(), b"1");
    assert!(
        Directory::open(&after.join("x")).is_err(),
        "a file is no directory"
    );
}

#[test]
fn a_directory_that_cannot_be_written_says_so() {
    let place = tempfile::tempdir().unwrap();
    if rustix::process::geteuid().is_root() {
        // Permissions do not bind root; an immutable file system does.
        let Some(mount) = Mount::tmpfs(place.path(), "size=1m,ro") else {
            return;
        };
        let directory = Directory::open(place.path()).unwrap();
        assert!(matches!(
            directory.create("x", 0),
            Err(CreateError::Storage(_))
        ));
        drop((directory, mount));
    } else {
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o555)).unwrap();
        let directory = Directory::open(place.path()).unwrap();
        assert!(matches!(
            directory.create("x", 0),
            Err(CreateError::Storage(_))
        ));
    }
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(place.path(), "size=1m") else {
        return;
    };
    let directory = Directory::open(place.path()).unwrap();
    assert!(matches!(
        directory.create("x", 2 << 20),
        Err(CreateError::NoSpace { .. })
    ));
    // Each of the two fits, both do not.
    let mut one = directory.create("one", 700_000).unwrap();
    let mut two = directory.create("two", 700_000).unwrap();
    let bytes = content(5, 700_000);
    one.write_at(0, &bytes).unwrap();
    let full = bytes
        .chunks(50_000)
        .enumerate()
        .try_for_each(|(i, part)| two.write_at(i as u64 * 50_000, part));
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    drop(two);
    let path = one.finish(xxh64(&bytes, 0)).unwrap();
    assert_eq!(only_file(place.path()), path);
    drop((directory, mount));
}

// Crashes. The test binary runs itself as the process that suffers.

#[test]
fn a_killed_process_leaves_no_wrong_file_under_a_final_name() {
    let place = tempfile::tempdir().unwrap();
    let mut finished = 0;
    for round in 0..25 {
        let mut child = suffer("endless", place.path(), round, None)
            .spawn()
            .unwrap();
        // Killed at one of the steps of the first few files, each round at a later one.
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let steps = lines.map_while(Result::ok).filter(|line| is_step(line));
        assert_eq!(steps.take(1 + round as usize).count(), 1 + round as usize);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for entry in fs::read_dir(place.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with('.') {
            assert!(name.ends_with(".part"), "{name}");
            continue;
        }
        let (seed, size) = name.split_once('-').unwrap();
        assert!(
            fs::read(&path).unwrap() == content(seed.parse().unwrap(), size.parse().unwrap()),
            "{name}"
        );
        finished += 1;
    }
    assert!(
        finished > 0,
        "nothing was ever finished: the test tests nothing"
    );
}

#[test]
fn a_failed_fsync_is_final() {
    for (fault, calls) in [
        ("fsync:error=EIO:when=1", "of the file"),
        ("fsync:error=EIO:when=2", "of the directory"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let Ok(output) = suffer("one", place.path(), 1, Some(fault)).output() else {
            skip("strace is not installed");
            return;
        };
        let told = String::from_utf8_lossy(&output.stdout);
        if !told.contains("finish:") {
            skip("strace may not trace here");
            return;
        }
        assert!(
            told.contains("finish: Err(Storage(Os { code: 5"),
            "fsync {calls}: {told}"
        );
        if calls == "of the file" {
            assert_eq!(entries(place.path()), 0);
        }
    }
}

/// What one file thread carries. Run with
/// `cargo test --release -p fulmar --test storage -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement"]
fn measure_a_gigabyte() {
    let bytes = content(9, 136_800);
    let size = 8_000 * bytes.len() as u64;
    for (order, swap) in [("in order", 1), ("every 8 blocks reversed", 8)] {
        let place = tempfile::tempdir_in(
            std::env::var_os("FULMAR_TEST_DISK").unwrap_or_else(|| ".".into()),
        )
        .unwrap();
        let mut partial = Directory::open(place.path())
            .unwrap()
            .create("x", size)
            .unwrap();
        let begin = std::time::Instant::now();
        for block in 0..8_000u64 {
            let block = block / swap * swap + (swap - 1 - block % swap);
            partial
                .write_at(block * bytes.len() as u64, &bytes)
                .unwrap();
        }
        let written = begin.elapsed();
        let FinishError::HashMismatch { .. } = partial.finish(0).unwrap_err() else {
            panic!("it matched")
        };
        let (rate, all) = (size as f64 / 1e9 / written.as_secs_f64(), begin.elapsed());
        println!(
            "{order}: written and hashed at {rate:.2} GB/s, durable after {all:.2?} (writing took {written:.2?})"
        );
    }
}

/// Not a test of its own: what the tests above run in another process.
#[test]
fn sufferer() {
    let Ok(place) = std::env::var("FULMAR_TEST_PLACE") else {
        return;
    };
    let seed: u64 = std::env::var("FULMAR_TEST_SEED").unwrap().parse().unwrap();
    let endless = std::env::var("FULMAR_TEST_ROLE").unwrap() == "endless";
    let directory = Directory::open(Path::new(&place)).unwrap();
    for round in 0.. {
        let (seed, size) = (
            seed * 1000 + round,
            20_000 + 7_919 * round as usize % 90_000,
        );
        let bytes = content(seed, size);
        let mut partial = directory
            .create(&format!("{seed}-{size}"), size as u64)
            .unwrap();
        for part in [1, 0, 3, 2] {
            let quarter = size.div_ceil(4);
            let range = part * quarter..size.min((part + 1) * quarter);
            partial.write_at(range.start as u64, &bytes[range]).unwrap();
            println!("part {part}");
        }
        println!("finish: {:?}", partial.finish(xxh64(&bytes, 0)));
        if !endless {
            return;
        }
    }
}

/// Whether a line says that the process has come one step further.
fn is_step(line: &str) -> bool {
    line.starts_with("part ") || line.starts_with("finish: ")
}

fn suffer(role: &str, place: &Path, seed: u64, fault: Option<&str>) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut command = if let Some(fault) = fault {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e"])
            .arg(format!("inject={fault}"))
            .arg(own);
        strace
    } else {
        Command::new(own)
    };
    command
        .args([
            "file::sufferer",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("FULMAR_TEST_PLACE", place)
        .env("FULMAR_TEST_SEED", seed.to_string())
        .env("FULMAR_TEST_ROLE", role)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Bytes that differ with every seed and at every length.
fn content(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn entries(place: &Path) -> usize {
    fs::read_dir(place).unwrap().count()
}

fn only_file(place: &Path) -> PathBuf {
    let all: Vec<PathBuf> = fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [only] = &all[..] else { panic!("{all:?}") };
    only.clone()
}
