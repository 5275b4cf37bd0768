//! Two shards compared with one: what a delivery costs when a message has to reach another core, and how long the message
//! takes to reach the last member.

use crate::fan_out::table;
use crate::last::{MESSAGES_PER_ROUND, REST};
use crate::options::Options;
use crate::servers::{Kind, Subject};
use crate::sides::Sides;
use crate::statistics::{Sure, median, percentile};

/// A small room and a large one.
const MEMBERS: [usize; 2] = [1_000, 9_000];
/// Members of the room whose last member counts.
const MEMBERS_OF_LAST: usize = 2_000;
/// Messages that don't count: caches, windows and the kernel's receive times get going.
const WARM_UP_MESSAGES: usize = 3;

/// The tables.
pub(crate) fn run(options: &Options) {
    let subjects = [Kind::TwoShards.into(), Kind::Hi.into()];
    last(&subjects, options.members.unwrap_or(MEMBERS_OF_LAST), options);
    // The second shard shares its core with the reader, so only CPU time is meaningful.
    for members in options.members.map_or(MEMBERS.to_vec(), |members| vec![members]) {
        table(&subjects, options.chat(members), options);
    }
}

/// How long a message takes to reach the last member while nobody reads, so that both cores are the server's.
fn last(subjects: &[Subject], members: usize, options: &Options) {
    let messages = options.rounds * MESSAGES_PER_ROUND;
    println!(
        "\none message to {members} idle members whose readers sleep, until the kernel has received the last one's:"
    );
    println!("ms; {messages} messages each, {REST:?} apart");
    let times = Sides::start(subjects, options.chat(members), options).received(WARM_UP_MESSAGES, messages, REST);
    println!("   median       p90   {}", subjects[0].what());
    for (subject, of_subject) in subjects.iter().zip(&times) {
        let share = match std::ptr::eq(of_subject, &raw const times[0]) {
            true => "1".into(),
            false => Sure::of_ratios(&times[0], of_subject).to_string(),
        };
        println!("{:9.3} {:9.3}   {share:18} {}", median(of_subject), percentile(of_subject, 90), subject.what());
    }
}
