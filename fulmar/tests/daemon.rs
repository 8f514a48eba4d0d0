//! `fulmar serve`, `get` and `put`: the real binary over loopback (HP-UDP 4.5, 12.2).
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::{End, LIMIT, fulmar};
use rustix::process::{Pid, Signal, kill_process};

/// A daemon, ended when it goes.
struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    fn start(dir: &Path, options: &[&str]) -> Self {
        let mut child = fulmar()
            .arg("serve")
            .arg(dir)
            .args(["--listen", "127.0.0.1:0", "--drain", "2s"])
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            let rest = line.strip_prefix("READY ")?;
            Some(rest.split(' ').next()?.to_owned())
        });
        thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address: address.unwrap(),
        }
    }

    /// Asks it to end, and says with which code it did.
    fn end(mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn content(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * (i + seed) % 251) as u8).collect()
}

fn get(daemon: &Daemon, names: &[&str], into: &Path, options: &[&str]) -> Output {
    let mut command = fulmar();
    command.arg("get").arg(&daemon.address).args(names);
    command.arg("--into").arg(into).args(options);
    command.output().unwrap()
}

fn put(daemon: &Daemon, file: &Path, options: &[&str]) -> Output {
    let mut command = fulmar();
    command.arg("put").arg(file).arg(&daemon.address);
    command.args(options).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn files_are_fetched_and_put_authenticated_and_in_the_clear() {
    let (shelf, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(shelf.path().join("one"), content(3_000_000, 1)).unwrap();
    fs::write(shelf.path().join("empty"), b"").unwrap();
    fs::write(here.path().join("mine"), content(2_000_000, 2)).unwrap();
    let daemon = Daemon::start(shelf.path(), &["--allow-put"]);

    let output = get(&daemon, &["one", "empty"], here.path(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("authenticated SHA256:"),
        "{}",
        said(&output)
    );
    assert_eq!(
        fs::read(here.path().join("one")).unwrap(),
        content(3_000_000, 1)
    );
    assert_eq!(fs::read(here.path().join("empty")).unwrap(), b"");
    let listed = fulmar().arg("ls").arg(&daemon.address).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let words: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!(words, ["0", "B", "empty", "2.9", "MiB", "one"], "{listed}");

    let output = put(&daemon, &here.path().join("mine"), &["--require-auth"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        fs::read(shelf.path().join("mine")).unwrap(),
        content(2_000_000, 2)
    );

    // What was put can be fetched, and what is there is never overwritten.
    let elsewhere = tempfile::tempdir().unwrap();
    let output = get(&daemon, &["mine"], elsewhere.path(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    let output = get(&daemon, &["mine"], elsewhere.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let output = put(&daemon, &here.path().join("mine"), &[]);
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn what_may_not_be_is_refused_with_a_reason() {
    let (shelf, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(shelf.path().join("one"), b"one").unwrap();
    fs::create_dir(shelf.path().join("dir")).unwrap();
    fs::write(shelf.path().join("dir/inner"), b"inner").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", shelf.path().join("link")).unwrap();
    let daemon = Daemon::start(shelf.path(), &[]);
    fs::write(shelf.path().join("later"), b"later").unwrap();
    for name in [
        "none",
        "later",
        "link",
        "../one",
        "dir/inner",
        "/etc/hostname",
        "./one",
    ] {
        let output = get(&daemon, &[name], here.path(), &[]);
        assert_eq!(output.status.code(), Some(6), "{name}: {}", said(&output));
    }
    let output = put(&daemon, &shelf.path().join("later"), &[]);
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("--allow-put"), "{}", said(&output));
    let wrong = format!("SHA256:{}", "A".repeat(43));
    let output = get(&daemon, &["one"], here.path(), &["--host-key", &wrong]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0);
    drop(daemon);

    let daemon = Daemon::start(shelf.path(), &["--watch"]);
    fs::write(shelf.path().join("latest"), b"latest").unwrap();
    let output = get(&daemon, &["latest"], here.path(), &["--plain"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("not authenticated"),
        "{}",
        said(&output)
    );
}

#[test]
fn many_at_once_each_way() {
    let (shelf, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for i in 0..4 {
        fs::write(shelf.path().join(format!("give{i}")), content(5_000_000, i)).unwrap();
        fs::write(
            here.path().join(format!("take{i}")),
            content(5_000_000, i + 9),
        )
        .unwrap();
    }
    let daemon = Daemon::start(shelf.path(), &["--allow-put"]);
    thread::scope(|scope| {
        for i in 0..4 {
            let (daemon, here) = (&daemon, here.path());
            scope.spawn(move || {
                let output = get(daemon, &[&format!("give{i}")], here, &[]);
                assert!(output.status.success(), "{}", said(&output));
            });
            scope.spawn(move || {
                let output = put(daemon, &here.join(format!("take{i}")), &[]);
                assert!(output.status.success(), "{}", said(&output));
            });
        }
    });
    for i in 0..4 {
        let give = fs::read(here.path().join(format!("give{i}"))).unwrap();
        assert_eq!(give, content(5_000_000, i));
        let take = fs::read(shelf.path().join(format!("take{i}"))).unwrap();
        assert_eq!(take, content(5_000_000, i + 9));
    }
}

/// What is beneath a folder: paths, modes and contents.
fn tree(root: &Path) -> BTreeMap<String, (u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777;
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let content = if path.is_dir() {
                left.push(path.clone());
                None
            } else {
                Some(fs::read(&path).unwrap())
            };
            found.insert(name, (mode, content));
        }
    }
    found
}

#[test]
fn folders_go_both_ways_in_one_session() {
    let (shelf, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = here.path().join("photos");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    fs::create_dir(folder.join("void")).unwrap();
    for i in 0..300 {
        fs::write(folder.join(format!("deep/{i}")), content(i * 97, i)).unwrap();
    }
    fs::write(folder.join("deep/er/big"), content(3_000_000, 5)).unwrap();
    fs::write(folder.join("run"), b"#!").unwrap();
    fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("run", folder.join("link")).unwrap();
    let daemon = Daemon::start(shelf.path(), &["--allow-put", "--watch"]);

    let output = put(&daemon, &folder, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("a symbolic link"),
        "{}",
        said(&output)
    );
    fs::remove_file(folder.join("link")).unwrap();
    assert_eq!(tree(&shelf.path().join("photos")), tree(&folder));
    // Nothing is merged into what is there.
    let output = put(&daemon, &folder, &[]);
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));

    let back = tempfile::tempdir().unwrap();
    let output = get(&daemon, &["photos"], back.path(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(tree(&back.path().join("photos")), tree(&folder));
    assert_eq!(
        fs::read_dir(back.path()).unwrap().count(),
        1,
        "nothing else is left"
    );
}

/// Fetches `big`, and kills that once so many bytes have come.
fn kill_at(daemon: &Daemon, into: &Path, bytes: u64) {
    let mut child = fulmar()
        .args(["get", &daemon.address, "big", "--json", "--into"])
        .arg(into)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let there = lines.map_while(Result::ok).any(|line| {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        event["event"] == "progress" && event["done"].as_u64().is_some_and(|done| done >= bytes)
    });
    assert!(there, "it ended before");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_transfer_goes_on_where_it_stopped_and_never_mixes() {
    let (shelf, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = content(60 << 20, 3);
    fs::write(shelf.path().join("big"), &whole).unwrap();
    let daemon = Daemon::start(shelf.path(), &["--watch", "--bwlimit", "100M"]);
    let mut resumed = 0;
    for target in [15_000_000, 30_000_000] {
        kill_at(&daemon, here.path(), target);
        assert!(!here.path().join("big").exists(), "it was killed");
    }
    let output = get(&daemon, &["big"], here.path(), &["--json"]);
    assert!(output.status.success(), "{}", said(&output));
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        if event["event"] == "resumed" {
            resumed = event["bytes"].as_u64().unwrap();
        }
    }
    assert!(resumed > 10 << 20, "{resumed} bytes were there already");
    assert!(fs::read(here.path().join("big")).unwrap() == whole);

    // A source that changed is another one.
    let elsewhere = tempfile::tempdir().unwrap();
    kill_at(&daemon, elsewhere.path(), 15_000_000);
    let changed = content(60 << 20, 4);
    fs::write(shelf.path().join("big"), &changed).unwrap();
    let output = get(&daemon, &["big"], elsewhere.path(), &["--json"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(json_of(&output, "done")["resumed"], 0);
    assert!(fs::read(elsewhere.path().join("big")).unwrap() == changed);
}

/// Five at once, each way, of folders and files; then the daemon is told to end in the middle of two more.
#[test]
fn every_session_has_its_line_and_a_stop_keeps_what_came() {
    let (shelf, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(shelf.path().join("folder")).unwrap();
    for i in 0..3 {
        fs::write(shelf.path().join(format!("give{i}")), content(900_000, i)).unwrap();
        fs::write(shelf.path().join(format!("folder/{i}")), content(9_000, i)).unwrap();
        fs::write(here.path().join(format!("take{i}")), content(700_000, i)).unwrap();
    }
    let mut command = fulmar();
    command.arg("serve").arg(shelf.path()).args([
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--allow-put",
        "--bwlimit",
        "40M",
        "--drain",
        "100ms",
    ]);
    let mut daemon = End::spawn(&mut command);
    let ready = daemon.wait_for("ready");
    assert!(ready["identity"].as_str().unwrap().starts_with("SHA256:"));
    daemon.wait_for("metrics");
    let address = ready["listen"].as_str().unwrap().to_owned();
    let run = |words: &[&str], at: &Path| {
        let mut command = fulmar();
        command.current_dir(at).args(words);
        End::spawn(&mut command)
    };
    let ends = [
        run(&["get", &address, "give0", "give1"], here.path()),
        run(&["get", &address, "folder/"], here.path()),
        run(&["put", "take0", "take1", &address], here.path()),
        run(&["put", "take2", &address], here.path()),
        run(&["get", &address, "missing"], here.path()),
    ];
    let codes = ends.map(|end| end.finish().code());
    assert_eq!(codes, [0, 0, 0, 0, 6].map(Some));

    fs::write(here.path().join("late"), content(20_000_000, 1)).unwrap();
    let late = run(&["put", "late", "--max-rate", "30M", &address], here.path());
    loop {
        let event = daemon.wait_for("progress");
        if event["file"] == "late" && event["done"].as_u64().unwrap() > 6_000_000 {
            break;
        }
    }
    let ended = daemon.stop();
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    late.finish().failed_with(6, "gave up");
    let mut done: Vec<(String, u64)> = ended
        .all("done")
        .iter()
        .map(|it| {
            (
                it["file"].as_str().unwrap().to_owned(),
                it["files"].as_u64().unwrap(),
            )
        })
        .collect();
    done.sort();
    let want = [
        ("2 items", 2),
        ("folder", 3),
        ("give0", 1),
        ("give1", 1),
        ("take2", 1),
    ];
    assert_eq!(done, want.map(|(name, files)| (name.to_owned(), files)));
    let failed = ended.all("failed");
    assert_eq!(failed.len(), 1, "{ended:#?}");
    assert_eq!(
        (&failed[0]["file"], &failed[0]["exit"]),
        (&"late".into(), &130.into())
    );

    // What came is kept. Slowly, so that the sender hears of that before it has sent it once more.
    let daemon = Daemon::start(shelf.path(), &["--allow-put"]);
    let late = here.path().join("late");
    let output = put(&daemon, &late, &["--json", "--max-rate", "50M"]);
    assert!(output.status.success(), "{}", said(&output));
    let resumed = json_of(&output, "done")["resumed"].as_u64().unwrap();
    assert!(resumed > 0, "{resumed}");
    let arrived = fs::read(shelf.path().join("late")).unwrap();
    assert!(arrived == content(20_000_000, 1));
}

fn json_of(output: &Output, name: &str) -> serde_json::Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let mut events = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.find(|event| event["event"] == name).unwrap()
}

#[test]
fn a_list_has_folders_and_what_was_put_can_be_fetched() {
    let (shelf, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let daemon = Daemon::start(shelf.path(), &["--allow-put"]);
    let list = || {
        let mut command = fulmar();
        let output = command.arg("ls").arg(&daemon.address).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let words = String::from_utf8(output.stdout.clone()).unwrap();
        let words = words.split_whitespace().map(str::to_owned);
        (words.collect::<Vec<_>>(), said(&output))
    };
    let (listed, note) = list();
    assert!(
        listed.is_empty() && note.contains("nothing to give"),
        "{note}"
    );
    fs::create_dir(here.path().join("photos")).unwrap();
    fs::write(here.path().join("photos/one"), "1").unwrap();
    fs::write(here.path().join("text"), "text").unwrap();
    let mut command = fulmar();
    command.current_dir(here.path());
    let both = command.args(["put", "photos", "text", &daemon.address]);
    assert!(both.output().unwrap().status.success());
    assert_eq!(list().0, ["4", "B", "text", "folder", "photos/"]);
    let back = tempfile::tempdir().unwrap();
    let output = get(&daemon, &["photos/", "text"], back.path(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read(back.path().join("photos/one")).unwrap(), b"1");
}

/// What was left a long time ago goes when somebody receives there again; what is younger, and what somebody holds, stays.
#[test]
fn what_nobody_went_on_with_is_swept_up() {
    let place = tempfile::tempdir().unwrap();
    let old = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
    let part = |name: &str, time| {
        let path = place.path().join(format!(".{name}.0123456789abcdef.part"));
        let file = fs::File::create(&path).unwrap();
        file.set_modified(time).unwrap();
        (path, file)
    };
    let (stale, _) = part("stale", old);
    let (held, file) = part("held", old);
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (young, _) = part("young", SystemTime::now());
    let unlike = place.path().join(".mine.part");
    fs::File::create(&unlike)
        .unwrap()
        .set_modified(old)
        .unwrap();
    for verb in ["recv", "serve"] {
        fs::write(&stale, "again").unwrap();
        fs::File::options()
            .write(true)
            .open(&stale)
            .unwrap()
            .set_modified(old)
            .unwrap();
        let mut command = fulmar();
        command.arg(verb).arg(place.path());
        command.args(["--listen", "127.0.0.1:0"]);
        if verb == "serve" {
            command.arg("--allow-put");
        }
        let mut end = End::spawn(&mut command);
        end.wait_for("ready");
        let deadline = Instant::now() + LIMIT;
        while stale.exists() {
            assert!(Instant::now() < deadline, "{verb} leaves it");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(held.exists() && young.exists() && unlike.exists(), "{verb}");
        end.stop();
    }
}
