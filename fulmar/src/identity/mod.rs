//! Who is who: this side's key, the keys of others, and what follows from a comparison.
//!
//! As with SSH, a peer is a static X25519 key. The first one that a host shows is written down ([`KnownHosts`]); from
//! then on that host shows this key or is refused. [`check`] is the one place that decides it, so no caller can be
//! laxer than another, and what it allows has names that a caller has to spell out. A [`Pin`] given by the user takes
//! the place of the record. Nothing here is on the network: that a peer *holds* the key it shows is proved by the
//! protocol, and it is *not* known to this module.

mod host_key;
mod known_hosts;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use base64ct::{Base64, Base64Unpadded, Encoding};
use zeroize::Zeroizing;

pub use host_key::{HostKey, KeyError, Rotation};
pub use known_hosts::{Host, Known, KnownHosts, KnownHostsError, Record, Warning};

/// A static X25519 public key: who a peer is. Prints as Base64, 44 characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

/// SHA-256 of a public key, short enough to be read aloud. Prints as `SHA256:` and 43 characters, like `ssh-keygen -l`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// The key that the user says a peer has, whole or as its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// The key itself.
    Key(PublicKey),
    /// Its fingerprint.
    Fingerprint(Fingerprint),
}

/// A text that is no key and no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no key; write SHA256: and 43 characters, or the 44 characters of the key, as `fulmar key show` prints them"
)]
pub struct NoKey;

/// How much proof of a peer's identity the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Demand {
    /// Proof where there can be one: a host that is new and shows no key is taken as it is.
    #[default]
    Usual,
    /// Every peer shows a key; a new one is written down.
    Key,
    /// Every peer is known already, or pinned.
    Known,
}

/// What [`check`] decides.
pub type Verdict = Result<Trust, Refusal>;

/// Why a peer is accepted. Only [`Known`](Self::Known) and [`Pinned`](Self::Pinned) say who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It shows the key on record.
    Known,
    /// It shows the key that the user named.
    Pinned,
    /// Nothing is on record: this key is to be written down, once the peer has proved that it holds it.
    FirstUse(PublicKey),
    /// Nothing is on record, and it shows no key: anybody could be there. To be said to the user.
    Unauthenticated,
}

/// Why a peer is refused. Prints as one sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another key than the one on record.
    #[error("its key is {shown}, and {known} is on record")]
    Changed {
        /// On record.
        known: Fingerprint,
        /// What it shows.
        shown: Fingerprint,
    },
    /// Another key than the one the user named.
    #[error("its key is {shown}, and {wanted} was asked for")]
    NotPinned {
        /// Asked for.
        wanted: Fingerprint,
        /// What it shows.
        shown: Fingerprint,
    },
    /// A key is on record or was named, and it shows none.
    #[error("it shows no key, and it must have {wanted}")]
    Downgraded {
        /// On record, or asked for.
        wanted: Fingerprint,
    },
    /// It is new, shows no key, and a key was demanded.
    #[error("it shows no key, and one was demanded")]
    Keyless,
    /// It is new, and only known ones are wanted.
    #[error("it is not known; its key is {shown}")]
    Stranger {
        /// What it shows.
        shown: Fingerprint,
    },
    /// Its record cannot be read, so nothing tells whether this is the host that it was.
    #[error("its record, line {line} of the known hosts, cannot be read")]
    Unreadable {
        /// Counted from 1.
        line: usize,
    },
}

impl Refusal {
    /// What to try next; `host` as the user wrote it.
    pub fn advice(&self, host: &str) -> String {
        match self {
            Self::Changed { .. } => format!(
                "ask at the other side whether the key was changed, by another way than this network; \
                 if it was, `fulmar key forget {host}`"
            ),
            Self::NotPinned { .. } => {
                "ask at the other side for its fingerprint: `fulmar key show`".into()
            }
            Self::Downgraded { .. } => {
                "somebody between here and there may have removed the key; if the other side \
                 has become a program without keys, forget it or leave out the pin"
                    .into()
            }
            Self::Keyless => "use a program with keys at the other side, or demand none".into(),
            Self::Stranger { .. } => {
                "compare that with `fulmar key show` at the other side, then give it as a pin"
                    .into()
            }
            Self::Unreadable { .. } => {
                format!("correct that line, or remove it with `fulmar key forget {host}`")
            }
        }
    }
}

/// Decides whether a peer that shows the key `shown` is who the user wants, given what is on record, the key that the
/// user names (which takes the place of the record) and how much proof is demanded. A host that has a record or a pin
/// is never accepted without exactly that key.
///
/// # Errors
/// [`Refusal`], with what to try.
pub fn check(
    known: &Known,
    shown: Option<&PublicKey>,
    pin: Option<&Pin>,
    demand: Demand,
) -> Verdict {
    if let Some(pin) = pin {
        let wanted = pin.fingerprint();
        return match shown {
            None => Err(Refusal::Downgraded { wanted }),
            Some(key) if pin.is(key) => Ok(Trust::Pinned),
            Some(key) => Err(Refusal::NotPinned {
                wanted,
                shown: key.fingerprint(),
            }),
        };
    }
    match (known, shown) {
        (Known::Unreadable { line }, _) => Err(Refusal::Unreadable { line: *line }),
        (Known::Key(known), None) => Err(Refusal::Downgraded {
            wanted: known.fingerprint(),
        }),
        (Known::Key(known), Some(key)) if known == key => Ok(Trust::Known),
        (Known::Key(known), Some(key)) => Err(Refusal::Changed {
            known: known.fingerprint(),
            shown: key.fingerprint(),
        }),
        (Known::No, Some(key)) => match demand {
            Demand::Usual | Demand::Key => Ok(Trust::FirstUse(*key)),
            Demand::Known => Err(Refusal::Stranger {
                shown: key.fingerprint(),
            }),
        },
        (Known::No, None) => match demand {
            Demand::Usual => Ok(Trust::Unauthenticated),
            Demand::Key | Demand::Known => Err(Refusal::Keyless),
        },
    }
}

impl Fingerprint {
    /// The SHA-256.
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

/// Where keys live when the user does not say: `$XDG_CONFIG_HOME/fulmar`, or `~/.config/fulmar`. `None` without a home.
pub fn directory() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("fulmar"))
}

impl PublicKey {
    /// Its fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        Fingerprint(hash)
    }
}

impl Pin {
    /// Whether `key` is the one.
    pub fn is(&self, key: &PublicKey) -> bool {
        match self {
            Self::Key(pinned) => pinned == key,
            Self::Fingerprint(pinned) => *pinned == key.fingerprint(),
        }
    }

    /// What the key's fingerprint is.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Key(key) => key.fingerprint(),
            Self::Fingerprint(fingerprint) => *fingerprint,
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Base64::encode_string(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let mut key = [0; 32];
        match Base64::decode(text, &mut key) {
            Ok(bytes) if bytes.len() == 32 => Ok(Self(key)),
            Ok(_) | Err(_) => Err(NoKey),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", Base64Unpadded::encode_string(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let text = text.strip_prefix("SHA256:").ok_or(NoKey)?;
        let mut hash = [0; 32];
        match Base64Unpadded::decode(text, &mut hash) {
            Ok(bytes) if bytes.len() == 32 => Ok(Self(hash)),
            Ok(_) | Err(_) => Err(NoKey),
        }
    }
}

impl FromStr for Pin {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        match text.parse() {
            Ok(fingerprint) => Ok(Self::Fingerprint(fingerprint)),
            Err(NoKey) => text.parse().map(Self::Key),
        }
    }
}

/// Reads a file that decides about trust: a regular one, this user's or root's, that nobody with a right of `forbidden`
/// is given, and not larger than `limit` bytes. The outer error is the system's, the inner one what is wrong with it.
fn read_trusted(
    path: &Path,
    forbidden: u32,
    limit: u64,
) -> io::Result<Result<Zeroizing<Vec<u8>>, &'static str>> {
    // A FIFO would make the opening itself wait for ever.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Ok(Err("is a symbolic link"));
        }
        opened => opened?,
    };
    let metadata = file.metadata()?;
    let owner = metadata.uid();
    if !metadata.is_file() {
        return Ok(Err("is no regular file"));
    }
    if owner != rustix::process::geteuid().as_raw() && owner != 0 {
        return Ok(Err("belongs to another user"));
    }
    if metadata.mode() & forbidden != 0 {
        return Ok(Err(if forbidden & 0o044 == 0 {
            "can be changed by others"
        } else {
            "can be read by others"
        }));
    }
    if metadata.len() > limit {
        return Ok(Err("is too large"));
    }
    // Room for all of it at once: a buffer that grows would leave copies of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        limit.min(metadata.len() + 64) as usize + 1,
    ));
    file.take(bytes.capacity() as u64).read_to_end(&mut bytes)?;
    Ok(Ok(bytes))
}

/// Puts `bytes` under the name `path`, whole or not at all, for this user only. An earlier file is replaced if that is
/// wanted, and an error otherwise.
fn store(path: &Path, bytes: &[u8], replace: bool) -> io::Result<()> {
    let directory = parent(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    // Made with O_EXCL and mode 0600.
    let mut temporary = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(directory)?;
    temporary.write_all(bytes)?;
    temporary.as_file().sync_all()?;
    let placed = if replace {
        temporary.persist(path)
    } else {
        temporary.persist_noclobber(path)
    };
    placed.map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// Keeps other writers of `path` out while the file that it returns is open. The lock is a file beside it, because the
/// one that it guards is replaced.
fn lock(path: &Path) -> io::Result<File> {
    let directory = parent(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(name)?;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => {
                return Err(io::Error::other("another program holds its lock"));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    }
}

/// How long a program waits for another one that writes the same file.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const ONE: PublicKey = PublicKey([1; 32]);
    const TWO: PublicKey = PublicKey([2; 32]);

    /// Every record, key, pin and demand there is, against a table written by hand.
    #[test]
    fn every_combination() {
        let (one, two) = (ONE.fingerprint(), TWO.fingerprint());
        let unreadable = Known::Unreadable { line: 7 };
        let first = Ok(Trust::FirstUse(ONE));
        let keyless = Err(Refusal::Keyless);
        let stranger = Err(Refusal::Stranger { shown: one });
        let lost = Err(Refusal::Downgraded { wanted: one });
        let changed = Err(Refusal::Changed {
            known: two,
            shown: one,
        });
        let other = Err(Refusal::NotPinned {
            wanted: two,
            shown: one,
        });
        let gone = Err(Refusal::Downgraded { wanted: two });
        let dark = Err(Refusal::Unreadable { line: 7 });

        // Demands in columns: usual, key, known.
        for (known, shown, verdicts) in [
            (
                Known::No,
                None,
                [Ok(Trust::Unauthenticated), keyless, keyless],
            ),
            (Known::No, Some(&ONE), [first, first, stranger]),
            (Known::Key(ONE), None, [lost; 3]),
            (Known::Key(ONE), Some(&ONE), [Ok(Trust::Known); 3]),
            (Known::Key(TWO), Some(&ONE), [changed; 3]),
            (unreadable, None, [dark; 3]),
            (unreadable, Some(&ONE), [dark; 3]),
        ] {
            for (demand, want) in [Demand::Usual, Demand::Key, Demand::Known]
                .into_iter()
                .zip(verdicts)
            {
                assert_eq!(
                    check(&known, shown, None, demand),
                    want,
                    "{known:?} {shown:?} {demand:?}"
                );
            }
        }
        for known in [Known::No, Known::Key(ONE), Known::Key(TWO), unreadable] {
            for demand in [Demand::Usual, Demand::Key, Demand::Known] {
                for (pinned, shown, want) in [
                    (ONE, Some(&ONE), Ok(Trust::Pinned)),
                    (TWO, Some(&ONE), other),
                    (TWO, None, gone),
                ] {
                    for pin in [Pin::Key(pinned), Pin::Fingerprint(pinned.fingerprint())] {
                        assert_eq!(
                            check(&known, shown, Some(&pin), demand),
                            want,
                            "{known:?} {shown:?} {pin:?} {demand:?}"
                        );
                    }
                }
            }
        }
    }

    /// What the table means, said once more as a rule.
    #[test]
    fn whoever_has_a_record_or_a_pin_needs_that_very_key() {
        let keys = [None, Some(ONE), Some(TWO)];
        for known in keys {
            for shown in keys {
                for pin in keys {
                    let record = known.map_or(Known::No, Known::Key);
                    let verdict = check(
                        &record,
                        shown.as_ref(),
                        pin.map(Pin::Key).as_ref(),
                        Demand::Usual,
                    );
                    let wanted = pin.or(known);
                    if wanted.is_some() {
                        assert_eq!(verdict.is_ok(), shown == wanted);
                    }
                }
            }
        }
    }

    /// The fingerprint of RFC 7748's first public key, by `openssl dgst -sha256 -binary | base64`.
    #[test]
    fn texts_of_keys() {
        let key = PublicKey(
            *b"\x85\x20\xf0\x09\x89\x30\xa7\x54\x74\x8b\x7d\xdc\xb4\x3e\xf7\x5a\x0d\xbf\x3a\x0d\x26\x38\x1a\xf4\xeb\xa4\xa9\x8e\xaa\x9b\x4e\x6a",
        );
        assert_eq!(
            key.to_string(),
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
        assert_eq!(key.fingerprint().to_string(), FINGERPRINT);
        assert_eq!(FINGERPRINT.parse(), Ok(key.fingerprint()));
        assert_eq!(FINGERPRINT.parse(), Ok(Pin::Fingerprint(key.fingerprint())));
        assert_eq!(key.to_string().parse(), Ok(Pin::Key(key)));
        for text in [
            "",
            "SHA256:",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmp=",
            "SHA256:hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
            "sha256:hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo",
            "MD5:00:11",
        ] {
            assert_eq!(text.parse::<Pin>(), Err(NoKey), "{text}");
        }
    }

    proptest! {
        #[test]
        fn keys_read_back(bytes: [u8; 32]) {
            let key = PublicKey(bytes);
            prop_assert_eq!(key.to_string().parse(), Ok(key));
            prop_assert_eq!(key.fingerprint().to_string().parse(), Ok(key.fingerprint()));
        }

        #[test]
        fn any_text_is_a_key_or_none(text in "\\PC{0,60}|SHA256:[A-Za-z0-9+/=]{40,46}") {
            if let Ok(pin) = text.parse::<Pin>() {
                let same = match pin {
                    Pin::Key(key) => key.to_string(),
                    Pin::Fingerprint(fingerprint) => fingerprint.to_string(),
                };
                prop_assert_eq!(same, text, "one way to write each");
            }
        }
    }

    const FINGERPRINT: &str = "SHA256:MAyclgO5Kks57TlYv5JAEUgE20/TcwEsDKR0MtY0Ja4";
}
