//! Who copies the file: this program, plain TCP, QUIC, `scp` and `rsync`. `fulmar.rs` and `quinn.rs` have their own.
//!
//! The peers get what they need to run at their best and nothing of the user's: an `sshd` of our own with throw-away
//! keys and an `rsync` daemon with a configuration of its own, both on loopback and in the bench's directory, both
//! ended by their process id. Every wait has an end. They do *not* touch any file of the user: all of theirs live in one
//! directory that goes away with [`Place`].

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fulmar_proto::engine::Bytes;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::fulmar::{Fulmar, Way};
use super::process::{Running, free_port, program};
use super::quinn::Quinn;

/// Something that copies a file over loopback.
pub(super) trait Contender {
    /// Copies `source` into the directory `target` under its own name.
    ///
    /// # Errors
    ///
    /// Whatever stopped it, or that it took too long.
    fn copy(&mut self, source: &Path, target: &Path, stop: &AtomicBool) -> anyhow::Result<Copied>;
}

/// What one copy took.
pub(super) struct Copied {
    /// By the clock.
    pub(super) time: Duration,
    /// Largest resident memory of the sending and the receiving process.
    pub(super) peak_bytes: [Option<u64>; 2],
}

/// Name, note, and the contender itself or why it is not here.
pub(super) type Entry = (
    &'static str,
    &'static str,
    anyhow::Result<Box<dyn Contender>>,
);

/// Everyone who may be measured, in the order of the runs.
pub(super) fn all(binary: &Path, place: &Place) -> Vec<Entry> {
    let fulmar = |way, encrypt| boxed(Ok(Fulmar::new(binary, place.dir(), way, encrypt)));
    let tcp = |mss| Ok(Box::new(Tcp { mss }) as Box<dyn Contender>);
    vec![
        (
            "fulmar send, encrypted",
            "two processes; the clock runs from the start of `send` to its exit",
            fulmar(Way::Send, true),
        ),
        (
            "fulmar send, plain",
            "as above, contents readable on the way",
            fulmar(Way::Send, false),
        ),
        (
            "fulmar put, encrypted",
            "`put` to `serve --allow-put`, two processes; the clock runs from the start of `put` to its exit",
            fulmar(Way::Put, true),
        ),
        (
            "tcp, 1400-byte segments",
            "two threads, read, write, no encryption; the segment size of a real path",
            tcp(Some(1400)),
        ),
        (
            "tcp, as it comes",
            "as above, but loopback lets TCP use segments of 64 KB, which no wire carries",
            tcp(None),
        ),
        (
            "quinn",
            "one QUIC stream, AES-128-GCM, two processes; the clock runs from the start of the sender to its exit",
            boxed(Quinn::find(binary, "cubic", QUINN_WINDOW)),
        ),
        (
            "scp",
            "aes128-gcm@openssh.com, an sshd of our own; the clock includes its handshake",
            boxed(Scp::start(place, Ipv4Addr::LOCALHOST)),
        ),
        (
            "rsync",
            "daemon without encryption, --whole-file",
            boxed(Rsync::start(place)),
        ),
    ]
}

fn boxed<C: Contender + 'static>(
    contender: anyhow::Result<C>,
) -> anyhow::Result<Box<dyn Contender>> {
    contender.map(|contender| Box::new(contender) as Box<dyn Contender>)
}

/// A private directory in memory if there is room, on disk if not. It goes away with this.
pub(super) struct Place {
    dir: TempDir,
    parent: PathBuf,
}

impl Place {
    /// A directory where a file of this size fits twice.
    pub(super) fn new(size: u64) -> anyhow::Result<Self> {
        let need = size.saturating_mul(2).saturating_add(MARGIN);
        let candidates = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
        let Some(parent) = candidates
            .into_iter()
            .find(|dir| free_bytes(dir).is_some_and(|free| free >= need))
        else {
            bail!(
                "neither /dev/shm nor {} has {} free",
                std::env::temp_dir().display(),
                Bytes(need)
            );
        };
        let dir = tempfile::Builder::new()
            .prefix("fulmar-bench-")
            .tempdir_in(&parent)?;
        Ok(Self { dir, parent })
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file system it is in.
    pub(super) fn parent(&self) -> &Path {
        &self.parent
    }

    /// An empty directory to copy into.
    pub(super) fn fresh_target(&self) -> io::Result<PathBuf> {
        let target = self.target();
        match fs::remove_dir_all(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir(&target)?;
        Ok(target)
    }

    fn target(&self) -> PathBuf {
        self.dir().join("target")
    }
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// One connection, file to socket to file, in this process.
struct Tcp {
    /// Segment size forced upon both ends.
    mss: Option<u32>,
}

impl Contender for Tcp {
    fn copy(&mut self, source: &Path, target: &Path, _stop: &AtomicBool) -> anyhow::Result<Copied> {
        let listener = self.socket()?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(1)?;
        let listener = TcpListener::from(listener);
        let to = listener.local_addr()?;
        let target = target.join(source.file_name().context("the file has no name")?);
        let start = Instant::now();
        thread::scope(|scope| {
            let receiving = scope.spawn(move || -> io::Result<()> {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(STALL))?;
                pump(&mut stream, &mut fs::File::create_new(target)?)
                // Closing the stream tells the sender that everything was written.
            });
            let client = self.socket()?;
            client.connect(&to.into())?;
            let mut stream = TcpStream::from(client);
            stream.set_write_timeout(Some(STALL))?;
            stream.set_read_timeout(Some(STALL))?;
            pump(&mut fs::File::open(source)?, &mut stream)?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())?;
            receiving
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(Copied {
            time: start.elapsed(),
            peak_bytes: [None, None],
        })
    }
}

impl Tcp {
    fn socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if let Some(mss) = self.mss {
            socket.set_tcp_mss(mss)?;
        }
        Ok(socket)
    }
}

fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buf = vec![0; STEP];
    loop {
        match from.read(&mut buf)? {
            0 => return Ok(()),
            read => to.write_all(&buf[..read])?,
        }
    }
}

/// `scp` to an `sshd` of our own.
pub(super) struct Scp {
    /// Keys, configuration and the list of known hosts.
    dir: TempDir,
    at: SocketAddr,
    user: String,
    _sshd: Running,
    _privsep: Option<PrivsepDir>,
}

impl Scp {
    /// Starts the `sshd` at any port of `ip`, an address of this machine, in the caller's network namespace.
    pub(super) fn start(place: &Place, ip: Ipv4Addr) -> anyhow::Result<Self> {
        let sshd = program("sshd")?;
        let keygen = program("ssh-keygen")?;
        program("scp")?;
        let home = tempfile::Builder::new()
            .prefix("ssh-")
            .tempdir_in(place.dir())?;
        let dir = home.path();
        for key in ["host", "user"] {
            let mut command = Command::new(&keygen);
            command
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "fulmar bench", "-f"])
                .arg(dir.join(key));
            Running::spawn(&mut command)?.finish("ssh-keygen", &AtomicBool::new(false))?;
        }
        let user = user_name()?;
        let port = free_port(ip)?;
        let host_key = fs::read_to_string(dir.join("host.pub"))?;
        fs::write(dir.join("known_hosts"), format!("[{ip}]:{port} {host_key}"))?;
        fs::copy(dir.join("user.pub"), dir.join("authorized_keys"))?;
        let config = dir.join("sshd_config");
        fs::write(
            &config,
            format!(
                "Port {port}\nListenAddress {ip}\nHostKey \"{dir}/host\"\nPidFile none\n\
                 AuthorizedKeysFile \"{dir}/authorized_keys\"\nStrictModes no\nUsePAM no\nLogLevel ERROR\n\
                 PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
                 AllowUsers {user}\nCiphers {CIPHER}\nSubsystem sftp internal-sftp\n",
                dir = dir.display()
            ),
        )?;
        let privsep = PrivsepDir::ensure();
        let mut sshd = Running::spawn(
            Command::new(sshd)
                .arg("-D")
                .arg("-e")
                .arg("-f")
                .arg(&config),
        )?;
        let at = SocketAddr::from((ip, port));
        sshd.wait_for_listener(at).context("sshd did not start")?;
        Ok(Self {
            dir: home,
            at,
            user,
            _sshd: sshd,
            _privsep: privsep,
        })
    }

    /// The command that copies `source` into the directory `target` of this machine.
    pub(super) fn command(&self, source: &Path, target: &Path) -> Command {
        let known = format!(
            "UserKnownHostsFile=\"{}\"",
            self.dir.path().join("known_hosts").display()
        );
        let mut scp = Command::new("scp");
        scp.args([
            "-q",
            "-F",
            "none",
            "-c",
            CIPHER,
            "-P",
            &self.at.port().to_string(),
            "-i",
        ])
        .arg(self.dir.path().join("user"));
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=yes",
            &known,
        ] {
            scp.args(["-o", option]);
        }
        scp.args(["-o", "GlobalKnownHostsFile=none"]);
        scp.arg(source).arg(format!(
            "{}@{}:{}/",
            self.user,
            self.at.ip(),
            target.display()
        ));
        scp
    }
}

impl Contender for Scp {
    fn copy(&mut self, source: &Path, target: &Path, stop: &AtomicBool) -> anyhow::Result<Copied> {
        timed("scp", &mut self.command(source, target), stop)
    }
}

/// As root, `sshd` wants an empty directory that a system's start normally makes.
struct PrivsepDir;

impl PrivsepDir {
    fn ensure() -> Option<Self> {
        fs::create_dir(Self::PATH).ok().map(|()| Self)
    }

    const PATH: &str = "/run/sshd";
}

impl Drop for PrivsepDir {
    fn drop(&mut self) {
        // Only if it is empty, and somebody else's if not.
        let _ = fs::remove_dir(Self::PATH);
    }
}

/// `rsync` to a daemon of our own.
struct Rsync {
    port: u16,
    _daemon: Running,
}

impl Rsync {
    fn start(place: &Place) -> anyhow::Result<Self> {
        let rsync = program("rsync")?;
        let port = free_port(Ipv4Addr::LOCALHOST)?;
        let config = place.dir().join("rsyncd.conf");
        // As root the daemon would become nobody, who may not write here.
        let identity = if rustix::process::getuid().is_root() {
            "uid = 0\ngid = 0\n"
        } else {
            ""
        };
        let target = place.target();
        fs::write(
            &config,
            format!(
                "use chroot = no\n{identity}[bench]\npath = {}\nread only = no\n",
                target.display()
            ),
        )?;
        let mut command = Command::new(rsync);
        command.args([
            "--daemon",
            "--no-detach",
            "--address=127.0.0.1",
            &format!("--port={port}"),
        ]);
        command
            .arg(format!("--config={}", config.display()))
            .arg("--log-file=/dev/null");
        let mut daemon = Running::spawn(&mut command)?;
        daemon
            .wait_for_listener((Ipv4Addr::LOCALHOST, port).into())
            .context("rsync --daemon did not start")?;
        Ok(Self {
            port,
            _daemon: daemon,
        })
    }
}

impl Contender for Rsync {
    fn copy(&mut self, source: &Path, _target: &Path, stop: &AtomicBool) -> anyhow::Result<Copied> {
        let mut rsync = Command::new("rsync");
        rsync
            .arg("--whole-file")
            .arg(source)
            .arg(format!("rsync://127.0.0.1:{}/bench/", self.port));
        timed("rsync", &mut rsync, stop)
    }
}

fn timed(name: &str, command: &mut Command, stop: &AtomicBool) -> anyhow::Result<Copied> {
    let start = Instant::now();
    Running::spawn(command)?.finish(name, stop)?;
    Ok(Copied {
        time: start.elapsed(),
        peak_bytes: [None, None],
    })
}

fn user_name() -> anyhow::Result<String> {
    let output = Command::new("id")
        .arg("-un")
        .stdin(Stdio::null())
        .output()
        .context("cannot run id")?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if name.is_empty() {
        bail!("this user has no name");
    }
    Ok(name)
}

/// What quinn may have on its way over loopback, in bytes: with 2 MiB it costs least processor time of 1 to 8 MiB.
const QUINN_WINDOW: u32 = 2 << 20;
const CIPHER: &str = "aes128-gcm@openssh.com";
/// Room beside the two files.
const MARGIN: u64 = 64 << 20;
const STEP: usize = 1 << 20;
/// A connection that moves nothing for this long has failed.
const STALL: Duration = Duration::from_secs(60);
