//! What a transfer's observer learns, put into words and events.
//!
//! It does *not* end anything: the error that ends a command is printed by whoever gets it.

use std::net::SocketAddr;
use std::time::Instant;

use fulmar::identity::PublicKey;
use fulmar::transfer::{Direction, Update};
use fulmar_proto::engine::{Bitrate, Bytes};
use fulmar_proto::hpudp::Phase;

use super::{Event, Figures, Progress, Quota, Voice, escaped, short_time};
use crate::cli::Fault;

/// Tells what happens to the files of one command.
#[derive(Debug)]
pub(crate) struct Narrator {
    voice: Voice,
    progress: Progress,
    role: Role,
    /// Of what strangers cause.
    quota: Quota,
}

/// At which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Of who called, or waits for one transfer: a failure ends the command, and is told by whoever prints errors.
    Client,
    /// Of who is called, and goes on after a failure.
    Daemon,
}

impl Narrator {
    /// Nothing is told yet.
    pub(crate) fn new(voice: Voice, role: Role) -> Self {
        Self {
            voice,
            progress: Progress::new(voice),
            role,
            quota: Quota::new(LINES),
        }
    }

    /// Says a sentence to people.
    pub(crate) fn say(&self, sentence: &str) {
        self.progress.aside(|| self.voice.say(sentence));
    }

    /// Tells of one update.
    pub(crate) fn tell(&mut self, update: &Update) {
        if !self.is_said(update) {
            return;
        }
        match update {
            Update::SocketBuffers { granted, wanted } => {
                self.socket(granted.recv, granted.send, *wanted)
            }
            Update::Hashing { name, done, total } => self.progress.hashing(name, *done, *total),
            Update::Connected {
                direction,
                identity,
                name,
                peer,
                size,
                encrypted,
            } => {
                self.say(&format!(
                    "{}: {} {} {peer}, {}",
                    escaped(name.as_bytes()),
                    Bytes(*size),
                    match direction {
                        Direction::Out => "to",
                        Direction::In => "from",
                    },
                    if *encrypted {
                        "encrypted"
                    } else {
                        "in the clear"
                    },
                ));
                self.voice.emit(&Event::Connected {
                    file: name.into(),
                    peer: *peer,
                    size: *size,
                    encrypted: *encrypted,
                    identity: fingerprint(*identity),
                });
            }
            Update::LeftOut { path, what } => {
                let path = escaped(path.as_os_str().as_encoded_bytes());
                self.say(&format!("note: {path} is {what}, and is not sent"));
            }
            Update::Resumed { peer, bytes } => {
                self.say(&format!(
                    "note: goes on where it stopped: {} from {peer} are here already",
                    Bytes(*bytes)
                ));
                self.voice.emit(&Event::Resumed {
                    peer: *peer,
                    bytes: *bytes,
                });
            }
            Update::Unencrypted { name, peer } => {
                let name_shown = escaped(name.as_bytes());
                self.say(&format!(
                    "warning: {peer} says that it cannot decrypt; {name_shown} goes in the clear"
                ));
                self.voice.emit(&Event::Unencrypted {
                    file: name.into(),
                    peer: *peer,
                });
            }
            Update::Progress {
                name,
                peer,
                snapshot,
            } => self.progress.update(name, *peer, snapshot),
            Update::Finished {
                direction,
                identity,
                name,
                peer,
                snapshot,
                hash,
                path,
            } => {
                self.progress.clear(name, *peer);
                let average = Bitrate::from_transfer(snapshot.size, snapshot.elapsed);
                let verb = match direction {
                    Direction::Out => "sent to",
                    Direction::In => "received from",
                };
                let identity = fingerprint(*identity);
                // Who is called knows nobody.
                let who = match (&identity, self.role) {
                    (Some(key), _) => format!(", authenticated {key}"),
                    (None, Role::Client) => ", not authenticated".to_owned(),
                    (None, Role::Daemon) => String::new(),
                };
                self.say(&format!(
                    "{}: {verb} {peer}, {} in {}, {average}, loss {:.1} %, hash {hash} verified{who}",
                    escaped(name.as_bytes()),
                    Bytes(snapshot.size),
                    short_time(snapshot.elapsed),
                    snapshot.loss * 100.0,
                ));
                self.voice.emit(&Event::Done {
                    peer: *peer,
                    hash: hash.to_string(),
                    path: path.to_string_lossy(),
                    identity,
                    average_bps: average.bits_per_sec(),
                    figures: Figures::new(name, snapshot),
                });
            }
            Update::Refused {
                name,
                peer,
                reason,
                because,
            } => {
                self.failed(&Fault::refused(name, *peer, *reason, because), name, *peer);
            }
            Update::Failed {
                name,
                peer,
                began,
                error,
                ..
            } => {
                // An offer that nothing followed does not end the command.
                if self.role == Role::Client && *began {
                    self.progress.clear(name, *peer);
                } else {
                    self.failed(&Fault::from(error), name, *peer);
                }
            }
            // The library may learn to say more; nothing depends on it.
            _ => {}
        }
    }

    /// Whether an update is for the user: whoever listens can be made to refuse, accept and fail by strangers as often as
    /// they like, and a log of it would fill a disk (E4).
    fn is_said(&mut self, update: &Update) -> bool {
        let forgeable = match update {
            Update::Connected { direction, .. } => {
                self.role == Role::Daemon || *direction == Direction::In
            }
            Update::Refused { .. } => true,
            Update::Failed { began, .. } => self.role == Role::Daemon || !began,
            // Of a session without a packet there is nothing to show.
            Update::Progress { snapshot, .. } => {
                let asking = snapshot.phase == Phase::Connecting;
                return asking || snapshot.data + snapshot.parities > 0;
            }
            Update::SocketBuffers { .. }
            | Update::Hashing { .. }
            | Update::Unencrypted { .. }
            | Update::Finished { .. }
            | _ => false,
        };
        if !forgeable {
            return true;
        }
        match self.quota.admit(Instant::now()) {
            Some(count) => {
                self.left_out(count);
                true
            }
            None => false,
        }
    }

    fn left_out(&self, count: u64) {
        if count > 0 {
            self.say(&format!(
                "note: left out {count} lines about offers, refusals and failures"
            ));
            self.voice.emit(&Event::Unsaid { count });
        }
    }

    fn failed(&mut self, fault: &Fault, name: &str, peer: SocketAddr) {
        self.progress.clear(name, peer);
        self.progress.aside(|| fault.print());
        self.voice.emit(&fault.event(Some(name)));
    }

    fn socket(&self, recv: usize, send: usize, wanted: usize) {
        let least = recv.min(send);
        if least < wanted {
            self.say(&format!(
                "note: the kernel grants the socket {} of {}; with more, fast transfers lose less on this machine",
                Bytes(least as u64),
                Bytes(wanted as u64)
            ));
        }
        self.voice.emit(&Event::Socket {
            recv_buffer: recv,
            send_buffer: send,
            wanted,
        });
    }
}

fn fingerprint(key: Option<[u8; 32]>) -> Option<String> {
    key.map(|key| PublicKey(key).fingerprint().to_string())
}
impl Drop for Narrator {
    fn drop(&mut self) {
        self.left_out(self.quota.left_out());
    }
}

/// Lines a second that strangers may cause (E4), and at once.
const LINES: u64 = 10;
