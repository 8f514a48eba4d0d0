//! What a bundle holds: [`Manifest`], a tree of names in preorder, and its encoding.
//!
//! An entry says how deep it is and what it is called; where it hangs follows from those before it. So a path cannot
//! leave its directory, a file cannot be another one's directory, and what is held in memory is no more than what came.
//! [`Builder`] has every rule and both directions use it: what is written can be read. Nothing here touches a disk.

use std::ops::Range;

use super::frame::CONTENT_MAX;
use crate::file::{NameError, name};

/// The entries of a bundle: each directory before what is in it, names beside each other in order of their bytes
/// (bundle 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
    content: u64,
}

/// A file or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Directories above it.
    pub depth: u16,
    /// Its own name, one component.
    pub name: Box<str>,
    /// Permissions, at most 0o777: what else a mode may say is never sent.
    pub mode: u16,
    /// When it was changed last.
    pub modified: Modified,
    /// What it is.
    pub kind: Kind,
    /// The directory it is in.
    parent: Option<u32>,
}

/// A time on the sender's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modified {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds, below 10^9.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Bytes, holes included.
        size: u64,
        /// Where its data is, if it has holes; all the rest reads as zeros.
        data: Option<Box<[Range<u64>]>>,
    },
}

/// Makes a manifest, entry by entry.
#[derive(Debug, Default)]
pub struct Builder {
    entries: Vec<Entry>,
    content: u64,
    ranges: usize,
    /// The latest entry and those it is in, from the top: their numbers, and the bytes of their paths.
    open: Vec<(u32, usize)>,
}

/// What is wrong with a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It ends in the middle.
    #[error("it ends in the middle of an entry")]
    Truncated,
    /// A number that is longer than it must be, or than 64 bits.
    #[error("it has a number that is not written as it must be")]
    Number,
    /// A name that nobody may send.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An entry below one that is no directory.
    #[error("it has an entry that is in no directory")]
    Depth,
    /// An entry before or equal to its neighbour.
    #[error("its entries are not in order, or one is there twice")]
    Order,
    /// More than [`PATH_MAX`] bytes.
    #[error("it has a path longer than {PATH_MAX} bytes")]
    Path,
    /// Neither file nor directory.
    #[error("it has an entry that is neither a file nor a directory")]
    Kind,
    /// Permissions beyond 0o777.
    #[error("it has permissions beyond reading, writing and executing")]
    Mode,
    /// Nanoseconds that make a second.
    #[error("it has an impossible time")]
    Time,
    /// Data beyond the end of its file, empty, touching or out of order.
    #[error("it has a file with impossible holes")]
    Data,
    /// Contents that do not fit a bundle, or the announced size.
    #[error("its contents are too large, or not as large as announced")]
    Content,
    /// More than [`ENTRIES_MAX`] entries, or as many holes.
    #[error("it has more than {ENTRIES_MAX} entries")]
    Entries,
    /// No entry at all.
    #[error("it is empty")]
    Empty,
}

impl Manifest {
    /// All entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of content: of all data of all files.
    pub fn content_len(&self) -> u64 {
        self.content
    }

    /// The path of the entry `index`, components parted by slashes. Panics if there is no such entry.
    pub fn path(&self, index: usize) -> String {
        self.chain(index)
            .iter()
            .map(|&index| &*self.entries[index].name)
            .collect::<Vec<_>>()
            .join("/")
    }

    /// The entry `index` and those it is in, from the top.
    pub(super) fn chain(&self, index: usize) -> Vec<usize> {
        let above = |&index: &usize| Some(self.entries[index].parent? as usize);
        let mut chain: Vec<_> = std::iter::successors(Some(index), above).collect();
        chain.reverse();
        chain
    }

    /// The numbers of entries that are in nothing, in order.
    pub fn top(&self) -> impl Iterator<Item = usize> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| (entry.depth == 0).then_some(index))
    }

    /// As it goes out (bundle 3.3). The same manifest is always the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for entry in &self.entries {
            put(&mut out, u64::from(entry.depth));
            put(&mut out, entry.name.len() as u64);
            out.extend_from_slice(entry.name.as_bytes());
            out.push(match &entry.kind {
                Kind::Directory => DIRECTORY,
                Kind::File { data: None, .. } => FILE,
                Kind::File { data: Some(_), .. } => SPARSE,
            });
            put(&mut out, u64::from(entry.mode));
            let Modified { seconds, nanos } = entry.modified;
            put(&mut out, (seconds << 1 ^ seconds >> 63) as u64);
            put(&mut out, u64::from(nanos));
            let Kind::File { size, data } = &entry.kind else {
                continue;
            };
            put(&mut out, *size);
            let Some(data) = data else { continue };
            put(&mut out, data.len() as u64);
            let mut end = 0;
            for range in data {
                put(&mut out, range.start - end);
                put(&mut out, range.end - range.start);
                end = range.end;
            }
        }
        out
    }

    /// Reads one (bundle 3.3); any bytes are a manifest or a named error.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader(bytes);
        let mut builder = Builder::default();
        while !reader.0.is_empty() {
            let depth = reader.number()?;
            let len = reader.number()?;
            let name = reader.take(usize::try_from(len).map_err(|_| NameError::TooLong)?)?;
            let kind = reader.take(1)?[0];
            let mode = reader.number()?;
            let seconds = reader.number()?;
            let modified = Modified {
                seconds: (seconds >> 1) as i64 ^ -((seconds & 1) as i64),
                nanos: u32::try_from(reader.number()?).map_err(|_| ManifestError::Time)?,
            };
            let kind = match kind {
                DIRECTORY => Kind::Directory,
                FILE => Kind::File {
                    size: reader.number()?,
                    data: None,
                },
                SPARSE => Kind::File {
                    size: reader.number()?,
                    data: Some(reader.data(&builder)?),
                },
                _ => return Err(ManifestError::Kind),
            };
            let depth = usize::try_from(depth).map_err(|_| ManifestError::Depth)?;
            let mode = u16::try_from(mode).map_err(|_| ManifestError::Mode)?;
            builder.push(depth, name, mode, modified, kind)?;
        }
        builder.finish()
    }
}

impl Builder {
    /// Adds the entry called `name`, `depth` directories down.
    ///
    /// # Errors
    /// [`ManifestError`] if it cannot stand here (bundle 3.2); nothing is added then.
    pub fn push(
        &mut self,
        depth: usize,
        name: &[u8],
        mode: u16,
        modified: Modified,
        kind: Kind,
    ) -> Result<(), ManifestError> {
        let name = name::component(name)?;
        if self.entries.len() >= ENTRIES_MAX {
            return Err(ManifestError::Entries);
        }
        let above = match depth.checked_sub(1) {
            None => None,
            Some(above) => Some(*self.open.get(above).ok_or(ManifestError::Depth)?),
        };
        if above.is_some_and(|(index, _)| self.entries[index as usize].kind != Kind::Directory) {
            return Err(ManifestError::Depth);
        }
        if let Some(&(beside, _)) = self.open.get(depth)
            && self.entries[beside as usize].name.as_bytes() >= name.as_bytes()
        {
            return Err(ManifestError::Order);
        }
        let path = above.map_or(0, |(_, path)| path + 1) + name.len();
        if path > PATH_MAX {
            return Err(ManifestError::Path);
        }
        if mode > 0o777 {
            return Err(ManifestError::Mode);
        }
        if modified.nanos >= 1_000_000_000 {
            return Err(ManifestError::Time);
        }
        let (content, ranges) = weigh(&kind)?;
        let content = content.checked_add(self.content);
        let content = content.filter(|content| *content <= CONTENT_MAX);
        let content = content.ok_or(ManifestError::Content)?;
        if self.ranges + ranges > ENTRIES_MAX {
            return Err(ManifestError::Entries);
        }
        (self.content, self.ranges) = (content, self.ranges + ranges);
        self.open.truncate(depth);
        self.open.push((self.entries.len() as u32, path));
        self.entries.push(Entry {
            depth: depth as u16,
            name: name.into(),
            mode,
            modified,
            kind,
            parent: above.map(|(index, _)| index),
        });
        Ok(())
    }

    /// The manifest.
    ///
    /// # Errors
    /// [`ManifestError::Empty`] without an entry.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        if self.entries.is_empty() {
            return Err(ManifestError::Empty);
        }
        Ok(Manifest {
            entries: self.entries,
            content: self.content,
        })
    }
}

/// Bytes of content and ranges of data of an entry, if it is a possible one.
fn weigh(kind: &Kind) -> Result<(u64, usize), ManifestError> {
    let Kind::File { size, data } = kind else {
        return Ok((0, 0));
    };
    let Some(data) = data else {
        return Ok((*size, 0));
    };
    if *size > i64::MAX as u64 {
        return Err(ManifestError::Content);
    }
    let (mut content, mut end) = (0, None);
    for range in &**data {
        if range.start >= range.end || range.end > *size || end.is_some_and(|e| e >= range.start) {
            return Err(ManifestError::Data);
        }
        content += range.end - range.start;
        end = Some(range.end);
    }
    // One way to say one thing: a file without a hole is not sparse.
    if content == *size {
        return Err(ManifestError::Data);
    }
    Ok((content, data.len()))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ManifestError> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(ManifestError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Seven bits a byte, the low ones first, the eighth set while more follow; never longer than needed.
    fn number(&mut self) -> Result<u64, ManifestError> {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift > 63 || bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(ManifestError::Number);
            }
            number |= bits << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(number)
    }

    fn data(&mut self, builder: &Builder) -> Result<Box<[Range<u64>]>, ManifestError> {
        let count = self.number()?;
        if count > (ENTRIES_MAX - builder.ranges) as u64 {
            return Err(ManifestError::Entries);
        }
        let mut data = Vec::new();
        let mut end = 0u64;
        for _ in 0..count {
            let start = end.checked_add(self.number()?);
            let start = start.ok_or(ManifestError::Data)?;
            end = start
                .checked_add(self.number()?)
                .ok_or(ManifestError::Data)?;
            data.push(start..end);
        }
        Ok(data.into())
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What the fuzz target does with any bytes: what is read is written back the same, and is a tree without a way out.
///
/// # Panics
/// When it is not.
pub fn read_and_write_back(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else {
        return;
    };
    assert_eq!(manifest.encode(), bytes, "one manifest, one encoding");
    assert!(manifest.entries.len() <= ENTRIES_MAX && manifest.content <= CONTENT_MAX);
    for index in 0..manifest.entries.len().min(1000) {
        let path = manifest.path(index);
        assert!(path.len() <= PATH_MAX);
        for part in path.split('/') {
            assert_eq!(name::component(part.as_bytes()), Ok(part));
        }
    }
}

/// Entries of a manifest, and ranges of data of all its sparse files, at most (bundle 3.1).
pub const ENTRIES_MAX: usize = 4 << 20;
/// Bytes of a path, at most: below what system calls take, with room for where it is put (bundle 3.1).
pub const PATH_MAX: usize = 4000;
const DIRECTORY: u8 = 0;
const FILE: u8 = 1;
const SPARSE: u8 = 2;

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
