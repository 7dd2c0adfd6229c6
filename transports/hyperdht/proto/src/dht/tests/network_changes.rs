//! Servers whose network changes under them are reachable again within seconds. Datagrams are lost
//! with 5 % all along; `HYPERDHT_SIM_SEEDS` says how many seeds are tried.

use super::*;

/// What a change may cost at most, from its moment or, where there was no network, from the moment
/// when it is back.
const BAR: Duration = Duration::from_secs(15);

/// What is left of it when the change is told, or the network is back: a keep-alive of three seconds,
/// a search, and the announcement, each repeated where a datagram is lost.
const BACK: Duration = Duration::from_secs(10);

fn seeds() -> impl Iterator<Item = u64> {
    let seeds = std::env::var("HYPERDHT_SIM_SEEDS").ok();
    1..=seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(2)
}

struct Scene {
    seed: u64,
    net: Net,
    host: HostId,
    client: HostId,
    server: ServerId,
}

impl Scene {
    /// A server that others reach, behind a firewall or not.
    fn set(seed: u64, firewalled: bool) -> Self {
        let mut net = network(seed, 25);
        let host = if firewalled { hide(&mut net) } else { join(&mut net, Role::Persistent) };
        let client = hide(&mut net);
        net.run_for(MINUTE);
        let server = serve(&mut net, host, 1);
        net.loss = 0.05;
        net.run_for(MINUTE);
        events(&mut net, host);
        Self { seed, net, host, client, server }
    }

    /// Whether all who hold the server know where it is now.
    fn is_announced(net: &Net, host: HostId, server: ServerId) -> bool {
        let dht = net.machine(host);
        let own = match dht.rpc().default_socket() {
            SocketId::Server => net.addr_of(host),
            SocketId::Client | SocketId::Pool(_) => net.client_addr_of(host),
        };
        let relays = dht.relays(server);
        relays.len() == 3 && relays.iter().all(|relay| relay.peer_address == own)
    }

    /// Waits until the change is told and the server is announced from where it is.
    #[track_caller]
    fn assert_reachable_within(&mut self, limit: Duration) {
        let (seed, host, began) = (self.seed, self.host, self.net.now());
        let told = self.net.run_until(10 * MINUTE, |net| {
            let mut events = events(net, host).into_iter();
            events.find(|event| matches!(event, Event::NetworkChanged)).map(drop)
        });
        assert!(told.is_some(), "seed {seed}: nothing is told");
        self.assert_announced_within(limit.saturating_sub(self.net.now() - began));
    }

    /// Waits until the server is announced from where it is, and has somebody find and reach it.
    #[track_caller]
    fn assert_announced_within(&mut self, limit: Duration) {
        let Self { seed, net, host, client, server } = self;
        let (host, client, server, began) = (*host, *client, *server, net.now());
        let announced =
            net.run_until(10 * MINUTE, |net| Self::is_announced(net, host, server).then_some(()));
        let took = net.now() - began;
        assert!(announced.is_some(), "seed {seed}: it is not announced");
        assert!(took <= limit, "seed {seed}: announced after {took:?}, not {limit:?}");
        net.loss = 0.0;
        events(net, host);
        for to in find_peer(net, client, 1) {
            let noise = Bytes::from_static(b"message 1");
            let call = HandshakeCall { target: target(1), noise, to, via: None, socket: None };
            net.with(client, |dht, now| dht.handshake(now, call));
        }
        let reached = net.run_until(2 * SECOND, |net| {
            let mut events = events(net, host).into_iter();
            events.find(|event| matches!(event, Event::Handshake(_))).map(drop)
        });
        assert!(reached.is_some(), "seed {seed}: nobody reaches it");
    }
}

#[test]
fn a_server_is_reachable_again_after_its_nat_has_forgotten_it() {
    for seed in seeds() {
        let mut scene = Scene::set(seed, true);
        scene.net.rebind(scene.host);
        scene.assert_reachable_within(BAR);
    }
}

#[test]
fn a_server_is_reachable_again_after_its_nat_has_got_another_address() {
    for seed in seeds() {
        let mut scene = Scene::set(seed, true);
        scene.net.move_to(scene.host, [203, 0, 113, 1].into());
        scene.net.rebind(scene.host);
        scene.assert_reachable_within(BAR);
        scene.net.run_for(MINUTE);
        let nat = scene.net.machine(scene.host).rpc().nat_address();
        assert_eq!(nat, Some(scene.net.client_addr_of(scene.host)), "seed {seed}");
    }
}

#[test]
fn an_open_node_that_moves_is_reachable_at_its_new_address_and_takes_its_place_there() {
    for seed in seeds() {
        let mut scene = Scene::set(seed, false);
        let before = scene.net.machine(scene.host).rpc().id();
        scene.net.move_to(scene.host, [203, 0, 113, 1].into());
        scene.assert_reachable_within(BAR);
        scene.net.run_for(8 * MINUTE);
        let (dht, own) = (scene.net.machine(scene.host), scene.net.addr_of(scene.host));
        assert_ne!(dht.rpc().id(), before, "seed {seed}");
        assert_eq!(dht.rpc().id(), Some(rpc::NodeId::of(own)), "seed {seed}");
        assert_eq!(dht.rpc().public_address(), Some(own), "seed {seed}");
        assert_eq!(dht.relay_addresses(scene.server)[0], own, "seed {seed}");
    }
}

#[test]
fn an_open_node_that_finds_itself_behind_a_firewall_is_reachable_through_relays() {
    for seed in seeds() {
        let mut scene = Scene::set(seed, false);
        scene.net.move_to(scene.host, [203, 0, 113, 1].into());
        scene.net.set_firewalled(scene.host, true);
        scene.assert_reachable_within(BAR);
        scene.net.run_for(8 * MINUTE);
        let dht = scene.net.machine(scene.host);
        assert_eq!((dht.rpc().id(), dht.rpc().public_address()), (None, None), "seed {seed}");
        assert!(Scene::is_announced(&scene.net, scene.host, scene.server), "seed {seed}");
    }
}

#[test]
fn a_server_is_reachable_within_a_keep_alive_and_an_announcement_of_the_network_coming_back() {
    for seed in seeds() {
        for blackout in [5 * SECOND, 12 * SECOND, 40 * SECOND, 10 * MINUTE] {
            let mut scene = Scene::set(seed, true);
            scene.net.cut_off(scene.host, true);
            scene.net.run_for(blackout + Duration::from_millis(seed * 777));
            scene.net.cut_off(scene.host, false);
            scene.assert_announced_within(BACK);
        }
    }
}

#[test]
fn a_server_is_reachable_after_a_sleep_whether_the_clock_went_on_or_not() {
    for seed in seeds() {
        for clock_went_on in [true, false] {
            let mut scene = Scene::set(seed, true);
            scene.net.sleep(scene.host);
            let nap = if clock_went_on { 60 * MINUTE } else { 4 * SECOND };
            scene.net.run_for(nap);
            scene.net.rebind(scene.host);
            scene.net.wake(scene.host);
            if !clock_went_on {
                scene.net.with(scene.host, Dht::woke_up);
            }
            scene.assert_reachable_within(BACK);
        }
    }
}

#[test]
fn new_interfaces_have_servers_announced_again_at_once() {
    for seed in seeds() {
        let mut scene = Scene::set(seed, true);
        scene.net.move_to(scene.host, [203, 0, 113, 1].into());
        scene.net.rebind(scene.host);
        scene.net.with(scene.host, Dht::network_changed);
        scene.assert_reachable_within(BACK);
    }
}
