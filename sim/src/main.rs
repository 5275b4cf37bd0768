fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let seed: u64 = arguments.get(1).map_or(1, |seed| seed.parse().expect("a seed"));
    let count: u64 = arguments.get(2).map_or(1, |count| count.parse().expect("a count"));
    for seed in seed..seed + count {
        println!("{seed} {}", sim::run(seed, sim::STEPS, arguments.len() == 2));
    }
}
