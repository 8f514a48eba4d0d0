//! `fulmar key show|rotate|list|forget`: who this side is, and whom it knows.
//!
//! It does *not* show a secret, in any way.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use fulmar::identity::{self, HostKey, KeyError, KnownHosts, KnownHostsError};
use serde_json::json;

use super::fault::{Exit, Fault};
use super::send::split_port;
use crate::ui::{Voice, harmless, print, print_json};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print the fingerprint of this side's key; without one, make one
    Show {
        /// Print the public key itself, as it stands in the known hosts of others
        #[arg(long)]
        public: bool,
        #[command(flatten)]
        key: KeyFile,
        #[command(flatten)]
        form: Form,
    },
    /// Put a new key in the place of this side's key; whoever knows the old one has to forget it
    Rotate {
        #[command(flatten)]
        key: KeyFile,
        #[command(flatten)]
        form: Form,
    },
    /// Print the known hosts and the fingerprints of their keys
    List {
        #[command(flatten)]
        known: KnownHostsFile,
        #[command(flatten)]
        form: Form,
    },
    /// Remove a host from the known ones, so that its next key is taken
    Forget {
        /// Which: as it was given to a command; without a port, at every port
        #[arg(value_name = "HOST[:PORT]")]
        host: String,
        #[command(flatten)]
        known: KnownHostsFile,
        #[command(flatten)]
        form: Form,
    },
}

/// The option that says where this side's key is.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct KeyFile {
    /// This side's key [default: fulmar/host_key in $XDG_CONFIG_HOME or ~/.config]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// The option that says where the keys of others are.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct KnownHostsFile {
    /// The keys of others [default: fulmar/known_hosts in $XDG_CONFIG_HOME or ~/.config]
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
}

/// How to answer.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Form {
    /// Print one JSON object per line on standard output
    #[arg(long)]
    json: bool,
}

impl KeyFile {
    /// Its path.
    pub(super) fn path(&self) -> Result<PathBuf, Fault> {
        chosen(self.key_file.as_deref(), "host_key", "--key-file")
    }

    /// The key in it, made if there is no such file.
    pub(super) fn load_or_create(&self) -> Result<HostKey, Fault> {
        let path = self.path()?;
        HostKey::load_or_create(&path).map_err(|error| unusable(&path, &error))
    }
}

impl KnownHostsFile {
    /// Its path.
    pub(super) fn path(&self) -> Result<PathBuf, Fault> {
        chosen(self.known_hosts.as_deref(), "known_hosts", "--known-hosts")
    }

    /// The hosts in it; lines that do not count are said.
    pub(super) fn load(&self, voice: Voice) -> Result<KnownHosts, Fault> {
        let path = self.path()?;
        let known = KnownHosts::load(&path).map_err(|error| unknown(&path, &error))?;
        for warning in known.warnings() {
            voice.say(&format!("warning: {}", harmless(&warning.to_string())));
        }
        Ok(known)
    }
}

/// Runs `fulmar key`.
pub(super) fn run(verb: &Verb) -> Result<(), Fault> {
    match verb {
        Verb::Show { public, key, form } => show(*public, key, *form),
        Verb::Rotate { key, form } => rotate(key, *form),
        Verb::List { known, form } => list(known, *form),
        Verb::Forget { host, known, form } => forget(host, known, *form),
    }
}

fn show(public: bool, file: &KeyFile, form: Form) -> Result<(), Fault> {
    let path = file.path()?;
    let key = file.load_or_create()?;
    if key.is_new() {
        let shown = harmless(&path.to_string_lossy());
        form.voice().say(&format!("made a new key in {shown}"));
    }
    if form.json {
        print_json(&json!({
            "event": "key",
            "fingerprint": key.fingerprint().to_string(),
            "public": key.public().to_string(),
            "file": path.to_string_lossy(),
            "new": key.is_new(),
        }));
    } else if public {
        print(&format!("x25519 {}\n", key.public()));
    } else {
        print(&format!("{}\n", key.fingerprint()));
    }
    Ok(())
}

fn rotate(file: &KeyFile, form: Form) -> Result<(), Fault> {
    let path = file.path()?;
    let done = HostKey::rotate(&path).map_err(|error| unusable(&path, &error))?;
    if form.json {
        print_json(&json!({
            "event": "rotated",
            "old": done.old.to_string(),
            "new": done.new.to_string(),
            "kept": done.kept.to_string_lossy(),
        }));
        return Ok(());
    }
    print(&format!("old {}\nnew {}\n", done.old, done.new));
    let kept = harmless(&done.kept.to_string_lossy());
    form.voice().say(&format!(
        "the old key is kept in {kept}; whoever knows this host refuses the new one until he has forgotten the old"
    ));
    Ok(())
}

fn list(file: &KnownHostsFile, form: Form) -> Result<(), Fault> {
    for record in file.load(form.voice())?.records() {
        let (host, key, comment) = (&record.host, record.key.fingerprint(), &record.comment);
        if form.json {
            print_json(&json!({
                "event": "known",
                "host": host.to_string(),
                "fingerprint": key.to_string(),
                "public": record.key.to_string(),
                "comment": comment,
            }));
        } else {
            let line = format!("{host} {key} {}", harmless(comment));
            print(&format!("{}\n", line.trim_end()));
        }
    }
    Ok(())
}

fn forget(host: &str, file: &KnownHostsFile, form: Form) -> Result<(), Fault> {
    let (name, port) = split_port(host)?;
    let path = file.path()?;
    let removed = KnownHosts::load(&path)
        .and_then(|mut known| known.forget(name, port))
        .map_err(|error| unknown(&path, &error))?;
    if removed == 0 {
        return Err(stranger(host));
    }
    if form.json {
        print_json(&json!({ "event": "forgotten", "host": host, "lines": removed }));
    } else {
        form.voice().say(&format!("forgot {}", harmless(host)));
    }
    Ok(())
}

impl Form {
    fn voice(self) -> Voice {
        Voice::chosen(self.json, false)
    }
}

fn chosen(option: Option<&Path>, name: &str, flag: &str) -> Result<PathBuf, Fault> {
    option
        .map(Path::to_owned)
        .or_else(|| identity::directory().map(|directory| directory.join(name)))
        .ok_or_else(|| homeless(flag))
}

fn homeless(flag: &str) -> Fault {
    Fault::failed(
        "cannot tell where keys are kept",
        "neither XDG_CONFIG_HOME nor HOME is set",
    )
    .hint(format!("name a file with {flag}"))
}

fn stranger(host: &str) -> Fault {
    Fault::failed(format!("cannot forget {host}"), "it is not a known host")
        .hint("see who is: `fulmar key list`")
}

/// A key of this side that is not to be had.
fn unusable(path: &Path, error: &KeyError) -> Fault {
    let exit = match error {
        KeyError::Storage(_) | KeyError::Entropy(_) => Exit::Failed,
        KeyError::Exposed(_) | KeyError::Damaged(_) => Exit::Identity,
    };
    Fault::new(exit, format!("cannot use the key in {}", path.display()))
        .because(error.to_string())
        .hint(error.advice())
}

/// Known hosts that are not to be had.
fn unknown(path: &Path, error: &KnownHostsError) -> Fault {
    let exit = match error {
        KnownHostsError::Storage(_) => Exit::Failed,
        KnownHostsError::Exposed(_) | KnownHostsError::Conflict { .. } => Exit::Identity,
        KnownHostsError::Host(_) => Exit::Usage,
    };
    Fault::new(
        exit,
        format!("cannot use the known hosts in {}", path.display()),
    )
    .because(error.to_string())
    .hint(error.advice())
}

/// Everything these verbs say when they fail, one of each kind.
#[cfg(test)]
pub(super) fn samples() -> Vec<Fault> {
    use std::io;

    let missing = || io::Error::from_raw_os_error(2);
    let (key, hosts) = (Path::new("HOST_KEY"), Path::new("KNOWN_HOSTS"));
    let mut faults = vec![homeless("--key-file"), stranger("HOST")];
    let mut next = Some(KeyError::Storage(missing()));
    while let Some(error) = next {
        faults.push(unusable(key, &error));
        next = match error {
            KeyError::Storage(_) => Some(KeyError::Exposed("can be read by others")),
            KeyError::Exposed(_) => Some(KeyError::Damaged("its halves do not belong together")),
            KeyError::Damaged(_) => Some(KeyError::Entropy(getrandom::Error::UNSUPPORTED)),
            KeyError::Entropy(_) => None,
        };
    }
    let mut next = Some(KnownHostsError::Storage(io::Error::from_raw_os_error(13)));
    while let Some(error) = next {
        faults.push(unknown(hosts, &error));
        next = match error {
            KnownHostsError::Storage(_) => {
                Some(KnownHostsError::Exposed("can be changed by others"))
            }
            KnownHostsError::Exposed(_) => identity::Host::new("HOST", 9000)
                .ok()
                .map(|host| KnownHostsError::Conflict { host }),
            KnownHostsError::Conflict { .. } => Some(KnownHostsError::Host("a b".into())),
            KnownHostsError::Host(_) => None,
        };
    }
    faults
}
