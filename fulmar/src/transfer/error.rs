//! Why a transfer failed, in words: [`TransferError`], and what to try for each side of it.
//!
//! It does *not* decide what fails; whoever meets a failure says at which [`Side`] that was.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use fulmar_proto::hpudp::{Failure, Reason};

use crate::config::Dscp;
use crate::driver::Stopped;
use crate::identity::Refusal;

/// Why a transfer failed: what was attempted, because of what, and what to try. Displayed as three lines.
#[derive(Debug)]
pub struct TransferError {
    kind: Kind,
    what: String,
    because: Box<dyn Error + Send + Sync>,
    advice: String,
}

/// Kinds of failure, as scripts tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Something on this machine: a file, the disk, the socket.
    Failed,
    /// The peer never answered, or fell silent.
    NoConnection,
    /// The peer's key is unusable.
    Identity,
    /// The bytes that arrived are not those that were promised.
    Integrity,
    /// The peer refused or gave up.
    Refused,
    /// The user stopped it.
    Stopped,
}

impl Kind {
    /// The exit code of a process that ends with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::NoConnection => 3,
            Self::Identity => 4,
            Self::Integrity => 5,
            Self::Refused => 6,
            Self::Stopped => 130,
        }
    }
}

/// Which part of a session this side plays: what can be tried differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Sends to a receiver.
    Send,
    /// Sends to a daemon.
    Put,
    /// Fetches from a daemon.
    Get,
    /// Asks a daemon what it has.
    List,
    /// Is sent something.
    Receive,
    /// Is a daemon that is asked for something.
    Serve,
}

/// One thing that is tried. Displayed as what cannot be done once it has failed.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) side: Side,
    /// What is moved, as a person calls it.
    pub(super) name: String,
    /// The other side.
    pub(super) peer: SocketAddr,
    /// What arrived is kept, and the next attempt goes on from there.
    pub(super) resumes: bool,
}

impl Attempt {
    /// To have what was tried done once more.
    pub(super) fn again(&self) -> &'static str {
        match self.side {
            Side::Send => "send it again",
            Side::Put => "put it again",
            Side::Get => "fetch it again",
            Side::List => "ask again",
            Side::Receive => "have it sent again",
            Side::Serve => "have it fetched again",
        }
    }

    /// As [`again`](Self::again), and what is gained by that.
    pub(super) fn onwards(&self) -> String {
        let again = self.again();
        if self.resumes {
            format!("{again}: it goes on where it stopped")
        } else {
            again.to_owned()
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            side, name, peer, ..
        } = self;
        match side {
            Side::Send | Side::Put | Side::Serve => write!(f, "cannot send {name} to {peer}"),
            Side::Get => write!(f, "cannot fetch {name} from {peer}"),
            Side::List => write!(f, "cannot list what {peer} has"),
            Side::Receive => write!(f, "cannot receive {name} from {peer}"),
        }
    }
}

impl TransferError {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code of a process that ends with it.
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }

    /// What was attempted and failed.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to try next.
    pub fn advice(&self) -> &str {
        &self.advice
    }

    /// How the session ended, if that is what failed.
    pub fn failure(&self) -> Option<Failure> {
        self.because.downcast_ref().copied()
    }

    /// A peer, `host` as the user wrote it, that is not who it must be.
    pub fn identity(what: impl Into<String>, host: &str, refusal: Refusal) -> Self {
        Self::new(Kind::Identity, what, refusal, refusal.advice(host))
    }

    /// What stood in the way.
    pub(super) fn because(&self) -> String {
        self.because.to_string()
    }

    pub(super) fn new(
        kind: Kind,
        what: impl Into<String>,
        because: impl Into<Box<dyn Error + Send + Sync>>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            what: what.into(),
            because: because.into(),
            advice: advice.into(),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kinds of input and output errors never end"
    )]
    pub(super) fn socket(at: SocketAddr, error: io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "use another port, or end the program that has this one",
            io::ErrorKind::AddrNotAvailable => {
                "use an address of this machine, or [::] for all of them"
            }
            io::ErrorKind::PermissionDenied => "use a port above 1023",
            _ => "see that this machine allows UDP sockets, then try again",
        };
        let what = format!("cannot open a UDP socket at {at}");
        Self::new(Kind::Failed, what, error, advice)
    }

    pub(super) fn mark(dscp: Dscp, error: io::Error) -> Self {
        let what = format!("cannot mark datagrams as {dscp}");
        let advice = "use another mark; some need a privilege";
        Self::new(Kind::Failed, what, error, advice)
    }

    pub(super) fn entropy(error: getrandom::Error) -> Self {
        let advice = "no transfer is safe without random numbers; look at the system's log";
        let what = "cannot draw random numbers";
        Self::new(Kind::Failed, what, error.to_string(), advice)
    }

    pub(super) fn driver(error: Stopped) -> Self {
        let advice = "the log has the reason; trying again is safe";
        Self::new(Kind::Failed, "the socket stopped working", error, advice)
    }

    pub(super) fn thread(error: io::Error) -> Self {
        let advice = "end other programs, or raise the limit of threads";
        Self::new(Kind::Failed, "cannot start a thread", error, advice)
    }

    pub(super) fn stopped(attempt: &Attempt) -> Self {
        let advice = if attempt.resumes || attempt.side == Side::List {
            attempt.onwards()
        } else {
            format!("{}; nothing incomplete was kept", attempt.again())
        };
        let what = attempt.to_string();
        Self::new(Kind::Stopped, what, "stopped by the user", advice)
    }

    /// The end of a session as its endpoint reports it.
    pub(super) fn session(attempt: &Attempt, failure: Failure) -> Self {
        let (kind, advice) = match failure {
            Failure::NoAnswer => (Kind::NoConnection, who_runs_there(attempt)),
            Failure::Silent => {
                let advice = format!("check the connection, then {}", attempt.onwards());
                (Kind::NoConnection, advice)
            }
            Failure::BadKey => (
                Kind::Identity,
                "somebody between here and there may have changed it".into(),
            ),
            Failure::NoIdentity => (
                Kind::Identity,
                "it may not be who you mean; without a demand for proof it would have been believed"
                    .into(),
            ),
            Failure::OtherIdentity(_) => (
                Kind::Identity,
                "somebody else may answer there; if its key was changed on purpose, forget the old one".into(),
            ),
            Failure::NoBundles => (Kind::Refused, "send single files, without folders".into()),
            Failure::Refused(Reason::HASH_MISMATCH) => {
                (Kind::Integrity, advice_on(attempt, Reason::HASH_MISMATCH))
            }
            Failure::Refused(reason) => (Kind::Refused, advice_on(attempt, reason)),
            Failure::Aborted(reason) => (Kind::Failed, advice_on(attempt, reason)),
        };
        Self::new(kind, attempt.to_string(), failure, advice)
    }

    /// A peer that proves who it is takes bundles (HP-UDP 18.8): that this one says no was put into its mouth.
    pub(super) fn stripped(attempt: &Attempt) -> Self {
        let advice = "names would be readable on the way, so nothing was sent; somebody between here and there may \
                      have changed its answer";
        let what = attempt.to_string();
        Self::new(Kind::Identity, what, Failure::NoBundles, advice)
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\nbecause: {}\ntry: {}",
            self.what, self.because, self.advice
        )
    }
}

impl Error for TransferError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.because)
    }
}

/// Nobody answers: what should run there.
fn who_runs_there(attempt: &Attempt) -> String {
    let program = match attempt.side {
        Side::Send => "`fulmar recv`",
        Side::Put => "`fulmar serve --allow-put`",
        Side::Get => "`fulmar serve`",
        Side::List => "`fulmar serve`, or another daemon that gives lists,",
        Side::Receive | Side::Serve => return "nothing: its request may have been forged".into(),
    };
    let (ip, port) = (attempt.peer.ip(), attempt.peer.port());
    format!(
        "check that {program} runs at {ip} and that UDP port {port} is open between here and there"
    )
}

fn advice_on(attempt: &Attempt, reason: Reason) -> String {
    let again = attempt.again();
    if attempt.side == Side::Serve && reason != Reason::DISCONNECT {
        return "nothing: whoever asked for it was told".into();
    }
    let asks = matches!(attempt.side, Side::Get | Side::List);
    match reason {
        Reason::BUSY | Reason::COLLISION => format!("{again} in a moment"),
        Reason::EXISTS => "rename it, or have the one that is there removed".into(),
        Reason::NO_ENCRYPTION => {
            "--allow-plain, if everybody between here and there may read the file".into()
        }
        Reason::NEEDS_ENCRYPTION => "leave out --plain".into(),
        Reason::FORBIDDEN if asks => "ask whoever runs the daemon".into(),
        Reason::FORBIDDEN => "ask whoever runs the daemon to start it with --allow-put".into(),
        Reason::STORAGE => "make room on the receiver's disk, or look at its log".into(),
        Reason::NOT_FOUND if asks => format!(
            "see what it has: `fulmar ls {}`; what came after its start it gives with --watch only",
            attempt.peer
        ),
        Reason::NOT_FOUND | Reason::INVALID => "rename it, or send an archive of it".into(),
        Reason::HASH_MISMATCH => {
            format!("{again}; if that repeats, check both disks and memories")
        }
        Reason::DISCONNECT => format!("ask at the other side, then {}", attempt.onwards()),
        _ => "ask at the other side".into(),
    }
}
