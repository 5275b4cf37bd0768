//! Whose turn it is: in each round everyone has one, in an order that is shuffled each time.

use fastrand::Rng;

/// Those that take turns, in the order in which they were added.
pub(crate) struct Turns<S> {
    sides: Vec<S>,
    rng: Rng,
}

impl<S> Turns<S> {
    /// The same seed gives the same orders.
    pub(crate) fn new(sides: Vec<S>, seed: u64) -> Self {
        Self { sides, rng: Rng::with_seed(seed) }
    }

    /// Calls `turn` once per round for each of them. Returns the results of each, one per round.
    pub(crate) fn take<T>(&mut self, rounds: usize, mut turn: impl FnMut(&mut S) -> T) -> Vec<Vec<T>> {
        let mut results: Vec<Vec<T>> = self.sides.iter().map(|_| Vec::with_capacity(rounds)).collect();
        let mut order: Vec<usize> = (0..self.sides.len()).collect();
        for _ in 0..rounds {
            self.rng.shuffle(&mut order);
            for index in &order {
                results[*index].push(turn(&mut self.sides[*index]));
            }
        }
        results
    }
}
