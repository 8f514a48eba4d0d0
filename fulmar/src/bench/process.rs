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
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// A child process that does not outlive this.
pub(super) struct Running {
    child: Child,
    /// Its standard error: a file, because a pipe that nobody reads stops who writes to it.
    stderr: fs::File,
    /// Largest resident memory it was seen to have, where the system tells.
    pub(super) peak_bytes: Option<u64>,
    /// Processor time, user and system, when it was last looked at; its end included once it was waited for.
    pub(super) cpu: Option<Duration>,
    /// Lines of its output after the first, and when each was read.
    lines: Option<mpsc::Receiver<(Instant, String)>>,
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
            cpu: None,
            lines: None,
        })
    }

    /// The address of `recv`'s first line of JSON; the rest of its output is for [`lines`](Self::lines).
    pub(super) fn ready(&mut self) -> anyhow::Result<SocketAddr> {
        let stdout = self
            .child
            .stdout
            .take()
            .context("its output was not asked for")?;
        // One line a second and transfer: nobody has to keep up with it.
        let (line_in, line_out) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = line_in.send((Instant::now(), line));
            }
        });
        let Ok((_, line)) = line_out.recv_timeout(START) else {
            bail!("fulmar recv did not start: {}", self.last_words())
        };
        self.lines = Some(line_out);
        let ready: serde_json::Value = serde_json::from_str(&line)?;
        let listen = ready["listen"]
            .as_str()
            .with_context(|| format!("fulmar recv began with {line}"))?;
        Ok(listen.parse()?)
    }

    /// The lines that were read so far and not asked for yet, and when each was read.
    pub(super) fn lines(&self) -> impl Iterator<Item = (Instant, String)> {
        self.lines.iter().flat_map(mpsc::Receiver::try_iter)
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

    /// As [`finish`](Self::finish), but says false when it is still running at `deadline`.
    pub(super) fn finish_by(
        &mut self,
        deadline: Instant,
        name: &str,
        stop: &AtomicBool,
    ) -> anyhow::Result<bool> {
        match self.wait_until(deadline, stop)? {
            Some(status) if status.success() => Ok(true),
            Some(status) => {
                let words = self.last_words();
                Err(anyhow!("{name} ended with {status}: {words}"))
            }
            None => Ok(false),
        }
    }

    fn wait(&mut self, name: &str, stop: &AtomicBool) -> anyhow::Result<ExitStatus> {
        self.wait_until(Instant::now() + LIMIT, stop)?
            .with_context(|| format!("{name} took longer than {} s", LIMIT.as_secs()))
    }

    fn wait_until(
        &mut self,
        deadline: Instant,
        stop: &AtomicBool,
    ) -> anyhow::Result<Option<ExitStatus>> {
        let pid = Pid::from_child(&self.child);
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            // What a process took is known until somebody has waited for it.
            let over = !matches!(waitid(WaitId::Pid(pid), look), Ok(None));
            let late = Instant::now() > deadline;
            if over || late {
                self.cpu = cpu_time(self.child.id()).or(self.cpu);
            }
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            self.peak_bytes = peak_bytes(self.child.id()).or(self.peak_bytes);
            if stop.load(Relaxed) {
                bail!("interrupted");
            }
            if late {
                return Ok(None);
            }
            thread::sleep(GLANCE);
        }
    }

    /// Waits until somebody listens at this TCP address, which must be it.
    pub(super) fn wait_for_listener(&mut self, at: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(at).is_err() {
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

/// Processor time of a process so far, of those it has waited for as well.
fn cpu_time(id: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let ticks = cpu_ticks(&stat)?;
    let rate = rustix::param::clock_ticks_per_second();
    Some(Duration::from_nanos(
        ticks.checked_mul(1_000_000_000)? / rate,
    ))
}

/// `utime + stime + cutime + cstime` of a line of `/proc/PID/stat`, whose second word may hold blanks and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let times = after_name.split_whitespace().skip(11).take(4);
    times
        .map(|word| word.parse::<u64>().ok())
        .try_fold(0u64, |sum, ticks| sum.checked_add(ticks?))
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

/// A TCP port of this address that was free a moment ago.
pub(super) fn free_port(ip: Ipv4Addr) -> io::Result<u16> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?.port())
}

/// A child that needs longer than this has failed.
const LIMIT: Duration = Duration::from_secs(300);
/// A daemon that is not up after this has failed.
const START: Duration = Duration::from_secs(10);
/// Bytes of a child's complaints that are repeated.
const WORDS_MAX: u64 = 2000;
/// How often a child is looked at; what it costs and the precision of its time.
const GLANCE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn processor_time_is_that_of_the_process_and_of_those_it_waited_for() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 30 12 5 3 20 0 1 0 100";
        assert_eq!(cpu_ticks(stat), Some(50));
        assert_eq!(cpu_ticks("7 (a) S 1 7 7 0 -1 1 1 0 0 0 30 x"), None);
        assert_eq!(cpu_ticks("nothing"), None);
    }

    #[test]
    fn an_end_is_waited_for_until_a_time_and_its_cost_is_known() {
        let stop = AtomicBool::new(false);
        let mut idle = Running::spawn(Command::new("sleep").arg("60")).unwrap();
        assert!(!idle.finish_by(Instant::now(), "sleep", &stop).unwrap());
        let mut busy = Running::spawn(Command::new("sh").args(["-c", BUSY])).unwrap();
        let far = Instant::now() + LIMIT;
        assert!(busy.finish_by(far, "sh", &stop).unwrap());
        assert!(busy.cpu.unwrap() > Duration::ZERO);
        let mut bad =
            Running::spawn(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap();
        let error = bad.finish_by(far, "sh", &stop).unwrap_err().to_string();
        assert!(error.contains("no") && error.contains('3'), "{error}");
    }

    const BUSY: &str = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
}
