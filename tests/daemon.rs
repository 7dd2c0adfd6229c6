//! The program as a process of its own, without Node and without a network.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use dht_prom_test_support::{PATIENCE, Process, http_get};
use regex_lite::Regex;
use rustix::process::{Resource, getrlimit, setrlimit};

/// README.md's number of HTTP connections.
const MAX_CONNECTIONS: usize = 1024;

/// The bridge, started by a shell with a soft limit of so many open files.
struct Daemon {
    process: Process,
    http: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Daemon {
    fn start(open_files: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Process::bound_command("sh");
        command
            .args(["-c", &format!("ulimit -Sn {open_files}; exec \"$0\"")])
            .arg(env!("CARGO_BIN_EXE_dht-prometheus"))
            .env("DHT_PROM_SHARED_SECRET", "5e".repeat(32))
            .env("DHT_PROM_PROMETHEUS_TARGETS_LOC", folder.path().join("targets.json"))
            .env("DHT_PROM_DHT_HOST", "127.0.0.1")
            // The port of nobody: HTTP is served before the network is there.
            .env("DHT_PROM_BOOTSTRAP", "127.0.0.1:9");
        let process = Process::spawn("bridge", command);
        let listening = Regex::new(r"Server listening at http://([0-9.]+:[0-9]+)").unwrap();
        let http = process.expect_line("the address of the HTTP server", |line| {
            listening.captures(line).map(|found| found[1].parse().unwrap())
        });
        Self { process, http, _folder: folder }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

#[test]
fn as_many_files_may_be_open_as_the_system_allows() {
    let daemon = Daemon::start(64);
    let metrics = http_get(&format!("http://{}/metrics", daemon.http), &[]).text();
    let reported = Regex::new(r"\nprocess_max_fds ([0-9]+)").unwrap();
    let allowed = getrlimit(Resource::Nofile).maximum.unwrap();
    assert_eq!(reported.captures(&metrics).unwrap()[1], allowed.to_string());
}

#[test]
fn a_connection_too_many_waits_until_another_ends() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let daemon = Daemon::start(64);
    let mut kept: Vec<_> = (0..MAX_CONNECTIONS).map(|_| daemon.connect()).collect();
    for stream in &mut kept {
        ask(stream);
        assert_eq!(status(stream), "HTTP/1.1 200 OK");
    }
    let mut late = daemon.connect();
    ask(&mut late);
    late.set_nonblocking(true).unwrap();
    // Those that are in go on being served while it waits, and it is not.
    for stream in &mut kept {
        ask(stream);
        assert_eq!(status(stream), "HTTP/1.1 200 OK");
        let early = late.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(early, Err(std::io::ErrorKind::WouldBlock));
    }
    late.set_nonblocking(false).unwrap();
    drop(kept.pop());
    assert_eq!(status(&mut late), "HTTP/1.1 200 OK");
    assert!(daemon.process.stderr().count() == 0);
}

#[test]
fn a_first_node_refuses_a_forwarded_port_with_one_line() {
    let mut command = Process::bound_command(env!("CARGO_BIN_EXE_dht-prometheus"));
    command.args(["dht-node", "--host", "127.0.0.1", "--port", "0"]);
    command.env("DHT_PROM_DHT_FORWARDED_PORT", "49737");
    let mut node = Process::spawn("dht-node", command);
    assert_eq!(node.expect_exit().code(), Some(1));
    let lines = node.stderr().all();
    assert!(lines.len() == 1 && lines[0].ends_with("DHT_PROM_DHT_FORWARDED_PORT"), "{lines:?}");
}

fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET /-/healthy HTTP/1.1\r\nhost: bridge\r\n\r\n").unwrap();
}

/// The status line of an answer, which is read to its end.
fn status(stream: &mut TcpStream) -> String {
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"Healthy\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap().lines().next().unwrap().to_owned()
}
