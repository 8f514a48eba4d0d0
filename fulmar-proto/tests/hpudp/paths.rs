//! One session over several paths: different delays, losses, one that is dead or dies, rebinding ports, and peers that
//! know nothing of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::{A, B, Pair, link, seed};
use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{Config, Counter};
use fulmar_proto::sim::{LinkConfig, LinkId, Loss, NodeId, Rng};

const SIZE: u64 = 20_000_000;
const LIMIT: Duration = Duration::from_secs(60);

fn client(sockets: u8) -> Config {
    Config {
        sockets,
        ..Config::default()
    }
}

fn socket(node: SocketAddr, number: u8) -> SocketAddr {
    SocketAddr::new(node.ip(), 40_000 + u16::from(number))
}

/// A client with as many sockets as there are links, that puts or gets a file.
struct Several {
    pair: Pair,
    /// Of the client's sockets, towards the peer and back.
    links: Vec<(LinkId, LinkId)>,
    get: bool,
}

impl Several {
    fn new(get: bool, links: &[(LinkConfig, LinkConfig)]) -> Self {
        Self::with(get, links, client(links.len() as u8), Config::default())
    }

    fn with(get: bool, links: &[(LinkConfig, LinkConfig)], client: Config, daemon: Config) -> Self {
        let seed = seed(7);
        let start = Instant::now();
        let mut rng = Rng::new(seed ^ 0x5eed);
        let configs = if get {
            (daemon, client)
        } else {
            (client, daemon)
        };
        let mut host = |config| crate::common::Host::fulmar(start, config, &mut rng);
        let hosts = (host(configs.0), host(configs.1));
        let (up, down) = links[0].clone();
        let first = if get { (down, up) } else { (up, down) };
        let mut pair = Pair::new(start, seed, hosts, first, SIZE);
        pair.apps.serving = get;
        let (at, node, peer) = if get {
            (B, pair.b, pair.a)
        } else {
            (A, pair.a, pair.b)
        };
        let mut all = vec![if get {
            (pair.down, pair.up)
        } else {
            (pair.up, pair.down)
        }];
        for (number, link) in (1..).zip(&links[1..]) {
            let addr = socket(at, number);
            all.push(pair.net.add_socket(node, addr, peer, link.clone()));
        }
        Self {
            pair,
            links: all,
            get,
        }
    }

    fn begin(&mut self, encrypt: bool) -> &mut Self {
        match self.get {
            true => self.pair.pull(encrypt),
            false => self.pair.push(encrypt),
        }
        self
    }

    fn done(&mut self, what: &str) -> Duration {
        self.pair.finish(LIMIT);
        self.pair.assert_done(what);
        self.pair.net.elapsed()
    }

    /// The client, the daemon and the client's host, both watched.
    fn ends(&mut self) -> (NodeId, NodeId, SocketAddr) {
        let (client, daemon, host) = match self.get {
            true => (self.pair.b, self.pair.a, B),
            false => (self.pair.a, self.pair.b, A),
        };
        for node in [client, daemon] {
            self.pair.net.node_mut(node).tapping = true;
        }
        (client, daemon, host)
    }

    /// Datagrams of data that each path was offered.
    fn shares(&self) -> Vec<u64> {
        let data = |&(there, back): &(LinkId, LinkId)| if self.get { back } else { there };
        let offered = |it| self.pair.net.link(it).stats().offered;
        self.links.iter().map(|it| offered(data(it))).collect()
    }
}

fn both(mbit: u64, rtt_ms: u64, loss: f64) -> (LinkConfig, LinkConfig) {
    let link = link(mbit, rtt_ms, loss);
    (link.clone(), link)
}

fn dead_from(mut link: LinkConfig, from: Duration) -> LinkConfig {
    link.outages.push(from..Duration::MAX);
    link
}

/// Four paths of 50 Mbit/s carry more than three of them could, and nothing is taken for lost.
#[test]
fn several_paths_carry_their_sum() {
    for get in [false, true] {
        let wide = Several::new(get, &[both(200, 40, 0.0)])
            .begin(true)
            .done("one");
        let mut it = Several::new(get, &vec![both(50, 40, 0.0); 4]);
        let took = it.begin(true).done("four");
        println!(
            "{wide:?} {took:?} {:?} {:?}",
            it.shares(),
            it.pair.apps.sender
        );
        assert!(
            took < wide * 5 / 4,
            "{took:?}, one of their sum {wide:?}, get: {get}"
        );
        let shares = it.shares();
        let most = shares.iter().max().unwrap();
        assert!(shares.iter().all(|it| it * 3 > *most), "{shares:?}");
    }
}

/// Packets of the slow paths come after those of the fast ones that left later. None of them is lost, and so none is sent
/// again.
#[test]
fn different_delays_are_no_loss() {
    for get in [false, true] {
        let links = [10, 60, 25, 110].map(|rtt| both(50, rtt, 0.0));
        let mut it = Several::new(get, &links);
        it.begin(true).done("delays");
        let sender = it.pair.apps.sender;
        let dropped: u64 = it
            .links
            .iter()
            .flat_map(|(there, back)| [there, back])
            .map(|link| it.pair.net.link(*link).stats())
            .map(|stats| stats.offered - stats.delivered)
            .sum();
        assert!(
            sender.retransmitted <= 2 * dropped + sender.data / 200,
            "{} of {} again, {dropped} dropped, get: {get}",
            sender.retransmitted,
            sender.data
        );
        assert!(sender.loss < 0.02, "{sender:?}");
    }
}

#[test]
fn a_path_that_loses_costs_its_own_losses() {
    for get in [false, true] {
        let links = [0.0, 0.05, 0.0].map(|loss| both(50, 30, loss));
        let mut it = Several::new(get, &links);
        let took = it.begin(true).done("one loses");
        let rate = SIZE as f64 * 8.0 / took.as_secs_f64() / 1e6;
        assert!(rate > 75.0, "{rate} Mbit/s, get: {get}");
    }
}

/// One that was never there is tried by single packets, and costs nothing more.
#[test]
fn a_path_that_is_dead_from_the_start_gets_no_share() {
    for get in [false, true] {
        for dead in [1, 3] {
            let mut links = vec![both(50, 30, 0.0); 4];
            let (there, back) = links[dead].clone();
            links[dead] = (
                dead_from(there, Duration::ZERO),
                dead_from(back, Duration::ZERO),
            );
            let mut it = Several::new(get, &links);
            let took = it.begin(true).done("dead");
            let shares = it.shares();
            let looks = 10 + took.as_millis() as u64 / 400;
            assert!(
                shares[dead] <= looks + 4,
                "{shares:?} in {took:?}, get: {get}"
            );
        }
    }
}

/// Any of them dies in the middle, in one direction or both: it is left, and the rest goes on over the others.
#[test]
fn a_path_that_dies_is_left() {
    for get in [false, true] {
        for dies in 0..3 {
            for directions in [(true, true), (true, false), (false, true)] {
                let mut links = vec![both(50, 30, 0.0); 3];
                let (there, back) = &mut links[dies];
                let from = Duration::from_millis(700);
                if directions.0 {
                    *there = dead_from(there.clone(), from);
                }
                if directions.1 {
                    *back = dead_from(back.clone(), from);
                }
                let mut it = Several::new(get, &links);
                let what = format!("path {dies} dies, {directions:?}, get: {get}");
                let took = it.begin(true).done(&what);
                let sender = it.pair.apps.sender;
                assert!(took < Duration::from_secs(8), "{what}: {took:?}");
                // Its share of what leaves in the time in which it is noticed: a third of 150 Mbit/s in 300 ms.
                assert!(
                    sender.retransmitted < 1600,
                    "{what}: {} again",
                    sender.retransmitted
                );
            }
        }
    }
}

/// And one that comes back is used again.
#[test]
fn a_path_that_comes_back_is_used_again() {
    for get in [false, true] {
        let mut links = vec![both(20, 30, 0.0); 3];
        let gone = Duration::from_millis(500)..Duration::from_millis(1500);
        links[1].0.outages.push(gone.clone());
        links[1].1.outages.push(gone);
        let mut it = Several::new(get, &links);
        it.begin(true).done("back");
        let shares = it.shares();
        assert!(shares[1] * 3 > shares[0], "{shares:?}, get: {get}");
    }
}

/// A plain session, a peer of one path, one without the extension: one socket is used, and the application knows.
#[test]
fn where_it_cannot_be_one_path_is_used() {
    let old = Config {
        extensions: false,
        ..Config::default()
    };
    for get in [false, true] {
        for (encrypt, daemon) in [(false, Config::default()), (true, old.clone())] {
            let links = vec![both(50, 30, 0.0); 3];
            let mut it = Several::with(get, &links, client(3), daemon);
            it.begin(encrypt).done("one");
            assert_eq!(it.shares()[1..], [0, 0], "get: {get}");
            assert_eq!(it.pair.apps.paths, Some(false));
        }
        let mut it = Several::new(get, &vec![both(50, 30, 0.0); 3]);
        it.begin(true).done("three");
        assert_eq!(it.pair.apps.paths, Some(true));
        let mut it = Several::new(get, &[both(50, 30, 0.0)]);
        it.begin(true).done("has one");
        assert_eq!(it.pair.apps.paths, Some(false));
    }
}

/// What came by one path and is said again from another address, of the same host or any other, draws nothing there:
/// only its first coming shows a path. Who forges it draws nothing either.
#[test]
fn copies_and_forgeries_from_elsewhere_draw_nothing() {
    for get in [false, true] {
        // Nothing is lost and nothing waits: each copy comes after what it is a copy of.
        let slow = |config| Config {
            max_rate: Some(Bitrate::from_bits_per_sec(20_000_000)),
            ..config
        };
        let links = vec![both(50, 30, 0.0); 2];
        let mut it = Several::with(get, &links, slow(client(2)), slow(Config::default()));
        let (speaker, target, host) = it.ends();
        it.begin(true);
        let elsewhere = [
            SocketAddr::new(host.ip(), 777),
            SocketAddr::from(([203, 0, 113, 5], 777)),
        ];
        let (mut copied, mut next) = (0, Duration::ZERO);
        it.pair.run_until(Duration::from_secs(1), |it| {
            if it.net.elapsed() < next {
                return false;
            }
            next = it.net.elapsed() + Duration::from_millis(20);
            let arrived = it.net.elapsed().saturating_sub(Duration::from_millis(50));
            let sent = it.net.node(speaker).sent.iter();
            // A request from elsewhere is another client's.
            let sent = sent.filter(|it| !matches!(it.bytes[0], 0 | 7 | 8));
            let sent = sent.filter(|it| it.at < arrived);
            let sent: Vec<_> = sent.skip(copied).take(100).cloned().collect();
            copied += sent.len();
            for sent in sent {
                let mut forged = sent.bytes.clone();
                let last = forged.len() - 1;
                forged[last] ^= 1;
                for from in elsewhere {
                    it.net.inject(target, from, &sent.bytes);
                    it.net.inject(target, from, &forged);
                }
            }
            false
        });
        it.done("copies");
        assert!(copied > 20, "{copied}");
        let host = it.pair.net.node(target);
        for from in elsewhere {
            assert!(
                host.sent.iter().all(|it| it.to != from),
                "{from}, get: {get}"
            );
        }
        assert!(host.count(Counter::Refused) > 0);
    }
}

/// Somebody who sees a packet and is faster than it can show another port of the same host as a path. What that port
/// draws stays within three times what it sent, unless the peer says that it arrived there.
#[test]
fn a_path_that_is_not_there_draws_no_more_than_it_paid_for() {
    let mut it = Several::new(true, &vec![both(50, 30, 0.0); 2]);
    let (speaker, target, host) = it.ends();
    it.begin(true);
    let victim = SocketAddr::new(host.ip(), 777);
    let (mut seen, mut paid) = (0, 0);
    it.pair.run_until(Duration::from_secs(1), |it| {
        let sent: Vec<_> = it.net.node(speaker).sent[seen..].to_vec();
        seen += sent.len();
        for sent in sent
            .into_iter()
            .filter(|it| it.bytes[0] == crate::common::kind::HEARTBEAT)
        {
            paid += sent.bytes.len();
            it.net.inject(target, victim, &sent.bytes);
        }
        false
    });
    it.done("faster than the truth");
    let sent = &it.pair.net.node(target).sent;
    let drawn = sent.iter().filter(|it| it.to == victim);
    let drawn: usize = drawn.map(|it| it.bytes.len()).sum();
    assert!(drawn > 0 && drawn <= 3 * paid, "{drawn} for {paid}");
    // Tries of a path that shows nothing become rare.
    assert!(drawn <= 20 * 1400, "{drawn}");
}

/// The links differ in everything, and lose: all bytes arrive, whatever the seed.
#[test]
fn any_mixture_of_paths_carries_the_file() {
    for seed in 0..12u64 {
        let mut rng = Rng::new(seed);
        let count = 2 + rng.next_u64() % 4;
        let links: Vec<_> = (0..count)
            .map(|_| {
                let mut link = link(
                    10 + rng.next_u64() % 90,
                    2 + rng.next_u64() % 150,
                    (rng.next_u64() % 20) as f64 / 100.0,
                );
                link.reorder = 0.0;
                if rng.next_u64().is_multiple_of(3) {
                    link.loss = Loss::None;
                }
                (link.clone(), link)
            })
            .collect();
        let mut it = Several::new(seed % 2 == 0, &links);
        it.begin(true).done(&format!("seed {seed}"));
    }
}
