//! A map that is bounded in bytes: what came first goes first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct Held<K, V> {
    entries: HashMap<Arc<K>, Entry<V>>,
    /// In the order of their coming; of a key the last one counts.
    order: VecDeque<(Arc<K>, u64)>,
    bytes: usize,
    most: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
    number: u64,
}

impl<K: Eq + Hash, V> Held<K, V> {
    /// At most so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), bytes: 0, most, next: 0 }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    /// Puts a value in place of what is there; `gone` sees what goes for want of room.
    pub(super) fn put(&mut self, key: K, value: V, bytes: usize, mut gone: impl FnMut(&V)) {
        self.remove(&key);
        let (key, number) = (Arc::new(key), self.next);
        self.next += 1;
        self.bytes += bytes;
        self.order.push_back((Arc::clone(&key), number));
        self.entries.insert(key, Entry { value, bytes, number });
        while self.bytes > self.most {
            let Some((key, number)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|entry| entry.number == number)
                && let Some(entry) = self.entries.remove(&key)
            {
                self.bytes -= entry.bytes;
                gone(&entry.value);
            }
        }
        if self.order.len() > 2 * self.entries.len() + 1024 {
            let entries = &self.entries;
            self.order.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_first_goes_first_and_a_key_takes_room_once() {
        let mut held = Held::new(100);
        let mut gone = Vec::new();
        for (key, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            held.put(key, value, 40, |value| gone.push(*value));
        }
        assert_eq!((held.get(&"a"), held.get(&"b"), held.get(&"c")), (Some(&3), None, Some(&4)));
        assert_eq!((gone.as_slice(), held.bytes), (&[2][..], 80));
        held.remove(&"a");
        held.put("d", 5, 101, |value| gone.push(*value));
        assert_eq!((gone.as_slice(), held.bytes, held.entries.len()), (&[2, 4, 5][..], 0, 0), "larger than the whole");
        for value in 0..10_000 {
            held.put("e", value, 10, |_| panic!("there is room"));
        }
        assert!(held.order.len() <= 1_026 && held.bytes == 10, "{}", held.order.len());
    }
}
