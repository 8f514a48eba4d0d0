//! The real binary in network namespaces, over a link that really loses and delays.
//!
//! Needs root, `ip` and `/dev/net/tun`; without root it says so and does nothing.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{BINARY, End, Receiver, both_done, fulmar, inbox, random_file, same, skip};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

#[test]
fn a_file_crosses_a_link_that_loses_one_packet_in_twenty() {
    if !possible() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let file = random_file(&place.path().join("source"), SIZE, 5);
    let into = inbox(place.path(), "in");
    let link = Link::start(&["--rtt", "50ms", "--loss", "5%", "--rate", "100M"]);

    let listen = format!("{}:0", link.addresses[1]);
    let receiver = Receiver::start_with(link.inside(1), &listen, &into, &["--once"]);
    let to = receiver.address.clone();
    let mut command = link.inside(0);
    let sender = End::spawn(command.arg("send").arg(&file).arg(&to));
    let (sent, received) = both_done(sender, receiver.end);
    assert!(same(&file, &into.join("source")));

    // What the sender saw, what others see, and what the link says it did.
    let done = sent.all("done")[0];
    assert!(done["loss"].as_f64().unwrap() > 0.0, "{done}");
    let received = received.all("done")[0];
    let mended = ["repaired", "retransmitted"]
        .map(|name| received[name].as_u64().unwrap() + done[name].as_u64().unwrap());
    assert!(mended.iter().sum::<u64>() > 0, "{done} {received}");

    assert!(link.shortest_round_trip() >= Duration::from_millis(50));
    let gone = link.stop();
    let [up, down] = ["up", "down"].map(|way| {
        let count = |name: &str| gone[way][name].as_u64().unwrap();
        (count("offered"), count("lost"))
    });
    assert!(up.0 > SIZE / 1500, "{gone}");
    // Six standard deviations of a binomial(14 000, 0.05) are 155.
    let share = up.1 as f64 / up.0 as f64;
    assert!((0.039..0.061).contains(&share), "{gone}");
    assert!(down.0 > 0, "{gone}");
}

#[test]
fn what_a_killed_owner_left_is_removed_by_the_next() {
    if !possible() {
        return;
    }
    let killed = Link::start(&[]);
    let left = killed.names.clone();
    drop(killed);
    let next = Link::start(&[]);
    for name in left {
        assert!(!place_of(&name).exists(), "{name}");
    }
    let names = next.names.clone();
    assert!(names.iter().all(|name| place_of(name).exists()));
    next.stop();
    for name in names {
        assert!(!place_of(&name).exists(), "{name}");
    }
}

#[test]
fn the_table_has_a_row_for_everyone_over_every_link() {
    if !possible() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let drawing = place.path().join("table.svg");
    let mut bench = fulmar();
    bench.args([
        "bench", "net", "--rtt", "2ms,10ms", "--loss", "1%", "--rate", "200M",
    ]);
    bench.args([
        "--size",
        "2MB",
        "--peers",
        "fulmar-plain,tcp-cubic",
        "--svg",
    ]);
    let ended = End::spawn(bench.arg(&drawing)).finish();
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    let rows: Vec<_> = ended
        .all("row")
        .iter()
        .map(|row| (row["rtt_ms"].as_f64(), row["peer"].as_str()))
        .collect();
    let want =
        [2.0, 10.0].map(|rtt| ["fulmar-plain", "tcp-cubic"].map(|peer| (Some(rtt), Some(peer))));
    assert_eq!(rows, want.concat());
    for row in ended.all("row") {
        let run = &row["runs"][0];
        assert_eq!(
            (run["whole"].as_bool(), run["bytes"].as_u64()),
            (Some(true), Some(2_000_000))
        );
        let share = row["share"].as_f64().unwrap();
        assert!(
            share > 0.0 && share < 1.0,
            "no more than the link carries: {row}"
        );
    }
    for (link, rtt) in ended.all("link").iter().zip([2.0, 10.0]) {
        let probe = &link["probe"];
        assert!(probe["rtt_ms"].as_f64().unwrap() >= rtt, "{link}");
        assert!(
            probe["arrived"].as_u64() <= probe["sent"].as_u64(),
            "{link}"
        );
    }
    assert!(fs::read_to_string(&drawing).unwrap().starts_with("<svg "));
}

/// A running `fulmar bench link`. Dropped, it is killed.
struct Link {
    end: End,
    names: [String; 2],
    addresses: [String; 2],
}

impl Link {
    fn start(options: &[&str]) -> Self {
        let mut end = End::spawn(fulmar().args(["bench", "link"]).args(options));
        let ready = end.wait_for("ready");
        let both = |name: &str| [0, 1].map(|side| ready[name][side].as_str().unwrap().to_owned());
        Self {
            names: both("namespaces"),
            addresses: both("addresses"),
            end,
        }
    }

    /// The binary in one of the two namespaces, with the environment that it has elsewhere.
    fn inside(&self, side: usize) -> Command {
        let plain = fulmar();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[side], BINARY]);
        command.envs(
            plain
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command
    }

    /// The shortest round trip of a few datagrams between its ends.
    fn shortest_round_trip(&self) -> Duration {
        let [asking, echo] = [0, 1].map(|side| {
            let at = self.addresses[side].as_str();
            let socket = entered(&self.names[side], || UdpSocket::bind((at, 0)).unwrap());
            socket
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            socket
        });
        asking.connect(echo.local_addr().unwrap()).unwrap();
        let mut buf = [0];
        let round_trips = (0..20).filter_map(|number| {
            let start = Instant::now();
            asking.send(&[number]).unwrap();
            let (_, from) = echo.recv_from(&mut buf).ok()?;
            echo.send_to(&buf, from).unwrap();
            let answered = asking.recv(&mut buf).is_ok() && buf == [number];
            answered.then(|| start.elapsed())
        });
        round_trips.min().unwrap()
    }

    /// Ends it; what it says it did.
    fn stop(self) -> serde_json::Value {
        let ended = self.end.stop();
        assert_eq!(ended.code(), Some(0), "{ended:#?}");
        ended.all("gone")[0].clone()
    }
}

/// Whether namespaces can be had; says it where not.
fn possible() -> bool {
    if !rustix::process::geteuid().is_root() {
        // Not what `FULMAR_REQUIRE_PEERS=1` is about.
        let _ = writeln!(std::io::stderr(), "SKIPPED: network namespaces need root");
        return false;
    }
    let has_ip = Command::new("ip").arg("-V").output().is_ok();
    if !has_ip || !Path::new("/dev/net/tun").exists() {
        skip("network namespaces with a link between them need ip and /dev/net/tun");
        return false;
    }
    true
}

/// What `inside` makes in a network namespace.
fn entered<T: Send>(namespace: &str, inside: impl FnOnce() -> T + Send) -> T {
    let file = fs::File::open(place_of(namespace)).unwrap();
    thread::scope(|scope| {
        let visit = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            inside()
        });
        visit.join().unwrap()
    })
}

fn place_of(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

const SIZE: u64 = 20_000_000;
