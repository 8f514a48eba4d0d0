//! The daemon or its client, killed when so many bytes were stored: started again, the transfer goes on where it was.
//!
//! The moment of a kill is a count of bytes that the storing side has written, as the kernel counts them, so that a slow
//! machine is killed at the same place as a fast one.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fulmar_proto::sim::Rng;
use rustix::process::Signal;

use crate::common::{End, Ended, LIMIT, random_file};
use crate::scene::{Scene, Side, Way};
use crate::{at_once, long};

#[test]
fn a_kill_at_any_byte_mixes_nothing_and_loses_little() {
    let seeds = 0..if long() { 100 } else { 10 };
    at_once(seeds, 10, |seed| {
        let mut rng = Rng::new(seed);
        let way = Way::BOTH[seed as usize % 2];
        let victim = Side::BOTH[seed as usize / 2 % 2];
        let size = 6_000_000 + rng.below(12_000_000);
        let at = rng.below(size);
        let case = format!("seed {seed}: {way:?} of {size}, {victim:?} dies at {at}");
        let mut scene = Scene::new(way, Some("200M"), |root| folder(root, size, seed));
        let watch = scene.watch();
        let killed = kill_at(&mut scene, victim, at, &case);
        let arrived = scene.has_arrived(&case);
        let again = scene.again(&case);
        scene.is_tidy(&case);
        watch.end(&case);
        if !arrived && again.code() == Some(0) {
            // What was recorded is not asked for again.
            let (have, sent) = (resumed(&mut scene, &again), sent(&mut scene, &again));
            println!("{case}: {killed} were stored, {have} kept, {sent} sent");
            assert!(
                sent <= size - have + SLACK,
                "{case}: {have} kept, {sent} sent"
            );
        }
    });
}

#[test]
fn a_kill_at_70_percent_costs_5_percent_and_a_window() {
    let size = if long() { 1 << 30 } else { 64 << 20 };
    let cases = Way::BOTH.map(|way| Side::BOTH.map(|victim| (way, victim)));
    at_once(cases.into_iter().flatten(), 4, |(way, victim)| {
        let case = format!("{way:?} of {size}, {victim:?} dies");
        let mut scene = Scene::new(way, None, |root| drop(random_file(root, size, 70)));
        let watch = scene.watch();
        let stored = kill_at(&mut scene, victim, size / 10 * 7, &case);
        assert!(!scene.has_arrived(&case), "{case}: it was killed");
        let again = scene.again(&case);
        assert_eq!(again.code(), Some(0), "{case}: {again:#?}");
        scene.is_tidy(&case);
        watch.end(&case);
        let (have, sent) = (resumed(&mut scene, &again), sent(&mut scene, &again));
        let twice = (stored + sent).saturating_sub(size);
        println!("{case}: {stored} were stored, {have} kept, {sent} sent, {twice} of it again");
        assert!(
            twice <= size / 20 + WINDOW,
            "{case}: {twice} bytes were sent twice"
        );
    });
}

#[test]
fn a_source_that_changed_meanwhile_begins_from_zero() {
    let cases = Way::BOTH.map(|way| Side::BOTH.map(|victim| (way, victim)));
    at_once(cases.into_iter().flatten(), 4, |(way, victim)| {
        let size = 24 << 20;
        let case = format!("changed after {way:?}, {victim:?} died");
        let mut scene = Scene::new(way, Some("400M"), |root| drop(random_file(root, size, 3)));
        let stored = kill_at(&mut scene, victim, size / 4 * 3, &case);
        assert!(!scene.has_arrived(&case) && stored < size, "{case}");
        // As long as it was, and its last bytes are others.
        let source = OpenOptions::new().write(true).open(scene.source()).unwrap();
        source.write_all_at(b"another file", size - 12).unwrap();
        drop(source);
        let watch = scene.watch();
        let again = scene.again(&case);
        assert_eq!(again.code(), Some(0), "{case}: {again:#?}");
        watch.end(&case);
        assert_eq!(resumed(&mut scene, &again), 0, "{case}");
        assert!(sent(&mut scene, &again) >= size, "{case}");
    });
}

/// A folder of about `size` bytes: a large file, one with a hole, small ones, one without a byte, an empty folder.
fn folder(root: &Path, size: u64, seed: u64) {
    fs::create_dir_all(root.join("deep/empty")).unwrap();
    random_file(&root.join("large"), size - size / 4, seed);
    random_file(&root.join("deep/less"), size / 5, seed + 1);
    let sparse = random_file(&root.join("sparse"), 50_000, seed);
    let sparse = OpenOptions::new().write(true).open(sparse).unwrap();
    sparse.set_len(3 << 20).unwrap();
    for number in 0..20 {
        random_file(&root.join(format!("deep/{number}")), number * 97, seed);
    }
}

/// Begins a transfer, and kills one side when so many bytes were stored; how many that were. The other side must notice
/// by itself and say so.
fn kill_at(scene: &mut Scene, victim: Side, bytes: u64, case: &str) -> u64 {
    scene.daemon();
    let before = written(scene.daemon());
    let mut client = scene.client();
    let end = Instant::now() + LIMIT;
    let mut stored = 0;
    let over = loop {
        let over = !client.is_running();
        let now = match scene.way.storing() {
            Side::Client => written(&client),
            Side::Daemon => written(scene.daemon()) - before,
        };
        stored = stored.max(now);
        if over || stored >= bytes {
            break over;
        }
        assert!(Instant::now() < end, "{case}: only {stored} bytes came");
        thread::sleep(Duration::from_micros(200));
    };
    match victim {
        Side::Client => drop(client),
        Side::Daemon => {
            scene.daemon().signal(Signal::KILL);
            let ended = client.finish();
            if !over && ended.code() != Some(0) {
                ended.failed_with(3, "the peer fell silent");
            }
        }
    }
    stored
}

/// Bytes that a process has written to files; 0 once it is gone.
fn written(end: &End) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", end.id())).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.map_or(0, |bytes| bytes.parse().unwrap())
}

/// Bytes of content that the sending side has sent in a transfer that ended well.
fn sent(scene: &mut Scene, client: &Ended) -> u64 {
    let done = match scene.way {
        Way::Put => client.all("done")[0].clone(),
        Way::Get => scene.daemon().wait_for("done"),
    };
    done["data"].as_u64().unwrap() * CHUNK
}

/// Bytes that the storing side had already.
fn resumed(scene: &mut Scene, client: &Ended) -> u64 {
    let had = match scene.way {
        Way::Get => client.all("resumed").into_iter().next().cloned(),
        Way::Put => {
            scene.daemon().wait_for("done");
            scene.daemon().seen("resumed").cloned()
        }
    };
    had.map_or(0, |event| event["bytes"].as_u64().unwrap())
}

/// Bytes of a file in a sealed packet.
const CHUNK: u64 = 1352;
/// Packets sent again because they were lost or late, and the ends of pieces.
const SLACK: u64 = 3 << 20;
/// What may come before the disk has it for good, and be lost (bundle 5.3).
const WINDOW: u64 = 32 << 20;
