//! Bundles from disk to disk: what is read from files and written in any order becomes the same files, whatever
//! interrupts it, and nothing else ever has their names.

mod contents;
mod hostile;
mod resuming;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use fulmar::bundle::{
    BundleSink, BundleSource, Finished, Ready, ScanOptions, SinkError, SinkOptions,
};
use fulmar::file::Directory;
use fulmar_proto::sim::Rng;
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

/// Modes as they are, whatever this process withholds.
const EXACT: SinkOptions = SinkOptions { mask: Some(0) };
/// A piece.
const MIB: u64 = 1 << 20;

fn scan(paths: &[PathBuf]) -> BundleSource {
    BundleSource::scan(paths, &ScanOptions::default()).unwrap()
}

fn sink(into: &Path, len: u64) -> BundleSink {
    BundleSink::new(&Directory::open(into).unwrap(), len, &EXACT).unwrap()
}

/// All of a bundle.
fn read(source: &mut BundleSource) -> Vec<u8> {
    let mut bytes = vec![0; source.len() as usize];
    for (index, part) in bytes.chunks_mut(100_000).enumerate() {
        source.read_at(index as u64 * 100_000, part).unwrap();
    }
    bytes
}

/// Parts of about `size` bytes in an order of their own, not too far from the true one.
fn shuffled(len: u64, size: u64, rng: &mut Rng) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < len {
        let end = (at + 1 + rng.below(2 * size)).min(len);
        parts.push((at + rng.below(40 * size), at..end));
        at = end;
    }
    parts.sort_by_key(|(order, _)| *order);
    parts.into_iter().map(|(_, range)| range).collect()
}

fn write(
    sink: &mut BundleSink,
    bundle: &[u8],
    range: Range<u64>,
) -> Result<Option<Ready>, SinkError> {
    sink.write(
        range.start,
        &bundle[range.start as usize..range.end as usize],
    )
}

/// Everything, in an order of its own.
fn receive(bundle: &[u8], into: &Path, rng: &mut Rng) -> Result<Finished, SinkError> {
    let mut sink = sink(into, bundle.len() as u64);
    for range in shuffled(bundle.len() as u64, 40_000, rng) {
        write(&mut sink, bundle, range)?;
    }
    sink.finish()
}

/// Mode, time of change and, of a file, its content.
type Described = (u32, i64, i64, Option<Vec<u8>>);

/// What a tree is, apart from its own name, by path.
fn describe(root: &Path) -> BTreeMap<String, Described> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let content = metadata.is_file().then(|| fs::read(&path).unwrap());
            if metadata.is_dir() {
                open.push(path);
            }
            found.insert(
                name,
                (
                    metadata.mode(),
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                    content,
                ),
            );
        }
    }
    found
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanos,
        },
    };
    rustix::fs::futimens(File::open(path).unwrap(), &times).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn random(len: u64, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

/// A folder with one of everything, `files/dir`.
fn everything(place: &Path, seed: u64) -> PathBuf {
    let root = place.join("files/dir");
    fs::create_dir_all(root.join("sub/deeper/empty")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("naïve 文件 🐦"), "unicode").unwrap();
    fs::write(root.join("sub/large"), random(3 * MIB + 12_345, seed)).unwrap();
    fs::write(root.join("sub/deeper/exactly"), random(MIB, seed + 1)).unwrap();
    fs::write(root.join("sub-and-not-in-it"), "order").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(300 * MIB).unwrap();
    sparse
        .write_all_at(&random(200_000, seed + 2), 17 * MIB)
        .unwrap();
    sparse.write_all_at(b"nearly the end", 290 * MIB).unwrap();
    File::create(root.join("hole"))
        .unwrap()
        .set_len(5 * MIB)
        .unwrap();
    for number in 0..40 {
        let path = root.join(format!("sub/deeper/{number}"));
        fs::write(&path, random(number * number * 9, seed + number)).unwrap();
        set_mode(
            &path,
            [0o600, 0o755, 0o444, 0o4755, 0o640][number as usize % 5],
        );
        set_time(&path, number as i64 * 50_000_000 - 9, 123_456_789);
    }
    set_time(&root.join("sub/deeper/empty"), -5, 7);
    set_mode(&root.join("sub/deeper"), 0o500);
    set_mode(&root.join("sub"), 0o2775);
    set_mode(&root, 0o555);
    root
}

/// Lets a tree be removed whatever its modes are.
fn unlock(root: &Path) {
    let _ = Command::new("chmod")
        .arg("-R")
        .arg("u+rwx")
        .arg(root)
        .status();
}

fn inbox(place: &Path, name: &str) -> PathBuf {
    let path = place.join(name);
    fs::create_dir(&path).unwrap();
    path
}

/// A bundle of one folder with large and small files.
fn some_bundle(place: &Path, megabytes: u64) -> (PathBuf, Vec<u8>, BundleSource) {
    let root = place.join("folder");
    fs::create_dir_all(root.join("small")).unwrap();
    fs::write(root.join("large"), random(megabytes * MIB + 3, 1)).unwrap();
    for number in 0..300 {
        fs::write(
            root.join(format!("small/{number}")),
            random(number * 50, number),
        )
        .unwrap();
    }
    let mut source = scan(std::slice::from_ref(&root));
    let bundle = read(&mut source);
    (root, bundle, source)
}
