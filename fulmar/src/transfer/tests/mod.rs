//! The file side of both handles, against toy endpoints that play the network without one.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use fulmar_proto::hpudp::{Command, Event, Failure, Reason, Snapshot, Tag, Via};
use fulmar_proto::{Endpoint, Meta, Transmit};
use xxhash_rust::xxh64::xxh64;

use super::recv::receive_through;
use super::send::send_through;
use super::*;
use crate::driver::{self, Handle, Socket};
use crate::file::{Directory, FinishError, SourceError};

/// A toy that only has commands and events.
struct Toy<F> {
    events: VecDeque<Event>,
    on_command: F,
}

impl<F: FnMut(Command, &mut VecDeque<Event>)> Endpoint for Toy<F> {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, _: Instant, _: Meta, _: &mut [u8]) {}

    fn handle_timeout(&mut self, _: Instant) {}

    fn handle_command(&mut self, _: Instant, command: Command) {
        (self.on_command)(command, &mut self.events);
    }

    fn poll_transmit(&mut self, _: Instant, _: usize, _: &mut Vec<u8>) -> Option<Transmit> {
        None
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

fn run<F>(events: impl Into<VecDeque<Event>>, on_command: F) -> Handle<Toy<F>>
where
    F: FnMut(Command, &mut VecDeque<Event>) + Send + 'static,
{
    let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    driver::spawn(
        socket,
        Toy {
            events: events.into(),
            on_command,
        },
    )
    .unwrap()
}

fn peer() -> SocketAddr {
    "192.0.2.7:9000".parse().unwrap()
}

fn end(tag: Tag, result: Result<(), Failure>, size: u64) -> [Event; 2] {
    let snapshot = Snapshot {
        size,
        data: 1,
        ..Snapshot::default()
    };
    [
        Event::Finished {
            tag,
            snapshot,
            result,
        },
        Event::Closed { tag },
    ]
}

// Sending.

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
                paths: false,
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

fn put(place: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = place.join(name);
    fs::write(&path, content).unwrap();
    path
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * i % 251) as u8).collect()
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
    let sent = send_through(&handle, &paths, &SendOptions::new(peer()), |update| {
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
            ..SendOptions::new(peer())
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
        let error = send_through(&handle, &paths, &SendOptions::new(peer()), |_| ()).unwrap_err();
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
    let error = send_through(
        &handle,
        std::slice::from_ref(&path),
        &SendOptions::new(peer()),
        |update| {
            if matches!(update, Update::Connected { .. }) {
                fs::OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(400_000)
                    .unwrap();
            }
        },
    )
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
        let sent = send_through(&handle, &paths, &SendOptions::new(peer()), |_| ());
        sent.map(|_| arrived.lock().unwrap().len())
            .map_err(|error| error.exit_code())
    };
    assert_eq!(attempt([Reason::BUSY, Reason::COLLISION].into()), Ok(1));
    assert_eq!(attempt([Reason::BUSY, Reason::EXISTS].into()), Err(6));
    // Not for ever.
    let handle = taker(|_| Some(Reason::BUSY), Arc::default());
    let mut options = SendOptions::new(peer());
    options.config.request_timeout = Duration::from_millis(1);
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
                paths: false,
            });
        } else if let Command::Abort { tag, reason } = command {
            assert_eq!(reason, Reason::DISCONNECT);
            events.extend(end(tag, Err(Failure::Aborted(reason)), 0));
        }
    });
    let options = SendOptions::new(peer());
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
    let error = send(&files, &SendOptions::new(peer()), |update| {
        panic!("{update:?}")
    })
    .unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("a directory"), "{error}");
}

// Receiving.

/// Offers one file a session and answers as a network would.
struct Offer {
    name: &'static [u8],
    content: Vec<u8>,
    hash: u64,
}

impl Offer {
    fn new(name: &'static str, content: Vec<u8>) -> Self {
        let hash = xxh64(&content, 0);
        Self {
            name: name.as_bytes(),
            content,
            hash,
        }
    }
}

fn giver(
    offers: Vec<Offer>,
    verdicts: Arc<Mutex<Vec<(Tag, Reason)>>>,
) -> Handle<Toy<impl FnMut(Command, &mut VecDeque<Event>)>> {
    let offered: Vec<Event> = offers
        .iter()
        .zip(0..)
        .map(|(offer, tag)| Event::Offered {
            tag: Tag(tag),
            from: peer(),
            name: offer.name.to_vec(),
            size: offer.content.len() as u64,
            hash: Some(offer.hash),
            encrypted: true,
            via: Via::Direct,
            bundle: false,
            identity: None,
            paths: false,
        })
        .collect();
    let mut unstored: Vec<usize> = offers.iter().map(|offer| offer.content.len()).collect();
    run(offered, move |command, events| match command {
        Command::Accept { tag } => {
            // Every second part first.
            let parts: Vec<_> = offers[tag.0 as usize]
                .content
                .chunks(10_000)
                .zip(0..)
                .collect();
            for (part, index) in parts
                .iter()
                .skip(1)
                .step_by(2)
                .chain(parts.iter().step_by(2))
            {
                events.push_back(Event::Chunk {
                    tag,
                    offset: index * 10_000,
                    bytes: part.to_vec(),
                });
            }
            if parts.is_empty() {
                events.push_back(Event::Received {
                    tag,
                    hash: offers[tag.0 as usize].hash,
                });
            }
        }
        Command::Stored { tag, len, .. } => {
            let left = &mut unstored[tag.0 as usize];
            *left -= len;
            if *left == 0 {
                events.push_back(Event::Received {
                    tag,
                    hash: offers[tag.0 as usize].hash,
                });
            }
        }
        Command::Verified { tag } => events.extend(end(
            tag,
            Ok(()),
            offers[tag.0 as usize].content.len() as u64,
        )),
        Command::Abort { tag, reason } => {
            verdicts.lock().unwrap().push((tag, reason));
            events.extend(end(tag, Err(Failure::Aborted(reason)), 0));
        }
        Command::Send { .. }
        | Command::Limit { .. }
        | Command::List { .. }
        | Command::Listing { .. }
        | Command::Pull { .. }
        | Command::Serve { .. }
        | Command::Have { .. }
        | Command::Supply { .. } => panic!("not a receiver's"),
    })
}

#[test]
fn files_are_received_refused_and_verified() {
    let place = tempfile::tempdir().unwrap();
    put(place.path(), "there", b"before");
    let good = bytes(333_333);
    let offers = vec![
        Offer::new("../../good", good.clone()),
        Offer::new("there", bytes(10)),
        Offer::new("..", bytes(10)),
        Offer {
            hash: 1,
            ..Offer::new("bad", bytes(50_000))
        },
        Offer::new("empty", Vec::new()),
    ];
    let verdicts = Arc::default();
    let handle = giver(offers, Arc::clone(&verdicts));
    let directory = Directory::open(place.path()).unwrap();
    let (stop, mut ends, mut codes) = (AtomicBool::new(false), 0, Vec::new());
    let tally = receive_through(
        &handle,
        &directory,
        &ReceiveOptions::default(),
        |update| {
            if let Update::Failed { error, .. } = update {
                codes.push(error.exit_code());
                assert!(
                    error
                        .source()
                        .unwrap()
                        .downcast_ref::<FinishError>()
                        .is_some()
                );
            }
            ends += u32::from(matches!(
                update,
                Update::Finished { .. } | Update::Failed { .. } | Update::Refused { .. }
            ));
            stop.store(ends == 5, SeqCst);
        },
        &stop,
    )
    .unwrap();
    assert_eq!(
        tally,
        Tally {
            served: 0,
            files: 2,
            bytes: 333_333,
            refused: 2,
            failed: 1
        }
    );
    assert_eq!(codes, [5]);
    let mut verdicts = verdicts.lock().unwrap().clone();
    verdicts.sort_by_key(|(tag, _)| *tag);
    let expected = [
        (Tag(1), Reason::EXISTS),
        (Tag(2), Reason::INVALID),
        (Tag(3), Reason::HASH_MISMATCH),
    ];
    assert_eq!(verdicts, expected);
    assert!(fs::read(place.path().join("good")).unwrap() == good);
    assert_eq!(fs::read(place.path().join("there")).unwrap(), b"before");
    assert_eq!(
        fs::read_dir(place.path()).unwrap().count(),
        3,
        "good, there and empty"
    );
}

#[test]
fn once_ends_with_the_first_accepted_transfer() {
    let once = ReceiveOptions {
        once: true,
        ..ReceiveOptions::default()
    };
    let attempt = |offers| {
        let place = tempfile::tempdir().unwrap();
        put(place.path(), "there", b"before");
        let handle = giver(offers, Arc::default());
        let directory = Directory::open(place.path()).unwrap();
        receive_through(&handle, &directory, &once, |_| (), &AtomicBool::new(false))
            .map_err(|error| error.exit_code())
    };
    let tally = attempt(vec![
        Offer::new("there", bytes(9)),
        Offer::new("x", bytes(9)),
    ])
    .unwrap();
    assert_eq!(
        tally,
        Tally {
            served: 0,
            files: 1,
            bytes: 9,
            refused: 1,
            failed: 0
        }
    );
    assert_eq!(
        attempt(vec![Offer {
            hash: 1,
            ..Offer::new("x", bytes(9))
        }]),
        Err(5)
    );
}

#[test]
fn stopping_tells_every_peer_and_leaves_no_file() {
    let place = tempfile::tempdir().unwrap();
    let aborted = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&aborted);
    // This peer offers and then says nothing more.
    let offer = |tag, name: &str| Event::Offered {
        tag: Tag(tag),
        from: peer(),
        name: name.into(),
        size: 100,
        hash: Some(0),
        encrypted: false,
        via: Via::Direct,
        bundle: false,
        identity: None,
        paths: false,
    };
    let handle = run([offer(1, "a"), offer(2, "b")], move |command, events| {
        if let Command::Abort { tag, reason } = command {
            seen.lock().unwrap().push((tag, reason));
            events.extend(end(tag, Err(Failure::Aborted(reason)), 0));
        }
    });
    let directory = Directory::open(place.path()).unwrap();
    let (stop, mut accepted, mut failed) = (AtomicBool::new(false), 0, Vec::new());
    let tally = receive_through(
        &handle,
        &directory,
        &ReceiveOptions::default(),
        |update| {
            accepted += u32::from(matches!(update, Update::Connected { .. }));
            stop.store(accepted == 2, SeqCst);
            if let Update::Failed { error, .. } = update {
                failed.push(error.kind());
            }
        },
        &stop,
    )
    .unwrap();
    assert_eq!(tally.failed, 2);
    assert_eq!(failed, [Kind::Stopped, Kind::Stopped]);
    assert_eq!(
        *aborted.lock().unwrap(),
        [(Tag(1), Reason::DISCONNECT), (Tag(2), Reason::DISCONNECT)]
    );
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_session_that_dies_leaves_no_file() {
    let place = tempfile::tempdir().unwrap();
    let offered = Event::Offered {
        tag: Tag(9),
        from: peer(),
        name: b"x".to_vec(),
        size: 10,
        hash: Some(0),
        encrypted: true,
        via: Via::Direct,
        bundle: false,
        identity: None,
        paths: false,
    };
    let handle = run([offered], |command, events| {
        if let Command::Accept { tag } = command {
            events.push_back(Event::Chunk {
                tag,
                offset: 0,
                bytes: vec![1; 5],
            });
            events.extend(end(tag, Err(Failure::Silent), 10));
        }
    });
    let directory = Directory::open(place.path()).unwrap();
    let once = ReceiveOptions {
        once: true,
        ..ReceiveOptions::default()
    };
    let error =
        receive_through(&handle, &directory, &once, |_| (), &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.kind(), Kind::NoConnection);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn an_offer_alone_makes_no_file_and_ends_nothing() {
    let place = tempfile::tempdir().unwrap();
    let offer = |tag, name: &str| Event::Offered {
        tag: Tag(tag),
        from: peer(),
        name: name.into(),
        size: 3,
        hash: Some(xxh64(b"abc", 0)),
        encrypted: true,
        via: Via::Direct,
        bundle: false,
        identity: None,
        paths: false,
    };
    let here = place.path().to_owned();
    // The first one falls silent, then the second one goes through.
    let handle = run(
        [offer(1, "nothing")],
        move |command, events| match command {
            Command::Accept { tag: Tag(1) } => {
                assert_eq!(fs::read_dir(&here).unwrap().count(), 0, "nothing came yet");
                let [mut finished, closed] = end(Tag(1), Err(Failure::Silent), 3);
                if let Event::Finished { snapshot, .. } = &mut finished {
                    snapshot.data = 0;
                }
                events.extend([finished, closed, offer(2, "file")]);
            }
            Command::Accept { tag } => events.push_back(Event::Chunk {
                tag,
                offset: 0,
                bytes: b"abc".to_vec(),
            }),
            Command::Stored { tag, .. } => events.push_back(Event::Received {
                tag,
                hash: xxh64(b"abc", 0),
            }),
            Command::Verified { tag } => events.extend(end(tag, Ok(()), 3)),
            Command::Send { .. }
            | Command::Pull { .. }
            | Command::Serve { .. }
            | Command::Have { .. }
            | Command::Limit { .. }
            | Command::List { .. }
            | Command::Listing { .. }
            | Command::Supply { .. }
            | Command::Abort { .. } => {
                panic!("unexpected")
            }
        },
    );
    let directory = Directory::open(place.path()).unwrap();
    let once = ReceiveOptions {
        once: true,
        ..ReceiveOptions::default()
    };
    let mut failed = Vec::new();
    let tally = receive_through(
        &handle,
        &directory,
        &once,
        |update| {
            if let Update::Failed { name, began, .. } = update {
                failed.push((name.clone(), *began));
            }
        },
        &AtomicBool::new(false),
    )
    .unwrap();
    assert_eq!((tally.files, tally.failed), (1, 1));
    assert_eq!(failed, [("nothing".to_owned(), false)]);
}

#[test]
fn what_cannot_be_made_when_its_first_bytes_come_ends_the_session() {
    let place = tempfile::tempdir().unwrap();
    let offered = Event::Offered {
        tag: Tag(9),
        from: peer(),
        name: b"x".to_vec(),
        size: 10,
        hash: Some(0),
        encrypted: true,
        via: Via::Direct,
        bundle: false,
        identity: None,
        paths: false,
    };
    let path = place.path().join("x");
    let handle = run([offered], move |command, events| match command {
        Command::Accept { tag } => {
            // Somebody else was faster.
            fs::write(&path, "mine").unwrap();
            events.push_back(Event::Chunk {
                tag,
                offset: 0,
                bytes: vec![1; 5],
            });
        }
        Command::Abort { tag, reason } => {
            assert_eq!(reason, Reason::EXISTS);
            events.extend(end(tag, Err(Failure::Aborted(reason)), 10));
        }
        Command::Stored { len, .. } => assert_eq!(len, 5),
        Command::Send { .. }
        | Command::Pull { .. }
        | Command::Serve { .. }
        | Command::Have { .. }
        | Command::Limit { .. }
        | Command::List { .. }
        | Command::Listing { .. }
        | Command::Supply { .. }
        | Command::Verified { .. } => {
            panic!("unexpected")
        }
    });
    let directory = Directory::open(place.path()).unwrap();
    let once = ReceiveOptions {
        once: true,
        ..ReceiveOptions::default()
    };
    let error =
        receive_through(&handle, &directory, &once, |_| (), &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("exists"), "{error}");
    assert_eq!(fs::read(place.path().join("x")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn bytes_beyond_the_announced_size_end_the_session() {
    let place = tempfile::tempdir().unwrap();
    let offered = Event::Offered {
        tag: Tag(9),
        from: peer(),
        name: b"x".to_vec(),
        size: 10,
        hash: Some(0),
        encrypted: true,
        via: Via::Direct,
        bundle: false,
        identity: None,
        paths: false,
    };
    let handle = run([offered], |command, events| match command {
        Command::Accept { tag } => events.push_back(Event::Chunk {
            tag,
            offset: 8,
            bytes: vec![1; 5],
        }),
        Command::Abort { tag, reason } => {
            assert_eq!(reason, Reason::STORAGE);
            events.extend(end(tag, Err(Failure::Aborted(reason)), 10));
        }
        Command::Stored { len, .. } => assert_eq!(len, 5),
        Command::Send { .. }
        | Command::Pull { .. }
        | Command::Serve { .. }
        | Command::Have { .. }
        | Command::Limit { .. }
        | Command::List { .. }
        | Command::Listing { .. }
        | Command::Supply { .. }
        | Command::Verified { .. } => {
            panic!("unexpected")
        }
    });
    let directory = Directory::open(place.path()).unwrap();
    let once = ReceiveOptions {
        once: true,
        ..ReceiveOptions::default()
    };
    let error =
        receive_through(&handle, &directory, &once, |_| (), &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_receiver_binds_what_it_can() {
    let place = tempfile::tempdir().unwrap();
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let receiver = Receiver::bind(place.path(), any, ReceiveOptions::default()).unwrap();
    let taken = Receiver::bind(
        place.path(),
        receiver.local_addr(),
        ReceiveOptions::default(),
    )
    .unwrap_err();
    assert!(taken.advice().contains("another port"), "{taken}");
    let nowhere = Receiver::bind(
        &place.path().join("nowhere"),
        any,
        ReceiveOptions::default(),
    )
    .unwrap_err();
    assert_eq!(nowhere.exit_code(), 1);
    assert_eq!(
        receiver.run(|_| (), &AtomicBool::new(true)).unwrap(),
        Tally::default()
    );
}
