//! This side's key: [`HostKey`], one line in a file that nobody else can read.
//!
//! The line holds the secret and the public key, so a file with a flipped bit is noticed instead of making another
//! identity. A key is made only where there is no file at all: every other trouble is an error with a sentence, because
//! a key that is made anew silently makes every peer see an impostor. It does *not* know other hosts.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use fulmar_proto::crypto::Secret;
use zeroize::Zeroizing;

use super::{Fingerprint, PublicKey, lock, read_trusted, store};

/// This side's static X25519 key pair. The secret is wiped when it is dropped and never printed.
pub struct HostKey {
    secret: Zeroizing<[u8; 32]>,
    public: PublicKey,
    created: bool,
}

/// What [`HostKey::rotate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The key until now.
    pub old: Fingerprint,
    /// The key from now on.
    pub new: Fingerprint,
    /// Where the old one is kept.
    pub kept: PathBuf,
}

/// Why there is no key to use.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system.
    #[error("{0}")]
    Storage(#[from] io::Error),
    /// The file is one that no key may be in.
    #[error("it {0}")]
    Exposed(&'static str),
    /// What is in it is no key, or no longer.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Entropy(getrandom::Error),
}

impl KeyError {
    /// What to try next.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Storage(_) => {
                "check the path and who may read it, or name another file with --key-file"
            }
            Self::Exposed(_) => {
                "make it a file of your own with mode 0600; if others may have read it, `fulmar key rotate` after that"
            }
            Self::Damaged(_) => {
                "restore it from a copy; without one, move it away and let every peer forget this host"
            }
            Self::Entropy(_) => "look at the system's log",
        }
    }
}

impl HostKey {
    /// The key at `path`; a new one if there is no file of that name. Its directory is made as well.
    ///
    /// # Errors
    /// [`KeyError`]. A file that is there is never replaced.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        loop {
            match Self::load(path) {
                Err(KeyError::Storage(error)) if error.kind() == io::ErrorKind::NotFound => {}
                loaded => return loaded,
            }
            let new = Self::generate()?;
            match store(path, new.line().as_bytes(), false) {
                Ok(()) => return Ok(new),
                // Another process made one in the meantime: that one is the key.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The key at `path`.
    ///
    /// # Errors
    /// [`KeyError`], also if there is no file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let line = read_trusted(path, 0o077, FILE_MAX)?.map_err(KeyError::Exposed)?;
        Self::parse(&line)
    }

    /// Puts a new key in the place of the one at `path`, which is kept beside it as `host_key.old`. At no instant is
    /// there no key.
    ///
    /// # Errors
    /// [`KeyError`], also if there is no key to replace; the old one stays then.
    pub fn rotate(path: &Path) -> Result<Rotation, KeyError> {
        let _lock = lock(path)?;
        let (old, new) = (Self::load(path)?, Self::generate()?);
        let mut kept = path.as_os_str().to_owned();
        kept.push(".old");
        let kept = PathBuf::from(kept);
        store(&kept, old.line().as_bytes(), true)?;
        store(path, new.line().as_bytes(), true)?;
        Ok(Rotation {
            old: old.fingerprint(),
            new: new.fingerprint(),
            kept,
        })
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The fingerprint of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.public.fingerprint()
    }

    /// Whether it was made just now.
    pub fn is_new(&self) -> bool {
        self.created
    }

    /// The secret, for key agreement.
    pub fn secret(&self) -> Secret {
        Secret::from_bytes(*self.secret)
    }

    fn generate() -> Result<Self, KeyError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).map_err(KeyError::Entropy)?;
        clamp(&mut secret);
        Ok(Self::of(secret, true))
    }

    fn of(secret: Zeroizing<[u8; 32]>, created: bool) -> Self {
        Self {
            public: PublicKey(Secret::from_bytes(*secret).public()),
            secret,
            created,
        }
    }

    fn parse(line: &[u8]) -> Result<Self, KeyError> {
        let line = str::from_utf8(line).map_err(|_| KeyError::Damaged("it is no text"))?;
        let line = line
            .strip_suffix('\n')
            .ok_or(KeyError::Damaged("its line has no end"))?;
        let mut words = line.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(KeyError::Damaged("it does not begin as a host key does"));
        }
        let (Some(secret), Some(public), None) = (words.next(), words.next(), words.next()) else {
            return Err(KeyError::Damaged("it is not one secret and one public key"));
        };
        let mut bytes = Zeroizing::new([0; 32]);
        let decoded = Base64::decode(secret, &mut *bytes).map_or(0, <[u8]>::len);
        if decoded != bytes.len() {
            return Err(KeyError::Damaged("its secret is no Base64 of 32 bytes"));
        }
        let mut clamped = Zeroizing::new(*bytes);
        clamp(&mut clamped);
        if clamped != bytes {
            return Err(KeyError::Damaged("its secret is none of X25519"));
        }
        let key = Self::of(bytes, false);
        if public.parse() != Ok(key.public) {
            return Err(KeyError::Damaged("its halves do not belong together"));
        }
        Ok(key)
    }

    fn line(&self) -> Zeroizing<String> {
        // As long as it will ever be: a string that grows would leave copies behind.
        let mut line = Zeroizing::new(String::with_capacity(FILE_MAX as usize));
        let mut text = Zeroizing::new([0; 44]);
        let encoded =
            Base64::encode(&*self.secret, &mut *text).expect("32 bytes are 44 characters");
        for part in [MAGIC, " ", encoded, " ", &self.public.to_string(), "\n"] {
            line.push_str(part);
        }
        line
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// Fixes the bits that X25519 ignores (RFC 7748, 5), so that there is one way to write a key and no flipped bit passes.
fn clamp(secret: &mut [u8; 32]) {
    secret[0] &= 0b1111_1000;
    secret[31] = secret[31] & 0b0111_1111 | 0b0100_0000;
}

/// First word of the file: what it is, and in which version.
const MAGIC: &str = "fulmar-x25519-secret-1";
/// Bytes a key file may have; one has 113.
const FILE_MAX: u64 = 256;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::thread;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config/fulmar/host_key");
        (directory, path)
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn made_once_and_found_again() {
        let (_directory, path) = place();
        let made = HostKey::load_or_create(&path).unwrap();
        let found = HostKey::load_or_create(&path).unwrap();
        assert!(made.is_new() && !found.is_new());
        assert_eq!(made.public(), found.public());
        assert_eq!(made.public().0, found.secret().public());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(names(&path), ["host_key"]);
        let other = place();
        assert_ne!(
            HostKey::load_or_create(&other.1).unwrap().public(),
            made.public()
        );
    }

    #[test]
    fn nothing_of_the_secret_is_printed() {
        let (_directory, path) = place();
        let key = HostKey::load_or_create(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let secret = text.split(' ').nth(1).unwrap();
        assert_eq!(secret.len(), 44);
        assert!(!format!("{key:?}").contains(secret));
        fs::write(&path, text.replace(MAGIC, "fulmar-x25519-secret-9")).unwrap();
        let error = HostKey::load(&path).unwrap_err();
        assert!(!format!("{error:?} {error}").contains(secret));
    }

    /// Every shorter file, and every file with one bit flipped, is an error and stays what it is.
    #[test]
    fn a_damaged_key_is_neither_used_nor_replaced() {
        let (_directory, path) = place();
        let key = HostKey::load_or_create(&path).unwrap();
        let good = fs::read(&path).unwrap();
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            bad.push(flipped);
        }
        bad.push([&good[..], b"\n"].concat());
        bad.push([&good[..], &good[..]].concat());
        for bytes in bad {
            let parsed = HostKey::parse(&bytes);
            assert!(
                matches!(parsed, Err(KeyError::Damaged(_))),
                "{}",
                bytes.escape_ascii()
            );
        }
        for bytes in [&b""[..], &good[..50], &[b'x'; 300]] {
            fs::write(&path, bytes).unwrap();
            assert!(HostKey::load_or_create(&path).is_err());
            assert!(HostKey::rotate(&path).is_err());
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        fs::write(&path, &good).unwrap();
        assert_eq!(HostKey::load(&path).unwrap().public(), key.public());
    }

    #[test]
    fn a_key_that_others_can_reach_is_refused() {
        let (_directory, path) = place();
        HostKey::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o777] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = HostKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyError::Exposed(_)), "{mode:o}: {error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        HostKey::load(&path).unwrap();

        let link = path.with_file_name("link");
        symlink(&path, &link).unwrap();
        for odd in [link, path.parent().unwrap().to_owned()] {
            assert!(matches!(
                HostKey::load_or_create(&odd),
                Err(KeyError::Exposed(_))
            ));
        }
    }

    #[test]
    fn rotation_keeps_the_old_key() {
        let (_directory, path) = place();
        assert!(HostKey::rotate(&path).is_err(), "there is none yet");
        let first = HostKey::load_or_create(&path).unwrap();
        for _ in 0..3 {
            let before = HostKey::load(&path).unwrap();
            let done = HostKey::rotate(&path).unwrap();
            assert_eq!(done.old, before.fingerprint());
            assert_eq!(done.new, HostKey::load(&path).unwrap().fingerprint());
            assert_ne!(done.old, done.new);
            assert_eq!(done.kept, path.with_file_name("host_key.old"));
            assert_eq!(HostKey::load(&done.kept).unwrap().public(), before.public());
        }
        assert_ne!(HostKey::load(&path).unwrap().public(), first.public());
        assert_eq!(names(&path), ["host_key", "host_key.lock", "host_key.old"]);
    }

    #[test]
    fn all_who_start_at_once_have_one_key() {
        let (_directory, path) = place();
        let keys: Vec<PublicKey> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| HostKey::load_or_create(&path).unwrap().public()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(names(&path), ["host_key"]);
    }
}
