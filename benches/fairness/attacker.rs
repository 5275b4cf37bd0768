//! The attacking process: it takes orders from standard input, one per line.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use clap::ValueEnum;

use crate::attacks::Attack;
use crate::gate::Gate;
use crate::priority::yield_to_others;

const READY: &str = "ready";
const GO: &str = "go";
const STOP: &str = "stop";

/// Another process of this program, which attacks on command.
pub(crate) struct Attacker {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Attacker {
    /// Starts it, and waits until it has all its connections.
    pub(crate) fn start(attack: Attack, address: SocketAddr) -> Self {
        let name = attack.to_possible_value().expect("every attack has a name").get_name().to_owned();
        let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
        command.args(["--attack", &name, "--address", &address.to_string()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts again");
        let (orders, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut attacker = Self { process, orders, answers };
        attacker.await_ready();
        attacker
    }

    /// Starts or resumes the attack.
    pub(crate) fn go(&mut self) {
        self.tell(GO);
    }

    /// Pauses the attack.
    pub(crate) fn stop(&mut self) {
        self.tell(STOP);
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the attacker lives");
        self.await_ready();
    }

    fn await_ready(&mut self) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the attacker answers");
        assert_eq!(line.trim_end(), READY, "the attacker failed; see its reason above");
    }
}

/// Connects, and attacks when told to on standard input.
pub(crate) fn obey(attack: Attack, address: SocketAddr) {
    yield_to_others();
    // An attack without one of its threads is no attack.
    let complain = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        complain(panic);
        std::process::exit(1);
    }));
    let gate = Gate::default();
    attack.prepare(address, &gate);
    println!("{READY}");
    for line in std::io::stdin().lines() {
        gate.set(line.expect("standard input is text") == GO);
        println!("{READY}");
    }
}
