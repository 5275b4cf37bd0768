//! What a delivery costs and how long it takes, at a steady rate; and how long in a closed loop.

use std::time::Duration;

use crate::case::Case;
use crate::options::Options;
use crate::servers::Subject;
use crate::sides::{Costs, Sides, Slices};
use crate::statistics::{Sure, median};

/// Length of a turn in a closed loop.
const ALONE: Duration = Duration::from_millis(100);
/// Messages per turn at least.
const MESSAGES_MIN: u32 = 4;

/// One table per room.
pub(crate) fn run(options: &Options) {
    let subjects = options.subjects();
    for case in options.cases() {
        table(&subjects, case, options);
    }
}

/// Each server's cost and latency, and the first server's share of it.
pub(crate) fn table(subjects: &[Subject], case: Case, options: &Options) {
    let Case { members, frames, rate } = case;
    let (rounds, bytes) = (options.rounds, frames.payload_bytes);
    println!("\n{members} members, {rate} messages/s of {bytes} bytes, {rounds} rounds");
    let steady = options.slice().max(Duration::from_secs(1) * MESSAGES_MIN / rate as u32);
    let costs = Sides::start(subjects, case, options).fan_out(rounds, Slices { steady, alone: ALONE });
    let columns: [fn(&Costs) -> &[f64]; 4] =
        [|costs| &costs.cpu, |costs| &costs.p50, |costs| &costs.p99, |costs| &costs.wall];
    let share = format!("{}: CPU", subjects[0].what());
    println!("   CPU us    p50 ms    p99 ms   wall us   {share:18} {:18} {:18} wall", "p50", "p99");
    for (index, (subject, of_subject)) in subjects.iter().zip(&costs).enumerate() {
        let mut line = String::new();
        for column in columns {
            line += &format!("{:9.3} ", median(column(of_subject)));
        }
        for column in columns {
            let ratio = match index {
                0 => "1".into(),
                _ => Sure::of_ratios(column(&costs[0]), column(of_subject)).to_string(),
            };
            line += &format!("  {ratio:17}");
        }
        println!("{line}  {}", subject.what());
    }
    let rest = costs.iter().map(|costs| costs.rest).fold(0.0, f64::max);
    println!("while another had its turn, a server used at most {:.2} % of its core", rest * 100.0);
}
