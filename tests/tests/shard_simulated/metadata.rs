//! A broker's copy of the metadata is the controllers', whatever happened to either.

use std::cell::Cell;

use millrace_tests::sim::SimIo;
use millrace_tests::sweep::for_each_seed;
use wire::ErrorCode;

use super::broker::Process;
use super::client::Client;
use super::{PORT, World};

fn create(world: &World, clients: &SimIo, prefix: &str, count: usize) {
    let mut client = Client::new(clients.clone());
    world.run(clients, async {
        for number in 0..count {
            client.create_topic(&format!("{prefix}-{number}"), 2).await;
        }
    });
}

fn is_up_to_date(world: &World, process: &Process) -> bool {
    let (control, image) = (world.control.borrow(), process.image.borrow());
    image.topics == control.image().topics && image.digest() == control.image().digest()
}

#[test]
fn a_change_that_was_lost_on_the_way_is_noticed_and_made_good() {
    let differed = Cell::new(false);
    for_each_seed(12, |seed| {
        let world = World::new(seed, 2);
        let clients = world.simulation.boot("clients");
        let (_broker, process) = world.boot_process("broker", PORT);
        create(&world, &clients, "whole", 2);
        world.control.borrow_mut().garbles_one_in = 4;
        // Not through the broker, which would wait for what may be lost.
        for number in 0..8 {
            let name = format!("{number}-garbled");
            world.control.borrow_mut().add_topic(&name);
            world.pass(&clients, 120);
        }
        world.control.borrow_mut().garbles_one_in = 0;
        differed.set(differed.get() || !is_up_to_date(&world, &process));
        world.pass(&clients, 15_000);
        assert!(is_up_to_date(&world, &process));
        create(&world, &clients, "after", 1);
    });
    assert!(differed.get(), "something was lost that mattered");
}

/// Controllers that were put back to a backup, and made other changes since: their log is another one from there.
#[test]
fn a_broker_that_followed_a_log_which_is_lost_follows_what_the_controllers_have() {
    for_each_seed(12, |seed| {
        let world = World::new(seed, 2);
        let clients = world.simulation.boot("clients");
        let (_broker, process) = world.boot_process("broker", PORT);
        create(&world, &clients, "kept", 1);
        let backup = world.control.borrow().save();
        create(&world, &clients, "lost", 2);
        world.pass(&clients, 500);
        world.control.borrow_mut().restore(backup);
        if seed % 3 == 0 {
            // It has come further than before when the broker hears from it.
            let mut control = world.control.borrow_mut();
            (0..20).for_each(|number| control.add_topic(&format!("{number}-other")));
        }
        create(&world, &clients, "new", 3);
        world.pass(&clients, 1_000);
        assert!(is_up_to_date(&world, &process));
        let mut client = Client::new(clients.clone());
        let answer = world.run(&clients, client.try_produce("new-0", 0, b"value"));
        assert_eq!(answer.map(|(error, _)| error), Some(ErrorCode::None));
    });
}
