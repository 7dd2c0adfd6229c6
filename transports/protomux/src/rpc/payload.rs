//! Values as they are written into a frame.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// A value that can write itself at the end of a frame. It is written once, straight into the frame,
/// which was made large enough by what [`encoded_len`](Self::encoded_len) said.
///
/// Byte containers write their bytes as they are, without a length; so do texts.
pub trait Payload {
    /// The bytes that [`encode`](Self::encode) appends. Another number costs a reallocation, nothing
    /// more.
    fn encoded_len(&self) -> usize;

    /// Appends the value.
    fn encode(&self, out: &mut BytesMut);
}

impl<P: Payload + ?Sized> Payload for &P {
    fn encoded_len(&self) -> usize {
        (**self).encoded_len()
    }

    fn encode(&self, out: &mut BytesMut) {
        (**self).encode(out);
    }
}

impl<P: Payload + ?Sized> Payload for Box<P> {
    fn encoded_len(&self) -> usize {
        (**self).encoded_len()
    }

    fn encode(&self, out: &mut BytesMut) {
        (**self).encode(out);
    }
}

impl Payload for [u8] {
    fn encoded_len(&self) -> usize {
        self.len()
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self);
    }
}

/// Implements [`Payload`] for what holds bytes.
macro_rules! bytes_payload {
    ($($kind:ty),*) => {$(
        impl Payload for $kind {
            fn encoded_len(&self) -> usize {
                self.len()
            }

            fn encode(&self, out: &mut BytesMut) {
                out.put_slice(self.as_ref());
            }
        }
    )*};
}

bytes_payload!(Bytes, BytesMut, Vec<u8>, str, String);

impl<const N: usize> Payload for [u8; N] {
    fn encoded_len(&self) -> usize {
        N
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self);
    }
}

/// Nothing.
impl Payload for () {
    fn encoded_len(&self) -> usize {
        0
    }

    fn encode(&self, _out: &mut BytesMut) {}
}

/// What a handler answers with: any [`Payload`].
pub struct Reply(Box<dyn Payload + Send>);

impl Reply {
    /// The answer with this value.
    pub fn new(value: impl Payload + Send + 'static) -> Self {
        Self(Box::new(value))
    }

    pub(crate) fn payload(&self) -> &dyn Payload {
        &*self.0
    }
}

impl<P: Payload + Send + 'static> From<P> for Reply {
    fn from(value: P) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({} bytes)", self.0.encoded_len())
    }
}
