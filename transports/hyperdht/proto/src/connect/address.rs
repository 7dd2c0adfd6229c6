//! Which addresses lead where: classes of IPv4 addresses, and neighbours on a local network.
//!
//! The classes are those of the npm package bogon 1.2, checked against recorded values.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Whether the address belongs to a private network or to this host.
pub const fn is_private(ip: Ipv4Addr) -> bool {
    match ip.octets() {
        [10 | 127, ..] | [169, 254, ..] | [192, 168, ..] => true,
        [100, b, ..] => b >= 64 && b < 128,
        [172, b, ..] => b >= 16 && b < 32,
        _ => false,
    }
}

/// Whether the address is set aside for something else than hosts.
pub const fn is_reserved(ip: Ipv4Addr) -> bool {
    matches!(
        ip.octets(),
        [0 | 224..=255, ..]
            | [192, 0, 0 | 2, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
    )
}

/// Whether the address means nothing on the internet.
pub const fn is_bogon(ip: Ipv4Addr) -> bool {
    is_private(ip) || is_reserved(ip)
}

/// The one of `theirs` that looks nearest to one of `ours`: most leading bytes in common, at least one
/// (`hyperdht/lib/connect.js`, `matchAddress` of `lib/nat.js`).
pub fn nearest(ours: &[SocketAddrV4], theirs: &[SocketAddrV4]) -> Option<SocketAddrV4> {
    let common = |a: Ipv4Addr, b: Ipv4Addr| {
        a.octets().iter().zip(b.octets()).take(3).take_while(|(a, b)| **a == *b).count()
    };
    let score = |their: &SocketAddrV4| {
        ours.iter().map(|our| common(*our.ip(), *their.ip())).max().unwrap_or(0)
    };
    let best = theirs.iter().map(score).max().filter(|best| *best > 0)?;
    theirs.iter().find(|their| score(their) == best).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors::{NAT, vectors};

    #[test]
    fn classes_are_those_of_the_reference() {
        for vector in vectors(NAT, "address class") {
            let ip = vector["ip"].as_str().unwrap().parse().unwrap();
            assert_eq!(is_private(ip), vector["private"], "{ip}");
            assert_eq!(is_reserved(ip), vector["reserved"], "{ip}");
            assert_eq!(is_bogon(ip), vector["bogon"], "{ip}");
        }
    }

    #[test]
    fn neighbours_are_those_of_the_reference() {
        let address =
            |ip: &serde_json::Value| SocketAddrV4::new(ip.as_str().unwrap().parse().unwrap(), 1);
        for vector in vectors(NAT, "LAN match") {
            let list = |name: &str| {
                vector[name].as_array().unwrap().iter().map(address).collect::<Vec<_>>()
            };
            let best = (!vector["best"].is_null()).then(|| address(&vector["best"]));
            assert_eq!(nearest(&list("mine"), &list("remote")), best, "{vector}");
        }
    }
}
