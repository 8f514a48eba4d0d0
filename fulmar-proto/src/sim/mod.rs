//! The seeded link simulator: bad networks in virtual time.
//!
//! A [`Link`] is one direction of a path: a drop-tail queue in front of a wire of some rate, then delay, jitter,
//! loss, reordering, duplication and corruption, all drawn from one seed. A [`Net`] joins any number of
//! [`Endpoint`](crate::Endpoint)s by links and moves them through virtual time; a run is a pure function of its
//! seed, and [`Net::trace_hash`] says in one number whether two runs were the same. [`Profile`]s are links that a
//! user knows by name.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use fulmar_proto::sim::{Link, LinkConfig, Rng};
//!
//! let start = Instant::now();
//! let config = LinkConfig { delay: Duration::from_millis(70), ..LinkConfig::default() };
//! let mut link = Link::new(config, start, Rng::new(1));
//! let arrivals: Vec<Instant> = link.offer(start, b"hello").into_iter().map(|d| d.at).collect();
//! assert_eq!(arrivals, [start + Duration::from_millis(70)]);
//! ```
//!
//! It does *not* do I/O, read a clock, model IP fragmentation or mark congestion (ECN passes unchanged). Links and networks know
//! no protocol; [`Transfer`] and [`World`] run HP-UDP over them, and [`hostile`] plays with it whatever bytes say.

mod air;
mod content;
pub mod hostile;
mod link;
mod net;
mod profile;
mod rng;
mod trace;
mod transfer;

pub use content::Content;
pub use link::{Deliveries, Delivery, Fate, Link, LinkConfig, LinkStats, Loss};
pub use net::{LinkId, Net, NodeId};
pub use profile::Profile;
pub use rng::Rng;
pub use transfer::{Flow, FlowId, Outcome, Terms, Transfer, World};
