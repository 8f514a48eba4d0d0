//! What a running program shows to those who watch it: [`Metrics`], over HTTP.
//!
//! `GET /metrics` answers in the text format of Prometheus, `GET /health` with `ok`. The server is a handful of plain
//! threads; whoever asks costs a bounded time and a bounded memory, and no answer depends on what was asked but for its
//! path. It does *not* authenticate or encrypt, so it belongs on loopback or behind something that does, and it never
//! changes what it watches.

mod http;
mod prometheus;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fulmar_proto::engine::Figure;

use crate::driver::{Stats, Watcher};

/// A server of metrics, until this is dropped.
#[derive(Debug)]
pub struct Metrics {
    listener: Arc<TcpListener>,
    local: SocketAddr,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Figures at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Part of every name: `hpudp`.
    pub protocol: &'static str,
    /// What the socket did.
    pub socket: Stats,
    /// What the endpoint did.
    pub figures: Vec<Figure>,
}

impl Snapshot {
    /// The figures of a driver and its endpoint, which speaks `protocol`.
    pub fn of(protocol: &'static str, watched: &Watcher) -> Self {
        Self {
            protocol,
            socket: watched.stats(),
            figures: watched.figures(PATIENCE),
        }
    }
}

impl Metrics {
    /// Serves at `addr`; port 0 takes any that is free. `source` is asked once for every `GET /metrics`, on a thread of
    /// the server.
    ///
    /// # Errors
    /// If the address is not to be had, or no thread.
    pub fn serve(
        addr: SocketAddr,
        source: impl Fn() -> Snapshot + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind(addr)?);
        let local = listener.local_addr()?;
        let (over, source) = (Arc::new(AtomicBool::new(false)), Arc::new(source));
        let mut metrics = Self {
            listener,
            local,
            over,
            threads: Vec::new(),
        };
        for _ in 0..CONNECTIONS {
            let (listener, over) = (Arc::clone(&metrics.listener), Arc::clone(&metrics.over));
            let source = Arc::clone(&source);
            let serve = move || {
                while !over.load(SeqCst) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            http::serve(stream, || prometheus::page(&source()));
                        }
                        // Out of descriptors, or the caller is gone again: neither is a reason to stop.
                        Err(_) => thread::sleep(PAUSE),
                    }
                }
            };
            let thread = thread::Builder::new().name("metrics".into()).spawn(serve)?;
            metrics.threads.push(thread);
        }
        Ok(metrics)
    }

    /// The address it serves at.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        // A thread that waits for a connection wakes up from this, and sees that it is over.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// How long a figure is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// After an accept failed.
const PAUSE: Duration = Duration::from_millis(50);
