//! The servers of one table, all running with all their members, each driven by a separate process. They take turns.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::case::Case;
use crate::driver::{Order, Outcome};
use crate::options::Options;
use crate::servers::Subject;
use crate::turns::Turns;

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
    fn start(subject: &Subject, case: Case, options: &Options) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
        match subject {
            Subject::Known(kind) => command.args(["--only", &kind.name()]),
            Subject::Other(other) => command.args(["--other", &format!("{}={}", other.name, other.command)]),
        };
        command.args(["--drive", "--members", &case.members.to_string()]);
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

/// The result of a turn at a steady rate and in a closed loop.
struct Turn {
    /// Microseconds of the server's CPU time per delivery, at the steady rate.
    cpu: f64,
    /// Milliseconds from the time that a message was due until a member had it, at the steady rate.
    p50: f64,
    p99: f64,
    /// Microseconds of wall time per delivery, in a closed loop.
    wall: f64,
    /// CPU time and wall time while others had their turns.
    rest: (Duration, Duration),
}

/// The results of one server's turns, one value per round.
#[derive(Debug)]
pub(crate) struct Costs {
    pub(crate) cpu: Vec<f64>,
    pub(crate) p50: Vec<f64>,
    pub(crate) p99: Vec<f64>,
    pub(crate) wall: Vec<f64>,
    /// The share of a core that the server used while others had their turns.
    pub(crate) rest: f64,
}

impl Costs {
    fn of(turns: &[Turn]) -> Self {
        let each = |of: fn(&Turn) -> f64| turns.iter().map(of).collect();
        let (cpu, wall) = turns
            .iter()
            .fold((Duration::ZERO, Duration::ZERO), |sum, Turn { rest, .. }| (sum.0 + rest.0, sum.1 + rest.1));
        Self {
            cpu: each(|turn| turn.cpu),
            p50: each(|turn| turn.p50),
            p99: each(|turn| turn.p99),
            wall: each(|turn| turn.wall),
            rest: cpu.as_secs_f64() / wall.as_secs_f64(),
        }
    }
}

/// How long one server's turn takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slices {
    pub(crate) steady: Duration,
    pub(crate) alone: Duration,
}

impl Side {
    fn turn(&mut self, slices: Slices) -> Turn {
        let per_delivery = |time: Duration, deliveries: u32| time.as_secs_f64() * 1e6 / f64::from(deliveries);
        let Outcome::Steady { deliveries, cpu, p50, p99, rest } = self.obey(Order::Steady(slices.steady)) else {
            unreachable!("each order has its outcome")
        };
        let cpu = per_delivery(cpu, deliveries);
        let Outcome::Alone { deliveries, wall } = self.obey(Order::Alone(slices.alone)) else {
            unreachable!("each order has its outcome")
        };
        Turn { cpu, p50, p99, wall: per_delivery(wall, deliveries), rest }
    }
}

/// All servers of one table.
pub(crate) struct Sides(Turns<Side>);

impl Sides {
    pub(crate) fn start(subjects: &[Subject], case: Case, options: &Options) -> Self {
        let sides = subjects.iter().map(|subject| Side::start(subject, case, options)).collect();
        Self(Turns::new(sides, options.seed()))
    }

    /// In each round, each server gets a turn of both kinds. The first round is a warm-up, which doesn't count.
    pub(crate) fn fan_out(&mut self, rounds: usize, slices: Slices) -> Vec<Costs> {
        let turns = self.0.take(rounds + 1, |side| side.turn(slices));
        turns.iter().map(|turns| Costs::of(&turns[1..])).collect()
    }

    /// In each round, sends one message through each server after a pause: its time to the last member, and the time
    /// that a bare server's sends took.
    pub(crate) fn last(&mut self, rounds: usize, rest: Duration) -> Vec<Vec<(Duration, Duration)>> {
        self.0.take(rounds, |side| {
            let Outcome::Last { latency, sends } = side.obey(Order::Last(rest)) else {
                unreachable!("each order has its outcome")
            };
            (latency, sends)
        })
    }

    /// In each round, sends one message through each server after a pause: milliseconds until the kernel had received the
    /// last member's. The first rounds are a warm-up, which doesn't count.
    pub(crate) fn received(&mut self, warm_up: usize, rounds: usize, rest: Duration) -> Vec<Vec<f64>> {
        let mut times = self.0.take(warm_up + rounds, |side| {
            let Outcome::Received(latency) = side.obey(Order::Received(rest)) else {
                unreachable!("each order has its outcome")
            };
            latency.as_secs_f64() * 1e3
        });
        times.iter_mut().for_each(|times| drop(times.drain(..warm_up)));
        times
    }
}
