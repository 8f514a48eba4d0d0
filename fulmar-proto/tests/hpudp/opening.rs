//! How sessions begin with peers that know less, or worse: requests that are dropped for what stands behind them, and
//! repeated ones that are taken for somebody else's.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::{B, Host, Pair};
use fulmar_proto::hpudp::{Command, Config, Endpoint, Event, Failure, Reason, Request, Tag, Trust};
use fulmar_proto::sim::{LinkConfig, Loss, Rng};
use fulmar_proto::{Meta, Transmit};

/// What is wrong with a host that speaks v5.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// It drops requests with anything behind their name.
    Strict,
    /// It answers a repeated request with this reason, and goes on with the session.
    Touchy(Reason),
}

/// A receiver of v5.0 with a habit.
struct Old {
    inner: Endpoint,
    habit: Habit,
    /// How often each request came.
    seen: BTreeMap<Vec<u8>, u32>,
    rejects: VecDeque<(SocketAddr, Vec<u8>)>,
    now: Instant,
}

const REQUEST: u8 = 0x00;
const PUSH: u8 = 0x08;

impl fulmar_proto::Endpoint for Old {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, meta: Meta, payload: &mut [u8]) {
        self.now = now;
        if matches!(payload[0], REQUEST | PUSH) {
            let number = u32::from_be_bytes([payload[1], payload[2], payload[3], payload[4]]);
            let len = 32 + usize::from(u16::from_be_bytes([payload[21], payload[22]]));
            // The NUL of a SESSION_REQ's name is not counted.
            let named = len + usize::from(payload[0] == REQUEST);
            let count = self.seen.entry(payload.to_vec()).or_default();
            match self.habit {
                Habit::Strict if payload.len() > named => return,
                Habit::Touchy(reason) if *count > 0 => {
                    let mut reject = [0; 33];
                    reject[0] = 0x04;
                    reject[1..5].copy_from_slice(&number.to_be_bytes());
                    (reject[22], reject[32]) = (1, reason.0);
                    return self.rejects.push_back((meta.from, reject.to_vec()));
                }
                Habit::Strict | Habit::Touchy(_) => {}
            }
            *count += 1;
        }
        self.inner.handle_datagram(now, meta, payload);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.inner.handle_timeout(now);
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        self.inner.handle_command(now, command);
    }

    fn poll_transmit(&mut self, now: Instant, max: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        if let Some((to, bytes)) = self.rejects.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(Transmit {
                socket: 0,
                to,
                from_ip: None,
                ecn: None,
                len: bytes.len(),
                segment: None,
            });
        }
        self.inner.poll_transmit(now, max, buf)
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.inner.poll_event()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let now = (!self.rejects.is_empty()).then_some(self.now);
        now.or_else(|| self.inner.poll_timeout())
    }
}

fn to_old(habit: Habit, rtt_ms: u64) -> Pair {
    let start = Instant::now();
    let mut rng = Rng::new(1);
    let v5 = Config {
        extensions: false,
        ..Config::default()
    };
    let old = Old {
        inner: Endpoint::new(v5, [7; 32]),
        habit,
        seen: BTreeMap::new(),
        rejects: VecDeque::new(),
        now: start,
    };
    let hosts = (
        Host::fulmar(start, Config::default(), &mut rng),
        Host::scripted(start, Box::new(old)),
    );
    let link = LinkConfig {
        delay: Duration::from_millis(rtt_ms / 2),
        ..LinkConfig::default()
    };
    Pair::new(start, 1, hosts, (link.clone(), link), 300_000)
}

#[test]
fn a_peer_that_drops_the_block_is_asked_without() {
    for encrypt in [false, true] {
        for push in [false, true] {
            let mut pair = to_old(Habit::Strict, 100);
            match push {
                true => pair.push(encrypt),
                false => pair.send(encrypt),
            }
            pair.finish(Duration::from_secs(30));
            let apps = &pair.apps;
            assert_eq!(
                (apps.sent, apps.received, apps.exact()),
                (Some(Ok(())), Some(Ok(())), true),
                "encrypt {encrypt}, push {push}"
            );
            // Nothing was proved, and the application is told so.
            assert_eq!(apps.connected, Some((encrypt, false)));
        }
    }
}

#[test]
fn whoever_has_to_prove_something_is_not_asked_without_the_block() {
    let asked_for = [
        (Trust::AnyKey, false),
        (Trust::Key([1; 32]), false),
        (Trust::Anyone, true),
    ];
    for (trust, bundle) in asked_for {
        let mut pair = to_old(Habit::Strict, 100);
        pair.net.node_mut(pair.a).tapping = true;
        let request = Request {
            encrypt: true,
            trust,
            bundle,
            ..Request::new(
                B,
                "file",
                pair.apps.content.size(),
                pair.apps.content.hash(),
            )
        };
        let tag = Tag(1);
        pair.net.command(pair.a, Command::Send { tag, request });
        pair.run_for(Duration::from_secs(30));
        assert_eq!(pair.apps.sent, Some(Err(Failure::NoAnswer)), "{trust:?}");
        let sent = &pair.net.node(pair.a).sent;
        assert!(sent.len() > 5);
        for it in sent {
            assert!(it.bytes.windows(4).any(|at| at == b"HPX1"), "{trust:?}");
        }
    }
}

#[test]
fn a_peer_that_refuses_repeated_requests_is_not_lost() {
    for encrypt in [false, true] {
        for push in [false, true] {
            let reason = if push {
                Reason::BUSY
            } else {
                Reason::COLLISION
            };
            // Long enough for several copies to be on their way.
            let mut pair = to_old(Habit::Touchy(reason), 200);
            match push {
                true => pair.push(encrypt),
                false => pair.send(encrypt),
            }
            pair.finish(Duration::from_secs(30));
            let apps = &pair.apps;
            assert_eq!(
                (apps.sent, apps.received, apps.exact()),
                (Some(Ok(())), Some(Ok(())), true),
                "encrypt {encrypt}, push {push}"
            );
        }
    }
}

/// A refusal that is one ends the session, a little later.
#[test]
fn a_refused_request_fails_although_it_was_repeated() {
    for reason in [Reason::COLLISION, Reason::EXISTS] {
        let mut pair = to_old(Habit::Touchy(reason), 200);
        // The first copy and its answers are lost, the others refused.
        let down = pair.down;
        let link = pair.net.link(down).config().clone();
        let deaf = LinkConfig {
            loss: Loss::Independent(1.0),
            ..link.clone()
        };
        pair.net.link_mut(down).set_config(deaf);
        pair.send(true);
        pair.run_for(Duration::from_millis(330));
        pair.net.link_mut(down).set_config(link);
        pair.run_for(Duration::from_secs(3));
        assert_eq!(pair.apps.sent, Some(Err(Failure::Refused(reason))));
    }
}
