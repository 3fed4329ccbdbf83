//! An ordered map whose copy costs nothing: copies share what none of them has changed since.
//!
//! The metadata is handed to every shard at every change, so neither its copy nor the change may cost more where there are more
//! topics. Its archive is that of a `BTreeMap`.

use rkyv::collections::btree_map::{ArchivedBTreeMap, BTreeMapResolver};
use rkyv::rancor::{Fallible, Source};
use rkyv::ser::{Allocator, Writer};
use rkyv::{Archive, Deserialize, Place, Serialize};
use rpds::RedBlackTreeMapSync;
use std::borrow::Borrow;
use std::fmt;
use std::ops::{ControlFlow, Index};

#[derive(Clone, PartialEq, Eq)]
pub struct Map<K: Ord, V>(RedBlackTreeMapSync<K, V>);

impl<K: Ord, V> Default for Map<K, V> {
    fn default() -> Self {
        Map(RedBlackTreeMapSync::new_sync())
    }
}

impl<K: Ord, V> Map<K, V> {
    pub fn len(&self) -> usize {
        self.0.size()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// In the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> {
        self.0.iter()
    }

    pub fn keys(&self) -> impl ExactSizeIterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    pub fn insert(&mut self, key: K, value: V) {
        self.0.insert_mut(key, value);
    }

    /// Whether it was there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.remove_mut(key)
    }

    /// To change the value in this copy; the others keep theirs.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }
}

impl<K: Ord + Borrow<Q>, Q: Ord + ?Sized, V> Index<&Q> for Map<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        &self.0[key]
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        Map(entries.into_iter().collect())
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Archive + Ord, V: Archive> Archive for Map<K, V>
where
    K::Archived: Ord,
{
    type Archived = ArchivedBTreeMap<K::Archived, V::Archived>;
    type Resolver = BTreeMapResolver;

    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        Self::Archived::resolve_from_len(self.len(), resolver, out);
    }
}

impl<K, V, S> Serialize<S> for Map<K, V>
where
    K: Serialize<S> + Ord,
    K::Archived: Ord,
    V: Serialize<S>,
    S: Allocator + Fallible + Writer + ?Sized,
    S::Error: Source,
{
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        Self::Archived::serialize_from_ordered_iter::<_, _, _, K, V, _>(self.iter(), serializer)
    }
}

impl<K, V, D> Deserialize<Map<K, V>, D> for ArchivedBTreeMap<K::Archived, V::Archived>
where
    K: Archive + Ord + Clone,
    K::Archived: Deserialize<K, D> + Ord,
    V: Archive + Clone,
    V::Archived: Deserialize<V, D>,
    D: Fallible + ?Sized,
{
    fn deserialize(&self, deserializer: &mut D) -> Result<Map<K, V>, D::Error> {
        let mut map = Map::default();
        let failed = self.visit(|key, value| {
            let entry = key
                .deserialize(deserializer)
                .and_then(|key| Ok((key, value.deserialize(deserializer)?)));
            match entry {
                Ok((key, value)) => {
                    map.insert(key, value);
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error),
            }
        });
        failed.map_or(Ok(map), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkyv::rancor::Error;
    use std::collections::BTreeMap;

    #[test]
    fn its_archive_is_that_of_an_ordinary_map() {
        let entries = || (0..1000u32).map(|key| (key.to_string(), vec![key; 3]));
        let map: Map<String, Vec<u32>> = entries().collect();
        let ordinary: BTreeMap<String, Vec<u32>> = entries().collect();
        let bytes = rkyv::to_bytes::<Error>(&map).expect("memory takes all");
        let expected = rkyv::to_bytes::<Error>(&ordinary).expect("memory takes all");
        assert_eq!(bytes[..], expected[..]);
        let again = rkyv::from_bytes::<Map<String, Vec<u32>>, Error>(&bytes);
        assert_eq!(again.expect("what was just archived"), map);
    }

    #[test]
    fn a_change_is_seen_in_one_copy_alone() {
        let mut map: Map<u32, Vec<u32>> = (0..100).map(|key| (key, vec![key])).collect();
        let before = map.clone();
        map.insert(100, vec![]);
        assert!(map.remove(&1));
        assert!(!map.remove(&1));
        map.get_mut(&2).expect("it is there").push(7);
        let expected: Map<u32, Vec<u32>> = (0..100).map(|key| (key, vec![key])).collect();
        assert_eq!(before, expected);
        assert_eq!((map.len(), &map[&2][..]), (100, &[2, 7][..]));
        assert!(!map.contains_key(&1) && map.contains_key(&100));
    }
}
