//! Whatever a peer sends, a table answers or refuses, within its bounds.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use protomux::{Channels, Event, Limits, MuxError, Protocol, Reply, RpcFault, RpcHandler};

use crate::pipe::{Lone, lone};

fn tight() -> Limits {
    Limits {
        channels: 4,
        undecided: 3,
        undecided_bytes: 2048,
        transmit_frames: 8,
        name_bytes: 8,
        ..Limits::default()
    }
}

/// Bytes that are often a frame.
fn frame() -> impl Strategy<Value = Bytes> {
    let small = 0..6_u8;
    let item = prop_oneof![
        (small.clone(), small.clone()).prop_map(|(id, name)| vec![0, 1, id, 1, b'a' + name, 0]),
        small.clone().prop_map(|id| vec![0, 2, id]),
        small.clone().prop_map(|id| vec![0, 3, id]),
        (small, prop::collection::vec(any::<u8>(), 0..600)).prop_map(|(id, mut bytes)| {
            bytes.insert(0, 0);
            bytes.insert(0, id);
            bytes
        }),
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(0..4_u8, 0..40).prop_map(|mut bytes| {
            bytes.splice(0..0, [0, 0]);
            bytes
        }),
    ];
    item.prop_map(Bytes::from)
}

proptest! {
    #[test]
    fn any_frames_are_answered_within_the_limits(
        frames in prop::collection::vec(frame(), 0..60),
        accept in any::<u8>(),
    ) {
        let mut table = Channels::new(tight());
        table.open(&Protocol::new("a"), b"").unwrap();
        let mut undecided = Vec::new();
        'frames: for frame in frames {
            if !table.wants_frame() {
                // An open waits for room, or messages for a decision.
                while table.poll_transmit().is_some() {}
                for id in undecided.drain(..) {
                    table.reject(id);
                }
                while let Ok(Some(_)) = table.poll_event() {}
            }
            if !table.wants_frame() {
                break;
            }
            if table.receive(frame).is_err() {
                break;
            }
            loop {
                match table.poll_event() {
                    Err(_) => break 'frames,
                    Ok(None) => break,
                    Ok(Some(Event::Incoming { id, .. })) => {
                        if accept & 1 == 0 || table.accept(id, b"").is_err() {
                            undecided.push(id);
                        }
                    }
                    Ok(Some(Event::Withdrawn { id })) => undecided.retain(|other| *other != id),
                    Ok(Some(_)) => {}
                }
            }
            prop_assert!(undecided.len() <= tight().undecided);
        }
        // The bound, what each undecided open may add, and one answer.
        let left = std::iter::from_fn(|| table.poll_transmit()).count();
        prop_assert!(left <= tight().transmit_frames + tight().undecided + 1, "{left}");
    }

    #[test]
    fn a_mux_answers_or_refuses_any_frames(frames in prop::collection::vec(frame(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let Lone { mux, driver, tx, mut rx } = lone(tight());
            mux.serve(Protocol::new("a"), Arc::new(Echo));
            let _rpc = mux.open(&Protocol::new("b"), Some(Arc::new(Echo))).unwrap();
            let peer = async {
                for frame in frames {
                    if tx.send(frame).await.is_err() {
                        break;
                    }
                }
                drop(tx);
            };
            let answers = async { while rx.recv().await.is_some() {} };
            let (outcome, (), ()) = tokio::join!(driver, peer, answers);
            assert!(matches!(outcome, Ok(()) | Err(MuxError::Violation(_))), "{outcome:?}");
        });
    }
}

struct Echo;

#[async_trait::async_trait]
impl RpcHandler for Echo {
    async fn request(&self, _: &str, value: Bytes) -> Result<Reply, RpcFault> {
        Ok(Reply::new(value))
    }
}
