//! What the wrappers of the seam add, shown on the memory transport.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dht_prom_transport::{
    Delayed, ErrorKind, Fault, Faulty, Meter, Metered, PublicKey, Role, Session, Transport,
};
use dht_prom_transport_memory::{Memory, MemoryNetwork};
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout};

const SERVER: PublicKey = PublicKey::from_bytes([2; 32]);

#[tokio::test(start_paused = true)]
async fn delayed_dials_take_the_delay() {
    let (client, server) = network();
    let began = Instant::now();
    let slow = Delayed::new(client, Duration::from_secs(3));
    join(&slow, &server).await;
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn faults_come_and_go() {
    let (client, server) = network();
    let faulty = Faulty::new(client);
    faulty.set(Some(Fault::Unreachable));
    assert_eq!(faulty.dial(SERVER).await.unwrap_err().kind(), ErrorKind::Unreachable);
    faulty.set(Some(Fault::Silent));
    assert!(timeout(Duration::from_secs(60), faulty.dial(SERVER)).await.is_err());
    faulty.set(Some(Fault::BreakAfter(1)));
    let (mut dialled, mut accepted) = join(&faulty, &server).await;
    for message in ["one", "two"] {
        accepted.tx.send(message.into()).await.unwrap();
    }
    assert_eq!(dialled.rx.next().await.unwrap().unwrap(), "one");
    assert_eq!(dialled.rx.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(dialled.rx.next().await.is_none());
    faulty.set(None);
    join(&faulty, &server).await;
}

#[derive(Debug, Default)]
struct Counts {
    dialled: AtomicUsize,
    failed: AtomicUsize,
    open: AtomicUsize,
    sent: AtomicUsize,
    received: AtomicUsize,
}

impl Meter for Counts {
    fn dialled(&self, outcome: Result<(), ErrorKind>) {
        let count = if outcome.is_ok() { &self.dialled } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn opened(&self, _role: Role) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    fn closed(&self, _role: Role) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_meter_sees_dials_sessions_and_bytes() {
    let (client, server) = network();
    let (here, there) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    let client = Metered::new(client, Arc::clone(&here) as Arc<dyn Meter>);
    let server = Metered::new(server, Arc::clone(&there) as Arc<dyn Meter>);
    assert!(client.dial([9; 32].into()).await.is_err());
    let (mut dialled, mut accepted) = join(&client, &server).await;
    dialled.tx.send("hello".into()).await.unwrap();
    accepted.rx.next().await.unwrap().unwrap();
    let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    assert_eq!([&here.dialled, &here.failed, &here.open, &here.sent].map(read), [1, 1, 1, 5]);
    assert_eq!([&there.dialled, &there.open, &there.received].map(read), [0, 1, 5]);
    drop(dialled.tx);
    assert_eq!(read(&here.open), 1, "half a session is still open");
    drop(dialled.rx);
    drop(accepted);
    assert_eq!([&here.open, &there.open].map(read), [0, 0]);
}

fn network() -> (Memory, Memory) {
    let network = MemoryNetwork::default();
    (network.join([1; 32].into()), network.join(SERVER))
}

async fn join(client: &dyn Transport, server: &dyn Transport) -> (Session, Session) {
    let mut listener = server.listen().await.expect("listening works");
    let accept = async { listener.accept().await.expect("listening works").accept().await };
    let (dialled, accepted) = tokio::join!(client.dial(SERVER), accept);
    (dialled.expect("dialled"), accepted.expect("accepted"))
}
