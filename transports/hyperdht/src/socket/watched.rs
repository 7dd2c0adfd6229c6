//! When a socket has datagrams, and when it takes some.

#[cfg(not(unix))]
pub(crate) use elsewhere::Room;
#[cfg(not(unix))]
pub(super) use elsewhere::{Bare, Watched};
#[cfg(unix)]
pub(crate) use unix::Room;
#[cfg(unix)]
pub(super) use unix::{Bare, Watched};

/// The runtime's own UDP sockets are always watched for room to send into as well. Linux finds such
/// room with each datagram that leaves the socket (`sock_wfree` in its `net/core/sock.c`), so that
/// each send would wake the thread once more, for nothing. Here room is watched only while it lacks.
#[cfg(unix)]
mod unix {
    use std::{
        io,
        net::UdpSocket,
        task::{Context, Poll, ready},
    };

    use tokio::io::{Interest, unix::AsyncFd};

    /// The socket below.
    pub(in crate::socket) type Bare = UdpSocket;

    /// A socket that is watched for datagrams to receive.
    #[derive(Debug)]
    pub(in crate::socket) struct Watched(AsyncFd<UdpSocket>);

    /// A full socket, watched for room.
    #[derive(Debug)]
    pub(crate) struct Room(AsyncFd<UdpSocket>);

    impl Watched {
        pub(in crate::socket) fn new(socket: UdpSocket) -> io::Result<Self> {
            watch(socket, Interest::READABLE).map(Self)
        }

        pub(in crate::socket) fn get(&self) -> &Bare {
            self.0.get_ref()
        }

        /// Calls `receive` once there may be something, and again until there is. With less than
        /// `most`, all that was there has come.
        pub(in crate::socket) fn poll_receive(
            &self,
            cx: &mut Context<'_>,
            most: usize,
            mut receive: impl FnMut(&Bare) -> io::Result<usize>,
        ) -> Poll<io::Result<usize>> {
            loop {
                let mut ready = ready!(self.0.poll_read_ready(cx))?;
                let Ok(received) = ready.try_io(|socket| receive(socket.get_ref())) else {
                    continue;
                };
                // Saying so saves the call that would find out. What arrives from now on makes the
                // socket ready again.
                if received.as_ref().is_ok_and(|count| *count < most) {
                    ready.clear_ready();
                }
                return Poll::Ready(received);
            }
        }

        /// Has the task of `cx` woken when the socket takes datagrams, as long as the result is kept.
        pub(in crate::socket) fn await_room(&self, cx: &mut Context<'_>) -> io::Result<Room> {
            let room = Room::of(self.get())?;
            if room.0.poll_write_ready(cx)?.is_ready() {
                cx.waker().wake_by_ref();
            }
            Ok(room)
        }

        /// Waits until the socket takes datagrams. Cancel-safe.
        pub(in crate::socket) async fn writable(&self) -> io::Result<()> {
            Room::of(self.get())?.0.writable().await.map(drop)
        }
    }

    impl Room {
        /// The system watches each handle by itself.
        fn of(socket: &UdpSocket) -> io::Result<Self> {
            watch(socket.try_clone()?, Interest::WRITABLE).map(Self)
        }
    }

    #[expect(
        deprecated,
        reason = "for types whose descriptor may be closed behind their back; here it is the socket's own"
    )]
    fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
        AsyncFd::with_interest(socket, interest)
    }
}

/// Systems without file descriptors: the runtime's own socket.
#[cfg(not(unix))]
mod elsewhere {
    use std::{
        io,
        task::{Context, Poll, ready},
    };

    use tokio::{io::Interest, net::UdpSocket};

    /// The socket below.
    pub(in crate::socket) type Bare = UdpSocket;

    /// A socket that is watched.
    #[derive(Debug)]
    pub(in crate::socket) struct Watched(UdpSocket);

    impl Watched {
        pub(in crate::socket) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
            UdpSocket::from_std(socket).map(Self)
        }

        pub(in crate::socket) const fn get(&self) -> &Bare {
            &self.0
        }

        /// Calls `receive` once there may be something, and again until there is.
        pub(in crate::socket) fn poll_receive(
            &self,
            cx: &mut Context<'_>,
            _most: usize,
            mut receive: impl FnMut(&Bare) -> io::Result<usize>,
        ) -> Poll<io::Result<usize>> {
            loop {
                ready!(self.0.poll_recv_ready(cx))?;
                match self.0.try_io(Interest::READABLE, || receive(&self.0)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return Poll::Ready(received),
                }
            }
        }

        /// Has the task of `cx` woken when the socket takes datagrams.
        pub(in crate::socket) fn await_room(&self, cx: &mut Context<'_>) -> io::Result<Room> {
            self.is_full();
            if self.0.poll_send_ready(cx)?.is_ready() {
                cx.waker().wake_by_ref();
            }
            Ok(Room)
        }

        /// Waits until the socket takes datagrams. Cancel-safe.
        pub(in crate::socket) async fn writable(&self) -> io::Result<()> {
            self.is_full();
            self.0.writable().await
        }

        /// Tells the runtime what a send has found.
        fn is_full(&self) {
            let full = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.0.try_io(Interest::WRITABLE, full);
        }
    }

    /// Sockets are watched for room anyway.
    #[derive(Debug)]
    pub(crate) struct Room;
}
