//! The figures of the README, measured side by side in one run: `cargo bench --bench figures`.
//!
//! One core serves, the other reads. In turn, round after round, the same members get the same messages at the same
//! rate from (a) hi, one shard, as a whole: receive, decode, order, log, send; (b) a loop of `send(2)`; (c) a bare
//! io_uring batch, the floor. What is compared is the CPU time of the serving process per delivery (schedstat: what the
//! scheduler counted in nanoseconds, kernel work included). Every delivery is checked: each member must have got each
//! byte of each frame in order, or the run fails.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::time::Timespec;

const PAYLOAD_BYTES: usize = 128;
const FRAME_BYTES: usize = PAYLOAD_BYTES + 4;

/// What to measure, from the command line: `--members`, `--rate`, `--seconds`, `--rounds`.
struct Plan {
    members: usize,
    per_second: u32,
    seconds: u32,
    rounds: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(server) = value(&args, "--bare") {
        return bare_server(&server, number(&args, "--members", 1000));
    }
    hi::os::raise_file_limit().expect("the file limit can be raised to the hard limit");
    let plan = Plan {
        members: number(&args, "--members", 1000),
        per_second: number(&args, "--rate", 100) as u32,
        seconds: number(&args, "--seconds", 5) as u32,
        rounds: number(&args, "--rounds", 5),
    };
    fan_out(&plan);
    idle_memory();
}

fn value(args: &[String], name: &str) -> Option<String> {
    args.iter().position(|arg| arg == name).and_then(|index| args.get(index + 1)).cloned()
}

fn number(args: &[String], name: &str, default: usize) -> usize {
    value(args, name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} takes a number")))
}

/// CPU time per delivery of each server, and the ratios.
fn fan_out(plan: &Plan) {
    let deliveries = plan.members as u64 * u64::from(plan.per_second * plan.seconds);
    println!(
        "{} members, {} messages/s of {PAYLOAD_BYTES} bytes, {} rounds of {} s, {deliveries} deliveries each",
        plan.members, plan.per_second, plan.rounds, plan.seconds
    );
    let servers = ["hi", "send", "io_uring"];
    let mut cost: Vec<Vec<f64>> = vec![Vec::new(); servers.len()];
    for round in 1..=plan.rounds {
        for (index, server) in servers.iter().enumerate() {
            let cpu = measure(server, plan);
            let each = cpu.as_secs_f64() * 1e6 / deliveries as f64;
            cost[index].push(each);
            println!("round {round}: {server:<8} {each:6.3} us of CPU per delivery");
        }
    }
    for (index, base) in [(1, "the loop of send(2)"), (2, "the bare io_uring batch")] {
        let ratios = cost[0].iter().zip(&cost[index]).map(|(ours, theirs)| ours / theirs).collect();
        println!("hi against {base}: {:.2} (median of the rounds' ratios)", median(ratios));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One server's CPU time for the deliveries of one round.
fn measure(server: &str, plan: &Plan) -> Duration {
    let (child, address) = if server == "hi" { start_hi(&["--shards", "1"]) } else { start_bare(server, plan.members) };
    let child = Guard(child);
    // The serving thread is pinned to the first core; the children have started, so only we move.
    hi::os::pin_to_core(*hi::os::allowed_cores().unwrap().last().unwrap()).unwrap();
    let path = if server == "hi" { Some("/raw/figures") } else { None };
    let mut members = Members::connect(address, path, plan.members);
    let mut publisher = match path {
        Some(path) => open(address, Some(&format!("{path}?echo=0"))),
        None => TcpStream::connect(address).expect("the server accepts the control connection"),
    };
    // One message to warm up, and to know that everyone is in.
    publish(&mut publisher, server == "hi", 0);
    members.read_until(FRAME_BYTES as u64);
    let before = cpu_time(child.0.id());
    let began = Instant::now();
    let messages = plan.per_second * plan.seconds;
    for message in 1..=messages {
        let due = began + Duration::from_secs(1) * message / plan.per_second;
        members.read_while(due);
        publish(&mut publisher, server == "hi", message);
    }
    members.read_until(FRAME_BYTES as u64 * u64::from(messages + 1));
    let spent = cpu_time(child.0.id()) - before;
    allow_all_cores();
    spent
}

fn allow_all_cores() {
    hi::os::allow_cores(&ALL_CORES).expect("our own cores");
}

static ALL_CORES: std::sync::LazyLock<Vec<usize>> =
    std::sync::LazyLock::new(|| hi::os::allowed_cores().expect("the kernel tells"));

/// Resident bytes per idle connection: 9,000 against 1,000.
fn idle_memory() {
    let (child, address) = start_hi(&["--shards", "1"]);
    let child = Guard(child);
    let mut held: Vec<TcpStream> = Vec::new();
    let mut resident = |count: usize| {
        while held.len() < count {
            held.push(open(address, Some("/raw/idle")));
        }
        // A round trip through each shard: what was asked for before is done.
        let mut last = open(address, Some("/raw/other"));
        last.write_all(&masked(b"done")).unwrap();
        last.read_exact(&mut [0; 6]).unwrap();
        resident_bytes(child.0.id())
    };
    let few = resident(1000);
    let many = resident(9000);
    println!("idle connections: {} bytes of resident memory each (9,000 against 1,000)", (many - few) / 8000);
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_hi(args: &[&str]) -> (Child, SocketAddr) {
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

fn start_bare(server: &str, members: usize) -> (Child, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--bare", server, "--members", &members.to_string()]).stdout(Stdio::piped());
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

/// A connection, upgraded if there is a path.
fn open(address: SocketAddr, path: Option<&str>) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).unwrap();
    if let Some(path) = path {
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the server answers the handshake");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    }
    stream
}

/// A masked text frame, the mask being zero.
fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The message's number, over and over.
fn payload(message: u32) -> [u8; PAYLOAD_BYTES] {
    let text = format!("{message:08}");
    std::array::from_fn(|index| text.as_bytes()[index % 8])
}

fn publish(publisher: &mut TcpStream, framed: bool, message: u32) {
    let bytes = if framed { masked(&payload(message)) } else { message.to_be_bytes().to_vec() };
    publisher.write_all(&bytes).expect("the server takes the message");
}

/// The reading side: one epoll loop, every byte checked.
struct Members {
    streams: Vec<TcpStream>,
    read: Vec<u64>,
    total: u64,
    epoll: rustix::fd::OwnedFd,
    expected: Vec<[u8; FRAME_BYTES]>,
}

impl Members {
    fn connect(address: SocketAddr, path: Option<&str>, count: usize) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let streams: Vec<_> = (0..count).map(|_| open(address, path)).collect();
        for (index, stream) in streams.iter().enumerate() {
            stream.set_nonblocking(true).unwrap();
            epoll::add(&epoll, stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN).unwrap();
        }
        Self { read: vec![0; count], streams, total: 0, epoll, expected: Vec::new() }
    }

    fn frame(&mut self, message: usize) -> &[u8; FRAME_BYTES] {
        while self.expected.len() <= message {
            let mut frame = [0; FRAME_BYTES];
            frame[0] = 0x81;
            frame[1] = 126;
            frame[2..4].copy_from_slice(&(PAYLOAD_BYTES as u16).to_be_bytes());
            frame[4..].copy_from_slice(&payload(self.expected.len() as u32));
            self.expected.push(frame);
        }
        &self.expected[message]
    }

    fn read_while(&mut self, until: Instant) {
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.poll(left);
        }
    }

    fn read_until(&mut self, bytes_each: u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.total < bytes_each * self.streams.len() as u64 {
            assert!(Instant::now() < deadline, "deliveries are missing");
            self.poll(Duration::from_millis(100));
        }
        assert!(self.read.iter().all(|read| *read == bytes_each), "a member got more, another less");
    }

    fn poll(&mut self, timeout: Duration) {
        let mut events = Vec::with_capacity(1024);
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        let mut buffer = [0; 16 * 1024];
        for event in events {
            let index = event.data.u64() as usize;
            match self.streams[index].read(&mut buffer) {
                Ok(0) => panic!("the server closed member {index}"),
                Ok(count) => self.check(index, &buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("member {index}: {error}"),
            }
        }
    }

    fn check(&mut self, index: usize, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            let read = self.read[index];
            let (message, offset) = ((read / FRAME_BYTES as u64) as usize, (read % FRAME_BYTES as u64) as usize);
            if offset == 0 && matches!(first, 0x89 | 0) {
                // The two bytes of a ping.
                bytes = &bytes[1..];
                continue;
            }
            let frame = self.frame(message);
            let count = bytes.len().min(FRAME_BYTES - offset);
            assert_eq!(bytes[..count], frame[offset..offset + count], "member {index}, message {message}");
            self.read[index] += count as u64;
            self.total += count as u64;
            bytes = &bytes[count..];
        }
    }
}

/// CPU time of all threads of a process, from what the scheduler counted.
fn cpu_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    let of_task = |task: io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(tasks.map(of_task).sum())
}

fn resident_bytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// The bare servers: they accept the members and a control connection, and for each number that comes through it they
/// send the frame to every member, with nothing around it.
fn bare_server(kind: &str, members: usize) {
    hi::os::raise_file_limit().unwrap();
    hi::os::pin_to_core(hi::os::allowed_cores().unwrap()[0]).unwrap();
    let listener = hi::os::bind_shards(([127, 0, 0, 1], 0).into(), 1).unwrap().pop().unwrap();
    println!("{}", listener.local_addr().unwrap());
    let sockets: Vec<TcpStream> = (0..members).map(|_| accept(&listener)).collect();
    let mut control = accept(&listener);
    let mut batch = (kind == "io_uring").then(|| bare_ring::Batch::new(members));
    let mut message = [0; 4];
    while control.read_exact(&mut message).is_ok() {
        let mut frame = vec![0x81, 126];
        frame.extend((PAYLOAD_BYTES as u16).to_be_bytes());
        frame.extend(payload(u32::from_be_bytes(message)));
        match &mut batch {
            Some(batch) => batch.send(sockets.iter().map(AsRawFd::as_raw_fd), &frame),
            None => {
                for mut socket in &sockets {
                    assert_eq!(socket.write(&frame).expect("send"), frame.len());
                }
            }
        }
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (socket, _) = listener.accept().expect("a member comes");
    socket.set_nodelay(true).unwrap();
    socket
}

/// The floor: one submission for all sends, nothing else.
mod bare_ring {
    use std::os::fd::RawFd;

    use io_uring::{IoUring, opcode, types};

    pub(crate) struct Batch {
        ring: IoUring,
    }

    impl Batch {
        pub(crate) fn new(members: usize) -> Self {
            let entries = members.next_power_of_two() as u32;
            let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries.min(32_768));
            Self { ring: ring.expect("io_uring") }
        }

        #[allow(unsafe_code)]
        pub(crate) fn send(&mut self, sockets: impl Iterator<Item = RawFd>, frame: &[u8]) {
            let mut sent = 0;
            for socket in sockets {
                let entry = opcode::Send::new(types::Fd(socket), frame.as_ptr(), frame.len() as u32)
                    .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                    .build();
                // SAFETY: the frame outlives the call, which waits for every completion below.
                unsafe { self.ring.submission().push(&entry) }.expect("as many entries as members");
                sent += 1;
            }
            self.ring.submit_and_wait(sent).expect("submit");
            for completion in self.ring.completion() {
                assert_eq!(completion.result(), frame.len() as i32, "send");
                sent -= 1;
            }
            assert_eq!(sent, 0, "every send completes");
        }
    }
}
