//! A growing table whose keys tell a reused place from its earlier life.
//!
//! The executor keeps tasks in one and the reactor keeps operations in flight in another. A key that has outlived its value (a
//! late wake, a late completion) finds nothing instead of a stranger.

/// Generation in the upper half, place in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) u64);

impl Key {
    fn new(generation: u32, place: usize) -> Key {
        Key(u64::from(generation) << 32 | place as u64)
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn place(self) -> usize {
        self.0 as u32 as usize
    }
}

/// Places are never this many, so a key is never all ones, which the reactor uses for "nobody".
const PLACES_MAX: usize = 1 << 30;

pub(crate) struct Slots<T> {
    places: Vec<Slot<T>>,
    free: Vec<usize>,
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Slots<T> {
        Slots {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Makes a value that may know its own key, and keeps it.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        let place = self.free.pop().unwrap_or_else(|| {
            assert!(
                self.places.len() < PLACES_MAX,
                "tasks and operations are bounded far below this"
            );
            self.places.push(Slot {
                generation: 0,
                value: None,
            });
            self.places.len() - 1
        });
        let key = Key::new(self.places[place].generation, place);
        self.places[place].value = Some(make(key));
        key
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.places.get_mut(key.place())?;
        if place.generation != key.generation() {
            return None;
        }
        place.value.as_mut()
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.place())?;
        if place.generation != key.generation() {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.place());
        Some(value)
    }

    /// Every value, leaving the table empty.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let mut values = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Some(value) = place.value.take() {
                place.generation = place.generation.wrapping_add(1);
                self.free.push(index);
                values.push(value);
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_does_not_find_the_next_value_of_its_place() {
        let mut slots = Slots::new();
        let first = slots.insert_with(|_| "first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert_with(|_| "second");
        assert_eq!(first.place(), second.place());
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
        assert_eq!(slots.len(), 1);
        assert_eq!(slots.drain(), vec!["second"]);
        assert_eq!(slots.remove(second), None);
        assert_eq!(slots.len(), 0);
    }
}
