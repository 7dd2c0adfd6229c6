//! Streams over real sockets of this machine: what waiting, dropping and stopping do.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{future::Future, io, pin::pin, task::Poll, time::Duration};

use bytes::Bytes;
use hyperdht_rs::{
    socket::Socket,
    udx::{
        Config, Datagrams, Firewall, Reading, StreamError, StreamOptions, Udx, UdxSocket, UdxStream,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// One node with a socket.
struct Node {
    udx: Udx,
    socket: UdxSocket,
    datagrams: Datagrams,
}

impl Node {
    fn new() -> Self {
        Self::at("127.0.0.1:0")
    }

    fn at(addr: &str) -> Self {
        let udx = Udx::new(Config::default());
        let (socket, datagrams) = udx.bind(addr.parse().unwrap()).unwrap();
        Self { udx, socket, datagrams }
    }

    fn dial(&self, to: &Self, id: u32) -> UdxStream {
        let stream = self.udx.open(id, StreamOptions::default()).unwrap();
        let peer = to.socket.local_addr();
        stream.connect(&self.socket, id, peer).unwrap();
        stream
    }

    fn accept(&self, id: u32, reading: Reading) -> UdxStream {
        let options = StreamOptions {
            firewall: Some(Firewall::connect_to_first(id)),
            reading,
            ..StreamOptions::default()
        };
        self.udx.open(id, options).unwrap()
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), future).await.expect("the test hangs")
}

const FRAMES: Reading = Reading::Frames { max_len: 1 << 20 };

#[tokio::test]
async fn frames_come_whole_and_in_order() {
    let (a, b) = (Node::new(), Node::new());
    let mut reader = b.accept(1, FRAMES);
    let mut writer = a.dial(&b, 1);
    let frames: Vec<Bytes> = [0, 1, 1000, 300_000, 1 << 20]
        .iter()
        .map(|&len| Bytes::from(vec![len as u8; len]))
        .collect();
    let sent = frames.clone();
    let writing = tokio::spawn(async move {
        for frame in sent {
            writer.write_frame(frame).await.unwrap();
        }
        writer.shutdown().await.unwrap();
        writer
    });
    for frame in frames {
        assert_eq!(soon(reader.read()).await.unwrap().unwrap(), frame);
    }
    assert_eq!(soon(reader.read()).await, Ok(None));
    soon(writing).await.unwrap();
}

#[tokio::test]
async fn a_dropped_read_loses_nothing() {
    let (a, b) = (Node::new(), Node::new());
    let mut reader = b.accept(1, FRAMES);
    let mut writer = a.dial(&b, 1);
    tokio::select! {
        biased;
        _ = reader.read() => panic!("nothing was sent"),
        () = std::future::ready(()) => {}
    }
    writer.write_frame(Bytes::from_static(b"kept")).await.unwrap();
    assert_eq!(&soon(reader.read()).await.unwrap().unwrap()[..], b"kept");
}

#[tokio::test]
async fn a_dropped_write_wrote_all_or_nothing() {
    let (a, b) = (Node::new(), Node::new());
    let mut reader = b.accept(1, FRAMES);
    let mut writer = a.dial(&b, 1);
    // Nobody has read yet: what fits the queues is taken, then a write waits and is given up.
    let mut written = 0;
    loop {
        let mut write = pin!(writer.write_frame(vec![0; 1 << 20].into()));
        let mut tries = 0;
        let taken = std::future::poll_fn(|cx| match write.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if tries == 50 => Poll::Ready(None),
            Poll::Pending => {
                tries += 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        });
        match soon(taken).await {
            Some(done) => done.unwrap(),
            None => break,
        }
        written += 1;
        assert!(written < 100, "the queue has no bound");
    }
    let reading = tokio::spawn(async move {
        let mut read = 0;
        while let Some(frame) = reader.read().await.unwrap() {
            assert_eq!(frame.len(), 1 << 20);
            read += 1;
        }
        read
    });
    soon(writer.shutdown()).await.unwrap();
    assert_eq!(soon(reading).await.unwrap(), written);
}

#[tokio::test]
async fn dropping_a_stream_resets_the_other_end() {
    let (a, b) = (Node::new(), Node::new());
    let accepted = b.accept(1, Reading::Bytes);
    let mut dialled = a.dial(&b, 1);
    dialled.write_all(b"x").await.unwrap();
    soon(accepted.connected()).await.unwrap();
    drop(accepted);
    assert_eq!(soon(dialled.closed()).await, Err(StreamError::Reset));
    let error = dialled.write_all(b"y").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn the_last_handle_sends_its_farewell() {
    let (a, b) = (Node::new(), Node::new());
    let mut accepted = b.accept(1, Reading::Bytes);
    let Node { udx, socket, .. } = a;
    let mut dialled = udx.open(1, StreamOptions::default()).unwrap();
    dialled.connect(&socket, 1, b.socket.local_addr()).unwrap();
    dialled.write_all(b"x").await.unwrap();
    dialled.flushed().await.unwrap();
    drop((udx, dialled));
    drop(socket);
    // The DESTROY leaves before the socket goes, or the END of the wait is a timeout.
    let mut bytes = Vec::new();
    let read = soon(accepted.read_to_end(&mut bytes)).await;
    assert!(read.is_err() && bytes == b"x");
}

#[tokio::test]
async fn datagrams_of_other_protocols_go_aside() {
    let (a, mut b) = (Node::new(), Node::new());
    let to = b.socket.local_addr();
    a.socket.send_to(to, b"find me").await.unwrap();
    let datagram = soon(b.datagrams.recv()).await.unwrap();
    assert_eq!(datagram.from, a.socket.local_addr());
    assert_eq!(&datagram.bytes[..], b"find me");
}

#[tokio::test]
async fn a_stream_is_found_on_any_socket_of_its_node() {
    let (a, b) = (Node::new(), Node::new());
    let (pool, _datagrams) = b.udx.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let accepted = b.accept(1, Reading::Bytes);
    let mut dialled = a.udx.open(1, StreamOptions::default()).unwrap();
    dialled.connect(&a.socket, 1, pool.local_addr()).unwrap();
    dialled.write_all(b"x").await.unwrap();
    let path = soon(accepted.connected()).await.unwrap();
    assert_eq!(path.socket, pool.id());
}

#[test]
fn streams_do_not_outwait_their_runtime() {
    let mut stream = in_runtime(async {
        let stream = Node::new().accept(1, Reading::Bytes);
        tokio::task::yield_now().await;
        stream
    });
    in_runtime(async {
        assert_eq!(soon(stream.read()).await, Err(StreamError::Destroyed));
    });
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[tokio::test]
async fn a_batch_arrives_as_its_datagrams_with_and_without_offload() {
    let mut node = Node::new();
    let sender = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let to = node.socket.local_addr();
    sender.send_to(to, b"makes the socket writable").await.unwrap();
    soon(node.datagrams.recv()).await.unwrap();
    let batch: Vec<u8> = (0..25).collect();
    for segmentation in [true, false] {
        sender.set_segmentation(segmentation);
        sender.try_send(to, &batch, 10).unwrap();
        for part in batch.chunks(10) {
            assert_eq!(soon(node.datagrams.recv()).await.unwrap().bytes, part);
        }
    }
}

#[tokio::test]
async fn megabytes_cross_without_offload_and_over_ipv6() {
    let (a, b) = (Node::at("[::1]:0"), Node::at("[::1]:0"));
    a.socket.socket().set_segmentation(false);
    let mut reader = b.accept(1, Reading::Bytes);
    let mut writer = a.dial(&b, 1);
    let data: Vec<u8> = (0..=250).cycle().take(4_000_000).collect();
    let writing = async {
        writer.write_all(&data).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut read = Vec::new();
    let (read_len, ()) = soon(async { tokio::join!(reader.read_to_end(&mut read), writing) }).await;
    assert_eq!(read_len.unwrap(), data.len());
    assert!(read == data, "bytes differ");
}
