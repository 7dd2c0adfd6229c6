//! The whole bridge: behind one NAT with Prometheus beside it, its services behind another.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dht_prom_test_support::{
    Bridge, BridgeSettings, Client, ClientSpec, Generation, Process, Prometheus, Subject, http_get,
    lab::{Nat, NatLab, Network, Peers, Place, Side, Stack},
    poll, poll_within,
};

use super::{BRIDGE, PUBLIC_HOSTS};

/// One service of each client that there is.
const ALIASES: [&str; 3] = ["node-1", "node-2", "rust"];

/// How long targets may be down after the network has changed.
const RECOVERY: Duration = Duration::from_secs(15);

/// How long a service may take over a relay from its start to its first scrape: two connections, which may
/// take as long as one in `relays.rs`.
const OVER_RELAYS: Duration = Duration::from_secs(5);

/// How long a program sleeps: longer than any of its peers waits for it (15 s).
const SLEEP: Duration = Duration::from_secs(25);

/// How often Prometheus scrapes, and how long it waits for each.
const INTERVAL: &str = "4s";

/// How long the weather stays bad, unless `DHT_PROM_LAB_WEATHER_SECONDS` says otherwise: long enough for
/// every timer of a connection.
const WEATHER: Duration = Duration::from_secs(60);

#[test]
fn services_are_scraped_again_after_each_change_of_the_network() {
    let Some(place) = Scenery::build() else { return };
    let lab = &place.lab;
    place.lab.within(Place::Host(Side::A), || {
        let mut scene = Scene::set(&place);
        let mut failures = Vec::new();
        let mut outlives = |what: &str, change: &dyn Fn(), aliases: &[&str]| {
            change();
            failures.extend(scene.is_scraped_from_now(what, aliases).err());
            failures.extend(scene.admits(&format!("newcomer-{}", scene.services.len())).err());
        };
        outlives("a restart of the bridge's router", &|| lab.rebind(Side::A), &ALIASES);
        outlives("a restart of the services' router", &|| lab.rebind(Side::B), &ALIASES);
        outlives("another address of the bridge", &|| lab.move_to(Side::A, "5.5.1.77"), &ALIASES);
        // Node's clients announce where they are every five minutes, and not earlier.
        let ours = &ALIASES[2..];
        outlives("another address of the services", &|| lab.move_to(Side::B, "5.5.2.77"), ours);
        assert_eq!(failures, [""; 0]);
        scene.end();
    });
}

#[test]
fn services_are_scraped_again_when_the_bridge_wakes_up_or_they_do() {
    let Some(place) = Scenery::build() else { return };
    place.lab.within(Place::Host(Side::A), || {
        let mut scene = Scene::set(&place);
        let mut failures = Vec::new();
        // As after a longer sleep: nothing has kept the NAT's mappings alive.
        for forgetful in [None, Some(Side::A)] {
            sleep_through(scene.bridge.process(), || {
                forgetful.into_iter().for_each(|side| place.lab.rebind(side))
            });
            let what = format!("a sleep of the bridge, mappings forgotten at {forgetful:?}");
            failures.extend(scene.is_scraped_from_now(&what, &ALIASES).err());
            failures.extend(scene.admits(&format!("newcomer-{}", scene.services.len())).err());
        }
        sleep_through(&scene.services[0], || place.lab.rebind(Side::B));
        failures.extend(scene.is_scraped_from_now("a sleep of a service", &ALIASES[2..]).err());
        assert_eq!(failures, [""; 0]);
        scene.end();
    });
}

/// Has a program stand still as on a machine that sleeps, and something happen meanwhile.
fn sleep_through(program: &Process, event: impl FnOnce()) {
    program.put_to_sleep();
    event();
    #[expect(clippy::disallowed_methods, reason = "a sleep lasts as long as it lasts")]
    std::thread::sleep(SLEEP);
    program.wake();
}

#[test]
fn services_are_scraped_through_bad_weather_and_after_it() {
    let Some(place) = Scenery::build() else { return };
    place.lab.within(Place::Host(Side::A), || {
        let mut scene = Scene::set(&place);
        let weather = weather();
        eprintln!("{weather:?} of weather in which a tenth of all packets gets lost at each NAT");
        place.lab.weather(10);
        #[expect(clippy::disallowed_methods, reason = "weather lasts as long as it lasts")]
        std::thread::sleep(weather);
        let seconds = weather.as_secs();
        let up = format!("avg_over_time(up{{job=\"aliases\"}}[{seconds}s]) > 0.5");
        let up = scene.prometheus.query(&up);
        assert_eq!(up.len(), ALIASES.len(), "only {up:?} were up for most of the time");
        place.lab.weather(0);
        assert_eq!(scene.is_scraped_from_now("bad weather", &ALIASES), Ok(()));
        assert_eq!(scene.admits("newcomer"), Ok(()));
        scene.end();
    });
}

#[test]
fn scrapes_of_what_udp_does_not_reach_fail_in_time_and_say_why() {
    let Some(place) = Scenery::build() else { return };
    place.lab.within(Place::Host(Side::A), || {
        let mut scene = Scene::set(&place);
        place.lab.block(Side::B);
        scene.fails_in_time("the services are blocked");
        scene.expect_errors("the server did not answer");
        place.lab.block(Side::A);
        scene.fails_in_time("the bridge is blocked, too");
        scene.expect_errors("no node of the DHT answered");
        // And when it has never reached anybody.
        scene.bridge.process_mut().kill();
        scene.bridge = scene.settings.start_unannounced();
        scene.fails_in_time("a blocked bridge has started");
        let ready = scene.bridge.http_get("/-/ready");
        assert_eq!(
            (ready.status, ready.text().as_str()),
            (503, "Not ready: the bridge is not announced yet\n")
        );
    });
}

#[test]
fn a_forwarded_port_opens_the_bridge_to_every_service_whatever_is_before_both() {
    let Some(place) = Scenery::build() else { return };
    // The bridge's NAT, the port that it forwards to 49737, and whether the host has a firewall, too.
    let cases = [
        (Nat::Cone, Some(50_000), false),
        (Nat::Symmetric, Some(49_737), false),
        (Nat::Symmetric, Some(50_000), false),
        (Nat::Cone, Some(49_737), true),
        (Nat::Open, None, true),
    ];
    for (nat, forwarded, firewall) in cases {
        place.lab.put(Side::A, nat);
        place.lab.put(Side::B, Nat::Symmetric);
        if let Some(port) = forwarded {
            place.lab.forward(Side::A, port, 49_737);
        }
        if firewall {
            place.lab.firewall(Side::A, 49_737);
        }
        place.lab.within(Place::Host(Side::A), || {
            let began = Instant::now();
            let port = forwarded.unwrap_or(49_737).to_string();
            let forwarded = [("DHT_PORT", "49737".to_owned()), ("DHT_FORWARDED_PORT", port)];
            let scene = Scene::set_with(&place, &forwarded);
            let took = began.elapsed().as_secs_f64();
            eprintln!("{nat:?}, {forwarded:?}, firewall {firewall}: all up after {took:.1} s");
            scene.end();
        });
    }
}

#[test]
fn a_relay_has_services_up_at_once_where_ports_would_have_to_be_guessed() {
    let Some(place) = Scenery::build() else { return };
    let (lab, network) = (&place.lab, &place.network);
    let beside_a_node = Place::Public(PUBLIC_HOSTS);
    let (_relay, key) = Peers::find(false).relay(lab, network, beside_a_node, Stack::Rust);
    for services in [Nat::Cone, Nat::Symmetric] {
        lab.put(Side::A, Nat::Symmetric);
        lab.put(Side::B, services);
        lab.within(Place::Host(Side::A), || {
            let mut scene = Scene::set_with(&place, &[("RELAYS", key.clone())]);
            let began = Instant::now();
            assert_eq!(scene.admits("newcomer"), Ok(()));
            assert_eq!(scene.bridge.scrape("newcomer").status, 200);
            let took = began.elapsed();
            eprintln!("a service behind {services:?} is scraped {took:.1?} after its start");
            assert!(took < OVER_RELAYS, "behind {services:?}: {took:?}");
            scene.end();
        });
    }
}

/// How long the weather stays bad.
fn weather() -> Duration {
    let seconds = std::env::var("DHT_PROM_LAB_WEATHER_SECONDS");
    seconds.map_or(WEATHER, |seconds| Duration::from_secs(seconds.parse().unwrap()))
}

/// A lab with a network, and cone NATs before both hosts.
struct Scenery {
    lab: NatLab,
    network: Network,
}

impl Scenery {
    fn build() -> Option<Self> {
        let lab = NatLab::build(PUBLIC_HOSTS)?;
        let peers = Peers::find(false);
        let network = Network::start(&lab, &peers, &[Stack::Node, Stack::Rust], PUBLIC_HOSTS);
        lab.put(Side::A, Nat::Cone);
        lab.put(Side::B, Nat::Cone);
        Some(Self { lab, network })
    }
}

/// A bridge that scrapes one service of each kind, and the Prometheus that it does so for.
struct Scene<'a> {
    place: &'a Scenery,
    settings: BridgeSettings,
    bridge: Bridge,
    prometheus: Prometheus,
    _clients: Client,
    services: Vec<Process>,
    aliases: Vec<String>,
    _folder: tempfile::TempDir,
}

impl<'a> Scene<'a> {
    /// On a thread within the bridge's host.
    fn set(place: &'a Scenery) -> Self {
        Self::set_with(place, &[])
    }

    fn set_with(place: &'a Scenery, settings: &[(&'static str, String)]) -> Self {
        let Scenery { lab, network } = place;
        let folder = tempfile::tempdir().unwrap();
        let others = settings.to_vec();
        let settings = BridgeSettings::in_lab(&Subject::own(BRIDGE), network, folder.path());
        let settings = BridgeSettings { others, ..settings };
        let bridge = settings.start();
        let specs = Generation::ALL.map(|generation| {
            ClientSpec::new(generation, ALIASES[usize::from(generation.number()) - 1])
        });
        let credentials = (bridge.public_key(), settings.secret.as_str());
        let there = Place::Host(Side::B);
        let clients = Client::start_in((lab, network), there, credentials, &specs);
        let service = Peers::service((lab, network), there, credentials, ALIASES[2]);
        clients.expect_all_registered(specs.len());
        service.expect_line("`registered`", registered);
        let config = super::print_config(&["--http-sd"], bridge.http_port());
        let prometheus = Prometheus::start(&config.replace("15s", INTERVAL), folder.path());
        let scene = Self {
            place,
            settings,
            bridge,
            prometheus,
            _clients: clients,
            services: vec![service],
            aliases: ALIASES.map(str::to_owned).to_vec(),
            _folder: folder,
        };
        let _ = scene.prometheus.expect_samples(UP, ALIASES.len());
        scene
    }

    /// Waits until Prometheus has scraped these services anew.
    fn is_scraped_from_now(&self, what: &str, aliases: &[&str]) -> Result<(), String> {
        let began = Instant::now();
        let expression = format!("(timestamp({ALL}) > {:.3}) and {UP}", unix_time());
        let up = poll_within(RECOVERY, || {
            let up = self.prometheus.query(&expression);
            let is_up = |alias: &&str| up.iter().any(|sample| sample.labels["instance"] == **alias);
            let missing: Vec<_> = aliases.iter().filter(|alias| !is_up(alias)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are not up")) }
        });
        eprintln!("all up again {:.1} s after {what}", began.elapsed().as_secs_f64());
        up.map_err(|reason| format!("{RECOVERY:?} after {what} {reason}"))
    }

    /// Scrapes each service twice, as there may be a session yet for the first time.
    fn fails_in_time(&self, what: &str) {
        let scrape = |alias: &str| {
            let url = self.bridge.url(&format!("/scrape/{alias}/metrics"));
            let began = Instant::now();
            let answer = http_get(&url, &[("X-Prometheus-Scrape-Timeout-Seconds", "3")]);
            let took = began.elapsed();
            assert_eq!((answer.status, answer.text().as_str()), (502, "Upstream unavailable"));
            assert!(took < Duration::from_secs(3), "{what}: {alias} took {took:?}");
        };
        for _ in 0..2 {
            std::thread::scope(|scope| {
                for alias in ALIASES {
                    scope.spawn(move || scrape(alias));
                }
            });
        }
    }

    /// Waits until Prometheus shows of each service that it cannot be reached for this reason.
    fn expect_errors(&self, reason: &str) {
        for alias in ALIASES {
            poll(&format!("`{reason}` of {alias}"), || {
                let error = self.prometheus.last_error(alias);
                let is_clear = error
                    .contains("502 Upstream unavailable: cannot reach the service: ")
                    && error.ends_with(reason);
                if is_clear { Ok(()) } else { Err(error) }
            });
        }
    }

    /// Has one more service register.
    fn admits(&mut self, alias: &str) -> Result<(), String> {
        let Scenery { lab, network } = self.place;
        let credentials = (self.bridge.public_key(), self.settings.secret.as_str());
        let service = Peers::service((lab, network), Place::Host(Side::B), credentials, alias);
        let deadline = Instant::now() + RECOVERY;
        let found = service.stdout().find_from(0, deadline, registered);
        let lines = service.stdout().all();
        self.aliases.push(alias.to_owned());
        self.services.push(service);
        found.ok_or_else(|| format!("{alias} has not registered: {lines:?}"))
    }

    /// No registration has got lost.
    fn end(self) {
        let targets = self.bridge.http_get("/targets").json();
        let groups = targets.as_array().unwrap().iter();
        let known: Vec<_> =
            groups.map(|group| group["labels"]["instance"].as_str().unwrap()).collect();
        for alias in &self.aliases {
            assert!(known.contains(&alias.as_str()), "{alias} is not among {known:?}");
        }
        self.bridge.stop();
    }
}

/// All targets, and those that the last scrape found.
const ALL: &str = r#"up{job="aliases"}"#;
const UP: &str = r#"up{job="aliases"} == 1"#;

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn registered(line: &str) -> Option<()> {
    line.starts_with("registered ").then_some(())
}
