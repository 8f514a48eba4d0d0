//! What goes out in one session: a file as it is, or a bundle of files.
//!
//! It does *not* know who wants it.

use std::path::Path;
use std::sync::Arc;

use fulmar_proto::hpudp::Snapshot;

use super::error::{Kind, TransferError};
use super::{Hash, counted, of_content};
use crate::bundle::{BundleSource, FileError, ScanError};
use crate::file::{Source, SourceError};

/// The bytes of one session, wherever they come from.
#[derive(Debug)]
pub(super) struct Content {
    of: Of,
    /// Bytes that left; the receiver had the others.
    supplied: u64,
}

#[derive(Debug)]
enum Of {
    /// A file, and its xxHash64.
    File(Arc<Source>, u64),
    /// Any number of files.
    Bundle(Box<BundleSource>),
}

impl Content {
    /// A file by itself, and its xxHash64.
    pub(super) fn file(source: Arc<Source>, hash: u64) -> Self {
        let of = Of::File(source, hash);
        Self { of, supplied: 0 }
    }

    /// Any number of files.
    pub(super) fn bundle(source: BundleSource) -> Self {
        let of = Of::Bundle(Box::new(source));
        Self { of, supplied: 0 }
    }

    /// Whether it is a bundle.
    pub(super) fn is_bundle(&self) -> bool {
        matches!(self.of, Of::Bundle(_))
    }

    /// Bytes on the wire.
    pub(super) fn len(&self) -> u64 {
        match &self.of {
            Of::File(source, _) => source.size(),
            Of::Bundle(source) => source.len(),
        }
    }

    /// Bytes of files.
    pub(super) fn size(&self) -> u64 {
        self.len() - self.around()
    }

    /// How many files.
    pub(super) fn files(&self) -> u64 {
        match &self.of {
            Of::File(..) => 1,
            Of::Bundle(source) => counted(source.manifest()),
        }
    }

    /// Bytes of files that the receiver had before.
    pub(super) fn resumed(&self) -> u64 {
        self.len().saturating_sub(self.supplied)
    }

    /// The figures of the files alone.
    pub(super) fn figures(&self, snapshot: Snapshot) -> Snapshot {
        of_content(snapshot, self.around())
    }

    /// What the receiver needs beforehand: of a bundle nothing.
    pub(super) fn xxh64(&self) -> u64 {
        match &self.of {
            Of::File(_, hash) => *hash,
            Of::Bundle(_) => 0,
        }
    }

    /// What the receiver has verified, once all of it was read.
    pub(super) fn hash(&self) -> Hash {
        match &self.of {
            Of::File(_, hash) => Hash::Xxh64(*hash),
            Of::Bundle(source) => Hash::Blake3(source.blake3().unwrap_or_default()),
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
        match &mut self.of {
            Of::File(source, _) => {
                let read = source.read_at(offset, &mut buffer).and_then(|()| {
                    // Now everything was read a second time: the receiver's verdict would be the same, but later and
                    // in no words.
                    let last = offset + len as u64 == source.size();
                    if last { source.unchanged() } else { Ok(()) }
                });
                read.map_err(|error| unreadable(path, error))?;
            }
            Of::Bundle(source) => source
                .read_at(offset, &mut buffer)
                .map_err(|FileError { path, error }| unreadable(&path, error))?,
        }
        self.supplied += len as u64;
        Ok(buffer)
    }

    /// Bytes of a bundle that are in no file.
    fn around(&self) -> u64 {
        match &self.of {
            Of::File(..) => 0,
            Of::Bundle(source) => source.len() - source.head().content,
        }
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
            (Kind::Failed, "rename it, or send an archive of it")
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
    let advice = match error {
        ScanError::File(FileError { path, error }) => return unreadable(&path, error),
        ScanError::Twice(_) => "rename one of them, or send them one by one",
        ScanError::NoName(_) => "name what is in it",
        ScanError::Manifest { .. } => "send it in parts, or as an archive",
        ScanError::Nothing => "name a file, or a folder with something in it",
    };
    TransferError::new(Kind::Failed, "cannot send what was named", error, advice)
}
