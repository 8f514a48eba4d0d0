//! Receiving.

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use fulmar_proto::hpudp::{Command, Event, Failure, Reason, Tag, Via};
use xxhash_rust::xxh64::xxh64;

use super::super::recv::receive_through;
use super::super::{Kind, ReceiveOptions, Receiver, Tally, Update};
use super::{Toy, bytes, end, peer, put, run};
use crate::driver::Handle;
use crate::file::{Directory, FinishError};

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
