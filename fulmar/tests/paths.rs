//! `--parallel` and `serve --threads`: the real binary over loopback, through a relay that tells flows apart and kills
//! one of them (HP-UDP 18.9).
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use common::{End, fulmar, inbox, names_in, random_file, same};

const SIZE: u64 = 12_000_000;

/// A daemon that tells where it is.
fn serve(dir: &Path, options: &[&str]) -> (End, String) {
    let mut command = fulmar();
    command.arg("serve").arg(dir).arg("--allow-put");
    command.args(["--listen", "127.0.0.1:0", "--drain", "2s"]);
    let mut end = End::spawn(command.args(options));
    let ready = end.wait_for("ready");
    (end, ready["listen"].as_str().unwrap().to_owned())
}

fn put(file: &Path, to: &str, options: &[&str]) -> End {
    let mut command = fulmar();
    command.arg("put").arg(file).arg(to);
    End::spawn(command.args(options))
}

fn get(name: &str, from: &str, into: &Path, options: &[&str]) -> End {
    let mut command = fulmar();
    command
        .arg("get")
        .arg(from)
        .arg(name)
        .arg("--into")
        .arg(into);
    End::spawn(command.args(options))
}

/// One flow through the relay.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// Bytes each way: from the client, and to it.
    bytes: [u64; 2],
    /// Datagrams that it lost.
    dropped: u64,
}

/// Everything that passes, flow by flow in the order of their first packets; and when which one dies.
#[derive(Debug, Default)]
struct Flows {
    all: Vec<Flow>,
    dies: Option<(usize, u64)>,
}

impl Flows {
    /// Books a datagram; whether it passes.
    fn pass(&mut self, flow: usize, way: usize, len: usize) -> bool {
        let total: u64 = self.all.iter().flat_map(|it| it.bytes).sum();
        let dead = self
            .dies
            .is_some_and(|(which, after)| which == flow && total > after);
        let flow = &mut self.all[flow];
        flow.dropped += u64::from(dead);
        flow.bytes[way] += if dead { 0 } else { len as u64 };
        !dead
    }
}

/// A relay to `daemon`, at an address of loopback with this number. Each source address has a socket of its own there, as behind a NAT.
fn relay(number: u8, daemon: &str, dies: Option<(usize, u64)>) -> (String, Arc<Mutex<Flows>>) {
    let daemon: SocketAddr = daemon.parse().unwrap();
    // At the same port, because a daemon names its port to who puts (4.5.4).
    let at = SocketAddr::from(([127, 0, 0, number], daemon.port()));
    let outside = Arc::new(UdpSocket::bind(at).unwrap());
    let address = outside.local_addr().unwrap().to_string();
    let flows = Arc::new(Mutex::new(Flows {
        all: Vec::new(),
        dies,
    }));
    let known = Arc::clone(&flows);
    thread::spawn(move || {
        let mut inside: BTreeMap<SocketAddr, (usize, Arc<UdpSocket>)> = BTreeMap::new();
        let mut room = [0; 2000];
        while let Ok((len, from)) = outside.recv_from(&mut room) {
            let (flow, socket) = inside.entry(from).or_insert_with(|| {
                let mut flows = known.lock().unwrap();
                flows.all.push(Flow::default());
                let flow = flows.all.len() - 1;
                let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
                socket.connect(daemon).unwrap();
                let (back, outside) = (Arc::clone(&socket), Arc::clone(&outside));
                let known = Arc::clone(&known);
                thread::spawn(move || {
                    let mut room = [0; 2000];
                    while let Ok(len) = back.recv(&mut room) {
                        if known.lock().unwrap().pass(flow, 1, len) {
                            let _ = outside.send_to(&room[..len], from);
                        }
                    }
                });
                (flow, socket)
            });
            if known.lock().unwrap().pass(*flow, 0, len) {
                let _ = socket.send(&room[..len]);
            }
        }
    });
    (address, flows)
}

/// Slow enough for a relay in a test.
const PACE: [&str; 2] = ["--max-rate", "100M"];

/// A put and a get through three sockets; what each flow carried of the data.
fn both_ways(dies: Option<(usize, u64)>, mut look: impl FnMut(&str, &[Flow], usize)) {
    let place = tempfile::tempdir().unwrap();
    let shelf = inbox(place.path(), "shelf");
    let (daemon, at) = serve(&shelf, &["--bwlimit", "100M"]);
    let file = random_file(&place.path().join("mine"), SIZE, 1);
    let (address, flows) = relay(2, &at, dies);
    let ended = put(&file, &address, &[&PACE[..], &["--parallel", "3"]].concat()).finish();
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    assert!(same(&file, &shelf.join("mine")));
    assert!(ended.all("one_socket").is_empty());
    look("put", &flows.lock().unwrap().all, 0);

    let into = inbox(place.path(), "in");
    let (address, flows) = relay(3, &at, dies);
    let ended = get("mine", &address, &into, &["--parallel", "3"]).finish();
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    assert!(same(&file, &into.join("mine")));
    assert!(ended.all("one_socket").is_empty());
    look("get", &flows.lock().unwrap().all, 1);
    daemon.stop();
}

#[test]
fn a_file_goes_through_several_ports_both_ways() {
    both_ways(None, |verb, flows, way| {
        assert_eq!(flows.len(), 3, "{verb}");
        let shares = flows.iter().map(|it| it.bytes[way]);
        assert!(shares.min().unwrap() > SIZE / 12, "{verb}: {flows:?}");
    });
}

#[test]
fn a_port_that_dies_is_left_and_the_file_arrives() {
    for dies in [0, 1] {
        both_ways(Some((dies, SIZE / 4)), |verb, flows, _| {
            let dropped = flows[dies].dropped;
            // Of some 8,700 datagrams half would have left after its death, and a third of them by it.
            assert!(dropped > 0 && dropped < 1000, "{verb}: {flows:?}");
        });
    }
}

#[test]
fn whoever_cannot_use_several_sockets_is_told_once() {
    let place = tempfile::tempdir().unwrap();
    let shelf = inbox(place.path(), "shelf");
    let (daemon, at) = serve(&shelf, &[]);
    let (address, flows) = relay(2, &at, None);
    let file = random_file(&place.path().join("mine"), 1_000_000, 1);
    let ended = put(&file, &address, &["--parallel", "3", "--plain"]).finish();
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    assert_eq!(ended.all("one_socket").len(), 1, "{ended:#?}");
    assert_eq!(flows.lock().unwrap().all.len(), 1);
    let into = inbox(place.path(), "in");
    let ended = get("mine", &address, &into, &["--parallel", "3", "--plain"]).finish();
    assert_eq!(ended.all("one_socket").len(), 1, "{ended:#?}");
    assert!(same(&file, &into.join("mine")));
    daemon.stop();
}

#[test]
fn twenty_at_once_are_served_by_four_threads() {
    let place = tempfile::tempdir().unwrap();
    let (shelf, into) = (inbox(place.path(), "shelf"), inbox(place.path(), "in"));
    let (daemon, at) = serve(&shelf, &["--threads", "4", "--watch"]);
    let file = |name: String, seed| random_file(&place.path().join(name), 2_000_000, seed);
    let mine: Vec<_> = (0..10).map(|n| file(format!("mine {n}"), n)).collect();
    let there: Vec<_> = (0..10)
        .map(|n| {
            let name = format!("there {n}");
            random_file(&shelf.join(&name), 2_000_000, 100 + n);
            name
        })
        .collect();
    let parallel = |n: usize| ["1", "3"][n % 2];
    let puts: Vec<_> = mine
        .iter()
        .enumerate()
        .map(|(n, file)| put(file, &at, &["--parallel", parallel(n)]))
        .collect();
    let gets: Vec<_> = there
        .iter()
        .enumerate()
        .map(|(n, name)| get(name, &at, &into, &["--parallel", parallel(n)]))
        .collect();
    for end in puts.into_iter().chain(gets) {
        let ended = end.finish();
        assert_eq!(ended.code(), Some(0), "{ended:#?}");
    }
    for (n, file) in mine.iter().enumerate() {
        assert!(same(file, &shelf.join(format!("mine {n}"))));
    }
    for name in &there {
        assert!(same(&shelf.join(name), &into.join(name)));
    }

    // One name is one file's, whichever threads they come to: one is stored whole, the others are refused.
    let rivals: Vec<_> = (0..6)
        .map(|n| {
            let dir = inbox(place.path(), &format!("rival {n}"));
            random_file(&dir.join("one"), 3_000_000, 200 + n)
        })
        .collect();
    let ends: Vec<_> = rivals.iter().map(|file| put(file, &at, &[])).collect();
    let codes: Vec<_> = ends.into_iter().map(|it| it.finish().code()).collect();
    let won: Vec<_> = (0..6).filter(|n| codes[*n] == Some(0)).collect();
    assert_eq!(won.len(), 1, "{codes:?}");
    assert!(
        codes.iter().all(|it| matches!(it, Some(0 | 6))),
        "{codes:?}"
    );
    assert!(same(&rivals[won[0]], &shelf.join("one")));
    let told = daemon.stop();
    assert_eq!(told.code(), Some(0));
    assert_eq!(told.all("ready").len(), 1);
    assert_eq!(told.all("done").len(), 21);
    // What the others brought may go on later.
    let shown = names_in(&shelf);
    let shown = shown.iter().filter(|it| !common::is_partial(it));
    assert_eq!(shown.count(), 21);
}

#[test]
fn an_address_is_shared_with_nobody_else() {
    let place = tempfile::tempdir().unwrap();
    let shelf = inbox(place.path(), "shelf");
    let (daemon, at) = serve(&shelf, &["--threads", "2"]);
    for threads in ["1", "2"] {
        let mut second = fulmar();
        second.arg("serve").arg(&shelf).args(["--listen", &at]);
        let ended = End::spawn(second.args(["--threads", threads])).finish();
        ended.failed_with(1, "in use");
    }
    let mut limited = fulmar();
    limited.arg("serve").arg(&shelf);
    let ended = End::spawn(limited.args(["--threads", "2", "--bwlimit", "5M"])).finish();
    assert_eq!(ended.code(), Some(2));
    assert!(ended.said.contains("--bwlimit"), "{ended:#?}");
    fs::write(shelf.join("x"), "x").unwrap();
    daemon.stop();
}
