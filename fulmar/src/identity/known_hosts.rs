//! The keys of others: [`KnownHosts`], a text file with one line for each host.
//!
//! ```text
//! # host:port key-type key [comment]
//! example.org:9000 x25519 hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= the archive
//! [2001:db8::7]:9000 x25519 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=
//! ```
//!
//! Hosts are names as the user types them, never what they resolve to. Whoever edits the file by hand finds every
//! comment and every line that this version cannot read where it was. A line that cannot be read says nothing about a
//! key; but if it begins with a host, that host is one with a record, and not a new one ([`Known::Unreadable`]). It does
//! *not* decide what follows from a record; that is [`check`](super::check).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::{PublicKey, lock, read_trusted, store};

/// The known hosts of one file, as they were when it was read.
#[derive(Clone, Debug)]
pub struct KnownHosts {
    path: PathBuf,
    lines: Vec<Line>,
}

/// A host as the user names it, and a port. Names are equal in any case, addresses in any spelling. Prints as in the
/// file: `example.org:9000`, `[2001:db8::7]:9000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    name: String,
    port: u16,
}

/// What is on record about a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    No,
    /// This key.
    Key(PublicKey),
    /// Something that cannot be read: a damaged line, or a kind of key of another version.
    Unreadable {
        /// Counted from 1.
        line: usize,
    },
}

/// One line that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose key.
    pub host: Host,
    /// The key.
    pub key: PublicKey,
    /// What the user wrote behind it; may be empty.
    pub comment: String,
}

/// A line that does not count. Prints as one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of {} {problem}; it counts for no key", path.display())]
pub struct Warning {
    /// Counted from 1.
    pub line: usize,
    path: PathBuf,
    problem: &'static str,
}

/// Why the known hosts cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KnownHostsError {
    /// The file system.
    #[error("{0}")]
    Storage(#[from] io::Error),
    /// The file is one that must decide nothing.
    #[error("it {0}")]
    Exposed(&'static str),
    /// There is a record of this host, with another key or one that cannot be read: to be forgotten first.
    #[error("{host} has another record already")]
    Conflict {
        /// Which.
        host: Host,
    },
    /// A name that no line can hold.
    #[error("{0:?} is no name of a host")]
    Host(String),
}

impl KnownHostsError {
    /// What to try next.
    pub fn advice(&self) -> String {
        match self {
            Self::Storage(_) => {
                "check the path and who may write to it, or name another file with --known-hosts".into()
            }
            Self::Exposed(_) => {
                "make it a file of your own that nobody else can write to, and see that its lines are yours".into()
            }
            Self::Conflict { host } => {
                format!("if the key at the other side was changed, `fulmar key forget {host}`")
            }
            Self::Host(_) => "write a name or an address".into(),
        }
    }
}

impl KnownHosts {
    /// Reads the file at `path`; none is as good as an empty one.
    ///
    /// # Errors
    /// If it cannot be read, or others than this user can write to it.
    pub fn load(path: &Path) -> Result<Self, KnownHostsError> {
        let bytes = match read_trusted(path, 0o022, FILE_MAX) {
            Ok(read) => read.map_err(KnownHostsError::Exposed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new().into(),
            Err(error) => return Err(error.into()),
        };
        let mut lines: Vec<Line> = Vec::new();
        for raw in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut line = Line::parse(raw);
            let earlier = |host: &Host| lines.iter().any(|line| line.host() == Some(host));
            if let Meaning::Record(record) = &line.meaning
                && earlier(&record.host)
            {
                line.meaning = Meaning::Damaged(None, "names a host that an earlier line names");
            }
            lines.push(line);
        }
        Ok(Self {
            path: path.to_owned(),
            lines,
        })
    }

    /// What is on record about `host`. The first line that names it counts.
    pub fn lookup(&self, host: &Host) -> Known {
        let mut lines = self.lines.iter().enumerate();
        let found = lines.find(|(_, line)| line.host() == Some(host));
        match found {
            None => Known::No,
            Some((at, line)) => match &line.meaning {
                Meaning::Record(record) => Known::Key(record.key),
                Meaning::Nothing | Meaning::Damaged(..) => Known::Unreadable { line: at + 1 },
            },
        }
    }

    /// Every line that counts, in the order of the file.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.lines.iter().filter_map(|line| match &line.meaning {
            Meaning::Record(record) => Some(record),
            Meaning::Nothing | Meaning::Damaged(..) => None,
        })
    }

    /// Every line that does not count and is no comment.
    pub fn warnings(&self) -> impl Iterator<Item = Warning> {
        let lines = self.lines.iter().enumerate();
        lines.filter_map(|(at, line)| match line.meaning {
            Meaning::Damaged(_, problem) => Some(Warning {
                line: at + 1,
                path: self.path.clone(),
                problem,
            }),
            Meaning::Nothing | Meaning::Record(_) => None,
        })
    }

    /// Writes down the key of a host that has no record. The file is read again first, so what others wrote meanwhile
    /// stays. A host that has this key on record is left alone.
    ///
    /// # Errors
    /// [`KnownHostsError`]; then the file is what it was.
    pub fn remember(
        &mut self,
        host: &Host,
        key: &PublicKey,
        comment: &str,
    ) -> Result<(), KnownHostsError> {
        let _lock = lock(&self.path)?;
        let mut now = Self::load(&self.path)?;
        match now.lookup(host) {
            Known::Key(known) if known == *key => {}
            Known::Key(_) | Known::Unreadable { .. } => {
                return Err(KnownHostsError::Conflict { host: host.clone() });
            }
            Known::No => {
                if let Some(last) = now.lines.last_mut()
                    && last.raw.last() != Some(&b'\n')
                {
                    last.raw.push(b'\n');
                }
                let comment: String = comment.split_whitespace().collect::<Vec<_>>().join(" ");
                let line = format!("{host} {KIND} {key} {comment}");
                now.lines
                    .push(Line::parse(format!("{}\n", line.trim_end()).as_bytes()));
                now.save()?;
            }
        }
        *self = now;
        Ok(())
    }

    /// Removes every line about the host `name`, of one port or of all, those included that cannot be read. Returns how
    /// many there were.
    ///
    /// # Errors
    /// [`KnownHostsError`]; then the file is what it was.
    pub fn forget(&mut self, name: &str, port: Option<u16>) -> Result<usize, KnownHostsError> {
        let name = Host::new(name, 1)?.name;
        let _lock = lock(&self.path)?;
        let mut now = Self::load(&self.path)?;
        let before = now.lines.len();
        now.lines.retain(|line| {
            let host = line.named();
            !host.is_some_and(|host| host.name == name && port.is_none_or(|port| port == host.port))
        });
        let removed = before - now.lines.len();
        if removed > 0 {
            now.save()?;
        }
        *self = now;
        Ok(removed)
    }

    fn save(&self) -> io::Result<()> {
        let bytes: Vec<u8> = self
            .lines
            .iter()
            .flat_map(|line| &line.raw)
            .copied()
            .collect();
        store(&self.path, &bytes, true)
    }
}

impl Host {
    /// A host as the user wrote it, without brackets, and its port.
    ///
    /// # Errors
    /// [`KnownHostsError::Host`] for a name that would not be one word of a line.
    pub fn new(name: &str, port: u16) -> Result<Self, KnownHostsError> {
        let word = !name.is_empty()
            && name.len() <= NAME_MAX
            && !name.starts_with(['#', '@', '['])
            && !name.chars().any(|c| c.is_whitespace() || c.is_control());
        if !word {
            return Err(KnownHostsError::Host(name.to_owned()));
        }
        let name = match name.parse::<IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) => name.to_ascii_lowercase(),
        };
        Ok(Self { name, port })
    }

    /// Reads what [`Display`](fmt::Display) writes.
    fn parse(word: &str) -> Option<Self> {
        let (name, port) = word.rsplit_once(':')?;
        let bracketed = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let name = match bracketed {
            Some(inner) if inner.contains(':') => inner,
            None if !name.contains([':', '[', ']']) => name,
            Some(_) | None => return None,
        };
        let port = port.parse().ok().filter(|port| *port > 0)?;
        Self::new(name, port).ok()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address with a zone has colons and is no `Ipv6Addr`.
        if self.name.contains(':') || self.name.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// A line of the file, its end included, and what it means.
#[derive(Clone, Debug)]
struct Line {
    raw: Vec<u8>,
    meaning: Meaning,
}

#[derive(Clone, Debug)]
enum Meaning {
    /// Empty, or a comment.
    Nothing,
    Record(Record),
    /// What is wrong, and whom it names, if that much can be read.
    Damaged(Option<Host>, &'static str),
}

impl Line {
    fn parse(raw: &[u8]) -> Self {
        let meaning = str::from_utf8(raw).map_or_else(
            // The first word may still be one.
            |error| {
                let readable = str::from_utf8(&raw[..error.valid_up_to()]).unwrap_or_default();
                Meaning::Damaged(first_host(readable), "is no text")
            },
            Self::meaning,
        );
        Self {
            raw: raw.to_vec(),
            meaning,
        }
    }

    fn meaning(text: &str) -> Meaning {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return Meaning::Nothing;
        }
        let damaged = |problem| Meaning::Damaged(first_host(text), problem);
        let mut words = text.splitn(4, [' ', '\t']);
        let Some(host) = words.next().and_then(Host::parse) else {
            return damaged("does not begin with host:port");
        };
        let (Some(kind), Some(key)) = (words.next(), words.next()) else {
            return damaged("has no key");
        };
        if kind != KIND {
            return damaged("has a kind of key that this version does not know");
        }
        let Ok(key) = key.parse() else {
            return damaged("has a damaged key");
        };
        let comment = words.next().unwrap_or_default().trim().to_owned();
        Meaning::Record(Record { host, key, comment })
    }

    /// The host that the line has a say about.
    fn host(&self) -> Option<&Host> {
        match &self.meaning {
            Meaning::Nothing => None,
            Meaning::Record(record) => Some(&record.host),
            Meaning::Damaged(host, _) => host.as_ref(),
        }
    }

    /// The host that the line names, whether or not it counts.
    fn named(&self) -> Option<Host> {
        match &self.meaning {
            Meaning::Nothing => None,
            Meaning::Record(_) | Meaning::Damaged(..) => self
                .raw
                .utf8_chunks()
                .next()
                .and_then(|chunk| first_host(chunk.valid())),
        }
    }
}

fn first_host(text: &str) -> Option<Host> {
    text.split_whitespace().next().and_then(Host::parse)
}

/// The only kind of key there is.
const KIND: &str = "x25519";
/// Bytes of the file: some ten thousand hosts.
const FILE_MAX: u64 = 1 << 20;
/// Bytes of a name, as in DNS.
const NAME_MAX: usize = 255;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const ONE: PublicKey = PublicKey([1; 32]);
    const TWO: PublicKey = PublicKey([2; 32]);

    fn host(name: &str) -> Host {
        Host::new(name, 9000).unwrap()
    }

    fn file(contents: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("known_hosts");
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        (directory, path)
    }

    #[test]
    fn remembered_found_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/known_hosts");
        let mut known = KnownHosts::load(&path).unwrap();
        assert_eq!(known.lookup(&host("example.org")), Known::No);
        known
            .remember(&host("Example.ORG"), &ONE, "  my\nhost ")
            .unwrap();
        known.remember(&host("2001:db8:0::7"), &TWO, "").unwrap();
        let other_port = Host::new("example.org", 7).unwrap();
        known.remember(&other_port, &TWO, "").unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!(
                "example.org:9000 x25519 {ONE} my host\n[2001:db8::7]:9000 x25519 {TWO}\nexample.org:7 x25519 {TWO}\n"
            )
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut known = KnownHosts::load(&path).unwrap();
        assert_eq!(known.lookup(&host("example.org")), Known::Key(ONE));
        assert_eq!(known.lookup(&other_port), Known::Key(TWO));
        assert_eq!(known.lookup(&host("2001:DB8::7")), Known::Key(TWO));
        assert_eq!(known.lookup(&host("example.com")), Known::No);
        known.remember(&host("example.org"), &ONE, "again").unwrap();
        let conflict = known.remember(&host("example.org"), &TWO, "");
        assert!(matches!(conflict, Err(KnownHostsError::Conflict { .. })));
        assert_eq!(known.lookup(&host("example.org")), Known::Key(ONE));

        assert_eq!(known.forget("example.com", None).unwrap(), 0);
        assert_eq!(known.forget("example.org", Some(7)).unwrap(), 1);
        assert_eq!(known.lookup(&other_port), Known::No);
        assert_eq!(known.lookup(&host("example.org")), Known::Key(ONE));
        assert_eq!(known.forget("EXAMPLE.org", None).unwrap(), 1);
        assert_eq!(known.records().count(), 1);
    }

    #[test]
    fn a_damaged_line_is_no_new_host() {
        let text = format!(
            "# mine\n\nexample.org:9000 x25519 AAAA\nother:9000 ed25519 {ONE}\nlone:9000\nno port {ONE}\n\
             good:9000 x25519 {ONE} c d\ngood:9000 x25519 {TWO}\nlast:9000\tx25519\t{TWO}"
        );
        let (_directory, path) = file(&[text.as_bytes(), b"\nraw:9000 x25519 \xff\n"].concat());
        let known = KnownHosts::load(&path).unwrap();
        for (name, want) in [
            ("example.org", Known::Unreadable { line: 3 }),
            ("other", Known::Unreadable { line: 4 }),
            ("lone", Known::Unreadable { line: 5 }),
            ("no", Known::No),
            ("good", Known::Key(ONE)),
            ("last", Known::Key(TWO)),
            ("raw", Known::Unreadable { line: 10 }),
        ] {
            assert_eq!(known.lookup(&host(name)), want, "{name}");
        }
        let warned: Vec<usize> = known.warnings().map(|warning| warning.line).collect();
        assert_eq!(warned, [3, 4, 5, 6, 8, 10]);
        let first = known.warnings().next().unwrap().to_string();
        assert!(
            first.starts_with("line 3 of ") && first.contains("damaged key"),
            "{first}"
        );
        assert_eq!(known.records().next().unwrap().comment, "c d");
    }

    #[test]
    fn what_is_not_understood_stays_where_it_was() {
        let odd = format!(
            "# a comment\n\n  \nexample.org:9000 x448 {ONE}\ngarbage\r\nlast:9000 x25519 {ONE}"
        );
        let (_directory, path) = file(odd.as_bytes());
        let mut known = KnownHosts::load(&path).unwrap();
        known.remember(&host("new"), &TWO, "").unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{odd}\nnew:9000 x25519 {TWO}\n")
        );
        assert_eq!(known.forget("new", None).unwrap(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{odd}\n"));
        assert_eq!(
            known.forget("example.org", None).unwrap(),
            1,
            "unreadable ones too"
        );
        assert_eq!(known.lookup(&host("example.org")), Known::No);
    }

    #[test]
    fn what_others_can_write_decides_nothing() {
        let (_directory, path) = file(b"");
        for mode in [0o620, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = KnownHosts::load(&path).unwrap_err();
            assert_eq!(error.to_string(), "it can be changed by others");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        KnownHosts::load(&path).unwrap();
    }

    #[test]
    fn names_that_would_be_more_than_a_word_are_refused() {
        let long = "a".repeat(256);
        for name in [
            "",
            "a b",
            "a\nb",
            "#a",
            "@a",
            "[a",
            "a\u{2028}b",
            "a\u{1b}",
            &long,
        ] {
            assert!(Host::new(name, 1).is_err(), "{name:?}");
        }
    }

    /// Two writers, each with the file as it was at the start: nothing of either is lost.
    #[test]
    fn writers_do_not_undo_each_other() {
        let (_directory, path) = file(b"");
        thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let mut known = KnownHosts::load(path).unwrap();
                    for n in 0..10 {
                        known
                            .remember(&host(&format!("h{writer}-{n}")), &ONE, "")
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(KnownHosts::load(&path).unwrap().records().count(), 40);
    }

    fn word() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z0-9.-]{1,12}",
            "[0-9a-f]{1,4}(:[0-9a-f]{1,4}){2,5}(%[a-z]{1,4})?"
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn hosts_read_back(name in word(), port in 1u16..) {
            let host = Host::new(&name, port).unwrap();
            prop_assert_eq!(Host::parse(&host.to_string()), Some(host));
        }

        #[test]
        fn any_bytes_are_lines(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b' '), Just(b':')], 0..200)) {
            let (_directory, path) = file(&bytes);
            let known = KnownHosts::load(&path).unwrap();
            let kept: Vec<u8> = known.lines.iter().flat_map(|line| line.raw.clone()).collect();
            prop_assert_eq!(kept, bytes);
            for host in known.lines.iter().filter_map(Line::named) {
                prop_assert_ne!(known.lookup(&host), Known::No, "whoever is named is no new host");
            }
        }

        /// The naive twin is a map.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u8..4, 1u16..3, any::<bool>(), any::<bool>()), 1..30)) {
            let (_directory, path) = file(b"");
            let mut known = KnownHosts::load(&path).unwrap();
            let mut twin: BTreeMap<(u8, u16), PublicKey> = BTreeMap::new();
            for (name, port, one, forget) in steps {
                let (text, key) = (format!("h{name}"), if one { ONE } else { TWO });
                let host = Host::new(&text, port).unwrap();
                if forget {
                    let removed = usize::from(twin.remove(&(name, port)).is_some());
                    prop_assert_eq!(known.forget(&text, Some(port)).unwrap(), removed);
                } else {
                    let stored = *twin.entry((name, port)).or_insert(key);
                    prop_assert_eq!(known.remember(&host, &key, "").is_ok(), stored == key);
                }
                let again = KnownHosts::load(&path).unwrap();
                for name in 0..4 {
                    for port in 1..3 {
                        let host = Host::new(&format!("h{name}"), port).unwrap();
                        let want = twin.get(&(name, port)).map_or(Known::No, |key| Known::Key(*key));
                        prop_assert_eq!((known.lookup(&host), again.lookup(&host)), (want, want));
                    }
                }
            }
        }
    }
}
