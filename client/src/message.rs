//! The four messages of the two application protocols.
//!
//! Bodies of protomux-rpc requests and responses, as `dht-prom-alias-rpc` 2.1 and `dht-prom-client`
//! 2.1 write them. Every decoder ignores bytes behind the fields it knows; all of it is checked
//! against `tests/vectors/dht-prom.json`, recorded from those packages.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use dht_prom_transport::PublicKey;
use hyperdht_encoding::{DecodeError, Decoder, Encode, buffer_len};
use protomux::Payload;

use crate::SharedSecret;

/// The protomux protocol over which services register.
pub const ALIAS_PROTOCOL: &str = "register-alias";
/// The only method of [`ALIAS_PROTOCOL`].
pub const ALIAS_METHOD: &str = "alias";
/// The protomux protocol over which the bridge scrapes.
pub const METRICS_PROTOCOL: &str = "prometheus-metrics";
/// The only method of [`METRICS_PROTOCOL`].
pub const METRICS_METHOD: &str = "metrics";

/// Major version of both requests and of the alias response.
const MAJOR: u64 = 1;
/// Minor version of both requests and of the alias response.
const MINOR: u64 = 1;
/// The version of the metrics response, which has no minor one.
const METRICS_VERSION: u64 = 0;

/// A message that cannot be read.
///
/// The texts are those of the reference: they travel to the peer as an RPC error's cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The bytes end early or hold an impossible length.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A request of a protocol that we do not speak. Both requests go by the same name here.
    #[error("Cannot decode RegisterRequest of other major version {0} (own major: {MAJOR})")]
    RequestMajor(u64),
    /// A request that is newer than we are.
    #[error("Cannot decode RegisterRequest of higher minor version {0} (own minor: {MINOR})")]
    RequestMinor(u64),
    /// An alias response of a protocol that we do not speak. The reference leaves the bracket open.
    #[error("Cannot decode AliasResp of different major version {0} (own version: {MAJOR}")]
    AliasMajor(u64),
    /// A metrics response that is newer than we are.
    #[error("Cannot decode MetricsReply of future version {0} (own version: {METRICS_VERSION})")]
    MetricsVersion(u64),
}

/// Service to bridge: scrape me under this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasRequest {
    /// Proof that the service may register.
    pub secret: SharedSecret,
    /// The name under which it wants to be scraped.
    pub alias: String,
    /// The key on which it serves its metrics.
    pub target: PublicKey,
    /// The host it runs on, for a label.
    pub hostname: String,
    /// What it is, for a label.
    pub service: String,
}

impl AliasRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// [`MessageError::RequestMajor`], [`MessageError::RequestMinor`] or
    /// [`MessageError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut decoder = Decoder::new(bytes);
        request_version(&mut decoder)?;
        Ok(Self {
            secret: decoder.fixed::<32>()?.into(),
            alias: decoder.string()?.into_owned(),
            target: decoder.fixed::<32>()?.into(),
            hostname: decoder.string()?.into_owned(),
            service: decoder.string()?.into_owned(),
        })
    }
}

impl Payload for AliasRequest {
    fn encoded_len(&self) -> usize {
        let texts = [&self.alias, &self.hostname, &self.service];
        2 + 2 * 32 + texts.iter().map(|text| buffer_len(text.len())).sum::<usize>()
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_varint(MAJOR);
        out.put_varint(MINOR);
        out.put_slice(self.secret.expose());
        out.put_string(&self.alias);
        out.put_slice(self.target.as_bytes());
        out.put_string(&self.hostname);
        out.put_string(&self.service);
    }
}

/// Bridge to service: how the registration went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AliasResponse {
    /// The alias points at the service's key.
    Registered {
        /// Whether that is news.
        updated: bool,
    },
    /// It does not, for this reason.
    Failed(String),
}

impl AliasResponse {
    /// Reads a response; its minor version does not matter.
    ///
    /// # Errors
    /// [`MessageError::AliasMajor`] or [`MessageError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut decoder = Decoder::new(bytes);
        let major = decoder.varint()?;
        if major != MAJOR {
            return Err(MessageError::AliasMajor(major));
        }
        let _minor = decoder.varint()?;
        Ok(if decoder.bool()? {
            Self::Registered { updated: decoder.bool()? }
        } else {
            Self::Failed(decoder.string()?.into_owned())
        })
    }
}

impl Payload for AliasResponse {
    fn encoded_len(&self) -> usize {
        3 + match self {
            Self::Registered { .. } => 1,
            Self::Failed(reason) => buffer_len(reason.len()),
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_varint(MAJOR);
        out.put_varint(MINOR);
        match self {
            Self::Registered { updated } => {
                out.put_bool(true);
                out.put_bool(*updated);
            }
            Self::Failed(reason) => {
                out.put_bool(false);
                out.put_string(reason);
            }
        }
    }
}

/// Bridge to service: your metrics, please.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsRequest;

impl MetricsRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// [`MessageError::RequestMajor`], [`MessageError::RequestMinor`] or
    /// [`MessageError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        request_version(&mut Decoder::new(bytes))?;
        Ok(Self)
    }
}

impl Payload for MetricsRequest {
    fn encoded_len(&self) -> usize {
        2
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_varint(MAJOR);
        out.put_varint(MINOR);
    }
}

/// Service to bridge: the metrics, or why there are none.
#[derive(Clone, PartialEq, Eq)]
pub enum MetricsResponse {
    /// The exposition text, whatever its bytes are.
    Metrics(Bytes),
    /// There is none, for this reason.
    Failed(String),
}

impl MetricsResponse {
    /// Reads a response. The metrics are a part of `bytes`, not a copy.
    ///
    /// # Errors
    /// [`MessageError::MetricsVersion`] or [`MessageError::Malformed`].
    pub fn decode(bytes: &Bytes) -> Result<Self, MessageError> {
        let mut decoder = Decoder::new(bytes);
        let version = decoder.varint()?;
        if version > METRICS_VERSION {
            return Err(MessageError::MetricsVersion(version));
        }
        Ok(if decoder.bool()? {
            Self::Metrics(bytes.slice_ref(decoder.buffer()?))
        } else {
            Self::Failed(decoder.string()?.into_owned())
        })
    }
}

impl Payload for MetricsResponse {
    fn encoded_len(&self) -> usize {
        2 + match self {
            Self::Metrics(text) => buffer_len(text.len()),
            Self::Failed(reason) => buffer_len(reason.len()),
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_varint(METRICS_VERSION);
        match self {
            Self::Metrics(text) => {
                out.put_bool(true);
                out.put_buffer(text);
            }
            Self::Failed(reason) => {
                out.put_bool(false);
                out.put_string(reason);
            }
        }
    }
}

impl fmt::Debug for MetricsResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metrics(text) => write!(f, "Metrics({} bytes)", text.len()),
            Self::Failed(reason) => f.debug_tuple("Failed").field(reason).finish(),
        }
    }
}

fn request_version(decoder: &mut Decoder<'_>) -> Result<(), MessageError> {
    let (major, minor) = (decoder.varint()?, decoder.varint()?);
    if major != MAJOR {
        Err(MessageError::RequestMajor(major))
    } else if minor > MINOR {
        Err(MessageError::RequestMinor(minor))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(message: &impl Payload) -> Vec<u8> {
        let mut wire = BytesMut::new();
        message.encode(&mut wire);
        assert_eq!(wire.len(), message.encoded_len());
        wire.to_vec()
    }

    proptest! {
        #[test]
        fn alias_requests_round_trip(
            secret: [u8; 32],
            alias: String,
            target: [u8; 32],
            hostname: String,
            service: String,
            trailing: Vec<u8>,
        ) {
            let (secret, target) = (secret.into(), target.into());
            let request = AliasRequest { secret, alias, target, hostname, service };
            let mut wire = written(&request);
            wire.extend(trailing);
            prop_assert_eq!(AliasRequest::decode(&wire), Ok(request));
        }

        #[test]
        fn metrics_responses_round_trip_as_bytes(text: Vec<u8>, trailing: Vec<u8>) {
            let response = MetricsResponse::Metrics(text.into());
            let mut wire = written(&response);
            wire.extend(trailing);
            prop_assert_eq!(MetricsResponse::decode(&wire.into()), Ok(response));
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let _ = AliasRequest::decode(&bytes);
            let _ = AliasResponse::decode(&bytes);
            let _ = MetricsRequest::decode(&bytes);
            let _ = MetricsResponse::decode(&bytes.into());
        }
    }

    #[test]
    fn metrics_are_a_part_of_the_message() {
        let wire = Bytes::from(written(&MetricsResponse::Metrics("up 1\n".into())));
        let Ok(MetricsResponse::Metrics(text)) = MetricsResponse::decode(&wire) else {
            panic!("it was just written");
        };
        assert!(wire.as_ptr_range().contains(&text.as_ptr()));
    }

    #[test]
    fn older_minor_versions_are_read() {
        assert_eq!(MetricsRequest::decode(&[1, 0]), Ok(MetricsRequest));
    }
}
