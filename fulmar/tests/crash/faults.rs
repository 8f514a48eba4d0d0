//! Every system call of storage fails once, or is the last one: of the daemon and of its client, whether it reads or
//! writes. A rehearsal under `strace` counts the calls; each is then failed in a run of its own.
//!
//! The tracer comes when the program runs already, so that what is counted is what a transfer does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fulmar_proto::sim::Rng;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{End, Ended, LIMIT, random_file, skip};
use crate::scene::{Scene, Side, Watch, Way};
use crate::{at_once, long};

#[test]
fn every_call_of_storage_may_fail_once() {
    if !possible() {
        return;
    }
    let mut cases = Vec::new();
    for way in Way::BOTH {
        for side in Side::BOTH {
            let counts = rehearse(way, side);
            assert!(counts.contains_key("openat"), "{way:?} {side:?} {counts:?}");
            for (call, count) in counts {
                let faults =
                    (1..=count).flat_map(|when| FAULTS.map(|fault| (call.clone(), when, fault)));
                cases.extend(faults.map(|fault| (way, side, fault)));
            }
        }
    }
    let all = cases.len();
    if !long() {
        let mut rng = Rng::new(10);
        cases = (0..10)
            .map(|_| cases.swap_remove(rng.below(cases.len() as u64) as usize))
            .collect();
    }
    let (count, struck) = (cases.len(), AtomicUsize::new(0));
    at_once(cases, 4, |(way, side, (call, when, fault))| {
        let inject = format!("{call}:{fault}:when={when}");
        struck.fetch_add(usize::from(suffer(way, side, &inject)), Relaxed);
    });
    let struck = struck.into_inner();
    println!("{count} of {all} faults tried, of which {struck} struck");
    // How many calls there are depends a little on how the packets fall.
    assert!(struck * 4 >= count * 3, "{struck} of {count}");
}

/// Runs a transfer in which the `inject`ed fault strikes that side, if its time comes; whether it did. However it ends, it
/// says so, the destination has all or nothing, and the next try gets it there.
fn suffer(way: Way, side: Side, inject: &str) -> bool {
    let case = format!("{way:?}, the {side:?} has {inject}");
    let mut scene = scene(way);
    let watch = scene.watch();
    let (tracer, client) = perform(&mut scene, side, Some(inject));
    let killed = !scene.daemon_runs();
    let arrived = scene.has_arrived(&case);
    let log = tracer.end();
    let struck = log.contains("(INJECTED)") || log.contains("killed by SIGKILL");
    let Some(ended) = client else {
        assert!(killed, "{case}");
        again(&mut scene, watch, &case);
        return true;
    };
    assert!(
        !killed || inject.contains("KILL"),
        "{case}: the daemon died: {ended:#?}"
    );
    match ended.code() {
        Some(0) => assert!(arrived, "{case}: {ended:#?}"),
        Some(code) => ended.failed_with(code, ""),
        None => assert!(
            side == Side::Client && inject.contains("KILL"),
            "{case}: {ended:#?}"
        ),
    }
    assert!(struck || ended.code() == Some(0), "{case}: {ended:#?}");
    again(&mut scene, watch, &case);
    struck
}

fn again(scene: &mut Scene, watch: Watch, case: &str) {
    scene.again(case);
    scene.is_tidy(case);
    watch.end(case);
}

/// How often that side calls what, at most in one thread: calls are counted by thread.
fn rehearse(way: Way, side: Side) -> BTreeMap<String, u32> {
    let mut scene = scene(way);
    let (tracer, client) = perform(&mut scene, side, None);
    let client = client.expect("nobody died");
    assert_eq!(client.code(), Some(0), "{client:#?}");
    let mut counts: BTreeMap<(String, String), u32> = BTreeMap::new();
    for line in tracer.end().lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or_default();
        if let Some((call, _)) = rest.trim_start().split_once('(')
            && call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            *counts
                .entry((thread.to_owned(), call.to_owned()))
                .or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, call), count) in counts {
        let known: &mut u32 = most.entry(call).or_default();
        *known = count.max(*known);
    }
    most
}

/// Moves the folder with a tracer at that side; how it ended for the client, unless the daemon died meanwhile.
fn perform(scene: &mut Scene, side: Side, inject: Option<&str>) -> (Tracer, Option<Ended>) {
    let log = scene.place().join("trace");
    let (tracer, mut client) = match side {
        Side::Daemon => {
            let tracer = Tracer::attach(scene.daemon(), &log, inject);
            (tracer, scene.client())
        }
        Side::Client => {
            // It waits at the door of a daemon that does not answer yet.
            scene.daemon().signal(Signal::STOP);
            let client = scene.client();
            let port = scene.address().rsplit(':').next().unwrap().parse().unwrap();
            wait_until("a request", || has_mail(port));
            let tracer = Tracer::attach(&client, &log, inject);
            scene.daemon().signal(Signal::CONT);
            (tracer, client)
        }
    };
    let deadline = Instant::now() + LIMIT;
    while client.is_running() {
        if !scene.daemon_runs() {
            // The client would notice in ten seconds; that it does is seen elsewhere.
            return (tracer, None);
        }
        assert!(Instant::now() < deadline, "{inject:?}: it goes on for ever");
        thread::sleep(Duration::from_millis(2));
    }
    (tracer, Some(client.finish()))
}

/// A folder with three pieces of content, whose files are few.
fn scene(way: Way) -> Scene {
    Scene::new(way, None, |root| {
        fs::create_dir_all(root.join("deep/empty")).unwrap();
        random_file(&root.join("large"), 2_200_000, 1);
        random_file(&root.join("deep/small"), 300, 2);
        fs::write(root.join("none"), "").unwrap();
    })
}

/// `strace`, attached to a process that runs.
struct Tracer {
    child: Child,
    log: PathBuf,
}

impl Tracer {
    fn attach(to: &End, log: &Path, inject: Option<&str>) -> Self {
        let mut command = strace(&CALLS.join(","), inject);
        command
            .arg("-o")
            .arg(log)
            .arg("-p")
            .arg(to.id().to_string());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let attached = said.any(|line| line.is_ok_and(|line| line.contains("attached")));
        assert!(attached, "strace did not attach");
        thread::spawn(move || said.for_each(drop));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Lets the process go on by itself; what was seen of it.
    fn end(mut self) -> String {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.child.wait().unwrap();
        fs::read_to_string(&self.log).unwrap()
    }
}

fn strace(calls: &str, inject: Option<&str>) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-s", "0", "-e", &format!("trace={calls}")]);
    if let Some(inject) = inject {
        command.args(["-e", &format!("inject={inject}")]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Whether strace is there and may attach to what runs; says so where not.
fn possible() -> bool {
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let id = sleeper.id().to_string();
    let tracer = strace("openat", None)
        .args(["-p", &id])
        .stderr(Stdio::piped())
        .spawn();
    let may = tracer.is_ok_and(|mut tracer| {
        let said = BufReader::new(tracer.stderr.take().unwrap()).lines();
        let may = said
            .map_while(Result::ok)
            .any(|line| line.contains("attached"));
        let _ = tracer.kill();
        tracer.wait().is_ok() && may
    });
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    if !may {
        skip("failing every call of storage needs strace, and the right to attach it");
    }
    may
}

/// Whether datagrams wait at that port of this machine.
fn has_mail(port: u16) -> bool {
    let sockets = fs::read_to_string("/proc/net/udp").unwrap();
    sockets.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = fields[1].rsplit(':').next().unwrap();
        u16::from_str_radix(at, 16) == Ok(port) && !fields[4].ends_with(":00000000")
    })
}

fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !there() {
        assert!(Instant::now() < deadline, "no {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A disk that fails, one that is full, and the end of the process.
const FAULTS: [&str; 3] = ["error=EIO", "error=ENOSPC", "signal=KILL"];

/// What touches the disk; those that an architecture has not are left out.
const CALLS: [&str; 28] = [
    "?openat",
    "?openat2",
    "?mkdir",
    "?mkdirat",
    "?pwrite64",
    "?pwritev",
    "?pread64",
    "?preadv",
    "?fsync",
    "?fdatasync",
    "?syncfs",
    "?rename",
    "?renameat",
    "?renameat2",
    "?linkat",
    "?unlink",
    "?unlinkat",
    "?ftruncate",
    "?fallocate",
    "?fchmod",
    "?fchmodat",
    "?utimensat",
    "?newfstatat",
    "?statx",
    "?getdents64",
    "?flock",
    "?fstatfs",
    "?statfs",
];
