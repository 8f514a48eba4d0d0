//! `send` and `recv`, killed and with bad disks and files that change.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use fulmar_proto::sim::Rng;

use crate::common::{
    BINARY, End, Ended, Mount, Receiver, config_home, fulmar, inbox, is_partial, names_in,
    random_file, same, send, skip, wait_for_partial,
};
use crate::long;

#[test]
fn a_kill_at_any_moment_leaves_the_whole_file_or_none() {
    let seeds: Vec<u64> = (0..if long() { 200 } else { 12 }).collect();
    // Whoever survives waits for the other up to ten seconds: let them wait at the same time.
    let mut outcomes = [0; 3];
    for batch in seeds.chunks(12) {
        let results: Vec<_> = thread::scope(|scope| {
            let cases: Vec<_> = batch
                .iter()
                .map(|seed| scope.spawn(move || (seed, kill_one(*seed))))
                .collect();
            cases.into_iter().map(|case| case.join()).collect()
        });
        for result in results {
            let (_, outcome) = result.expect("the case said why");
            outcomes[outcome as usize] += 1;
        }
    }
    println!("killed before anything, in the middle, after the end: {outcomes:?}");
    assert!(outcomes[Moment::Middle as usize] > 0, "{outcomes:?}");
}

/// When a kill came, as the survivor saw it.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Before,
    Middle,
    After,
}

/// Kills one end of a transfer and holds the other one to what it must do; then the file is sent again.
fn kill_one(seed: u64) -> Moment {
    let mut rng = Rng::new(seed);
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let size = 1_000_000 + rng.below(4_000_000);
    let source = random_file(&place.path().join("file"), size, seed);
    let mut options = vec!["--max-rate", "32M"];
    options.extend(rng.chance(0.5).then_some("--plain"));
    let sender_dies = rng.chance(0.5);
    // At 4 MB/s; now and then before the first packet, now and then after the last one.
    let moment = Duration::from_micros(rng.below(size / 3 + 300_000));
    let case = format!("seed {seed}: {size} bytes, sender dies {sender_dies} after {moment:?}");

    let mut receiver = Receiver::start(&into, &["--once"]);
    let address = receiver.address.clone();
    let sender = send(&[&source], &address, &options);
    thread::sleep(moment);
    let complete = into.join("file");
    let outcome = if sender_dies {
        drop(sender);
        let ended = outlive_the_sender(&mut receiver.end).then(|| receiver.end.finish());
        match ended {
            Some(ended) if ended.code() == Some(0) => {
                assert_eq!(names_in(&into), ["file"], "{case}");
                Moment::After
            }
            Some(ended) => {
                ended.failed_with(3, "the peer fell silent");
                let left = names_in(&into);
                assert!(left.iter().all(|it| is_partial(it)), "{case}: {ended:#?}");
                Moment::Middle
            }
            None => {
                assert_eq!(names_in(&into), [""; 0], "{case}");
                Moment::Before
            }
        }
    } else {
        drop(receiver);
        let ended = sender.finish();
        if ended.code() == Some(0) {
            assert!(complete.exists(), "{case}");
            Moment::After
        } else if ended.all("connected").is_empty() {
            ended.failed_with(3, "no answer");
            Moment::Before
        } else {
            ended.failed_with(3, "the peer fell silent");
            Moment::Middle
        }
    };
    for name in names_in(&into) {
        assert!(name == "file" || is_partial(&name), "{case}: {name}");
    }
    let arrived = complete.exists();
    assert!(!arrived || same(&source, &complete), "{case}");

    // Nothing that a dead process left is in the way of a new one.
    let receiver = Receiver::start(&into, &[]);
    let again = send(&[&source], &receiver.address, &[]).finish();
    assert_eq!(
        again.code(),
        Some(if arrived { 6 } else { 0 }),
        "{case}: {again:#?}"
    );
    assert!(same(&source, &complete), "{case}");
    receiver.end.stop();
    outcome
}

/// Waits for the end of a `recv --once` whose sender was killed; `false` if no packet ever reached it, so that it goes
/// on waiting for a sender, which is right.
fn outlive_the_sender(receiver: &mut End) -> bool {
    // Its whole patience, and what a busy machine adds. An offer alone fails without ending it.
    let patience = Duration::from_secs(20);
    if receiver
        .wait_within("connected", Duration::from_secs(2))
        .is_none()
    {
        return !receiver.is_running();
    }
    let failed = receiver.wait_within("failed", patience);
    // The failure that ends it has no file: it is the command's.
    let ends = failed.is_none_or(|failed| failed.get("file").is_none());
    assert!(ends || receiver.is_running());
    ends
}

#[test]
fn a_file_that_cannot_fit_is_refused_before_it_is_sent() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let Some(mount) = Mount::tmpfs(&into, "size=4m") else {
        return;
    };
    let source = random_file(&place.path().join("f"), 16_000_000, 1);
    let receiver = Receiver::start(&into, &[]);
    let sent = send(&[&source], &receiver.address, &[]).finish();
    sent.failed_with(6, "the receiver cannot store the file");
    assert!(sent.all("progress").iter().all(|event| event["done"] == 0));
    assert_eq!(names_in(&into), [""; 0]);
    let received = receiver.end.stop();
    assert!(
        received
            .said
            .contains("16000000 bytes are to come and the disk has room for"),
        "{received:#?}"
    );
    drop(mount);
}

#[test]
fn a_disk_that_fills_up_meanwhile_is_said_at_both_ends() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let Some(mount) = Mount::tmpfs(&into, "size=4m") else {
        return;
    };
    let source = random_file(&place.path().join("f"), 3_000_000, 2);
    let receiver = Receiver::start(&into, &["--once"]);
    let sender = send(&[&source], &receiver.address, &["--max-rate", "8M"]);
    wait_for_partial(&into);
    fill(&into.join("filler"));
    let (sent, received) = (sender.finish(), receiver.end.finish());
    sent.failed_with(6, "the receiver cannot store the file");
    received.failed_with(1, "No space left on device");
    assert_eq!(names_in(&into), ["filler"]);
    drop(mount);
}

#[test]
fn a_directory_that_cannot_be_written_is_said_at_the_start() {
    let place = tempfile::tempdir().unwrap();
    let (because, _mount) = if rustix::process::geteuid().is_root() {
        // Permissions do not bind root; a read-only file system does.
        let Some(mount) = Mount::tmpfs(place.path(), "size=1m,ro") else {
            return;
        };
        ("Read-only file system", Some(mount))
    } else {
        fs::set_permissions(place.path(), Permissions::from_mode(0o555)).unwrap();
        ("Permission denied", None)
    };
    let mut command = fulmar();
    command
        .arg("recv")
        .arg(place.path())
        .args(["--listen", "127.0.0.1:0"]);
    let ended = End::spawn(&mut command).finish();
    ended.failed_with(1, because);
    assert!(ended.all("ready").is_empty(), "{ended:#?}");
    assert!(
        ended.said.contains(place.path().to_str().unwrap()),
        "{ended:#?}"
    );
}

#[test]
fn a_disk_that_loses_what_it_took_is_believed() {
    let place = tempfile::tempdir().unwrap();
    let source = random_file(&place.path().join("f"), 300_000, 3);
    for (number, (fault, what)) in [
        ("fsync:error=EIO:when=1", "the file"),
        ("fsync:error=EIO", "everything"),
        ("fsync:error=EIO:when=2", "the directory"),
    ]
    .into_iter()
    .enumerate()
    {
        let into = inbox(place.path(), &number.to_string());
        let Some(tracer) = strace(place.path(), fault) else {
            return;
        };
        let receiver = Receiver::start_with(tracer, "127.0.0.1:0", &into, &["--once"]);
        let sent = send(&[&source], &receiver.address, &[]).finish();
        let received = receiver.end.finish();
        sent.failed_with(6, "the receiver cannot store the file");
        received.failed_with(1, "Input/output error");
        // If it has its name, though nobody knows for how long, it must be whole.
        let whole = |name: &String| name == "f" && same(&source, &into.join(name));
        let left = names_in(&into);
        let fine = left.iter().all(|name| is_partial(name) || whole(name));
        assert!(fine, "fsync of {what}: {left:?}");
    }
}

#[test]
fn a_source_that_is_shortened_fails_by_name() {
    let (sent, received) = send_and_meddle(|file| file.set_len(5_000_000).unwrap());
    sent.failed_with(1, "shortened");
    received.failed_with(6, "the other side gave up");
}

#[test]
fn a_source_that_grows_fails_by_name() {
    let (sent, received) = send_and_meddle(|mut file| {
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"more").unwrap();
    });
    sent.failed_with(1, "was changed while it was read");
    received.failed_with(6, "the other side gave up");
}

#[test]
fn a_source_that_changes_in_secret_arrives_as_it_was_read() {
    let (sent, received) = send_and_meddle(|mut file| {
        let modified = file.metadata().unwrap().modified().unwrap();
        let mut byte = [0];
        file.seek(SeekFrom::End(-1)).unwrap();
        file.read_exact(&mut byte).unwrap();
        file.seek(SeekFrom::End(-1)).unwrap();
        file.write_all(&[!byte[0]]).unwrap();
        file.set_modified(modified).unwrap();
    });
    // It is read once, and what was read is what the hash is of.
    assert_eq!((sent.code(), received.code()), (Some(0), Some(0)));
}

/// Lets `meddle` at a file of 10 MB when its first bytes have arrived and its last ones have not been read. The
/// receiver must end up with all of it as it is then, or with nothing under its name.
fn send_and_meddle(meddle: impl FnOnce(&File)) -> (Ended, Ended) {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let source = random_file(&place.path().join("f"), 10_000_000, 4);
    let receiver = Receiver::start(&into, &["--once"]);
    let sender = send(&[&source], &receiver.address, &["--max-rate", "40M"]);
    wait_for_partial(&into);
    meddle(
        &OpenOptions::new()
            .read(true)
            .write(true)
            .open(&source)
            .unwrap(),
    );
    let (sent, received) = (sender.finish(), receiver.end.finish());
    for name in names_in(&into) {
        let whole = name == "f" && same(&source, &into.join("f"));
        assert!(whole || is_partial(&name), "{sent:#?} {received:#?}");
    }
    (sent, received)
}

/// Writes until the disk is full, and again when that made room.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let page = [1; 4096];
    while file.write_all(&page).is_ok() {}
}

/// A command that runs what it gets as its further arguments with a fault in its system calls; `None`, said loudly,
/// where that is not possible.
fn strace(place: &Path, fault: &str) -> Option<Command> {
    let tracer = || {
        let mut command = Command::new("strace");
        // As the grandchild, so that the child is who it would be.
        command.env("XDG_CONFIG_HOME", config_home());
        command.args(["-D", "-f", "-qq", "-e", "trace=fsync", "-o"]);
        command
            .arg(place.join("trace"))
            .args(["-e", &format!("inject={fault}")]);
        command
    };
    let works = tracer()
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success());
    if !works {
        skip("failing disks need strace, and the right to trace");
        return None;
    }
    let mut command = tracer();
    command.arg(BINARY);
    Some(command)
}
