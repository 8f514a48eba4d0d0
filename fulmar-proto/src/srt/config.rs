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
    /// Most packets in flight towards this side, at least 32 (5.1.5); `None` leaves it to the receive buffer (17.2.2).
    pub window: Option<u32>,
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
            window: None,
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

impl Config {
    /// The first parameter that is out of its range, or contradicts another (17.2.1). An endpoint takes no other
    /// configuration than one that passes.
    pub fn check(&self) -> Result<(), OutOfRange> {
        self.check_sizes()?;
        self.check_keys()?;
        self.check_pace()?;
        let latency = Duration::from_millis(u16::MAX.into());
        let latencies = self.receive_latency.max(self.peer_latency);
        demand("latency", "at most 65535 ms", latencies <= latency)?;
        let timeouts = [self.connect_timeout, self.idle_timeout];
        demand(
            "conntimeo, peeridletimeo",
            "more than 0",
            !timeouts.contains(&Duration::ZERO),
        )
    }

    fn check_sizes(&self) -> Result<(), OutOfRange> {
        let Self { mss, window, .. } = *self;
        let fits = (MSS_MIN..=MSS_MAX).contains(&mss);
        demand("mss", "76 to 1500 bytes", fits)?;
        let least = window.is_none_or(|window| window >= WINDOW_MIN);
        demand("fc", "at least 32 packets", least)?;
        let buffers = [self.send_buffer, self.receive_buffer];
        let least = WINDOW_MIN as usize * (mss - UDP_HEADERS);
        demand(
            "sndbuf, rcvbuf",
            "at least 32 packets",
            buffers.into_iter().flatten().all(|bytes| bytes >= least),
        )?;
        let filter = self.packet_filter.as_deref();
        demand(
            "packetfilter",
            "at most 64 bytes, and in live mode only",
            filter.is_none_or(|text| self.mode == Mode::Live && text.len() <= FILTER_MAX),
        )?;
        let mut most = mss - HEADERS;
        if self.crypto_mode == CryptoMode::Gcm {
            most = most.saturating_sub(GCM_TAG);
        }
        if filter.is_some() {
            most = most.saturating_sub(FILTER_HEADER);
        }
        demand(
            "payloadsize",
            "at most mss - 44, less 16 with AES-GCM, less 4 with a packet filter",
            self.payload_size <= most,
        )
    }

    fn check_keys(&self) -> Result<(), OutOfRange> {
        let refresh = (1..=REFRESH_MAX).contains(&self.key_refresh);
        demand("kmrefreshrate", "1 to 2^30 packets", refresh)?;
        demand(
            "kmpreannounce",
            "at most (kmrefreshrate - 1) / 2 packets",
            self.key_preannounce <= (self.key_refresh - 1) / 2,
        )?;
        let gcm = self.crypto_mode == CryptoMode::Gcm;
        let live = self.mode == Mode::Live;
        demand("cryptomode", "AES-GCM in live mode only", !gcm || live)?;
        let aes192 = self.key_length == Some(KeyLength::Aes192);
        demand("pbkeylen", "16 or 32 with AES-GCM", !(gcm && aes192))
    }

    fn check_pace(&self) -> Result<(), OutOfRange> {
        match self.bandwidth {
            Bandwidth::Fixed(rate) => demand("maxbw", "more than 0", rate.bits_per_sec() > 0),
            Bandwidth::Input { overhead, .. } => {
                demand("oheadbw", "5 to 100 percent", (5..=100).contains(&overhead))
            }
        }
    }

    /// Packets that the receive buffer holds at a latency: as configured, else what comes at the bandwidth in one and a
    /// half times that (17.2.2).
    pub(crate) fn receive_packets(&self, latency: Duration) -> u32 {
        self.packets(self.receive_buffer, latency)
    }

    /// Packets that the send buffer holds while the peer holds what it gets for `latency`.
    pub(crate) fn send_packets(&self, latency: Duration) -> u32 {
        self.packets(self.send_buffer, latency)
    }

    /// What a handshake says of it (5.1.5).
    pub(crate) fn window(&self, latency: Duration) -> u32 {
        let buffer = self.receive_packets(latency);
        self.window.map_or(buffer, |window| window.min(buffer))
    }

    fn packets(&self, bytes: Option<usize>, latency: Duration) -> u32 {
        if let Some(bytes) = bytes {
            let packets = bytes / (self.mss - UDP_HEADERS);
            return u32::try_from(packets).map_or(WINDOW_MAX, |packets| packets.min(WINDOW_MAX));
        }
        let rate = match self.bandwidth {
            Bandwidth::Fixed(rate)
            | Bandwidth::Input {
                rate: Some(rate), ..
            } => rate,
            Bandwidth::Input { rate: None, .. } => Bitrate::from_bytes_per_sec(UNBOUNDED),
        };
        let size = match self.payload_size {
            0 => self.mss,
            payload => payload + HEADERS,
        };
        let packets = rate.bytes_in(latency * 3 / 2) / size as u64;
        u32::try_from(packets).map_or(WINDOW_MAX, |packets| {
            packets.clamp(BUFFER_DEFAULT, WINDOW_MAX)
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::live()
    }
}

/// A parameter that no connection can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} must be {range}")]
pub struct OutOfRange {
    /// The parameter, as URIs call it (17.2.1).
    pub key: &'static str,
    /// What it may be.
    pub range: &'static str,
}

fn demand(key: &'static str, range: &'static str, met: bool) -> Result<(), OutOfRange> {
    if met {
        Ok(())
    } else {
        Err(OutOfRange { key, range })
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
    pub const UNBOUNDED: Self = Self::Fixed(Bitrate::from_bytes_per_sec(UNBOUNDED));
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

/// What this side says it is (5.5.1).
pub const VERSION: u32 = 0x01_0505;
/// The oldest version that knows HSv5 (5.4.5, 5.7.1).
pub(crate) const VERSION_HSV5: u32 = 0x01_0300;
/// From here on AES-GCM has nonces that do not repeat (6.4.4).
pub(crate) const VERSION_GCM: u32 = 0x01_0504;

/// Bytes of IP and UDP headers, of any IP (2.2.1).
pub(crate) const UDP_HEADERS: usize = 28;
/// Bytes of all headers of a data packet (2.2.1).
pub(crate) const HEADERS: usize = UDP_HEADERS + 16;
/// Bytes that AES-GCM adds to a payload.
pub(crate) const GCM_TAG: usize = 16;
/// Bytes that the packet filter takes of a payload.
pub(crate) const FILTER_HEADER: usize = 4;
/// Longest text of a packet filter, bytes (13.1.3).
pub(crate) const FILTER_MAX: usize = 64;
/// Least MSS that is not refused (5.1.4).
pub(crate) const MSS_MIN: usize = 76;
/// Largest MSS, and the default (5.1.4).
pub(crate) const MSS_MAX: usize = 1500;
/// Bounds of a window (5.1.5).
pub(crate) const WINDOW_MIN: u32 = 32;
pub(crate) const WINDOW_MAX: u32 = 65_536;
/// A latency that a peer asks for is cut to this, unless we want more ourselves (5.6.4).
pub(crate) const LATENCY_MAX: Duration = Duration::from_secs(10);
/// Packets under one key, at most (6.6.5).
pub(crate) const REFRESH_MAX: u32 = 1 << 30;
/// Packets of a buffer that nobody sized, at least (17.2.2).
const BUFFER_DEFAULT: u32 = 8192;
/// Bytes a second: `maxbw` -1 (12.1.2).
const UNBOUNDED: u64 = 125_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> &'static str {
        let mut config = Config::live();
        change(&mut config);
        config.check().map_or_else(|error| error.key, |()| "")
    }

    #[test]
    fn presets_are_in_range() {
        for mode in [Mode::Live, Mode::Message, Mode::Stream] {
            assert_eq!(Config::preset(mode).check(), Ok(()), "{mode:?}");
        }
    }

    #[test]
    fn the_edge_of_each_range() {
        let latency =
            |ms| move |config: &mut Config| config.peer_latency = Duration::from_millis(ms);
        assert_eq!(
            [refused(latency(65_535)), refused(latency(65_536))],
            ["", "latency"]
        );
        let mss = |mss| {
            move |config: &mut Config| {
                config.mss = mss;
                config.payload_size = 0;
            }
        };
        assert_eq!([refused(mss(76)), refused(mss(1500))], ["", ""]);
        assert_eq!(
            [75, 1501, 0, usize::MAX].map(|n| refused(mss(n))),
            ["mss"; 4]
        );
        let window = |window| move |config: &mut Config| config.window = Some(window);
        assert_eq!([refused(window(32)), refused(window(31))], ["", "fc"]);
        let buffer = |bytes| move |config: &mut Config| config.receive_buffer = Some(bytes);
        let least = 32 * 1472;
        let outcomes = [refused(buffer(least)), refused(buffer(least - 1))];
        assert_eq!(outcomes, ["", "sndbuf, rcvbuf"]);
        let payload = |size, gcm, filter: bool| {
            refused(|config| {
                config.payload_size = size;
                config.crypto_mode = if gcm {
                    CryptoMode::Gcm
                } else {
                    CryptoMode::Auto
                };
                config.packet_filter = filter.then(|| "fec,cols:4".to_owned());
            })
        };
        for (most, gcm, filter) in [
            (1456, false, false),
            (1440, true, false),
            (1436, true, true),
        ] {
            assert_eq!(payload(most, gcm, filter), "");
            assert_eq!(payload(most + 1, gcm, filter), "payloadsize");
        }
        let keys = |refresh, announce| {
            refused(|config| (config.key_refresh, config.key_preannounce) = (refresh, announce))
        };
        let outcomes = [keys(1 << 30, 0), keys(1, 0), keys(9, 4)];
        assert_eq!(outcomes, [""; 3]);
        assert_eq!([keys((1 << 30) + 1, 0), keys(0, 0)], ["kmrefreshrate"; 2]);
        assert_eq!([keys(9, 5), keys(1, 1)], ["kmpreannounce"; 2]);
        let input = |overhead| {
            refused(|config| {
                let (rate, least) = (None, Bitrate::default());
                config.bandwidth = Bandwidth::Input {
                    rate,
                    least,
                    overhead,
                };
            })
        };
        assert_eq!([4, 5, 100, 101].map(input), ["oheadbw", "", "", "oheadbw"]);
        assert_eq!(
            refused(|config| config.bandwidth = Bandwidth::Fixed(Bitrate::default())),
            "maxbw"
        );
        assert_eq!(
            refused(|config| config.packet_filter = Some("f".repeat(65))),
            "packetfilter"
        );
        let silent = refused(|config| config.idle_timeout = Duration::ZERO);
        assert_eq!(silent, "conntimeo, peeridletimeo");
    }

    #[test]
    fn what_contradicts_is_refused() {
        let gcm = |mode, key_length| {
            let config = Config {
                crypto_mode: CryptoMode::Gcm,
                key_length,
                ..Config::preset(mode)
            };
            config.check().map_or_else(|error| error.key, |()| "")
        };
        assert_eq!(gcm(Mode::Live, Some(KeyLength::Aes256)), "");
        assert_eq!(
            gcm(Mode::Live, Some(KeyLength::Aes192)),
            "pbkeylen",
            "6.4.1"
        );
        assert_eq!(gcm(Mode::Stream, None), "cryptomode", "6.4.1");
        let filter = Config {
            packet_filter: Some("fec".to_owned()),
            ..Config::message()
        };
        assert!(filter.check().is_err(), "13.2.4");
    }

    #[test]
    fn buffers_hold_what_the_latency_needs() {
        let live = Config {
            bandwidth: Bandwidth::Fixed(Bitrate::from_bytes_per_sec(13_600_000)),
            ..Config::live()
        };
        let seconds = Duration::from_secs;
        assert_eq!(live.receive_packets(seconds(0)), 8192);
        assert_eq!(live.receive_packets(seconds(1)), 15_000);
        assert_eq!(live.receive_packets(seconds(60)), 65_536);
        let narrow = Config {
            window: Some(100),
            receive_buffer: Some(1472 * 500),
            ..live
        };
        assert_eq!(
            (
                narrow.receive_packets(seconds(1)),
                narrow.window(seconds(1))
            ),
            (500, 100)
        );
        assert_eq!(narrow.send_packets(seconds(1)), 15_000);
    }

    #[test]
    fn passphrases_have_a_length_and_no_face() {
        for len in [0, 9, 80, 200] {
            assert_eq!(Passphrase::new(&vec![b'a'; len]), None, "{len}");
        }
        let [one, two] = [10, 79].map(|len| Passphrase::new(&vec![b'a'; len]));
        assert!(one.is_some() && two.is_some() && one != two);
        assert_eq!(format!("{one:?}"), "Some(Passphrase { .. })");
    }
}
