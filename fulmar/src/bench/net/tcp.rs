//! One TCP connection from file to file, with the congestion control that is asked for.
//!
//! Both ends are threads of this process; their sockets belong to the ends of the road. What [`Meter`] counts is what
//! the receiver has written. It does *not* encrypt.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};

use super::peers::{Moved, Task};
use super::road::FAR;

/// Whether the kernel has this congestion control, after asking for its module.
///
/// # Errors
///
/// That it has not.
pub(super) fn available(congestion: &str) -> anyhow::Result<()> {
    let listed = || -> anyhow::Result<bool> {
        let list = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")?;
        Ok(list.split_whitespace().any(|name| name == congestion))
    };
    if listed()? {
        return Ok(());
    }
    let module = format!("tcp_{congestion}");
    let asked = Command::new("modprobe")
        .arg(module)
        .stdin(Stdio::null())
        .output();
    if asked.is_ok() && listed()? {
        return Ok(());
    }
    bail!("this kernel has no TCP congestion control called {congestion}")
}

/// Moves the file.
///
/// # Errors
///
/// If a socket or a file fails, or it was told to stop.
pub(super) fn carry(task: &Task<'_>, congestion: &str) -> anyhow::Result<Moved> {
    let listener = task.road.far().enter(|| {
        let listener = TcpListener::bind((FAR, 0))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })?;
    let to = listener.local_addr()?;
    let socket = task.road.near().enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket
            .set_tcp_congestion(congestion.as_bytes())
            .with_context(|| format!("the kernel refuses {congestion}"))?;
        Ok(socket)
    })?;
    let target = task.target.join("source");
    Meter::default().follow(
        task,
        |meter| receive(&listener, File::create_new(&target)?, meter),
        |meter| {
            match socket.connect_timeout(&to.into(), task.limit) {
                // The road may be too bad to get through at all.
                Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(()),
                connected => connected?,
            }
            send(File::open(task.source)?, socket.into(), meter)
        },
    )
}

/// What two threads and whoever waits for them know of a transfer.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: AtomicU64,
    whole: AtomicBool,
    over: AtomicBool,
}

impl Meter {
    /// The receiver has written so many more bytes.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// The receiver has written everything.
    pub(super) fn finish(&self) {
        self.whole.store(true, Relaxed);
    }

    /// Whether there is no more time.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Runs both ends, each on a thread, until all is written or the time is over, and both have ended. Each must look
    /// at [`is_over`](Self::is_over) now and then.
    ///
    /// # Errors
    ///
    /// The first of theirs, or that it was told to stop.
    ///
    /// # Panics
    ///
    /// If one of them does, with its panic.
    pub(super) fn follow(
        &self,
        task: &Task<'_>,
        receive: impl FnOnce(&Self) -> anyhow::Result<()> + Send,
        send: impl FnOnce(&Self) -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<Moved> {
        let start = Instant::now();
        thread::scope(|scope| {
            let receiving = scope.spawn(|| timed(receive(self)));
            let sending = scope.spawn(|| timed(send(self)));
            while !self.whole.load(Relaxed)
                && !task.stop.load(Relaxed)
                && !receiving.is_finished()
                && start.elapsed() < task.limit
            {
                thread::sleep(GLANCE);
            }
            let (whole, bytes) = (self.whole.load(Relaxed), self.bytes.load(Relaxed));
            let time = start.elapsed();
            self.over.store(true, Relaxed);
            let [sent, received] = [sending, receiving].map(|end| {
                end.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            if task.stop.load(Relaxed) {
                bail!("interrupted");
            }
            Ok(Moved {
                bytes,
                time,
                whole,
                cpu: [Some(sent?), Some(received?)],
            })
        })
    }
}

/// Processor time of this thread, which has done nothing but this.
fn timed(done: anyhow::Result<()>) -> anyhow::Result<Duration> {
    done?;
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Ok(Duration::try_from(time)?)
}

fn receive(listener: &TcpListener, mut file: File, meter: &Meter) -> anyhow::Result<()> {
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if is_nothing_yet(&error) => {
                if meter.is_over() {
                    return Ok(());
                }
                thread::sleep(GLANCE);
            }
            Err(error) => return Err(error.into()),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TURN))?;
    let mut buf = vec![0; STEP];
    while !meter.is_over() {
        match stream.read(&mut buf) {
            Ok(0) => {
                meter.finish();
                return Ok(());
            }
            Ok(read) => {
                file.write_all(&buf[..read])?;
                meter.add(read);
            }
            Err(error) if is_nothing_yet(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn send(mut file: File, mut stream: TcpStream, meter: &Meter) -> anyhow::Result<()> {
    stream.set_write_timeout(Some(TURN))?;
    let mut buf = vec![0; STEP];
    loop {
        let read = file.read(&mut buf)?;
        if read == 0 {
            stream.shutdown(Shutdown::Write)?;
            return Ok(());
        }
        let mut left = &buf[..read];
        while !left.is_empty() {
            if meter.is_over() {
                return Ok(());
            }
            match stream.write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if is_nothing_yet(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_nothing_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

const STEP: usize = 256 << 10;
/// How late an end may notice that the time is over.
const TURN: Duration = Duration::from_millis(50);
const GLANCE: Duration = Duration::from_millis(1);
