//! The servers of one table, all running with all their members, each driven by a separate process. They take turns.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use fastrand::Rng;

use crate::case::Case;
use crate::driver::{Order, Outcome};
use crate::options::Options;
use crate::servers::Kind;

/// The seed that shuffles the turns: the same order in every run.
const SEED: u64 = 0x6869;

/// One server, its members and their driver.
struct Side {
    driver: Child,
    /// `None` once the driver has to end.
    orders: Option<ChildStdin>,
    outcomes: BufReader<ChildStdout>,
}

impl Drop for Side {
    fn drop(&mut self) {
        // It stops its server first, which it couldn't if it were killed.
        drop(self.orders.take());
        let _ = self.driver.wait();
    }
}

impl Side {
    fn start(kind: Kind, case: Case, options: &Options) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
        command.args(["--drive", &kind.name(), "--members", &case.members.to_string()]);
        command.args(["--size", &case.frames.payload_bytes.to_string(), "--rate", &case.rate.to_string()]);
        command.args(options.against.iter().flat_map(|file| ["--against".into(), file.clone()]));
        let mut driver = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts again");
        let (orders, outcomes) = (driver.stdin.take(), BufReader::new(driver.stdout.take().unwrap()));
        let mut side = Self { driver, orders, outcomes };
        assert!(matches!(side.outcome(), Outcome::Ready), "members connect first");
        side
    }

    fn obey(&mut self, order: Order) -> Outcome {
        let orders = self.orders.as_mut().expect("it is not the end");
        writeln!(orders, "{}", serde_json::to_string(&order).unwrap()).expect("the driver lives");
        self.outcome()
    }

    fn outcome(&mut self) -> Outcome {
        let mut line = String::new();
        self.outcomes.read_line(&mut line).expect("the driver answers");
        assert!(!line.is_empty(), "a driver failed; see its reason above");
        serde_json::from_str(&line).expect("an outcome")
    }
}

/// The results of one server's turns, in microseconds per delivery, one value per round.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    /// CPU time at the steady rate.
    pub(crate) cpu: Vec<f64>,
    /// Wall time in a closed loop.
    pub(crate) wall: Vec<f64>,
    /// CPU time and wall time while others had their turns.
    rest: (Duration, Duration),
}

impl Costs {
    /// The share of a core that the server used while others had their turns.
    pub(crate) fn rest(&self) -> f64 {
        self.rest.0.as_secs_f64() / self.rest.1.as_secs_f64()
    }
}

/// How long one server's turn takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slices {
    pub(crate) steady: Duration,
    pub(crate) alone: Duration,
}

/// All servers of one table.
pub(crate) struct Sides {
    sides: Vec<Side>,
    rng: Rng,
}

impl Sides {
    pub(crate) fn start(kinds: &[Kind], case: Case, options: &Options) -> Self {
        let sides = kinds.iter().map(|kind| Side::start(*kind, case, options)).collect();
        Self { sides, rng: Rng::with_seed(SEED) }
    }

    /// In each round, each server gets a turn of both kinds.
    pub(crate) fn fan_out(&mut self, rounds: usize, slices: Slices) -> Vec<Costs> {
        let mut costs: Vec<Costs> = self.sides.iter().map(|_| Costs::default()).collect();
        let per_delivery = |time: Duration, deliveries: u32| time.as_secs_f64() * 1e6 / f64::from(deliveries);
        for _ in 0..rounds {
            for index in self.shuffled() {
                let (side, costs) = (&mut self.sides[index], &mut costs[index]);
                let Outcome::Steady { deliveries, cpu, rest } = side.obey(Order::Steady(slices.steady)) else {
                    unreachable!("each order has its outcome")
                };
                costs.cpu.push(per_delivery(cpu, deliveries));
                costs.rest = (costs.rest.0 + rest.0, costs.rest.1 + rest.1);
                let Outcome::Alone { deliveries, wall } = side.obey(Order::Alone(slices.alone)) else {
                    unreachable!("each order has its outcome")
                };
                costs.wall.push(per_delivery(wall, deliveries));
            }
        }
        costs
    }

    /// In each round, sends one message through each server after a pause: its time to the last member, and the time
    /// that a bare server's sends took.
    pub(crate) fn last(&mut self, rounds: usize, rest: Duration) -> Vec<Vec<(Duration, Duration)>> {
        let mut all: Vec<_> = self.sides.iter().map(|_| Vec::with_capacity(rounds)).collect();
        for _ in 0..rounds {
            for index in self.shuffled() {
                let Outcome::Last { latency, sends } = self.sides[index].obey(Order::Last(rest)) else {
                    unreachable!("each order has its outcome")
                };
                all[index].push((latency, sends));
            }
        }
        all
    }

    fn shuffled(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.sides.len()).collect();
        self.rng.shuffle(&mut order);
        order
    }
}
