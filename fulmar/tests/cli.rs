//! The real binary, as a user and a script meet it: exit codes, sentences, JSON, signals; and that the documents keep
//! to what the binary has.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fulmar_proto::sim::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use common::fulmar;

#[test]
fn help_and_version_are_no_errors() {
    for line in [
        "--help",
        "--version",
        "send --help",
        "recv --help",
        "serve --help",
        "get --help",
        "put --help",
        "ls --help",
        "key --help",
        "sim --help",
        "sim hpudp --help",
        "demo -h",
        "bench -h",
    ] {
        let output = says(line);
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{line}"
        );
    }
}

#[test]
fn bad_usage_is_one_sentence_and_exit_2() {
    for (line, needle) in [
        ("", "send, recv"),
        ("fetch", "send, recv"),
        ("send onlyfile", "HOST"),
        ("put onlyfile --quiet", "HOST"),
        ("send f h:99999", "1 to 65535"),
        ("send f h --rate fast", "1.5Gbit"),
        ("send f h --policy fixed", "--rate"),
        ("send f h --policy bbr", "fair, low, fixed, hpudp"),
        ("send f h --min-rate 2M --max-rate 1M", "--max-rate"),
        ("send f h --dscp 64", "0 to 63"),
        ("send f h --bwlimit 1M,2M", "08:00-18:00=20M"),
        ("recv --dscp best", "0 to 63"),
        ("key", "show, rotate, list, forget"),
        ("key forget a:b", "1 to 65535"),
        ("recv --listen nowhere", "[::]:9000"),
        ("sim hpudp --link moon", "satellite"),
        ("sim hpudp --loss 150%", "0% to 100%"),
        ("sim hpudp --size 2TiB", "--size"),
        ("bench --runs 0", "1..=1000"),
        ("bench --size 0", "--size"),
    ] {
        let output = says(line);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(
            said.starts_with("error: ") && said.trim_end().lines().count() == 1,
            "{line}: {said}"
        );
        assert!(said.contains(needle), "{line}: {said}");
        assert!(output.stdout.is_empty(), "{line}");
    }
}

#[test]
fn a_file_arrives_and_both_ends_say_the_same() {
    for mode in ["--encrypt", "--plain"] {
        let place = tempfile::tempdir().unwrap();
        let source = random_file(place.path(), "report.bin", 3_000_000);
        let into = place.path().join("in");
        fs::create_dir(&into).unwrap();
        let mut receiver = Receiver::start(&into, &["--once"]);
        let sent = run(fulmar()
            .arg("send")
            .arg(&source)
            .arg(&receiver.address)
            .args([mode, "--json"]));
        assert_eq!(sent.status.code(), Some(0), "{}", text(&sent.stderr));
        assert_eq!(receiver.child.finish().code(), Some(0));
        assert_eq!(
            fs::read(into.join("report.bin")).unwrap(),
            fs::read(&source).unwrap()
        );

        let (sent, received) = (
            last_event(&events(&sent.stdout), "done"),
            last_event(&receiver.events(), "done"),
        );
        assert_eq!(keys(&sent), keys(&received), "one set of names");
        for key in ["file", "size", "done", "hash", "encrypted"] {
            assert_eq!(sent[key], received[key], "{key}");
        }
        assert_eq!(sent["encrypted"], mode == "--encrypt");
        assert_eq!(sent["size"], 3_000_000);
        assert_eq!(
            names_in(&into),
            ["report.bin"],
            "nothing else is left behind"
        );
    }
}

#[test]
fn several_files_in_one_go() {
    let place = tempfile::tempdir().unwrap();
    let files = ["a", "b", "c"].map(|name| random_file(place.path(), name, 100_000));
    let into = place.path().join("in");
    fs::create_dir(&into).unwrap();
    let mut receiver = Receiver::start(&into, &[]);
    let sent = run(fulmar()
        .arg("send")
        .args(&files)
        .arg(&receiver.address)
        .arg("--quiet"));
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent.stderr));
    assert!(
        sent.stdout.is_empty() && sent.stderr.is_empty(),
        "quiet is quiet: {}",
        text(&sent.stderr)
    );
    for file in &files {
        assert_eq!(
            fs::read(into.join(file.file_name().unwrap())).unwrap(),
            fs::read(file).unwrap()
        );
    }
    receiver.child.signal(Signal::TERM);
    assert_eq!(receiver.child.finish().code(), Some(130));
}

#[test]
fn an_existing_file_is_refused_and_kept() {
    let place = tempfile::tempdir().unwrap();
    let source = random_file(place.path(), "taken", 50_000);
    let into = place.path().join("in");
    fs::create_dir(&into).unwrap();
    fs::write(into.join("taken"), "was here first").unwrap();
    let mut receiver = Receiver::start(&into, &[]);
    let sent = run(fulmar()
        .arg("send")
        .arg(&source)
        .arg(&receiver.address)
        .arg("--quiet"));
    let said = text(&sent.stderr);
    assert_eq!(sent.status.code(), Some(6), "{said}");
    three_lines(&said);
    assert_eq!(fs::read(into.join("taken")).unwrap(), b"was here first");
    receiver.child.signal(Signal::INT);
    assert_eq!(receiver.child.finish().code(), Some(130));
    assert_eq!(last_event(&receiver.events(), "failed")["exit"], 130);
}

#[test]
fn what_cannot_be_sent_or_stored_is_said_in_three_lines() {
    let place = tempfile::tempdir().unwrap();
    let missing = place.path().join("missing");
    let directory = place.path();
    for (command, code) in [
        (
            vec!["send".into(), missing.clone(), "127.0.0.1:9".into()],
            1,
        ),
        (
            vec!["send".into(), "/dev/null".into(), "127.0.0.1:9".into()],
            1,
        ),
        (
            vec![
                "recv".into(),
                missing.clone(),
                "--listen".into(),
                "127.0.0.1:0".into(),
            ],
            1,
        ),
        (
            vec![
                "recv".into(),
                directory.to_owned(),
                "--listen".into(),
                "192.0.2.1:0".into(),
            ],
            1,
        ),
    ] {
        let output = run(fulmar().args(&command));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{command:?}: {}",
            text(&output.stderr)
        );
        three_lines(&text(&output.stderr));
    }
}

#[test]
fn nobody_there_is_exit_3() {
    let place = tempfile::tempdir().unwrap();
    let source = random_file(place.path(), "f", 10);
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = nobody.local_addr().unwrap().to_string();
    let output = run(fulmar()
        .arg("send")
        .arg(&source)
        .arg(&to)
        .args(["--json", "--quiet"]));
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    three_lines(&text(&output.stderr));
    let failed = last_event(&events(&output.stdout), "failed");
    assert_eq!(failed["exit"], 3);
}

#[test]
fn a_signal_in_mid_transfer_leaves_what_goes_on_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let source = random_file(place.path(), "large", 20_000_000);
    let into = place.path().join("in");
    fs::create_dir(&into).unwrap();
    let mut receiver = Receiver::start(&into, &["--once"]);
    let mut send = fulmar();
    send.arg("send")
        .arg(&source)
        .arg(&receiver.address)
        .args(["--max-rate", "8M", "--json"])
        .stdout(Stdio::piped());
    let mut send = Running::spawn(&mut send);
    let progress = send.lines();
    // The first of these says that the transfer has begun; at 1 MB/s it is far from its end.
    assert!(
        progress
            .iter()
            .any(|line| line.contains("\"transferring\""))
    );
    send.signal(Signal::INT);
    assert_eq!(send.finish().code(), Some(130));
    let status = receiver.child.finish();
    assert!(matches!(status.code(), Some(3 | 6)), "{status}");
    let left = names_in(&into);
    let kept = |name: &String| name.starts_with(".fulmar-") && name.ends_with(".part");
    assert!(left.iter().all(kept) && left.len() <= 1, "{left:?}");
}

#[test]
fn the_demo_needs_nothing() {
    for line in ["demo --json", "demo --json --plain --link lan"] {
        let output = says(line);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{line}: {}",
            text(&output.stderr)
        );
        let result = last_event(&events(&output.stdout), "result");
        assert!(result["goodput_bps"].as_u64().unwrap() > 0, "{result}");
        let copies = result["size"].as_u64().unwrap() / fs::metadata(BINARY).unwrap().len();
        assert_eq!(result["size"], copies * fs::metadata(BINARY).unwrap().len());
        assert!(copies > 0, "{result}");
        assert!(result["tcp_model_bps"].as_u64().unwrap() > 0, "{result}");
    }
}

#[test]
fn the_demo_tells_people_how_each_figure_came_about() {
    let place = tempfile::tempdir().unwrap();
    let file = random_file(place.path(), "a\x1b[31mred", 200_000);
    let output = run(fulmar().arg("demo").arg(&file).args(["--rtt", "20ms"]));
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(1),
        "a control character in a name is refused: {said}"
    );
    assert!(!said.contains('\x1b'), "{said:?}");

    let file = random_file(place.path(), "plain name", 200_000);
    let output = run(fulmar().arg("demo").arg(&file).args(["--rtt", "20ms"]));
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for needle in [
        "plain name",
        "195.3 KiB",
        "hash of the source",
        "that this link can carry",
        "RFC 5348",
        "not measured",
    ] {
        assert!(said.contains(needle), "{needle}: {said}");
    }
}

#[test]
fn the_same_seed_simulates_the_same_run() {
    let line = "sim hpudp --link awful --size 2MiB --json";
    let run = |seed: u32| {
        let output = says(&format!("{line} --seed {seed}"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        last_event(&events(&output.stdout), "simulated")
    };
    let (one, two, other) = (run(7), run(7), run(8));
    assert_eq!(one, two);
    assert_ne!(one["trace"], other["trace"]);
    assert_eq!(one["exact"], true);
}

#[test]
fn a_dead_link_fails_in_virtual_time() {
    let start = Instant::now();
    let output = says("sim hpudp --loss 100% --size 1MiB");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("not received"));
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn a_reader_that_leaves_does_no_harm() {
    let mut child = fulmar()
        .args(["sim", "hpudp", "--size", "1MiB"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
}

#[test]
fn the_bench_measures_who_is_there() {
    let output = says("bench --size 2MiB --runs 1 --json");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let mut missing = Vec::new();
    for row in rows {
        let name = row["name"].as_str().unwrap();
        match row["skipped"].as_str() {
            Some(reason) => missing.push(format!("{name}: {reason}")),
            None => assert!(row["median_bps"].as_f64().unwrap() > 0.0, "{row}"),
        }
    }
    assert!(rows.len() >= 7, "{report}");
    skip_loudly("a row of fulmar bench", &missing);
}

/// Every command and option that a document shows exists, with that spelling.
#[test]
fn documents_keep_to_what_the_binary_has() {
    let mut shown = 0;
    for document in [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/benchmarks.md",
        "docs/errors.md",
    ] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for command in commands_in(&text) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let is_name = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
            let depth = if words.first() == Some(&"sim") { 2 } else { 1 };
            let verb: Vec<&str> = words
                .iter()
                .take(depth)
                .take_while(is_name)
                .copied()
                .collect();
            let help = run(fulmar().args(&verb).arg("--help"));
            assert_eq!(
                help.status.code(),
                Some(0),
                "{document} shows `fulmar {command}`"
            );
            let help = text_of_options(&help.stdout);
            for option in words.iter().filter(|word| word.starts_with("--")) {
                let option = option
                    .split('=')
                    .next()
                    .unwrap()
                    .trim_end_matches([',', '.', ';', ')', ']']);
                assert!(
                    help.iter().any(|known| known == option),
                    "{document} shows {option} in `fulmar {command}`"
                );
            }
            shown += 1;
        }
    }
    assert!(
        shown >= 10,
        "only {shown} commands were found in the documents"
    );
}

/// Nothing tracked here points into somebody's machine.
#[test]
fn no_file_mentions_a_path_of_one_machine() {
    let needles = ["root", "home", "Users", "work", "farm"].map(|name| format!("/{name}/"));
    let mut read = 0;
    for file in tracked_files() {
        // Some files are no text.
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        read += 1;
        for (number, line) in text.lines().enumerate() {
            for needle in &needles {
                let found = line.match_indices(needle.as_str()).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || "_-.~*}".contains(c))
                });
                assert!(!found, "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }
    assert!(read > 20, "only {read} files were read");
}

/// A `fulmar recv` that serves on a port of its own.
struct Receiver {
    child: Running,
    address: String,
    lines: mpsc::Receiver<String>,
}

impl Receiver {
    fn start(into: &Path, options: &[&str]) -> Self {
        let mut command = fulmar();
        command
            .arg("recv")
            .arg(into)
            .args(["--listen", "127.0.0.1:0", "--json"])
            .args(options);
        let mut child = Running::spawn(command.stdout(Stdio::piped()));
        let lines = child.lines();
        let ready = lines
            .recv_timeout(LIMIT)
            .expect("recv says that it is ready");
        let ready: Value = serde_json::from_str(&ready).unwrap();
        assert_eq!(ready["event"], "ready");
        let address = ready["listen"].as_str().unwrap().to_owned();
        Self {
            child,
            address,
            lines,
        }
    }

    /// What it said since; it has ended.
    fn events(&mut self) -> Vec<Value> {
        self.lines
            .iter()
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect()
    }
}

/// A child that does not outlive its test, nor the test's patience.
struct Running(Child);

impl Running {
    fn spawn(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    /// The lines of its standard output, read as they come.
    fn lines(&mut self) -> mpsc::Receiver<String> {
        let stdout = BufReader::new(self.0.stdout.take().unwrap());
        let (line_in, line_out) = mpsc::channel();
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| line_in.send(line))
        });
        line_out
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn finish(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "a child runs for more than {LIMIT:?}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn says(line: &str) -> Output {
    run(fulmar().args(line.split_whitespace()))
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn random_file(place: &Path, name: &str, size: usize) -> PathBuf {
    let mut bytes = vec![0; size];
    Rng::new(size as u64).fill(&mut bytes);
    let path = place.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn events(stdout: &[u8]) -> Vec<Value> {
    text(stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn last_event(events: &[Value], name: &str) -> Value {
    let found = events.iter().rev().find(|event| event["event"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {events:#?}"))
        .clone()
}

fn keys(object: &Value) -> Vec<&String> {
    object.as_object().unwrap().keys().collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn three_lines(said: &str) {
    for start in ["error: ", "because: ", "try: "] {
        assert_eq!(
            said.lines().filter(|line| line.starts_with(start)).count(),
            1,
            "{start} in {said}"
        );
    }
}

/// What is missing is said where no capture hides it; with `FULMAR_REQUIRE_PEERS=1` it is a failure.
fn skip_loudly(what: &str, missing: &[String]) {
    if missing.is_empty() {
        return;
    }
    let missing = missing.join("; ");
    let required = std::env::var("FULMAR_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    assert!(!required, "FULMAR_REQUIRE_PEERS=1, and missing: {missing}");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what} ({missing})");
}

/// What follows `fulmar` or `cargo run --release --` in a document's code, up to the end of the code or a comment.
fn commands_in(document: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut fenced = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let pieces: Vec<&str> = if fenced {
            vec![line]
        } else {
            line.split('`').skip(1).step_by(2).collect()
        };
        for piece in pieces {
            let piece = piece
                .split('#')
                .next()
                .unwrap_or_default()
                .trim()
                .trim_start_matches("$ ");
            let command = ["fulmar ", "cargo run --release -- "]
                .iter()
                .find_map(|start| piece.strip_prefix(start));
            commands.extend(command.map(str::to_owned));
        }
    }
    commands
}

fn text_of_options(help: &[u8]) -> Vec<String> {
    text(help)
        .split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| word.starts_with("--"))
        .map(str::to_owned)
        .collect()
}

fn tracked_files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .arg("-C")
        .arg(root())
        .args(["ls-files", "-z"])
        .output();
    match listed {
        Ok(output) if output.status.success() => text(&output.stdout)
            .split_terminator('\0')
            .map(|name| root().join(name))
            .collect(),
        // Not a clone, or no git: everything that is not built.
        Ok(_) | Err(_) => walk(root()),
    }
}

fn walk(directory: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            files.push(entry.path());
        } else if entry.file_type().unwrap().is_dir()
            && !["target", ".git"]
                .iter()
                .any(|name| entry.file_name() == *name)
        {
            files.extend(walk(entry.path()));
        }
    }
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

const BINARY: &str = env!("CARGO_BIN_EXE_fulmar");
/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
