//! UDX: ordered, reliable streams and unordered messages over UDP, as libudx speaks it.

mod packet;
mod seq;

pub use packet::{
    Body, Flags, HEADER_LEN, Header, MAX_DATAGRAM_LEN, MAX_SACK_BLOCKS, PacketError,
    SACK_BLOCK_LEN, SackBlock, Sacks,
};
pub use seq::Seq;
