//! Relays that lose what they are given.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::sync::Notify;

use super::{
    lies::{Side, detoured, echo, meet, relay_that},
    *,
};
use crate::udx::Path;

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
