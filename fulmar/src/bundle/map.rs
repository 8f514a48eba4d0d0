//! Which pieces are on the disk to stay: [`Map`], a log that survives whatever happens to its writer.
//!
//! A piece is recorded only when its bytes are durable (bundle 5.3), so whoever reads the log may believe it without
//! looking at them. A record that a crash cut short is cut off; whatever else is odd makes the log worthless, and the
//! bundle begins from zero. It does *not* say when; that is `flush.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Mode, OFlags};

use super::frame::Id;
use super::pieces::Value;

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct Map {
    file: File,
    len: u64,
}

impl Map {
    /// Opens the log of the bundle `id`, which has `count` pieces, in the directory `at`; and what it says. `None` if
    /// there is one that cannot be believed.
    pub(super) fn open(
        at: &OwnedFd,
        id: Id,
        count: u64,
    ) -> io::Result<Option<(Self, BTreeMap<u64, Value>)>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            at,
            NAME,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        let len = file.metadata()?.len();
        if len < HEAD as u64 {
            // New, or cut off before anything was recorded.
            file.set_len(0)?;
            file.write_all_at(&head(id), 0)?;
            let map = Self {
                file,
                len: HEAD as u64,
            };
            return Ok(Some((map, BTreeMap::new())));
        }
        if len > HEAD as u64 + (count + 1) * RECORD as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let Some((records, len)) = read(&bytes, id, count) else {
            return Ok(None);
        };
        file.set_len(len)?;
        Ok(Some((Self { file, len }, records)))
    }

    /// Records pieces that are durable, and makes the records so.
    pub(super) fn append(&mut self, pieces: &[(u64, Value)]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(pieces.len() * RECORD);
        for (piece, value) in pieces {
            bytes.extend_from_slice(&record(*piece, value));
        }
        self.file.write_all_at(&bytes, self.len)?;
        self.len += bytes.len() as u64;
        self.file.sync_data()
    }
}

/// What the log says and how long it is without a torn end; `None` if it cannot be believed.
fn read(bytes: &[u8], id: Id, count: u64) -> Option<(BTreeMap<u64, Value>, u64)> {
    let records = bytes.strip_prefix(&head(id))?;
    let mut found = BTreeMap::new();
    let mut records = records.chunks(RECORD);
    let mut len = HEAD as u64;
    for bytes in records.by_ref() {
        let Some((piece, value)) = parse(bytes) else {
            break;
        };
        if piece >= count || found.insert(piece, value).is_some() {
            return None;
        }
        len += RECORD as u64;
    }
    // Behind a torn record nothing was written.
    records
        .all(|bytes| parse(bytes).is_none())
        .then_some((found, len))
}

fn head(id: Id) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(b"FMM1");
    head[4..36].copy_from_slice(&id.0);
    let sum = crc32fast::hash(&head[..36]);
    head[36..].copy_from_slice(&sum.to_be_bytes());
    head
}

fn record(piece: u64, value: &Value) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..4].copy_from_slice(&(piece as u32).to_be_bytes());
    record[4..36].copy_from_slice(value);
    let sum = crc32fast::hash(&record[..36]);
    record[36..].copy_from_slice(&sum.to_be_bytes());
    record
}

fn parse(bytes: &[u8]) -> Option<(u64, Value)> {
    let bytes: &[u8; RECORD] = bytes.try_into().ok()?;
    let (body, sum) = bytes.split_at(36);
    let (piece, value) = body.split_at(4);
    // Zeros are what a crash leaves of what was not written; their sum is not zero.
    (crc32fast::hash(body).to_be_bytes() == sum).then_some(())?;
    let piece = u32::from_be_bytes(piece.try_into().ok()?);
    Some((u64::from(piece), value.try_into().ok()?))
}

/// Its name in the directory of the bundle.
pub(super) const NAME: &str = "map";
const HEAD: usize = 40;
const RECORD: usize = 40;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const ID: Id = Id([7; 32]);

    fn log(pieces: &[u64]) -> Vec<u8> {
        let mut log = head(ID).to_vec();
        for piece in pieces {
            log.extend_from_slice(&record(*piece, &[*piece as u8; 32]));
        }
        log
    }

    #[test]
    fn what_was_recorded_is_found() {
        let place = tempfile::tempdir().unwrap();
        let at: OwnedFd = File::open(place.path()).unwrap().into();
        let open = |count| Map::open(&at, ID, count).unwrap();
        let (mut map, records) = open(9).unwrap();
        assert!(records.is_empty());
        map.append(&[(5, [1; 32]), (0, [2; 32])]).unwrap();
        map.append(&[(8, [3; 32])]).unwrap();
        let (mut map, records) = open(9).unwrap();
        assert_eq!(records, [(0, [2; 32]), (5, [1; 32]), (8, [3; 32])].into());
        // A torn record goes, and the next one takes its place.
        let path = place.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(open(9).unwrap().1.len(), 2);
        map.len -= RECORD as u64;
        map.append(&[(8, [3; 32])]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert!(open(8).is_none(), "a piece that is none");
        assert!(Map::open(&at, Id([8; 32]), 9).unwrap().is_none());
        std::fs::write(&path, [log(&[1]), vec![0; 1 << 20]].concat()).unwrap();
        assert!(open(9).is_none(), "larger than any");
    }

    #[test]
    fn twice_is_odd() {
        assert!(read(&log(&[1, 2, 1]), ID, 9).is_none());
        assert!(read(&log(&[1, 2, 3]), ID, 9).is_some());
    }

    proptest! {
        /// Cut anywhere and followed by anything that is no record, the log says what stands before.
        #[test]
        fn a_torn_end_is_cut_off(
            pieces in prop::collection::btree_set(0u64..100, 1..20),
            cut in any::<prop::sample::Index>(),
            zeros in 0usize..100,
        ) {
            let pieces: Vec<u64> = pieces.into_iter().collect();
            let mut bytes = log(&pieces);
            let cut = HEAD + cut.index(bytes.len() - HEAD);
            bytes.truncate(cut);
            bytes.resize(cut + zeros, 0);
            let (found, len) = read(&bytes, ID, 100).unwrap();
            let whole = (cut - HEAD) / RECORD;
            let found: Vec<u64> = found.into_keys().collect();
            // Zeros may stand where the record had them.
            prop_assert!(found == pieces[..whole] || found == pieces[..whole + 1]);
            prop_assert_eq!(len as usize, HEAD + found.len() * RECORD);
        }

        /// One bit wrong in the middle, and nothing is believed; at the end, the last record goes.
        #[test]
        fn damage_is_not_believed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = log(&[4, 2, 9]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let found = read(&bytes, ID, 10).map(|(found, _)| found.len());
            prop_assert_eq!(found, (at >= HEAD + 2 * RECORD).then_some(2));
        }
    }
}
