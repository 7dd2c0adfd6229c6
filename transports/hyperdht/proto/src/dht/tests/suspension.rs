//! Nodes that keep still for a while.

use super::*;

/// A network, a node with a server that it has been serving for a while, and somebody else.
fn scene() -> (Net, HostId, HostId, ServerId) {
    let mut net = network(1, 10);
    let (host, client) = (hide(&mut net), hide(&mut net));
    net.run_for(MINUTE);
    let server = serve(&mut net, host, 1);
    events(&mut net, host);
    (net, host, client, server)
}

/// Suspends a node; how long that takes.
fn suspend(net: &mut Net, host: HostId) -> Duration {
    let began = net.now();
    net.with(host, Dht::suspend);
    wait(net, host, |event| matches!(event, Event::Suspended).then_some(()));
    net.now() - began
}

fn resume(net: &mut Net, host: HostId, server: ServerId) {
    let began = net.now();
    net.with(host, Dht::resume);
    wait(net, host, |event| match event {
        Event::Announced { server: s, nodes: 3 } if *s == server => Some(()),
        _ => None,
    });
    assert!(net.now() - began < 10 * SECOND, "{:?}", net.now() - began);
}

#[test]
fn a_suspended_node_is_found_by_nobody_and_found_again_once_it_is_resumed() {
    for nap in [SECOND, 12 * SECOND, 60 * MINUTE] {
        let (mut net, host, client, server) = scene();
        assert_eq!(find_peer(&mut net, client, 1).len(), 3);
        assert!(suspend(&mut net, host) < SECOND);
        assert!(find_peer(&mut net, client, 1).is_empty());
        net.run_for(nap);
        resume(&mut net, host, server);
        assert_eq!(find_peer(&mut net, client, 1).len(), 3);
    }
}

#[test]
fn a_suspended_node_keeps_still_whatever_comes_in() {
    let (mut net, host, client, _) = scene();
    suspend(&mut net, host);
    let own = net.client_addr_of(host);
    for _ in 0..20 {
        net.with(client, |dht, now| dht.ping(now, own, None, 0));
        net.run_for(SECOND);
        net.with(host, |dht, _| {
            assert!(dht.poll_transmit().is_none());
            assert_eq!(dht.poll_timeout(), None);
            assert!(dht.poll_event().is_none());
        });
    }
}

#[test]
fn a_node_without_a_network_is_suspended_within_four_seconds() {
    let (mut net, host, client, server) = scene();
    net.cut_off(host, true);
    assert!(suspend(&mut net, host) <= 4 * SECOND);
    net.run_for(MINUTE);
    net.cut_off(host, false);
    resume(&mut net, host, server);
    assert_eq!(find_peer(&mut net, client, 1).len(), 3);
}

#[test]
fn servers_are_opened_and_closed_while_the_node_is_suspended() {
    let (mut net, host, client, server) = scene();
    suspend(&mut net, host);
    let opened = net.with(host, |dht, now| dht.listen(now, pair(2)).unwrap());
    net.with(host, |dht, now| dht.close(now, server));
    let closed = |event: &Event| matches!(event, Event::Closed(s) if *s == server);
    assert!(events(&mut net, host).iter().any(closed));
    net.run_for(MINUTE);
    assert!(find_peer(&mut net, client, 2).is_empty());
    resume(&mut net, host, opened);
    assert_eq!(find_peer(&mut net, client, 2).len(), 3);
    assert!(find_peer(&mut net, client, 1).is_empty());
}

#[test]
fn a_node_that_is_resumed_before_it_keeps_still_does_not_do_so_later() {
    let (mut net, host, client, server) = scene();
    net.with(host, Dht::suspend);
    resume(&mut net, host, server);
    net.run_for(MINUTE);
    assert!(!events(&mut net, host).iter().any(|event| matches!(event, Event::Suspended)));
    assert_eq!(find_peer(&mut net, client, 1).len(), 3);
}
