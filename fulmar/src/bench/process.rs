//! The child processes of a bench: started, watched, ended.
//!
//! Every wait has an end, and no child outlives its [`Running`]. It does *not* know what the programs do.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

/// A child process that does not outlive this.
pub(super) struct Running {
    child: Child,
    /// Its standard error: a file, because a pipe that nobody reads stops who writes to it.
    stderr: fs::File,
    /// Largest resident memory it was seen to have, where the system tells.
    pub(super) peak_bytes: Option<u64>,
}

impl Running {
    /// Starts it, without input.
    pub(super) fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        let stderr = tempfile::tempfile()?;
        let child = command
            .stdin(Stdio::null())
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self {
            child,
            stderr,
            peak_bytes: None,
        })
    }

    /// The address of `recv`'s first line of JSON; the rest of its output is read and dropped.
    pub(super) fn ready(&mut self) -> anyhow::Result<SocketAddr> {
        let stdout = self
            .child
            .stdout
            .take()
            .context("its output was not asked for")?;
        let (line_in, line_out) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            let _ = line_in.send(lines.next().and_then(Result::ok));
            lines.for_each(drop);
        });
        let line = line_out.recv_timeout(START).ok().flatten();
        let Some(line) = line else {
            bail!("fulmar recv did not start: {}", self.last_words())
        };
        let ready: serde_json::Value = serde_json::from_str(&line)?;
        let listen = ready["listen"]
            .as_str()
            .with_context(|| format!("fulmar recv began with {line}"))?;
        Ok(listen.parse()?)
    }

    /// Waits for its end, which must be a success.
    pub(super) fn finish(&mut self, name: &str, stop: &AtomicBool) -> anyhow::Result<()> {
        let status = self.wait(name, stop)?;
        if status.success() {
            return Ok(());
        }
        let words = self.last_words();
        Err(anyhow!("{name} ended with {status}: {words}"))
    }

    fn wait(&mut self, name: &str, stop: &AtomicBool) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            self.peak_bytes = peak_bytes(self.child.id()).or(self.peak_bytes);
            if stop.load(Relaxed) {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                bail!("{name} took longer than {} s", LIMIT.as_secs());
            }
            thread::sleep(GLANCE);
        }
    }

    /// Waits until somebody listens at this port of loopback, which must be it.
    pub(super) fn wait_for_port(&mut self, port: u16) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if self.child.try_wait()?.is_some() {
                bail!("it ended at once: {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("it did not listen within {} s", START.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it wrote to its standard error, on one line. It has ended or is ended here.
    fn last_words(&mut self) -> String {
        self.end();
        let mut words = Vec::new();
        let read = self
            .stderr
            .rewind()
            .and_then(|()| (&mut self.stderr).take(WORDS_MAX).read_to_end(&mut words));
        match read {
            Ok(_) => String::from_utf8_lossy(&words)
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => format!("its words cannot be read: {error}"),
        }
    }

    fn end(&mut self) {
        // Either fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Largest resident memory of a process so far, where the system tells.
fn peak_bytes(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The full path of a program, which `sshd` insists on. Administrators' directories count even if a user's path
/// lacks them.
pub(super) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not installed"))
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// A child that needs longer than this has failed.
const LIMIT: Duration = Duration::from_secs(300);
/// A daemon that is not up after this has failed.
const START: Duration = Duration::from_secs(10);
/// Bytes of a child's complaints that are repeated.
const WORDS_MAX: u64 = 2000;
/// How often a child is looked at; what it costs and the precision of its time.
const GLANCE: Duration = Duration::from_millis(1);
