//! How long one message takes to reach the last of its members, which have been idle for a moment.

use std::time::Duration;

use crate::options::Options;
use crate::servers::Kind;
use crate::sides::Sides;
use crate::statistics::{Sure, median, percentile};

/// Numbers of members.
const MEMBERS: [usize; 6] = [1, 10, 100, 1_000, 3_000, 9_000];
/// Pause before each message.
pub(crate) const REST: Duration = Duration::from_millis(60);
/// Messages per round of other tables, since these are short.
pub(crate) const MESSAGES_PER_ROUND: usize = 3;

/// The table: hi and the floor.
pub(crate) fn run(options: &Options) {
    let messages = options.rounds * MESSAGES_PER_ROUND;
    println!("\none message to idle members, until the last one has it: us; {messages} messages each, {REST:?} apart");
    println!(
        "members   hi: median       p90   a member   the floor: median   its sends   hi / floor         hi / sends"
    );
    for members in options.members.map_or(MEMBERS.to_vec(), |members| vec![members]) {
        let case = options.chat(members);
        let outcomes = Sides::start(&[Kind::Hi.into(), Kind::IoUring.into()], case, options).last(messages, REST);
        let micros = |time: &Duration| time.as_secs_f64() * 1e6;
        let latencies = |index: usize| outcomes[index].iter().map(|(latency, _)| micros(latency)).collect::<Vec<_>>();
        let (hi, floor) = (latencies(0), latencies(1));
        let sends: Vec<f64> = outcomes[1].iter().map(|(_, sends)| micros(sends)).collect();
        println!(
            "{members:7} {:12.0} {:9.0} {:10.2} {:19.0} {:11.0}   {:18} {:18}",
            median(&hi),
            percentile(&hi, 90),
            median(&hi) / members as f64,
            median(&floor),
            median(&sends),
            Sure::of_ratios(&hi, &floor).to_string(),
            Sure::of_ratios(&hi, &sends).to_string(),
        );
    }
}
