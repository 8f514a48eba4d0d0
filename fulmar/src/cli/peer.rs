//! Who is at the other side: the options that every verb which calls a host shares.
//!
//! It does *not* decide whom to trust; [`identity::check`] does, for everybody.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::Args;
use fulmar::identity::{self, Demand, Host, Known, KnownHosts, Pin, PublicKey};
use fulmar::transfer::{Encryption, TransferError, Update};
use fulmar_proto::hpudp::{Failure, Trust};

use super::fault::{Exit, Fault};
use super::key::KnownHostsFile;
use super::send::split;
use crate::ui::{Narrator, Voice};

/// How much the other side has to prove, and how private it is to be.
#[derive(Clone, Debug, Args)]
pub(super) struct Peer {
    /// Encrypt the contents, or fail: the default
    #[arg(long, conflicts_with_all = ["plain", "allow_plain"])]
    encrypt: bool,
    /// Do not encrypt; then nobody can prove who they are
    #[arg(long, conflicts_with_all = ["allow_plain", "host_key", "require_auth"])]
    plain: bool,
    /// Go on in the clear if the other side says that it cannot encrypt; anybody on the way can forge that
    #[arg(long, conflicts_with_all = ["host_key", "require_auth"])]
    allow_plain: bool,
    /// The key that the other side must have: SHA256:... or the key itself, as `fulmar key show` prints them there
    #[arg(long, value_name = "KEY")]
    host_key: Option<Pin>,
    /// Fail unless the other side proves who it is; its key is written down the first time
    #[arg(long)]
    require_auth: bool,
    #[command(flatten)]
    known: KnownHostsFile,
}

/// One host, and what is known of it.
pub(super) struct Meeting {
    /// Where it is.
    pub(super) address: SocketAddr,
    /// What it has to prove before anything is sent or stored.
    pub(super) trust: Trust,
    host: Host,
    known: KnownHosts,
    record: Known,
    peer: Peer,
}

impl Peer {
    /// Whether contents are encrypted.
    pub(super) fn encryption(&self) -> Encryption {
        match (self.plain, self.allow_plain) {
            (true, _) => Encryption::Off,
            (false, true) => Encryption::AllowPlain,
            (false, false) => Encryption::Require,
        }
    }

    /// Finds a host, and what is on record about it.
    pub(super) fn meet(&self, text: &str, voice: Voice) -> Result<Meeting, Fault> {
        let (name, port) = split(text)?;
        let host = Host::new(name, port).map_err(|error| Fault::usage(error.to_string()))?;
        let known = self.known.load(voice)?;
        let record = known.lookup(&host);
        let trust = self.trust(&record, text)?;
        let address = resolve(name, port)?;
        Ok(Meeting {
            address,
            trust,
            host,
            known,
            record,
            peer: self.clone(),
        })
    }

    fn demand(&self) -> Demand {
        if self.require_auth {
            Demand::Key
        } else {
            Demand::Usual
        }
    }

    /// What the protocol has to insist on. In the clear nobody can prove anything, so a host on record is not met there.
    fn trust(&self, record: &Known, text: &str) -> Result<Trust, Fault> {
        let wanted = match (&self.host_key, record) {
            (Some(pin), _) => Some(pin.fingerprint()),
            (None, Known::Key(key)) => Some(key.fingerprint()),
            (None, Known::No) => None,
            (None, Known::Unreadable { .. }) => {
                let refusal = identity::check(record, None, None, self.demand());
                return Err(refused(text, refusal.err()));
            }
        };
        match wanted {
            Some(fingerprint) if self.plain || self.allow_plain => {
                Err(unprovable(text, &fingerprint.to_string()))
            }
            Some(fingerprint) => Ok(Trust::Key(fingerprint.bytes())),
            None if self.require_auth => Ok(Trust::AnyKey),
            None => Ok(Trust::Anyone),
        }
    }
}

impl Meeting {
    /// Watches a transfer: once it is done its peer has proved what it showed, and a new key is written down.
    pub(super) fn watch(&mut self, update: &Update, narrator: &mut Narrator) {
        narrator.tell(update);
        let Update::Finished {
            identity: Some(key),
            ..
        } = update
        else {
            return;
        };
        let key = PublicKey(*key);
        let pin = self.peer.host_key.as_ref();
        let verdict = identity::check(&self.record, Some(&key), pin, self.peer.demand());
        if let Ok(identity::Trust::FirstUse(key)) = verdict {
            match self.known.remember(&self.host, &key, "") {
                Ok(()) => narrator.say(&format!(
                    "note: {} is new; its key {} is now on record",
                    self.host,
                    key.fingerprint()
                )),
                Err(error) => narrator.say(&format!(
                    "warning: the key of {} is not on record: {error}",
                    self.host
                )),
            }
            self.record = self.known.lookup(&self.host);
        }
    }

    /// A failure in the words of the user: which key was shown, which one is on record, what to do about it.
    pub(super) fn explain(&self, error: &TransferError) -> Fault {
        let shown = match error.failure() {
            Some(Failure::OtherIdentity(key)) => Some(PublicKey(key)),
            Some(Failure::NoIdentity) => None,
            Some(_) | None => return Fault::from(error),
        };
        let pin = self.peer.host_key.as_ref();
        let verdict = identity::check(&self.record, shown.as_ref(), pin, self.peer.demand());
        match verdict {
            Ok(_) => Fault::from(error),
            Err(refusal) => {
                let host = self.host.to_string();
                Fault::from(&TransferError::identity(error.what(), &host, refusal))
            }
        }
    }
}

/// In the clear a host on record cannot be told from any other.
fn unprovable(host: &str, fingerprint: &str) -> Fault {
    Fault::new(Exit::Identity, format!("cannot trust {host}"))
        .because(format!(
            "its key {fingerprint} is on record, and in the clear nobody can prove to have it"
        ))
        .hint(format!(
            "leave out --plain and --allow-plain; if it has become a program without keys, `fulmar key forget {host}`"
        ))
}

/// What is said here before a host is called.
#[cfg(test)]
pub(super) fn samples() -> Vec<Fault> {
    vec![unprovable("HOST", "SHA256:…")]
}

fn refused(host: &str, refusal: Option<identity::Refusal>) -> Fault {
    let fault = Fault::new(Exit::Identity, format!("cannot trust {host}"));
    match refusal {
        Some(refusal) => {
            let advice = refusal.advice(host);
            fault.because(refusal).hint(advice)
        }
        None => fault,
    }
}

/// The first address that a name has.
pub(super) fn resolve(host: &str, port: u16) -> Result<SocketAddr, Fault> {
    let found = (host, port)
        .to_socket_addrs()
        .map(|mut addresses| addresses.next());
    match found {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(nowhere(host)),
        Err(error) => Err(nowhere(host).because(error)),
    }
}

pub(super) fn nowhere(host: &str) -> Fault {
    Fault::new(Exit::NoConnection, format!("cannot find {host:?}"))
        .hint("check the name, or write an address")
}
