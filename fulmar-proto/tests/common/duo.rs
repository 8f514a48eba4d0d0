//! A client and a daemon, the way between them, and somebody on it who sees each datagram before it leaves: for tests
//! that lose, repeat or change one packet and no other.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use fulmar_proto::hpudp::{
    Command, Config, Endpoint, Event, Failure, Reason, Request, Snapshot, Tag, Trust, Via, Wish,
};
use fulmar_proto::sim::Content;
use fulmar_proto::{Endpoint as _, Meta};

use super::{A, B};

/// What is asked of a transfer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deal {
    pub(crate) via: Via,
    pub(crate) encrypt: bool,
    pub(crate) bundle: bool,
    pub(crate) trust: Trust,
    pub(crate) size: u64,
    /// What the receiver has, told when so many bytes have come.
    pub(crate) had: VecDeque<(u64, Vec<Range<u64>>)>,
}

/// Whose side.
pub(crate) const CLIENT: usize = 0;
pub(crate) const DAEMON: usize = 1;

pub(crate) struct Duo {
    pub(crate) now: Instant,
    pub(crate) ends: [Endpoint; 2],
    air: BTreeMap<(Instant, u64), (usize, SocketAddr, Vec<u8>)>,
    pub(crate) sent: [u64; 2],
    flights: u64,
    pub(crate) deal: Deal,
    pub(crate) content: Content,
    receiving: Option<Tag>,
    /// Each side's name for the session.
    tags: [Option<Tag>; 2],
    pub(crate) results: [Option<Result<(), Failure>>; 2],
    pub(crate) last: [Snapshot; 2],
    /// The daemon's application is slow: what a peer asked for.
    pub(crate) answering: bool,
}

const ONE_WAY: Duration = Duration::from_millis(15);
pub(crate) const MS: Duration = Duration::from_millis(1);

impl Duo {
    pub(crate) fn new(client: Config, daemon: Config, deal: Deal) -> Self {
        let end = |config, seed| {
            let mut end = Endpoint::new(config, [seed; 32]);
            end.guard_nonces();
            end
        };
        let content = Content::new(deal.size, 0x5eed_f11e);
        let mut duo = Self {
            now: Instant::now(),
            ends: [end(client, 1), end(daemon, 2)],
            air: BTreeMap::new(),
            sent: [0; 2],
            flights: 0,
            deal,
            content,
            receiving: None,
            tags: [Some(Tag(1)), None],
            results: [None; 2],
            last: [Snapshot::default(); 2],
            answering: true,
        };
        let deal = &duo.deal;
        let (encrypt, bundle, trust) = (deal.encrypt, deal.bundle, deal.trust);
        let command = match deal.via {
            Via::Pull => Command::Pull {
                tag: Tag(1),
                wish: Wish {
                    to: B,
                    name: "file".to_owned(),
                    encrypt,
                    trust,
                    bundle,
                },
            },
            via @ (Via::Direct | Via::Push) => Command::Send {
                tag: Tag(1),
                request: Request {
                    encrypt,
                    via,
                    trust,
                    bundle,
                    ..Request::new(B, "file", deal.size, duo.content.hash())
                },
            },
        };
        duo.ends[CLIENT].handle_command(duo.now, command);
        duo
    }

    /// Which side receives the file.
    pub(crate) fn receiver(&self) -> usize {
        match self.deal.via {
            Via::Pull => CLIENT,
            Via::Direct | Via::Push => DAEMON,
        }
    }

    pub(crate) fn inject(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        let meta = Meta {
            from,
            to_ip: None,
            ecn: None,
        };
        self.ends[to].handle_datagram(self.now, meta, &mut bytes.to_vec());
    }

    /// Runs until both sides know, or for so long. `on_way` sees each datagram: whose, which one of that side's, and its
    /// bytes, and says how many copies arrive.
    pub(crate) fn run(
        &mut self,
        limit: Duration,
        mut on_way: impl FnMut(usize, u64, &mut Vec<u8>) -> usize,
    ) {
        let end = self.now + limit;
        loop {
            for side in [CLIENT, DAEMON] {
                self.settle(side, &mut on_way);
            }
            if self.results.iter().all(Option::is_some) {
                return;
            }
            let timers = self.ends.iter().filter_map(|it| it.poll_timeout());
            let next = self.air.keys().map(|(at, _)| *at).chain(timers).min();
            match next.filter(|at| *at <= end) {
                Some(at) => self.now = self.now.max(at),
                None => {
                    self.now = end;
                    return;
                }
            }
            while let Some(first) = self.air.first_entry().filter(|it| it.key().0 <= self.now) {
                let (to, from, bytes) = first.remove();
                self.inject(to, from, &bytes);
            }
        }
    }

    fn settle(&mut self, side: usize, on_way: &mut impl FnMut(usize, u64, &mut Vec<u8>) -> usize) {
        let due = self.ends[side].poll_timeout();
        if due.is_some_and(|at| at <= self.now) {
            self.ends[side].handle_timeout(self.now);
        }
        loop {
            while let Some(event) = self.ends[side].poll_event() {
                if let Some(command) = self.answer(side, event) {
                    self.ends[side].handle_command(self.now, command);
                }
            }
            let mut buf = Vec::new();
            let Some(transmit) = self.ends[side].poll_transmit(self.now, 16, &mut buf) else {
                return;
            };
            let segment = transmit.segment.unwrap_or(buf.len()).max(1);
            for bytes in buf.chunks(segment) {
                let mut bytes = bytes.to_vec();
                let number = self.sent[side];
                self.sent[side] += 1;
                let to = match transmit.to {
                    to if to == A => CLIENT,
                    to if to == B => DAEMON,
                    // To somebody who is not here.
                    _ => continue,
                };
                for _ in 0..on_way(side, number, &mut bytes) {
                    self.flights += 1;
                    let from = [A, B][side];
                    let key = (self.now + ONE_WAY, self.flights);
                    self.air.insert(key, (to, from, bytes.clone()));
                }
            }
        }
    }

    fn answer(&mut self, side: usize, event: Event) -> Option<Command> {
        match event {
            Event::Want {
                tag,
                offset,
                len,
                buffer,
            } => Some(self.content.supply(tag, offset, len, buffer)),
            Event::Asked {
                tag, bundle, from, ..
            } => {
                if from == A {
                    self.tags[side] = Some(tag);
                }
                self.answering.then_some(Command::Serve {
                    tag,
                    size: self.deal.size,
                    hash: self.content.hash(),
                    bundle: bundle && self.deal.bundle,
                })
            }
            Event::Offered { tag, size, .. } => {
                let wanted = side == self.receiver() && size == self.deal.size;
                let new = self.receiving.is_none() || self.content.bytes() == 0;
                if !wanted || !new {
                    return Some(Command::Abort {
                        tag,
                        reason: Reason::INVALID,
                    });
                }
                self.receiving = Some(tag);
                self.tags[side] = Some(tag);
                Some(Command::Accept { tag })
            }
            Event::Chunk { tag, offset, bytes } => {
                assert_eq!(Some(tag), self.receiving, "chunks of the accepted file");
                let stored = self.content.store(tag, offset, bytes);
                let came = self.content.bytes();
                let due = |(after, _): &mut (u64, _)| *after <= came;
                while let Some((_, ranges)) = self.deal.had.pop_front_if(due) {
                    ranges.iter().for_each(|it| self.content.had(it.clone()));
                    self.ends[side].handle_command(self.now, Command::Have { tag, ranges });
                }
                Some(stored)
            }
            Event::Received { tag, hash } => Some(self.content.verdict(tag, hash)),
            Event::Progress { snapshot, .. } => {
                self.last[side] = snapshot;
                None
            }
            Event::Finished {
                tag,
                result,
                snapshot,
            } => {
                if self.tags[side] == Some(tag) {
                    assert!(
                        snapshot.done <= snapshot.size,
                        "more than all: {snapshot:?}"
                    );
                    (self.results[side], self.last[side]) = (Some(result), snapshot);
                }
                None
            }
            Event::ListAsked { tag, .. } => Some(Command::Abort {
                tag,
                reason: Reason::NOT_FOUND,
            }),
            Event::Connected { .. } | Event::Listing { .. } | Event::Closed { .. } => None,
        }
    }

    pub(crate) fn assert_done(&self, what: &str) {
        assert_eq!(
            (self.results, self.content.is_exact()),
            ([Some(Ok(())); 2], true),
            "{what}: {:?}\n{:?}\n{:?}",
            self.deal,
            self.last[0],
            self.last[1]
        );
    }
}
