//! The one source of chance: everything that could happen in several ways asks it which.

use std::cell::RefCell;
use std::rc::Rc;

/// A handle to the seed's random numbers, shared by all parts of a simulation.
#[derive(Clone, Debug)]
pub struct Random(Rc<RefCell<fastrand::Rng>>);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(fastrand::Rng::with_seed(seed))))
    }

    /// Numbers of their own for `purpose`, which change nothing about those that follow here.
    pub fn aside(&self, purpose: u64) -> Self {
        let mut next = self.0.borrow().clone();
        Self::new(next.u64(..) ^ purpose)
    }

    /// A number from 0 to before `end`, which is not 0.
    pub fn below(&self, end: usize) -> usize {
        self.0.borrow_mut().usize(..end)
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&self, first: usize, last: usize) -> usize {
        self.0.borrow_mut().usize(first..=last)
    }

    /// True once in `times`.
    pub fn one_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Any number.
    pub fn number(&self) -> u64 {
        self.0.borrow_mut().u64(..)
    }

    /// Changes the order.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        self.0.borrow_mut().shuffle(items);
    }
}
