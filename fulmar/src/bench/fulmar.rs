//! This program as a contender: two processes of it, one that takes a file and one that gives it.
//!
//! Their keys, their list of known hosts and their cache are in the bench's directory. It does *not* measure; it says
//! what to run.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::peers::{Contender, Copied};
use super::process::Running;

/// Which two verbs, and whether contents are encrypted.
#[derive(Clone, Debug)]
pub(super) struct Fulmar {
    /// This program.
    binary: PathBuf,
    /// The directory for what it keeps.
    home: PathBuf,
    way: Way,
    encrypt: bool,
}

/// How a file gets across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `fulmar send` to `fulmar recv --once`.
    Send,
    /// `fulmar put` to `fulmar serve --allow-put`.
    Put,
}

impl Fulmar {
    /// Two processes of `binary`, which keep what they keep in `home`.
    pub(super) fn new(binary: &Path, home: &Path, way: Way, encrypt: bool) -> Self {
        Self {
            binary: binary.to_owned(),
            home: home.to_owned(),
            way,
            encrypt,
        }
    }

    /// The command that takes files into `target`, and says in lines of JSON where it listens and what arrives.
    pub(super) fn receiver(&self, listen: SocketAddr, target: &Path) -> Command {
        let mut command = self.command();
        match self.way {
            Way::Send => command.arg("recv").arg(target).arg("--once"),
            Way::Put => command.arg("serve").arg(target).arg("--allow-put"),
        };
        command.args(["--listen", &listen.to_string(), "--json"]);
        command.stdout(Stdio::piped());
        command
    }

    /// The command that gives `source` and ends when the receiver has verified and stored it.
    pub(super) fn sender(&self, to: SocketAddr, source: &Path) -> Command {
        let mut command = self.command();
        command.arg(self.sending()).arg(source).arg(to.to_string());
        command.arg(if self.encrypt { "--encrypt" } else { "--plain" });
        command.arg("--quiet");
        command
    }

    /// What errors call the receiver.
    pub(super) fn receiving(&self) -> &'static str {
        match self.way {
            Way::Send => "fulmar recv",
            Way::Put => "fulmar serve",
        }
    }

    /// Nothing that an earlier run found out helps the next one.
    ///
    /// # Errors
    ///
    /// If what is kept cannot be removed.
    pub(super) fn forget(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.home.join("cache")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Waits for the receiver's end if it ends with its sender; else only looks what it took so far.
    ///
    /// # Errors
    ///
    /// That it failed, or that `stop` was raised.
    pub(super) fn part(&self, recv: &mut Running, stop: &AtomicBool) -> anyhow::Result<()> {
        match self.way {
            Way::Send => recv.finish(self.receiving(), stop),
            Way::Put => recv
                .finish_by(Instant::now(), self.receiving(), stop)
                .map(drop),
        }
    }

    fn sending(&self) -> &'static str {
        match self.way {
            Way::Send => "send",
            Way::Put => "put",
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("XDG_CONFIG_HOME", self.home.join("config"));
        command.env("XDG_CACHE_HOME", self.home.join("cache"));
        command
    }
}

impl Contender for Fulmar {
    fn copy(&mut self, source: &Path, target: &Path, stop: &AtomicBool) -> anyhow::Result<Copied> {
        self.forget()?;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut recv = Running::spawn(&mut self.receiver(listen, target))?;
        let to = recv.ready(self.receiving())?;
        let start = Instant::now();
        let mut send = Running::spawn(&mut self.sender(to, source))?;
        send.finish(self.sending(), stop)?;
        let time = start.elapsed();
        self.part(&mut recv, stop)?;
        Ok(Copied {
            time,
            peak_bytes: [send.peak_bytes, recv.peak_bytes],
        })
    }
}
