//! Every way a transfer can fail, one of each, held to the tables of `docs/errors.md`. A variant without a row does not
//! compile: each match below names them all, one after the other.

#[path = "../../tests/common/table.rs"]
mod table;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use fulmar_proto::hpudp::{Failure, Reason};

use super::error::{Attempt, Kind, Side, TransferError};
use super::outgoing::{unreadable, unsendable};
use super::storing::{uncreatable, unpackable, unstorable, unusable};
use crate::bundle::{FileError, HeadError, ManifestError, ScanError, SinkError};
use crate::config::Dscp;
use crate::driver::Stopped;
use crate::file::{CreateError, Directory, FinishError, NameError, SourceError};
use crate::identity::{Pin, PublicKey, Refusal};

#[test]
fn every_failure_of_a_transfer_is_documented() {
    let mut errors = vec![
        TransferError::stopped(&at(Side::Send)),
        TransferError::stopped(&Attempt {
            resumes: false,
            ..at(Side::Send)
        }),
        TransferError::stripped(&at(Side::Send)),
        TransferError::driver(Stopped),
        TransferError::entropy(getrandom::Error::UNSUPPORTED),
        TransferError::mark(Dscp::default(), system(libc::EPERM)),
        unusable(Path::new("DIR"), system(libc::ENOENT)),
    ];
    let listen = SocketAddr::from(([0, 0, 0, 0], 9000));
    for code in [
        libc::EADDRINUSE,
        libc::EADDRNOTAVAIL,
        libc::EACCES,
        libc::ENOBUFS,
    ] {
        errors.push(TransferError::socket(listen, system(code)));
    }
    errors.extend(failures(Side::Send));
    errors.extend(sources());
    errors.extend(scans());
    errors.extend(creations());
    errors.extend(endings());
    errors.extend(unpackings());
    let mut seen: Vec<Kind> = Vec::new();
    let mut rows = table::head();
    for error in &errors {
        rows.push(row(error));
        seen.push(error.kind());
    }
    let mut next = Some(Kind::Failed);
    while let Some(kind) = next {
        assert!(seen.contains(&kind), "no failure is {kind:?}");
        next = match kind {
            Kind::Failed => Some(Kind::NoConnection),
            Kind::NoConnection => Some(Kind::Identity),
            Kind::Identity => Some(Kind::Integrity),
            Kind::Integrity => Some(Kind::Refused),
            Kind::Refused => Some(Kind::Stopped),
            Kind::Stopped => None,
        };
    }
    table::check("transfers", &rows);
}

/// The end of a session, where it reads differently at another side than the sender's.
#[test]
fn every_side_is_documented_in_its_own_words() {
    let told = |side| failures(side).iter().map(row).collect::<Vec<_>>();
    let sender = told(Side::Send);
    let mut rows = table::head();
    let mut next = Some(Side::Put);
    while let Some(side) = next {
        let new = told(side).into_iter().filter(|row| !sender.contains(row));
        rows.extend(new.filter(|row| possible(side, row)));
        next = match side {
            Side::Send => Some(Side::Put),
            Side::Put => Some(Side::Get),
            Side::Get => Some(Side::List),
            Side::List => Some(Side::Receive),
            Side::Receive => Some(Side::Serve),
            Side::Serve => None,
        };
    }
    table::check("sides", &rows);
}

/// Whether a side can come to that: a list is refused or not answered, and nothing more; who is called looks for nobody.
fn possible(side: Side, row: &str) -> bool {
    let has = |needles: &[&str]| needles.iter().any(|needle| row.contains(needle));
    let about_keys = has(&["| 4 |", "single files", "encrypt"]);
    match side {
        Side::Send | Side::Put => true,
        Side::Get => !has(&[
            "exists",
            "receiver cannot store",
            "invalid",
            "another hash",
            "single",
        ]),
        Side::List => has(&["no answer", "no such file", "busy", "stopped"]) && !about_keys,
        Side::Receive => has(&["silent", "gave up"]),
        Side::Serve => has(&[
            "no answer",
            "silent",
            "gave up",
            "exists",
            "cannot store",
            "hash",
        ]),
    }
}

#[test]
fn every_refusal_of_a_key_is_documented() {
    let [known, shown] = [1, 2].map(|byte| PublicKey([byte; 32]).fingerprint());
    let (wanted, mut rows) = (known, table::head());
    let mut next = Some(Refusal::Changed { known, shown });
    while let Some(refusal) = next {
        let what = at(Side::Send).to_string();
        let text = row(&TransferError::identity(what, "HOST", refusal));
        let text = text.replace(&known.to_string(), "SHA256:…");
        rows.push(text.replace(&shown.to_string(), "SHA256:…"));
        next = match refusal {
            Refusal::Changed { .. } => Some(Refusal::NotPinned { wanted, shown }),
            Refusal::NotPinned { .. } => Some(Refusal::Downgraded { wanted }),
            Refusal::Downgraded { .. } => Some(Refusal::Keyless),
            Refusal::Keyless => Some(Refusal::Stranger { shown }),
            Refusal::Stranger { .. } => Some(Refusal::Unreadable { line: 3 }),
            Refusal::Unreadable { .. } => None,
        };
    }
    table::check("identity", &rows);
    let no_key = "x".parse::<Pin>().map_err(|error| error.to_string());
    assert!(no_key.is_err_and(|text| text.contains("fulmar key show")));
}

/// Every end of a session, and every reason a peer may give.
fn failures(side: Side) -> Vec<TransferError> {
    let mut errors = Vec::new();
    let mut next = Some(Failure::NoAnswer);
    while let Some(failure) = next {
        let reasons = Reason::NAMED.iter().map(|(reason, _)| *reason);
        let each: Vec<Failure> = match failure {
            Failure::Refused(unknown) => reasons.chain([unknown]).map(Failure::Refused).collect(),
            Failure::NoAnswer
            | Failure::Silent
            | Failure::Aborted(_)
            | Failure::BadKey
            | Failure::NoIdentity
            | Failure::OtherIdentity(_)
            | Failure::NoBundles => vec![failure],
        };
        let session = |failure| TransferError::session(&at(side), failure);
        errors.extend(each.into_iter().map(session));
        next = match failure {
            Failure::NoAnswer => Some(Failure::Silent),
            Failure::Silent => Some(Failure::Refused(Reason(0x77))),
            Failure::Refused(_) => Some(Failure::Aborted(Reason::STORAGE)),
            Failure::Aborted(_) => Some(Failure::BadKey),
            Failure::BadKey => Some(Failure::NoIdentity),
            Failure::NoIdentity => Some(Failure::OtherIdentity([0; 32])),
            Failure::OtherIdentity(_) => Some(Failure::NoBundles),
            Failure::NoBundles => None,
        };
    }
    errors
}

fn sources() -> Vec<TransferError> {
    let mut errors = Vec::new();
    let mut next = Some(SourceError::Open(system(libc::ENOENT)));
    while let Some(error) = next {
        let after = match error {
            SourceError::Open(_) => Some(SourceError::NotAFile("a directory")),
            SourceError::NotAFile(_) => Some(SourceError::Name(bad_name())),
            SourceError::Name(_) => Some(SourceError::Backslash),
            SourceError::Backslash => Some(SourceError::Changed),
            SourceError::Changed => Some(SourceError::Shortened),
            SourceError::Shortened => Some(SourceError::Read(system(libc::EIO))),
            SourceError::Read(_) => Some(SourceError::Stopped),
            SourceError::Stopped => None,
        };
        errors.push(unreadable(Path::new("FILE"), error));
        next = after;
    }
    errors
}

/// Of what the user names, beyond the files themselves.
fn scans() -> Vec<TransferError> {
    let mut errors = Vec::new();
    let file = || FileError {
        path: "FILE".into(),
        error: SourceError::NotAFile("a device"),
    };
    let mut next = Some(ScanError::File(file()));
    while let Some(error) = next {
        let after = match error {
            ScanError::File(_) => Some(ScanError::Twice("NAME".into())),
            ScanError::Twice(_) => Some(ScanError::NoName("/".into())),
            ScanError::NoName(_) => Some(ScanError::Manifest {
                path: "PATH".into(),
                error: ManifestError::Path,
            }),
            ScanError::Manifest { .. } => Some(ScanError::Nothing),
            ScanError::Nothing => None,
        };
        errors.push(unsendable(error));
        next = after;
    }
    errors
}

fn creations() -> Vec<TransferError> {
    let mut errors = Vec::new();
    let mut next = Some(CreateError::Name(bad_name()));
    while let Some(error) = next {
        let after = match error {
            CreateError::Name(_) => Some(CreateError::Exists),
            CreateError::Exists => Some(CreateError::NoSpace { size: 7, free: 5 }),
            CreateError::NoSpace { .. } => Some(CreateError::Storage(system(libc::EROFS))),
            CreateError::Storage(_) => None,
        };
        errors.push(uncreatable(&at(Side::Receive), error).1);
        next = after;
    }
    errors
}

fn endings() -> Vec<TransferError> {
    let mut errors = Vec::new();
    let mut next = Some(FinishError::HashMismatch {
        expected: 1,
        actual: 2,
    });
    while let Some(error) = next {
        let after = match error {
            FinishError::HashMismatch { .. } => Some(FinishError::Incomplete { missing: 7 }),
            FinishError::Incomplete { .. } => Some(FinishError::Exists),
            FinishError::Exists => Some(FinishError::Storage(system(libc::ENOSPC))),
            FinishError::Storage(_) => None,
        };
        errors.push(unstorable(&at(Side::Receive), error).1);
        next = after;
    }
    errors
}

/// At the end of a bundle.
fn unpackings() -> Vec<TransferError> {
    let mut errors = Vec::new();
    let mut next = Some(SinkError::Head(HeadError::NotABundle));
    while let Some(error) = next {
        let after = match error {
            SinkError::Head(_) => Some(SinkError::Manifest(ManifestError::Truncated)),
            SinkError::Manifest(_) => Some(SinkError::Beyond),
            SinkError::Beyond => Some(SinkError::Exists("PATH".into())),
            SinkError::Exists(_) => Some(SinkError::NoSpace { size: 7, free: 5 }),
            SinkError::NoSpace { .. } => Some(SinkError::Busy),
            SinkError::Busy => Some(SinkError::Incomplete { missing: 7 }),
            SinkError::Incomplete { .. } => Some(SinkError::Integrity),
            SinkError::Integrity => Some(SinkError::Storage(system(libc::ENOSPC))),
            SinkError::Storage(_) => None,
        };
        errors.push(unpackable(&at(Side::Receive), error).1);
        next = after;
    }
    errors
}

fn row(error: &TransferError) -> String {
    let because = error.source().map(ToString::to_string).unwrap_or_default();
    table::row(error.what(), &because, error.advice(), error.exit_code())
}

fn bad_name() -> NameError {
    Directory::check_name(b"..").expect_err("nobody may choose that")
}

fn at(side: Side) -> Attempt {
    Attempt {
        side,
        name: "FILE".to_owned(),
        peer: peer(),
        resumes: side != Side::List,
    }
}

fn peer() -> SocketAddr {
    ([192, 0, 2, 7], 9000).into()
}

fn system(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
