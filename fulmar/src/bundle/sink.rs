//! The receiving end: [`BundleSink`] takes the bytes of a bundle in any order and makes files of them.
//!
//! Until head and manifest are whole, bytes are held in memory. Then it is settled whether the bundle can be stored and
//! what of it is there already; from there on bytes go straight to their files. Nothing has its name before all of it is
//! verified and durable (rule E11). It does *not* bound what is held: who calls knows [`held`](BundleSink::held).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use fulmar_proto::engine::RangeSet;

use super::frame::{HEAD_LEN, Head, HeadError, Id, TRAILER_LEN, Trailer};
use super::manifest::{Manifest, ManifestError};
use super::pieces::Value;
use super::storing::Storing;
use crate::file::{Directory, sink};

/// A bundle that is being received.
#[derive(Debug)]
pub struct BundleSink {
    directory: Directory,
    len: u64,
    mask: u32,
    /// Bytes that came, and those that need not come.
    received: RangeSet,
    /// The beginning, without a gap; until the manifest is whole.
    front: Vec<u8>,
    head: Option<Head>,
    /// What came before its time, by offset.
    held: BTreeMap<u64, Vec<u8>>,
    held_bytes: u64,
    trailer: [u8; TRAILER_LEN],
    storing: Option<Storing>,
}

/// How to store.
#[derive(Clone, Debug, Default)]
pub struct SinkOptions {
    /// Permissions that nothing gets, whatever the sender says; those that this process withholds when none are given.
    pub mask: Option<u32>,
}

/// The manifest is whole and the bundle can be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// What need not come: ranges of offsets in the bundle, ascending and apart.
    pub have: Vec<Range<u64>>,
}

/// A bundle that is in its place, verified and durable.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What the bundle was called.
    pub id: Id,
    /// BLAKE3 of its content.
    pub content: Value,
    /// What was in it.
    pub manifest: Manifest,
    /// Where its files and folders are: those without a folder around them.
    pub paths: Vec<PathBuf>,
}

/// Why a bundle cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It does not begin like one.
    #[error("what comes is not a bundle: {0}")]
    Head(#[from] HeadError),
    /// Its list of files is unusable.
    #[error("what comes has no usable list of files: {0}")]
    Manifest(#[from] ManifestError),
    /// Bytes beyond the announced length.
    #[error("bytes beyond the announced size")]
    Beyond,
    /// Something of that name is there already.
    #[error("{path} exists", path = .0.display())]
    Exists(PathBuf),
    /// It cannot fit.
    #[error("{size} bytes are to come and the disk has room for {free}")]
    NoSpace {
        /// Bytes that are still to come.
        size: u64,
        /// Bytes this user may still write.
        free: u64,
    },
    /// Another process receives the same bundle into the same directory.
    #[error("the same files are being received here already")]
    Busy,
    /// Bytes that never came.
    #[error("{missing} bytes never came")]
    Incomplete {
        /// How many.
        missing: u64,
    },
    /// Other bytes than promised; nothing of them is kept.
    #[error("what came is not what was sent: the hashes differ")]
    Integrity,
    /// The file system; final, whatever a second try would say.
    #[error("cannot store the files: {0}")]
    Storage(#[from] io::Error),
}

impl BundleSink {
    /// For a bundle of `len` bytes into `directory`. Nothing is written yet.
    ///
    /// # Errors
    /// [`SinkError::Head`] if no bundle has that length.
    pub fn new(directory: &Directory, len: u64, options: &SinkOptions) -> Result<Self, SinkError> {
        if len <= (HEAD_LEN + TRAILER_LEN) as u64 {
            return Err(HeadError::Sizes.into());
        }
        Ok(Self {
            directory: directory.clone(),
            len,
            mask: options.mask.unwrap_or_else(sink::umask),
            received: RangeSet::new(),
            front: Vec::new(),
            head: None,
            held: BTreeMap::new(),
            held_bytes: 0,
            trailer: [0; TRAILER_LEN],
            storing: None,
        })
    }

    /// Takes `bytes` at `offset` of the bundle, in any order. Bytes that came before, or need not come, are ignored. The
    /// call that completes the manifest says what need not come.
    ///
    /// # Errors
    /// [`SinkError`]; nothing more can be written then. What was durable stays for the next try, but for
    /// [`SinkError::Head`] and [`SinkError::Manifest`], before which nothing is stored.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Option<Ready>, SinkError> {
        let end = offset.checked_add(bytes.len() as u64);
        let end = end.filter(|end| *end <= self.len);
        let end = end.ok_or(SinkError::Beyond)?;
        let new: Vec<_> = self.received.gaps(offset..end).collect();
        self.received.insert(offset..end);
        for range in new {
            let bytes = &bytes[(range.start - offset) as usize..(range.end - offset) as usize];
            if self.storing.is_some() {
                self.place(range.start, bytes)?;
            } else {
                self.held.insert(range.start, bytes.to_vec());
                self.held_bytes += bytes.len() as u64;
            }
        }
        if self.storing.is_none() && self.advance()? {
            return self.begin().map(Some);
        }
        Ok(None)
    }

    /// Bytes in memory that wait for the manifest to be whole. Those of its own beginning are not counted, for they
    /// wait for nothing.
    pub fn held(&self) -> u64 {
        self.held_bytes
    }

    /// Bytes that neither came nor are there.
    pub fn missing(&self) -> u64 {
        self.len - self.received.len()
    }

    /// What the bundle is called, once its manifest is whole.
    pub fn id(&self) -> Option<Id> {
        Some(self.storing.as_ref()?.id())
    }

    /// What is in it, once that is known.
    pub fn manifest(&self) -> Option<&Manifest> {
        Some(self.storing.as_ref()?.manifest())
    }

    /// Verifies everything, makes it durable and moves it to its place. May take as long as the disk takes to write it.
    ///
    /// # Errors
    /// [`SinkError`]. After [`SinkError::Integrity`] nothing is left; after any other, what is durable stays, and the same
    /// bundle goes on from there.
    pub fn finish(self) -> Result<Finished, SinkError> {
        let missing = self.missing();
        let storing = self.storing.filter(|_| missing == 0);
        let storing = storing.ok_or(SinkError::Incomplete { missing })?;
        storing.finish(&Trailer::parse(&self.trailer), self.mask)
    }

    /// Puts what continues the front there; whether head and manifest are whole.
    fn advance(&mut self) -> Result<bool, SinkError> {
        loop {
            if self.head.is_none()
                && let Some(bytes) = self.front.first_chunk()
            {
                self.head = Some(Head::parse(bytes, self.len)?);
            }
            let end = self
                .head
                .map_or(HEAD_LEN as u64, |head| head.content_start());
            let at = self.front.len() as u64;
            if at == end {
                return Ok(true);
            }
            let Some(mut bytes) = self.held.remove(&at) else {
                return Ok(false);
            };
            let rest = bytes.split_off(bytes.len().min((end - at) as usize));
            self.held_bytes -= bytes.len() as u64;
            self.front.append(&mut bytes);
            if !rest.is_empty() {
                self.held.insert(end, rest);
            }
        }
    }

    /// Finds out what is there, and stores what was held.
    fn begin(&mut self) -> Result<Ready, SinkError> {
        let front = std::mem::take(&mut self.front);
        let head = self.head.expect("it is read before the manifest");
        let manifest = Manifest::decode(&front[HEAD_LEN..])?;
        if manifest.content_len() != head.content {
            return Err(ManifestError::Content.into());
        }
        let hash = *blake3::hash(&front[HEAD_LEN..]).as_bytes();
        let (storing, have) = Storing::begin(&self.directory, Id::of(&front), manifest, hash)?;
        self.storing = Some(storing);
        let start = head.content_start();
        let have: RangeSet = have
            .into_iter()
            .map(|range| start + range.start..start + range.end)
            .collect();
        self.held_bytes = 0;
        for (offset, bytes) in std::mem::take(&mut self.held) {
            let new: Vec<_> = have.gaps(offset..offset + bytes.len() as u64).collect();
            for range in new {
                let bytes = &bytes[(range.start - offset) as usize..(range.end - offset) as usize];
                self.place(range.start, bytes)?;
            }
        }
        let have: Vec<_> = have.iter().collect();
        self.received.extend(have.iter().cloned());
        Ok(Ready { have })
    }

    /// Stores bytes of content and trailer, each once.
    fn place(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        let head = self.head.expect("it is read before anything is stored");
        let content = usize::try_from(head.content_end().saturating_sub(offset));
        let (content, trailer) =
            bytes.split_at(content.map_or(bytes.len(), |l| l.min(bytes.len())));
        if !trailer.is_empty() {
            let at = (offset + content.len() as u64 - head.content_end()) as usize;
            self.trailer[at..at + trailer.len()].copy_from_slice(trailer);
        }
        match &mut self.storing {
            Some(storing) if !content.is_empty() => {
                storing.write(offset - head.content_start(), content)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
