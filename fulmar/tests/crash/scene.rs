//! A daemon and a client of the real binary, and a folder that goes from one to the other as often as it takes.
//!
//! Nothing here says what breaks; it holds that, whatever breaks, the folder is there whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::{
    End, Ended, LIMIT, Receiver, config_home, fulmar, inbox, is_partial, names_in, same,
};

/// Who begins, and which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the daemon.
    Put,
    /// From the daemon to the client.
    Get,
}

/// One end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Daemon,
}

/// Two directories, and who serves one of them.
pub(crate) struct Scene {
    pub(crate) way: Way,
    place: tempfile::TempDir,
    rate: Option<&'static str>,
    daemon: Option<Receiver>,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Put, Self::Get];

    /// Which side stores what comes.
    pub(crate) fn storing(self) -> Side {
        match self {
            Self::Put => Side::Daemon,
            Self::Get => Side::Client,
        }
    }
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Client, Self::Daemon];
}

impl Scene {
    /// A scene in which `make` has made what is to be moved. Its keys are its own, so that a crash may ruin them.
    pub(crate) fn new(way: Way, rate: Option<&'static str>, make: impl FnOnce(&Path)) -> Self {
        let place = tempfile::tempdir().unwrap();
        for name in ["here", "shelf", "config", "cache"] {
            inbox(place.path(), name);
        }
        let keys = config_home().join("fulmar");
        fs::create_dir(place.path().join("config/fulmar")).unwrap();
        for name in names_in(&keys) {
            fs::copy(
                keys.join(&name),
                place.path().join("config/fulmar").join(&name),
            )
            .unwrap();
        }
        let scene = Self {
            way,
            place,
            rate,
            daemon: None,
        };
        make(&scene.source());
        scene
    }

    pub(crate) fn place(&self) -> &Path {
        self.place.path()
    }

    /// What is to be moved.
    pub(crate) fn source(&self) -> PathBuf {
        match self.way {
            Way::Put => self.place().join("here").join(NAME),
            Way::Get => self.place().join("shelf").join(NAME),
        }
    }

    /// Where it goes.
    pub(crate) fn destination(&self) -> PathBuf {
        match self.way {
            Way::Put => self.place().join("shelf"),
            Way::Get => self.place().join("here"),
        }
    }

    /// The daemon; started, if it does not run.
    pub(crate) fn daemon(&mut self) -> &mut End {
        if self.daemon.as_mut().is_none_or(|it| !it.end.is_running()) {
            let mut command = self.fulmar();
            command.arg("serve").arg(self.place().join("shelf"));
            command.args(["--allow-put", "--watch", "--listen", "127.0.0.1:0"]);
            if let (Way::Get, Some(rate)) = (self.way, self.rate) {
                command.args(["--bwlimit", rate]);
            }
            self.daemon = Some(Receiver::ready(End::spawn(&mut command)));
        }
        let daemon = self.daemon.as_mut();
        &mut daemon.expect("started above").end
    }

    /// Whether a daemon runs.
    pub(crate) fn daemon_runs(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|it| it.end.is_running())
    }

    /// Where the daemon listens.
    pub(crate) fn address(&self) -> &str {
        &self.daemon.as_ref().expect("it was started").address
    }

    /// A client that moves the folder, or begins to.
    pub(crate) fn client(&mut self) -> End {
        self.daemon();
        let mut command = self.fulmar();
        match self.way {
            Way::Put => {
                command.arg("put").arg(self.source()).arg(self.address());
                if let Some(rate) = self.rate {
                    command.args(["--max-rate", rate]);
                }
            }
            Way::Get => {
                command.arg("get").args([self.address(), NAME, "--into"]);
                command.arg(self.destination());
            }
        }
        End::spawn(&mut command)
    }

    /// Looks at the destination from now on: whatever appears under the final name is whole from the first moment.
    pub(crate) fn watch(&self) -> Watch {
        let (source, target) = (self.source(), self.destination().join(NAME));
        let over: &'static AtomicBool = Box::leak(Box::default());
        let looking = thread::spawn(move || {
            while !over.load(Relaxed) {
                if target.exists() {
                    assert!(alike(&source, &target), "it has its name and is not whole");
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Watch { over, looking }
    }

    /// Whether it has arrived. If so it is whole, and if not, nothing there has a name that anybody would take for it.
    pub(crate) fn has_arrived(&self, case: &str) -> bool {
        let names = names_in(&self.destination());
        for name in &names {
            assert!(name == NAME || is_partial(name), "{case}: {name}");
        }
        let arrived = names.iter().any(|name| name == NAME);
        let whole = arrived && alike(&self.source(), &self.destination().join(NAME));
        assert_eq!(arrived, whole, "{case}: it has its name and is not whole");
        arrived
    }

    /// Moves it once more, with nothing in the way: it is there at the end, whether it was before or not.
    pub(crate) fn again(&mut self, case: &str) -> Ended {
        let ended = self.client().finish();
        if ended.code() != Some(0) {
            // Whoever survived may have ended it alone.
            let code = match self.way {
                Way::Put => 6,
                Way::Get => 1,
            };
            ended.failed_with(code, "exist");
        }
        assert!(self.has_arrived(case), "{case}: {ended:#?}");
        ended
    }

    /// Waits until nothing unfinished is left.
    pub(crate) fn is_tidy(&self, case: &str) {
        let deadline = Instant::now() + LIMIT;
        while names_in(&self.destination()) != [NAME] {
            assert!(Instant::now() < deadline, "{case}: it is not tidied up");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn fulmar(&self) -> Command {
        let mut command = fulmar();
        command.env("XDG_CONFIG_HOME", self.place().join("config"));
        command.env("XDG_CACHE_HOME", self.place().join("cache"));
        command
    }
}

/// Somebody who looks at the destination.
pub(crate) struct Watch {
    over: &'static AtomicBool,
    looking: JoinHandle<()>,
}

impl Watch {
    /// Ends it.
    pub(crate) fn end(self, case: &str) {
        self.over.store(true, Relaxed);
        assert!(self.looking.join().is_ok(), "{case}");
    }
}

/// Whether two files or folders have the same names and contents.
fn alike(a: &Path, b: &Path) -> bool {
    if !a.is_dir() || !b.is_dir() {
        return a.is_file() && b.is_file() && same(a, b);
    }
    let names = names_in(a);
    names == names_in(b) && names.iter().all(|name| alike(&a.join(name), &b.join(name)))
}

/// What is moved is called this.
pub(crate) const NAME: &str = "set";
