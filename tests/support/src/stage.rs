//! What every interop test starts from.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Bridge, BridgeSettings, Client, ClientSpec, Subject, Testnet, interop_requested};

/// A DHT and a folder of its own, and the settings of the bridge that will live there.
#[derive(Debug)]
pub struct Stage {
    /// How this test's bridge is started.
    pub settings: BridgeSettings,
    testnet: Testnet,
    folder: TempDir,
}

impl Stage {
    /// Sets up the stage for the bridge at `own` (see [`Subject::new`]), or nothing, loudly, when
    /// the interop tests are not asked for.
    ///
    /// # Panics
    /// When they are asked for and Node or its packages are missing.
    #[must_use]
    pub fn set(own: &str) -> Option<Self> {
        if !interop_requested() {
            return None;
        }
        let testnet = Testnet::start();
        let folder = TempDir::new().expect("a temporary folder can be made");
        let settings = BridgeSettings::new(&Subject::new(own), &testnet, folder.path());
        Some(Self { settings, testnet, folder })
    }

    /// A folder that goes away with the test.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into that folder.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::write(&path, content).expect("the test's folder can be written");
        path
    }

    /// Starts clients that know the bridge's key and secret, and waits until it has registered
    /// each as something new.
    ///
    /// # Panics
    /// When a registration fails or changes nothing.
    #[must_use]
    pub fn register(&self, bridge: &Bridge, clients: &[ClientSpec]) -> Client {
        let running = self.start_clients(bridge, &self.settings.secret, clients);
        for client in clients {
            assert!(running.expect_registered(&client.alias), "{} is new", client.alias);
        }
        running
    }

    /// Starts clients with this secret, and does not wait for anything.
    ///
    /// # Panics
    /// When Node or its packages are missing.
    #[must_use]
    pub fn start_clients(&self, bridge: &Bridge, secret: &str, clients: &[ClientSpec]) -> Client {
        Client::start(&self.testnet, bridge.public_key(), secret, clients)
    }
}
