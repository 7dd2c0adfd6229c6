//! The task that drives a node.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use hyperdht_proto::{connect::PUNCH_BYTE, dht::Event, rpc::SocketId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    core::{Core, Lookup, State},
    sockets::Inbound,
};
use crate::udx::{Datagram, Datagrams};

/// Gives the state machine datagrams and the time, and events to whom they concern, until the node
/// has stopped.
pub(super) async fn run(core: Arc<Core>, mut inbound: Inbound, stopped: CancellationToken) {
    loop {
        let deadline = settle(&core);
        tokio::select! {
            biased;
            () = stopped.cancelled() => return,
            () = core.changed() => {}
            Some(datagram) = inbound.server.recv() => {
                take_in_waiting(&core, &mut inbound.pool);
                take_in(&core, SocketId::Server, datagram, &mut inbound.server);
            }
            Some(datagram) = inbound.client.recv() => {
                take_in_waiting(&core, &mut inbound.pool);
                take_in(&core, SocketId::Client, datagram, &mut inbound.client);
            }
            Some((socket, datagram)) = inbound.pool.recv() => {
                take_in_pool(&core, (socket, datagram), &mut inbound.pool);
            }
            () = until(deadline) => {}
        }
    }
}

/// Takes in what has arrived on a socket, some datagrams at a time.
fn take_in(core: &Core, socket: SocketId, first: Datagram, more: &mut Datagrams) {
    let mut state = core.lock();
    let now = Instant::now();
    let arrived = std::iter::once(first).chain(std::iter::from_fn(|| more.try_recv()));
    for datagram in arrived.take(MAX_DATAGRAMS) {
        if let SocketAddr::V4(from) = datagram.from {
            state.dht.handle_datagram(now, socket, from, &datagram.bytes);
        }
    }
}

/// The same for the sockets of the pool, where single bytes are no messages.
fn take_in_pool(core: &Core, first: (u32, Datagram), more: &mut mpsc::Receiver<(u32, Datagram)>) {
    let mut state = core.lock();
    let State { dht, puncher, .. } = &mut *state;
    let now = Instant::now();
    let arrived = std::iter::once(first).chain(std::iter::from_fn(|| more.try_recv().ok()));
    for (socket, datagram) in arrived.take(MAX_DATAGRAMS) {
        let SocketAddr::V4(from) = datagram.from else { continue };
        if datagram.bytes.len() == PUNCH_BYTE.len() {
            puncher.handle_byte(dht, now, socket, from);
        } else {
            dht.handle_datagram(now, SocketId::Pool(socket), from, &datagram.bytes);
        }
    }
}

/// Takes in what waits on the sockets of the pool, before what has come on another: a handshake that
/// came straight through a hole is to be seen before its copies that took a node's detour.
fn take_in_waiting(core: &Core, pool: &mut mpsc::Receiver<(u32, Datagram)>) {
    if let Ok(first) = pool.try_recv() {
        take_in_pool(core, first, pool);
    }
}

/// Does what is due and tells what has happened; says when to come back.
fn settle(core: &Arc<Core>) -> Option<Instant> {
    let now = Instant::now();
    let mut state = core.lock();
    state.keep_time(now);
    look_after_links(&mut state, now);
    while let Some(event) = state.dht.poll_event() {
        if matches!(event, Event::NetworkChanged) {
            core.on_network_changed(&mut state, now);
        } else if matches!(event, Event::Suspended) {
            core.on_suspended();
        }
        if let Some(lookup) = state.dispatch(now, event) {
            tokio::spawn(resolve(Arc::clone(core), lookup));
        }
    }
    core.transmit(&mut state);
    state.deadline()
}

/// A suspended node has nothing to do.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn look_after_links(state: &mut State, now: Instant) {
    while let Some(entry) = state.links.first_entry()
        && entry.key().0 <= now
    {
        let number = entry.key().1;
        let link = entry.remove();
        if let Some(next) = link.upgrade().and_then(|link| link.tick(now)) {
            state.links.insert((next, number), link);
        }
    }
}

/// Looks a bootstrap node's name up. The number of entries bounds these tasks, and the system's
/// resolver their time.
async fn resolve(core: Arc<Core>, lookup: Lookup) {
    let Lookup { key, name } = lookup;
    let found = tokio::net::lookup_host((name.as_str(), 0)).await;
    let ip = found.ok().into_iter().flatten().find_map(|address| match address {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    });
    core.with_dht(|dht, now| dht.resolved(now, key, ip));
}

/// Datagrams taken in at a time, before what follows from them is done.
const MAX_DATAGRAMS: usize = 64;
