//! The real binary among strangers: noise at both sockets, names that mean harm, offers by the thousand. Whatever they
//! send, the honest file arrives, and nothing happens outside the directory or to what is in it.
//!
//! The packets are made by hand from the specification, so that nothing here trusts what it tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fulmar_proto::sim::Rng;
use xxhash_rust::xxh64::xxh64;

use common::{
    LIMIT, Receiver, both_done, inbox, is_partial, names_in, random_file, same, send, tree,
};

// Noise.

#[test]
fn noise_at_both_sockets_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let source = random_file(&place.path().join("f"), 16_000_000, 1);
    let receiver = Receiver::start(&into, &["--once"]);
    let tap = Tap::new(receiver.address.parse().unwrap());
    let over = AtomicBool::new(false);
    let (sent, received, noise) = thread::scope(|scope| {
        scope.spawn(|| tap.carry(0, &over));
        scope.spawn(|| tap.carry(1, &over));
        let noise = scope.spawn(|| tap.disturb(200_000, 7, &over));
        let to = tap.sockets[0].local_addr().unwrap().to_string();
        let sender = send(&[&source], &to, &["--max-rate", "32M"]);
        let raised = Raised(&over);
        let sent = sender.finish();
        drop(raised);
        assert_eq!(sent.code(), Some(0), "{sent:#?}");
        let received = receiver.end.finish();
        (sent, received, noise.join().unwrap())
    });
    println!(
        "{noise} datagrams of noise, sender {} KiB, receiver {} KiB",
        sent.peak, received.peak
    );
    assert_eq!(received.code(), Some(0), "{sent:#?} {received:#?}");
    assert!(same(&source, &into.join("f")));
    assert_eq!(names_in(&into), ["f"]);
    assert!(noise > 20_000, "only {noise} datagrams of noise");
    assert!(sent.peak < 160 << 10 && received.peak < 64 << 10);
}

/// Raises a flag when it goes out of scope, so that a failure ends the threads that look at it.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Stands between a sender and a receiver, carries what they say, and listens. Side 0 faces the sender.
struct Tap {
    sockets: [UdpSocket; 2],
    peers: [Mutex<Option<SocketAddr>>; 2],
    heard: Mutex<Heard>,
}

/// The first packets that went by, and the latest ones.
#[derive(Default)]
struct Heard {
    first: Vec<Vec<u8>>,
    latest: VecDeque<Vec<u8>>,
}

impl Tap {
    fn new(receiver: SocketAddr) -> Self {
        let socket = || {
            let socket = stranger();
            socket
                .set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            socket
        };
        Self {
            sockets: [socket(), socket()],
            peers: [Mutex::new(None), Mutex::new(Some(receiver))],
            heard: Mutex::default(),
        }
    }

    /// Carries what arrives at one side to the other.
    fn carry(&self, side: usize, over: &AtomicBool) {
        let mut buf = [0; 2000];
        while !over.load(Relaxed) {
            let Ok((len, from)) = self.sockets[side].recv_from(&mut buf) else {
                continue;
            };
            // Noise of this very test may arrive here too.
            let peer = *self.peers[side].lock().unwrap().get_or_insert(from);
            let Some(to) = *self.peers[1 - side].lock().unwrap() else {
                continue;
            };
            if peer == from {
                // In this order a copy may overtake what it repeats.
                self.heard.lock().unwrap().hear(&buf[..len]);
                let _ = self.sockets[1 - side].send_to(&buf[..len], to);
            }
        }
    }

    /// Sends up to `count` datagrams to both ends from ports of its own: garbage, packets with the number of the
    /// session, packets that went by with some damage, and such packets as they were. Says how many it were.
    fn disturb(&self, count: usize, seed: u64, over: &AtomicBool) -> usize {
        let mut rng = Rng::new(seed);
        let strangers: Vec<UdpSocket> = (0..8).map(|_| stranger()).collect();
        for number in 0..count {
            if over.load(Relaxed) {
                return number;
            }
            if number % 400 == 0 {
                thread::sleep(Duration::from_millis(4));
            }
            let bytes = self.heard.lock().unwrap().noise(&mut rng);
            let to = *self.peers[rng.below(2) as usize].lock().unwrap();
            if let Some(to) = to {
                let _ = strangers[rng.below(8) as usize].send_to(&bytes, to);
            }
        }
        count
    }
}

impl Heard {
    fn hear(&mut self, packet: &[u8]) {
        if self.first.len() < 16 {
            self.first.push(packet.to_vec());
        }
        if self.latest.len() == 128 {
            self.latest.pop_front();
        }
        self.latest.push_back(packet.to_vec());
    }

    fn noise(&self, rng: &mut Rng) -> Vec<u8> {
        let mut pick = |len: usize| rng.below(len.max(1) as u64) as usize;
        let (first, latest) = (pick(self.first.len()), pick(self.latest.len()));
        let heard = if pick(4) == 0 {
            self.first.get(first)
        } else {
            self.latest.get(latest)
        };
        let kind = pick(4);
        let mut bytes = heard.cloned().unwrap_or_default();
        match kind {
            0 => {
                let most = if pick(64) == 0 { 60_000 } else { 1500 };
                let len = pick(most);
                bytes.resize(len, 0);
                rng.fill(&mut bytes);
            }
            // The number of the session is bytes 1 to 4.
            1 if bytes.len() >= 32 => {
                rng.fill(&mut bytes[5..]);
                bytes[0] = rng.below(12) as u8;
                bytes.truncate(5 + rng.below(1396) as usize);
            }
            2 => {
                for _ in 0..=rng.below(6) {
                    let at = rng.below(bytes.len().max(1) as u64) as usize;
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << rng.below(8);
                    }
                }
                if rng.chance(0.3) {
                    bytes.truncate(rng.below(1400) as usize);
                }
            }
            _ => {}
        }
        bytes
    }
}

// Names.

#[test]
fn no_name_leaves_the_directory_or_replaces_a_file() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let outside = place.path().join("outside");
    fs::write(into.join("x"), "was here first").unwrap();
    fs::create_dir(into.join("sub")).unwrap();
    fs::write(into.join("sub/keep"), "kept").unwrap();
    symlink("../outside", into.join("link")).unwrap();
    symlink("..", into.join("up")).unwrap();
    let mut expected = tree(place.path());

    let absolute = outside.to_str().unwrap().to_owned();
    let backslashes = format!("..\\..\\{}", "windows\\win.ini");
    let (longest, longer) = ("n".repeat(255), "n".repeat(300));
    let cases: [(&[u8], Verdict); 33] = [
        (b"plain", Stored("plain")),
        (b"../x", Refused(EXISTS)),
        (b"../../../../../../escaped", Stored("escaped")),
        (b"/etc/fulmar-was-here", Stored("fulmar-was-here")),
        (absolute.as_bytes(), Stored("outside")),
        (b"a\0b", Stored("a")),
        (b"\0", Refused(INVALID)),
        (b"", Refused(INVALID)),
        (longest.as_bytes(), Stored(&longest)),
        (longer.as_bytes(), Refused(INVALID)),
        (b".", Refused(INVALID)),
        (b"..", Refused(INVALID)),
        (b"../..", Refused(INVALID)),
        (b"sub/..", Refused(INVALID)),
        (b"dir/", Refused(INVALID)),
        (b"/", Refused(INVALID)),
        (b".hidden", Stored(".hidden")),
        (b"...", Stored("...")),
        (backslashes.as_bytes(), Stored("win.ini")),
        (b"C:\\autoexec.bat", Stored("autoexec.bat")),
        (b"sub", Refused(EXISTS)),
        (b"sub/keep", Stored("keep")),
        (b"link", Refused(EXISTS)),
        (b"up/up/here", Stored("here")),
        (b"line\nfeed", Refused(INVALID)),
        (b"\x1b]0;owned\x07", Refused(INVALID)),
        (b"tab\there", Refused(INVALID)),
        (b"del\x7f", Refused(INVALID)),
        ("c1\u{9b}2J".as_bytes(), Refused(INVALID)),
        ("report\u{202e}fdp.exe".as_bytes(), Refused(INVALID)),
        ("iso\u{2066}lated".as_bytes(), Refused(INVALID)),
        (b"\xff\xfe", Refused(INVALID)),
        (b".plain.0123456789abcdef.part", Refused(INVALID)),
    ];
    let receiver = Receiver::start(&into, &[]);
    let to = receiver.address.parse().unwrap();
    for (number, (name, verdict)) in cases.iter().enumerate() {
        let content = [number as u8];
        let peer = Peer::new(to, 0x1000 + number as u32);
        let came = peer.offer(name, &content);
        assert_eq!(came, *verdict, "{}", name.escape_ascii());
        if let Stored(name) = verdict {
            expected.insert(into.join(name), content.to_vec());
        }
    }
    // Once more, now that all of them exist.
    for (number, (name, verdict)) in cases.iter().enumerate() {
        let peer = Peer::new(to, 0x2000 + number as u32);
        let again = match verdict {
            Stored(_) => Refused(EXISTS),
            Refused(reason) => Refused(*reason),
        };
        assert_eq!(peer.offer(name, b"!"), again, "{}", name.escape_ascii());
    }
    let received = receiver.end.stop();
    let tree: BTreeMap<PathBuf, Vec<u8>> = tree(place.path());
    assert_eq!(tree, expected);
    assert!(!Path::new("/etc/fulmar-was-here").exists());
    // What the terminal gets of all this is harmless.
    let harmful = received.said.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(harmful, None, "{}", received.said.escape_debug());
    assert!(!received.said.contains('\u{202e}'));
}

#[test]
fn of_two_files_with_one_name_the_first_whole_one_stays() {
    let place = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(place.path(), &[]);
    let to = receiver.address.parse().unwrap();
    let peers = [Peer::new(to, 1), Peer::new(to, 2)];
    for (peer, content) in peers.iter().zip([b"a", b"b"]) {
        assert_eq!(
            peer.request(b"twin", content),
            None,
            "both are welcome until one is there"
        );
    }
    let verdicts = [peers[0].chunk(b"a"), peers[1].chunk(b"b")];
    assert_eq!(verdicts, [None, Some(EXISTS)]);
    assert_eq!(names_in(place.path()), ["twin"]);
    assert_eq!(fs::read(place.path().join("twin")).unwrap(), b"a");
    receiver.end.stop();
}

// Offers.

#[test]
fn offers_by_the_thousand_make_no_files_and_keep_nobody_out_for_long() {
    let place = tempfile::tempdir().unwrap();
    let into = inbox(place.path(), "in");
    let source = random_file(&place.path().join("honest"), 2_000_000, 2);
    let receiver = Receiver::start(&into, &["--once"]);
    let to: SocketAddr = receiver.address.parse().unwrap();
    let strangers: Vec<UdpSocket> = (0..100).map(|_| stranger()).collect();
    let flood = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let name = format!("flood {number}");
            let offer = request(number, name.as_bytes(), 1 << 20, 7, number % 2 == 0);
            strangers[number as usize % 100]
                .send_to(&offer, to)
                .unwrap();
            if number % 50 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    };
    flood(0..2500);
    assert_eq!(names_in(&into), [""; 0]);
    let mut sender = send(&[&source], &receiver.address, &[]);
    flood(2500..5000);
    while sender.is_running() {
        for name in names_in(&into) {
            assert!(
                name == "honest" || is_partial(&name) && name.starts_with(".fulmar-"),
                "{name}"
            );
        }
        thread::sleep(Duration::from_millis(2));
    }
    let (_, received) = both_done(sender, receiver.end);
    let left_out = received.all("unsaid").into_iter();
    let left_out: u64 = left_out.filter_map(|event| event["count"].as_u64()).sum();
    assert!(
        received.all("connected").len() as u64 + left_out > 30,
        "the offers were believed"
    );
    assert_eq!(names_in(&into), ["honest"]);
    assert!(same(&source, &into.join("honest")));
    assert!(received.peak < 64 << 10, "{} KiB", received.peak);
}

// Packets by hand.

use Verdict::{Refused, Stored};

/// What became of a file that was offered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict<'a> {
    /// Under this name.
    Stored(&'a str),
    Refused(u8),
}

/// A sender of files of one chunk, in the clear.
struct Peer {
    socket: UdpSocket,
    to: SocketAddr,
    id: u32,
}

impl Peer {
    fn new(to: SocketAddr, id: u32) -> Self {
        let socket = stranger();
        socket
            .set_read_timeout(Some(Duration::from_millis(250)))
            .unwrap();
        Self { socket, to, id }
    }

    /// Sends a file; what became of it, by what the receiver says. Only the disk knows under which name.
    fn offer<'a>(&self, name: &'a [u8], content: &[u8]) -> Verdict<'a> {
        match self.request(name, content).or_else(|| self.chunk(content)) {
            Some(reason) => Refused(reason),
            None => Stored(base(name)),
        }
    }

    /// Asks until there is an answer; the reason if it is a refusal.
    fn request(&self, name: &[u8], content: &[u8]) -> Option<u8> {
        let hash = xxh64(content, 0);
        self.ask(
            &request(self.id, name, content.len() as u64, hash, false),
            HEARTBEAT,
        )
    }

    /// Sends the one chunk until the file is stored or refused.
    fn chunk(&self, content: &[u8]) -> Option<u8> {
        let mut packet = header(DATA, self.id, content.len(), END);
        packet[24..32].copy_from_slice(&(1u64 << 61 | 1).to_be_bytes());
        packet.extend_from_slice(content);
        let reason = self.ask(&packet, COMPLETE);
        self.socket
            .send_to(&header(ACK_CLOSE, self.id, 0, 0), self.to)
            .unwrap();
        reason
    }

    fn ask(&self, packet: &[u8], answer: u8) -> Option<u8> {
        let deadline = Instant::now() + LIMIT;
        let mut buf = [0; 2000];
        self.socket.send_to(packet, self.to).unwrap();
        while Instant::now() < deadline {
            let Ok(len) = self.socket.recv(&mut buf) else {
                self.socket.send_to(packet, self.to).unwrap();
                continue;
            };
            assert!(len >= 32 && buf[1..5] == self.id.to_be_bytes());
            if buf[0] == answer {
                return None;
            }
            if buf[0] == REJECT {
                return Some(buf[32]);
            }
        }
        panic!("no answer");
    }
}

/// SESSION_REQ (3.2), the terminator of its name counted.
fn request(id: u32, name: &[u8], size: u64, hash: u64, sealed: bool) -> Vec<u8> {
    let key: &[u8] = if sealed { &[9; 32] } else { &[] };
    let flags = if sealed { SEALED } else { 0 };
    let mut packet = header(SESSION_REQ, id, 20 + key.len() + name.len() + 1, flags);
    packet.extend_from_slice(&size.to_be_bytes());
    packet.extend_from_slice(&hash.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(key);
    packet.extend_from_slice(name);
    packet.push(0);
    packet
}

/// The fixed header (2.1) of the first chunk, or of a control packet.
fn header(kind: u8, id: u32, len: usize, flags: u8) -> Vec<u8> {
    let mut packet = vec![0; 32];
    packet[0] = kind;
    packet[1..5].copy_from_slice(&id.to_be_bytes());
    packet[21..23].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet[23] = flags;
    packet
}

/// What a careful receiver makes of a name.
fn base(name: &[u8]) -> &str {
    let name = name.split(|byte| *byte == 0).next().unwrap();
    let name = name.rsplit(|byte| b"/\\".contains(byte)).next().unwrap();
    str::from_utf8(name).unwrap()
}

fn stranger() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

const SESSION_REQ: u8 = 0x00;
const DATA: u8 = 0x01;
const HEARTBEAT: u8 = 0x03;
const REJECT: u8 = 0x04;
const COMPLETE: u8 = 0x05;
const ACK_CLOSE: u8 = 0x06;
const END: u8 = 0x01;
const SEALED: u8 = 0x04;
const EXISTS: u8 = 0x05;
const INVALID: u8 = 0xf0;
