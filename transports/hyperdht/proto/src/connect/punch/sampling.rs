//! Asking nodes how they see a fresh socket.

use std::{collections::BTreeSet, net::SocketAddrV4};

use super::{
    context::Context,
    nat::{ALL, Classifier},
};
use crate::{
    handshake::Firewall,
    rpc::{RequestError, RequestId, Response, SocketId},
};

/// Pings from a pool socket, and what follows from them about its NAT.
#[derive(Debug)]
pub(super) struct Sampling {
    socket: u32,
    pub(super) nat: Classifier,
    running: BTreeSet<RequestId>,
    asked: BTreeSet<SocketAddrV4>,
    /// Whether nodes may be asked once more when too few have answered.
    once_more: bool,
    settled: bool,
}

impl Sampling {
    /// Begins to ask.
    pub(super) fn start(cx: &mut Context<'_>, socket: u32) -> Self {
        let mut sampling = Self {
            socket,
            nat: Classifier::new(cx.dht.rpc().is_firewalled()),
            running: BTreeSet::new(),
            asked: BTreeSet::new(),
            once_more: true,
            settled: false,
        };
        sampling.ask(cx);
        sampling.settle(cx);
        sampling
    }

    /// Whether the verdict will not get better by waiting.
    pub(super) const fn is_settled(&self) -> bool {
        self.settled
    }

    /// Takes in that `from` sees the socket as `seen`, as an answer or a request has told.
    pub(super) fn add(&mut self, cx: &mut Context<'_>, seen: SocketAddrV4, from: SocketAddrV4) {
        self.nat.add(seen, from);
        self.settle(cx);
    }

    /// One of its pings has ended.
    pub(super) fn on_pong(
        &mut self,
        cx: &mut Context<'_>,
        request: RequestId,
        pong: Result<Response, RequestError>,
    ) {
        if !self.running.remove(&request) {
            return;
        }
        if let Ok(pong) = pong {
            self.nat.add(pong.to, pong.from.addr);
        }
        self.settle(cx);
    }

    /// Asks nobody any more.
    pub(super) fn stop(&mut self) {
        self.running.clear();
        self.once_more = false;
    }

    /// Pings some nodes of the table. Those heard from last are left out where there are enough:
    /// they may be the ones that punches go through, which are heard anyway.
    fn ask(&mut self, cx: &mut Context<'_>) {
        let skip = if cx.dht.rpc().table_len() >= MANY { SKIPPED } else { 0 };
        let nodes = cx.dht.rpc().latest_nodes(skip + self.asked.len() + PINGS);
        for node in nodes.into_iter().skip(skip) {
            if self.nat.sampled() + self.running.len() >= PINGS {
                return;
            }
            if self.asked.insert(node) {
                let ping = cx.ping(node, SocketId::Pool(self.socket));
                self.running.insert(ping);
            }
        }
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        if self.running.is_empty()
            && self.nat.sampled() < ALL
            && std::mem::take(&mut self.once_more)
        {
            self.ask(cx);
        }
        let known = matches!(self.nat.firewall(), Firewall::Consistent | Firewall::Open);
        self.settled |= known || self.nat.sampled() >= ALL || self.running.is_empty();
    }
}

/// Nodes asked at a time: one more than it takes, since one may be gone.
const PINGS: usize = ALL + 1;

/// With so many nodes known, the [`SKIPPED`] heard from last are not asked (`hyperdht/lib/nat.js`).
const MANY: usize = 8;
const SKIPPED: usize = 5;
