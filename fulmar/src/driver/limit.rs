//! What this machine's loopback carries at most: [`raw_limit`].
//!
//! Two plain threads and no protocol: one sends full segmented batches of 1400-byte datagrams, the other receives merged
//! ones. Whatever a protocol reaches is measured against this. Nothing here is flow-controlled, so the sender outruns
//! the receiver; what arrived is the limit. It does *not* say anything about a network card.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fulmar_proto::Transmit;
use fulmar_proto::engine::Bitrate;
use polling::Poller;

use super::GATHER_BULK;
use super::port::exact_naps;
use super::socket::{Inbox, Socket};
use super::stats::{Counters, Stats};

/// What [`raw_limit`] measured.
#[derive(Clone, Copy, Debug)]
pub struct RawLimit {
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// UDP payload bytes that arrived.
    pub bytes: u64,
    /// Datagrams in one send call.
    pub segments: usize,
    /// Datagrams in one received batch, on average.
    pub merged: f64,
    /// Time taken.
    pub elapsed: Duration,
}

impl RawLimit {
    /// UDP payload that arrived, per second.
    pub fn rate(&self) -> Bitrate {
        Bitrate::from_bytes_per_sec((self.bytes as f64 / self.elapsed.as_secs_f64()) as u64)
    }
}

/// Sends 1400-byte datagrams over loopback for `duration`, as fast as two threads can.
///
/// # Errors
/// If sockets or threads cannot be had, or nothing arrives at all.
pub fn raw_limit(duration: Duration) -> io::Result<RawLimit> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sender = Socket::bind(loopback)?;
    let mut receiver = Socket::bind(loopback)?;
    let to = receiver.local_addr();
    let segments = sender.max_segments();
    let over = Arc::new(AtomicBool::new(false));

    let poller = Arc::new(Poller::new()?);
    receiver.watch(Arc::clone(&poller))?;
    let receiving = thread::Builder::new().name("raw receive".into()).spawn({
        let over = Arc::clone(&over);
        move || receive(&receiver, &poller, &over)
    })?;
    let start = Instant::now();
    let sent = blast(&sender, to, segments, duration);
    over.store(true, Relaxed);
    let received = receiving
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let elapsed = start.elapsed();
    if received.datagrams_in == 0 {
        return Err(io::Error::other("no datagram arrived over loopback"));
    }
    Ok(RawLimit {
        sent: sent.datagrams_out,
        received: received.datagrams_in,
        bytes: received.bytes_in,
        segments,
        merged: received.datagrams_in as f64 / received.batches_in as f64,
        elapsed,
    })
}

fn blast(socket: &Socket, to: SocketAddr, segments: usize, duration: Duration) -> Stats {
    let counters = Counters::default();
    let bytes = vec![0xa5; segments * DATAGRAM];
    let transmit = Transmit {
        to,
        socket: 0,
        from_ip: None,
        ecn: None,
        len: bytes.len(),
        segment: Some(DATAGRAM),
    };
    let end = Instant::now() + duration;
    while Instant::now() < end {
        // A full buffer means try again, which is the next turn.
        let _ = socket.send(&transmit, &bytes, &mut 0, &counters);
    }
    counters.snapshot()
}

fn receive(socket: &Socket, poller: &Poller, over: &AtomicBool) -> io::Result<Stats> {
    exact_naps();
    let counters = Counters::default();
    let mut inbox = Inbox::new();
    let mut ready = polling::Events::new();
    while !over.load(Relaxed) {
        if socket.recv(&mut inbox, &counters)? == 0 {
            ready.clear();
            poller.wait(&mut ready, Some(LAST_LOOK))?;
            thread::sleep(GATHER_BULK);
        }
    }
    Ok(counters.snapshot())
}

const DATAGRAM: usize = 1400;
/// How late the receiver may notice the end.
const LAST_LOOK: Duration = Duration::from_millis(5);
