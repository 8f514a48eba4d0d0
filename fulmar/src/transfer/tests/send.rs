//! Sending.

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fulmar_proto::hpudp::{Command, Event, Failure, Reason, Trust};
use xxhash_rust::xxh64::xxh64;

use super::super::send::send_through;
use super::super::{Encryption, Hash, Kind, SendOptions, Update, send};
use super::{Toy, bytes, end, peer, put, run};
use crate::bundle::Cache;
use crate::driver::Handle;
use crate::file::SourceError;

/// To a receiver that takes single files.
fn single() -> SendOptions {
    SendOptions {
        bundle: false,
        ..SendOptions::new(peer())
    }
}

/// Takes what it is sent, refuses what `refuse` says, and keeps the bytes of each session.
fn taker(
    refuse: impl Fn(bool) -> Option<Reason> + Send + 'static,
    arrived: Arc<Mutex<Vec<Vec<u8>>>>,
) -> Handle<Toy<impl FnMut(Command, &mut VecDeque<Event>)>> {
    let mut size = 0;
    let want = |tag, have: usize, size: usize, buffer| Event::Want {
        tag,
        offset: have as u64,
        len: (size - have).min(136_800),
        buffer,
    };
    run([], move |command, events| match command {
        Command::Send { tag, request } => {
            assert_eq!(request.to, peer());
            if let Some(reason) = refuse(request.encrypt) {
                events.extend(end(tag, Err(Failure::Refused(reason)), request.size));
                return;
            }
            size = request.size as usize;
            arrived.lock().unwrap().push(Vec::new());
            events.push_back(Event::Connected {
                tag,
                encrypted: request.encrypt,
                extended: true,
                identity: None,
            });
            if size == 0 {
                events.extend(end(tag, Ok(()), 0));
            } else {
                events.push_back(want(tag, 0, size, Vec::new()));
            }
        }
        Command::Supply { tag, offset, bytes } => {
            let mut arrived = arrived.lock().unwrap();
            let whole = arrived.last_mut().unwrap();
            assert_eq!(offset, whole.len() as u64);
            whole.extend_from_slice(&bytes);
            if whole.len() < size {
                events.push_back(want(tag, whole.len(), size, bytes));
            } else {
                events.extend(end(tag, Ok(()), size as u64));
            }
        }
        Command::Abort { tag, reason } => events.extend(end(tag, Err(Failure::Aborted(reason)), 0)),
        Command::Accept { .. }
        | Command::Pull { .. }
        | Command::Serve { .. }
        | Command::Have { .. }
        | Command::Limit { .. }
        | Command::List { .. }
        | Command::Listing { .. }
        | Command::Stored { .. }
        | Command::Verified { .. } => {
            panic!("not a sender's")
        }
    })
}

#[test]
fn files_are_sent_one_after_the_other() {
    let place = tempfile::tempdir().unwrap();
    let contents = [bytes(1_000_000), Vec::new(), bytes(1)];
    let paths: Vec<_> = contents
        .iter()
        .enumerate()
        .map(|(i, content)| put(place.path(), &format!("f{i}"), content))
        .collect();
    let arrived = Arc::default();
    let handle = taker(|_| None, Arc::clone(&arrived));
    let mut finished = Vec::new();
    let sent = send_through(&handle, &paths, &single(), |update| {
        if let Update::Finished { name, path, .. } = update {
            finished.push((name.clone(), path.clone()));
        }
    })
    .unwrap();
    assert_eq!(*arrived.lock().unwrap(), contents);
    for (one, (path, content)) in sent.iter().zip(paths.iter().zip(&contents)) {
        assert_eq!(
            (&one.path, one.size, one.hash),
            (path, content.len() as u64, Hash::Xxh64(xxh64(content, 0)))
        );
        assert!(one.encrypted);
    }
    let names: Vec<_> = finished.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["f0", "f1", "f2"]);
}

#[test]
fn a_plain_transfer_is_tried_only_when_allowed_and_is_told() {
    let place = tempfile::tempdir().unwrap();
    let paths = [put(place.path(), "x", b"secret")];
    let plain_only = |encrypt: bool| encrypt.then_some(Reason::NO_ENCRYPTION);
    let attempt = |encrypt| {
        let arrived = Arc::default();
        let handle = taker(plain_only, Arc::clone(&arrived));
        let mut told = 0;
        let options = SendOptions {
            encrypt,
            ..single()
        };
        let result = send_through(&handle, &paths, &options, |update| {
            told += u32::from(matches!(update, Update::Unencrypted { .. }));
        });
        let arrived = arrived.lock().unwrap().len();
        (
            result
                .map(|sent| sent[0].encrypted)
                .map_err(|error| error.exit_code()),
            told,
            arrived,
        )
    };
    assert_eq!(attempt(Encryption::Require), (Err(6), 0, 0));
    assert_eq!(attempt(Encryption::AllowPlain), (Ok(false), 1, 1));
    assert_eq!(attempt(Encryption::Off), (Ok(false), 0, 1));
}

#[test]
fn each_failure_has_its_exit_code_and_three_lines() {
    let place = tempfile::tempdir().unwrap();
    let paths = [put(place.path(), "x", b"x")];
    for (failure, code) in [
        (Failure::NoAnswer, 3),
        (Failure::Silent, 3),
        (Failure::BadKey, 4),
        (Failure::Refused(Reason::HASH_MISMATCH), 5),
        (Failure::Refused(Reason::EXISTS), 6),
        (Failure::Refused(Reason(0x77)), 6),
        (Failure::Aborted(Reason::STORAGE), 1),
    ] {
        let handle = run([], move |command, events| {
            if let Command::Send { tag, .. } = command {
                events.extend(end(tag, Err(failure), 1));
            }
        });
        let error = send_through(&handle, &paths, &single(), |_| ()).unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
        let text = error.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines.len() == 3
                && lines[1] == format!("because: {failure}")
                && lines[2].starts_with("try: "),
            "{text}"
        );
    }
}

#[test]
fn a_source_that_changes_aborts_with_its_reason() {
    let place = tempfile::tempdir().unwrap();
    let path = put(place.path(), "x", &bytes(500_000));
    let handle = taker(|_| None, Arc::default());
    let error = send_through(&handle, std::slice::from_ref(&path), &single(), |update| {
        if matches!(update, Update::Connected { .. }) {
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(400_000)
                .unwrap();
        }
    })
    .unwrap_err();
    let source = error.source().unwrap().downcast_ref::<SourceError>();
    assert!(matches!(source, Some(SourceError::Shortened)), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn a_busy_receiver_is_asked_again() {
    let place = tempfile::tempdir().unwrap();
    let paths = [put(place.path(), "x", b"x")];
    let attempt = |mut busy: VecDeque<Reason>| {
        let busy = Mutex::new(move || busy.pop_front());
        let arrived = Arc::default();
        let handle = taker(move |_| busy.lock().unwrap()(), Arc::clone(&arrived));
        let sent = send_through(&handle, &paths, &single(), |_| ());
        sent.map(|_| arrived.lock().unwrap().len())
            .map_err(|error| error.exit_code())
    };
    assert_eq!(attempt([Reason::BUSY, Reason::COLLISION].into()), Ok(1));
    assert_eq!(attempt([Reason::BUSY, Reason::EXISTS].into()), Err(6));
    // Not for ever.
    let handle = taker(|_| Some(Reason::BUSY), Arc::default());
    let mut options = single();
    options.config.call_timeout = Duration::from_millis(1);
    let error = send_through(&handle, &paths, &options, |_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 6);
}

#[test]
fn a_sender_can_be_stopped() {
    let place = tempfile::tempdir().unwrap();
    let paths = [put(place.path(), "x", &bytes(500_000))];
    // This peer never asks for anything.
    let handle = run([], |command, events| {
        if let Command::Send { tag, .. } = command {
            events.push_back(Event::Connected {
                tag,
                encrypted: true,
                extended: false,
                identity: None,
            });
        } else if let Command::Abort { tag, reason } = command {
            assert_eq!(reason, Reason::DISCONNECT);
            events.extend(end(tag, Err(Failure::Aborted(reason)), 0));
        }
    });
    let options = single();
    let error = send_through(&handle, &paths, &options, |update| {
        if matches!(update, Update::Connected { .. }) {
            options.stop.store(true, SeqCst);
        }
    })
    .unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (Kind::Stopped, 130));
}

#[test]
fn what_cannot_be_sent_fails_before_anything_is() {
    let place = tempfile::tempdir().unwrap();
    let good = put(place.path(), "x", b"x");
    let files = [good, place.path().to_owned()];
    let error = send(&files, &single(), |update| panic!("{update:?}")).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("a directory"), "{error}");
}

/// A peer without bundles, which says so or is made to: what it was offered, by bundle and name, and what became of it.
#[expect(clippy::type_complexity, reason = "it is taken apart at once")]
fn offered_to_v5(
    files: &[std::path::PathBuf],
    trust: Trust,
) -> (Vec<(bool, String)>, u32, Result<usize, (u8, String)>) {
    let offers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&offers);
    let handle = run([], move |command, events| {
        if let Command::Send { tag, request } = command {
            seen.lock().unwrap().push((request.bundle, request.name));
            let result = if request.bundle {
                Err(Failure::NoBundles)
            } else {
                Ok(())
            };
            events.extend(end(tag, result, request.size));
        }
    });
    let options = SendOptions {
        trust,
        ..SendOptions::new(peer())
    };
    let mut told = 0;
    let sent = send_through(&handle, files, &options, |update| {
        told += u32::from(matches!(update, Update::SingleFiles { .. }));
    });
    let sent = sent
        .map(|sent| sent.len())
        .map_err(|error| (error.exit_code(), error.to_string()));
    let offers = offers.lock().unwrap().clone();
    (offers, told, sent)
}

#[test]
fn who_takes_no_bundles_gets_single_files_and_the_user_is_told_once() {
    let place = tempfile::tempdir().unwrap();
    let files = ["a", "b"].map(|name| put(place.path(), name, b"x"));
    let (offers, told, sent) = offered_to_v5(&files, Trust::Anyone);
    assert_eq!((told, sent), (1, Ok(2)));
    assert!(
        offers[0].0 && offers[0].1.starts_with("bundle-"),
        "{offers:?}"
    );
    assert_eq!(offers[1..], [(false, "a".into()), (false, "b".into())]);

    // A folder cannot go that way, and nothing else of the same command does.
    let folder = [files[0].clone(), place.path().to_owned()];
    let (offers, told, sent) = offered_to_v5(&folder, Trust::Anyone);
    let (code, text) = sent.unwrap_err();
    assert_eq!((offers.len(), told, code), (1, 0, 6), "{text}");
    assert!(text.contains("without folders"), "{text}");
}

#[test]
fn a_peer_that_must_prove_itself_never_gets_names_in_the_clear() {
    let place = tempfile::tempdir().unwrap();
    let files = [put(place.path(), "secret name", b"x")];
    for trust in [Trust::AnyKey, Trust::Key([7; 32])] {
        let (offers, told, sent) = offered_to_v5(&files, trust);
        let (code, text) = sent.unwrap_err();
        assert_eq!((offers.len(), told, code), (1, 0, 4), "{text}");
        assert!(offers[0].0 && !offers[0].1.contains("secret"), "{offers:?}");
        assert!(text.contains("may have changed its answer"), "{text}");
    }
}

#[test]
fn a_file_by_itself_is_hashed_once_for_two_sessions() {
    let place = tempfile::tempdir().unwrap();
    let content = bytes(5 << 20);
    let files = [put(place.path(), "x", &content)];
    let options = SendOptions {
        cache: Cache::at(place.path().join("cache")),
        ..single()
    };
    let steps = || {
        let handle = taker(|_| None, Arc::default());
        let mut steps = 0;
        let sent = send_through(&handle, &files, &options, |update| {
            steps += u32::from(matches!(update, Update::Hashing { .. }));
        });
        assert_eq!(sent.unwrap()[0].hash, Hash::Xxh64(xxh64(&content, 0)));
        steps
    };
    // What changed a moment ago may change again without a trace, so that it is not remembered.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((steps(), steps()), (5, 1));
}

#[test]
fn what_the_receiver_had_is_no_part_of_what_moved() {
    let place = tempfile::tempdir().unwrap();
    let content = bytes(3_000_000);
    let files = [put(place.path(), "x", &content)];
    let mut size = 0;
    // It wants the beginning and the end only.
    let handle = run([], move |command, events| {
        let want = |tag, offset, len| Event::Want {
            tag,
            offset,
            len,
            buffer: Vec::new(),
        };
        if let Command::Send { tag, request } = command {
            assert!(request.bundle && request.hash == 0);
            size = request.size;
            events.push_back(want(tag, 0, 1_000_000));
        } else if let Command::Supply { tag, offset, .. } = command {
            if offset == 0 {
                events.push_back(want(tag, size - 500_000, 500_000));
            } else {
                events.extend(end(tag, Ok(()), size));
            }
        }
    });
    let mut finished = Vec::new();
    let sent = send_through(&handle, &files, &SendOptions::new(peer()), |update| {
        if let Update::Finished {
            name,
            snapshot,
            resumed,
            files,
            ..
        } = update
        {
            finished.push((name.clone(), snapshot.size, *resumed, *files));
        }
    });
    let sent = &sent.unwrap()[0];
    let hash = Hash::Blake3(*blake3::hash(&content).as_bytes());
    assert_eq!((sent.size, sent.hash), (3_000_000, hash));
    assert_eq!(sent.resumed, size_of_bundle(&files) - 1_500_000);
    assert_eq!(finished, [("x".to_owned(), 3_000_000, sent.resumed, 1)]);
}

fn size_of_bundle(files: &[std::path::PathBuf]) -> u64 {
    let options = crate::bundle::ScanOptions::default();
    let source = crate::bundle::BundleSource::scan(files, &options);
    source.unwrap().len()
}
