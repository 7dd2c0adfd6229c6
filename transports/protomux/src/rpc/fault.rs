//! Error answers.

use std::fmt;

use bytes::BytesMut;
use hyperdht_encoding::{DecodeError, Decoder, Encode, buffer_len};

/// An error as it travels in an answer: what a handler returns, and what the caller at the other end
/// receives.
///
/// Prints as the reference does: `CODE: message`, or the message alone when there is no code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcFault {
    message: String,
    code: Option<String>,
    cause: Option<Cause>,
}

/// What led to an [`RpcFault`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    message: String,
    code: Option<String>,
    context: Option<String>,
}

/// The code for a method that nobody answers.
pub const UNKNOWN_METHOD: &str = "UNKNOWN_METHOD";
/// The code for a request whose value cannot be read.
pub const DECODE_ERROR: &str = "DECODE_ERROR";
/// The code for a request whose handler failed.
pub const REQUEST_ERROR: &str = "REQUEST_ERROR";
/// The code for an answer that cannot be written.
pub const ENCODE_ERROR: &str = "ENCODE_ERROR";

impl RpcFault {
    /// An error with a message alone.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: None, cause: None }
    }

    /// The same error with a code.
    #[must_use]
    pub fn with_code(self, code: impl Into<String>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// The same error with a cause.
    #[must_use]
    pub fn with_cause(self, cause: impl Into<Cause>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// Nobody answers `method`.
    pub fn unknown_method(method: &str) -> Self {
        Self::new(format!("Unknown method '{method}'")).with_code(UNKNOWN_METHOD)
    }

    /// The request's value cannot be read, because of `cause`.
    pub fn decode(cause: impl Into<Cause>) -> Self {
        Self::new("Could not decode request").with_code(DECODE_ERROR).with_cause(cause)
    }

    /// The request could not be carried out, because of `cause`.
    pub fn request(cause: impl Into<Cause>) -> Self {
        Self::new("Request failed").with_code(REQUEST_ERROR).with_cause(cause)
    }

    /// The answer cannot be written, because of `cause`.
    pub fn encode(cause: impl Into<Cause>) -> Self {
        Self::new("Could not encode response").with_code(ENCODE_ERROR).with_cause(cause)
    }

    /// The text, without the code.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The code, as in [`DECODE_ERROR`].
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// What led to it.
    pub const fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// The flags of an answer that carries this error: bit 0 error, 1 code, 2 cause, 3 the cause's
    /// context.
    pub(super) const fn flags(&self) -> u8 {
        let mut flags = FLAG_ERROR;
        if self.code.is_some() {
            flags |= FLAG_CODE;
        }
        if let Some(cause) = &self.cause {
            flags |= FLAG_CAUSE;
            if cause.context.is_some() {
                flags |= FLAG_CONTEXT;
            }
        }
        flags
    }

    pub(super) fn encoded_len(&self) -> usize {
        let cause = self.cause.as_ref().map_or(0, |cause| {
            buffer_len(cause.message.len())
                + buffer_len(cause.code.as_ref().map_or(0, String::len))
                + text_len(cause.context.as_ref())
        });
        buffer_len(self.message.len()) + text_len(self.code.as_ref()) + cause
    }

    /// Appends message, code, cause message, cause code and context. The cause's code is always
    /// there, empty when there is none.
    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_string(&self.message);
        if let Some(code) = &self.code {
            out.put_string(code);
        }
        if let Some(cause) = &self.cause {
            out.put_string(&cause.message);
            out.put_string(cause.code.as_deref().unwrap_or_default());
            if let Some(context) = &cause.context {
                out.put_string(context);
            }
        }
    }

    /// Reads what [`write`](Self::write) writes, cutting each text at `max` bytes.
    pub(super) fn read(
        flags: u8,
        decoder: &mut Decoder<'_>,
        max: usize,
    ) -> Result<Self, DecodeError> {
        let message = text(decoder, max)?;
        let code = (flags & FLAG_CODE != 0).then(|| text(decoder, max)).transpose()?;
        let cause =
            (flags & FLAG_CAUSE != 0).then(|| Cause::read(flags, decoder, max)).transpose()?;
        Ok(Self { message, code, cause })
    }
}

impl fmt::Display for RpcFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(code) = &self.code {
            write!(f, "{code}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}

impl Cause {
    /// A cause with a message alone.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: None, context: None }
    }

    /// The same cause with a code. An empty one travels as none.
    #[must_use]
    pub fn with_code(self, code: impl Into<String>) -> Self {
        Self { code: Some(code.into()).filter(|code| !code.is_empty()), ..self }
    }

    /// The same cause with a context.
    #[must_use]
    pub fn with_context(self, context: impl Into<String>) -> Self {
        Self { context: Some(context.into()), ..self }
    }

    /// The text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The code.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// What the failing side adds to it.
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    fn read(flags: u8, decoder: &mut Decoder<'_>, max: usize) -> Result<Self, DecodeError> {
        Ok(Self {
            message: text(decoder, max)?,
            code: Some(text(decoder, max)?).filter(|code| !code.is_empty()),
            context: (flags & FLAG_CONTEXT != 0).then(|| text(decoder, max)).transpose()?,
        })
    }
}

impl<T: Into<String>> From<T> for Cause {
    fn from(message: T) -> Self {
        Self::new(message)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Cause {}

fn text_len(text: Option<&String>) -> usize {
    text.map_or(0, |text| buffer_len(text.len()))
}

/// A text, of which at most `max` bytes are copied, to the end of a character.
fn text(decoder: &mut Decoder<'_>, max: usize) -> Result<String, DecodeError> {
    let bytes = decoder.buffer()?;
    let cut = bytes.get(..max).unwrap_or(bytes);
    let mut text = String::from_utf8_lossy(cut).into_owned();
    // A character cut in two was mended to U+FFFD, which may be longer than what it replaced.
    while text.len() > max {
        text.pop();
    }
    Ok(text)
}

pub(super) const FLAG_ERROR: u8 = 1;
const FLAG_CODE: u8 = 1 << 1;
const FLAG_CAUSE: u8 = 1 << 2;
const FLAG_CONTEXT: u8 = 1 << 3;
