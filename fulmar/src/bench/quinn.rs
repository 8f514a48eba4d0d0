//! `quinn-peer`, a program of this repository's own that moves one file over one QUIC stream.
//!
//! It does *not* build that program: who compares does, with `cargo build --release -p quinn-peer`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;

use super::peers::{Contender, Copied};
use super::process::{Running, program};

/// The program, with a congestion controller and windows for all of its runs.
#[derive(Clone, Debug)]
pub(super) struct Quinn {
    program: PathBuf,
    controller: &'static str,
    window: u32,
}

impl Quinn {
    /// What errors and tables call it.
    pub(super) const NAME: &str = "quinn-peer";

    /// Finds it: beside `binary`, which is this program, or where programs are. `controller` is `cubic` or `bbr`, and
    /// `window` what may be on its way, in bytes.
    ///
    /// # Errors
    ///
    /// That it is not there, and how it gets there.
    pub(super) fn find(
        binary: &Path,
        controller: &'static str,
        window: u32,
    ) -> anyhow::Result<Self> {
        let beside = binary.with_file_name(Self::NAME);
        let program = if beside.is_file() {
            beside
        } else {
            program(Self::NAME)
                .ok()
                .context("quinn-peer is not here; cargo build --release -p quinn-peer builds it")?
        };
        Ok(Self {
            program,
            controller,
            window,
        })
    }

    /// The command that receives `file` at `listen`, writes it in order, says in a line of JSON where it listens, and
    /// writes the certificate that its sender needs.
    pub(super) fn receiver(&self, listen: SocketAddr, certificate: &Path, file: &Path) -> Command {
        let mut command = self.command("recv", listen, certificate, file);
        command.stdout(Stdio::piped());
        command
    }

    /// The command that sends `file` and ends when all of it was written at the other side.
    pub(super) fn sender(&self, to: SocketAddr, certificate: &Path, file: &Path) -> Command {
        self.command("send", to, certificate, file)
    }

    fn command(&self, verb: &str, at: SocketAddr, certificate: &Path, file: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args([verb, self.controller, &self.window.to_string()]);
        command.arg(at.to_string()).arg(certificate).arg(file);
        command
    }
}

impl Contender for Quinn {
    fn copy(&mut self, source: &Path, target: &Path, stop: &AtomicBool) -> anyhow::Result<Copied> {
        let certificate = target.join("certificate");
        let name = source.file_name().context("the file has no name")?;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut recv = self.receiver(listen, &certificate, &target.join(name));
        let mut recv = Running::spawn(&mut recv)?;
        let to = recv.ready(Self::NAME)?;
        let start = Instant::now();
        let mut send = Running::spawn(&mut self.sender(to, &certificate, source))?;
        send.finish(Self::NAME, stop)?;
        let time = start.elapsed();
        recv.finish(Self::NAME, stop)?;
        Ok(Copied {
            time,
            peak_bytes: [send.peak_bytes, recv.peak_bytes],
        })
    }
}
