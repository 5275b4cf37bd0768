//! Two shards compared with one: what a delivery costs when a message has to reach another core.

use crate::fan_out::table;
use crate::options::Options;
use crate::servers::Kind;

/// A small room and a large one.
const MEMBERS: [usize; 2] = [1_000, 9_000];

/// The tables. The second shard shares its core with the reader, so only CPU time is meaningful.
pub(crate) fn run(options: &Options) {
    for members in options.members.map_or(MEMBERS.to_vec(), |members| vec![members]) {
        table(&[Kind::TwoShards.into(), Kind::Hi.into()], options.chat(members), options);
    }
}
