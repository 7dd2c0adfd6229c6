//! A bounded message stream in memory, and two muxes joined by it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{Sink, Stream, sink, stream};
use protomux::{Limits, Mux, MuxDriver, MuxError};
use tokio::{
    sync::mpsc::{self, error::SendError},
    task::JoinHandle,
};

pub(crate) type Tx = Pin<Box<dyn Sink<Bytes, Error = SendError<Bytes>> + Send>>;
pub(crate) type Rx = Pin<Box<dyn Stream<Item = Result<Bytes, SendError<Bytes>>> + Send>>;
pub(crate) type Driver = MuxDriver<Tx, Rx>;
pub(crate) type Log = Arc<Mutex<Vec<Bytes>>>;

/// One direction: a sink that waits while `frames` are unread, a stream, and what passed.
pub(crate) fn pipe(frames: usize) -> (Tx, Rx, Log) {
    let log = Log::default();
    let tap = Arc::clone(&log);
    let (tx, rx) = mpsc::channel::<Bytes>(frames);
    let tx = sink::unfold((tx, tap), |(tx, tap), frame: Bytes| async move {
        tap.lock().unwrap().push(frame.clone());
        tx.send(frame).await?;
        Ok((tx, tap))
    });
    let rx = stream::unfold(rx, |mut rx| async move { Some((Ok(rx.recv().await?), rx)) });
    (Box::pin(tx), Box::pin(rx), log)
}

/// Two muxes whose drivers do not run yet.
pub(crate) struct Pair {
    pub(crate) a: Mux,
    pub(crate) b: Mux,
    pub(crate) driver_a: Driver,
    pub(crate) driver_b: Driver,
    pub(crate) from_a: Log,
    pub(crate) from_b: Log,
}

pub(crate) fn pair(limits: &Limits) -> Pair {
    let (tx_a, rx_b, from_a) = pipe(4);
    let (tx_b, rx_a, from_b) = pipe(4);
    let (a, driver_a) = Mux::new(tx_a, rx_a, limits.clone());
    let (b, driver_b) = Mux::new(tx_b, rx_b, limits.clone());
    Pair { a, b, driver_a, driver_b, from_a, from_b }
}

/// A mux whose other end is the test itself, frame by frame.
pub(crate) struct Lone {
    pub(crate) mux: Mux,
    pub(crate) driver: Driver,
    pub(crate) tx: mpsc::Sender<Bytes>,
    pub(crate) rx: mpsc::Receiver<Bytes>,
}

pub(crate) fn lone(limits: Limits) -> Lone {
    let (tx_mux, rx) = mpsc::channel::<Bytes>(1);
    let (tx, rx_mux) = mpsc::channel::<Bytes>(1);
    let sink: Tx = Box::pin(sink::unfold(tx_mux, |tx, frame: Bytes| async move {
        tx.send(frame).await?;
        Ok(tx)
    }));
    let stream: Rx =
        Box::pin(stream::unfold(rx_mux, |mut rx| async move { Some((Ok(rx.recv().await?), rx)) }));
    let (mux, driver) = Mux::new(sink, stream, limits);
    Lone { mux, driver, tx, rx }
}

pub(crate) type Ended = JoinHandle<Result<(), MuxError<SendError<Bytes>>>>;
