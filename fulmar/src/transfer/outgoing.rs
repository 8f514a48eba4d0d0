//! What goes out in one session: a file as it is, or a bundle of files.
//!
//! It does *not* know who wants it.

use std::path::Path;
use std::sync::Arc;

use super::{Kind, TransferError};
use crate::bundle::{BundleSource, FileError, ScanError};
use crate::file::{Source, SourceError};

/// The bytes of one session, wherever they come from.
pub(super) enum Content {
    /// A file.
    File(Arc<Source>),
    /// Any number of files.
    Bundle(Box<BundleSource>),
}

impl Content {
    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File(source) => source.size(),
            Self::Bundle(source) => source.len(),
        }
    }

    /// BLAKE3 of a bundle's content, once all of it was read.
    pub(super) fn blake3(&self) -> Option<[u8; 32]> {
        match self {
            Self::File(_) => None,
            Self::Bundle(source) => source.blake3(),
        }
    }

    /// The bytes asked for, in the buffer that came with the question. `path` names a file in errors.
    pub(super) fn supply(
        &mut self,
        path: &Path,
        offset: u64,
        len: usize,
        mut buffer: Vec<u8>,
    ) -> Result<Vec<u8>, TransferError> {
        buffer.resize(len, 0);
        match self {
            Self::File(source) => {
                let read = source.read_at(offset, &mut buffer).and_then(|()| {
                    // Now everything was read a second time: the receiver's verdict would be the same, but later and
                    // in no words.
                    let last = offset + len as u64 == source.size();
                    if last { source.unchanged() } else { Ok(()) }
                });
                read.map_err(|error| unreadable(path, error))?;
            }
            Self::Bundle(source) => source
                .read_at(offset, &mut buffer)
                .map_err(|FileError { path, error }| unreadable(&path, error))?,
        }
        Ok(buffer)
    }
}

pub(super) fn unreadable(path: &Path, error: SourceError) -> TransferError {
    let (kind, advice) = match error {
        SourceError::Open(_) => (Kind::Failed, "check the path and who may read it"),
        SourceError::NotAFile(_) => (
            Kind::Failed,
            "send a regular file, such as an archive of it",
        ),
        SourceError::Name(_) | SourceError::Backslash => {
            (Kind::Failed, "send it under a plain name")
        }
        SourceError::Changed | SourceError::Shortened => {
            (Kind::Failed, "send it again when nobody writes to it")
        }
        SourceError::Read(_) => (Kind::Failed, "check the disk it is on"),
        SourceError::Stopped => (Kind::Stopped, "start it again"),
    };
    TransferError::new(
        kind,
        format!("cannot send {}", path.display()),
        error,
        advice,
    )
}

/// Why there is nothing to send.
pub(super) fn unsendable(error: ScanError) -> TransferError {
    match error {
        ScanError::File(FileError { path, error }) => unreadable(&path, error),
        error @ (ScanError::Twice(_)
        | ScanError::NoName(_)
        | ScanError::Manifest { .. }
        | ScanError::Nothing) => TransferError::new(
            Kind::Failed,
            "cannot send what was named",
            error,
            "name other files or folders, or send them one by one",
        ),
    }
}
