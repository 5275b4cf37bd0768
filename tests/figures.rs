//! The benchmarks that compare servers (`benches/figures`): turns, intervals, steering, and the whole program with hi, the
//! tokio server and another one.

#[path = "../benches/figures/statistics.rs"]
mod statistics;
#[path = "../benches/figures/steering.rs"]
#[allow(dead_code, reason = "what it does is tested from outside, with the whole program")]
mod steering;
#[path = "../benches/figures/turns.rs"]
mod turns;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use statistics::{Sure, median, percentile};
use turns::Turns;

/// Nothing takes as long; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Half a second of measuring: small rooms, short turns.
const SHORT: [&str; 10] = ["--members", "4", "--rate", "400", "--slice", "20", "--rounds", "2", "--seed", "7"];

/// The program, built as the tests are.
fn figures() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").expect("tests are run by cargo or by ./check");
        let arguments =
            ["test", "--quiet", "--no-run", "--bench", "figures", "--message-format=json-render-diagnostics"];
        let mut command = Command::new(cargo);
        // What cargo tells this test about its package would make it build some libraries again.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
        let built = command.args(arguments).stderr(Stdio::inherit()).output().unwrap();
        assert!(built.status.success(), "the program can be built");
        let messages = String::from_utf8(built.stdout).unwrap();
        let mut programs = messages.lines().filter_map(|line| {
            let message: Value = serde_json::from_str(line).unwrap();
            message["executable"].as_str().map(PathBuf::from).filter(|_| message["target"]["name"] == "figures")
        });
        programs.next().expect("cargo tells where it is")
    })
}

/// A network of its own, with another loopback and another /sys, so that nothing changes on this machine.
struct Network {
    /// Holds it until its standard input ends.
    holder: Child,
}

impl Network {
    /// `prepare` is a shell command that runs first.
    fn new(prepare: &str) -> Self {
        let script = format!("mount -t sysfs sysfs /sys && ip link set lo up && {prepare} && echo ready && exec cat");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare is there");
        let mut ready = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "this needs root");
        Self { holder }
    }

    /// A short run of the program in it.
    fn figures(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.holder.id().to_string(), "--"]);
        command.arg(figures()).args(SHORT).args(["--only", "hi,tokio", "--steer"]).args(args);
        command
    }

    /// The cores that handle packets of its loopback.
    fn mask(&self) -> String {
        let file = format!("/proc/{}/root{}", self.holder.id(), steering::FILE);
        fs::read_to_string(file).unwrap().trim().trim_start_matches(['0', ',']).to_owned()
    }

    fn set_mask(&self, mask: &str) {
        fs::write(format!("/proc/{}/root{}", self.holder.id(), steering::FILE), mask).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Runs it to its end.
fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The numbers of a line of the table: medians, and then pairs of a share and its interval.
fn numbers(line: &str) -> Vec<f64> {
    let words = line.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn every_server_is_in_the_table_with_its_cost_its_latency_and_hi_s_share() {
    let another = format!("again={} --serve tokio", figures().display());
    let mut command = Command::new(figures());
    command.args(SHORT).args(["--only", "hi,send,tokio", "--other", &another]);
    let output = run(command);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    assert_eq!(lines[0], "turns in an order shuffled with --seed 7");
    assert_eq!(lines[2], "4 members, 400 messages/s of 128 bytes, 2 rounds");
    let names = ["hi", "a loop of send(2)", "tokio and fastwebsockets", "again"];
    let medians: Vec<Vec<f64>> = lines[4..8]
        .iter()
        .zip(names)
        .map(|(line, name)| {
            assert!(line.contains(name), "{name} is missing: {lines:#?}");
            let numbers = numbers(line.split(name).next().unwrap());
            let [cpu, p50, p99, wall, ref shares @ ..] = numbers[..] else { panic!("{line}") };
            assert!(cpu > 0.0 && wall > 0.0 && p50 > 0.0 && p50 <= p99, "{line}");
            match name {
                "hi" => assert_eq!(shares, [1.0; 4], "{line}"),
                _ => {
                    assert_eq!(shares.len(), 4 * 3, "{line}");
                    assert!(shares.chunks(3).all(|share| share[1] <= share[0] && share[0] <= share[2]), "{line}");
                }
            }
            numbers
        })
        .collect();
    assert_ne!(medians[0], medians[1]);
    assert!(lines[8].starts_with("while another had its turn"), "{lines:#?}");
}

/// The table of a short run: one line per server, each with a median of two columns and hi's share of them.
fn shares(output: &Output, header: &str, names: &[&str]) {
    assert!(output.status.success(), "{output:?}");
    let mut lines = text(&output.stdout).lines().skip_while(|line| !line.contains(header)).skip(1);
    for (index, name) in names.iter().enumerate() {
        let line = lines.next().expect("a line per server");
        let before = line.split(name).next().filter(|before| before.len() < line.len());
        let numbers = numbers(before.unwrap_or_else(|| panic!("{name} is missing: {line}")));
        assert!(numbers.iter().all(|number| *number > 0.0), "{line}");
        match index {
            0 => assert_eq!(numbers[2..], [1.0; 2], "{line}"),
            _ => assert_eq!(numbers.len(), 2 + 2 * 3, "{line}"),
        }
    }
}

#[test]
fn connections_are_measured_one_by_one() {
    let another = format!("again={} --serve tokio", figures().display());
    let mut command = Command::new(figures());
    command.args(SHORT).args(["--connects", "--other", &another]);
    shares(&run(command), "handshake us", &["hi", "accept4", "tokio, hyper", "again"]);
}

#[test]
fn two_shards_are_measured_until_the_last_member_has_the_message() {
    let mut command = Command::new(figures());
    command.args(SHORT).arg("--shards");
    let output = run(command);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<_> = text(&output.stdout).lines().skip_while(|line| !line.contains("median")).collect();
    assert!(lines[1].ends_with("hi with two shards") && lines[2].ends_with("hi"), "{lines:#?}");
    for line in &lines[1..3] {
        let [median, p90, ..] = numbers(line)[..] else { panic!("{line}") };
        // A time on another clock, or one read after the readers' sleep, would be larger.
        assert!(0.0 < median && median <= p90 && median < 60.0, "{line}");
    }
    assert!(lines.iter().any(|line| line.contains("hi with two shards: CPU")), "{lines:#?}");
}

/// The core and the CPU time of each thread of a process that runs only while no one else wants its core.
fn spinning(process: u32) -> Vec<(String, u64)> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|thread| thread.unwrap().path());
    // The policy is the 41st field of proc_pid_stat(5), the 39th after the name in parentheses.
    let is_idle = |thread: &PathBuf| {
        let stat = fs::read_to_string(thread.join("stat")).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(38) == Some("5")
    };
    let cost = |thread: PathBuf| {
        let status = fs::read_to_string(thread.join("status")).unwrap();
        let core = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        let nanoseconds = fs::read_to_string(thread.join("schedstat")).unwrap();
        (core.trim().to_owned(), nanoseconds.split(' ').next().unwrap().parse().unwrap())
    };
    let mut all: Vec<_> = threads.filter(is_idle).map(cost).collect();
    all.sort();
    all
}

#[test]
fn no_core_halts_while_figures_keeps_them_awake() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = Command::new(figures());
        command.args(SHORT).args(["--only", "hi,tokio", "--awake", "--rounds", "1000"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // Read from until the end: figures doesn't survive a pipe that is closed.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("(--awake)")));
        let before = spinning(child.id());
        let cores: Vec<_> = before.iter().map(|(core, _)| core.clone()).collect();
        let mut expected: Vec<_> = hi::os::allowed_cores().unwrap().iter().map(usize::to_string).collect();
        expected.sort();
        assert_eq!(cores, expected);
        let deadline = Instant::now() + PATIENCE;
        while spinning(child.id()).iter().zip(&before).any(|(now, before)| now.1 <= before.1) {
            assert!(Instant::now() < deadline, "a thread doesn't spin: {before:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal.as_raw()));
        drop(lines);
    }
}

#[test]
fn a_panic_ends_a_run_that_keeps_cores_awake() {
    let mut command = Command::new(figures());
    command.args(SHORT).args(["--only", "tokio", "--awake", "--other", &broken()]);
    let output = run(command);
    assert!(!output.status.success() && text(&output.stderr).contains("panicked"), "{output:?}");
}

/// A server for `--other` that sends nothing of what it should.
fn broken() -> String {
    format!("broken={} --serve send --members 4", figures().display())
}

#[test]
fn a_server_that_alters_messages_gets_no_figures() {
    let mut command = Command::new(figures());
    command.args(SHORT).args(["--only", "tokio", "--other", &broken()]);
    let output = run(command);
    assert!(!output.status.success());
    assert!(!text(&output.stdout).contains("CPU us"), "{output:?}");
}

/// The mask of the last core, to which receive work is steered.
fn last_core() -> String {
    format!("{:x}", 1_u64 << hi::os::allowed_cores().unwrap().last().unwrap())
}

#[test]
fn steering_is_on_during_the_run_and_put_back_after_it() {
    let network = Network::new("true");
    network.set_mask("1");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("steering-{}", std::process::id()));
    let witness = format!(
        "witness=sh -c 'cat {} >{}; exec {} --serve tokio'",
        steering::FILE,
        folder.display(),
        figures().display()
    );
    let output = run(network.figures(&["--other", &witness]));
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("the reader's (--steer)"), "{output:?}");
    assert_eq!(fs::read_to_string(&folder).unwrap().trim().trim_start_matches(['0', ',']), last_core());
    assert_eq!(network.mask(), "1");
    fs::remove_file(folder).unwrap();
}

#[test]
fn steering_is_put_back_after_a_panic() {
    let network = Network::new("true");
    network.set_mask("1");
    let output = run(network.figures(&["--other", &broken()]));
    assert!(!output.status.success() && text(&output.stderr).contains("panicked"), "{output:?}");
    assert_eq!(network.mask(), "1");
}

#[test]
fn steering_is_put_back_after_a_signal() {
    let network = Network::new("true");
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        network.set_mask("1");
        let mut command = network.figures(&["--rounds", "1000"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let on = lines.by_ref().map_while(Result::ok).find(|line| line.contains("(--steer)"));
        assert!(on.is_some(), "steering begins");
        assert_eq!(network.mask(), last_core());
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal.as_raw()));
        drop(lines);
        let deadline = Instant::now() + PATIENCE;
        while network.mask() != "1" {
            assert!(Instant::now() < deadline, "the mask is still {} after {signal:?}", network.mask());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn where_steering_is_impossible_one_sentence_says_why() {
    for (prepare, why) in [
        ("mount -o remount,bind,ro /sys", "Read-only file system"),
        ("mount -t tmpfs none /sys", "this kernel has no receive packet steering, or /sys is not mounted"),
    ] {
        let output = run(Network::new(prepare).figures(&[]));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("figures: --steer can't change /sys/class/net/lo/queues/rx-0/rps_cpus: "), "{said}");
        assert!(said.contains(why) && said.trim().lines().count() == 1, "{said}");
    }
}

#[test]
fn a_mask_has_one_bit_in_groups_of_32() {
    let masks = [0, 1, 31, 32, 70].map(steering::mask);
    assert_eq!(masks, ["1", "2", "80000000", "1,00000000", "40,00000000,00000000"]);
}

#[test]
fn the_median_is_in_the_middle() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    assert_eq!(percentile(&[4.0, 1.0, 2.0, 3.0], 50), 3.0);
    assert_eq!(percentile(&[4.0, 1.0, 2.0, 3.0], 99), 4.0);
}

#[test]
fn intervals_are_those_of_the_textbooks() {
    // The lowest rank of the 95 % interval of a median; the highest one lies as far from the other end.
    for (count, rank) in [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (40, 14), (100, 40)] {
        let values: Vec<f64> = (1..=count).map(f64::from).collect();
        let sure = Sure::of(&values);
        assert_eq!((sure.low, sure.high), (f64::from(rank), f64::from(count + 1 - rank)), "{count} values");
    }
}

#[test]
fn ratios_are_those_of_the_same_round() {
    // The machine's speed changes threefold; the ratio stays.
    let (ours, theirs) = ([1.0, 3.0, 2.0], [2.0, 6.0, 4.0]);
    assert_eq!(Sure::of_ratios(&ours, &theirs).to_string(), "0.50 (0.50-0.50)");
    assert_eq!(format!("{:.1}", Sure::of(&[1.0, 9.0, 4.0])), "4.0 (1.0-9.0)");
}

#[test]
fn an_interval_misses_the_median_in_one_of_twenty_cases_at_most() {
    // Far from a normal distribution: most values are small, a few are huge. Their median is 8.
    let mut rng = Rng::with_seed(7);
    for count in [9, 20, 40] {
        let mut misses = 0;
        for _ in 0..4_000 {
            let values: Vec<f64> = (0..count).map(|_| (1.0 - rng.f64()).powi(-3)).collect();
            let sure = Sure::of(&values);
            misses += u32::from(!(sure.low..=sure.high).contains(&8.0));
        }
        assert!((40..=230).contains(&misses), "{misses} of 4,000 intervals of {count} values");
    }
}

/// The order of all turns.
fn order(sides: usize, rounds: usize, seed: u64) -> Vec<usize> {
    let mut order = Vec::new();
    Turns::new((0..sides).collect(), seed).take(rounds, |side| order.push(*side));
    order
}

#[test]
fn everyone_has_one_turn_in_each_round() {
    for round in order(5, 100, 7).chunks(5) {
        let mut round = round.to_vec();
        round.sort_unstable();
        assert_eq!(round, [0, 1, 2, 3, 4]);
    }
}

#[test]
fn a_seed_repeats_the_order_and_another_one_changes_it() {
    assert_eq!(order(4, 50, 7), order(4, 50, 7));
    assert_ne!(order(4, 50, 7), order(4, 50, 8));
}

#[test]
fn every_order_is_about_equally_frequent() {
    let mut orders = BTreeMap::<Vec<usize>, usize>::new();
    for round in order(3, 6_000, 7).chunks(3) {
        *orders.entry(round.to_vec()).or_default() += 1;
    }
    assert_eq!(orders.len(), 6);
    assert!(orders.values().all(|count| (850..1_150).contains(count)), "{orders:?}");
}

#[test]
fn results_stand_in_the_order_of_the_sides_and_of_the_rounds() {
    let results = Turns::new(vec![("a", 0), ("b", 0)], 7).take(3, |(name, count)| {
        *count += 1;
        format!("{name}{count}")
    });
    assert_eq!(results, [["a1", "a2", "a3"], ["b1", "b2", "b3"]]);
}
