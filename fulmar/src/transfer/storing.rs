//! What is said when something that arrives cannot be stored: to the user, and to the peer.
//!
//! It does *not* store anything.

use std::io;
use std::path::Path;

use fulmar_proto::hpudp::Reason;

use super::error::{Attempt, Kind, TransferError};
use crate::bundle::SinkError;
use crate::file::{CreateError, Directory, FinishError};

/// What the peer is told, and the user.
pub(super) type Fault = (Reason, TransferError);

/// The name for an offered file that can be received, or what its sender is told and what the user is.
pub(super) fn admit(
    directory: &Directory,
    raw: &[u8],
    size: u64,
) -> Result<String, (Reason, String)> {
    let name = Directory::check_name(raw).map_err(|error| (Reason::INVALID, error.to_string()))?;
    match directory.check_room(&name, size) {
        Ok(()) => Ok(name),
        Err(error) => Err((refusal(&error), error.to_string())),
    }
}

/// A directory that no file can go to.
pub(super) fn unusable(directory: &Path, error: io::Error) -> TransferError {
    let what = format!("cannot receive into {}", directory.display());
    let advice = "name a directory that exists and that you may write to";
    TransferError::new(Kind::Failed, what, error, advice)
}

/// A file that cannot be begun.
pub(super) fn uncreatable(attempt: &Attempt, error: CreateError) -> Fault {
    let reason = refusal(&error);
    let advice = match error {
        CreateError::Name(_) => "have it renamed, or sent in an archive".to_owned(),
        CreateError::Exists => ELSEWHERE.to_owned(),
        CreateError::NoSpace { .. } | CreateError::Storage(_) => {
            format!("make room, or check the disk, then {}", attempt.again())
        }
    };
    let error = TransferError::new(Kind::Failed, attempt.to_string(), error, advice);
    (reason, error)
}

/// A file that came, and is not one.
pub(super) fn unstorable(attempt: &Attempt, error: FinishError) -> Fault {
    let again = attempt.again();
    let (reason, kind, advice) = match error {
        FinishError::HashMismatch { .. } => (
            Reason::HASH_MISMATCH,
            Kind::Integrity,
            format!("{again}; if that repeats, check both disks and memories"),
        ),
        FinishError::Incomplete { .. } => (Reason::STORAGE, Kind::Integrity, again.to_owned()),
        FinishError::Exists => (Reason::EXISTS, Kind::Failed, ELSEWHERE.to_owned()),
        FinishError::Storage(_) => (
            Reason::STORAGE,
            Kind::Failed,
            format!("make room, or check the disk, then {again}"),
        ),
    };
    let error = TransferError::new(kind, attempt.to_string(), error, advice);
    (reason, error)
}

/// Files and folders that cannot be stored.
pub(super) fn unpackable(attempt: &Attempt, error: SinkError) -> Fault {
    let (reason, kind, advice) = match &error {
        SinkError::Head(_) | SinkError::Manifest(_) | SinkError::Beyond => (
            Reason::INVALID,
            Kind::Integrity,
            "the other side does not keep to the protocol; use another version of it".to_owned(),
        ),
        SinkError::Exists(_) => (Reason::EXISTS, Kind::Failed, ELSEWHERE.to_owned()),
        SinkError::Busy => (
            Reason::BUSY,
            Kind::Failed,
            "wait until the other transfer of it has ended".to_owned(),
        ),
        SinkError::Integrity => (
            Reason::HASH_MISMATCH,
            Kind::Integrity,
            format!(
                "{}; if that repeats, check both disks and memories",
                attempt.again()
            ),
        ),
        SinkError::NoSpace { .. } | SinkError::Storage(_) => (
            Reason::STORAGE,
            Kind::Failed,
            format!("make room, or check the disk, then {}", attempt.onwards()),
        ),
        SinkError::Incomplete { .. } => (Reason::STORAGE, Kind::Integrity, attempt.onwards()),
    };
    let error = TransferError::new(kind, attempt.to_string(), error, advice);
    (reason, error)
}

fn refusal(error: &CreateError) -> Reason {
    match error {
        CreateError::Name(_) => Reason::INVALID,
        CreateError::Exists => Reason::EXISTS,
        CreateError::NoSpace { .. } | CreateError::Storage(_) => Reason::STORAGE,
    }
}

const ELSEWHERE: &str = "have it go to another directory, or remove what is there";
