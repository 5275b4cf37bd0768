//! How large hi makes itself: how many shards there are, and how much memory they keep for clients. Both follow what the
//! machine, or the control group of a container, allows.

use super::Config;
use crate::limits::{BUDGET_BYTES_MIN, RECEIVE_BUFFER_BYTES, SHARD_BYTES, SHARDS_PART};
use crate::memory::{Size, machine};

impl Config {
    /// How many shards there are, if `parallelism` threads can run all the time: as many, or as many as the memory budget
    /// has room for.
    pub(crate) fn shard_count(&self, parallelism: usize) -> usize {
        self.shards.map_or_else(|| parallelism.min(self.shards_in_budget()), usize::from)
    }

    /// The budget for everything that is kept for others, in bytes.
    pub(crate) fn memory_bytes_max(&self) -> usize {
        self.memory_max.unwrap_or_else(|| (machine::allowed_bytes() / 2).max(BUDGET_BYTES_MIN))
    }

    /// What the operator should know, if `parallelism` threads can run all the time: one sentence each.
    pub(crate) fn size_warnings(&self, parallelism: usize) -> Vec<String> {
        let (shards, budget, allowed) =
            (self.shard_count(parallelism), self.memory_bytes_max(), machine::allowed_bytes());
        let fit = self.shards_in_budget();
        let mut warnings = Vec::new();
        if shards > fit {
            warnings.push(format!(
                "under load, the rings and receive buffers of {shards} shards take {}, more than half of the memory budget: \
                 lower --shards or --receive-buffers",
                Size(shards * self.shard_bytes())
            ));
        } else if self.shards.is_none() && parallelism > fit {
            warnings.push(format!(
                "{shards} shards serve on {parallelism} cores: under load, the rings and receive buffers of more would take \
                 over half of the memory budget (--memory-max); --shards or fewer --receive-buffers allow more"
            ));
        }
        if budget > allowed {
            warnings.push(format!(
                "the memory budget of {} is larger than the {} that the machine or the control group allows, so the kernel \
                 may end hi: lower --memory-max",
                Size(budget),
                Size(allowed)
            ));
        }
        warnings
    }

    fn shards_in_budget(&self) -> usize {
        (self.memory_bytes_max() / SHARDS_PART / self.shard_bytes()).max(1)
    }

    /// Bytes that a shard takes with all its receive buffers in use, apart from what it keeps for clients.
    fn shard_bytes(&self) -> usize {
        SHARD_BYTES + usize::from(self.receive_buffers) * RECEIVE_BUFFER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn config(args: &[&str]) -> Config {
        Config::try_parse_from([&["hi"], args].concat()).unwrap()
    }

    #[test]
    fn a_small_budget_means_fewer_shards_unless_they_are_counted_by_the_operator() {
        // 64 cores and half of 128 MiB, which is the default in a container with that limit.
        let small = config(&["--memory-max", "64m"]);
        assert_eq!(small.shard_count(64), 6);
        assert!(small.size_warnings(64)[0].starts_with("6 shards serve on 64 cores"));
        assert_eq!((small.shard_count(2), small.size_warnings(2)), (2, vec![]));
        assert_eq!(config(&["--memory-max", "64m", "--receive-buffers", "64"]).shard_count(64), 25);
        assert_eq!(config(&["--memory-max", "16m", "--receive-buffers", "32768"]).shard_count(64), 1);
        assert_eq!(config(&["--memory-max", "640m"]).shard_count(64), 64);
        let counted = config(&["--memory-max", "64m", "--shards", "64"]);
        assert_eq!(counted.shard_count(64), 64);
        assert!(counted.size_warnings(64)[0].contains("64 shards take 320 MiB"), "{:?}", counted.size_warnings(64));
    }

    #[test]
    fn a_budget_beyond_what_is_allowed_is_warned_about() {
        let large = config(&["--memory-max", &(machine::allowed_bytes() + (1 << 30)).to_string()]);
        assert!(large.size_warnings(1)[0].contains("lower --memory-max"));
        assert_eq!(config(&[]).size_warnings(1), Vec::<String>::new());
    }
}
