//! What follows from what was found, in words.

use std::{io, time::Duration};

use hyperdht_rs::nat::{BootstrapReport, Mapping, NatReport};
use serde::Serialize;

/// What an examination has found.
#[derive(Debug)]
pub(super) struct Findings {
    /// `DHT_PROM_DHT_PORT`, if it is set.
    pub(super) port: Option<u16>,
    /// `DHT_PROM_DHT_FORWARDED_PORT`, if it is set.
    pub(super) forwarded: Option<u16>,
    /// Seconds since 1970, as this host's clock has it.
    pub(super) unix_seconds: u64,
    /// What became of binding the port that the bridge would take.
    pub(super) binding: Binding,
    /// The network around; absent when no socket could be bound at all.
    pub(super) network: Option<NatReport>,
    /// What became of the bridge's own key, when its seed is set.
    pub(super) bridge: Option<Encounter>,
    /// How many relays are named.
    pub(super) relays: usize,
    /// What became of a key announced by the examination.
    pub(super) trial: Option<Encounter>,
}

/// Whether a bridge could bind its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Binding {
    /// It could.
    Free,
    /// Another program, such as a running bridge, has the port.
    Taken(u16),
    /// The system does not let it.
    Refused(String),
}

/// How far a second node got on its way to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Encounter {
    /// No node of the DHT took the announcement.
    NotAnnounced,
    /// No node of the DHT knows the key.
    Unknown,
    /// Nodes know the key, but nothing came back from behind it.
    NoAnswer(String),
    /// The server has answered the handshake, but no message came through.
    NoPath,
    /// A message went there and back, or the connection was accepted.
    Met,
}

/// The whole.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Diagnosis {
    /// Whether services can reach a bridge here.
    pub(super) reachable: bool,
    /// What connections to it take.
    pub(super) access: Access,
    /// What was looked at, in turn.
    pub(super) checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What, for programs.
    pub(super) check: &'static str,
    pub(super) state: State,
    /// What was found, in a sentence.
    pub(super) finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Ok,
    Warning,
    Failure,
}

/// Who gets through to this host, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Access {
    /// Everybody, directly.
    Open,
    /// Through holes punched into a NAT or firewall that keeps its mappings.
    Punched,
    /// Through holes for which ports have to be guessed.
    Guessed,
    /// It cannot be told.
    Unclear,
    /// Nobody.
    Blocked,
}

/// Draws the conclusions.
pub(super) fn diagnose(findings: &Findings) -> Diagnosis {
    let mut checks = Vec::new();
    checks.extend(clock(findings.unix_seconds));
    checks.push(binding(findings));
    let mut access = Access::Blocked;
    if let Some(network) = &findings.network {
        access = access_to(network, findings.forwarded);
        checks.extend(network.bootstrap.iter().map(bootstrap));
        checks.extend(silence(network, findings));
        checks.extend(nat(network));
        checks.extend(port(network, findings, access));
    }
    checks.extend(findings.bridge.as_ref().and_then(bridge));
    checks.extend(findings.trial.as_ref().map(|trial| encounter(trial, access)));
    checks.extend(services(access, findings.relays));
    let failed = checks.iter().any(|check| check.state == State::Failure);
    Diagnosis { reachable: !failed && access != Access::Blocked, access, checks }
}

fn access_to(network: &NatReport, forwarded: Option<u16>) -> Access {
    if network.port.only_way {
        return if forwarded.is_some() { Access::Open } else { Access::Blocked };
    }
    if network.port.is_reachable() {
        return Access::Open;
    }
    match network.mapping {
        Mapping::Silent => Access::Blocked,
        Mapping::Unclear => Access::Unclear,
        Mapping::Own | Mapping::Consistent => Access::Punched,
        Mapping::Random | Mapping::Several => Access::Guessed,
    }
}

fn clock(unix_seconds: u64) -> Option<Check> {
    let late = unix_seconds < WRITTEN;
    late.then(|| {
        Check::warning("clock", "The clock of this host is years behind.")
            .advise("Set it, as with NTP: log lines and Prometheus' samples are dated by it.")
    })
}

fn binding(findings: &Findings) -> Check {
    let local = findings.network.as_ref().map_or(0, |network| network.port.local);
    match &findings.binding {
        Binding::Free => Check::ok("bind", format!("UDP port {local} is free for the bridge.")),
        Binding::Taken(port) if matches!(findings.bridge, Some(Encounter::Met)) => Check::warning(
            "bind",
            format!(
                "UDP port {port} is taken, as it is while the bridge runs; another was examined."
            ),
        )
        .advise("Stop the bridge for a full examination."),
        Binding::Taken(port) => {
            Check::failure("bind", format!("UDP port {port} is taken by another program."))
                .advise("Stop that program, or set DHT_PROM_DHT_PORT to a port that is free.")
        }
        Binding::Refused(reason) => Check::failure("bind", format!("No UDP socket: {reason}."))
            .advise("DHT_PROM_DHT_HOST must be an address of this host, or 0.0.0.0 for all."),
    }
}

fn bootstrap(node: &BootstrapReport) -> Check {
    let name = &node.node;
    match (node.rtt, node.address) {
        (Some(rtt), _) => {
            Check::ok("bootstrap", format!("Bootstrap node {name} answers in {}.", ms(rtt)))
        }
        (None, Some(_)) => {
            Check::warning("bootstrap", format!("Bootstrap node {name} does not answer."))
        }
        (None, None) => {
            Check::warning("bootstrap", format!("Bootstrap node {name}: the name leads nowhere."))
                .advise("Check the spelling and this host's name servers.")
        }
    }
}

/// What to make of it when nobody at all answers.
fn silence(network: &NatReport, findings: &Findings) -> Option<Check> {
    if network.mapping != Mapping::Silent {
        return None;
    }
    let port = findings.port.unwrap_or(network.port.local);
    let check = Check::failure("network", "No node of the DHT answers.");
    Some(match network.refused {
        Some(io::ErrorKind::PermissionDenied) => check.advise(format!(
            "This host's own firewall refuses to send UDP. Allow outgoing UDP, or at least all that \
             comes and goes at one port, and set DHT_PROM_DHT_PORT to it (here {port})."
        )),
        Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => {
            check.advise("This host has no route to them: check its network.")
        }
        _ => check.advise(
            "Either a firewall on the way drops UDP, which must be allowed to leave and its answers to \
             come back, or the nodes are down, or DHT_PROM_BOOTSTRAP names the wrong ones.",
        ),
    })
}

fn nat(network: &NatReport) -> Option<Check> {
    let ip = network.public_ip.map_or_else(|| "several addresses".to_owned(), |ip| ip.to_string());
    let check = match network.mapping {
        Mapping::Silent => return None,
        Mapping::Unclear => Check::warning(
            "nat",
            format!("One node sees this host as {ip}, and there is no second one to compare with."),
        ),
        Mapping::Own => {
            Check::ok("nat", format!("No NAT: others see this host's own address, {ip}."))
        }
        Mapping::Consistent => Check::ok(
            "nat",
            format!("A NAT that holes can be punched into: all see this host at one port of {ip}."),
        ),
        Mapping::Random => Check::warning(
            "nat",
            format!("A symmetric NAT: each node sees this host at another port of {ip}."),
        ),
        Mapping::Several => Check::warning(
            "nat",
            "The way out changes: nodes see this host at several addresses.".to_owned(),
        ),
    };
    Some(check)
}

fn port(network: &NatReport, findings: &Findings, access: Access) -> Option<Check> {
    let (port, public) = (network.port, network.port.public);
    if port.only_way {
        return Some(only_way(port.local, findings.forwarded));
    }
    if port.asked == 0 {
        return None;
    }
    let reached = format!("{} of {} nodes", port.reached, port.asked);
    let name = match findings.forwarded {
        Some(_) => format!("Forwarded UDP port {public}"),
        None => format!("UDP port {public}"),
    };
    if port.is_reachable() {
        return Some(Check::ok("port", format!("{name} is open: {reached} reached it.")));
    }
    let text = format!("{name} is closed to the outside: {reached} reached it.");
    let inside = port.local;
    let forward = match findings.forwarded {
        Some(_) => format!(
            "Forward UDP port {public} on the router to port {inside} of this host, and let that through \
             the firewalls. If the router has another number for it, DHT_PROM_DHT_FORWARDED_PORT must \
             be that one."
        ),
        None => format!(
            "Forward a UDP port on the router to port {inside} of this host, let it through the \
             firewalls, and set DHT_PROM_DHT_PORT to {inside} and DHT_PROM_DHT_FORWARDED_PORT to the \
             router's port: then services connect directly from anywhere."
        ),
    };
    match (findings.port.or(findings.forwarded), access) {
        // Whoever sets a port means it to be open.
        (Some(_), _) | (None, Access::Guessed) => {
            Some(Check::warning("port", text).advise(forward))
        }
        (None, _) => Some(Check::ok("port", text)),
    }
}

/// A firewall lets one port through. The bridge keeps to it when it is told to.
fn only_way(local: u16, forwarded: Option<u16>) -> Check {
    let text = format!("A firewall lets UDP port {local} through and no other.");
    if forwarded.is_some() {
        let text = format!("{text} The bridge uses it for all, and takes it as open to everybody.");
        return Check::ok("port", text);
    }
    Check::failure("port", text).advise(format!(
        "Set DHT_PROM_DHT_FORWARDED_PORT to the port under which others reach it, which is {local} \
         unless a router forwards another one: then the bridge uses no other."
    ))
}

/// What the bridge's own key says, where it says anything.
fn bridge(encounter: &Encounter) -> Option<Check> {
    match encounter {
        Encounter::Met => {
            Some(Check::ok("bridge", "The bridge with this seed runs and is reached."))
        }
        Encounter::NoPath => Some(Check::warning(
            "bridge",
            "The bridge with this seed runs and answers, but no path from here to it opened.",
        )),
        Encounter::NoAnswer(_) | Encounter::Unknown | Encounter::NotAnnounced => None,
    }
}

fn encounter(encounter: &Encounter, access: Access) -> Check {
    match encounter {
        Encounter::NotAnnounced => {
            Check::failure("second_node", "No node of the DHT took the announcement of a key.")
                .advise("Try again later; a DHT of one's own needs at least two nodes.")
        }
        Encounter::Unknown => {
            Check::failure("second_node", "A second node does not find a key announced here.")
                .advise("Try again later; a DHT of one's own needs at least two nodes.")
        }
        Encounter::NoAnswer(reason) => Check::failure(
            "second_node",
            format!("A second node finds a key announced here, but gets no answer: {reason}."),
        )
        .advise("A firewall drops what the DHT's nodes pass on: allow UDP in both directions."),
        Encounter::NoPath if access == Access::Open => Check::ok(
            "second_node",
            "A second node finds a key announced here and is answered. It does not get through on this \
             host's public address, as is usual from inside.",
        ),
        Encounter::NoPath => Check::warning(
            "second_node",
            "A second node on this host finds a key announced here and is answered, but no path to it \
             opened. Others may still get through.",
        ),
        Encounter::Met => {
            Check::ok("second_node", "A second node finds a key announced here and connects to it.")
        }
    }
}

fn services(access: Access, relays: usize) -> Option<Check> {
    let (state, finding) = match access {
        Access::Blocked => return None,
        Access::Open => (State::Ok, "Services connect directly, whatever NAT they are behind."),
        Access::Punched => (
            State::Ok,
            "Services connect directly, within a second, when they have a public address or a NAT that \
             holes can be punched into. Behind a symmetric NAT they need some seconds, and now and then \
             another try.",
        ),
        Access::Guessed => (
            State::Warning,
            "Services with a public address connect directly. Behind a NAT that holes can be punched \
             into they need some seconds, and now and then another try. Behind a symmetric NAT they do \
             not get through without a relay, or a port forwarded to this host.",
        ),
        Access::Unclear => (
            State::Warning,
            "Which services connect directly cannot be told: too few nodes answer.",
        ),
    };
    let check = Check { check: "services", state, finding: finding.to_owned(), advice: None };
    Some(match (access, relays) {
        (Access::Guessed, 0) => check
            .advise("Run `dht-prometheus relay` on a public host, and name it in DHT_PROM_RELAYS."),
        (Access::Punched | Access::Guessed, 1..) => {
            check.advise("Until a direct path opens, and where none does, they are met at a relay.")
        }
        _ => check,
    })
}

impl Check {
    fn new(check: &'static str, state: State, finding: impl Into<String>) -> Self {
        Self { check, state, finding: finding.into(), advice: None }
    }

    fn ok(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(check, State::Ok, finding)
    }

    fn warning(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(check, State::Warning, finding)
    }

    fn failure(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(check, State::Failure, finding)
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// 2026 began, in seconds since 1970: no clock that is right shows less.
const WRITTEN: u64 = 1_767_225_600;

#[cfg(test)]
mod tests {
    use hyperdht_rs::nat::PortReport;

    use super::*;

    fn network(mapping: Mapping, reached: usize) -> NatReport {
        let node = BootstrapReport {
            node: "node.example:49737".to_owned(),
            address: Some("5.5.0.11:49737".parse().expect("an address")),
            rtt: (mapping != Mapping::Silent).then_some(Duration::from_millis(3)),
        };
        NatReport {
            bootstrap: vec![node],
            local: vec![],
            mapping,
            public_ip: Some([5, 5, 1, 1].into()),
            port: PortReport { local: 4000, public: 4000, asked: 5, reached, only_way: false },
            refused: None,
        }
    }

    fn findings(network: NatReport) -> Findings {
        Findings {
            port: None,
            forwarded: None,
            unix_seconds: WRITTEN,
            binding: Binding::Free,
            network: Some(network),
            bridge: None,
            relays: 0,
            trial: Some(Encounter::Met),
        }
    }

    #[test]
    fn who_needs_a_relay_is_told_how_to_get_one() {
        let advice = |mapping, relays| {
            let diagnosis = diagnose(&Findings { relays, ..findings(network(mapping, 0)) });
            check(&diagnosis, "services").unwrap().advice.clone().unwrap_or_default()
        };
        assert!(advice(Mapping::Random, 0).contains("DHT_PROM_RELAYS"));
        assert!(advice(Mapping::Random, 1).contains("they are met at a relay"));
        assert!(advice(Mapping::Consistent, 1).contains("they are met at a relay"));
        assert_eq!(advice(Mapping::Consistent, 0), "");
    }

    fn check<'a>(diagnosis: &'a Diagnosis, name: &str) -> Option<&'a Check> {
        diagnosis.checks.iter().find(|check| check.check == name)
    }

    #[test]
    fn access_follows_from_the_nat_unless_the_port_is_open() {
        let cases = [
            (Mapping::Own, 0, Access::Punched),
            (Mapping::Own, 5, Access::Open),
            (Mapping::Consistent, 0, Access::Punched),
            (Mapping::Consistent, 3, Access::Open),
            (Mapping::Random, 2, Access::Guessed),
            (Mapping::Random, 5, Access::Open),
            (Mapping::Several, 0, Access::Guessed),
            (Mapping::Unclear, 0, Access::Unclear),
        ];
        for (mapping, reached, access) in cases {
            let diagnosis = diagnose(&findings(network(mapping, reached)));
            assert_eq!(diagnosis.access, access, "{mapping:?}");
            assert!(diagnosis.reachable, "{mapping:?}: {diagnosis:?}");
        }
    }

    #[test]
    fn a_host_that_nobody_answers_is_not_reachable_and_is_told_why() {
        let mut silent = network(Mapping::Silent, 0);
        let advice = |network: NatReport| {
            let diagnosis = diagnose(&findings(network));
            assert!(!diagnosis.reachable);
            check(&diagnosis, "network").and_then(|check| check.advice.clone()).expect("advice")
        };
        assert!(advice(silent.clone()).contains("drops UDP"));
        silent.refused = Some(io::ErrorKind::PermissionDenied);
        assert!(advice(silent.clone()).contains("own firewall"));
        silent.refused = Some(io::ErrorKind::NetworkUnreachable);
        assert!(advice(silent).contains("no route"));
    }

    #[test]
    fn a_port_that_was_set_and_is_closed_is_worth_a_warning_and_one_that_was_not_is_not() {
        let state = |port, mapping| {
            let findings = Findings { port, ..findings(network(mapping, 0)) };
            check(&diagnose(&findings), "port").expect("the port is looked at").state
        };
        assert_eq!(state(None, Mapping::Consistent), State::Ok);
        assert_eq!(state(Some(4000), Mapping::Consistent), State::Warning);
        assert_eq!(state(None, Mapping::Random), State::Warning, "an open port would help here");
    }

    #[test]
    fn one_port_through_a_firewall_is_enough_for_a_bridge_that_is_told_so() {
        let diagnosis = |forwarded| {
            let mut network = network(Mapping::Own, 0);
            network.port.only_way = true;
            diagnose(&Findings { forwarded, trial: None, ..findings(network) })
        };
        assert!(diagnosis(Some(4000)).reachable);
        let untold = diagnosis(None);
        assert!(!untold.reachable);
        let advice = check(&untold, "port").and_then(|check| check.advice.clone());
        assert!(advice.expect("advice").contains("DHT_PROM_DHT_FORWARDED_PORT"));
    }

    #[test]
    fn a_port_is_taken_by_the_bridge_or_by_a_stranger() {
        let taken = |bridge| {
            let findings = Findings {
                binding: Binding::Taken(4000),
                bridge,
                ..findings(network(Mapping::Own, 5))
            };
            diagnose(&findings)
        };
        assert!(taken(Some(Encounter::Met)).reachable);
        assert!(!taken(Some(Encounter::Unknown)).reachable);
        assert!(!taken(None).reachable);
    }

    #[test]
    fn a_key_that_a_second_node_cannot_reach_makes_the_difference() {
        let reachable = |trial| {
            diagnose(&Findings { trial: Some(trial), ..findings(network(Mapping::Own, 5)) })
                .reachable
        };
        assert!(reachable(Encounter::Met));
        assert!(reachable(Encounter::NoPath), "the way back in is often closed from inside");
        assert!(!reachable(Encounter::NotAnnounced));
        assert!(!reachable(Encounter::Unknown));
        assert!(!reachable(Encounter::NoAnswer("silence".to_owned())));
    }

    #[test]
    fn only_a_clock_that_is_years_behind_is_mentioned() {
        let clock = |unix_seconds| {
            let findings = Findings { unix_seconds, ..findings(network(Mapping::Own, 5)) };
            check(&diagnose(&findings), "clock").is_some()
        };
        assert!(clock(0));
        assert!(!clock(WRITTEN));
    }

    #[test]
    fn programs_read_words_that_stay() {
        let json = serde_json::to_value(diagnose(&findings(network(Mapping::Own, 5))));
        let json = json.expect("it can be written");
        assert_eq!(json["reachable"], true);
        assert_eq!(json["access"], "open");
        assert_eq!(json["checks"][0]["check"], "bind");
        assert_eq!(json["checks"][0]["state"], "ok");
        assert!(json["checks"][0].get("advice").is_none());
    }
}
