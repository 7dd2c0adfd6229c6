//! The load generator: this same program in a process of its own, so that its CPU is not counted.
//!
//! It reads one order per line and answers with the nanoseconds that carrying it out took.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The argument that makes this program the load generator.
pub(crate) const FLAG: &str = "--generate-load";

/// Requests to send over kept connections, each of which waits for its answer before the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) server: SocketAddr,
    pub(crate) connections: usize,
    /// The requests go round so many targets.
    pub(crate) targets: usize,
    /// How large each answer must be.
    pub(crate) bytes: usize,
    pub(crate) requests: usize,
}

/// The running generator; it ends when its input does.
#[derive(Debug)]
pub(crate) struct Load {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Load {
    pub(crate) fn start() -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        let command = command.arg(FLAG).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, orders, answers }
    }

    /// Has the order carried out and tells how long it took.
    pub(crate) fn run(&mut self, order: Order) -> Duration {
        let Order { server, connections, targets, bytes, requests } = order;
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "{server} {connections} {targets} {bytes} {requests}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        Duration::from_nanos(answer.trim().parse().expect("the load generator failed"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ended = self.child.wait();
    }
}

/// Carries out orders until there are no more.
pub(crate) fn generate() {
    let mut kept: HashMap<SocketAddr, Vec<Connection>> = HashMap::new();
    for line in io::stdin().lines() {
        let order = parse(&line.unwrap());
        let connections = kept.entry(order.server).or_default();
        connections.resize_with(order.connections, || Connection::open(order.server));
        let sent = AtomicUsize::new(0);
        let started = Instant::now();
        thread::scope(|scope| {
            for connection in connections {
                let sent = &sent;
                scope.spawn(move || {
                    loop {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        if number >= order.requests {
                            break;
                        }
                        connection.scrape(number % order.targets, order.bytes);
                    }
                });
            }
        });
        println!("{}", started.elapsed().as_nanos());
    }
}

fn parse(line: &str) -> Order {
    let mut words = line.split(' ');
    let server = words.next().unwrap().parse().unwrap();
    let mut number = || words.next().unwrap().parse().unwrap();
    let (connections, targets, bytes, requests) = (number(), number(), number(), number());
    Order { server, connections, targets, bytes, requests }
}

/// One kept HTTP connection.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: vec![0; 256 << 10] }
    }

    /// Sends what Prometheus sends and reads the answer.
    fn scrape(&mut self, target: usize, bytes: usize) {
        let request = format!(
            "GET /scrape/t{target}/metrics HTTP/1.1\r\n\
             Host: 127.0.0.1:30000\r\n\
             User-Agent: Prometheus/3.5.0\r\n\
             Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\
             Accept-Encoding: gzip\r\n\
             X-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes()).unwrap();
        let (mut filled, mut head) = (0, None);
        while head.is_none() {
            filled += self.read(filled);
            head = self.buffer[..filled].windows(4).position(|end| end == b"\r\n\r\n");
        }
        assert!(self.buffer.starts_with(b"HTTP/1.1 200 OK\r\n"), "a scrape was refused");
        let mut missing = head.unwrap() + 4 + bytes - filled;
        while missing > 0 {
            missing -= self.read(0);
        }
    }

    /// Reads behind the first `kept` bytes of the buffer.
    fn read(&mut self, kept: usize) -> usize {
        let read = self.stream.read(&mut self.buffer[kept..]).unwrap();
        assert!(read > 0, "the server hung up");
        read
    }
}
