//! Calls to the operating system: limits, clocks, processes, sockets.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::event::epoll;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Linux's default range of ephemeral ports, where the system doesn't tell its own.
const PORTS_DEFAULT: usize = 28_232;

/// Raises the soft limit of open files to the hard one. Returns both.
pub fn raise_file_limit() -> (u64, u64) {
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    if soft < hard && setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) }).is_ok() {
        return (hard, hard);
    }
    (soft, hard)
}

/// Makes the kernel's file table of this process large enough for `count` files. With several threads, each doubling of
/// the table puts the connecting thread to sleep for some milliseconds, and its handshake would look that slow.
pub fn grow_file_table(count: u64) {
    let last = i32::try_from(count.saturating_sub(1)).unwrap_or(i32::MAX);
    // On error, the table grows later.
    let _ = epoll::create(epoll::CreateFlags::CLOEXEC).and_then(|file| rustix::io::fcntl_dupfd_cloexec(file, last));
}

/// Width of this terminal in characters, if known.
pub fn terminal_columns(terminal: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    sched_getaffinity(None)
        .map_or_else(|_| vec![0], |set| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Keeps the calling thread, and what it starts, on these cores. Where that fails, the scheduler decides.
pub fn stay_on(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    let _ = sched_setaffinity(None, &set);
}

/// CPU time of the calling thread.
pub fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long the calling thread has waited for a core while it was ready to run; only the scheduler knows.
pub struct CoreWait(Option<File>);

impl CoreWait {
    /// For the calling thread only. Always zero if the kernel has no schedstat.
    pub fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    /// The total since the thread began, in microseconds.
    pub fn total_us(&self) -> u64 {
        let mut bytes = [0; 64];
        let count = self.0.as_ref().and_then(|file| file.read_at(&mut bytes, 0).ok()).unwrap_or(0);
        let text = std::str::from_utf8(&bytes[..count]).unwrap_or_default();
        text.split_ascii_whitespace().nth(1).and_then(|waited_ns| waited_ns.parse().ok()).map_or(0, |ns: u64| ns / 1000)
    }
}

/// CPU time of all threads of a process, as the scheduler counted it in nanoseconds. `None`: it has ended.
pub fn process_cpu_time(pid: u32) -> Option<Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of_task = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Duration::from_nanos(tasks.flatten().filter_map(of_task).sum()))
}

/// Resident memory of a process in bytes. `None`: it has ended.
pub fn process_resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Memory available on the system, in bytes.
pub fn available_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Ends the child when we end, however we end.
#[allow(unsafe_code)]
pub fn end_with_us(command: &mut Command) {
    let ask = || match rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    };
    // SAFETY: between fork and exec, the closure makes one system call, and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// SIGINT and SIGTERM, blocked until someone waits for them.
#[derive(Clone, Copy)]
pub struct EndingSignals(libc::sigset_t);

impl EndingSignals {
    /// Blocks them for the calling thread and those that it starts; child processes get them as usual. `None`: our
    /// parent wants them ignored, as a shell does for background jobs.
    #[allow(unsafe_code)]
    pub fn block() -> Option<Self> {
        let ignored = ignored_signals();
        let wanted = [libc::SIGINT, libc::SIGTERM].into_iter().filter(|signal| ignored & 1 << (signal - 1) == 0);
        let mut set = std::mem::MaybeUninit::uninit();
        let mut some = false;
        // SAFETY: sigemptyset makes the set valid before anything else looks at it; the signals' numbers are valid; and
        // pthread_sigmask only reads the set, and the pointer for the old mask may be null.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in wanted {
                libc::sigaddset(set.as_mut_ptr(), signal);
                some = true;
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            some.then(|| Self(set.assume_init()))
        }
    }

    /// Waits for the next one.
    #[allow(unsafe_code)]
    pub fn wait(&self) -> i32 {
        let mut signal = 0;
        // SAFETY: the set is valid since it was made, and the number outlives the call.
        while unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } != 0 {}
        signal
    }
}

/// One bit for each signal that this process ignores.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Keeps terminal signals from a child: Ctrl-C ends the run, not the server being measured.
pub fn keep_from_terminal(command: &mut Command) {
    command.process_group(0);
}

/// The processor's name.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor").to_owned()
}

/// `uname -sr`.
pub fn kernel() -> String {
    let name = rustix::system::uname();
    format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
}

/// Number of local ports for outgoing connections from one address (`net.ipv4.ip_local_port_range`, for IPv6 too).
pub fn ephemeral_ports() -> usize {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    ports_in(&range).unwrap_or(PORTS_DEFAULT)
}

/// Parses two numbers, both inclusive.
fn ports_in(range: &str) -> Option<usize> {
    let mut ends = range.split_whitespace().map(str::parse::<usize>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first)).filter(|ports| *ports > 0)
}

/// The source address of connection `number`, if it isn't the usual one: when one loopback address runs out of ports,
/// there are others. Some ports of each are in use, or in TIME_WAIT.
pub fn source_address(target: SocketAddr, number: usize, ports: usize) -> Option<Ipv4Addr> {
    let extra = number / (ports * 7 / 8).max(1);
    (has_other_sources(target) && extra > 0)
        .then(|| Ipv4Addr::new(127, (extra / 62_500) as u8, (extra / 250 % 250) as u8, (extra % 250 + 1) as u8))
}

/// Whether connections to this target can come from many source addresses.
pub fn has_other_sources(target: SocketAddr) -> bool {
    target.ip().is_loopback() && target.is_ipv4()
}

/// A socket that is connecting.
///
/// # Errors
/// Out of file descriptors or ports; a refusal comes later, when the socket becomes writable.
pub fn connect(
    target: SocketAddr,
    source: Option<Ipv4Addr>,
    receive_buffer_bytes: Option<usize>,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(bytes) = receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(source) = source {
        bind_address_no_port(&socket)?;
        socket.bind(&SockAddr::from(SocketAddr::from((source, 0))))?;
    }
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Lets the kernel acknowledge every second message when it is read instead of each one, as it does by itself once both
/// sides talk. A message without a successor within about 40 ms is acknowledged by a timer, and after that each one is
/// acknowledged again. Acknowledging is more than half the cost of receiving a small message.
pub fn delay_acknowledgements(socket: &Socket) {
    // Only an optimization: where it isn't possible, nothing else changes.
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, false);
}

/// Lets the kernel choose the port at connect time, so that a port serves many destinations.
#[allow(unsafe_code)]
fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call, and its size is the one given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_sources_spread_when_ports_run_out() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(source_address(loopback, 24_702, 28_232), None);
        assert_eq!(source_address(loopback, 24_703, 28_232), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(source_address(loopback, 249 * 7, 8), Some(Ipv4Addr::new(127, 0, 0, 250)));
        assert_eq!(source_address(loopback, 250 * 7, 8), Some(Ipv4Addr::new(127, 0, 1, 1)));
        assert_eq!(source_address(loopback, 62_500 * 7, 8), Some(Ipv4Addr::new(127, 1, 0, 1)));
        assert_eq!(source_address(loopback, 5, 1), Some(Ipv4Addr::new(127, 0, 0, 6)), "one port is a range, too");
        assert_eq!(source_address(([10, 0, 0, 1], 80).into(), 90_000, 28_232), None);
    }

    #[test]
    fn the_range_of_ports_has_two_ends() {
        assert_eq!(ports_in("32768\t60999\n"), Some(28_232));
        assert_eq!(ports_in("1024 65535"), Some(64_512));
        assert_eq!(ports_in("1000 1000"), Some(1));
        assert_eq!(ports_in("9 8"), None);
        assert_eq!(ports_in(""), None);
        assert!(ephemeral_ports() > 0);
    }

    #[test]
    fn a_bound_source_connects() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let _socket = connect(listener.local_addr().unwrap(), Some(Ipv4Addr::new(127, 0, 0, 2)), None).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), Ipv4Addr::new(127, 0, 0, 2));
    }
}
