//! Finds streams by key and by id.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// Names a stream of one endpoint. Never refers to another stream later, even if the id does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    index: u32,
    generation: u32,
}

impl StreamKey {
    /// A small number that no other open stream of the endpoint has, for tables beside it.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// Slots that are used again, under a new generation.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    ids: HashMap<u32, StreamKey, BuildHasherDefault<IdHasher>>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<Box<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ids: HashMap::default() }
    }
}

impl<T> Table<T> {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, id: u32, entry: T) -> StreamKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let mut key = StreamKey { index, generation: 0 };
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.entry = Some(Box::new(entry));
            key.generation = slot.generation;
        }
        self.ids.insert(id, key);
        key
    }

    pub(crate) fn by_id(&self, id: u32) -> Option<StreamKey> {
        self.ids.get(&id).copied()
    }

    /// Makes `id` free for another stream, if it is this one's.
    pub(crate) fn forget_id(&mut self, id: u32, key: StreamKey) {
        if self.by_id(id) == Some(key) {
            self.ids.remove(&id);
        }
    }

    pub(crate) fn get(&self, key: StreamKey) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        slot.entry.as_deref().filter(|_| slot.generation == key.generation)
    }

    pub(crate) fn get_mut(&mut self, key: StreamKey) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        slot.entry.as_deref_mut().filter(|_| slot.generation == key.generation)
    }

    pub(crate) fn remove(&mut self, key: StreamKey) -> Option<Box<T>> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(entry)
    }
}

/// Spreads ids, which this side picked: nobody else can choose them to collide.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0 ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_outlive_its_stream() {
        let mut table = Table::default();
        let first = table.insert(7, 'a');
        assert_eq!(table.remove(first), Some(Box::new('a')));
        table.forget_id(7, first);
        let second = table.insert(7, 'b');
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.by_id(7), Some(second));
        table.forget_id(7, first);
        assert_eq!(table.get(second), Some(&'b'));
        assert_eq!(table.len(), 1);
    }
}
