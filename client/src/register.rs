//! Registering with a bridge.

use bytes::Bytes;
use dht_prom_transport::{PublicKey, Session, Transport, TransportError};
use protomux::{Limits, Mux, OpenError, Protocol, RpcError};

use crate::message::{ALIAS_METHOD, ALIAS_PROTOCOL, AliasRequest, AliasResponse, MessageError};

/// Why a registration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The bridge could not be reached.
    #[error("cannot reach the bridge")]
    Dial(#[source] TransportError),
    /// The channel could not be opened on our side.
    #[error("cannot open a channel")]
    Open(#[source] OpenError),
    /// The bridge did not answer, or with an error.
    #[error("the bridge did not answer the request")]
    Request(#[source] RpcError),
    /// The bridge's answer makes no sense.
    #[error("the bridge's answer cannot be read")]
    Answer(#[source] MessageError),
    /// The bridge refused; the reason is its own.
    #[error("the bridge refused: {0}")]
    Refused(String),
}

/// Asks `bridge` to scrape `request.target` as `request.alias`. True when that changed what the
/// bridge knew.
///
/// One connection per call. Has no time limit of its own. Cancel-safe: a dropped call may have
/// registered all the same.
///
/// # Errors
/// See [`RegisterError`].
pub async fn register(
    transport: &dyn Transport,
    bridge: PublicKey,
    request: &AliasRequest,
) -> Result<bool, RegisterError> {
    let Session { tx, rx, .. } = transport.dial(bridge).await.map_err(RegisterError::Dial)?;
    let (mux, driver) = Mux::new(tx, rx, Limits::default());
    let asked = async {
        let rpc = mux.open(&Protocol::new(ALIAS_PROTOCOL), None).map_err(RegisterError::Open)?;
        let answer = rpc.request(ALIAS_METHOD, request).await.map_err(RegisterError::Request)?;
        mux.close().await;
        Ok(answer)
    };
    let (answer, _driven) = tokio::join!(asked, async {
        let driven = driver.await;
        tracing::debug!(?driven, "registration session ended");
    });
    read(&answer?)
}

fn read(answer: &Bytes) -> Result<bool, RegisterError> {
    match AliasResponse::decode(answer).map_err(RegisterError::Answer)? {
        AliasResponse::Registered { updated } => Ok(updated),
        AliasResponse::Failed(reason) => Err(RegisterError::Refused(reason)),
    }
}
