//! What the operating system is asked for outside the data ring: limits, pinning, listeners, wake-ups.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{SocketFlags, acceptfrom_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::address::PeerAddress;
use crate::room::inbox::Wake;

/// Bytes that the kernel takes for one connection beyond what is on its way to the peer (TCP_NOTSENT_LOWAT, tcp(7)).
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// Raises the soft limit of open files to the hard one and returns it.
///
/// # Errors
/// When the kernel refuses; the old limit is then still in force.
pub fn raise_file_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let Some(hard) = limit.maximum else { return Ok(limit.current.unwrap_or(u64::MAX)) };
    if limit.current != Some(hard) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) })?;
    }
    Ok(hard)
}

/// How many files the process may have open.
pub(crate) fn file_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many files the process has open; 0 if the system doesn't say.
pub(crate) fn open_files() -> u64 {
    const FOLDER: &str = "/proc/self/fd";
    // Since Linux 6.2 the size of this folder is the number; before, it is 0, and they have to be counted.
    match std::fs::metadata(FOLDER).map_or(0, |folder| folder.len()) {
        0 => std::fs::read_dir(FOLDER).map_or(0, |files| files.count() as u64),
        count => count,
    }
}

/// Makes the kernel's table of this process's files large enough for `count` of them. It grows by doubling, and once there
/// are several threads, the one that opens a file for which there is no room sleeps until every core has noticed
/// (`expand_fdtable` waits for an RCU grace period): 10 ms, several times in a storm of connections.
pub(crate) fn grow_file_table(count: u64) -> io::Result<()> {
    let last = i32::try_from(count.saturating_sub(1)).unwrap_or(i32::MAX);
    drop(rustix::io::fcntl_dupfd_cloexec(new_eventfd()?, last)?);
    Ok(())
}

/// The cores that this process may use, in order.
///
/// # Errors
/// When the kernel refuses to tell.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    Ok(cores_in(&sched_getaffinity(None)?).collect())
}

/// The cores of a set, in order.
pub(crate) fn cores_in(set: &CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core))
}

/// Pins the calling thread to one core.
///
/// # Errors
/// The core is not one of [`allowed_cores`].
pub fn pin_to_core(core: usize) -> io::Result<()> {
    allow_cores(&[core])
}

/// Lets the calling thread, and the threads and processes that it starts, use these cores only.
///
/// # Errors
/// None of them is available.
pub fn allow_cores(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    Ok(sched_setaffinity(None, &set)?)
}

/// Returns memory that the process has freed to the system. The allocator would keep it for the thread that allocated it,
/// and what one shard has freed would not be there for another.
#[allow(unsafe_code)]
pub(crate) fn return_free_memory() {
    // The GNU C library; others return it by themselves.
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A new eventfd that never blocks.
///
/// # Errors
/// Out of file descriptors.
pub fn new_eventfd() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Checks that `count` more files can be open at the same time.
pub(crate) fn try_files(count: u64) -> io::Result<()> {
    let first = new_eventfd()?;
    let _all = (1..count).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
    Ok(())
}

/// Registers a descriptor with the calling thread's runtime, to wait until it is readable.
#[allow(unsafe_code)]
pub(crate) fn watch_readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open file for as long as it lives, the `AsyncFd` owns it and takes itself out of
    // epoll before it drops it, and nobody takes it out: `into_inner` is the only way, and does the same.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(Into::into)
}

/// Makes an eventfd readable.
pub fn eventfd_signal(eventfd: &impl AsFd) {
    // The only error is a counter at its maximum (EAGAIN): then it is readable already.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

impl From<OwnedFd> for Wake {
    /// Makes an eventfd readable.
    fn from(eventfd: OwnedFd) -> Self {
        Self(Box::new(move || eventfd_signal(&eventfd)))
    }
}

/// Blocks the signals that are about to get handlers, or unblocks them; for the calling thread and those that it starts. A
/// blocked signal waits; one without a handler is lost where the process is the first of its PID namespace
/// (pid_namespaces(7)).
#[allow(unsafe_code)]
pub(crate) fn hold_signals(signals: &[libc::c_int], hold: bool) {
    let how = if hold { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: the set is a plain C struct, for which all-zero is valid, and lives until the calls return.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        // It fails only for a `how` that doesn't exist.
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// A random number from the kernel.
pub(crate) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Binds `address` once for every shard (SO_REUSEPORT: the kernel spreads connections over them). Port 0 takes a free
/// port, the same for all. `ipv6_only`: all IPv6 addresses don't include those of IPv4.
///
/// # Errors
/// The address can't be bound, also because another process listens there: SO_REUSEPORT alone would silently share the port
/// with an older hi.
pub fn bind_shards(address: SocketAddr, ipv6_only: bool, shards: usize) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        bind(address, ipv6_only, false)?.listen(1)?;
    }
    let mut listeners: Vec<TcpListener> = Vec::with_capacity(shards);
    for _ in 0..shards {
        let address = listeners.first().map_or(Ok(address), TcpListener::local_addr)?;
        let socket = bind(address, ipv6_only, true)?;
        // The kernel cuts this to net.core.somaxconn.
        socket.listen(i32::MAX)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// Binds something, and tries again for up to `time_max`, with pauses, while it is in use.
pub(crate) fn retry_while_in_use<T>(
    time_max: Duration,
    pause: Duration,
    mut bind: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let deadline = Instant::now() + time_max;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => thread::sleep(pause),
            outcome => return outcome,
        }
    }
}

/// Binds a socket in the file system, once for all shards: each gets a duplicate. Every program that can reach the file may
/// connect; the permissions of its folder decide which ones can. What a server that has ended left there is replaced.
///
/// # Errors
/// It can't be bound, also because a server listens there (`AddrInUse`), or because something else has that name
/// (`AlreadyExists`).
pub(crate) fn bind_unix(path: &Path, shards: usize) -> io::Result<Vec<OwnedFd>> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        },
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    socket.listen(i32::MAX)?;
    (0..shards).map(|_| Ok(socket.try_clone()?.into())).collect()
}

/// Accepts a connection. An IPv4 peer has its IPv4 address, also where it came in through an IPv6 socket.
///
/// # Errors
/// Those of accept(2); `WouldBlock` when no connection waits.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, PeerAddress)> {
    let (socket, peer) = acceptfrom_with(listener, SocketFlags::CLOEXEC)?;
    let ip = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((socket, ip.map_or(PeerAddress::Unix, |ip| PeerAddress::Ip(canonical(ip)))))
}

/// Whether something waits to be read from a descriptor, or accepted from a listener.
pub(crate) fn is_readable(descriptor: impl AsFd) -> bool {
    let mut asked = [PollFd::new(&descriptor, PollFlags::IN)];
    // An error is found by whoever reads.
    poll(&mut asked, Some(&Timespec::default())) != Ok(0)
}

/// The same address; an IPv4 address that is mapped into IPv6 (`::ffff:192.0.2.1`) as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        // With its scope, which a link-local address needs.
        IpAddr::V6(_) => address,
    }
}

/// Accepts a connection only once it has sent data, or after one second (TCP_DEFER_ACCEPT, tcp(7)): a storm of connections
/// comes in with one wake-up each, and clients that only connect cost neither a descriptor nor memory here.
#[allow(unsafe_code)]
fn defer_accept(socket: &Socket) -> io::Result<()> {
    let seconds: libc::c_int = 1;
    let length = size_of_val(&seconds) as libc::socklen_t;
    // SAFETY: the option takes a `c_int`, which lives until the call returns; the descriptor is the socket's own.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The address of this end of a connection; the IPv4 one also where it came in through an IPv6 socket.
pub(crate) fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(&socket).local_addr()?;
    address.as_socket().map(canonical).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Ends a connection whose peer leaves what was sent unacknowledged, or unread, for this time (TCP_USER_TIMEOUT, tcp(7)).
pub(crate) fn limit_unacknowledged(socket: impl AsFd, time: Duration) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_user_timeout(Some(time))
}

/// Whether the peer of a socket has ended what it says, or is gone; what it said before may still be unread.
#[allow(unsafe_code)]
pub(crate) fn peer_has_ended(socket: RawFd) -> bool {
    let mut asked = libc::pollfd { fd: socket, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one `pollfd`, which lives until the call returns. Whatever the number names is only looked at.
    let answers = unsafe { libc::poll(&raw mut asked, 1, 0) };
    answers > 0 && asked.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

/// All addresses of the machine: dual stack where IPv6 exists, otherwise IPv4.
pub(crate) fn any_address(port: u16) -> SocketAddr {
    match Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()))
    {
        Ok(()) => (Ipv6Addr::UNSPECIFIED, port).into(),
        Err(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
    }
}

fn bind(address: SocketAddr, ipv6_only: bool, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(ipv6_only || !address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    // Small frames must not wait to be merged. Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    defer_accept(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
