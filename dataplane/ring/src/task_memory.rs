//! Memory of tasks, used again: a shard starts a task for every write, and none of them should cost an allocation.
//!
//! Places are kept by layout, in which an ended task's future and the next one of the same kind agree.

use std::alloc::{Layout, dealloc};
use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;

/// A task's future where it lies.
pub(crate) type TaskFuture = Box<dyn Future<Output = ()>>;

/// Layouts for which places are kept, and places of each.
const LAYOUTS_MAX: usize = 32;
const PLACES_MAX: usize = 64;

/// Larger futures belong to tasks that live long.
const PLACE_BYTES_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct TaskMemory {
    by_layout: Vec<(Layout, Vec<Vacancy>)>,
}

/// Memory of one layout from the global allocator, with nothing in it.
pub(crate) struct Vacancy {
    address: NonNull<u8>,
    layout: Layout,
}

impl TaskMemory {
    /// Moves a future to a place of its own.
    pub(crate) fn place<F: Future<Output = ()> + 'static>(&mut self, future: F) -> Pin<TaskFuture> {
        match self.take(Layout::new::<F>()) {
            Some(place) => place.fill(future),
            None => Box::pin(future),
        }
    }

    /// Drops the future that lies there; `None` if it took no memory.
    pub(crate) fn empty(future: Pin<TaskFuture>) -> Option<Vacancy> {
        let layout = Layout::for_value(&*future);
        if layout.size() == 0 {
            return None;
        }
        // SAFETY: the future is dropped where it lies and never used again, so it is not moved.
        let future = Box::into_raw(unsafe { Pin::into_inner_unchecked(future) });
        let place = Vacancy {
            address: NonNull::new(future.cast()).expect("a box has an address"),
            layout,
        };
        // SAFETY: the future is whole, and ours alone since the box was taken apart.
        unsafe { future.drop_in_place() };
        Some(place)
    }

    /// Keeps a place for the next future of its layout, unless there are enough.
    pub(crate) fn keep(&mut self, place: Option<Vacancy>) {
        let Some(place) = place.filter(|place| place.layout.size() <= PLACE_BYTES_MAX) else {
            return;
        };
        let known = self
            .by_layout
            .iter()
            .position(|(layout, _)| *layout == place.layout);
        let index = match known {
            Some(index) => index,
            None if self.by_layout.len() < LAYOUTS_MAX => {
                self.by_layout.push((place.layout, Vec::new()));
                self.by_layout.len() - 1
            }
            None => return,
        };
        let places = &mut self.by_layout[index].1;
        if places.len() < PLACES_MAX {
            places.push(place);
        }
    }

    fn take(&mut self, layout: Layout) -> Option<Vacancy> {
        let (_, places) = self
            .by_layout
            .iter_mut()
            .find(|(known, _)| *known == layout)?;
        places.pop()
    }
}

impl Vacancy {
    fn fill<F: Future<Output = ()> + 'static>(self, future: F) -> Pin<TaskFuture> {
        assert!(
            self.layout == Layout::new::<F>(),
            "a future lies in memory of its own layout"
        );
        let address = self.address.cast::<F>().as_ptr();
        std::mem::forget(self);
        // SAFETY: the memory has the layout of `F` and nothing in it.
        unsafe { address.write(future) };
        // SAFETY: it came from the global allocator with this very layout, as a box's memory does, and is ours alone.
        Box::into_pin(unsafe { Box::from_raw(address) })
    }
}

impl Drop for Vacancy {
    fn drop(&mut self) {
        // SAFETY: it was a box's memory of this layout, and nobody else has it.
        unsafe { dealloc(self.address.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Adds to a counter when it is polled and when it is dropped.
    struct Counting(Rc<Cell<u32>>);

    impl Future for Counting {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            self.0.set(self.0.get() + 1);
            Poll::Ready(())
        }
    }

    impl Drop for Counting {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 100);
        }
    }

    #[test]
    fn the_next_future_of_a_kind_lies_where_the_last_one_did() {
        let count = Rc::new(Cell::new(0));
        let mut memory = TaskMemory::default();
        let mut addresses = Vec::new();
        for _ in 0..3 {
            let mut future = memory.place(Counting(Rc::clone(&count)));
            addresses.push((&raw const *future).addr());
            let mut context = Context::from_waker(Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_ready());
            memory.keep(TaskMemory::empty(future));
        }
        assert_eq!(count.get(), 303, "each was polled once and dropped once");
        assert!(addresses.iter().all(|address| *address == addresses[0]));
    }

    #[test]
    fn places_are_bounded_and_differ_by_layout() {
        let mut memory = TaskMemory::default();
        let many: Vec<_> = (0..2 * PLACES_MAX)
            .map(|number| {
                memory.place(async move { assert!(std::hint::black_box(number) < usize::MAX) })
            })
            .collect();
        for future in many {
            memory.keep(TaskMemory::empty(future));
        }
        memory.keep(TaskMemory::empty(memory_of([0_u8; 300])));
        memory.keep(TaskMemory::empty(memory_of([0_u8; 2 * PLACE_BYTES_MAX])));
        memory.keep(TaskMemory::empty(Box::pin(async {})));
        let kept: Vec<usize> = memory
            .by_layout
            .iter()
            .map(|(_, places)| places.len())
            .collect();
        assert!(kept.iter().all(|places| *places <= PLACES_MAX));
        assert!(kept.contains(&1), "the one of 300 bytes: {kept:?}");
        assert!(
            memory
                .by_layout
                .iter()
                .all(|(layout, _)| layout.size() <= PLACE_BYTES_MAX)
        );
    }

    fn memory_of<const BYTES: usize>(bytes: [u8; BYTES]) -> Pin<TaskFuture> {
        Box::pin(async move {
            std::future::pending::<()>().await;
            assert_eq!(std::hint::black_box(bytes).len(), BYTES);
        })
    }
}
