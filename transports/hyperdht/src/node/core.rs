//! What a node's task and its handles share.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use hyperdht_proto::{
    connect::{PunchId, Puncher, RelayCache},
    dht::{Dht, Event, ServerId},
    handshake::RelayThrough,
    keys::KeyPair,
    rpc::{self, QueryId, RequestId, Response},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, oneshot, watch};

use super::{
    blind_relays::BlindRelays,
    dialling::{DialEntry, Ways},
    listening::Door,
    network::Surroundings,
    options::{NodeOptions, StartError},
    punching::End,
    queries::QueryEntry,
    routes::Routes,
    sockets::{Inbound, PoolSocket, Sockets},
    suspension::Activity,
    unheard::Unheard,
};
use crate::{
    connection::{Connection, Link},
    udx::{Config, Firewall, Reading, StreamOptions, Udx, UdxStream},
};

/// The state machine with the sockets. Handles call it directly, under a lock that is held for
/// moments and never across an await; the task does what is due without being asked.
#[derive(Debug)]
pub(crate) struct Core {
    state: Mutex<State>,
    udx: Udx,
    sockets: Sockets,
    surroundings: Surroundings,
    relay_key_pair: KeyPair,
    direct: bool,
    activity: watch::Sender<Activity>,
    /// Tells the task that there are events or an earlier deadline.
    changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) dht: Dht,
    pub(super) rng: StdRng,
    pub(super) relays: RelayCache,
    pub(super) blind_relays: BlindRelays,
    pub(super) routes: Routes,
    pub(super) unheard: Unheard,
    pub(super) puncher: Puncher,
    /// Sockets that the puncher wants open.
    pub(super) pool: BTreeMap<u32, Arc<PoolSocket>>,
    /// Who waits for what comes of a punch.
    pub(super) punches: BTreeMap<PunchId, oneshot::Sender<End>>,
    pub(super) dials: BTreeMap<u64, DialEntry>,
    pub(super) doors: BTreeMap<ServerId, Door>,
    pub(super) queries: BTreeMap<QueryId, QueryEntry>,
    pub(super) pings: BTreeMap<RequestId, oneshot::Sender<Option<Response>>>,
    /// Connections by the moment when they are to be looked at, and a number.
    pub(super) links: BTreeMap<(Instant, u64), Weak<Link>>,
    pub(super) ready: Option<oneshot::Sender<()>>,
    /// Whether nothing new is begun any more.
    pub(super) closing: bool,
    next_number: u64,
}

impl State {
    /// A number that nothing else has.
    pub(super) const fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// The relay to name to a peer.
    pub(super) fn relay_through(&mut self, now: Instant, ways: Ways) -> Option<RelayThrough> {
        if ways == Ways::Direct {
            return None;
        }
        let public_key = self.blind_relays.choose(now, &mut self.rng)?;
        Some(RelayThrough { public_key, token: self.random() })
    }

    /// Ends all connections.
    pub(super) fn end_links(&mut self) {
        for link in std::mem::take(&mut self.links).into_values() {
            if let Some(link) = link.upgrade() {
                link.destroy();
            }
        }
    }

    /// A key pair for one handshake.
    pub(super) fn ephemeral(&mut self) -> KeyPair {
        KeyPair::from_seed(&self.random())
    }
}

impl Core {
    pub(super) fn new(
        options: &NodeOptions,
    ) -> Result<(Arc<Self>, Inbound, oneshot::Receiver<()>), StartError> {
        let udx = Udx::new(Config::default());
        let (sockets, inbound) = Sockets::bind(&udx, options)?;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        let mut rng: StdRng = rand::make_rng();
        let config = options.config(sockets.server_addr(), unix_ms);
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let relay_key_pair = KeyPair::from_seed(&seed);
        let dht = Dht::new(config, Instant::now(), StdRng::from_rng(&mut rng));
        let puncher = Puncher::new(StdRng::from_rng(&mut rng));
        let (ready, is_ready) = oneshot::channel();
        let state = State {
            dht,
            rng,
            relays: RelayCache::default(),
            blind_relays: BlindRelays::new(&options.relays),
            routes: Routes::default(),
            unheard: Unheard::default(),
            puncher,
            pool: BTreeMap::new(),
            punches: BTreeMap::new(),
            dials: BTreeMap::new(),
            doors: BTreeMap::new(),
            queries: BTreeMap::new(),
            pings: BTreeMap::new(),
            links: BTreeMap::new(),
            ready: Some(ready),
            closing: false,
            next_number: 0,
        };
        let core = Self {
            state: Mutex::new(state),
            udx,
            surroundings: Surroundings::new(sockets.server_addr()),
            relay_key_pair,
            direct: options.direct,
            sockets,
            activity: watch::Sender::new(Activity::Running),
            changed: Notify::new(),
        };
        Ok((Arc::new(core), inbound, is_ready))
    }

    pub(crate) fn server_addr(&self) -> SocketAddr {
        self.sockets.server_addr().into()
    }

    pub(crate) const fn udx(&self) -> &Udx {
        &self.udx
    }

    pub(super) const fn relay_key_pair(&self) -> &KeyPair {
        &self.relay_key_pair
    }

    /// Whether direct paths are wanted.
    pub(super) fn wants_direct(&self, ways: Ways) -> bool {
        self.direct || ways == Ways::Direct
    }

    pub(super) const fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    pub(super) const fn activity(&self) -> &watch::Sender<Activity> {
        &self.activity
    }

    pub(super) const fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// This host's addresses with the port of the server socket.
    pub(super) fn local(&self) -> Arc<[SocketAddrV4]> {
        self.surroundings.local()
    }

    /// The network has changed: finds out which peers are still there, and tells who asked to know.
    pub(super) fn on_network_changed(&self, state: &mut State, now: Instant) {
        tracing::debug!("the network is another one or there again");
        let links = std::mem::take(&mut state.links);
        state.links = links
            .into_iter()
            .map(|((_, number), link)| {
                if let Some(link) = link.upgrade() {
                    link.doubt();
                }
                ((now, number), link)
            })
            .collect();
        self.surroundings.tell();
    }

    /// A panic elsewhere while the lock was held leaves a state machine that is still sound.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the state machine, sends what comes of it and lets the task look after the rest.
    pub(super) fn with<T>(&self, call: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.lock();
        let result = call(&mut state, Instant::now());
        self.transmit(&mut state);
        drop(state);
        self.changed.notify_one();
        result
    }

    pub(crate) fn with_dht<T>(&self, call: impl FnOnce(&mut Dht, Instant) -> T) -> T {
        self.with(|state, now| call(&mut state.dht, now))
    }

    /// Returns when a handle has called.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn transmit(&self, state: &mut State) {
        // Some of the datagrams leave from sockets that are opened here.
        self.obey_puncher(state);
        while let Some(transmit) = state.dht.poll_transmit() {
            self.sockets.send(&transmit);
        }
    }

    /// Opens a UDX stream under an id that is free.
    pub(super) fn open_stream(
        &self,
        state: &mut State,
        mut firewall: impl FnMut() -> Firewall,
    ) -> Option<UdxStream> {
        (0..ID_ATTEMPTS).find_map(|_| {
            let id = state.rng.next_u32();
            let options = StreamOptions {
                reading: Reading::Frames { max_len: Reading::MAX_FRAME_LEN },
                firewall: Some(firewall()),
                keep_alive: None,
            };
            self.udx.open(id, options).ok()
        })
    }

    /// Has a connection looked after, until it ends; ends it where the node has been suspended
    /// meanwhile.
    pub(super) fn adopt(&self, connection: &Connection) {
        self.with(|state, now| {
            if !self.is_running() {
                if let Some(link) = connection.link().upgrade() {
                    link.destroy();
                }
                return;
            }
            let number = state.number();
            state.links.insert((now, number), connection.link());
        });
    }

    /// Asks a node for a sign of life. Cancel-safe.
    pub(super) async fn ping(&self, to: SocketAddrV4) -> Option<Response> {
        let (sender, receiver) = oneshot::channel();
        self.with(|state, now| {
            let request = state.dht.ping(now, to, None, PING_RETRIES);
            state.pings.insert(request, sender);
        });
        receiver.await.ok().flatten()
    }
}

impl State {
    /// Brings an event to whom it concerns.
    pub(super) fn dispatch(&mut self, now: Instant, event: Event) -> Option<Lookup> {
        let event = self.puncher.handle(&mut self.dht, now, event)?;
        match event {
            Event::Rpc(event) => {
                if let Some(Event::Rpc(event)) = self.dial_event(now, Event::Rpc(event)) {
                    return self.rpc_event(event);
                }
            }
            Event::Handshake(handshake) => self.knock(now, handshake),
            // The task tells whom it concerns.
            Event::NetworkChanged | Event::Suspended => {}
            Event::Announced { server, nodes } => self.announced(server, nodes),
            Event::Closed(server) => self.closed(server),
            Event::Found { .. } | Event::Done { .. } | Event::HandshakeDone { .. } | _ => {
                if let Some(event) = self.dial_event(now, event) {
                    self.query_event(now, event);
                }
            }
        }
        None
    }

    fn rpc_event(&mut self, event: rpc::Event) -> Option<Lookup> {
        if let rpc::Event::Resolve { key, name } = event {
            return Some(Lookup { key, name });
        }
        if let rpc::Event::Response { request, outcome } = event {
            if let Some(waiting) = self.pings.remove(&request) {
                let _ = waiting.send(outcome.ok());
            }
            return None;
        }
        if let rpc::Event::Forwarded { port, open } = event {
            if open {
                tracing::info!(port, "the forwarded UDP port can be reached from outside");
            } else {
                tracing::warn!(port, "the forwarded UDP port cannot be reached from outside");
            }
            return None;
        }
        tracing::debug!(?event, "the network has changed");
        if matches!(event, rpc::Event::Ready)
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(());
        }
        None
    }
}

impl State {
    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let link = self.links.first_key_value().map(|(key, _)| key.0);
        let routes = self.routes.poll_timeout();
        let times = [self.dht.poll_timeout(), self.puncher.poll_timeout(), routes, link];
        times.into_iter().flatten().min()
    }

    /// Does what is due of the protocol.
    pub(super) fn keep_time(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.dht.poll_timeout()) {
            self.dht.handle_timeout(now);
        }
        if is_due(self.puncher.poll_timeout()) {
            self.puncher.handle_timeout(&mut self.dht, now);
        }
        if is_due(self.routes.poll_timeout()) {
            self.routes.handle_timeout(now);
        }
    }
}

/// A host whose address is wanted.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) key: rpc::BootstrapKey,
    pub(super) name: String,
}

/// Random ids tried for a stream; two of four thousand million hardly ever meet.
const ID_ATTEMPTS: usize = 8;

/// dht-rpc's ordinary retries.
const PING_RETRIES: u8 = 3;
