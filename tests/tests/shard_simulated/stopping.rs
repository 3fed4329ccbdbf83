//! An orderly stop: what it costs, and what the next process finds.

use super::*;

const SHARDS: usize = 2;

/// Produces a record of `bytes` bytes to each of so many partitions and stops the broker. Returns how long the stop took, and how many
/// flushes, and checks that the next process finds every record.
fn stop_after_producing(partitions: i32, bytes: usize) -> (u64, u64) {
    let mut control = ControlPlane::new();
    control.create_topic(TOPIC, partitions);
    let world = World::with(control, 7, SHARDS);
    let clients = world.simulation.boot("clients");
    let (broker, process) = world.boot_process("broker", PORT);
    let value = vec![b'v'; bytes];
    let syncs = || world.simulation.disk_counters("broker").syncs;
    let (nanos, flushes) = clients
        .run(async {
            let mut client = Client::new(clients.clone());
            for partition in 0..partitions {
                client.produce(TOPIC, partition, &value).await;
            }
            // What is zeroed ahead of the logs is flushed too.
            clients.sleep_until(clients.now().after_ms(500)).await;
            let (begun, before) = (clients.now(), syncs());
            process.stop_shards();
            while process.stopped.get() < SHARDS {
                clients.sleep_until(clients.now().after_ms(1)).await;
            }
            (clients.now().nanos_since(begun), syncs() - before)
        })
        .unwrap();
    broker.crash(CrashKind::PowerLost);
    world.boot();
    clients
        .run(async {
            let mut client = Client::new(clients.clone());
            for partition in 0..partitions {
                let found = client.fetch_all(TOPIC, partition).await;
                assert_eq!(found.len(), 1);
                assert!(found[0].value == value);
            }
        })
        .unwrap();
    (nanos, flushes)
}

#[test]
fn partitions_close_side_by_side() {
    let (few, _) = stop_after_producing(2, 100_000);
    let (many, flushes) = stop_after_producing(200, 100_000);
    assert!(flushes >= 200, "each has something to write down");
    // So many that luck does not decide: the slowest flush of many takes twenty times as long as that of few.
    assert!(
        many < 15 * few,
        "{many} ns for a hundred times the partitions that took {few} ns"
    );
}

#[test]
fn partitions_with_little_in_them_close_without_a_flush() {
    let (_, flushes) = stop_after_producing(40, 100);
    assert_eq!(flushes, 0);
}
