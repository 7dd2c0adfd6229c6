//! Being found: the record under our key, kept fresh and taken back.

use std::{sync::Arc, time::Duration};

use peeroxide_dht::hyperdht::{HyperDhtError, HyperDhtHandle};
use tokio::{
    sync::{OwnedMutexGuard, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{door, handshake::Identity};

/// Keeps an identity announced.
pub(super) struct Announcement {
    pub(super) dht: HyperDhtHandle,
    pub(super) identity: Arc<Identity>,
    /// Held until the record is taken back, so that a later announcement is not taken back with it.
    pub(super) turn: OwnedMutexGuard<()>,
    /// Ends the announcement.
    pub(super) stop: CancellationToken,
}

impl Announcement {
    /// Announces, reports how that went, keeps the record fresh until stopped, takes it back.
    pub(super) async fn run(self, first: oneshot::Sender<Result<usize, HyperDhtError>>) {
        let mut first = Some(first);
        let keep = async {
            loop {
                let outcome = self.announce().await;
                match first.take() {
                    Some(first) => _ = first.send(outcome),
                    None => match outcome {
                        Ok(nodes) => tracing::debug!(nodes, "announced again"),
                        Err(error) => tracing::warn!(%error, "announcing failed"),
                    },
                }
                sleep(REFRESH).await;
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = keep => {}
        }
        let key_pair = self.identity.key_pair();
        let target = door::target(&key_pair.public_key);
        match timeout(UNANNOUNCE_TIMEOUT, self.dht.unannounce(target, key_pair)).await {
            Ok(Ok(())) => tracing::debug!("unannounced"),
            Ok(Err(error)) => tracing::debug!(%error, "unannouncing failed"),
            Err(_) => tracing::debug!("unannouncing takes too long"),
        }
        drop(self.turn);
    }

    /// The number of DHT nodes that were asked to keep the record.
    async fn announce(&self) -> Result<usize, HyperDhtError> {
        let key_pair = self.identity.key_pair();
        let target = door::target(&key_pair.public_key);
        let announced = self.dht.announce(target, key_pair, &[]).await?;
        Ok(announced.closest_nodes.len())
    }
}

/// Nodes forget a record after 20 minutes (`hyperdht` 6.34, `lib/persistent.js`), and some go away
/// before: until the next refresh, diallers who ask their successors do not find us.
const REFRESH: Duration = Duration::from_secs(60);
/// What a stop may cost. Diallers that still find the record hear nothing.
const UNANNOUNCE_TIMEOUT: Duration = Duration::from_secs(3);
