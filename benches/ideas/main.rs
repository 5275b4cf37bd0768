//! Ways to hand the kernel the same sends, compared: `cargo bench --bench ideas`.
//!
//! One thread sends, and another one reads on another core. The same sockets get one message after the other, each sent
//! in another way, in an order shuffled every round, so that drift of the machine affects all ways alike. The figure is
//! CPU time of the sending thread per delivery (`CLOCK_THREAD_CPUTIME_ID`, including the kernel's work for it), and its
//! ratio to the first way in the table: the median of the rounds' ratios with its 95 % interval. Results:
//! docs/performance.md.
//!
//! `cargo bench --bench ideas -- [sends|order|sizes|several|wake-ups|counts]... [--members 1000] [--rounds 300] [--seed 1]`

mod members;
mod sends;
#[path = "../figures/statistics.rs"]
#[allow(dead_code, reason = "percentiles are for latencies")]
mod statistics;
#[path = "../figures/turns.rs"]
mod turns;
mod wake_ups;

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use members::{BYTE, Members};
use sends::{FLOOR, Message, Operation, Order, Way, Ways};
use statistics::{Sure, median};
use turns::Turns;

/// Time between two messages, per member: 100,000 deliveries per second, as in the figures.
const PERIOD_PER_MEMBER: Duration = Duration::from_micros(10);
/// A chat message with its header.
const FRAME_BYTES: usize = 130;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| -> usize {
        let value = args.iter().position(|arg| arg == name).and_then(|index| args.get(index + 1));
        value.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} needs a number")))
    };
    let (members, rounds) = (number("--members", 1000), number("--rounds", 300));
    let seed = number("--seed", 1) as u64;
    let groups = ["sends", "order", "sizes", "several", "wake-ups", "counts"];
    let chosen =
        |group: &str| args.iter().any(|arg| arg == group) || !args.iter().any(|arg| groups.contains(&&arg[..]));
    hi::os::raise_file_limit().expect("the file limit can be raised to the hard limit");
    let cores = hi::os::allowed_cores().expect("the kernel reports the cores");
    assert!(cores.len() > 1, "this needs two cores: one sends, the other one reads");
    hi::os::pin_to_core(cores[0]).expect("our own core");
    let last = *cores.last().expect("there are two");
    if chosen("sends") {
        compare("sends", &ways_to_send(), members, Message { frames: 1, frame_bytes: FRAME_BYTES }, rounds, seed, last);
    }
    if chosen("order") {
        compare("order", &orders(), members, Message { frames: 1, frame_bytes: FRAME_BYTES }, rounds, seed, last);
    }
    if chosen("sizes") {
        for frame_bytes in [1 << 10, 16 << 10, 64 << 10, 256 << 10] {
            let rounds = rounds.min((64 << 20) / frame_bytes / 4);
            compare("sizes", &zero_copy(), members.min(100), Message { frames: 1, frame_bytes }, rounds, seed, last);
        }
    }
    if chosen("several") {
        compare(
            "several",
            &ways_for_several(),
            members,
            Message { frames: 8, frame_bytes: FRAME_BYTES },
            rounds,
            seed,
            last,
        );
    }
    if chosen("wake-ups") {
        wake_ups::compare(rounds, last);
    }
    if chosen("counts") {
        reference_counts(rounds);
    }
}

fn ways_to_send() -> Vec<(&'static str, Way)> {
    let dont_wait = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let skip = Way { flags: dont_wait | libc::MSG_WAITALL, skip_success: true, ..FLOOR };
    vec![
        ("one io_uring batch, MSG_WAITALL: the floor", FLOOR),
        ("a loop of send(2)", Way { operation: Operation::SystemCall, ..FLOOR }),
        ("MSG_DONTWAIT, as hi sends", Way { flags: dont_wait, ..FLOOR }),
        ("registered files", Way { registered_files: true, ..FLOOR }),
        ("SKIP_SUCCESS, MSG_DONTWAIT | MSG_WAITALL", skip),
        ("SKIP_SUCCESS and registered files", Way { registered_files: true, ..skip }),
        ("slices of 256", Way { slice: 256, ..FLOOR }),
        ("slices of 32", Way { slice: 32, ..FLOOR }),
        ("IORING_OP_SENDMSG", Way { operation: Operation::SendMsg, ..FLOOR }),
        ("IORING_OP_WRITE", Way { operation: Operation::Write, ..FLOOR }),
        ("IORING_OP_SEND_ZC", Way { operation: Operation::SendZc, ..FLOOR }),
        ("no DEFER_TASKRUN", Way { defer_taskrun: false, ..FLOOR }),
    ]
}

fn orders() -> Vec<(&'static str, Way)> {
    vec![
        ("in the order of accepting: the floor", FLOOR),
        ("shuffled once", Way { order: Order::Shuffled, ..FLOOR }),
        ("in reverse order of accepting", Way { order: Order::Backwards, ..FLOOR }),
    ]
}

fn zero_copy() -> Vec<(&'static str, Way)> {
    vec![("IORING_OP_SEND", FLOOR), ("IORING_OP_SEND_ZC", Way { operation: Operation::SendZc, ..FLOOR })]
}

fn ways_for_several() -> Vec<(&'static str, Way)> {
    vec![
        ("one send of contiguous frames, as the log keeps them", FLOOR),
        ("one sendmsg with a vector entry per frame", Way { operation: Operation::SendMsg, ..FLOOR }),
        ("linked sends, one per frame", Way { operation: Operation::Linked, ..FLOOR }),
    ]
}

/// One table.
fn compare(
    group: &str,
    ways: &[(&'static str, Way)],
    members: usize,
    message: Message,
    rounds: usize,
    seed: u64,
    reading_core: usize,
) {
    let Message { frames, frame_bytes } = message;
    println!("\n{group}: {members} members, {frames} x {frame_bytes} bytes, {rounds} rounds, seed {seed}");
    let members = Members::connect(members, reading_core);
    let mut all = Ways::new(ways, members.sending(), message, seed);
    // The first round is a warm-up that uses every ring and socket once.
    let mut costs = Turns::new((0..ways.len()).collect(), seed).take(rounds + 1, |way| {
        let due = Instant::now() + PERIOD_PER_MEMBER * members.len() as u32;
        let before = cpu_time();
        all.send(*way);
        let spent = cpu_time() - before;
        members.wait_for_all(message.bytes());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        spent.as_secs_f64() * 1e6 / members.len() as f64
    });
    costs.iter_mut().for_each(|costs| _ = costs.remove(0));
    let names: Vec<_> = ways.iter().map(|(name, _)| *name).collect();
    print_costs(&names, &costs);
}

/// The time of each way, and its ratio to the first one.
fn print_costs(names: &[&str], costs: &[Vec<f64>]) {
    println!("{:>8}   ratio", "CPU us");
    for (name, of_way) in names.iter().zip(costs) {
        println!("{:8.3}   {:.3}   {name}", median(of_way), Sure::of_ratios(of_way, &costs[0]));
    }
}

/// The cost of cloning and dropping a reference to shared bytes, which happens once per send.
fn reference_counts(rounds: usize) {
    const PAIRS: u32 = 100_000;
    println!("\ncounts: a clone and its drop, ns, {rounds} rounds");
    let (atomic, plain) = (Arc::<[u8]>::from([BYTE; 64]), Rc::<[u8]>::from([BYTE; 64]));
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let began = Instant::now();
        (0..PAIRS).for_each(|_| drop(black_box(Arc::clone(black_box(&atomic)))));
        let middle = Instant::now();
        (0..PAIRS).for_each(|_| drop(black_box(Rc::clone(black_box(&plain)))));
        let end = Instant::now();
        for (costs, time) in costs.iter_mut().zip([middle - began, end - middle]) {
            costs.push(time.as_secs_f64() * 1e9 / f64::from(PAIRS));
        }
    }
    for (name, costs) in ["Arc", "Rc"].iter().zip(&costs) {
        println!("{:8.2}   {name}", median(costs));
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
