//! A node process that runs `udx-peer.js`.

use std::process::Stdio;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A peer of the reference, told what to do by lines of JSON. It ends with its handle.
pub(crate) struct Peer {
    commands: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
    /// Events that came before they were asked for.
    early: Vec<Value>,
    _child: Child,
}

impl Peer {
    /// Starts node.
    pub(crate) fn start() -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop");
        let mut child = Command::new("node")
            .arg("udx-peer.js")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node must be installed when HYPERDHT_INTEROP is set");
        let commands = child.stdin.take().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { commands, events, early: Vec::new(), _child: child }
    }

    /// Gives a command.
    pub(crate) async fn command(&mut self, command: Value) {
        let line = format!("{command}\n");
        self.commands.write_all(line.as_bytes()).await.unwrap();
    }

    /// Waits for an event, whichever stream it is about.
    pub(crate) async fn any(&mut self, name: &str) -> Value {
        self.wait(|event| event["event"] == name).await
    }

    /// Waits for an event of a stream.
    pub(crate) async fn event(&mut self, name: &str, id: u32) -> Value {
        self.wait(|event| event["event"] == name && event["id"] == id).await
    }

    async fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.early.iter().position(&wanted) {
            return self.early.remove(at);
        }
        loop {
            let line = self.events.next_line().await.unwrap();
            let event: Value = serde_json::from_str(&line.expect("node has ended")).unwrap();
            if wanted(&event) {
                return event;
            }
            self.early.push(event);
        }
    }

    /// Binds a socket and says its port.
    pub(crate) async fn bind(&mut self) -> u16 {
        self.command(json!({ "cmd": "bind" })).await;
        let port = self.any("bound").await["port"].as_u64().unwrap();
        port.try_into().unwrap()
    }

    /// Opens a stream, to `port` or to whoever speaks first.
    pub(crate) async fn open(&mut self, id: u32, remote_id: u32, port: Option<u16>, mode: &str) {
        self.command(
            json!({ "cmd": "open", "id": id, "remoteId": remote_id, "port": port, "mode": mode }),
        )
        .await;
        self.event("opened", id).await;
    }

    /// Has `len` bytes of [`pattern`] written.
    pub(crate) async fn write(&mut self, id: u32, len: usize, seed: u32, end: bool) {
        self.command(json!({ "cmd": "write", "id": id, "len": len, "seed": seed, "end": end }))
            .await;
    }

    /// What the reference knows of a stream.
    pub(crate) async fn stats(&mut self, id: u32) -> Value {
        self.command(json!({ "cmd": "stats", "id": id })).await;
        self.event("stats", id).await
    }
}

/// The bytes that both sides make from a seed: xorshift32, one byte per step.
pub(crate) fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut x = seed | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x.to_le_bytes()[0]
        })
        .collect()
}

/// SHA-256 in hex.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
