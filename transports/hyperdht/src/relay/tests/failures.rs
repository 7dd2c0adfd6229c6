//! Relays that lose what they are given, or do not do what they say.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::sync::Notify;

use super::{
    lies::{Both, Side, detoured, echo, meet, relay_that},
    *,
};
use crate::{
    node::{AcceptError, ConnectError},
    udx::Path,
};

/// The side that was heard first, and from where.
#[derive(Default)]
struct First {
    heard: Mutex<Option<(usize, Path)>>,
    changed: Notify,
}

/// Forwards as libudx does: the first packet of all goes to somebody who was never heard, and is lost.
async fn lose_the_first(node: Node, sides: [Side; 2]) {
    let first = Arc::new(First::default());
    let streams = [0, 1].map(|index| {
        let remote_id = sides[index].pair.stream_id;
        let stream = node.shared().open_stream(|| {
            let first = Arc::clone(&first);
            Firewall::new(move |from| {
                match *first.heard.lock().unwrap().get_or_insert((index, from)) {
                    (heard, _) if heard == index => {
                        first.changed.notify_one();
                        Verdict::Drop
                    }
                    _ => Verdict::Connect { remote_id },
                }
            })
        });
        stream.unwrap()
    });
    streams[0].relay_to(&streams[1]).unwrap();
    streams[1].relay_to(&streams[0]).unwrap();
    let mut sides = sides;
    for (side, stream) in sides.iter_mut().zip(&streams) {
        side.answer(stream.id()).await;
    }
    first.changed.notified().await;
    let (heard, path) = first.heard.lock().unwrap().unwrap();
    let _ = streams[heard].connect_path(path, sides[heard].pair.stream_id);
    streams[heard].closed().await.unwrap_err();
}

#[tokio::test]
async fn the_packet_that_a_relay_loses_before_the_other_side_is_there_costs_no_timeout() {
    let net = Testnet::start(3).await.unwrap();
    let (_host, key) = relay_that(&net, lose_the_first).await;
    let (client, server) = (detoured(&net, &[key]).await, detoured(&net, &[]).await);
    // Either side may be the first.
    for seed in 1..4 {
        let began = Instant::now();
        let (ours, theirs) = meet(&client, &server, seed).await;
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        echo(&mut ours, &mut theirs, "there").await;
    }
}

/// Dials over a relay that does this.
async fn meet_at<F: Future<Output = ()> + Send + 'static>(
    join: impl Fn(Node, [Side; 2]) -> F + Send + 'static,
) -> Both {
    let net = Testnet::start(3).await.unwrap();
    let (_host, key) = relay_that(&net, join).await;
    let (client, server) = (detoured(&net, &[key]).await, detoured(&net, &[]).await);
    meet(&client, &server, 1).await
}

#[tokio::test]
async fn a_relay_that_closes_when_it_is_asked_fails_the_dial_at_once() {
    let began = Instant::now();
    let (ours, theirs) = meet_at(async |_, sides| drop(sides)).await;
    let ours = ours.unwrap_err();
    assert!(matches!(ours, ConnectError::Relay { relay: RelayError::Closed, .. }), "{ours}");
    assert_eq!(theirs.unwrap_err(), AcceptError::Gone);
    // Neither side waits for a direct path, which neither wants.
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_relay_that_says_that_it_joins_and_does_not_fails_the_dial_in_time() {
    let never_forwards = meet_at(async |node, sides| {
        let deaf = || Firewall::new(|_| Verdict::Drop);
        let mut kept = Vec::new();
        for mut side in sides {
            let stream = node.shared().open_stream(deaf).unwrap();
            side.answer(stream.id()).await;
            kept.push((side, stream));
        }
        std::future::pending().await
    });
    let swaps_the_streams = meet_at(async |node, sides| {
        let mut kept = Vec::new();
        let ids = sides.each_ref().map(|side| side.pair.stream_id);
        for (mut side, id) in sides.into_iter().zip(ids) {
            // Nobody's at the relay: it is the client's own.
            side.answer(id).await;
            kept.push(side);
        }
        drop(node);
        std::future::pending().await
    });
    let leaves = meet_at(async |_, sides| {
        for mut side in sides {
            side.answer(7).await;
        }
    });
    let all = tokio::join!(never_forwards, swaps_the_streams, leaves);
    for (ours, theirs) in <[Both; 3]>::from(all) {
        assert_eq!(ours.unwrap_err(), ConnectError::Silent);
        assert_eq!(theirs.unwrap_err(), AcceptError::Gone);
    }
}
