//! A bad network between two sockets of this machine.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::UdpSocket,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// What is done to each packet, in both directions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Impairment {
    /// How likely it vanishes.
    pub(crate) loss: f64,
    /// How likely it is sent twice.
    pub(crate) duplication: f64,
    /// How likely it is overtaken by those of the next milliseconds.
    pub(crate) reordering: f64,
    /// Time that it takes.
    pub(crate) delay: Duration,
}

/// Forwards between whoever sends to it and a fixed target. Stops when dropped.
pub(crate) struct Forwarder {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Starts to forward to `target`.
    pub(crate) async fn start(target: SocketAddr, impairment: Impairment) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for socket in [&front, &back] {
            let _ = socket2::SockRef::from(socket).set_recv_buffer_size(4 * 1024 * 1024);
        }
        let address = front.local_addr().unwrap();
        let task = tokio::spawn(forward(Arc::new(front), Arc::new(back), target, impairment));
        Self { address, task }
    }

    /// Where to send.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    front: Arc<UdpSocket>,
    back: Arc<UdpSocket>,
    target: SocketAddr,
    impairment: Impairment,
) {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut client = None;
    let mut held: BTreeMap<(Instant, u64), (bool, Vec<u8>)> = BTreeMap::new();
    let mut count = 0;
    let (mut there, mut here) = (vec![0; 2048], vec![0; 2048]);
    loop {
        let due = held.first_key_value().map(|((at, _), _)| *at);
        let (to_target, packet) = tokio::select! {
            received = front.recv_from(&mut there) => {
                let (len, from) = received.unwrap();
                client = Some(from);
                (true, there[..len].to_vec())
            }
            received = back.recv_from(&mut here) => {
                let (len, _) = received.unwrap();
                (false, here[..len].to_vec())
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                while let Some(entry) = held.first_entry() {
                    if entry.key().0 > Instant::now() {
                        break;
                    }
                    let (to_target, packet) = entry.remove();
                    match (to_target, client) {
                        (true, _) => drop(back.send_to(&packet, target).await),
                        (false, Some(client)) => drop(front.send_to(&packet, client).await),
                        (false, None) => {}
                    }
                }
                continue;
            }
        };
        let copies = if rng.f64() < impairment.duplication { 2 } else { 1 };
        for _ in 0..copies {
            if rng.f64() < impairment.loss {
                continue;
            }
            let mut at = Instant::now() + impairment.delay;
            if rng.f64() < impairment.reordering {
                at += Duration::from_millis(rng.u64(1..5));
            }
            count += 1;
            held.insert((at, count), (to_target, packet.clone()));
        }
    }
}
