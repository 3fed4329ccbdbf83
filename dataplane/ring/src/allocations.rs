//! Counts what each thread allocates, so that anybody can see that a shard's steady path allocates nothing.
//!
//! A program opts in with `#[global_allocator]`; memory still comes from the system's allocator, which keeps what is freed for the thread
//! that had it until it is told to give it back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

pub struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Allocations and enlargements of this thread so far; 0 in a program without the counting allocator.
pub fn of_this_thread() -> u64 {
    COUNT.get()
}

/// Gives the system what its allocator keeps of freed memory. While it walks what one thread had, which takes milliseconds once there is
/// much, that thread may have to wait to allocate.
pub fn give_back_freed() {
    // SAFETY: it touches free memory only, under the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

fn count() {
    // A thread that is ending has no counter any more, and is no shard.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator as it came. Counting touches a plain number of this thread, so it neither
// allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of this very call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(address, layout, bytes) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(address, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_and_goes_and_each_thread_counts_its_own() {
        let layout = Layout::from_size_align(100, 8).unwrap();
        let before = of_this_thread();
        // SAFETY: the layout has a size.
        let address = unsafe { Counting.alloc_zeroed(layout) };
        // SAFETY: it was just allocated with this layout.
        let address = unsafe { Counting.realloc(address, layout, 200) };
        // SAFETY: the first byte of 200.
        assert_eq!(unsafe { address.read() }, 0);
        let grown = Layout::from_size_align(200, 8).unwrap();
        // SAFETY: it has this layout since it was enlarged.
        unsafe { Counting.dealloc(address, grown) };
        assert_eq!(of_this_thread() - before, 2);
        assert_eq!(
            std::thread::scope(|scope| scope.spawn(of_this_thread).join().unwrap()),
            0
        );
    }
}
