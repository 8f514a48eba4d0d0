//! Every number of the protocol, in one place: the presets and the parameter table of the specification (11.1, 17.2).
//!
//! Wire constants are `const`; what a user may set is a field of [`Config`]. [`Config::check`] says what is out of
//! range, so that no other part has to ask. It does *not* parse what people type, and it does *not* hold anything chosen
//! by a peer.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::engine::Bitrate;

/// The parameters of one connection. [`Default`] is the live preset.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the connection carries.
    pub mode: Mode,
    /// How long this side wants to hold what it receives (5.6); up to 65,535 ms.
    pub receive_latency: Duration,
    /// How long this side wants the peer to hold what it sends (5.6); up to 65,535 ms.
    pub peer_latency: Duration,
    /// What both sides know (6.1); none leaves the connection in the clear.
    pub passphrase: Option<Passphrase>,
    /// Length of the keys; `None` takes the peer's choice, else 128 bits (6.1.1).
    pub key_length: Option<KeyLength>,
    /// Refuse a peer without the same passphrase (6.5.3).
    pub enforced_encryption: bool,
    /// Packets under one key before the next takes over (6.6), at most 2^30.
    pub key_refresh: u32,
    /// Packets before that at which the next is announced, at most `(key_refresh - 1) / 2`.
    pub key_preannounce: u32,
    /// Which cipher (6.4.3).
    pub crypto_mode: CryptoMode,
    /// Which congestion control (12); the mode's own unless the user knows better.
    pub congestion: Congestion,
    /// Play by time (7).
    pub tsbpd: bool,
    /// Skip what comes too late (7.2, 7.3).
    pub drop_late: bool,
    /// Repeat loss reports (9.3).
    pub nak_report: bool,
    /// What the sender waits beyond the latency before it drops (7.3); `None` never drops.
    pub send_drop_delay: Option<Duration>,
    /// Follow the peer's clock (7.4).
    pub drift_tracer: bool,
    /// Longest message in live mode, and P of the packet filter, bytes (11.1.2); 0 for the largest there is.
    pub payload_size: usize,
    /// Largest IP datagram, bytes (2.2), 76 to 1500.
    pub mss: usize,
    /// Most packets in flight towards this side, at least 32 (5.1.5).
    pub window: u32,
    /// Send buffer, bytes; `None` sizes it from latency and bandwidth (17.2.2).
    pub send_buffer: Option<usize>,
    /// Receive buffer, bytes; `None` sizes it from latency and bandwidth (17.2.2).
    pub receive_buffer: Option<usize>,
    /// How fast to send in live mode (12.1), and no faster than in file mode (12.2.5).
    pub bandwidth: Bandwidth,
    /// How fast to send again, none bounds it (9.5.3).
    pub retransmit_bandwidth: Option<Bitrate>,
    /// Leave out losses that were sent again less than a round trip ago: `retransmitalgo` 1 (9.5.2).
    pub efficient_retransmit: bool,
    /// Packets that a gap may wait for late comers, at most (9.2.2).
    pub reorder_tolerance: u32,
    /// The packet filter (13.1).
    pub packet_filter: Option<String>,
    /// Welcome groups (14.1.2).
    pub group_connect: bool,
    /// Least silence that makes a link of a group unstable (14.4.2).
    pub group_min_stable: Duration,
    /// The oldest peer that is welcome, `0x00MMmmpp` (5.7.1).
    pub min_version: u32,
    /// A call unanswered this long has failed (5.9.1).
    pub connect_timeout: Duration,
    /// Silence that breaks a connection (10.2).
    pub idle_timeout: Duration,
    /// How long a closing sender waits for acknowledgement in file mode (10.3.2).
    pub linger: Duration,
    /// How long after the first due packet delivery wakes up and takes all that is due (*local*, 7.2.1 allows late and
    /// never early): one wake-up for several packets at high rates.
    pub gather: Duration,
    /// Bytes handed up and not yet taken; beyond it nothing is handed up.
    pub untaken: usize,
}

impl Config {
    /// Messages of one packet, played by time.
    pub fn live() -> Self {
        Self::preset(Mode::Live)
    }

    /// Messages of any length, all of which arrive.
    pub fn message() -> Self {
        Self::preset(Mode::Message)
    }

    /// Bytes, all of which arrive.
    pub fn stream() -> Self {
        Self::preset(Mode::Stream)
    }

    /// The column of 11.1.1 and the defaults of 17.2.1.
    pub fn preset(mode: Mode) -> Self {
        let live = mode == Mode::Live;
        let when_live = |value| if live { value } else { Duration::ZERO };
        Self {
            mode,
            receive_latency: when_live(Duration::from_millis(120)),
            peer_latency: Duration::ZERO,
            passphrase: None,
            key_length: None,
            enforced_encryption: true,
            key_refresh: 1 << 24,
            key_preannounce: 1 << 12,
            crypto_mode: CryptoMode::Auto,
            congestion: if live {
                Congestion::Live
            } else {
                Congestion::File
            },
            tsbpd: live,
            drop_late: live,
            nak_report: live,
            send_drop_delay: live.then_some(Duration::ZERO),
            drift_tracer: true,
            payload_size: if live { 1316 } else { 0 },
            mss: MSS_MAX,
            window: 25_600,
            send_buffer: None,
            receive_buffer: None,
            bandwidth: Bandwidth::default(),
            retransmit_bandwidth: None,
            efficient_retransmit: live,
            reorder_tolerance: 0,
            packet_filter: None,
            group_connect: false,
            group_min_stable: Duration::from_millis(60),
            min_version: 0x01_0000,
            connect_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(5),
            linger: if live {
                Duration::ZERO
            } else {
                Duration::from_secs(180)
            },
            gather: Duration::from_micros(250),
            untaken: 1 << 20,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::live()
    }
}

/// What a connection carries (1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Messages of one packet, played by time, dropped when late.
    #[default]
    Live,
    /// Messages of any length; everything arrives.
    Message,
    /// Bytes; everything arrives.
    Stream,
}

/// Which congestion control (12); both ends must agree on its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Pacing alone (12.1).
    Live,
    /// Rate and window (12.2).
    File,
}

/// How fast to send (12.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bandwidth {
    /// At most this: `maxbw` above 0.
    Fixed(Bitrate),
    /// As much as comes in, and room for repairs: `maxbw` 0.
    Input {
        /// What comes in; `None` measures it (12.1.3).
        rate: Option<Bitrate>,
        /// Taken for the input if less was measured.
        least: Bitrate,
        /// Room for repairs, percent of the input, 5 to 100.
        overhead: u32,
    },
}

impl Bandwidth {
    /// What `maxbw` -1 stands for: 1 Gbit/s (12.1.2).
    pub const UNBOUNDED: Self = Self::Fixed(Bitrate::from_bytes_per_sec(125_000_000));
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self::UNBOUNDED
    }
}

/// Which cipher (6.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CryptoMode {
    /// AES-CTR when calling, the caller's choice when called.
    #[default]
    Auto,
    /// AES-CTR.
    Ctr,
    /// AES-GCM.
    Gcm,
}

/// Length of the keys (6.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyLength {
    /// 16 bytes.
    Aes128,
    /// 24 bytes; not with AES-GCM.
    Aes192,
    /// 32 bytes.
    Aes256,
}

impl KeyLength {
    /// Bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }

    /// The length of a key of so many bytes.
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            16 => Some(Self::Aes128),
            24 => Some(Self::Aes192),
            32 => Some(Self::Aes256),
            _ => None,
        }
    }
}

/// What both sides of an encrypted connection know: 10 to 79 bytes (6.1.1). Wiped when dropped, never printed, compared
/// in constant time.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// `None` when there are fewer than 10 bytes or more than 79. The caller wipes its own copy.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (10..80)
            .contains(&bytes.len())
            .then(|| Self(Zeroizing::new(bytes.to_vec())))
    }

    /// The bytes, for a derivation.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Passphrase {}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passphrase").finish_non_exhaustive()
    }
}

/// What the links of a group are for (14.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bonding {
    /// Every packet on every link.
    Broadcast,
    /// One link, and others that wait.
    Backup,
}

/// What one endpoint holds at most, over all its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Links that stand; further calls are told BACKLOG.
    pub links: usize,
    /// Calls that wait for the application (5.9.4).
    pub undecided: usize,
    /// PBKDF2 derivations a second for one address (6.6.7).
    pub derivations_for_address: u32,
    /// PBKDF2 derivations a second in all (6.6.7).
    pub derivations: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            links: 1024,
            undecided: 1024,
            derivations_for_address: 50,
            derivations: 500,
        }
    }
}

/// Largest MSS, and the default (5.1.4).
pub(crate) const MSS_MAX: usize = 1500;
