//! Network namespaces that go away with whoever made them.
//!
//! A namespace has a name with the process id of its owner in it, so that `ip netns exec NAME` gets in from outside,
//! and so that whoever comes next removes what a killed owner left. It needs root and the program `ip`. It does *not*
//! know what the namespace is for: devices and addresses are made by who enters it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bench::process::program;

/// A network namespace of this process. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes a namespace with nothing in it but loopback, which is up. No two of one process have the same `tag`.
    ///
    /// # Errors
    ///
    /// Without root, without `ip`, or when the kernel has none to give.
    pub(crate) fn create(tag: &str) -> anyhow::Result<Self> {
        let name = format!("{PREFIX}{}-{tag}", std::process::id());
        ip(&["netns", "add", &name])?;
        let opened = File::open(Path::new(PLACE).join(&name));
        let made = opened
            .map(|file| Self {
                name: name.clone(),
                file,
            })
            .inspect_err(|_| remove(&name))
            .with_context(|| format!("cannot open the network namespace {name}"))?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// What `ip netns exec` calls it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `inside` on a thread that is in this namespace: sockets opened and programs started there belong to it.
    ///
    /// # Errors
    ///
    /// Those of `inside`, or that the namespace cannot be entered.
    ///
    /// # Panics
    ///
    /// If `inside` does, with its panic.
    pub(crate) fn enter<T: Send>(
        &self,
        inside: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let visit = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("cannot enter the network namespace {}", self.name))?;
                inside()
            });
            visit
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes namespaces whose owner is dead.
pub(crate) fn clear_dead() {
    let names = fs::read_dir(PLACE).into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        if owner(&name).is_some_and(|id| !PathBuf::from(format!("/proc/{id}")).exists()) {
            remove(&name);
        }
    }
}

/// Whether this process may make namespaces at all, or why not.
///
/// # Errors
///
/// What is missing.
pub(crate) fn possible() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces need root");
    }
    program("ip").context("network namespaces need iproute2")?;
    Ok(())
}

/// The process id in the name of a namespace of ours.
fn owner(name: &str) -> Option<u32> {
    let (id, tag) = name.strip_prefix(PREFIX)?.split_once('-')?;
    id.parse().ok().filter(|_| !tag.is_empty())
}

/// Runs `ip` with these arguments.
///
/// # Errors
///
/// What it says when it fails.
pub(super) fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program("ip")?)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run ip")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), words.trim());
    }
    Ok(())
}

fn remove(name: &str) {
    // What cannot be removed now is removed by whoever comes next.
    let _ = ip(&["netns", "delete", name]);
}

const PREFIX: &str = "fulmar-";
/// Where `ip netns` keeps them.
const PLACE: &str = "/run/netns";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_in_the_name() {
        assert_eq!(owner("fulmar-12-a0"), Some(12));
        for other in ["fulmar-12", "fulmar-12-", "fulmar-x-a", "12-a", "vpn", ""] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
