//! What a transfer's observer learns, put into words and events.
//!
//! It does *not* end anything: the error that ends a command is printed by whoever gets it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

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
                self.voice.emit(&Event::LeftOut {
                    path: path.into(),
                    what,
                });
            }
            Update::SingleFiles { peer } => {
                self.say(&format!(
                    "note: {peer} takes single files only; names, sizes and hashes can be read on the way, and \
                     what is interrupted begins from zero"
                ));
                self.voice.emit(&Event::SingleFiles { peer: *peer });
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
            Update::Finished { name, peer, .. } => {
                self.progress.clear(name, *peer);
                self.finished(update);
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

    fn finished(&self, update: &Update) {
        let Update::Finished {
            direction,
            identity,
            name,
            peer,
            snapshot,
            resumed,
            files,
            hash,
            path,
        } = update
        else {
            return;
        };
        let moved = snapshot.size.saturating_sub(*resumed);
        let average = Bitrate::from_transfer(moved, snapshot.elapsed);
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
            "{}: {verb} {peer}, {}, {average}, loss {:.1} %, hash {} verified{who}",
            escaped(name.as_bytes()),
            amount(snapshot.size, *resumed, *files, snapshot.elapsed),
            snapshot.loss * 100.0,
            begun(&hash.to_string()),
        ));
        let path = (!path.as_os_str().is_empty()).then(|| path.to_string_lossy());
        self.voice.emit(&Event::Done {
            peer: *peer,
            files: *files,
            hash: hash.to_string(),
            path,
            identity,
            resumed: *resumed,
            average_bps: average.bits_per_sec(),
            figures: Figures::new(name, snapshot),
        });
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

/// How much there is, how much of it had come before, and how long the rest took.
fn amount(size: u64, resumed: u64, files: u64, elapsed: Duration) -> String {
    let mut text = Bytes(size).to_string();
    if files != 1 {
        text = format!("{files} files, {text}");
    }
    if resumed > 0 {
        let moved = Bytes(size.saturating_sub(resumed));
        text += &format!(", {} were there, {moved}", Bytes(resumed));
    }
    format!("{text} in {}", short_time(elapsed))
}

/// As much of a hash as a person compares; programs get all of it.
fn begun(hash: &str) -> Cow<'_, str> {
    match hash.get(..HASH_SHOWN) {
        Some(start) if start.len() < hash.len() => format!("{start}…").into(),
        _ => hash.into(),
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
/// Digits of a hash in a line for people.
const HASH_SHOWN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_no_part_of_what_moved() {
        let second = Duration::from_secs(2);
        for (size, resumed, files, want) in [
            (3 << 20, 0, 1, "3.0 MiB in 2.0 s"),
            (3 << 20, 0, 7, "7 files, 3.0 MiB in 2.0 s"),
            (
                3 << 20,
                2 << 20,
                1,
                "3.0 MiB, 2.0 MiB were there, 1.0 MiB in 2.0 s",
            ),
            (
                3 << 20,
                3 << 20,
                0,
                "0 files, 3.0 MiB, 3.0 MiB were there, 0 B in 2.0 s",
            ),
        ] {
            assert_eq!(amount(size, resumed, files, second), want);
        }
    }

    #[test]
    fn a_hash_is_whole_or_says_that_it_is_not() {
        assert_eq!(begun("0123456789abcdef"), "0123456789abcdef");
        assert_eq!(begun("0123456789abcdef0"), "0123456789abcdef…");
    }
}
