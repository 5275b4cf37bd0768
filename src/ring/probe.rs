//! Checks at start what hi needs from the kernel. If something is missing, one sentence says what, why, and how to fix it.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::control::{Stream, control_ring};
use super::{Completion, DataRing, OpenRing, Receive, Ring, RingError, Slices, Socket};
use crate::os;

/// The oldest kernel that has everything: deferred task work came last.
pub(crate) const KERNEL_MIN: (u32, u32) = (6, 1);
/// Time within which every operation has to complete.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// The tokens of the sockets.
const RECEIVING: u32 = 0;
const SENDING: u32 = 1;
const GATHERING: u32 = 2;

/// The kernel that has passed the check.
#[derive(Debug)]
pub struct Kernel {
    /// The output of `uname -r`.
    pub release: String,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let release = &self.release;
        write!(
            f,
            "Linux {release} with io_uring: deferred task work, provided buffers, multishot receive, batched sends"
        )
    }
}

/// Tries every operation that the two rings use.
///
/// # Errors
/// A sentence for the operator: what is missing, the likely cause, and the fix.
pub fn try_kernel() -> Result<Kernel, String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    // On a separate thread: a ring belongs to the thread that made it.
    let tried = std::thread::spawn(|| try_control_ring().and_then(|()| try_data_ring()));
    match tried.join().expect("the check of the kernel doesn't panic") {
        Ok(()) => Ok(Kernel { release }),
        Err(refused) => Err(explain(&refused, &release)),
    }
}

/// Tries the operations of the data ring, on a pair of sockets.
fn try_data_ring() -> Result<(), RingError> {
    let step = |operation| move |error| RingError { operation, error };
    let wake_up = os::new_eventfd().map_err(step("eventfd"))?;
    let mut ring = Ring::open(2, wake_up)?;
    let (ours, theirs) = UnixStream::pair().map_err(step("socketpair"))?;
    let hello = || Bytes::from_static(b"hi").into();
    let again = ours.try_clone().map_err(step("dup"))?;
    let sockets = [theirs, ours, again].map(|socket| Socket::Accepted(socket.into()));
    (RECEIVING..).zip(sockets).for_each(|(token, socket)| ring.adopt(token, socket));
    ring.receive(RECEIVING, Receive::All);
    ring.send(SENDING, Slices::One(hello()));
    ring.send(GATHERING, Slices::Many(vec![hello(), hello()]));
    ring.await_writable(GATHERING);
    let began = Instant::now();
    let (mut waiting, mut received) = (vec!["a multishot receive", "a send", "a send of several parts", "a poll"], 0);
    while !waiting.is_empty() {
        ring.submit().map_err(step("io_uring_enter"))?;
        match ring.next() {
            Some(Completion::Received { result, .. }) => {
                received += result.map_err(step("a multishot receive"))?.map_or(0, |buffer| buffer.len());
                if received == 6 {
                    waiting.retain(|operation| *operation != "a multishot receive");
                }
            }
            Some(Completion::Sent { token, result, .. }) => {
                let operation = if token == SENDING { "a send" } else { "a send of several parts" };
                result.map_err(step(operation))?;
                waiting.retain(|waiting| *waiting != operation);
            }
            Some(Completion::Writable { .. }) => waiting.retain(|operation| *operation != "a poll"),
            None if began.elapsed() > ANSWER_TIME_MAX => {
                return Err(RingError { operation: waiting[0], error: io::ErrorKind::TimedOut.into() });
            }
            None => std::thread::yield_now(),
        }
    }
    Ok(())
}

/// Tries the operations of the control ring: a read and a write.
fn try_control_ring() -> Result<(), RingError> {
    let step = |operation| move |error| RingError { operation, error };
    // tokio-uring panics where there is no io_uring at all, so that is tried first.
    Ring::try_plain()?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(step("a listener on 127.0.0.1"))?;
    let address = listener.local_addr().map_err(step("a listener on 127.0.0.1"))?;
    control_ring().start(async move {
        let tried = async {
            let client = std::net::TcpStream::connect(address).map_err(step("a connection to 127.0.0.1"))?;
            let (served, _) = listener.accept().map_err(step("an accept"))?;
            let (served, client) = (Stream::new(served), Stream::new(client));
            served.write_all(Bytes::from_static(b"hi")).await.map_err(step("a write"))?;
            client.read(Vec::with_capacity(2)).await.0.map_err(step("a read"))?;
            Ok(())
        };
        let silent = |_| RingError { operation: "a read or a write", error: io::ErrorKind::TimedOut.into() };
        tokio::time::timeout(ANSWER_TIME_MAX, tried).await.map_err(silent)?
    })
}

/// Explains a refusal: the likely cause, and the fix.
fn explain(refused: &RingError, release: &str) -> String {
    let RingError { operation, error } = refused;
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    explain_with(operation, error, release, disabled.trim())
}

fn explain_with(operation: &str, error: &io::Error, release: &str, disabled: &str) -> String {
    let (major, minor) = KERNEL_MIN;
    let why = match error.raw_os_error() {
        _ if kernel_version(release).is_some_and(|version| version < KERNEL_MIN) => {
            format!("this kernel is {release}, and hi needs {major}.{minor} or newer: boot a newer one")
        }
        Some(libc::EPERM | libc::EACCES) if disabled == "2" || disabled == "1" => {
            format!("kernel.io_uring_disabled is {disabled}: set it with `sysctl -w kernel.io_uring_disabled=0`")
        }
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => "the likely cause is the seccomp profile of a container \
             (Docker's default one forbids io_uring): run it with `--security-opt seccomp=unconfined`, or with a \
             profile that allows io_uring_setup, io_uring_enter and io_uring_register"
            .to_owned(),
        Some(libc::ENOMEM) => "the likely cause is the limit of locked memory, or of the container's memory: raise it \
             with `ulimit -l unlimited`, LimitMEMLOCK=infinity in systemd, or --ulimit memlock=-1 in Docker"
            .to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => {
            "there are no file descriptors left: raise the limit with `ulimit -n`, or LimitNOFILE= in systemd"
                .to_owned()
        }
        _ => format!(
            "this kernel ({release}) doesn't support it; hi needs {major}.{minor} or newer, with all of io_uring"
        ),
    };
    format!("hi can't run here: the kernel refused {operation} ({error}); {why}.")
}

/// Major and minor version of a release such as `6.1.0-18-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_everything() {
        try_kernel().expect("the tests need a kernel on which hi runs");
    }

    #[test]
    fn each_cause_has_its_fix() {
        let explain = |errno, release, disabled| {
            explain_with("io_uring_setup", &io::Error::from_raw_os_error(errno), release, disabled)
        };
        assert!(explain(libc::EPERM, "6.8.0-31-generic", "2").contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(explain(libc::EPERM, "6.8.0", "0").contains("seccomp"));
        assert!(explain(libc::ENOSYS, "6.8.0", "").contains("seccomp"));
        assert!(explain(libc::ENOMEM, "6.8.0", "0").contains("ulimit -l"));
        assert!(explain(libc::EINVAL, "5.15.0-91-generic", "").contains("this kernel is 5.15.0-91-generic"));
        assert!(explain(libc::EPERM, "6.8.0", "0").contains("io_uring_setup"));
    }
}
