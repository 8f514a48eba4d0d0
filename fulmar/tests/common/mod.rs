//! Both ends of a transfer as processes of the real binary, for the tests that let things happen to them.
//!
//! Every child is ended by its own number, every wait ends, every port is chosen by the system. Nothing here says what
//! is right; that is for the tests.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fulmar_proto::sim::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use xxhash_rust::xxh64::Xxh64;

/// One end of a transfer: a running `fulmar --json`. Dropped, it is killed.
pub(crate) struct End {
    child: Child,
    lines: mpsc::Receiver<String>,
    said: Option<JoinHandle<String>>,
    peak: Option<JoinHandle<u64>>,
    events: Vec<Value>,
}

/// How an end ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Every line of its standard output.
    pub(crate) events: Vec<Value>,
    /// Its standard error.
    pub(crate) said: String,
    /// The most memory it ever had resident, in KiB.
    pub(crate) peak: u64,
}

/// A receiver and where it listens.
pub(crate) struct Receiver {
    pub(crate) end: End,
    pub(crate) address: String,
}

impl Receiver {
    /// `fulmar recv` on a free port of IPv4 loopback.
    pub(crate) fn start(into: &Path, options: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", into, options)
    }

    /// `fulmar recv` at `listen`.
    pub(crate) fn start_at(listen: &str, into: &Path, options: &[&str]) -> Self {
        Self::start_with(fulmar(), listen, into, options)
    }

    /// `fulmar recv` behind what `command` begins with, such as a tracer.
    pub(crate) fn start_with(
        mut command: Command,
        listen: &str,
        into: &Path,
        options: &[&str],
    ) -> Self {
        command.arg("recv").arg(into).args(["--listen", listen]);
        Self::ready(End::spawn(command.args(options)))
    }

    /// `fulmar serve` on a free port of IPv4 loopback, which takes files too.
    pub(crate) fn serve(directory: &Path, options: &[&str]) -> Self {
        let mut command = fulmar();
        command.arg("serve").arg(directory).args(options);
        command.args(["--allow-put", "--listen", "127.0.0.1:0"]);
        Self::ready(End::spawn(&mut command))
    }

    /// Whoever was started to listen, once it does.
    pub(crate) fn ready(mut end: End) -> Self {
        let ready = end.wait_for("ready");
        Self {
            end,
            address: ready["listen"].as_str().unwrap().to_owned(),
        }
    }
}

/// `fulmar send`, started.
pub(crate) fn send(files: &[impl AsRef<OsStr>], to: &str, options: &[&str]) -> End {
    End::spawn(fulmar().arg("send").args(files).arg(to).args(options))
}

/// `fulmar put`, started.
pub(crate) fn put(file: &Path, to: &str, options: &[&str]) -> End {
    End::spawn(fulmar().arg("put").arg(file).arg(to).args(options))
}

/// `fulmar get`, started.
pub(crate) fn get(from: &str, name: &str, into: &Path, options: &[&str]) -> End {
    let mut command = fulmar();
    command.args(["get", from, name, "--into"]).arg(into);
    End::spawn(command.args(options))
}

impl End {
    /// Starts `command`, to which `--json` is added.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (line_in, lines) = mpsc::channel();
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| line_in.send(line))
        });
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.read_to_end(&mut said);
            String::from_utf8(said).expect("what people read is UTF-8")
        });
        let id = child.id();
        Self {
            child,
            lines,
            said: Some(said),
            peak: Some(thread::spawn(move || peak(id))),
            events: Vec::new(),
        }
    }

    /// The next event called `name`; those before it are kept for later.
    pub(crate) fn wait_for(&mut self, name: &str) -> Value {
        self.wait_within(name, LIMIT)
            .unwrap_or_else(|| panic!("no {name:?} after {:#?}", self.events))
    }

    /// The next event called `name`, if it comes within `patience` and before the end.
    pub(crate) fn wait_within(&mut self, name: &str, patience: Duration) -> Option<Value> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = parsed(&self.lines.recv_timeout(left).ok()?);
            self.events.push(event.clone());
            if event["event"] == name {
                return Some(event);
            }
        }
    }

    /// The last event of that name that was read by one of the waits.
    pub(crate) fn seen(&self, name: &str) -> Option<&Value> {
        self.events.iter().rfind(|event| event["event"] == name)
    }

    /// Whether an event of that name was read by one of the waits.
    pub(crate) fn has_seen(&self, name: &str) -> bool {
        self.events.iter().any(|event| event["event"] == name)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for it to end by itself.
    pub(crate) fn finish(self) -> Ended {
        self.finish_within(LIMIT)
    }

    /// The same, for what takes long.
    pub(crate) fn finish_within(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "still running after {limit:?}, and said {:#?}",
                self.events
            );
            thread::sleep(Duration::from_millis(5));
        };
        let mut events = std::mem::take(&mut self.events);
        events.extend(self.lines.iter().map(|line| parsed(&line)));
        Ended {
            status,
            events,
            said: self.said.take().unwrap().join().unwrap(),
            peak: self.peak.take().unwrap().join().unwrap(),
        }
    }

    /// Tells it to end, and waits for that.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.finish()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// All events of that name.
    pub(crate) fn all(&self, name: &str) -> Vec<&Value> {
        self.events
            .iter()
            .filter(|event| event["event"] == name)
            .collect()
    }

    /// Asserts that it ended with `code` and said so in three lines, of which one has `needle`; that is, that a
    /// person and a program both know why.
    pub(crate) fn failed_with(&self, code: i32, needle: &str) {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        for start in ["error: ", "because: ", "try: "] {
            assert!(
                self.said.lines().any(|line| line.starts_with(start)),
                "{start}: {self:#?}"
            );
        }
        assert!(self.said.contains(needle), "{needle}: {self:#?}");
        let last = self.all("failed").last().map(|event| event["exit"].clone());
        assert_eq!(last, Some(code.into()), "{self:#?}");
    }
}

/// Ends that must both go well; what both say of the one file.
pub(crate) fn both_done(sender: End, receiver: End) -> (Ended, Ended) {
    let sent = sender.finish();
    assert_eq!(sent.code(), Some(0), "{sent:#?}");
    let received = receiver.finish();
    assert_eq!(received.code(), Some(0), "{sent:#?} {received:#?}");
    assert_eq!((sent.all("done").len(), received.all("done").len()), (1, 1));
    (sent, received)
}

/// A new file of `size` bytes that no other seed and no other size gives.
pub(crate) fn random_file(path: &Path, size: u64, seed: u64) -> PathBuf {
    let mut file = fs::File::create(path).unwrap();
    let mut rng = Rng::new(seed ^ size.rotate_left(32));
    let mut left = size as usize;
    let mut bytes = vec![0; left.min(1 << 20)];
    while left > 0 {
        let len = left.min(bytes.len());
        rng.fill(&mut bytes[..len]);
        file.write_all(&bytes[..len]).unwrap();
        left -= len;
    }
    path.to_owned()
}

/// The xxHash64 of a file, as the events write it.
pub(crate) fn hash(path: &Path) -> String {
    let mut file = fs::File::open(path).unwrap();
    let mut state = Xxh64::new(0);
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes).unwrap() {
            0 => return format!("{:016x}", state.digest()),
            len => state.update(&bytes[..len]),
        }
    }
}

pub(crate) fn same(a: &Path, b: &Path) -> bool {
    let (mut one, mut two) = (fs::File::open(a).unwrap(), fs::File::open(b).unwrap());
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    if one.metadata().unwrap().len() != two.metadata().unwrap().len() {
        return false;
    }
    loop {
        let len = one.read(&mut left).unwrap();
        if two.read_exact(&mut right[..len]).is_err() || left[..len] != right[..len] {
            return false;
        }
        if len == 0 {
            return true;
        }
    }
}

/// A fresh directory in `place`.
pub(crate) fn inbox(place: &Path, name: &str) -> PathBuf {
    let path = place.join(name);
    fs::create_dir(&path).unwrap();
    path
}

pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Waits until the first bytes of a file are in `directory`, under the only kind of name that a file has which is not
/// whole.
pub(crate) fn wait_for_partial(directory: &Path) {
    let deadline = Instant::now() + LIMIT;
    loop {
        for name in names_in(directory) {
            assert!(is_partial(&name), "{name}");
            if fs::metadata(directory.join(name)).is_ok_and(|metadata| metadata.len() > 0) {
                return;
            }
        }
        assert!(Instant::now() < deadline, "nothing came");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a name is that of a file under construction: hidden, and none that a sender may choose.
pub(crate) fn is_partial(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".part")
}

/// Everything beneath a directory, links not followed: path and content.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(tree(&path));
        } else if metadata.is_symlink() {
            let to = fs::read_link(&path).unwrap();
            found.insert(path, to.into_os_string().into_encoded_bytes());
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// A small file system of its own.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// A tmpfs at `at`; `None`, said loudly, where that is not allowed.
    pub(crate) fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        skip("mounting a small file system needs root");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a child that is about to be killed may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Says where no capture hides it that a test does not happen; with `FULMAR_REQUIRE_PEERS=1` it fails instead.
pub(crate) fn skip(why: &str) {
    let required = std::env::var("FULMAR_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    assert!(!required, "FULMAR_REQUIRE_PEERS=1, and {why}");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Follows a process until it is gone: the most memory it ever had resident, in KiB.
fn peak(id: u32) -> u64 {
    let mut most = 0;
    while let Some(now) = fs::read_to_string(format!("/proc/{id}/status"))
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        })
    {
        most = now;
        thread::sleep(Duration::from_millis(20));
    }
    most
}

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_fulmar");
/// Longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The program under test, which keeps its keys, and what it remembers of files, in a place of its own.
pub(crate) fn fulmar() -> Command {
    let mut command = Command::new(BINARY);
    command.env("XDG_CONFIG_HOME", config_home());
    command.env("XDG_CACHE_HOME", config_home().join("cache"));
    command
}

/// Where the programs of this test process keep their keys.
pub(crate) fn config_home() -> &'static Path {
    static HOME: OnceLock<tempfile::TempDir> = OnceLock::new();
    let home = HOME.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        // The key is there before anybody counts or fails system calls.
        let made = Command::new(BINARY)
            .args(["key", "show"])
            .env("XDG_CONFIG_HOME", home.path())
            .output();
        assert!(made.unwrap().status.success());
        home
    });
    home.path()
}
