//! One direction of a link: what becomes of each datagram, and when.
//!
//! A datagram meets, in this order: an outage, an MTU hole, the drop-tail queue and the wire's rate, loss on the
//! wire, delay and jitter, reordering, then duplication and corruption of what arrives. Loss is drawn after the
//! queue, so a lost datagram has used its share of the rate. Each impairment draws from a stream of its own:
//! switching one on leaves the pattern of the others as it was.
//!
//! A link holds no datagrams and no timers; it says when each one arrives and whoever asked keeps it until then.
//! It does *not* know addresses: whoever asked also acts upon [`Link::rebindings`].

use std::ops::Range;
use std::time::{Duration, Instant};

use super::rng::Rng;
use crate::engine::Bitrate;

/// What one direction of a link does. [`Default`] is the perfect link: no delay, no loss, no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkConfig {
    /// Propagation, one way.
    pub delay: Duration,
    /// Added to `delay`, uniform in `0..=jitter`. A datagram that would thereby overtake the one before it arrives
    /// together with it instead, so jitter bunches datagrams up as a radio does and never changes their order.
    pub jitter: Duration,
    /// Loss on the wire.
    pub loss: Loss,
    /// Bits a second the wire carries, `overhead` included; `None` is no limit and no queue. Zero carries nothing.
    pub rate: Option<Bitrate>,
    /// Bytes (on-link, so with `overhead`) that may be waiting, counting what is left of the one now being sent. A
    /// datagram that finds the wire idle never waits.
    pub queue: usize,
    /// Bytes of IP and UDP header that each datagram costs on the link.
    pub overhead: usize,
    /// Share of datagrams held back, 0 to 1.
    pub reorder: f64,
    /// Those arrive up to this much later than they would have, and later ones overtake them.
    pub reorder_by: Duration,
    /// Share of datagrams that arrive twice, 0 to 1; the second copy up to `reorder_by` after the first.
    pub duplicate: f64,
    /// Share of arriving copies that are damaged, 0 to 1: one to eight bits flipped, or one time in four the end cut.
    pub corrupt: f64,
    /// UDP payloads of more bytes vanish without a word.
    pub mtu: Option<usize>,
    /// Times since the link's start; everything offered inside one vanishes.
    pub outages: Vec<Range<Duration>>,
    /// Times since the link's start at which a NAT in front of it forgets: from then on the far side sees another
    /// source port, and what it sends to the old one vanishes.
    pub rebinds: Vec<Duration>,
}

impl LinkConfig {
    /// The perfect link, for constants.
    pub const PERFECT: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: Loss::None,
        rate: None,
        queue: usize::MAX,
        overhead: 28,
        reorder: 0.0,
        reorder_by: Duration::ZERO,
        duplicate: 0.0,
        corrupt: 0.0,
        mtu: None,
        outages: Vec::new(),
        rebinds: Vec::new(),
    };
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self::PERFECT
    }
}

/// How the wire loses datagrams. Probabilities are 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Loss {
    /// It does not.
    #[default]
    None,
    /// Each with this probability, whatever happened before.
    Independent(f64),
    /// Two states, good at first. A datagram is lost with the probability of the state it meets; then the state may
    /// change. A stay in the bad state lasts `1 / leave_bad` datagrams on average.
    GilbertElliott {
        /// Chance, after each datagram in the good state, of going bad.
        enter_bad: f64,
        /// Chance, after each datagram in the bad state, of going good.
        leave_bad: f64,
        /// Loss in the good state.
        loss_good: f64,
        /// Loss in the bad state.
        loss_bad: f64,
    },
}

impl Loss {
    /// Bursts that lose everything, `mean` datagrams long on average (at least 1), and nothing between them; in the
    /// long run they lose the share `share`, which must be below 1.
    pub const fn bursts(share: f64, mean: f64) -> Self {
        let leave_bad = 1.0 / mean;
        let enter_bad = leave_bad * share / (1.0 - share);
        Self::GilbertElliott {
            enter_bad,
            leave_bad,
            loss_good: 0.0,
            loss_bad: 1.0,
        }
    }

    /// The share lost in the long run, 0 to 1.
    pub fn share(self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Independent(share) => share,
            Self::GilbertElliott {
                enter_bad,
                leave_bad,
                loss_good,
                loss_bad,
            } => {
                let moves = enter_bad + leave_bad;
                // With no way to change state, the first one stays.
                let bad = if moves > 0.0 { enter_bad / moves } else { 0.0 };
                bad * loss_bad + (1.0 - bad) * loss_good
            }
        }
    }
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Link {
    config: LinkConfig,
    start: Instant,
    dice: Dice,
    /// Gilbert-Elliott: in the bad state.
    bad: bool,
    /// When the wire has sent everything it accepted.
    free_at: Instant,
    /// What `free_at` lacks, in units of 1 / rate nanoseconds: makes the rate exact over any number of datagrams.
    carry: u64,
    /// Nothing that keeps its order arrives before this.
    last_arrival: Instant,
    stats: LinkStats,
}

impl Link {
    /// A link whose life begins at `start`. Every draw comes from `rng`.
    pub fn new(config: LinkConfig, start: Instant, rng: Rng) -> Self {
        Self {
            config,
            start,
            dice: Dice::new(&rng),
            bad: false,
            free_at: start,
            carry: 0,
            last_arrival: start,
            stats: LinkStats::default(),
        }
    }

    /// Offers one datagram, its UDP payload, at `now`, which never goes back. Says when which copies arrive.
    pub fn offer(&mut self, now: Instant, payload: &[u8]) -> Deliveries {
        self.stats.offered += 1;
        self.stats.bytes_offered += payload.len() as u64;
        let elapsed = now.saturating_duration_since(self.start);
        if self
            .config
            .outages
            .iter()
            .any(|outage| outage.contains(&elapsed))
        {
            self.stats.outage += 1;
            return Deliveries::none(Fate::Outage);
        }
        if self.config.mtu.is_some_and(|mtu| payload.len() > mtu) {
            self.stats.oversized += 1;
            return Deliveries::none(Fate::Oversized);
        }
        let Some(sent) = self.enqueue(now, payload.len()) else {
            self.stats.queue_dropped += 1;
            return Deliveries::none(Fate::QueueFull);
        };
        if self.loses() {
            self.stats.lost += 1;
            return Deliveries::none(Fate::Lost);
        }
        let at = self.arrival(sent);
        let first = self.copy(at, payload);
        let second = self.dice.duplicate.chance(self.config.duplicate).then(|| {
            self.stats.duplicated += 1;
            let after = self
                .dice
                .duplicate
                .range_duration(Duration::ZERO..=self.config.reorder_by);
            self.copy(at + after, payload)
        });
        Deliveries {
            fate: Fate::Delivered,
            copies: [Some(first), second],
        }
    }

    /// How often the NAT in front of this link has forgotten by `now`. The source port that the far side sees
    /// depends on this number, and only what is sent to the present one gets back.
    pub fn rebindings(&self, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(self.start);
        self.config
            .rebinds
            .iter()
            .filter(|&&rebind| rebind <= elapsed)
            .count()
    }

    /// What was counted since the start.
    pub fn stats(&self) -> &LinkStats {
        &self.stats
    }

    /// What this link does now.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Changes the link in mid-run. What it accepted before keeps its time of arrival, and order is kept across the
    /// change; times in `outages` and `rebinds` still count from the link's start.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
        self.carry = 0;
    }

    /// When the wire has sent this datagram; `None` when the queue has no room.
    fn enqueue(&mut self, now: Instant, payload: usize) -> Option<Instant> {
        let Some(rate) = self.config.rate else {
            return Some(now);
        };
        let rate = rate.bits_per_sec();
        if rate == 0 {
            return None;
        }
        // One byte takes BYTE / rate nanoseconds, so `nanoseconds * rate` counts bytes in the same exact unit.
        let size = (payload + self.config.overhead) as u64 * BYTE;
        let wait = self.free_at.saturating_duration_since(now);
        if wait.is_zero() {
            self.free_at = now;
            self.carry = 0;
        } else {
            let waiting = wait.as_nanos() * u128::from(rate);
            if waiting + u128::from(size) > self.config.queue as u128 * u128::from(BYTE) {
                return None;
            }
        }
        self.stats.queue_delay_max = self.stats.queue_delay_max.max(wait);
        let work = size + self.carry;
        self.free_at += Duration::from_nanos(work / rate);
        self.carry = work % rate;
        Some(self.free_at)
    }

    fn loses(&mut self) -> bool {
        let dice = &mut self.dice.loss;
        match self.config.loss {
            Loss::None => false,
            Loss::Independent(share) => dice.chance(share),
            Loss::GilbertElliott {
                enter_bad,
                leave_bad,
                loss_good,
                loss_bad,
            } => {
                let lost = dice.chance(if self.bad { loss_bad } else { loss_good });
                self.bad ^= dice.chance(if self.bad { leave_bad } else { enter_bad });
                lost
            }
        }
    }

    fn arrival(&mut self, sent: Instant) -> Instant {
        let jitter = self
            .dice
            .jitter
            .range_duration(Duration::ZERO..=self.config.jitter);
        let in_order = self.last_arrival.max(sent + self.config.delay + jitter);
        if self.dice.reorder.chance(self.config.reorder) {
            // Held back without holding up: `last_arrival` stays, so later ones overtake.
            self.stats.reordered += 1;
            return in_order
                + self
                    .dice
                    .reorder
                    .range_duration(Duration::ZERO..=self.config.reorder_by);
        }
        self.last_arrival = in_order;
        in_order
    }

    fn copy(&mut self, at: Instant, payload: &[u8]) -> Delivery {
        let damaged = !payload.is_empty() && self.dice.corrupt.chance(self.config.corrupt);
        let changed = damaged.then(|| corrupted(&mut self.dice.corrupt, payload));
        self.stats.corrupted += u64::from(damaged);
        self.stats.delivered += 1;
        self.stats.bytes_delivered += changed.as_deref().unwrap_or(payload).len() as u64;
        Delivery {
            at,
            payload: changed,
        }
    }
}

/// What a link makes of one datagram: no copy, one, or two, in the order in which they arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliveries {
    fate: Fate,
    copies: [Option<Delivery>; 2],
}

impl Deliveries {
    /// What became of the datagram.
    pub fn fate(&self) -> Fate {
        self.fate
    }

    /// Copies that arrive.
    pub fn len(&self) -> usize {
        self.copies.iter().flatten().count()
    }

    /// Nothing arrives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn none(fate: Fate) -> Self {
        Self {
            fate,
            copies: [None, None],
        }
    }
}

impl IntoIterator for Deliveries {
    type Item = Delivery;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Delivery>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        self.copies.into_iter().flatten()
    }
}

/// One copy of a datagram that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Instant,
    /// What arrives, if it is not what was sent.
    pub payload: Option<Vec<u8>>,
}

/// What became of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It arrives, once or twice.
    Delivered,
    /// Lost on the wire.
    Lost,
    /// Dropped at the tail of the queue.
    QueueFull,
    /// Larger than the link's MTU.
    Oversized,
    /// Offered while the link was down.
    Outage,
}

/// What one direction of a link has done. `offered + duplicated` equals `delivered` and all drops together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Datagrams offered.
    pub offered: u64,
    /// Copies that arrive (counted when they are offered).
    pub delivered: u64,
    /// Lost on the wire.
    pub lost: u64,
    /// Dropped at the tail of the queue.
    pub queue_dropped: u64,
    /// Larger than the MTU.
    pub oversized: u64,
    /// Offered during an outage.
    pub outage: u64,
    /// Second copies.
    pub duplicated: u64,
    /// Copies damaged.
    pub corrupted: u64,
    /// Datagrams held back for later ones to overtake.
    pub reordered: u64,
    /// UDP payload bytes offered.
    pub bytes_offered: u64,
    /// UDP payload bytes that arrive, copies counted each.
    pub bytes_delivered: u64,
    /// Longest wait for the wire.
    pub queue_delay_max: Duration,
}

/// One stream for each impairment.
#[derive(Clone, Debug)]
struct Dice {
    loss: Rng,
    jitter: Rng,
    reorder: Rng,
    duplicate: Rng,
    corrupt: Rng,
}

impl Dice {
    fn new(rng: &Rng) -> Self {
        Self {
            loss: rng.fork(0),
            jitter: rng.fork(1),
            reorder: rng.fork(2),
            duplicate: rng.fork(3),
            corrupt: rng.fork(4),
        }
    }
}

/// A damaged copy that always differs from the payload, which is not empty.
fn corrupted(dice: &mut Rng, payload: &[u8]) -> Vec<u8> {
    let mut bytes = payload.to_vec();
    if dice.chance(0.25) {
        let keep = dice.below(bytes.len() as u64);
        bytes.truncate(keep as usize);
        return bytes;
    }
    let bits = bytes.len() as u64 * 8;
    let mut flip = |bit: u64| bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    let first = dice.below(bits);
    flip(first);
    for _ in 0..dice.below(8) {
        // Any bit but the first, which stays flipped whatever the others do to each other.
        flip((first + 1 + dice.below(bits - 1)) % bits);
    }
    bytes
}

/// Nanoseconds a byte takes at one bit a second.
const BYTE: u64 = 8_000_000_000;
