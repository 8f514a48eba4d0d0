//! HP-UDP transfers in virtual time: files without disks, applications that check every byte.
//!
//! [`World`] runs any number of transfers over any links; [`Transfer`] is one transfer over one link each way, which
//! is what most tests, and `fulmar sim`, want. Files are [`Content`]. It does *not* model storage: bytes are "on disk" at
//! once unless a test says otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::content::Content;
use super::link::{LinkConfig, LinkStats};
use super::net::{Net, NodeId};
use super::rng::Rng;
use crate::hpudp::{
    Command, Config, Endpoint, Event, Failure, Reason, Request, Snapshot, Tag, Trust, Via, Wish,
};

/// One file over one path.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Bytes.
    pub size: u64,
    /// Contents in flight encrypted.
    pub encrypt: bool,
    /// From sender to receiver.
    pub up: LinkConfig,
    /// And back.
    pub down: LinkConfig,
    /// The sender's parameters.
    pub sender: Config,
    /// The receiver's.
    pub receiver: Config,
    /// Everything random follows from it.
    pub seed: u64,
    /// Virtual time after which the run is given up.
    pub limit: Duration,
}

/// What became of a [`Transfer`].
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Until every byte was verified at the receiver.
    pub received_after: Option<Duration>,
    /// What the sender was told; `None` if it never was.
    pub sent: Option<Result<(), Failure>>,
    /// What the receiver was told.
    pub received: Option<Result<(), Failure>>,
    /// Whether the receiver has exactly the sender's bytes.
    pub exact: bool,
    /// Last figures of the sender.
    pub sender: Snapshot,
    /// Last figures of the receiver.
    pub receiver: Snapshot,
    /// What the link did to the sender's packets.
    pub up: LinkStats,
    /// And to the receiver's.
    pub down: LinkStats,
    /// Hash of everything that happened.
    pub trace: u64,
}

impl Transfer {
    /// Runs it. `start` is any instant; nothing depends on which.
    pub fn run(&self, start: Instant) -> Outcome {
        let mut world = World::new(start, self.seed);
        let a = world.add(self.sender.clone());
        let b = world.add(self.receiver.clone());
        let (up, down) = world.net.connect(a, b, self.up.clone(), self.down.clone());
        let flow = world.send(a, b, self.size, self.encrypt);
        world.run_until(self.limit, |world| {
            world.flow(flow).sent.is_some() && world.flow(flow).received.is_some()
        });
        let it = world.flow(flow);
        Outcome {
            received_after: it.received_after,
            sent: it.sent,
            received: it.received,
            exact: it.exact(),
            sender: it.sender,
            receiver: it.receiver,
            up: *world.net.link(up).stats(),
            down: *world.net.link(down).stats(),
            trace: world.net.trace_hash(),
        }
    }
}

/// How a transfer of a [`World`] begins, and what is asked of it.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Contents in flight encrypted.
    pub encrypt: bool,
    /// Who begins, and how.
    pub via: Via,
    /// What the side that answers has to prove.
    pub trust: Trust,
    /// A bundle, as far as the wire can tell.
    pub bundle: bool,
    /// Ranges of the file that the receiver has before it begins, told once so many bytes have come.
    pub had: Vec<Range<u64>>,
    /// When that is told.
    pub had_after: u64,
}

/// Names a transfer of a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(u64);

/// One transfer of a [`World`].
#[derive(Debug)]
pub struct Flow {
    from: NodeId,
    to: NodeId,
    content: Content,
    terms: Terms,
    told: bool,
    tag_at_sender: Option<Tag>,
    tag_at_receiver: Option<Tag>,
    started: Instant,
    /// The identity each side saw of the other.
    pub identity: Option<[u8; 32]>,
    /// Bytes handed up so far, whatever they are.
    pub bytes: u64,
    /// Until verified.
    pub received_after: Option<Duration>,
    /// What the sender was told.
    pub sent: Option<Result<(), Failure>>,
    /// What the receiver was told.
    pub received: Option<Result<(), Failure>>,
    /// Last figures of the sender.
    pub sender: Snapshot,
    /// Last figures of the receiver.
    pub receiver: Snapshot,
}

impl Flow {
    /// Every byte came, exactly once and exactly as sent.
    pub fn exact(&self) -> bool {
        self.content.is_exact()
    }

    fn verify(&mut self, now: Instant) -> bool {
        self.received_after = Some(now - self.started);
        self.exact()
    }
}

/// Endpoints, links and the transfers between them.
pub struct World {
    /// The network; add links and routes to it.
    pub net: Net<Endpoint>,
    nodes: Vec<NodeId>,
    flows: BTreeMap<FlowId, Flow>,
    rng: Rng,
}

impl World {
    /// An empty world whose randomness is `seed`.
    pub fn new(start: Instant, seed: u64) -> Self {
        Self {
            net: Net::new(start, seed),
            nodes: Vec::new(),
            flows: BTreeMap::new(),
            rng: Rng::new(seed ^ 0x5eed),
        }
    }

    /// Adds a host with an HP-UDP endpoint; its nonces are watched.
    pub fn add(&mut self, config: Config) -> NodeId {
        let addr = SocketAddr::from((
            [10, 0, (self.nodes.len() >> 8) as u8, self.nodes.len() as u8],
            9000,
        ));
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        let mut endpoint = Endpoint::new(config, seed);
        endpoint.guard_nonces();
        let id = self.net.add_node(addr, endpoint);
        self.nodes.push(id);
        id
    }

    /// Starts a transfer now.
    pub fn send(&mut self, from: NodeId, to: NodeId, size: u64, encrypt: bool) -> FlowId {
        let terms = Terms {
            encrypt,
            ..Terms::default()
        };
        self.start(from, to, size, terms)
    }

    /// Starts a transfer of other terms now; whatever they are, bytes go from `from` to `to`.
    pub fn start(&mut self, from: NodeId, to: NodeId, size: u64, terms: Terms) -> FlowId {
        let id = FlowId(self.flows.len() as u64);
        let tag = Tag(id.0);
        let hash = self.rng.next_u64();
        let mut content = Content::new(size, hash);
        for range in &terms.had {
            content.had(range.clone());
        }
        let pulled = terms.via == Via::Pull;
        let name = format!("{}", id.0);
        let (node, command) = if pulled {
            let wish = Wish {
                to: self.net.addr(from),
                name,
                encrypt: terms.encrypt,
                trust: terms.trust,
                bundle: terms.bundle,
            };
            (to, Command::Pull { tag, wish })
        } else {
            let request = Request {
                encrypt: terms.encrypt,
                via: terms.via,
                trust: terms.trust,
                bundle: terms.bundle,
                ..Request::new(self.net.addr(to), name, size, hash)
            };
            (from, Command::Send { tag, request })
        };
        let flow = Flow {
            from,
            to,
            content,
            terms,
            told: false,
            tag_at_sender: (!pulled).then_some(tag),
            tag_at_receiver: pulled.then_some(tag),
            started: self.net.now(),
            identity: None,
            bytes: 0,
            received_after: None,
            sent: None,
            received: None,
            sender: Snapshot::default(),
            receiver: Snapshot::default(),
        };
        self.flows.insert(id, flow);
        self.net.command(node, command);
        self.pump();
        id
    }

    /// A transfer.
    pub fn flow(&self, id: FlowId) -> &Flow {
        &self.flows[&id]
    }

    /// A transfer, taken out of the world: for when the world has ended.
    ///
    /// # Panics
    /// If it was taken before.
    pub fn take(&mut self, id: FlowId) -> Flow {
        self.flows.remove(&id).expect("each flow is taken once")
    }

    /// Every host's endpoint.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.nodes.iter().map(|node| self.net.node(*node))
    }

    /// Runs until `done`, or for `limit` of virtual time; whether `done` was reached.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.net.now() + limit;
        self.net.alarm(end);
        while !done(self) {
            if self.net.now() >= end || !self.net.step() {
                return done(self);
            }
            self.pump();
        }
        true
    }

    /// Answers what the endpoints ask of their applications.
    fn pump(&mut self) {
        for at in 0..self.nodes.len() {
            let node = self.nodes[at];
            loop {
                let events = self.net.events(node);
                if events.is_empty() {
                    break;
                }
                for event in events {
                    if let Some(command) = self.answer(node, event) {
                        self.net.command(node, command);
                    }
                }
            }
        }
    }

    fn answer(&mut self, node: NodeId, event: Event) -> Option<Command> {
        let now = self.net.now();
        match event {
            Event::Want {
                tag,
                offset,
                len,
                buffer,
            } => {
                let flow = self.of_sender(node, tag)?;
                Some(flow.content.supply(tag, offset, len, buffer))
            }
            Event::Offered {
                tag,
                name,
                size,
                identity,
                bundle,
                ..
            } => {
                let flow = self.named(name)?;
                let new = flow.tag_at_receiver.is_none() || flow.tag_at_receiver == Some(tag);
                if !new || flow.content.size() != size || (bundle && !flow.terms.bundle) {
                    return None;
                }
                flow.tag_at_receiver = Some(tag);
                flow.identity = flow.identity.or(identity);
                Some(Command::Accept { tag })
            }
            Event::Asked { tag, name, .. } => {
                let flow = self.named(name)?;
                flow.tag_at_sender = Some(tag);
                Some(Command::Serve {
                    tag,
                    size: flow.content.size(),
                    hash: flow.content.hash(),
                    bundle: flow.terms.bundle,
                })
            }
            Event::Chunk { tag, offset, bytes } => {
                let flow = self.of_receiver(node, tag)?;
                let stored = flow.content.store(tag, offset, bytes);
                flow.bytes = flow.content.bytes();
                let told = flow.told || flow.terms.had.is_empty();
                if !told && flow.bytes >= flow.terms.had_after {
                    flow.told = true;
                    let ranges = flow.terms.had.clone();
                    self.net.command(node, Command::Have { tag, ranges });
                }
                Some(stored)
            }
            Event::Received { tag, hash } => {
                let flow = self.of_receiver(node, tag)?;
                let good = flow.verify(now) && hash == flow.content.hash();
                good.then_some(Command::Verified { tag })
            }
            Event::Progress { tag, snapshot } => {
                match self.of_receiver(node, tag) {
                    Some(flow) => flow.receiver = snapshot,
                    None => self.of_sender(node, tag)?.sender = snapshot,
                }
                None
            }
            Event::Finished {
                tag,
                snapshot,
                result,
            } => {
                match self.of_receiver(node, tag) {
                    Some(flow) => (flow.receiver, flow.received) = (snapshot, Some(result)),
                    None => {
                        let flow = self.of_sender(node, tag)?;
                        (flow.sender, flow.sent) = (snapshot, Some(result));
                    }
                }
                None
            }
            Event::Connected { tag, identity, .. } => {
                let flow = self.of_sender(node, tag)?;
                flow.identity = flow.identity.or(identity);
                None
            }
            Event::ListAsked { tag, .. } => Some(Command::Abort {
                tag,
                reason: Reason::NOT_FOUND,
            }),
            Event::Listing { .. } | Event::Closed { .. } => None,
        }
    }

    fn of_receiver(&mut self, node: NodeId, tag: Tag) -> Option<&mut Flow> {
        self.flows
            .values_mut()
            .find(|flow| flow.to == node && flow.tag_at_receiver == Some(tag))
    }

    fn of_sender(&mut self, node: NodeId, tag: Tag) -> Option<&mut Flow> {
        self.flows
            .values_mut()
            .find(|flow| flow.from == node && flow.tag_at_sender == Some(tag))
    }

    fn named(&mut self, name: Vec<u8>) -> Option<&mut Flow> {
        let id = String::from_utf8(name).ok()?.parse().ok()?;
        self.flows.get_mut(&FlowId(id))
    }
}
