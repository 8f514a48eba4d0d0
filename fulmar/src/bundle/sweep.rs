//! What interrupted transfers left behind: [`sweep`].
//!
//! Whoever still works on something holds a lock on it, and it stays. It does *not* look into other directories.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::map;
use super::store::{claim, destroy};
use crate::file::{Directory, name};

/// Removes files and bundles under construction that nobody has worked on for `age`; how many there were.
///
/// # Errors
/// If the directory cannot be read. What cannot be removed stays.
pub fn sweep(directory: &Directory, age: Duration) -> io::Result<usize> {
    let Some(before) = SystemTime::now().checked_sub(age) else {
        return Ok(0);
    };
    let mut names = Vec::new();
    for entry in Dir::read_from(directory.fd())? {
        if let Ok(name) = entry?.file_name().to_str() {
            names.push(name.to_owned());
        }
    }
    let mut removed = 0;
    for name in names {
        let gone = if name::bundle_id(&name).is_some() {
            sweep_bundle(directory, &name, before)
        } else if name::is_temporary(&name) {
            sweep_file(directory, &name, before)
        } else {
            continue;
        };
        match gone {
            Ok(gone) => removed += usize::from(gone),
            Err(error) => tracing::warn!(%error, name, "what is left of a transfer stays behind"),
        }
    }
    Ok(removed)
}

fn sweep_bundle(directory: &Directory, name: &str, before: SystemTime) -> io::Result<bool> {
    // Busy, foreign or gone: none of our business.
    let Ok(Some(fd)) = claim(directory, name) else {
        return Ok(false);
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(fd);
    // Every recorded piece changes the map.
    let changed = match rustix::fs::openat(&file, map::NAME, flags, Mode::empty()) {
        Ok(map) => File::from(map).metadata()?.modified()?,
        Err(Errno::NOENT) => file.metadata()?.modified()?,
        Err(error) => return Err(error.into()),
    };
    if changed > before {
        return Ok(false);
    }
    destroy(directory, &file.into(), name)?;
    Ok(true)
}

fn sweep_file(directory: &Directory, name: &str, before: SystemTime) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(
        directory.fd(),
        name,
        flags,
        Mode::empty(),
    )?);
    let metadata = file.metadata()?;
    let ours = metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw();
    let idle = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        != Err(Errno::WOULDBLOCK);
    if !ours || !idle || metadata.modified()? > before {
        return Ok(false);
    }
    rustix::fs::unlinkat(directory.fd(), name, AtFlags::empty())?;
    Ok(true)
}
