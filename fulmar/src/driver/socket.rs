//! One UDP socket: received batches split into datagrams, sent batches segmented by the kernel.
//!
//! The unit of input and output is (peer, segment size, n). What the kernel refuses in one piece is sent one datagram
//! at a time; what the network refuses is counted and forgotten, because every protocol above repairs loss anyway
//! (rule E8). IPv4 peers of a dual-stack socket are known to the rest of the program by their IPv4 address only.
//!
//! Sends are ours and not `quinn-udp`'s, which writes the whole byte that DSCP and ECN share, and so no DSCP but zero.
//!
//! The only file of the crate with `unsafe`: registering the socket with the poller, and the filter that chooses among
//! sockets that share an address. It does *not* wait, keep time or
//! know any protocol. On IPv6 sockets a merged batch comes without its ECN mark: `quinn-udp`
//! 0.6 keeps 96 bytes of control data where four messages need 120.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fulmar_proto::{Ecn, Meta, Transmit};
use polling::{Event, PollMode, Poller};
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSockRef, UdpSocketState};
use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, MsgHdr, Protocol, SockAddr, Type};

use super::stats::Counters;
use crate::config::Dscp;

/// A bound UDP socket, ready for [`spawn`](super::spawn).
#[derive(Debug)]
pub struct Socket {
    io: socket2::Socket,
    state: UdpSocketState,
    local: SocketAddr,
    /// An IPv6 socket that carries IPv4 too.
    dual: bool,
    granted: Buffers,
    dscp: Dscp,
    /// Most segments a send may have; 1 once the kernel has refused to segment.
    segments: AtomicUsize,
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
    /// Which of several sockets it was filled from.
    pub(super) socket: u8,
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
        Self::bind_as(addr, false)
    }

    /// Binds `count` sockets to one address, where port 0 is any that is free. The kernel gives each datagram to the one
    /// that the 32-bit number at byte `number_at` of its payload names, modulo `count`: what bears one number comes to
    /// one socket, wherever it is from.
    ///
    /// # Errors
    /// Those of [`bind`](Self::bind), also when somebody else shares the address; [`Unsupported`](io::ErrorKind::Unsupported)
    /// if the kernel cannot tell datagrams apart like that.
    pub fn bind_group(addr: SocketAddr, count: u16, number_at: u32) -> io::Result<Vec<Self>> {
        if addr.port() != 0 {
            // Who may share an address may also steal from it: it must be nobody's.
            drop(Self::bind(addr)?);
        }
        let first = Self::bind_as(addr, true)?;
        steer(&first.io, u32::from(count.max(1)), number_at)?;
        let at = SocketAddr::new(addr.ip(), first.local.port());
        let more = (1..count).map(|_| Self::bind_as(at, true));
        std::iter::once(Ok(first)).chain(more).collect()
    }

    fn bind_as(addr: SocketAddr, shared: bool) -> io::Result<Self> {
        let io = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        let dual = addr.is_ipv6() && addr.ip().is_unspecified();
        if addr.is_ipv6() {
            io.set_only_v6(!dual)?;
        }
        io.set_reuse_port(shared)?;
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
            dscp: Dscp::default(),
            segments: segments.into(),
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

    /// Marks every datagram that is sent from now on. What the ECN bits say stays with each datagram.
    ///
    /// # Errors
    /// If the system refuses; some ask for a privilege.
    pub fn set_dscp(&mut self, dscp: Dscp) -> io::Result<()> {
        let with = |byte: u32| u32::from(dscp.value()) << 2 | byte & ECN;
        if self.local.is_ipv4() || self.dual {
            self.io.set_tos_v4(with(self.io.tos_v4()?))?;
        }
        if self.local.is_ipv6() {
            self.io.set_tclass_v6(with(self.io.tclass_v6()?))?;
        }
        self.dscp = dscp;
        Ok(())
    }

    /// Datagrams of 1400 bytes the receive buffer holds when none is merged with its neighbours: what a sender may
    /// safely have on its way to a receiver that is not looking.
    pub fn datagrams(&self) -> u32 {
        u32::try_from(2 * self.granted.recv / DATAGRAM_COST).unwrap_or(u32::MAX)
    }

    /// Most equal datagrams one send may carry; 1 where the kernel does not segment.
    pub(super) fn max_segments(&self) -> usize {
        self.segments.load(Relaxed)
    }

    /// Sends `bytes` from `*sent` on as `transmit` says and moves `*sent` past what needs no second try.
    pub(super) fn send(
        &self,
        transmit: &Transmit,
        bytes: &[u8],
        sent: &mut usize,
        counters: &Counters,
    ) -> Flow {
        let stride = transmit
            .segment
            .unwrap_or(bytes.len())
            .clamp(1, bytes.len().max(1));
        let whole = *sent == 0 && stride < bytes.len() && self.max_segments() > 1;
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
                        self.segments.store(1, Relaxed);
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
        &self,
        transmit: &Transmit,
        contents: &[u8],
        segment: Option<usize>,
    ) -> Result<(), Trouble> {
        let to = SockAddr::from(if self.dual {
            mapped(transmit.to)
        } else {
            transmit.to
        });
        let over_v4 = transmit.to.is_ipv4();
        let mut control = Control {
            bytes: [0; CONTROL],
            len: 0,
        };
        if let Some(ecn) = transmit.ecn {
            let bits = match ecn {
                Ecn::Ect0 => EcnCodepoint::Ect0,
                Ecn::Ect1 => EcnCodepoint::Ect1,
                Ecn::Ce => EcnCodepoint::Ce,
            };
            // The kernel takes the mark and the code point in one byte, here or from the socket.
            let byte = i32::from(self.dscp.value()) << 2 | bits as i32;
            let (level, kind) = if over_v4 {
                (libc::IPPROTO_IP, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            };
            control.push(level, kind, &byte.to_ne_bytes());
        }
        if let Some(segment) = segment.and_then(|segment| u16::try_from(segment).ok()) {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        let from = transmit
            .from_ip
            .filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        match from {
            // struct in_pktinfo: no interface, the address, and a field that only reception fills.
            Some(IpAddr::V4(ip)) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            // struct in6_pktinfo: the address, no interface.
            Some(IpAddr::V6(ip)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        let contents = [IoSlice::new(contents)];
        let message = MsgHdr::new().with_addr(&to).with_buffers(&contents);
        let sent = if control.len == 0 {
            self.io.sendmsg(&message, 0)
        } else {
            self.io
                .sendmsg(&message.with_control(control.as_bytes()), 0)
        };
        sent.map(drop).map_err(|error| Trouble::from(&error))
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
            socket: 0,
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
        let socket = self.socket;
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
                take(
                    Meta {
                        from,
                        socket,
                        to_ip,
                        ecn,
                    },
                    datagram,
                );
            }
        }
    }
}

/// The control messages of one send, as the kernel reads them: each is its length, level and kind, then what it says, and
/// fills whole machine words.
struct Control {
    bytes: [u8; CONTROL],
    len: usize,
}

impl Control {
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        const WORD: usize = size_of::<usize>();
        let fields = [
            &(CONTROL_HEADER + data.len()).to_ne_bytes()[..],
            &level.to_ne_bytes(),
            &kind.to_ne_bytes(),
            data,
        ];
        for field in fields {
            self.bytes[self.len..self.len + field.len()].copy_from_slice(field);
            self.len += field.len();
        }
        self.len = self.len.next_multiple_of(WORD);
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
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

/// Has the kernel choose among the sockets of an address by a number in the datagram. One too short to have it comes to
/// the first.
#[allow(unsafe_code)]
fn steer(io: &socket2::Socket, count: u32, number_at: u32) -> io::Result<()> {
    let step = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, number_at),
        step(libc::BPF_ALU | BPF_MOD | libc::BPF_K, count),
        step(libc::BPF_RET | BPF_A, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open, and the kernel copies the program, which outlives the call, by its length.
    let refused = unsafe {
        libc::setsockopt(
            io.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    match refused {
        0 => Ok(()),
        _ => {
            let error = io::Error::last_os_error();
            Err(io::Error::new(io::ErrorKind::Unsupported, error))
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
/// Of the kernel's filter language: remainder of a division, and the register that is the answer.
const BPF_MOD: u32 = 0x90;
const BPF_A: u32 = 0x10;
/// The bits of the traffic class that are not DSCP.
const ECN: u32 = 0b11;
/// Length, level and kind of a control message.
const CONTROL_HEADER: usize = size_of::<usize>() + 8;
/// Room for the three messages a send may carry: a byte as an integer, a segment size, an address with an interface.
const CONTROL: usize = 96;

const _: () = assert!(3 * CONTROL_HEADER + 8 + 8 + 24 <= CONTROL);
const _: () = assert!(CONTROL_HEADER == size_of::<libc::cmsghdr>());

const _: () = assert!(BATCH <= quinn_udp::BATCH_SIZE);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::mem::MaybeUninit;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use socket2::{MaybeUninitSlice, MsgHdrMut};

    use super::*;

    /// Marks and congestion bits side by side on every kind of socket, whole and segmented, as the receiver's kernel
    /// tells them.
    #[test]
    fn marks_arrive_and_leave_the_congestion_bits_alone() {
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        for (bind, to) in [
            (v4, v4),
            (v6, v6),
            (Ipv6Addr::UNSPECIFIED.into(), v4),
            (Ipv6Addr::UNSPECIFIED.into(), v6),
        ] {
            let mut socket = Socket::bind(SocketAddr::new(bind, 0)).unwrap();
            let receiver = listener(to);
            let at = receiver.local_addr().unwrap().as_socket().unwrap();
            for dscp in ["cs0", "le", "af11", "ef", "63", "cs0"] {
                let dscp: Dscp = dscp.parse().unwrap();
                socket.set_dscp(dscp).unwrap();
                let read_back = if to.is_ipv4() {
                    socket.io.tos_v4().unwrap()
                } else {
                    socket.io.tclass_v6().unwrap()
                };
                assert_eq!(read_back, u32::from(dscp.value()) << 2);
                for (ecn, bits) in [
                    (None, 0),
                    (Some(Ecn::Ect0), 2),
                    (Some(Ecn::Ect1), 1),
                    (Some(Ecn::Ce), 3),
                ] {
                    for (len, segment) in [(10, None), (25, Some(10))] {
                        let transmit = Transmit {
                            to: at,
                            socket: 0,
                            from_ip: None,
                            ecn,
                            len,
                            segment,
                        };
                        let (bytes, mut sent) = (vec![7; len], 0);
                        let counters = Counters::default();
                        assert_eq!(
                            socket.send(&transmit, &bytes, &mut sent, &counters),
                            Flow::Done
                        );
                        let count = counters.snapshot().datagrams_out;
                        assert_eq!((sent, count), (len, if segment.is_some() { 3 } else { 1 }));
                        let marks: Vec<(usize, u8)> =
                            (0..count).map(|_| receive(&receiver)).collect();
                        let byte = dscp.value() << 2 | bits;
                        let want: &[(usize, u8)] = if segment.is_some() {
                            &[(10, byte), (10, byte), (5, byte)]
                        } else {
                            &[(10, byte)]
                        };
                        assert_eq!(marks, want, "{bind} to {to}, {dscp}, {ecn:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_datagram_leaves_from_the_address_that_is_asked_for() {
        let socket = Socket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        let receiver = listener(Ipv4Addr::LOCALHOST.into());
        let to = receiver.local_addr().unwrap().as_socket().unwrap();
        let from = IpAddr::from([127, 0, 0, 77]);
        let transmit = Transmit {
            to,
            socket: 0,
            from_ip: Some(from),
            ecn: Some(Ecn::Ect0),
            len: 5,
            segment: Some(2),
        };
        assert_eq!(
            socket.send(&transmit, b"abcde", &mut 0, &Counters::default()),
            Flow::Done
        );
        let mut room = [MaybeUninit::uninit(); 9];
        let (_, came_from) = receiver.recv_from(&mut room).unwrap();
        assert_eq!(came_from.as_socket().unwrap().ip(), from);
    }

    /// From whichever address: what bears one number comes to one socket, merged or not.
    #[test]
    fn a_number_in_the_datagram_chooses_the_socket() {
        let (v4, v6) = (IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into());
        for (bind, to) in [(v4, v4), (v6, v6), (Ipv6Addr::UNSPECIFIED.into(), v4)] {
            let group = Socket::bind_group(SocketAddr::new(bind, 0), 3, 1).unwrap();
            assert_eq!(group.len(), 3);
            let at = SocketAddr::new(to, group[0].local_addr().port());
            assert!(group.iter().all(|it| it.local_addr().port() == at.port()));
            Socket::bind(SocketAddr::new(bind, at.port())).unwrap_err();
            Socket::bind_group(SocketAddr::new(bind, at.port()), 2, 1).unwrap_err();
            let counters = Counters::default();
            for number in [0_u32, 1, 2, 3, 77, u32::MAX] {
                let from = Socket::bind(SocketAddr::new(to, 0)).unwrap();
                let datagram = [&[7][..], &number.to_be_bytes(), b"rest"].concat();
                let bytes = datagram.repeat(4);
                let transmit = Transmit {
                    to: at,
                    socket: 0,
                    from_ip: None,
                    ecn: None,
                    len: bytes.len(),
                    segment: Some(datagram.len()),
                };
                let flow = from.send(&transmit, &bytes, &mut 0, &counters);
                assert_eq!(flow, Flow::Done);
                let mut inbox = Inbox::new();
                for (index, socket) in group.iter().enumerate() {
                    let mut came = 0;
                    while socket.recv(&mut inbox, &counters).unwrap() > 0 {
                        inbox.each(|_, payload| {
                            assert_eq!(payload, datagram);
                            came += 1;
                        });
                    }
                    let want = if number as usize % 3 == index { 4 } else { 0 };
                    assert_eq!(came, want, "{number} at {index} of {bind}");
                }
            }
        }
    }

    fn listener(ip: IpAddr) -> socket2::Socket {
        let addr = SocketAddr::new(ip, 0);
        let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, None).unwrap();
        if ip.is_ipv4() {
            socket.set_recv_tos_v4(true).unwrap();
        } else {
            socket.set_recv_tclass_v6(true).unwrap();
        }
        socket.bind(&addr.into()).unwrap();
        socket
    }

    /// Length and traffic class of the next datagram.
    fn receive(socket: &socket2::Socket) -> (usize, u8) {
        let (mut bytes, mut control) = ([MaybeUninit::uninit(); 99], [MaybeUninit::new(0); 64]);
        let mut rooms = [MaybeUninitSlice::new(&mut bytes)];
        let mut message = MsgHdrMut::new()
            .with_buffers(&mut rooms)
            .with_control(&mut control);
        let len = socket.recvmsg(&mut message, 0).unwrap();
        assert!(message.control_len() > CONTROL_HEADER);
        // One message; the byte, or an integer that on a little-endian machine begins with it.
        #[allow(unsafe_code)]
        // SAFETY: the whole array was initialised above.
        let byte = unsafe { control[CONTROL_HEADER].assume_init() };
        (len, byte)
    }
}
