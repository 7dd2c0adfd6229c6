//! What a channel is called.

use std::{fmt, sync::Arc};

use bytes::Bytes;

/// What a channel is opened for: a protocol's name and, mostly empty, an id that tells apart
/// channels of one protocol. Two sides' opens pair when both are equal; no id and an empty id are the
/// same.
///
/// `protomux-rpc-client` takes the server's public key as id unless it is told otherwise.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol {
    name: Arc<str>,
    id: Bytes,
}

impl Protocol {
    /// The protocol of this name, with an empty id.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), id: Bytes::new() }
    }

    /// The same protocol with another id.
    #[must_use]
    pub fn with_id(self, id: impl Into<Bytes>) -> Self {
        Self { id: id.into(), ..self }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id; empty when there is none.
    pub fn id(&self) -> &[u8] {
        &self.id
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protocol({:?}", self.name)?;
        if !self.id.is_empty() {
            write!(f, ", {:?}", self.id)?;
        }
        f.write_str(")")
    }
}
