//! Receiving files into a directory: [`Receiver`].
//!
//! It binds and ends; what happens in between is `receiving.rs`, which daemons and clients that fetch share. It does *not*
//! overwrite or choose who may send.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use fulmar_proto::Endpoint;
use fulmar_proto::hpudp::{self, Command, Config, Event};

use super::receiving::{Accepts, Receiving};
use super::{
    FAREWELL, Kind, TICK, TransferError, Update, bind, open_directory, patience, spawn_bulk, sweep,
};
use crate::config::Dscp;
use crate::driver::{BUFFER_WANTED, Handle, NoEvent, Stopped, Watcher};
use crate::file::Directory;

/// How to receive.
#[derive(Clone, Debug, Default)]
pub struct ReceiveOptions {
    /// Parameters of the protocol. [`Config::socket_datagrams`] 0 is replaced by what the socket holds.
    pub config: Config,
    /// End after the first transfer that brought a packet, however it ends. An offer that nothing follows is no
    /// transfer: anybody can forge one.
    pub once: bool,
    /// How datagrams are marked for the network.
    pub dscp: Dscp,
}

/// A bound socket and a directory that files arrive in.
#[derive(Debug)]
pub struct Receiver {
    handle: Handle<hpudp::Endpoint>,
    directory: Directory,
    options: ReceiveOptions,
}

/// What a receiver did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Files given to peers that asked for them.
    pub served: u64,
    /// Files stored.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Offers not accepted.
    pub refused: u64,
    /// Accepted transfers that failed.
    pub failed: u64,
}

impl Tally {
    /// What this and another thread did.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            served: self.served + other.served,
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
            refused: self.refused + other.refused,
            failed: self.failed + other.failed,
        }
    }
}

impl Receiver {
    /// Opens `directory` and binds `listen`; `[::]` listens to IPv4 as well.
    ///
    /// # Errors
    /// If there is no such directory, or the address is not to be had.
    pub fn bind(
        directory: &Path,
        listen: SocketAddr,
        options: ReceiveOptions,
    ) -> Result<Self, TransferError> {
        let opened = open_directory(directory)?;
        let socket = bind(listen, options.dscp)?;
        let handle = spawn_bulk(socket, Vec::new(), listen, options.config.clone(), 1)?;
        sweep(&opened);
        Ok(Self {
            handle,
            directory: opened,
            options,
        })
    }

    /// For those who only look.
    pub fn watcher(&self) -> Watcher {
        self.handle.watcher()
    }

    /// The address it listens at.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// Receives files until `stop` is set, or one transfer has ended with [`ReceiveOptions::once`].
    ///
    /// # Errors
    /// If the socket dies; with `once`, also if that transfer failed or none began before `stop`.
    pub fn run(
        self,
        mut observer: impl FnMut(&Update),
        stop: &AtomicBool,
    ) -> Result<Tally, TransferError> {
        observer(&Update::SocketBuffers {
            granted: self.handle.buffers(),
            wanted: BUFFER_WANTED,
        });
        receive_through(&self.handle, &self.directory, &self.options, observer, stop)
    }
}

/// [`Receiver::run`] through an endpoint that runs already.
pub(super) fn receive_through<E>(
    handle: &Handle<E>,
    directory: &Directory,
    options: &ReceiveOptions,
    observer: impl FnMut(&Update),
    stop: &AtomicBool,
) -> Result<Tally, TransferError>
where
    E: Endpoint<Command = Command, Event = Event>,
{
    let mut receiving = Receiving::new(handle, directory, Accepts::offers(), observer);
    while !stop.load(Relaxed) {
        receiving.step(TICK)?;
        if options.once
            && let Some(ended) = receiving.last.take()
        {
            receiving.abort_all()?;
            let patience = if ended.is_ok() {
                patience(&options.config)
            } else {
                FAREWELL
            };
            receiving.linger(patience, stop)?;
            return ended.map(|()| receiving.tally);
        }
    }
    receiving.abort_all()?;
    receiving.linger(FAREWELL, &AtomicBool::new(false))?;
    if options.once && receiving.tally.files == 0 {
        return Err(TransferError::new(
            Kind::Stopped,
            "no file was received",
            "stopped by the user",
            "start it again",
        ));
    }
    Ok(receiving.tally)
}

/// The next event of an endpoint, if one comes within `patience`.
pub(super) fn next_event<E>(
    handle: &Handle<E>,
    patience: Duration,
) -> Result<Option<Event>, TransferError>
where
    E: Endpoint<Command = Command, Event = Event>,
{
    match handle.events().recv_timeout(patience) {
        Ok(event) => Ok(Some(event)),
        Err(NoEvent::Yet) => Ok(None),
        Err(NoEvent::Stopped) => Err(TransferError::driver(Stopped)),
    }
}
