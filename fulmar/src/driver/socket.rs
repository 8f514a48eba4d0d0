//! One UDP socket: received batches split into datagrams, sent batches segmented by the kernel.
//!
//! The unit of input and output is (peer, segment size, n). What the kernel refuses in one piece is sent one datagram
//! at a time; what the network refuses is counted and forgotten, because every protocol above repairs loss anyway
//! (rule E8). IPv4 peers of a dual-stack socket are known to the rest of the program by their IPv4 address only.
//!
//! The only file of the crate with `unsafe`: registering the socket with the poller. It does *not* wait, keep time or
//! know any protocol, and DSCP marks are not set. On IPv6 sockets a merged batch comes without its ECN mark: `quinn-udp`
//! 0.6 keeps 96 bytes of control data where four messages need 120.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use fulmar_proto::{Ecn, Meta, Transmit};
use polling::{Event, PollMode, Poller};
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSockRef, UdpSocketState};
use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Type};

use super::stats::Counters;

/// A bound UDP socket, ready for [`spawn`](super::spawn).
#[derive(Debug)]
pub struct Socket {
    io: socket2::Socket,
    state: UdpSocketState,
    local: SocketAddr,
    /// An IPv6 socket that carries IPv4 too.
    dual: bool,
    granted: Buffers,
    /// Most segments a send may have; 1 once the kernel has refused to segment.
    segments: usize,
    watched: Option<Arc<Poller>>,
}

/// Socket buffers the kernel granted, in bytes as they are asked for (Linux books twice as much, for its overhead).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// Receive buffer.
    pub recv: usize,
    /// Send buffer.
    pub send: usize,
}

/// How far a send got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Everything was sent, or is beyond help and counted.
    Done,
    /// The send buffer is full: try again when the socket is writable.
    Blocked,
    /// A queue below the socket is full: try again a little later.
    Backoff,
}

/// Buffers for one batch of received datagrams.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH],
    filled: usize,
}

impl Socket {
    /// Binds `addr`; port 0 picks a free one, and `[::]` carries IPv4 as well. Asks for [`BUFFER_WANTED`] bytes each
    /// way; [`buffers`](Self::buffers) says what was granted.
    ///
    /// # Errors
    /// Those of `socket` and `bind`: no such address, no such family, port taken.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let io = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        let dual = addr.is_ipv6() && addr.ip().is_unspecified();
        if addr.is_ipv6() {
            io.set_only_v6(!dual)?;
        }
        let granted = grow_buffers(&io)?;
        io.bind(&addr.into())?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        let local = io
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let segments = state.max_gso_segments().clamp(1, SEGMENTS_MAX);
        Ok(Self {
            io,
            state,
            local,
            dual,
            granted,
            segments,
            watched: None,
        })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What the kernel granted.
    pub fn buffers(&self) -> Buffers {
        self.granted
    }

    /// Datagrams of 1400 bytes the receive buffer holds when none is merged with its neighbours: what a sender may
    /// safely have on its way to a receiver that is not looking.
    pub fn datagrams(&self) -> u32 {
        u32::try_from(2 * self.granted.recv / DATAGRAM_COST).unwrap_or(u32::MAX)
    }

    /// Most equal datagrams one send may carry; 1 where the kernel does not segment.
    pub(super) fn max_segments(&self) -> usize {
        self.segments
    }

    /// Sends `bytes` from `*sent` on as `transmit` says and moves `*sent` past what needs no second try.
    pub(super) fn send(
        &mut self,
        transmit: &Transmit,
        bytes: &[u8],
        sent: &mut usize,
        counters: &Counters,
    ) -> Flow {
        let stride = transmit
            .segment
            .unwrap_or(bytes.len())
            .clamp(1, bytes.len().max(1));
        let whole = *sent == 0 && stride < bytes.len() && self.segments > 1;
        if whole {
            match self.try_send(transmit, bytes, Some(stride)) {
                Ok(()) => {
                    counters.sent(bytes.len().div_ceil(stride), bytes.len());
                    *sent = bytes.len();
                    return Flow::Done;
                }
                Err(Trouble::Full) => return Flow::Blocked,
                Err(Trouble::NoBuffers) => return Flow::Backoff,
                Err(Trouble::Refused | Trouble::TooBig) => {}
                Err(trouble @ (Trouble::Unreachable | Trouble::Other)) => {
                    trouble.count(counters);
                    *sent = bytes.len();
                    return Flow::Done;
                }
            }
        }
        while *sent < bytes.len() {
            let end = (*sent + stride).min(bytes.len());
            match self.try_send(transmit, &bytes[*sent..end], None) {
                Ok(()) => {
                    counters.sent(1, end - *sent);
                    if whole {
                        // Each alone, but not all at once: segmentation is at fault. Had the datagrams failed too,
                        // the address would be, and no peer may slow down the whole socket with an address that
                        // cannot be answered.
                        self.segments = 1;
                    }
                }
                Err(Trouble::Full) => return Flow::Blocked,
                Err(Trouble::NoBuffers) => return Flow::Backoff,
                Err(
                    trouble @ (Trouble::Refused
                    | Trouble::TooBig
                    | Trouble::Unreachable
                    | Trouble::Other),
                ) => {
                    trouble.count(counters);
                }
            }
            *sent = end;
        }
        Flow::Done
    }

    /// Fills `inbox` with what has arrived; 0 when nothing has.
    pub(super) fn recv(&self, inbox: &mut Inbox, counters: &Counters) -> io::Result<usize> {
        inbox.filled = 0;
        let mut rooms = inbox.bytes.chunks_exact_mut(ROOM);
        let mut slices: [IoSliceMut<'_>; BATCH] = std::array::from_fn(|_| {
            IoSliceMut::new(rooms.next().expect("bytes holds BATCH rooms"))
        });
        let filled =
            match self
                .state
                .recv(UdpSockRef::from(&self.io), &mut slices, &mut inbox.metas)
            {
                Ok(filled) => filled,
                Err(error) => {
                    return match Trouble::from(&error) {
                        Trouble::Full => Ok(0),
                        Trouble::Unreachable => {
                            Trouble::Unreachable.count(counters);
                            Ok(0)
                        }
                        Trouble::NoBuffers
                        | Trouble::Refused
                        | Trouble::TooBig
                        | Trouble::Other => Err(error),
                    };
                }
            };
        inbox.filled = filled;
        for meta in &inbox.metas[..filled] {
            counters.received(meta.len.div_ceil(meta.stride.max(1)), meta.len);
        }
        Ok(filled)
    }

    /// Registers with `poller` for readability. Ends with the socket.
    #[allow(unsafe_code)]
    pub(super) fn watch(&mut self, poller: Arc<Poller>) -> io::Result<()> {
        // SAFETY: the descriptor stays open while `self` lives, and dropping `self` deletes it from the poller first.
        unsafe { poller.add_with_mode(&self.io, Event::readable(KEY), PollMode::Level)? };
        self.watched = Some(poller);
        Ok(())
    }

    /// Asks to be woken, or no longer, when the socket is writable.
    pub(super) fn watch_writable(&self, on: bool) -> io::Result<()> {
        let Some(poller) = &self.watched else {
            return Ok(());
        };
        poller.modify_with_mode(&self.io, Event::new(KEY, true, on), PollMode::Level)
    }

    fn try_send(
        &mut self,
        transmit: &Transmit,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> Result<(), Trouble> {
        let transmit = quinn_udp::Transmit {
            destination: if self.dual {
                mapped(transmit.to)
            } else {
                transmit.to
            },
            ecn: transmit.ecn.map(|ecn| match ecn {
                Ecn::Ect0 => EcnCodepoint::Ect0,
                Ecn::Ect1 => EcnCodepoint::Ect1,
                Ecn::Ce => EcnCodepoint::Ce,
            }),
            contents,
            segment_size,
            src_ip: transmit
                .from_ip
                .filter(|ip| !ip.is_unspecified() && !ip.is_multicast()),
        };
        let trouble = match self.state.try_send(UdpSockRef::from(&self.io), &transmit) {
            Ok(()) => return Ok(()),
            Err(error) => Trouble::from(&error),
        };
        if trouble == Trouble::Refused
            && let Ok(state) = UdpSocketState::new(UdpSockRef::from(&self.io))
        {
            // quinn-udp gives up segments and ECN marks for good at any EINVAL; whose fault it was is decided above.
            self.state = state;
        }
        Err(trouble)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(poller) = self.watched.take() {
            // Closing the descriptor removes it as well; failure leaves nothing to do.
            let _ = poller.delete(&self.io);
        }
    }
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BATCH * ROOM],
            metas: [RecvMeta::default(); BATCH],
            filled: 0,
        }
    }

    /// Batches it has room for; as many received means that more may wait.
    pub(super) fn rooms(&self) -> usize {
        BATCH
    }

    /// Every datagram of the batch, in order of arrival. Empty ones mean nothing in any protocol, and ones from
    /// port 0 cannot be answered; both are passed over.
    pub(super) fn each(&mut self, mut take: impl FnMut(Meta, &mut [u8])) {
        for (room, meta) in self
            .bytes
            .chunks_exact_mut(ROOM)
            .zip(&self.metas[..self.filled])
        {
            let from = canonical(meta.addr);
            if from.port() == 0 {
                continue;
            }
            let ecn = meta.ecn.map(|ecn| match ecn {
                EcnCodepoint::Ect0 => Ecn::Ect0,
                EcnCodepoint::Ect1 => Ecn::Ect1,
                EcnCodepoint::Ce => Ecn::Ce,
            });
            let to_ip = meta.dst_ip.map(|ip| ip.to_canonical());
            for datagram in room[..meta.len].chunks_mut(meta.stride.max(1)) {
                take(Meta { from, to_ip, ecn }, datagram);
            }
        }
    }
}

/// What a failed system call means to a socket that must go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Full,
    NoBuffers,
    Refused,
    TooBig,
    Unreachable,
    Other,
}

impl Trouble {
    fn count(self, counters: &Counters) {
        match self {
            Self::Full | Self::NoBuffers => {}
            Self::TooBig => counters.too_big.add(1),
            Self::Unreachable => counters.unreachable.add(1),
            Self::Refused | Self::Other => counters.send_errors.add(1),
        }
    }
}

impl From<&io::Error> for Trouble {
    fn from(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::AGAIN) => Self::Full,
            Some(Errno::NOBUFS | Errno::NOMEM) => Self::NoBuffers,
            Some(Errno::INVAL | Errno::IO) => Self::Refused,
            Some(Errno::MSGSIZE) => Self::TooBig,
            Some(
                Errno::CONNREFUSED
                | Errno::CONNRESET
                | Errno::HOSTUNREACH
                | Errno::HOSTDOWN
                | Errno::NETUNREACH
                | Errno::NETDOWN,
            ) => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

/// Asks past the system's limit first (a privilege), within it second, and reads back what came of it.
fn grow_buffers(io: &socket2::Socket) -> io::Result<Buffers> {
    if sockopt::set_socket_recv_buffer_size_force(io, BUFFER_WANTED).is_err() {
        io.set_recv_buffer_size(BUFFER_WANTED)?;
    }
    if sockopt::set_socket_send_buffer_size_force(io, BUFFER_WANTED).is_err() {
        io.set_send_buffer_size(BUFFER_WANTED)?;
    }
    Ok(Buffers {
        recv: io.recv_buffer_size()? / 2,
        send: io.send_buffer_size()? / 2,
    })
}

/// `::ffff:a.b.c.d` as `a.b.c.d`: one peer, one key, in every table above.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
        // Rebuilding it would lose the scope of a link-local address.
        IpAddr::V6(_) => addr,
    }
}

fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => addr,
    }
}

/// Buffer asked of the kernel in each direction, in bytes: 50 ms at 2.5 Gbit/s.
pub const BUFFER_WANTED: usize = 16 << 20;
/// Largest UDP payload of one send, segments together.
pub(super) const SEND_MAX: usize = 65_507;
/// Segments that fit one send at any size an Ethernet carries. The kernel takes 64, but not of full ones.
const SEGMENTS_MAX: usize = SEND_MAX / 1472;
/// Receive rooms of one system call; more only pushes the first out of the cache before it is read.
const BATCH: usize = 16;
/// Bytes of one receive room: the largest merged batch the kernel hands up.
const ROOM: usize = 64 << 10;
/// What Linux books against the receive buffer for one 1400-byte datagram, in bytes.
const DATAGRAM_COST: usize = 2304;
const KEY: usize = 0;

const _: () = assert!(BATCH <= quinn_udp::BATCH_SIZE);
