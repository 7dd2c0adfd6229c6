//! Services at the door: who knows the secret gets an alias.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use dht_prom_client::{
    SharedSecret,
    message::{ALIAS_METHOD, ALIAS_PROTOCOL, AliasRequest, AliasResponse},
};
use dht_prom_transport::{Incoming, Listener, PublicKey, Session, TransportError};
use protomux::{Limits, Mux, Protocol, Reply, RpcFault, RpcHandler};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    directory::Directory,
    metrics::{Metrics, RegistrationOutcome},
    name::Alias,
    registry::{Change, MAX_TARGETS, Target},
    telemetry::{Throttle, causes},
};

/// How long a peer may take that was let in: its packets may have to find a way through NATs, whose
/// ports are guessed for up to 35 s. Without one they are given up after ten.
const COME_WITHIN: Duration = Duration::from_secs(45);
/// How long a peer may stay that has not proven the secret.
const PROVE_WITHIN: Duration = Duration::from_secs(5);
/// How long a peer stays that proved not to know it, so that it can read our answer.
const GRACE: Duration = Duration::from_secs(1);
/// Peers at once that have not proven the secret. Each may cost [`limits`] and a handshake: about
/// 100 KiB, so 25 MiB for all.
const MAX_STRANGERS: usize = 256;
/// Sessions at once, of all peers. A service needs one, and only while it registers.
const MAX_SESSIONS: usize = 2 * MAX_TARGETS;
/// Lines per second that strangers may cause in the log.
const STRANGERS_LINES_PER_SECOND: u32 = 10;

/// Answers alias requests.
#[derive(Debug)]
pub struct Registrar {
    secret: SharedSecret,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    strangers: Arc<Semaphore>,
    throttle: Throttle,
}

impl Registrar {
    /// Enters into `directory` who knows `secret`.
    pub fn new(secret: SharedSecret, directory: Arc<Directory>, metrics: Arc<Metrics>) -> Self {
        let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
        let throttle = Throttle::per_second(STRANGERS_LINES_PER_SECOND);
        Self { secret, directory, metrics, strangers, throttle }
    }

    /// Serves those who come to `listener`, until its transport stops.
    ///
    /// Cancel-safe: dropping it ends the sessions.
    pub async fn run(self: Arc<Self>, mut listener: Box<dyn Listener>) {
        let mut sessions = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                incoming = listener.accept() => incoming,
                Some(_ended) = sessions.join_next() => continue,
            };
            match incoming {
                Ok(incoming) => match Arc::clone(&self.strangers).try_acquire_owned() {
                    Ok(stranger) if sessions.len() < MAX_SESSIONS => {
                        sessions.spawn(Arc::clone(&self).serve(incoming, stranger));
                    }
                    Ok(_) | Err(_) => incoming.refuse(),
                },
                Err(TransportError::Closed { .. }) => return,
                Err(error) => tracing::debug!("a connection attempt failed: {}", causes(&error)),
            }
        }
    }

    async fn serve(self: Arc<Self>, incoming: Box<dyn Incoming>, stranger: OwnedSemaphorePermit) {
        let Ok(Ok(session)) = timeout(COME_WITHIN, incoming.accept()).await else { return };
        let Session { peer, info, tx, rx } = session;
        let visit = Arc::new(Visit {
            uid: Uuid::new_v4(),
            peer,
            address: info.remote_addr.map_or_else(|| info.transport.to_owned(), |a| a.to_string()),
            standing: watch::Sender::new(Standing::Unknown),
            registrar: self,
        });
        let Visit { uid, address, registrar, .. } = &*visit;
        if registrar.throttle.allows() {
            tracing::info!("Alias server opened connection to {peer} at {address} (uid {uid})");
        }
        let (mux, driver) = Mux::new(tx, rx, limits());
        mux.serve(Protocol::new(ALIAS_PROTOCOL), Arc::clone(&visit) as _);
        tokio::select! {
            ended = driver => tracing::debug!(?ended, "Alias server socket ended (uid {uid})"),
            () = visit.outstayed(stranger) => {
                tracing::debug!("Alias server drops {peer}, who proved nothing (uid {uid})");
            }
        }
        if registrar.throttle.allows() {
            tracing::info!("Alias server closed connection to {peer} at {address} (uid {uid})");
        }
    }

    /// Answers a request that was read, and tells what became of it.
    fn register(
        &self,
        request: AliasRequest,
        visit: &Visit,
    ) -> (AliasResponse, RegistrationOutcome) {
        let (peer, uid, key) = (visit.peer, visit.uid, request.target);
        let Ok(alias) = request.alias.parse::<Alias>() else {
            let error = crate::name::AliasError;
            tracing::warn!("Alias error: {error} ({uid})");
            return (AliasResponse::Failed(error.to_string()), RegistrationOutcome::Refused);
        };
        tracing::info!("Alias request from {peer} to set {alias}->{key} (uid {uid})");
        let target = Target {
            key,
            hostname: request.hostname.as_str().into(),
            service: request.service.as_str().into(),
        };
        match self.directory.register(alias.clone(), target.clone()) {
            Err(full) => {
                tracing::error!("Alias error: {full} ({uid})");
                (AliasResponse::Failed(full.to_string()), RegistrationOutcome::Full)
            }
            Ok(change) => {
                let updated = change.is_update();
                tracing::info!("Alias success for {alias}->{key}--updated: {updated} (uid: {uid})");
                if updated {
                    let Target { hostname, service, .. } = target;
                    tracing::info!(
                        "Registered alias: {alias} -> {key} ({service} on host {hostname})"
                    );
                }
                let outcome = match change {
                    Change::Renewed => RegistrationOutcome::Renewed,
                    Change::Added | Change::Relabelled | Change::Replaced { .. } => {
                        RegistrationOutcome::Updated
                    }
                };
                (AliasResponse::Registered { updated }, outcome)
            }
        }
    }
}

/// What a peer that may be anybody is allowed: an alias request takes under 2 KiB.
#[expect(clippy::field_reassign_with_default, reason = "limits may get further fields")]
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.frame_bytes = 16 << 10;
    limits.transmit_bytes = 16 << 10;
    limits.transmit_frames = 64;
    limits.channels = 8;
    limits.undecided = 4;
    limits.undecided_bytes = 16 << 10;
    limits.outstanding = 4;
    limits.handlers = 4;
    limits.handler_bytes = 16 << 10;
    limits.error_text_bytes = 512;
    limits
}

/// One peer's session.
struct Visit {
    /// Names the session in the log and in answers.
    uid: Uuid,
    peer: PublicKey,
    address: String,
    standing: watch::Sender<Standing>,
    registrar: Arc<Registrar>,
}

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    KnowsSecret,
    Unauthorised,
}

impl Visit {
    /// Comes true when the peer is to go: it was silent too long, or showed a wrong secret.
    async fn outstayed(&self, stranger: OwnedSemaphorePermit) {
        let mut standing = self.standing.subscribe();
        let proven = async {
            // The sender lives in `self`, so that waiting cannot fail.
            let _known = standing.wait_for(|standing| *standing != Standing::Unknown).await;
        };
        if timeout(PROVE_WITHIN, proven).await.is_err() {
            return;
        }
        drop(stranger);
        drop(standing.wait_for(|standing| *standing == Standing::Unauthorised).await);
        sleep(GRACE).await;
    }

    fn refuse(&self, request: &AliasRequest) -> AliasResponse {
        self.standing.send_replace(Standing::Unauthorised);
        if self.registrar.throttle.allows() {
            let Self { peer, address, uid, .. } = self;
            let alias = Loggable(&request.alias);
            let key = request.target;
            tracing::warn!(
                "Unauthorised alias request from {peer} ({address}) to set {alias}->{key} (uid: {uid})"
            );
        }
        AliasResponse::Failed("Unauthorised".to_owned())
    }
}

#[async_trait]
impl RpcHandler for Visit {
    async fn request(&self, method: &str, value: Bytes) -> Result<Reply, RpcFault> {
        let registrar = &self.registrar;
        if method != ALIAS_METHOD {
            return Err(RpcFault::unknown_method(method));
        }
        let request = AliasRequest::decode(&value).map_err(|error| {
            registrar.metrics.registered(RegistrationOutcome::Malformed);
            RpcFault::decode(error.to_string())
        })?;
        let (response, outcome) = if request.secret == registrar.secret {
            // Who showed a wrong secret before is on the way out and stays so.
            self.standing.send_if_modified(|standing| {
                let news = *standing == Standing::Unknown;
                *standing = if news { Standing::KnowsSecret } else { *standing };
                news
            });
            registrar.register(request, self)
        } else {
            (self.refuse(&request), RegistrationOutcome::Unauthorised)
        };
        registrar.metrics.registered(outcome);
        Ok(Reply::new(response))
    }
}

/// A stranger's alias in a log line: as it is when it keeps to the rule, else not at all.
struct Loggable<'a>(&'a str);

impl fmt::Display for Loggable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.parse::<Alias>() {
            Ok(alias) => alias.fmt(f),
            Err(_) => f.write_str("(not an alias)"),
        }
    }
}
