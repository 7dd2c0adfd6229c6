//! The routing table: which nodes we know, kept so that we know most about our neighbourhood.

use std::{collections::BTreeMap, net::SocketAddrV4};

use super::id::{NodeId, Peer, Target};

/// Nodes in buckets by how many leading bits their id shares with ours, at most [`K`] in each
/// (npm package `kademlia-routing-table`), and all of them in the order in which they were heard from.
///
/// 256 buckets of 20 nodes of about 200 bytes bound it at 1 MiB; a network of n nodes fills about
/// log2(n / 20) buckets.
#[derive(Debug)]
pub(crate) struct Table {
    id: NodeId,
    buckets: Vec<Vec<Node>>,
    /// From the one not heard from for longest to the one heard from last.
    by_age: BTreeMap<u64, NodeId>,
    next_stamp: u64,
}

/// What is known about a node. Times are ticks of the owner's clock.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddrV4,
    /// When it was added.
    pub(crate) added: u64,
    /// When we last asked it or heard from it.
    pub(crate) pinged: u64,
    /// When it last told us our address; 0 for never.
    pub(crate) sampled: u64,
    /// Whether somebody has called it dead since.
    pub(crate) hinted_down: bool,
    /// Its place in the order in which nodes were heard from.
    stamp: u64,
}

impl Node {
    /// A node that is heard from at `tick`.
    pub(crate) const fn new(id: NodeId, addr: SocketAddrV4, tick: u64) -> Self {
        Self { id, addr, added: tick, pinged: tick, sampled: 0, hinted_down: false, stamp: 0 }
    }

    /// Rises with each time it is heard from, also within a tick.
    pub(crate) const fn heard(&self) -> u64 {
        self.stamp
    }

    /// Its address and place.
    pub(crate) const fn peer(&self) -> Peer {
        Peer { id: Some(self.id), addr: self.addr }
    }
}

/// What became of an addition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is in.
    Yes,
    /// It was in already, or is ourselves.
    Known,
    /// Its bucket is full.
    Full,
}

impl Table {
    pub(crate) fn new(id: NodeId) -> Self {
        Self { id, buckets: vec![Vec::new(); BUCKETS], by_age: BTreeMap::new(), next_stamp: 0 }
    }

    /// The same nodes around another place, as many as its buckets hold, in the same order.
    pub(crate) fn moved_to(&self, id: NodeId) -> Self {
        let mut table = Self::new(id);
        table.next_stamp = self.next_stamp;
        for node in self.oldest_first() {
            // Whoever finds no room is left out: there is no need to challenge anybody.
            let (Added::Yes | Added::Known | Added::Full) = table.add(node.clone());
        }
        table
    }

    /// Our own place.
    pub(crate) const fn id(&self) -> NodeId {
        self.id
    }

    /// Takes what nodes have said about our address as not said.
    pub(crate) fn forget_samples(&mut self) {
        self.buckets.iter_mut().flatten().for_each(|node| node.sampled = 0);
    }

    pub(crate) fn len(&self) -> usize {
        self.by_age.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    /// Adds a node that is not in yet.
    pub(crate) fn add(&mut self, mut node: Node) -> Added {
        if node.id == self.id {
            return Added::Known;
        }
        let stamp = self.next_stamp;
        let Some(bucket) = self.bucket_mut(&node.id) else {
            return Added::Known;
        };
        match bucket.binary_search_by(|other| other.id.cmp(&node.id)) {
            Ok(_) => Added::Known,
            Err(_) if bucket.len() >= K => Added::Full,
            Err(at) => {
                node.stamp = stamp;
                let id = node.id;
                bucket.insert(at, node);
                self.by_age.insert(stamp, id);
                self.next_stamp += 1;
                Added::Yes
            }
        }
    }

    /// Takes a node out; false when it was not in.
    pub(crate) fn remove(&mut self, id: &NodeId) -> bool {
        let Some(bucket) = self.bucket_mut(id) else {
            return false;
        };
        let Ok(at) = bucket.binary_search_by(|other| other.id.cmp(id)) else {
            return false;
        };
        let node = bucket.remove(at);
        self.by_age.remove(&node.stamp);
        true
    }

    pub(crate) fn node(&self, id: &NodeId) -> Option<&Node> {
        let bucket = self.buckets.get(self.bucket_of(&id.0))?;
        let at = bucket.binary_search_by(|other| other.id.cmp(id)).ok()?;
        bucket.get(at)
    }

    pub(crate) fn node_mut(&mut self, id: &NodeId) -> Option<&mut Node> {
        let bucket = self.bucket_mut(id)?;
        let at = bucket.binary_search_by(|other| other.id.cmp(id)).ok()?;
        bucket.get_mut(at)
    }

    /// Makes a node the one heard from last.
    pub(crate) fn touch(&mut self, id: &NodeId) {
        let stamp = self.next_stamp;
        if let Some(node) = self.node_mut(id) {
            let before = std::mem::replace(&mut node.stamp, stamp);
            self.by_age.remove(&before);
            self.by_age.insert(stamp, *id);
            self.next_stamp += 1;
        }
    }

    /// The `k` known nodes nearest to `target`, nearest first.
    ///
    /// The reference answers bucket by bucket, which is only roughly in order; its queries stop at
    /// the first node that does not help, so an exact order serves them better.
    pub(crate) fn closest(&self, target: &Target, k: usize) -> Vec<Peer> {
        let shared = self.bucket_of(target);
        let (outer, inner) = self.buckets.split_at(shared.min(self.buckets.len()));
        let (same, deeper) = inner.split_at(inner.len().min(1));
        let mut found = Vec::with_capacity(k);
        // Nodes of one group are all nearer than those of the next.
        take_closest(same, target, k, &mut found);
        take_closest(deeper, target, k, &mut found);
        for bucket in outer.iter().rev() {
            if found.len() >= k {
                break;
            }
            take_closest(std::slice::from_ref(bucket), target, k, &mut found);
        }
        found.iter().map(|node| node.peer()).collect()
    }

    /// The nodes of the bucket that `id` belongs to.
    pub(crate) fn neighbours_in_bucket(&self, id: &NodeId) -> &[Node] {
        self.buckets.get(self.bucket_of(&id.0)).map_or(&[], Vec::as_slice)
    }

    /// From the node not heard from for longest onwards.
    pub(crate) fn oldest_first(&self) -> impl DoubleEndedIterator<Item = &Node> {
        self.by_age.values().filter_map(|id| self.node(id))
    }

    /// The `n`-th node in bucket order.
    pub(crate) fn nth(&self, n: usize) -> Option<&Node> {
        self.buckets.iter().flatten().nth(n)
    }

    fn bucket_of(&self, id: &[u8; 32]) -> usize {
        self.id.common_bits(id).min(BUCKETS - 1)
    }

    fn bucket_mut(&mut self, id: &NodeId) -> Option<&mut Vec<Node>> {
        let at = self.bucket_of(&id.0);
        self.buckets.get_mut(at)
    }
}

/// Nodes in a bucket, in a reply and in the result of a query.
pub const K: usize = 20;

const BUCKETS: usize = 256;

fn take_closest<'a>(
    buckets: &'a [Vec<Node>],
    target: &Target,
    k: usize,
    found: &mut Vec<&'a Node>,
) {
    let mut group: Vec<_> = buckets.iter().flatten().collect();
    group.sort_by_cached_key(|node| node.id.distance(target));
    group.truncate(k.saturating_sub(found.len()));
    found.append(&mut group);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn node(n: u32) -> Node {
        let addr = SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + n), 1000);
        Node::new(NodeId::of(addr), addr, 1)
    }

    fn filled(own: [u8; 32], nodes: u32) -> Table {
        let mut table = Table::new(NodeId(own));
        (0..nodes).for_each(|n| {
            table.add(node(n));
        });
        table
    }

    proptest! {
        #[test]
        fn the_closest_nodes_are_the_closest_of_all(own: [u8; 32], target: [u8; 32]) {
            let table = filled(own, 300);
            let mut all: Vec<_> = table.oldest_first().map(|node| node.id).collect();
            all.sort_by(|a, b| a.cmp_distance(b, &target));
            all.truncate(K);
            let closest = table.closest(&target, K);
            let closest: Vec<_> = closest.iter().filter_map(|peer| peer.id).collect();
            prop_assert_eq!(closest, all);
        }
    }

    #[test]
    fn buckets_are_bounded_and_the_rest_is_told() {
        let mut table = filled([0; 32], 5000);
        assert!(table.buckets.iter().all(|bucket| bucket.len() <= K));
        assert!(table.len() < 12 * K, "{}", table.len());
        assert_eq!(table.len(), table.oldest_first().count());
        let far = (5000..).map(node).find(|node| node.id.0[0] >= 0x80).unwrap();
        assert_eq!(table.add(far), Added::Full);
    }

    #[test]
    fn the_one_heard_from_last_is_last() {
        let mut table = filled([0; 32], 3);
        assert_eq!(table.add(node(0)), Added::Known);
        table.touch(&node(0).id);
        let order: Vec<_> = table.oldest_first().map(|node| node.addr).collect();
        assert_eq!(order, [node(1).addr, node(2).addr, node(0).addr]);
        assert!(table.remove(&node(1).id));
        assert!(!table.remove(&node(1).id));
        assert_eq!(table.oldest_first().count(), 2);
    }
}
