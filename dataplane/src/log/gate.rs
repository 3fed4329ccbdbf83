//! Lets one task of a shard at a time through.

use std::cell::Cell;
use std::rc::Rc;

use crate::event::Event;

#[derive(Default)]
pub(crate) struct Gate {
    held: Cell<bool>,
    opened: Event,
}

impl Gate {
    pub(crate) fn is_held(&self) -> bool {
        self.held.get()
    }

    /// Waits until no one else is inside; the gate opens again when the pass is dropped.
    pub(crate) async fn enter(self: &Rc<Self>) -> Pass {
        loop {
            let generation = self.opened.generation();
            if !self.held.replace(true) {
                return Pass(Rc::clone(self));
            }
            self.opened.changed_since(generation).await;
        }
    }
}

pub(crate) struct Pass(Rc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.opened.notify();
    }
}
