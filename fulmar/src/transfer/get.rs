//! Fetching files from a daemon: [`get`].
//!
//! One file after the other, from a socket that is kept, so that a daemon's answer comes back through whatever
//! translates addresses on the way. What arrives is stored under the name that was asked for and no other. It does
//! *not* choose what to ask for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use fulmar_proto::Endpoint;
use fulmar_proto::hpudp::{Command, Config, Event, Failure, Reason, Tag, Trust, Wish};

use super::error::{Attempt, Side};
use super::receiving::{Accepts, Receiving};
use super::recv::{Tally, next_event};
use super::{
    Encryption, FAREWELL, TICK, TransferError, Update, any_port, bind, further, open_directory,
    patience, spawn_bulk,
};
use crate::config::Dscp;
use crate::driver::{BUFFER_WANTED, Handle};

/// Where from and how to fetch.
#[derive(Clone, Debug)]
pub struct GetOptions {
    /// The daemon.
    pub from: SocketAddr,
    /// Whether contents are encrypted.
    pub encrypt: Encryption,
    /// What the daemon has to prove before anything of it is stored.
    pub trust: Trust,
    /// Parameters of the protocol. [`Config::socket_datagrams`] 0 is replaced by what the socket holds.
    pub config: Config,
    /// How packets are marked.
    pub dscp: Dscp,
    /// Set by another thread to give up.
    pub stop: Arc<AtomicBool>,
}

impl GetOptions {
    /// From `from`, encrypted, with the protocol's defaults.
    pub fn new(from: SocketAddr) -> Self {
        Self {
            from,
            encrypt: Encryption::default(),
            trust: Trust::Anyone,
            config: Config::default(),
            dscp: Dscp::default(),
            stop: Arc::default(),
        }
    }
}

/// Fetches `names` one after the other into `directory` and returns when the last one is verified and durable there.
///
/// # Errors
/// At the first one that fails; those before it have arrived and were reported as [`Update::Finished`].
pub fn get(
    names: &[String],
    directory: &Path,
    options: &GetOptions,
    mut observer: impl FnMut(&Update),
) -> Result<Tally, TransferError> {
    let directory = open_directory(directory)?;
    let here = any_port(options.from);
    let socket = bind(here, options.dscp)?;
    observer(&Update::SocketBuffers {
        granted: socket.buffers(),
        wanted: BUFFER_WANTED,
    });
    let more = further(here, options.config.sockets, options.dscp)?;
    let handle = spawn_bulk(socket, more, here, options.config.clone(), 1)?;
    let mut receiving = Receiving::new(&handle, &directory, Accepts::default(), observer);
    let mut outcome = Ok(());
    let mut told = false;
    let mut next = 0;
    for name in names {
        let mut encrypt = options.encrypt != Encryption::Off;
        let attempt = Attempt {
            side: Side::Get,
            name: name.clone(),
            peer: options.from,
            resumes: options.config.extensions,
        };
        let until = Instant::now() + options.config.request_timeout;
        loop {
            let tag = Tag(next);
            next += 1;
            receiving.accepts.wanted.insert(tag, name.clone());
            let wish = Wish {
                to: options.from,
                name: name.clone(),
                encrypt,
                trust: options.trust,
                bundle: options.config.extensions,
            };
            let command = Command::Pull { tag, wish };
            handle.command(command).map_err(TransferError::driver)?;
            let ended = wait(&handle, &mut receiving, tag, &attempt, options, &mut told)?;
            receiving.accepts.wanted.remove(&tag);
            match ended {
                Ended::Received => break,
                Ended::Failed(error) => outcome = Err(error),
                Ended::Unanswered(Failure::Refused(Reason::NO_ENCRYPTION))
                    if encrypt && options.encrypt == Encryption::AllowPlain =>
                {
                    encrypt = false;
                    (receiving.observer)(&Update::Unencrypted {
                        name: name.clone(),
                        peer: options.from,
                    });
                    continue;
                }
                Ended::Unanswered(Failure::Refused(Reason::BUSY | Reason::COLLISION))
                    if Instant::now() < until && !options.stop.load(Relaxed) =>
                {
                    receiving.step(TICK * 5)?;
                    continue;
                }
                Ended::Unanswered(failure) => {
                    outcome = Err(TransferError::session(&attempt, failure));
                }
            }
            break;
        }
        if outcome.is_err() {
            break;
        }
    }
    receiving.abort_all()?;
    let patience = if outcome.is_ok() {
        patience(&options.config)
    } else {
        FAREWELL
    };
    receiving.linger(patience, &options.stop)?;
    outcome.map(|()| receiving.tally)
}

/// How one pull ended.
enum Ended {
    Received,
    /// The transfer began, or this side is at fault.
    Failed(TransferError),
    /// There never was a transfer.
    Unanswered(Failure),
}

fn wait<E, O>(
    handle: &Handle<E>,
    receiving: &mut Receiving<'_, E, O>,
    current: Tag,
    attempt: &Attempt,
    options: &GetOptions,
    told: &mut bool,
) -> Result<Ended, TransferError>
where
    E: Endpoint<Command = Command, Event = Event>,
    O: FnMut(&Update),
{
    receiving.last = None;
    loop {
        if options.stop.load(Relaxed) {
            return Ok(Ended::Failed(TransferError::stopped(attempt)));
        }
        let event = next_event(handle, TICK)?;
        if let Some(Event::Offered { paths: false, .. }) = event
            && options.config.sockets > 1
            && !std::mem::replace(told, true)
        {
            let peer = options.from;
            (receiving.observer)(&Update::OneSocket { peer });
        }
        if let Some(event) = event
            && let Some(Event::Finished {
                tag,
                result: Err(failure),
                ..
            }) = receiving.take(event)?
            && tag == current
            && receiving.last.is_none()
        {
            return Ok(Ended::Unanswered(failure));
        }
        match receiving.last.take() {
            Some(Ok(())) => return Ok(Ended::Received),
            Some(Err(error)) => return Ok(Ended::Failed(error)),
            None => {}
        }
    }
}
