//! The search for the largest packet that the path carries.
//!
//! A full data packet gets zero bytes in front of its payload and so becomes as long as the size
//! under test (libudx; compare RFC 8899). If it arrives the size holds, if not it goes out again
//! without the padding and nothing is lost.

use std::net::SocketAddr;

use crate::udx::HEADER_LEN;

/// Sizes include IP and UDP headers, as a link's MTU does.
#[derive(Debug, Clone)]
pub(crate) struct Mtu {
    current: u16,
    max: u16,
    overhead: u16,
    search: Search,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// Nothing was acknowledged yet.
    Base,
    /// `size` is under test.
    Probing {
        size: u16,
        losses: u8,
        in_flight: bool,
    },
    Complete,
}

impl Mtu {
    /// Starts at the size that every path carries.
    pub(crate) fn new(max: u16) -> Self {
        Self { current: BASE, max, overhead: IPV6_OVERHEAD, search: Search::Base }
    }

    /// Starts anew for a path to `peer`.
    pub(crate) fn restart(&mut self, peer: SocketAddr) {
        *self = Self::new(self.max);
        if peer.is_ipv4() {
            self.overhead = IPV4_OVERHEAD;
        }
    }

    /// The size that is known to pass.
    pub(crate) const fn current(&self) -> u16 {
        self.current
    }

    /// Payload bytes of a full packet.
    pub(crate) const fn payload(&self) -> usize {
        (self.current - self.overhead) as usize - HEADER_LEN
    }

    /// Zero bytes to put in front of a full payload, if the next full packet should be a probe.
    pub(crate) const fn padding(&self) -> Option<u8> {
        let Search::Probing { size, in_flight: false, .. } = self.search else {
            return None;
        };
        let padding = size - self.current;
        if padding > MAX_PADDING {
            return None;
        }
        Some(padding.to_le_bytes()[0])
    }

    /// A probe left.
    pub(crate) const fn on_probe_sent(&mut self) {
        if let Search::Probing { in_flight, .. } = &mut self.search {
            *in_flight = true;
        }
    }

    /// A packet arrived; it was a probe if it was padded.
    pub(crate) fn on_delivered(&mut self, padding: u8) {
        match self.search {
            Search::Base => self.search_above(self.current),
            Search::Probing { size, .. } if padding > 0 => {
                self.current = size;
                self.search_above(size);
            }
            Search::Probing { .. } | Search::Complete => {}
        }
    }

    /// A probe was lost.
    pub(crate) const fn on_probe_lost(&mut self) {
        if let Search::Probing { losses, in_flight, .. } = &mut self.search {
            *in_flight = false;
            *losses += 1;
            if *losses == MAX_PROBE_LOSSES {
                self.search = Search::Complete;
            }
        }
    }

    fn search_above(&mut self, size: u16) {
        self.search = if size >= self.max {
            Search::Complete
        } else {
            Search::Probing { size: (size + STEP).min(self.max), losses: 0, in_flight: false }
        };
    }
}

/// Link MTU that is taken for granted (libudx: `UDX_MTU_BASE`).
pub(crate) const BASE: u16 = 1200;
/// Distance of the sizes under test (libudx: `UDX_MTU_STEP`).
const STEP: u16 = 32;
/// The data offset is one byte.
const MAX_PADDING: u16 = 255;
/// Losses after which a size counts as too large (libudx: `UDX_MTU_MAX_PROBES`).
const MAX_PROBE_LOSSES: u8 = 3;
/// IPv4 and UDP headers.
const IPV4_OVERHEAD: u16 = 28;
/// IPv6 and UDP headers.
const IPV6_OVERHEAD: u16 = 48;

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4() -> Mtu {
        let mut mtu = Mtu::new(1500);
        mtu.restart("127.0.0.1:1".parse().unwrap());
        mtu
    }

    #[test]
    fn payloads_are_those_of_the_reference() {
        assert_eq!(Mtu::new(1500).payload(), 1132);
        assert_eq!(ipv4().payload(), 1152);
    }

    #[test]
    fn a_path_of_1500_is_found_in_steps_of_32() {
        let mut mtu = ipv4();
        assert_eq!(mtu.padding(), None, "nothing is known to pass yet");
        mtu.on_delivered(0);
        let mut sizes = Vec::new();
        while let Some(padding) = mtu.padding() {
            mtu.on_probe_sent();
            assert_eq!(mtu.padding(), None, "one probe at a time");
            mtu.on_delivered(padding);
            sizes.push(mtu.current());
        }
        assert_eq!(sizes, [1232, 1264, 1296, 1328, 1360, 1392, 1424, 1456, 1488, 1500]);
        assert_eq!(mtu.payload(), 1452);
    }

    #[test]
    fn three_losses_end_the_search_at_the_last_size_that_passed() {
        let mut mtu = ipv4();
        mtu.on_delivered(0);
        mtu.on_probe_sent();
        mtu.on_delivered(32);
        for _ in 0..3 {
            assert_eq!(mtu.padding(), Some(32));
            mtu.on_probe_sent();
            mtu.on_probe_lost();
        }
        assert_eq!(mtu.padding(), None);
        assert_eq!(mtu.current(), 1232);
    }
}
