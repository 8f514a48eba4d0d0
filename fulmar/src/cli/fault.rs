//! How a command fails: three lines and an exit code.
//!
//! It does *not* know any failure by itself; whoever fails says what, why and what to try.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use fulmar::transfer::TransferError;
use fulmar_proto::hpudp::Reason;

use crate::ui::{Event, Voice, harmless};

/// Why a command ends without having done its work.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) exit: Exit,
    what: String,
    because: Vec<String>,
    hint: Option<String>,
}

/// What an exit code means. Zero, "done", is not a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Something on this machine.
    Failed = 1,
    /// The command line.
    Usage = 2,
    /// The peer never answered, or fell silent.
    NoConnection = 3,
    /// The peer's identity or a password.
    Identity = 4,
    /// The bytes are not those that were promised.
    Integrity = 5,
    /// The peer said no.
    Refused = 6,
    /// SIGINT or SIGTERM.
    Interrupted = 130,
}

impl Fault {
    /// A command line that cannot be obeyed: one sentence with the argument and what it may be.
    pub(crate) fn usage(sentence: impl Into<String>) -> Self {
        Self::new(Exit::Usage, sentence)
    }

    /// Something on this machine failed.
    pub(crate) fn failed(what: impl Into<String>, because: impl Into<Box<dyn Error>>) -> Self {
        Self::new(Exit::Failed, what).because(because)
    }

    /// An offer that this side did not accept.
    pub(crate) fn refused(name: &str, peer: SocketAddr, reason: Reason, because: &str) -> Self {
        Self::new(Exit::Refused, format!("refused {name} from {peer}"))
            .because(because)
            .hint(format!(
                "nothing, if that is right; the sender was told: {reason}"
            ))
    }

    /// A fault of this kind.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            because: Vec::new(),
            hint: None,
        }
    }

    /// Adds the reason, and its reasons.
    pub(crate) fn because(mut self, because: impl Into<Box<dyn Error>>) -> Self {
        let because = because.into();
        let mut next: Option<&dyn Error> = Some(&*because);
        while let Some(error) = next {
            let text = error.to_string();
            // Many errors print their source too; say nothing twice.
            if !self.because.iter().any(|said| said.contains(&text)) {
                self.because.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Adds what to try.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same as a line of JSON.
    pub(crate) fn event<'a>(&self, file: Option<&'a str>) -> Event<'a> {
        Event::Failed {
            file: file.map(Into::into),
            error: self.what.clone(),
            because: self.because.clone(),
            exit: self.exit as u8,
        }
    }

    /// Emits the failure for programs, and passes it on.
    pub(crate) fn told(self, voice: Voice) -> Self {
        voice.emit(&self.event(None));
        self
    }

    /// Says it to people; errors are never silenced.
    pub(crate) fn print(&self) {
        // Nobody is left to hear that standard error is closed.
        let _ = write!(io::stderr(), "{self}");
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Any of these may hold a name that somebody else chose.
        writeln!(f, "error: {}", harmless(&self.what))?;
        for reason in &self.because {
            writeln!(f, "because: {}", harmless(reason))?;
        }
        self.hint
            .iter()
            .try_for_each(|hint| writeln!(f, "try: {}", harmless(hint)))
    }
}

impl From<TransferError> for Fault {
    fn from(error: TransferError) -> Self {
        Self::from(&error)
    }
}

impl From<&TransferError> for Fault {
    fn from(error: &TransferError) -> Self {
        let because = error.source().map(ToString::to_string);
        Self {
            exit: Exit::from_code(error.exit_code()),
            what: error.what().to_owned(),
            because: because.into_iter().collect(),
            hint: Some(error.advice().to_owned()),
        }
    }
}

impl Exit {
    fn from_code(code: u8) -> Self {
        let all = [
            Self::Usage,
            Self::NoConnection,
            Self::Identity,
            Self::Integrity,
            Self::Refused,
            Self::Interrupted,
        ];
        all.into_iter()
            .find(|exit| *exit as u8 == code)
            .unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cli::table;

    #[test]
    fn three_lines() {
        let cause = io::Error::new(io::ErrorKind::NotFound, "no such thing");
        let fault = Fault::failed("cannot do it", cause).hint("do something else");
        assert_eq!(
            fault.to_string(),
            "error: cannot do it\nbecause: no such thing\ntry: do something else\n"
        );
        assert_eq!(Fault::usage("--x is y").to_string(), "error: --x is y\n");
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let mut rows = vec!["| code | meaning |".to_owned(), "|---|---|".to_owned()];
        rows.push("| 0 | done |".to_owned());
        let mut next = Some(Exit::Failed);
        while let Some(exit) = next {
            let (meaning, after) = match exit {
                Exit::Failed => (
                    "something on this machine: a file, a disk, a socket",
                    Some(Exit::Usage),
                ),
                Exit::Usage => ("the command line", Some(Exit::NoConnection)),
                Exit::NoConnection => (
                    "nobody answered, or the other side fell silent",
                    Some(Exit::Identity),
                ),
                Exit::Identity => ("a key: this side's, or the other's", Some(Exit::Integrity)),
                Exit::Integrity => ("what arrived is not what was promised", Some(Exit::Refused)),
                Exit::Refused => ("the other side said no", Some(Exit::Interrupted)),
                Exit::Interrupted => ("SIGINT or SIGTERM", None),
            };
            assert_eq!(Exit::from_code(exit as u8), exit);
            rows.push(format!("| {} | {meaning} |", exit as u8));
            next = after;
        }
        table::check("exit codes", &rows);
    }

    /// What commands say by themselves, in the words they say it in.
    #[test]
    fn what_commands_say_is_documented() {
        let peer = SocketAddr::from(([192, 0, 2, 7], 9000));
        let mut faults = super::super::send::samples();
        faults.extend(super::super::peer::samples());
        faults.extend(super::super::key::samples());
        faults.extend(super::super::recv::samples());
        faults.push(Fault::refused(
            "FILE",
            peer,
            Reason::EXISTS,
            "a file of that name exists",
        ));
        let mut rows = table::head();
        for fault in &faults {
            let hint = fault.hint.as_deref().unwrap_or_default();
            rows.push(table::row(
                &fault.what,
                &fault.because.join("; "),
                hint,
                fault.exit as u8,
            ));
        }
        table::check("commands", &rows);
    }
}
