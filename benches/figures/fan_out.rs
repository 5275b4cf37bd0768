//! What a delivery costs, at a steady rate and in a closed loop.

use std::time::Duration;

use crate::case::Case;
use crate::options::Options;
use crate::servers::Kind;
use crate::sides::{Costs, Sides, Slices};
use crate::statistics::{Sure, median};

/// Length of a turn at a steady rate, and in a closed loop: short, because the machine's speed drifts within seconds.
const STEADY: Duration = Duration::from_millis(500);
const ALONE: Duration = Duration::from_millis(100);
/// Messages per turn at least.
const MESSAGES_MIN: u32 = 4;

/// One table per room.
pub(crate) fn run(options: &Options) {
    let mut kinds = options.only.clone();
    if kinds.is_empty() {
        kinds = vec![Kind::Hi, Kind::Send, Kind::IoUring, Kind::Tokio];
    }
    kinds.extend(options.against.is_some().then_some(Kind::OtherHi));
    for case in options.cases() {
        table(&kinds, case, options);
    }
}

/// Each server's cost, and the first server's share of it.
pub(crate) fn table(kinds: &[Kind], case: Case, options: &Options) {
    let Case { members, frames, rate } = case;
    let (rounds, bytes) = (options.rounds, frames.payload_bytes);
    println!("\n{members} members, {rate} messages/s of {bytes} bytes, {rounds} rounds");
    let steady = STEADY.max(Duration::from_secs(1) * MESSAGES_MIN / rate as u32);
    let costs = Sides::start(kinds, case, options).fan_out(rounds, Slices { steady, alone: ALONE });
    let first = kinds[0].what();
    println!("   CPU us   wall us   {:18}   {:18}", format!("{first}: CPU"), "wall");
    for (index, (kind, of_kind)) in kinds.iter().zip(&costs).enumerate() {
        let (cpu, wall) = (median(&of_kind.cpu), median(&of_kind.wall));
        let (cpu_ratio, wall_ratio) = match index {
            0 => ("1".into(), "1".into()),
            _ => (
                Sure::of_ratios(&costs[0].cpu, &of_kind.cpu).to_string(),
                Sure::of_ratios(&costs[0].wall, &of_kind.wall).to_string(),
            ),
        };
        println!("{cpu:9.3} {wall:9.3}   {cpu_ratio:18}   {wall_ratio:18}   {}", kind.what());
    }
    let rest = costs.iter().map(Costs::rest).fold(0.0, f64::max);
    println!("while another had its turn, a server used at most {:.2} % of its core", rest * 100.0);
}
