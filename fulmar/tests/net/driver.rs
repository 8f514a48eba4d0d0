//! The driver on real loopback sockets, with a toy protocol.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use fulmar::driver::{self, Handle, NoEvent, NotTaken, Options, Socket, Stats, Stopped};
use fulmar_proto::crypto::{Nonce, Sealer, Suite};
use fulmar_proto::{Ecn, Endpoint, Meta, Transmit};

/// Sends what it is told, reports what it gets, and numbers events on demand.
#[derive(Debug, Default)]
struct Toy {
    echo: bool,
    /// Where what leaves leaves from: where the last datagram came to, if it echoes.
    socket: u8,
    queue: VecDeque<Outgoing>,
    told: VecDeque<Told>,
    numbers: std::ops::Range<u64>,
    timer: Option<Instant>,
    commands: u64,
}

type Outgoing = (SocketAddr, Option<IpAddr>, Vec<u8>, Option<usize>);

#[derive(Debug)]
enum Ask {
    Send {
        to: SocketAddr,
        from_ip: Option<IpAddr>,
        bytes: Vec<u8>,
        segment: Option<usize>,
    },
    Number(u64),
    Timer(Duration),
    Nothing,
    Panic,
}

#[derive(Debug, PartialEq)]
enum Told {
    Got {
        from: SocketAddr,
        to_ip: Option<IpAddr>,
        ecn: Option<Ecn>,
        bytes: Vec<u8>,
    },
    Number(u64),
    Fired,
}

impl Endpoint for Toy {
    type Command = Ask;
    type Event = Told;

    fn handle_datagram(&mut self, _: Instant, meta: Meta, payload: &mut [u8]) {
        let Meta {
            from,
            socket,
            to_ip,
            ecn,
        } = meta;
        if self.echo {
            self.socket = socket;
            self.queue.push_back((from, to_ip, payload.to_vec(), None));
        }
        self.told.push_back(Told::Got {
            from,
            to_ip,
            ecn,
            bytes: payload.to_vec(),
        });
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.timer.is_some_and(|at| at <= now) {
            self.timer = None;
            self.told.push_back(Told::Fired);
        }
    }

    fn handle_command(&mut self, now: Instant, command: Ask) {
        self.commands += 1;
        match command {
            Ask::Send {
                to,
                from_ip,
                bytes,
                segment,
            } => self.queue.push_back((to, from_ip, bytes, segment)),
            Ask::Number(count) => self.numbers.end += count,
            Ask::Timer(after) => self.timer = Some(now + after),
            Ask::Nothing => {}
            Ask::Panic => panic!("told to"),
        }
    }

    fn poll_transmit(&mut self, _: Instant, _: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (to, from_ip, bytes, segment) = self.queue.pop_front()?;
        buf.extend_from_slice(&bytes);
        Some(Transmit {
            to,
            socket: self.socket,
            from_ip,
            ecn: Some(Ecn::Ect0),
            len: bytes.len(),
            segment,
        })
    }

    fn poll_event(&mut self) -> Option<Told> {
        self.told
            .pop_front()
            .or_else(|| self.numbers.next().map(Told::Number))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.queue.is_empty() {
            self.timer
        } else {
            Some(long_ago())
        }
    }
}

/// An instant before every other of the test.
fn long_ago() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Its driver makes the system calls, so that what was sent is counted when the next event comes.
fn toy(at: SocketAddr) -> Handle<Toy> {
    toy_with(at, Toy::default(), OWN)
}

fn toy_with(at: SocketAddr, toy: Toy, options: Options) -> Handle<Toy> {
    driver::spawn_with(Socket::bind(at).unwrap(), toy, options).unwrap()
}

/// System calls by the loop, and by threads of their own, whatever this machine has.
const WAYS: [Options; 2] = [
    OWN,
    Options {
        offload: true,
        ..OWN
    },
];
const OWN: Options = Options {
    commands: 256,
    events: 256,
    gather: Duration::ZERO,
    offload: false,
};

fn next(handle: &Handle<Toy>) -> Told {
    handle
        .events()
        .recv_timeout(PATIENCE)
        .expect("an event within the time a broken machine needs")
}

/// Figures once everything commanded so far has been sent: a datagram can arrive before its sender has counted it.
fn settled(handle: &Handle<Toy>) -> Stats {
    handle.command(Ask::Number(1)).unwrap();
    assert!(matches!(next(handle), Told::Number(_)));
    handle.stats()
}

fn send(to: SocketAddr, bytes: &[u8]) -> Ask {
    Ask::Send {
        to,
        from_ip: None,
        bytes: bytes.to_vec(),
        segment: None,
    }
}

#[test]
fn several_sockets_are_told_apart_in_and_out() {
    let sockets: Vec<Socket> = (0..3).map(|_| Socket::bind(loopback()).unwrap()).collect();
    let at: Vec<SocketAddr> = sockets.iter().map(Socket::local_addr).collect();
    let mut sockets = sockets.into_iter();
    let toy = Toy {
        echo: true,
        ..Toy::default()
    };
    let (first, options) = (sockets.next().unwrap(), driver::Options::default());
    let several = driver::spawn_over(first, sockets.collect(), toy, options).unwrap();
    assert_eq!(several.local_addr(), at[0]);
    let near = self::toy(loopback());
    for round in 0..60u32 {
        let to = at[(round * round % 7 % 3) as usize];
        near.command(send(to, &round.to_be_bytes())).unwrap();
        let Told::Got { from, bytes, .. } = next(&near) else {
            panic!("not a datagram")
        };
        assert_eq!((from, bytes), (to, round.to_be_bytes().to_vec()));
    }
    let endpoint = several.close();
    // One that is not there sends nothing, and stops nothing.
    let lost = driver::spawn(
        Socket::bind(loopback()).unwrap(),
        Toy {
            socket: 9,
            ..Toy::default()
        },
    )
    .unwrap();
    lost.command(send(at[0], b"lost")).unwrap();
    assert_eq!(settled(&lost).send_errors, 1);
    drop(endpoint);
}

#[test]
fn a_datagram_goes_out_and_comes_back() {
    for way in WAYS {
        let near = toy(loopback());
        let echo = Toy {
            echo: true,
            ..Toy::default()
        };
        let far = toy_with(loopback(), echo, way);
        for round in 0..200u32 {
            near.command(send(far.local_addr(), &round.to_be_bytes()))
                .unwrap();
            let Told::Got {
                from,
                to_ip,
                ecn,
                bytes,
            } = next(&near)
            else {
                panic!("not a datagram")
            };
            assert_eq!(bytes, round.to_be_bytes());
            assert_eq!(
                (from, to_ip),
                (far.local_addr(), Some(Ipv4Addr::LOCALHOST.into()))
            );
            assert_eq!(ecn, Some(Ecn::Ect0));
        }
        let stats = settled(&near);
        assert_eq!((stats.datagrams_out, stats.datagrams_in), (200, 200));
        assert_eq!((stats.bytes_out, stats.bytes_in), (800, 800));
        assert_eq!(near.close().commands, 201, "200 sends and one to settle");
    }
}

/// Many batches from one offloaded driver to another, in order and whole, and both know how many.
#[test]
fn offloaded_drivers_lose_and_reorder_nothing() {
    let [_, way] = WAYS;
    let near = toy_with(loopback(), Toy::default(), way.clone());
    let far = toy_with(loopback(), Toy::default(), way);
    let to = far.local_addr();
    for round in 0..300u32 {
        let bytes = (0..30).flat_map(|i| (round * 30 + i).to_be_bytes());
        near.command(Ask::Send {
            to,
            from_ip: None,
            bytes: bytes.collect(),
            segment: Some(4),
        })
        .unwrap();
        for i in 0..30 {
            let Told::Got { bytes, .. } = next(&far) else {
                panic!("not a datagram")
            };
            assert_eq!(bytes, (round * 30 + i).to_be_bytes());
        }
    }
    assert_eq!(far.stats().datagrams_in, 9_000);
    let watcher = near.watcher();
    near.close();
    assert_eq!(watcher.stats().datagrams_out, 9_000);
}

#[test]
fn a_segmented_batch_arrives_as_its_datagrams() {
    let (near, far) = (toy(loopback()), toy(loopback()));
    let bytes: Vec<u8> = (0..40 * 1400 + 17u32).map(|i| (i % 251) as u8).collect();
    let to = far.local_addr();
    near.command(Ask::Send {
        to,
        from_ip: None,
        bytes: bytes.clone(),
        segment: Some(1400),
    })
    .unwrap();
    for expected in bytes.chunks(1400) {
        let Told::Got { bytes, .. } = next(&far) else {
            panic!("not a datagram")
        };
        assert!(bytes == expected);
    }
    assert_eq!(settled(&near).datagrams_out, 41);
}

#[test]
fn a_batch_the_kernel_refuses_goes_out_one_by_one_and_the_socket_remembers() {
    // No kernel takes 1000 segments in one send, whatever it says about segmentation.
    let (near, far) = (toy(loopback()), toy(loopback()));
    let to = far.local_addr();
    let bytes: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
    let ask = || Ask::Send {
        to,
        from_ip: None,
        bytes: bytes.clone(),
        segment: Some(10),
    };
    near.command(ask()).unwrap();
    for expected in bytes.chunks(10) {
        let Told::Got { bytes, ecn, .. } = next(&far) else {
            panic!("not a datagram")
        };
        assert!(bytes == expected);
        assert_eq!(ecn, Some(Ecn::Ect0), "the refusal must not cost the marks");
    }
    let stats = settled(&near);
    assert_eq!(
        (stats.datagrams_out, stats.batches_out, stats.send_errors),
        (1000, 1000, 0)
    );
    let small = Ask::Send {
        to,
        from_ip: None,
        bytes: vec![7; 30],
        segment: Some(10),
    };
    near.command(small).unwrap();
    for _ in 0..3 {
        next(&far);
    }
    assert_eq!(
        settled(&near).batches_out,
        1003,
        "segmentation is not tried again"
    );
}

#[test]
fn an_address_that_cannot_be_used_does_not_cost_segmentation() {
    let Ok(socket) = Socket::bind((Ipv6Addr::LOCALHOST, 0).into()) else {
        eprintln!("SKIPPED: no IPv6 on this machine");
        return;
    };
    let near = driver::spawn_with(socket, Toy::default(), OWN).unwrap();
    let far = toy((Ipv6Addr::LOCALHOST, 0).into());
    let elsewhere = Some("2001:db8::1".parse().unwrap());
    let to = far.local_addr();
    near.command(Ask::Send {
        to,
        from_ip: elsewhere,
        bytes: vec![1; 40],
        segment: Some(10),
    })
    .unwrap();
    near.command(Ask::Send {
        to,
        from_ip: elsewhere,
        bytes: vec![1; 10],
        segment: None,
    })
    .unwrap();
    near.command(Ask::Send {
        to,
        from_ip: None,
        bytes: vec![2; 40],
        segment: Some(10),
    })
    .unwrap();
    for _ in 0..4 {
        let Told::Got { bytes, .. } = next(&far) else {
            panic!("not a datagram")
        };
        assert_eq!(bytes, vec![2; 10]);
    }
    let stats = settled(&near);
    assert_eq!(
        (stats.send_errors, stats.datagrams_out, stats.batches_out),
        (5, 4, 1)
    );
}

#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_has_an_ipv4_address() {
    let Ok(socket) = Socket::bind((Ipv6Addr::UNSPECIFIED, 0).into()) else {
        eprintln!("SKIPPED: no IPv6 on this machine");
        return;
    };
    let port = socket.local_addr().port();
    let dual = driver::spawn(
        socket,
        Toy {
            echo: true,
            ..Toy::default()
        },
    )
    .unwrap();
    for (own, at) in [
        (loopback(), IpAddr::from(Ipv4Addr::LOCALHOST)),
        ("[::1]:0".parse().unwrap(), Ipv6Addr::LOCALHOST.into()),
    ] {
        let peer = toy(own);
        peer.command(send((at, port).into(), b"over here")).unwrap();
        let Told::Got { from, to_ip, .. } = next(&dual) else {
            panic!("not a datagram")
        };
        assert_eq!((from, to_ip), (peer.local_addr(), Some(at)));
        let Told::Got { from, bytes, .. } = next(&peer) else {
            panic!("not a datagram")
        };
        assert_eq!((from, bytes), ((at, port).into(), b"over here".to_vec()));
    }
}

#[test]
fn unreachable_peers_and_closed_ports_are_never_fatal() {
    let near = toy(loopback());
    let closed = UdpSocket::bind(loopback()).unwrap().local_addr().unwrap();
    let far = toy(loopback());
    for _ in 0..50 {
        near.command(send(closed, b"anybody?")).unwrap();
        near.command(send(
            "255.255.255.255:9".parse().unwrap(),
            b"no broadcast without asking",
        ))
        .unwrap();
        near.command(send("[2001:db8::1]:9".parse().unwrap(), b"wrong family"))
            .unwrap();
        near.command(send((Ipv4Addr::LOCALHOST, 0).into(), b"no port"))
            .unwrap();
    }
    near.command(send(far.local_addr(), b"still here")).unwrap();
    let Told::Got { bytes, .. } = next(&far) else {
        panic!("not a datagram")
    };
    assert_eq!(bytes, b"still here");
    let stats = settled(&near);
    assert!(stats.unreachable + stats.send_errors >= 100, "{stats:?}");
}

#[test]
fn a_full_event_channel_loses_nothing_and_stops_nothing() {
    for way in WAYS {
        let options = Options {
            events: 8,
            commands: 4,
            ..way
        };
        let near =
            driver::spawn_with(Socket::bind(loopback()).unwrap(), Toy::default(), options).unwrap();
        let far = toy(loopback());
        near.command(Ask::Number(5_000)).unwrap();
        // The channel is full and nobody reads, but commands and datagrams flow.
        for round in 0..100u8 {
            near.command(send(far.local_addr(), &[round])).unwrap();
            let Told::Got { bytes, .. } = next(&far) else {
                panic!("not a datagram")
            };
            assert_eq!(bytes, [round]);
        }
        for expected in 0..5_000 {
            if expected % 1000 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(next(&near), Told::Number(expected));
        }
        let stats = near.stats();
        assert!(stats.stalls > 0);
        assert!(stats.turns < 20_000, "the driver turned idly: {stats:?}");
    }
}

#[test]
fn an_idle_driver_sleeps() {
    for way in WAYS {
        let near = toy_with(loopback(), Toy::default(), way);
        near.command(Ask::Number(300)).unwrap();
        for _ in 0..300 {
            next(&near);
        }
        let before = near.stats().turns;
        thread::sleep(Duration::from_millis(50));
        assert!(near.stats().turns - before < 10, "{:?}", near.stats());
    }
}

#[test]
fn timers_fire() {
    let near = toy(loopback());
    for after in [0, 1, 3_000] {
        near.command(Ask::Timer(Duration::from_micros(after)))
            .unwrap();
        assert_eq!(next(&near), Told::Fired);
    }
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    for way in WAYS {
        // A lost one hangs this test: every command waits for an answer, and both channels hold one item.
        let options = Options {
            events: 1,
            commands: 1,
            ..way
        };
        let near =
            driver::spawn_with(Socket::bind(loopback()).unwrap(), Toy::default(), options).unwrap();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..3_000 {
                        near.command(Ask::Number(1)).unwrap();
                        assert!(matches!(next(&near), Told::Number(_)));
                    }
                });
            }
        });
        assert_eq!(near.close().commands, 9_000);
    }
}

#[test]
fn closing_handles_what_was_asked_and_ends_all_handles() {
    for way in WAYS {
        let near = toy_with(loopback(), Toy::default(), way);
        let far = toy(loopback());
        let (commands, events) = (near.commands().clone(), near.events().clone());
        near.command(send(far.local_addr(), b"last words")).unwrap();
        assert_eq!(near.close().commands, 1);
        let Told::Got { bytes, .. } = next(&far) else {
            panic!("not a datagram")
        };
        assert_eq!(bytes, b"last words");
        assert_eq!(commands.send(Ask::Nothing), Err(Stopped));
        assert!(matches!(
            commands.try_send(Ask::Nothing),
            Err(NotTaken::Stopped(Ask::Nothing))
        ));
        assert_eq!(events.recv(), Err(Stopped));
        assert_eq!(events.try_recv(), Err(NoEvent::Stopped));
    }
}

#[test]
fn dropping_frees_the_port() {
    for way in WAYS {
        let near = toy_with(loopback(), Toy::default(), way);
        let at = near.local_addr();
        assert!(UdpSocket::bind(at).is_err());
        drop(near);
        UdpSocket::bind(at).unwrap();
    }
}

#[test]
fn a_panic_of_the_endpoint_reaches_whoever_closes() {
    for way in WAYS {
        let near = toy_with(loopback(), Toy::default(), way);
        near.command(Ask::Panic).unwrap();
        assert_eq!(near.events().recv(), Err(Stopped));
        let panic =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| near.close())).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"told to"));
    }
}

#[test]
fn async_ends_need_no_runtime() {
    let (near, far) = (toy(loopback()), toy(loopback()));
    let got = block_on(async {
        near.command_async(send(far.local_addr(), b"async"))
            .await
            .unwrap();
        far.events().recv_async().await.unwrap()
    });
    assert!(matches!(got, Told::Got { bytes, .. } if bytes == b"async"));
}

#[test]
fn buffers_are_read_back() {
    let socket = Socket::bind(loopback()).unwrap();
    let granted = socket.buffers();
    assert!(
        granted.recv > 0 && granted.recv <= driver::BUFFER_WANTED,
        "{granted:?}"
    );
    assert!(
        granted.send > 0 && granted.send <= driver::BUFFER_WANTED,
        "{granted:?}"
    );
    assert_eq!(socket.datagrams() as usize, granted.recv / 1152);
}

#[test]
fn the_raw_limit_is_measured() {
    let limit = driver::raw_limit(Duration::from_millis(50)).unwrap();
    assert!(
        limit.received > 0 && limit.received <= limit.sent,
        "{limit:?}"
    );
    assert_eq!(limit.bytes, limit.received * 1400);
}

/// How close the driver comes to [`driver::raw_limit`], with and without gathering. Run with
/// `cargo test --release -p fulmar --test net -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement"]
fn measure_a_blast_through_two_drivers() {
    for _ in 0..2 {
        let limit = driver::raw_limit(Duration::from_secs(1)).unwrap();
        println!(
            "raw limit {}, {} segments, {:.1} merged, {:.1} % lost",
            limit.rate(),
            limit.segments,
            limit.merged,
            100.0 - 100.0 * limit.received as f64 / limit.sent as f64
        );
        for gather in [0, 50, 100] {
            let options = Options {
                gather: Duration::from_micros(gather),
                ..Options::default()
            };
            let far =
                driver::spawn_with(Socket::bind(loopback()).unwrap(), Blast::default(), options)
                    .unwrap();
            let near = driver::spawn(Socket::bind(loopback()).unwrap(), Blast::default()).unwrap();
            for rate in [1_000_000_000, 10_000_000_000, u64::MAX] {
                let (before, begin) = (far.stats(), Instant::now());
                let sent = near.stats();
                near.command((far.local_addr(), rate)).unwrap();
                thread::sleep(Duration::from_millis(700));
                near.command((far.local_addr(), 0)).unwrap();
                thread::sleep(Duration::from_millis(20));
                let (after, out, elapsed) =
                    (far.stats(), near.stats(), begin.elapsed().as_secs_f64());
                let got = (after.datagrams_in - before.datagrams_in) as f64;
                println!(
                    "gather {gather:>3} us, offered {:>5.1} Gbit/s: {:>5.2} Gbit/s, {:>4.1} % lost, {:.1} datagrams a turn, {:.1} a merged batch",
                    rate.min(999_000_000_000) as f64 / 1e9,
                    got * 1400.0 * 8.0 / elapsed / 1e9,
                    100.0 - 100.0 * got / (out.datagrams_out - sent.datagrams_out) as f64,
                    got / (after.turns - before.turns) as f64,
                    got / (after.batches_in - before.batches_in) as f64,
                );
            }
        }
    }
}

/// What threads for the system calls gain one side: a loop that seals every packet sends to a socket that nobody reads.
#[test]
#[ignore = "a measurement"]
fn measure_a_sealing_sender_alone() {
    let sink = UdpSocket::bind(loopback()).unwrap();
    let to = sink.local_addr().unwrap();
    for _ in 0..5 {
        for options in WAYS {
            let way = if options.offload { "offloaded" } else { "own" };
            let sealing = Sealing {
                to,
                sealer: Sealer::new(Suite::Aes128Gcm, &[7; 16]).unwrap(),
                plaintext: vec![7; 24 * 100 * 1352],
                sealed: 0,
            };
            let near =
                driver::spawn_with(Socket::bind(loopback()).unwrap(), sealing, options).unwrap();
            let (before, begin) = (near.stats(), Instant::now());
            thread::sleep(Duration::from_secs(1));
            let (after, elapsed) = (near.stats(), begin.elapsed().as_secs_f64());
            let bytes = (after.bytes_out - before.bytes_out) as f64;
            println!("{way:>9}: {:.2} Gbit/s", bytes * 8e-9 / elapsed);
        }
    }
}

/// Full batches of sealed packets, as fast as it can, forever.
#[derive(Debug)]
struct Sealing {
    to: SocketAddr,
    sealer: Sealer,
    plaintext: Vec<u8>,
    sealed: u64,
}

impl Endpoint for Sealing {
    type Command = ();
    type Event = ();

    fn handle_datagram(&mut self, _: Instant, _: Meta, _: &mut [u8]) {}

    fn handle_timeout(&mut self, _: Instant) {}

    fn handle_command(&mut self, _: Instant, (): ()) {}

    fn poll_transmit(&mut self, _: Instant, max: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        for _ in 0..max {
            let chunks = self.plaintext.len() / 1352;
            let at = (self.sealed % chunks as u64) as usize * 1352;
            let head = [3; 32];
            let mut nonce = Nonce([0; 12]);
            nonce.0[..8].copy_from_slice(&self.sealed.to_be_bytes());
            buf.extend_from_slice(&head);
            let plaintext = &self.plaintext[at..at + 1352];
            self.sealer.seal_onto(nonce, &head, plaintext, buf);
            self.sealed += 1;
        }
        Some(Transmit {
            socket: 0,
            to: self.to,
            from_ip: None,
            ecn: None,
            len: buf.len(),
            segment: Some(1400),
        })
    }

    fn poll_event(&mut self) -> Option<()> {
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(long_ago())
    }
}

/// How late the poller ends a wait.
#[test]
#[ignore = "a measurement"]
fn measure_the_lateness_of_a_timer() {
    for micros in [50, 200, 1000, 5000] {
        let poller = polling::Poller::new().unwrap();
        let mut ready = polling::Events::new();
        let mut late: Vec<Duration> = (0..1000)
            .map(|_| {
                let due = Instant::now() + Duration::from_micros(micros);
                poller.wait_deadline(&mut ready, due).unwrap();
                Instant::now().saturating_duration_since(due)
            })
            .collect();
        late.sort();
        println!(
            "{micros:>5} us: median {:?} late, 99 % {:?}",
            late[500], late[990]
        );
    }
}

/// Full batches at a rate, forever.
#[derive(Debug, Default)]
struct Blast {
    to: Option<(SocketAddr, u64)>,
    due: Option<Instant>,
}

impl Endpoint for Blast {
    type Command = (SocketAddr, u64);
    type Event = ();

    fn handle_datagram(&mut self, _: Instant, _: Meta, payload: &mut [u8]) {
        std::hint::black_box(payload[0]);
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn handle_command(&mut self, now: Instant, command: (SocketAddr, u64)) {
        self.to = (command.1 > 0).then_some(command);
        self.due = self.to.map(|_| now);
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let ((to, rate), due) = (self.to?, self.due?);
        if due > now {
            return None;
        }
        buf.resize(segments * 1400, 0xa5);
        self.due = Some(
            due.max(now - Duration::from_millis(2))
                + Duration::from_secs_f64(buf.len() as f64 * 8.0 / rate as f64),
        );
        Some(Transmit {
            to,
            socket: 0,
            from_ip: None,
            ecn: None,
            len: buf.len(),
            segment: Some(1400),
        })
    }

    fn poll_event(&mut self) -> Option<()> {
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => thread::park(),
        }
    }
}

/// Longest wait for something that takes a millisecond on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);
