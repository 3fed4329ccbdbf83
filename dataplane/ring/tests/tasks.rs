//! Tasks, sleeps and wakes across threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use ring::{Ring, RingConfig, RingError};

fn small_ring() -> Ring {
    Ring::new(RingConfig {
        pool_buffer_bytes: 4096,
        pool_buffers: 1,
        ..RingConfig::default()
    })
    .unwrap()
}

#[test]
fn sleeps_end_in_the_order_of_their_deadlines() {
    let ring = small_ring();
    let order = Rc::new(RefCell::new(Vec::new()));
    let start = ring.now();
    for ms in [30, 10, 20, 0] {
        let (task_ring, order) = (ring.clone(), Rc::clone(&order));
        ring.spawn(async move {
            task_ring.sleep_until(start + ms * 1_000_000).await;
            assert!(task_ring.now() >= start + ms * 1_000_000);
            order.borrow_mut().push(ms);
        });
    }
    ring.block_on(ring.sleep_until(start + 60_000_000));
    assert_eq!(*order.borrow(), [0, 10, 20, 30]);
}

#[test]
fn a_dropped_sleep_leaves_no_alarm_behind() {
    let ring = small_ring();
    ring.block_on(async {
        let far = ring.now() + 3_600_000_000_000;
        assert!(
            pin!(ring.sleep_until(far))
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        let before = ring.counters().enters;
        ring.sleep_until(ring.now() + 5_000_000).await;
        assert!(
            ring.counters().enters - before < 20,
            "a sleeping ring does not spin"
        );
    });
}

#[test]
fn tasks_that_never_stop_waking_themselves_do_not_keep_a_sleep_from_ending() {
    let ring = small_ring();
    for _ in 0..3 {
        ring.spawn(poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::Pending
        }));
    }
    ring.block_on(ring.sleep_until(ring.now() + 2_000_000));
    ring.drop_tasks();
}

/// However many have long work, what others wait for it stays the same.
#[test]
fn of_all_tasks_that_give_way_one_has_its_turn_between_two_looks_at_the_kernel() {
    const TASKS: u64 = 100;
    let ring = small_ring();
    let turns = Rc::new(Cell::new(0));
    for _ in 0..TASKS {
        let turns = Rc::clone(&turns);
        ring.spawn(poll_fn(move |context| {
            turns.set(turns.get() + 1);
            context.waker().wake_by_ref();
            Poll::Pending
        }));
    }
    ring.block_on(ring.sleep_until(ring.now() + 5_000_000));
    let looks = ring.counters().enters;
    assert!(turns.get() > TASKS, "each has its turn");
    assert!(
        turns.get() <= TASKS + looks + 1,
        "{} turns, {looks} looks",
        turns.get()
    );
    ring.drop_tasks();
}

/// A value that one thread sets and a task on another waits for, with nothing but wakers.
#[derive(Default)]
struct Promise {
    kept: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Promise {
    fn keep(&self) {
        self.kept.store(true, Ordering::SeqCst);
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|context| {
            *self.waker.lock().unwrap() = Some(context.waker().clone());
            if self.kept.load(Ordering::SeqCst) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

#[test]
fn a_task_is_woken_by_another_thread_while_the_ring_sleeps_and_while_it_runs() {
    let ring = small_ring();
    for round in 0..500 {
        let promise = Arc::new(Promise::default());
        std::thread::scope(|scope| {
            let remote = Arc::clone(&promise);
            scope.spawn(move || {
                if round % 2 == 0 {
                    std::thread::yield_now();
                }
                remote.keep();
            });
            ring.block_on(promise.wait());
        });
    }
}

#[test]
fn remote_wakes_are_noticed_and_coalesced() {
    let ring = small_ring();
    let waker = ring.remote_waker();
    let posted = Arc::new(AtomicU32::new(0));
    std::thread::scope(|scope| {
        let remote_posted = Arc::clone(&posted);
        scope.spawn(move || {
            for _ in 0..10_000 {
                remote_posted.fetch_add(1, Ordering::SeqCst);
                waker.wake();
            }
        });
        ring.block_on(async {
            while posted.load(Ordering::SeqCst) < 10_000 {
                ring.notified().await;
            }
        });
    });
}

#[test]
fn a_waiter_gets_the_pooled_buffer_that_another_thread_drops() {
    let ring = small_ring();
    for _ in 0..200 {
        let mut buffer = ring.pool().take().unwrap();
        buffer.extend_from_slice(b"held elsewhere");
        let slice = buffer.slice(0..4);
        drop(buffer);
        std::thread::scope(|scope| {
            scope.spawn(move || drop(slice));
            let again = ring.block_on(ring.wait_buffer());
            assert!(again.is_empty());
        });
    }
}

#[test]
fn dropping_tasks_drops_what_they_own_and_lets_the_ring_go() {
    struct Counted(Rc<Cell<u32>>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let ring = small_ring();
    for _ in 0..3 {
        let (task_ring, counted) = (ring.clone(), Counted(Rc::clone(&dropped)));
        ring.spawn(async move {
            task_ring.sleep_until(u64::MAX).await;
            drop(counted);
        });
    }
    ring.block_on(ring.sleep_until(ring.now() + 1_000_000));
    ring.drop_tasks();
    assert_eq!(dropped.get(), 3);
}

#[test]
fn a_configuration_that_cannot_work_is_refused_in_words() {
    let refused = |config| match Ring::new(config) {
        Err(RingError::Configuration(_)) => true,
        Err(RingError::Other { source, .. }) => source.kind() == std::io::ErrorKind::InvalidInput,
        _ => false,
    };
    assert!(refused(RingConfig {
        entries: 0,
        ..RingConfig::default()
    }));
    assert!(refused(RingConfig {
        completions: 1,
        ..RingConfig::default()
    }));
    assert!(refused(RingConfig {
        receive_buffers: 3,
        ..RingConfig::default()
    }));
    assert!(refused(RingConfig {
        pool_buffer_bytes: 100,
        ..RingConfig::default()
    }));
    assert!(refused(RingConfig {
        pool_buffer_bytes: 2 << 30,
        ..RingConfig::default()
    }));
}

#[test]
fn a_ring_that_sleeps_counts_as_parked() {
    let ring = small_ring();
    ring.block_on(ring.sleep_until(ring.now() + 50_000_000));
    let counters = ring.counters();
    assert!(counters.total_nanos >= 50_000_000);
    assert!(
        counters.parked_nanos > counters.total_nanos / 4,
        "{counters:?}"
    );
}
