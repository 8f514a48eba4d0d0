//! Many endpoints of one kind, joined by links, in virtual time.
//!
//! [`Net`] is what a driver and the Internet are to an [`Endpoint`]: it delivers datagrams, fires timers, drains
//! transmissions into links and keeps events for the application, which is the caller. Time moves only from one
//! instant at which something happens to the next. Everything a run does follows from its seed and the caller's
//! calls, and goes into [`Net::trace_hash`].
//!
//! It also holds an endpoint to its contract: one that keeps claiming work at one instant without end, or that
//! returns a [`Transmit`](crate::Transmit) which does not match its buffer, panics with a sentence that says so.
//! It does *not* model an application, a host's send buffer or the cost of computing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::air::Air;
use super::link::{Fate, Link, LinkConfig};
use super::rng::Rng;
use super::trace::Trace;
use crate::engine::{Ecn, Endpoint, Meta, Transmit};

/// Names a node of one [`Net`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(usize);

/// Names a link of one [`Net`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(usize);

/// Endpoints and the links between them.
pub struct Net<E: Endpoint> {
    start: Instant,
    now: Instant,
    rng: Rng,
    nodes: Vec<Node<E>>,
    links: Vec<Link>,
    routes: BTreeMap<(NodeId, NodeId), LinkId>,
    /// The links of nodes' further sockets: from where to where, and which socket at either end.
    ways: BTreeMap<(NodeId, NodeId, u8), LinkId>,
    /// Who is behind an address: nodes' own, and those a NAT gave them.
    places: BTreeMap<SocketAddr, Place>,
    /// The address a NAT gave a node after that many rebindings of that link.
    mapped: BTreeMap<(NodeId, LinkId, usize), SocketAddr>,
    air: Air<Flight>,
    trace: Trace,
    unroutable: u64,
    buf: Vec<u8>,
}

impl<E: Endpoint> Net<E> {
    /// An empty network whose time begins at `start`.
    pub fn new(start: Instant, seed: u64) -> Self {
        Self {
            start,
            now: start,
            rng: Rng::new(seed),
            nodes: Vec::new(),
            links: Vec::new(),
            routes: BTreeMap::new(),
            ways: BTreeMap::new(),
            places: BTreeMap::new(),
            mapped: BTreeMap::new(),
            air: Air::new(),
            trace: Trace::new(),
            unroutable: 0,
            buf: Vec::new(),
        }
    }

    /// Adds an endpoint at an address of its own.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn add_node(&mut self, addr: SocketAddr, endpoint: E) -> NodeId {
        let id = NodeId(self.nodes.len());
        let place = Place {
            node: id,
            socket: 0,
            via: None,
            rebindings: 0,
        };
        let taken = self.places.insert(addr, place);
        assert!(taken.is_none(), "two nodes at {addr}");
        let wake = endpoint.poll_timeout();
        let lag = Duration::ZERO;
        self.nodes.push(Node {
            addr,
            sockets: Vec::new(),
            endpoint,
            events: Vec::new(),
            wake,
            touched: false,
            lag,
            rounds: (self.now, 0),
        });
        id
    }

    /// Gives a node one more socket, at an address of its own; the first one after that of the node is 1. What is sent
    /// from it to `peer`, or from there to it, goes over links of its own, which no NAT rebinds.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn add_socket(
        &mut self,
        id: NodeId,
        addr: SocketAddr,
        peer: NodeId,
        (up, down): (LinkConfig, LinkConfig),
    ) -> (LinkId, LinkId) {
        let sockets = &mut self.nodes[id.0].sockets;
        sockets.push(addr);
        let socket = u8::try_from(sockets.len()).expect("no test has that many sockets");
        let place = Place {
            node: id,
            socket,
            via: None,
            rebindings: 0,
        };
        let taken = self.places.insert(addr, place);
        assert!(taken.is_none(), "two nodes at {addr}");
        let (up, down) = (self.add_link(up), self.add_link(down));
        self.ways.insert((id, peer, socket), up);
        self.ways.insert((peer, id, socket), down);
        (up, down)
    }

    /// Adds a link whose life begins now. It carries nothing until a route uses it.
    pub fn add_link(&mut self, config: LinkConfig) -> LinkId {
        let id = LinkId(self.links.len());
        let rng = self.rng.fork(id.0 as u64);
        self.links.push(Link::new(config, self.now, rng));
        id
    }

    /// Sends what `from` says to `to` over this link from now on. Routes that share a link share its queue.
    pub fn route(&mut self, from: NodeId, to: NodeId, link: LinkId) {
        assert!(link.0 < self.links.len(), "a link of another network");
        self.routes.insert((from, to), link);
    }

    /// Joins two nodes by a link of their own each way: `up` from `a` to `b`, `down` back.
    pub fn connect(
        &mut self,
        a: NodeId,
        b: NodeId,
        up: LinkConfig,
        down: LinkConfig,
    ) -> (LinkId, LinkId) {
        let (up, down) = (self.add_link(up), self.add_link(down));
        self.route(a, b, up);
        self.route(b, a, down);
        (up, down)
    }

    /// How late this node's timers fire, as on a host that sleeps deeply or schedules badly. Datagrams and commands
    /// wake it at once, and then whatever is due runs too.
    pub fn set_wake_lag(&mut self, id: NodeId, lag: Duration) {
        let node = &mut self.nodes[id.0];
        node.lag = lag;
        node.reschedule(self.now);
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A node's endpoint.
    pub fn node(&self, id: NodeId) -> &E {
        &self.nodes[id.0].endpoint
    }

    /// A node's endpoint, to change it behind the protocol's back; it is polled at the next step.
    pub fn node_mut(&mut self, id: NodeId) -> &mut E {
        let node = &mut self.nodes[id.0];
        node.touched = true;
        &mut node.endpoint
    }

    /// A node's own address, before any NAT.
    pub fn addr(&self, id: NodeId) -> SocketAddr {
        self.nodes[id.0].addr
    }

    /// A link: its figures.
    pub fn link(&self, id: LinkId) -> &Link {
        &self.links[id.0]
    }

    /// A link, to change its configuration in mid-run.
    pub fn link_mut(&mut self, id: LinkId) -> &mut Link {
        &mut self.links[id.0]
    }

    /// Datagrams that nobody got because no node has the address, no route leads there, or a NAT has forgotten it.
    pub fn unroutable(&self) -> u64 {
        self.unroutable
    }

    /// Gives a node a command now and drains what it answers.
    pub fn command(&mut self, id: NodeId, command: E::Command) {
        self.nodes[id.0].endpoint.handle_command(self.now, command);
        self.service(id);
    }

    /// A datagram out of nowhere, delivered at this instant over no link, with any source address.
    pub fn inject(&mut self, to: NodeId, from: SocketAddr, payload: &[u8]) {
        let flight = Flight {
            to,
            sender: None,
            from,
            sent_to: None,
            ecn: None,
        };
        self.air.push(self.now, flight, payload);
    }

    /// Makes [`step`](Self::step) stop at this instant even if nothing happens then: the clock of an application.
    pub fn alarm(&mut self, at: Instant) {
        self.air.push_alarm(at.max(self.now));
    }

    /// Takes the events of a node, oldest first.
    pub fn events(&mut self, id: NodeId) -> Vec<E::Event> {
        std::mem::take(&mut self.nodes[id.0].events)
    }

    /// Advances to the next instant at which anything happens and processes it: arrivals in order, then whatever is
    /// due, then transmissions. What these cause at the same instant is the next step. False when nothing is left:
    /// only the caller can wake this network then.
    ///
    /// # Panics
    /// When endpoints keep an instant busy without end.
    pub fn step(&mut self) -> bool {
        let Some(at) = self.next_instant() else {
            return false;
        };
        self.now = at;
        // Arrivals only touch nodes; nothing sets out before all of this instant have landed.
        while let Some((flight, payload)) = self.air.pop_due(self.now) {
            self.deliver(flight, payload);
        }
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if node.touched || node.wake.is_some_and(|wake| wake <= self.now) {
                self.service(NodeId(index));
            }
        }
        true
    }

    /// Steps until `done` says so, for at most `limit` of virtual time from now. `done` is asked first and after
    /// each step, and is where an application reads events and gives commands. Returns whether it said so; if not,
    /// `limit` has passed, asleep if nothing was left to happen.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if self.next_instant().is_none_or(|at| at > deadline) {
                self.now = deadline;
                return false;
            }
            self.step();
        }
    }

    /// A hash over everything that happened: each datagram offered (time, ends, ECN, bytes, fate, arrivals), and each
    /// arrival. Equal hashes mean equal runs.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    fn next_instant(&self) -> Option<Instant> {
        // A scan: networks have few nodes, and a heap would have to forget stale wake-ups.
        let wakes = self.nodes.iter().filter_map(|node| {
            if node.touched {
                Some(self.now)
            } else {
                node.wake
            }
        });
        let next = wakes.chain(self.air.next()).min()?;
        Some(next.max(self.now))
    }

    fn deliver(&mut self, flight: Flight, mut payload: Vec<u8>) {
        let Flight {
            to,
            sender,
            from,
            sent_to,
            ecn,
        } = flight;
        let arrives = self.nat_remembers(to, sender, sent_to);
        self.trace.mix(self.elapsed().as_nanos() as u64);
        self.trace.mix(to.0 as u64 + u64::from(arrives) * (1 << 32));
        if arrives {
            let node = &mut self.nodes[to.0];
            let meta = Meta {
                from,
                socket: sent_to.map_or(0, |place| place.socket),
                to_ip: Some(node.addr.ip()),
                ecn,
            };
            node.endpoint.handle_datagram(self.now, meta, &mut payload);
            node.touched = true;
        } else {
            self.unroutable += 1;
        }
        self.air.recycle(payload);
    }

    /// Whether the receiver's NAT still lets in what was sent to the address it had when the sender learned it.
    fn nat_remembers(&self, to: NodeId, sender: Option<NodeId>, sent_to: Option<Place>) -> bool {
        let (Some(sender), Some(sent_to)) = (sender, sent_to) else {
            return true;
        };
        // The NAT stands at the near end of the receiver's own way to the sender.
        let Some(&out) = self.routes.get(&(to, sender)) else {
            return sent_to.rebindings == 0;
        };
        sent_to.via.is_none_or(|via| via == out)
            && sent_to.rebindings == self.links[out.0].rebindings(self.now)
    }

    /// Runs what is due at a node, then drains it.
    fn service(&mut self, id: NodeId) {
        let now = self.now;
        let node = &mut self.nodes[id.0];
        node.count_round(now);
        node.touched = false;
        if node.endpoint.poll_timeout().is_some_and(|at| at <= now) {
            node.endpoint.handle_timeout(now);
        }
        let mut buf = std::mem::take(&mut self.buf);
        loop {
            buf.clear();
            let endpoint = &mut self.nodes[id.0].endpoint;
            let Some(transmit) = endpoint.poll_transmit(now, SEGMENTS, &mut buf) else {
                break;
            };
            self.nodes[id.0].count_round(now);
            assert_eq!(
                transmit.len,
                buf.len(),
                "a Transmit says how many bytes were appended"
            );
            let segment = transmit.segment.unwrap_or(buf.len());
            if buf.is_empty() {
                self.send(id, &transmit, &[]);
                continue;
            }
            assert!(
                segment > 0,
                "a Transmit of {} bytes in segments of none",
                buf.len()
            );
            assert!(
                buf.len().div_ceil(segment) <= SEGMENTS,
                "a Transmit of more than {SEGMENTS} segments"
            );
            for payload in buf.chunks(segment) {
                self.send(id, &transmit, payload);
            }
        }
        self.buf = buf;
        let node = &mut self.nodes[id.0];
        while let Some(event) = node.endpoint.poll_event() {
            node.events.push(event);
        }
        node.reschedule(now);
    }

    fn send(&mut self, from: NodeId, transmit: &Transmit, payload: &[u8]) {
        let &Transmit {
            to, socket, ecn, ..
        } = transmit;
        self.trace.mix(self.elapsed().as_nanos() as u64);
        self.trace
            .mix(from.0 as u64 + (u64::from(to.port()) << 32) + (ecn_code(ecn) << 48));
        self.trace.mix_bytes(payload);
        let place = self.places.get(&to).copied();
        let route = place.and_then(|place| {
            let link = match socket.max(place.socket) {
                0 => self.routes.get(&(from, place.node)),
                socket => self.ways.get(&(from, place.node, socket)),
            };
            link.map(|&link| (place, link))
        });
        let Some((place, link)) = route else {
            self.unroutable += 1;
            self.trace.mix(UNROUTABLE);
            return;
        };
        let seen = match socket.checked_sub(1) {
            Some(at) => self.nodes[from.0].sockets[usize::from(at)],
            None => self.source(from, link),
        };
        let deliveries = self.links[link.0].offer(self.now, payload);
        self.trace.mix(
            place.node.0 as u64
                + (u64::from(seen.port()) << 32)
                + (fate_code(deliveries.fate()) << 48),
        );
        for delivery in deliveries {
            self.trace.mix((delivery.at - self.start).as_nanos() as u64);
            if let Some(changed) = &delivery.payload {
                self.trace.mix_bytes(changed);
            }
            let flight = Flight {
                to: place.node,
                sender: Some(from),
                from: seen,
                sent_to: Some(place),
                ecn,
            };
            self.air.push(
                delivery.at,
                flight,
                delivery.payload.as_deref().unwrap_or(payload),
            );
        }
    }

    /// The source address that the far end of this link sees.
    fn source(&mut self, node: NodeId, link: LinkId) -> SocketAddr {
        let own = self.nodes[node.0].addr;
        let rebindings = self.links[link.0].rebindings(self.now);
        if rebindings == 0 {
            return own;
        }
        if let Some(&addr) = self.mapped.get(&(node, link, rebindings)) {
            return addr;
        }
        let mut addr = own;
        while self.places.contains_key(&addr) {
            addr.set_port(addr.port().checked_add(1).unwrap_or(FIRST_PORT));
        }
        self.places.insert(
            addr,
            Place {
                node,
                socket: 0,
                via: Some(link),
                rebindings,
            },
        );
        self.mapped.insert((node, link, rebindings), addr);
        addr
    }
}

struct Node<E: Endpoint> {
    addr: SocketAddr,
    /// Those of its further sockets.
    sockets: Vec<SocketAddr>,
    endpoint: E,
    events: Vec<E::Event>,
    /// When it is to be serviced next, lag included.
    wake: Option<Instant>,
    /// Something reached it and it was not serviced since.
    touched: bool,
    lag: Duration,
    /// When it was last serviced, and how many rounds it has worked at that instant.
    rounds: (Instant, u64),
}

impl<E: Endpoint> Node<E> {
    fn count_round(&mut self, now: Instant) {
        let (at, rounds) = &mut self.rounds;
        *rounds = if *at == now { *rounds + 1 } else { 1 };
        *at = now;
        assert!(
            *rounds <= ROUNDS_MAX,
            "the endpoint at {} spins: {ROUNDS_MAX} rounds at one instant",
            self.addr
        );
    }

    fn reschedule(&mut self, now: Instant) {
        // What is due already finds the host awake; only a sleeper wakes late.
        self.wake = self
            .endpoint
            .poll_timeout()
            .map(|at| if at <= now { now } else { at + self.lag });
    }
}

/// Whom an address reaches: a node; if a NAT gave it, behind which link and after how many rebindings.
#[derive(Clone, Copy)]
struct Place {
    node: NodeId,
    socket: u8,
    via: Option<LinkId>,
    rebindings: usize,
}

/// A datagram on its way, without its bytes.
#[derive(Clone, Copy)]
struct Flight {
    to: NodeId,
    /// `None` when injected.
    sender: Option<NodeId>,
    from: SocketAddr,
    /// What the address it was sent to stood for.
    sent_to: Option<Place>,
    ecn: Option<Ecn>,
}

fn fate_code(fate: Fate) -> u64 {
    match fate {
        Fate::Delivered => 0,
        Fate::Lost => 1,
        Fate::QueueFull => 2,
        Fate::Oversized => 3,
        Fate::Outage => 4,
    }
}

fn ecn_code(ecn: Option<Ecn>) -> u64 {
    match ecn {
        None => 0,
        Some(Ecn::Ect1) => 1,
        Some(Ecn::Ect0) => 2,
        Some(Ecn::Ce) => 3,
    }
}

/// Traced in place of a link's verdict.
const UNROUTABLE: u64 = u64::MAX;
/// Segments asked of `poll_transmit` at a time, like a driver with GSO.
const SEGMENTS: usize = 16;
/// A node that is serviced and transmits more often than this at one instant spins.
const ROUNDS_MAX: u64 = 1_000_000;
/// Where a NAT looks for a free port after the last one.
const FIRST_PORT: u16 = 1024;
