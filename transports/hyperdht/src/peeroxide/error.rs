//! What the crates' failures mean at the seam.

use std::{error::Error, io};

use dht_prom_transport::{ClosedBy, TransportError};
use peeroxide_dht::{hyperdht::HyperDhtError, rpc::DhtError, secret_stream::SecretStreamError};

use super::NAME;

/// The failure of one attempt to reach a peer.
pub(super) fn dial(error: HyperDhtError) -> TransportError {
    if is_stopped(&error) {
        return TransportError::Closed { by: ClosedBy::Local };
    }
    if matches!(error, HyperDhtError::PeerNotFound) {
        return TransportError::NotFound;
    }
    if matches!(error, HyperDhtError::FirewallRejected) {
        return TransportError::Refused;
    }
    if matches!(&error, HyperDhtError::Noise(_) | HyperDhtError::NoiseWrap(_)) {
        let reason = "the Noise exchange does not hold";
        return TransportError::Handshake { reason, source: Some(Box::new(error)) };
    }
    if matches!(&error, HyperDhtError::SecretStream(error) if broke_protocol(error)) {
        let reason = "the stream is not that of the handshake";
        return TransportError::Handshake { reason, source: Some(Box::new(error)) };
    }
    TransportError::Unreachable { source: Some(Box::new(error)) }
}

/// The failure of something the node does for itself.
pub(super) fn node(act: &'static str, error: HyperDhtError) -> TransportError {
    if is_stopped(&error) {
        return TransportError::Closed { by: ClosedBy::Local };
    }
    match io_kind(&error) {
        Some(kind) => TransportError::Io { act, source: io::Error::new(kind, error) },
        None => TransportError::Other { transport: NAME, source: Box::new(error) },
    }
}

/// Whether the address that we wanted belongs to somebody else.
pub(super) fn is_address_in_use(error: &HyperDhtError) -> bool {
    io_kind(error) == Some(io::ErrorKind::AddrInUse)
}

/// Whether the peer sent what no correct peer sends, as opposed to going away.
pub(super) fn broke_protocol(error: &SecretStreamError) -> bool {
    matches!(
        error,
        SecretStreamError::Decrypt(_)
            | SecretStreamError::InvalidIdHeader { .. }
            | SecretStreamError::StreamIdMismatch
    )
}

fn is_stopped(error: &HyperDhtError) -> bool {
    matches!(
        error,
        HyperDhtError::Destroyed
            | HyperDhtError::ChannelClosed
            | HyperDhtError::Dht(DhtError::Destroyed | DhtError::ChannelClosed)
    )
}

fn io_kind(error: &HyperDhtError) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use dht_prom_transport::ErrorKind;

    use super::*;

    #[test]
    fn failures_of_a_dial_are_told_apart() {
        for (error, kind) in [
            (HyperDhtError::PeerNotFound, ErrorKind::NotFound),
            (HyperDhtError::FirewallRejected, ErrorKind::Refused),
            (HyperDhtError::HolepunchAborted, ErrorKind::Unreachable),
            (HyperDhtError::HandshakeFailed("empty reply".into()), ErrorKind::Unreachable),
            (SecretStreamError::StreamIdMismatch.into(), ErrorKind::Handshake),
            (SecretStreamError::UnexpectedEof.into(), ErrorKind::Unreachable),
            (HyperDhtError::Destroyed, ErrorKind::Closed),
            (DhtError::ChannelClosed.into(), ErrorKind::Closed),
        ] {
            let text = error.to_string();
            assert_eq!(dial(error).kind(), kind, "{text}");
        }
    }

    #[test]
    fn what_the_host_says_is_kept() {
        let taken = || {
            let io = io::Error::from(io::ErrorKind::AddrInUse);
            HyperDhtError::Udx(libudx::UdxError::Io(io))
        };
        assert!(is_address_in_use(&taken()));
        assert!(!is_address_in_use(&HyperDhtError::PeerNotFound));
        let error = node("binding the UDP socket", taken());
        assert!(
            matches!(&error, TransportError::Io { source, .. } if source.kind() == io::ErrorKind::AddrInUse),
            "{error:?}"
        );
    }
}
