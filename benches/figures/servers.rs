//! The processes that are measured: how they start, and what they cost.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server that ends with its measurement.
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn start_hi(args: &[&str]) -> (Child, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hi"));
    command
        .args(["--listen", "127.0.0.1:0", "--internal", "off", "--ping-interval", "1h"])
        .args(args)
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("hi starts");
    let line = first_line(child.stderr.as_mut().unwrap());
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("hi says its address");
    (child, address.parse().expect("an address"))
}

pub(crate) fn start_other(server: &str, members: usize, payload_bytes: usize) -> (Child, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--serve", server, "--members", &members.to_string(), "--size", &payload_bytes.to_string()]);
    command.stdout(Stdio::piped());
    let mut child = command.spawn().expect("this program starts again");
    let address = first_line(child.stdout.as_mut().unwrap()).parse().expect("an address");
    (child, address)
}

/// Byte by byte: what comes after the line stays in the pipe.
fn first_line(pipe: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while pipe.read(&mut byte).expect("the server talks") == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("text")
}

/// CPU time of all threads of a process, from what the scheduler counted.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    let of_task = |task: io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(tasks.map(of_task).sum())
}

pub(crate) fn resident_bytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
