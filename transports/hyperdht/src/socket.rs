//! A UDP socket that sends and receives many datagrams per system call.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Type};

pub(crate) use self::watched::Room;
use self::watched::{Bare, Watched};

mod watched;

/// A bound socket. Datagrams are never fragmented by the kernel; those that are too long vanish.
pub struct Socket {
    io: Watched,
    state: UdpSocketState,
    local: SocketAddr,
    segmentation: AtomicBool,
}

impl Socket {
    /// Binds `addr`; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Those of the system, of binding mostly.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket =
            socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let io = std::net::UdpSocket::from(socket);
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        without_extras(&io);
        for bytes in RECV_BUFFERS {
            if state.set_recv_buffer_size(UdpSockRef::from(&io), bytes).is_ok()
                && state.recv_buffer_size(UdpSockRef::from(&io))? >= bytes
            {
                break;
            }
        }
        // As large as the system allows is fine; not being allowed is no reason to fail.
        let _ = state.set_send_buffer_size(UdpSockRef::from(&io), SEND_BUFFER);
        let local = io.local_addr()?;
        let segmentation = AtomicBool::new(true);
        Ok(Self { io: Watched::new(io)?, state, local, segmentation })
    }

    /// The address that it is bound to.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Says whether one call may send many datagrams, where the system can do that; the default.
    /// Some virtual networks claim to and then drop what they are given.
    pub fn set_segmentation(&self, allowed: bool) {
        self.segmentation.store(allowed, Ordering::Relaxed);
    }

    fn segments(&self) -> bool {
        self.segmentation.load(Ordering::Relaxed) && self.state.max_gso_segments() >= MAX_SEGMENTS
    }

    /// Sends `contents` to `to`, cut into datagrams of `segment_len`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when the socket is full; others are those of the system and
    /// concern this destination or this size only. Without segmentation offload some datagrams
    /// may have left before.
    pub fn try_send(&self, to: SocketAddr, contents: &[u8], segment_len: usize) -> io::Result<()> {
        if contents.len() <= segment_len {
            return self.send_one(to, contents, None);
        }
        if self.segments() {
            match self.send_one(to, contents, Some(segment_len)) {
                // The kernel, or a driver behind it, has just refused segmentation for good.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock && !self.segments() => {}
                result => return result,
            }
        }
        contents.chunks(segment_len).try_for_each(|datagram| self.send_one(to, datagram, None))
    }

    fn send_one(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        self.state.try_send(UdpSockRef::from(self.io.get()), &transmit)
    }

    /// Sends one datagram as soon as the socket takes it. Cancel-safe: it is sent or it is not.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn send_to(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        loop {
            match self.send_one(to, datagram, None) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            self.io.writable().await?;
        }
    }

    /// Sends one datagram that may take so many hops.
    ///
    /// # Errors
    /// As [`Socket::try_send`].
    pub(crate) fn try_send_with_ttl(
        &self,
        to: SocketAddr,
        contents: &[u8],
        ttl: u8,
    ) -> io::Result<()> {
        send_with_ttl(self.io.get(), to, contents, ttl)
    }

    /// Sets how many hops datagrams may take from now on.
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_ttl(&self, hops: u32) -> io::Result<()> {
        self.io.get().set_ttl(hops)
    }

    /// Has the task of `cx` woken when the socket takes more, as long as the result is kept.
    pub(crate) fn await_room(&self, cx: &mut Context<'_>) -> io::Result<Room> {
        self.io.await_room(cx)
    }

    /// Receives what is there into `buffers`; gives back how many of them were filled.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut ReceiveBuffers,
    ) -> Poll<io::Result<usize>> {
        self.io.poll_receive(cx, RECV_BATCH, |socket| {
            let ReceiveBuffers { memory, metas } = &mut *buffers;
            let mut slices = memory.each_mut().map(|memory| IoSliceMut::new(memory));
            self.state.recv(socket.into(), &mut slices, metas)
        })
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("local", &self.local).finish_non_exhaustive()
    }
}

/// Where datagrams are received, made once per task.
pub(crate) struct ReceiveBuffers {
    memory: [Vec<u8>; RECV_BATCH],
    metas: [RecvMeta; RECV_BATCH],
}

impl ReceiveBuffers {
    pub(crate) fn new() -> Self {
        Self {
            memory: std::array::from_fn(|_| vec![0; RECV_BUFFER_LEN]),
            metas: [RecvMeta::default(); RECV_BATCH],
        }
    }

    /// The datagrams of the first `count` buffers and where they came from. The kernel may have
    /// put several of one length into one buffer.
    pub(crate) fn datagrams(&self, count: usize) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.memory.iter().zip(&self.metas).take(count).flat_map(|(memory, meta)| {
            let filled = memory.get(..meta.len).unwrap_or(&[]);
            let stride = meta.stride.max(1);
            filled.chunks(stride).map(|datagram| (meta.addr, datagram))
        })
    }
}

/// Takes back what quinn-udp asks the kernel to say about each datagram and UDX has no use for:
/// its time, its local address, its ECN bits. They are a tenth of the cost of receiving one.
#[cfg(target_os = "linux")]
fn without_extras(io: &std::net::UdpSocket) {
    use nix::sys::socket::{setsockopt, sockopt};

    // Refused options are merely not saved.
    let _ = setsockopt(io, sockopt::ReceiveTimestampns, &false);
    let _ = setsockopt(io, sockopt::Ipv4PacketInfo, &false);
    let _ = setsockopt(io, sockopt::IpRecvTos, &false);
}

#[cfg(not(target_os = "linux"))]
fn without_extras(_io: &std::net::UdpSocket) {}

/// The number of hops goes with the datagram, so that no other one is affected.
#[cfg(target_os = "linux")]
fn send_with_ttl(io: &Bare, to: SocketAddr, contents: &[u8], ttl: u8) -> io::Result<()> {
    use std::{io::IoSlice, os::fd::AsRawFd};

    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};

    let (to, hops) = (SockaddrStorage::from(to), i32::from(ttl));
    let extra = [ControlMessage::Ipv4Ttl(&hops)];
    sendmsg(io.as_raw_fd(), &[IoSlice::new(contents)], &extra, MsgFlags::empty(), Some(&to))?;
    Ok(())
}

/// Where the number cannot go with the datagram, it is the socket's for a moment.
#[cfg(not(target_os = "linux"))]
fn send_with_ttl(io: &Bare, to: SocketAddr, contents: &[u8], ttl: u8) -> io::Result<()> {
    let usual = io.ttl()?;
    io.set_ttl(ttl.into())?;
    let sent = socket2::SockRef::from(io).send_to(contents, &to.into());
    io.set_ttl(usual)?;
    sent.map(drop)
}

/// Sizes of the receive buffer that are asked for in turn: libudx's, and one above them for
/// senders that use segmentation offload.
const RECV_BUFFERS: [usize; 5] = [4 * 1024 * 1024, 1024 * 1024, 512 * 1024, 256 * 1024, 208 * 1024];
const SEND_BUFFER: usize = 1024 * 1024;
/// Buffers per receive call.
const RECV_BATCH: usize = 4;
/// The longest that the kernel makes of several datagrams.
const RECV_BUFFER_LEN: usize = 64 * 1024;
/// Datagrams per send: what fits the 64 KiB that the kernel takes, at the usual packet length.
pub(crate) const MAX_SEGMENTS: usize = 44;

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_room_is_woken() {
        let socket = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut room = None;
        let woken = poll_fn(|cx| match room {
            None => {
                room = Some(socket.await_room(cx).unwrap());
                Poll::Pending
            }
            Some(_) => Poll::Ready(()),
        });
        timeout(Duration::from_secs(10), woken).await.expect("the socket is not full");
        socket.io.writable().await.unwrap();
    }

    #[tokio::test]
    async fn all_datagrams_come_though_less_than_asked_for_came_before() {
        let socket = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut buffers = ReceiveBuffers::new();
        for count in [1, RECV_BATCH, RECV_BATCH + 1, 1] {
            let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..count {
                sender.send_to(b"x", socket.local_addr()).unwrap();
            }
            let mut received = 0;
            while received < count {
                let some = poll_fn(|cx| socket.poll_recv(cx, &mut buffers));
                let some = timeout(Duration::from_secs(10), some).await.expect("there is more");
                received += buffers.datagrams(some.unwrap()).count();
            }
            assert_eq!(received, count);
        }
    }
}
