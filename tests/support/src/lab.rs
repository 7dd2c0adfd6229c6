//! A small internet of network namespaces on this machine, taken down with its value.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{interop_requested, warn};

mod peers;

pub use peers::{Dial, Network, Peers, Stack};

/// One of the hosts that a NAT can stand before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// 10.1.0.2 behind 5.5.1.1.
    A,
    /// 10.2.0.2 behind 5.5.2.1.
    B,
    /// 10.3.0.2 behind 5.5.3.1, where a NAT was put.
    C,
}

/// What stands between a host and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Nothing: the host has the public address itself.
    Open,
    /// Keeps the port, lets in only whom the host has written to, by address and port.
    Cone,
    /// Another random port for each destination, and lets in as a cone does.
    Symmetric,
    /// No UDP passes.
    Blocked,
}

impl Nat {
    /// Those that some connection can be made through.
    pub const CROSSABLE: [Self; 3] = [Self::Open, Self::Cone, Self::Symmetric];

    /// Its name, in tables and in `natlab.sh`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cone => "cone",
            Self::Symmetric => "symmetric",
            Self::Blocked => "blocked",
        }
    }
}

/// A place where programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host on this side.
    Host(Side),
    /// The public host of this number, 1 and up: 5.5.0.11 and up.
    Public(u8),
}

/// A public switch with public hosts, and three hosts that NATs can be put before
/// (`tests/lab/natlab.sh`, whose head says how each is made).
#[derive(Debug)]
pub struct NatLab {
    name: String,
}

impl NatLab {
    /// Builds a lab with so many public hosts and hosts A and B open, or says loudly why not.
    ///
    /// Needs root and namespaces; without `DHT_PROM_INTEROP=1` it is not asked for.
    ///
    /// # Panics
    /// When it could be built and was not.
    #[must_use]
    pub fn build(public_hosts: u8) -> Option<Self> {
        if !interop_requested() {
            return None;
        }
        if let Err(lack) = Self::possible() {
            let thread = std::thread::current();
            warn(&format!(
                "NOT RUN: {} ({lack})",
                thread.name().unwrap_or("a test in the NAT lab")
            ));
            return None;
        }
        Some(Self::build_anyway(public_hosts))
    }

    /// As [`Self::build`], for programs that were asked for a lab in so many words.
    ///
    /// # Panics
    /// When it cannot be built.
    #[must_use]
    pub fn build_anyway(public_hosts: u8) -> Self {
        remove_orphans();
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let lab = Self { name: format!("{PREFIX}{}x{number}", std::process::id()) };
        let mut script = lab.script(&["up"]);
        script.env("PUBS", public_hosts.to_string()).env("MODE_A", "open").env("MODE_B", "open");
        run(script);
        lab
    }

    /// Whether a lab can be built here. Looked at once for the whole process.
    ///
    /// # Errors
    /// What is missing.
    pub fn possible() -> Result<(), String> {
        // Tests on several threads must not take each other's probe away.
        static POSSIBLE: OnceLock<Result<(), String>> = OnceLock::new();
        POSSIBLE.get_or_init(probe).clone()
    }

    /// Puts a NAT before a host, in place of what was there: programs on the host lose their network.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn put(&self, side: Side, nat: Nat) {
        run(self.script(&["side", side.name(), nat.name()]));
    }

    /// Lets so many hundredths of the UDP that hosts and NATs receive get lost.
    ///
    /// # Panics
    /// When that cannot be set.
    pub fn weather(&self, loss_percent: u8) {
        run(self.script(&["weather", &loss_percent.to_string()]));
    }

    /// Has the NAT forget its mappings, as after a restart of the router.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn rebind(&self, side: Side) {
        run(self.script(&["rebind", side.name()]));
    }

    /// Gives the NAT another public address, of 5.5.0.0/16.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn move_to(&self, side: Side, address: &str) {
        run(self.script(&["move", side.name(), address]));
    }

    /// Has the NAT let no UDP through from now on.
    ///
    /// # Panics
    /// When that cannot be done, as without a NAT.
    pub fn block(&self, side: Side) {
        run(self.script(&["block", side.name()]));
    }

    /// Takes [`Self::block`] back.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn unblock(&self, side: Side) {
        run(self.script(&["unblock", side.name()]));
    }

    /// Lets no UDP pass between hosts A and B, which have the addresses that they were built with.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn part(&self) {
        run(self.script(&["part"]));
    }

    /// Takes [`NatLab::part`] back.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn join(&self) {
        run(self.script(&["join"]));
    }

    /// Takes the host's interface down, or up again.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn interface(&self, side: Side, up: bool) {
        run(self.script(&["interface", side.name(), if up { "up" } else { "down" }]));
    }

    /// Gives the host behind the NAT another address, of the same network.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn renumber(&self, side: Side, address: &str) {
        run(self.script(&["renumber", side.name(), address]));
    }

    /// Has the NAT forward a UDP port to the host.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn forward(&self, side: Side, outside: u16, inside: u16) {
        run(self.script(&["forward", side.name(), &outside.to_string(), &inside.to_string()]));
    }

    /// Has the host itself let no other UDP port in or out.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn firewall(&self, side: Side, port: u16) {
        run(self.script(&["firewall", side.name(), &port.to_string()]));
    }

    /// The words that run what follows them in a place; the process id stays that of the program.
    #[must_use]
    pub fn words(&self, place: Place) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace(place)].map(str::to_owned).to_vec()
    }

    /// Does something in a place, on a thread of its own.
    ///
    /// # Panics
    /// When the namespace cannot be entered, or `what` panics.
    pub fn within<T: Send>(&self, place: Place, what: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(self.namespace(place));
        let enter = || {
            let namespace = File::open(&path).expect("the namespace is there");
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).expect("root may enter it");
            what()
        };
        std::thread::scope(|scope| {
            let joined = scope.spawn(enter).join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn namespace(&self, place: Place) -> String {
        match place {
            Place::Host(side) => format!("{}-host{}", self.name, side.name()),
            Place::Public(number) => format!("{}-pub{number}", self.name),
        }
    }

    fn script(&self, words: &[&str]) -> Command {
        let mut command = Command::new("bash");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../lab/natlab.sh");
        command.arg(script).args(words).env("LAB", &self.name);
        command
    }
}

impl Drop for NatLab {
    fn drop(&mut self) {
        if let Err(reason) = outcome(self.script(&["down"])) {
            warn(&format!("the NAT lab {} is left behind: {reason}", self.name));
        }
    }
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        }
    }
}

/// Tries whatever the lab is made of, in a namespace of its own.
fn probe() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("the NAT lab needs root".to_owned());
    }
    for (program, argument) in [("ip", "-V"), ("iptables", "-V"), ("conntrack", "-V")] {
        let found = quiet(Command::new(program).arg(argument));
        found.map_err(|()| format!("the NAT lab needs {program}; `cargo xtask test` brings it"))?;
    }
    let name = format!("{PREFIX}{}probe", std::process::id());
    let made = quiet(Command::new("ip").args(["netns", "add", &name]));
    made.map_err(|()| "the NAT lab needs to make network namespaces".to_owned())?;
    let lack = PARTS.into_iter().find(|words| {
        let mut command = Command::new("ip");
        quiet(command.args(["netns", "exec", &name]).args(words.split(' '))).is_err()
    });
    // What is left goes with this process's labs, as after a kill.
    let _ = quiet(Command::new("ip").args(["netns", "del", &name]));
    lack.map_or(Ok(()), |words| Err(format!("this system cannot do `{words}` in a namespace")))
}

/// What `natlab.sh` asks of the kernel.
const PARTS: [&str; 6] = [
    "ip link add br0 type bridge",
    "ip link add one type veth peer name other",
    "iptables -t nat -A POSTROUTING -p udp -j MASQUERADE --random-fully",
    "iptables -t raw -A PREROUTING -p udp -m statistic --mode random --probability 0.1 -j DROP",
    "iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "conntrack -F",
];

/// Takes down the labs of processes that are no more: a killed test cannot do it itself.
fn remove_orphans() {
    let Ok(namespaces) = fs::read_dir("/run/netns") else { return };
    for namespace in namespaces.flatten() {
        let name = namespace.file_name();
        let Some(owner) = name.to_str().and_then(owner) else { continue };
        if !Path::new("/proc").join(owner.to_string()).exists() {
            // Another test may be doing the same.
            let _ = quiet(Command::new("ip").arg("netns").arg("del").arg(&name));
        }
    }
}

/// The process that a namespace's name tells of.
fn owner(namespace: &str) -> Option<u32> {
    let rest = namespace.strip_prefix(PREFIX)?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

fn run(command: Command) {
    let words = format!("{command:?}");
    outcome(command).unwrap_or_else(|reason| panic!("{words}: {reason}"));
}

fn outcome(mut command: Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(text) }
}

fn quiet(command: &mut Command) -> Result<(), ()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if command.status().is_ok_and(|status| status.success()) { Ok(()) } else { Err(()) }
}

/// Labs built by this process.
static LABS: AtomicU32 = AtomicU32::new(0);

/// How the namespaces of all labs begin; the owner's process id follows.
const PREFIX: &str = "natlab";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_namespaces_tell_their_owner() {
        assert_eq!(owner("natlab123x0-hostA"), Some(123));
        assert_eq!(owner("natlab7probe"), Some(7));
        assert_eq!(owner("lab-hostA"), None);
        assert_eq!(owner("natlab-hostA"), None);
    }
}
