//! What a peer can make us hold.

/// The bounds of one mux. Each names what happens at the bound; [`Limits::default`] suits a session
/// that forwards bodies of up to 1 MB.
///
/// At its defaults one mux holds at most about 1 MiB of frames to send, 4 MiB of requests being
/// handled, 32 KiB of messages that wait for a channel and one frame being read, besides what the
/// caller's own requests and answers take. A single frame may pass either of the first two bounds by
/// its own length.
///
/// A session of which both sides ask *and* answer megabytes at once can come to rest with both sides
/// full, each waiting for the other to read: as with every bounded stream, a deadline above has to end
/// it. One that asks in small requests, as a scrape does, cannot.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one frame in either direction. A longer one from the peer ends the mux; a longer one
    /// of ours is an error of that call. Default: what one secret-stream message can carry.
    pub frame_bytes: usize,
    /// Bytes queued for sending, from which on requests wait, and neither an open nor a request is
    /// taken from the peer. Default 1 MiB.
    pub transmit_bytes: usize,
    /// Frames queued for sending; otherwise as `transmit_bytes`. Default 1024, of about 32 bytes
    /// each besides their content.
    pub transmit_frames: usize,
    /// Local channel ids in use at once. A further open of the peer's is rejected, one of ours fails.
    /// Default 256, of a few hundred bytes each.
    pub channels: usize,
    /// Channels that the peer opened and nobody has accepted or rejected yet; a further one is
    /// rejected. Default 64.
    pub undecided: usize,
    /// Bytes of messages that wait for such a channel, counting [`UNDECIDED_MESSAGE_COST`] more for
    /// each message. Above it nothing more is read until a channel is accepted or rejected. Default
    /// 32 768, as in protomux 3.12.
    pub undecided_bytes: usize,
    /// Requests that await their answer on one channel; a further one waits. Default 256.
    pub outstanding: usize,
    /// Requests of the peer's that are handled at once; meanwhile nothing more is read behind a
    /// further one. Default 64.
    pub handlers: usize,
    /// Bytes of frames held by the requests being handled; otherwise as `handlers`. Default 4 MiB.
    pub handler_bytes: usize,
    /// Bytes of a protocol name, and of a channel's id, in an open; a longer one is rejected.
    /// Default 256.
    pub name_bytes: usize,
    /// Bytes of a method name. A longer one from the peer ends the mux. Default 256.
    pub method_bytes: usize,
    /// Bytes of each text in an error answer, which is cut there. Default 4096.
    pub error_text_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: SECRET_STREAM_MESSAGE_BYTES,
            transmit_bytes: 1 << 20,
            transmit_frames: 1024,
            channels: 256,
            undecided: 64,
            undecided_bytes: 32_768,
            outstanding: 256,
            handlers: 64,
            handler_bytes: 4 << 20,
            name_bytes: 256,
            method_bytes: 256,
            error_text_bytes: 4096,
        }
    }
}

/// What a message that waits for its channel counts besides its bytes, as in protomux 3.12.
pub const UNDECIDED_MESSAGE_COST: usize = 512;

/// A secret stream announces each message's length in 24 bits and adds 17 bytes to it.
const SECRET_STREAM_MESSAGE_BYTES: usize = 0x00ff_ffff - 17;
