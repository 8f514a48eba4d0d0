//! Every number of the protocol, in one place: the parameter table of the specification (HP-UDP 14).
//!
//! Wire constants are `const`; what may differ between two sides of one session is a field of [`Config`]. It does
//! *not* hold anything chosen by a peer.

use std::sync::Arc;
use std::time::Duration;

use crate::crypto::Secret;
use crate::engine::Bitrate;

/// Largest UDP payload ever sent or accepted (2.2).
pub const DATAGRAM_MAX: usize = 1400;
/// Bytes of the fixed header (2.1).
pub const HEADER: usize = 32;
/// Where in every packet the session's number stands, 32 bits, big-endian (2.1).
pub const SESSION_AT: u32 = 1;
/// Bytes of an AES-GCM tag.
pub const TAG: usize = 16;
/// File bytes in a full chunk of a plain session (2.2).
pub const CHUNK_PLAIN: usize = DATAGRAM_MAX - HEADER;
/// File bytes in a full chunk of an encrypted session (2.2).
pub const CHUNK_SEALED: usize = DATAGRAM_MAX - HEADER - TAG;
/// Chunks in a full FEC block (6.1).
pub const BLOCK: u64 = 100;
/// Chunks a sender keeps for repair (9).
pub const WINDOW: u64 = 65_536;
/// Whole blocks that fit in the window; one less than the ceiling, so that a partly acknowledged first block never
/// pushes the last chunk out of the window.
pub const WINDOW_BLOCKS: u64 = WINDOW / BLOCK;
/// The same where the receiver has the extension: repairs of repairs at 33 % loss and 140 ms take longer than the
/// window of v5.0 lasts at a gigabit. 180 MB, of which a path that loses little uses little.
pub const WINDOW_BLOCKS_EXTENDED: u64 = 2 * WINDOW_BLOCKS;
/// How far beyond the contiguous front a receiver accepts (12.1).
pub const ACCEPT_AHEAD: u64 = 4 * WINDOW;
/// Missing chunks a heartbeat can name (7.3).
pub const NACKS: usize = (CHUNK_PLAIN - 36) / 8;
/// Largest file: 2^40 bytes (4.2).
pub const FILE_MAX: u64 = 1 << 40;
/// Longest file name accepted, in bytes.
pub const NAME_MAX: usize = 255;

const _: () = assert!(NACKS == 166 && CHUNK_PLAIN == 1368 && CHUNK_SEALED == 1352);

/// Which rules set the sending rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Delivery rate and queueing delay; random loss is not congestion. Sender-local.
    #[default]
    Delivery,
    /// The published rules, clause by clause (8).
    Hpudp,
    /// Takes what other traffic leaves, and gives way to any.
    Low,
    /// A constant rate, whatever happens.
    Fixed,
}

/// How many parity packets follow a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parity {
    /// What makes the transfer end soonest at the loss now measured; none on a clean path.
    #[default]
    Adaptive,
    /// The published table (6.2).
    Table,
}

/// The parameters of one endpoint. [`Default`] is the specification's table.
#[derive(Clone, Debug)]
pub struct Config {
    /// Rate before anything is measured (2 MB/s).
    pub start_rate: Bitrate,
    /// Rate is never set below this (10 KB/s).
    pub min_rate: Bitrate,
    /// Rate is never set above this, if given.
    pub max_rate: Option<Bitrate>,
    /// Which controller.
    pub control: Control,
    /// Which parity rule.
    pub parity: Parity,
    /// Packets of the calibration burst (10).
    pub burst: u64,
    /// First retransmission of an unanswered request (20 ms), doubled up to `request_retry_max`.
    pub request_retry: Duration,
    /// Largest spacing of request retransmissions (1 s).
    pub request_retry_max: Duration,
    /// A request unanswered this long has failed (10 s).
    pub request_timeout: Duration,
    /// Spacing of probe packets while the receiver is silent (500 ms).
    pub probe_interval: Duration,
    /// Silence of the receiver, once probing, that ends the session (10 s).
    pub probe_timeout: Duration,
    /// Silence of the sender that ends the session, if five heartbeat intervals are shorter (5 s); but never before
    /// a sender would have stopped probing.
    pub inactivity: Duration,
    /// How long either side answers stragglers after the end (3 s).
    pub linger: Duration,
    /// Resends of TRANSFER_COMPLETE (3).
    pub complete_retries: u32,
    /// Spacing of those resends (1 s).
    pub complete_spacing: Duration,
    /// How long a finished session's number stays reserved (10 s).
    pub reserve: Duration,
    /// Bytes of incomplete blocks a receiver keeps in memory, over all its sessions; beyond it the oldest blocks
    /// go to disk as they are and wait for plain retransmission.
    pub block_memory: usize,
    /// Bytes handed up and not yet reported stored; beyond it the receiver stops accepting new blocks.
    pub unstored_memory: usize,
    /// Sessions a receiver serves at once; more are told "busy".
    pub sessions: usize,
    /// Offer and use the extension block (18.4). Off makes a pure v5.0 peer.
    pub extensions: bool,
    /// Heartbeat field order to emit, whatever the sender's dialect suggests (7.2).
    pub layout: Option<Layout>,
    /// Datagrams the receiving socket can hold, told to the peer in the extension block; 0 when unknown.
    pub socket_datagrams: u32,
    /// Refuse plain sessions (receiver).
    pub require_encryption: bool,
    /// The static key this side proves to hold when it answers a request (18.7); none when it has no identity.
    pub host_key: Option<Arc<Secret>>,
    /// Sockets this side speaks through, 1 to 16: [`Meta::socket`](crate::Meta::socket) and
    /// [`Transmit::socket`](crate::Transmit::socket) number them. With more than one, encrypted sessions that this
    /// side begins use them all if the peer can (18.9).
    pub sockets: u8,
    /// The port a PUSH_ACCEPT names: that of the endpoint's own socket (4.5.4). With 0 the
    /// client stays with the port it asked at.
    pub port: u16,
    /// A request to push or to pull unanswered this long has failed (15 s).
    pub call_timeout: Duration,
}

/// The two field orders of a heartbeat (7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Timestamps first: the order of the text.
    Text,
    /// Contiguous front first: the order of the known implementation.
    Reference,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            start_rate: Bitrate::from_bytes_per_sec(2_000_000),
            min_rate: Bitrate::from_bytes_per_sec(10_000),
            max_rate: None,
            control: Control::default(),
            parity: Parity::default(),
            burst: 10,
            request_retry: Duration::from_millis(20),
            request_retry_max: Duration::from_secs(1),
            request_timeout: Duration::from_secs(10),
            probe_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_secs(10),
            inactivity: Duration::from_secs(5),
            linger: Duration::from_secs(3),
            complete_retries: 3,
            complete_spacing: Duration::from_secs(1),
            reserve: Duration::from_secs(10),
            block_memory: 24 << 20,
            unstored_memory: 12 << 20,
            sessions: 64,
            extensions: true,
            layout: None,
            socket_datagrams: 0,
            require_encryption: false,
            host_key: None,
            sockets: 1,
            port: 0,
            call_timeout: Duration::from_secs(15),
        }
    }
}
