//! Chooses at start between io_uring and epoll, by trying them. If io_uring is refused, a sentence says what is missing, why,
//! and how to fix it.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;

use super::control::{self, Stream};
use super::{Backend, Completion, Epoll, OpenRing, Receive, Ring, RingError, Slices, Socket};
use crate::os;

/// The oldest kernel whose io_uring has everything: deferred task work came last.
pub(crate) const KERNEL_MIN: (u32, u32) = (6, 1);
/// Time within which every operation has to complete.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// The tokens of the sockets.
const RECEIVING: u32 = 0;
const SENDING: u32 = 1;
const GATHERING: u32 = 2;

/// Which backend the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Choice {
    /// io_uring, or epoll where that is refused.
    Auto,
    /// io_uring; hi ends where it is refused.
    IoUring,
    /// epoll, whatever else there is.
    Epoll,
}

/// The kernel, and what it is used through.
#[derive(Debug)]
pub struct Kernel {
    /// The output of `uname -r`.
    pub release: String,
    /// What works here, and was wanted.
    pub backend: Backend,
    /// Why the backend is not io_uring though that was wanted: a sentence for the operator, with the cause and the fix.
    pub refused: Option<String>,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { release, backend, .. } = self;
        write!(f, "Linux {release} with {}", backend.as_str())?;
        match backend {
            Backend::IoUring => f.write_str(": deferred task work, provided buffers, multishot receive, batched sends"),
            Backend::Epoll => Ok(()),
        }
    }
}

/// Chooses a backend, and tries every operation that it needs.
///
/// # Errors
/// A sentence for the operator: what is missing, the likely cause, and the fix.
pub fn try_kernel(choice: Choice) -> Result<Kernel, String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let why_not_io_uring = match choice {
        Choice::Epoll => None,
        Choice::Auto | Choice::IoUring => match try_backend::<Ring>() {
            Ok(()) => return Ok(Kernel { release, backend: Backend::IoUring, refused: None }),
            Err(refused) => Some(explain(&refused, &release)),
        },
    };
    if let (Choice::IoUring, Some(why)) = (choice, &why_not_io_uring) {
        return Err(format!("hi can't run here: {why}, or use --backend auto."));
    }
    match try_backend::<Epoll>() {
        Ok(()) => Ok(Kernel { release, backend: Backend::Epoll, refused: why_not_io_uring.as_deref().map(fallback) }),
        Err(RingError { operation, error }) => {
            let io_uring = why_not_io_uring.map_or(String::new(), |why| format!("; io_uring neither: {why}"));
            Err(format!("hi can't run here: the kernel ({release}) refused {operation} ({error}){io_uring}."))
        }
    }
}

/// What hi says when it serves without io_uring though that was wanted.
fn fallback(why: &str) -> String {
    format!(
        "io_uring is not available, so hi uses epoll: all works the same, and a delivery costs up to 25 % more CPU time. The \
         reason: {why}. With --backend epoll hi doesn't try io_uring, nor say this"
    )
}

/// Tries every operation of a backend.
fn try_backend<R: OpenRing>() -> Result<(), RingError> {
    // On a separate thread: a ring belongs to the thread that made it.
    let tried = std::thread::spawn(|| try_control(R::backend()).and_then(|()| try_data_ring::<R>()));
    tried.join().expect("the check of the kernel doesn't panic")
}

/// Tries the operations of the data ring, on a pair of sockets.
fn try_data_ring<R: OpenRing>() -> Result<(), RingError> {
    let step = |operation| move |error| RingError { operation, error };
    let wake_up = os::new_eventfd().map_err(step("eventfd"))?;
    let mut ring = R::open(2, wake_up)?;
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
        ring.submit().and_then(|()| ring.poll()).map_err(step("io_uring_enter"))?;
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

/// Tries the operations of the control side: a read and a write.
fn try_control(backend: Backend) -> Result<(), RingError> {
    let step = |operation| move |error| RingError { operation, error };
    if backend == Backend::IoUring {
        // Says which of the steps is refused, if it is io_uring itself.
        Ring::try_plain()?;
    }
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(step("a listener on 127.0.0.1"))?;
    let address = listener.local_addr().map_err(step("a listener on 127.0.0.1"))?;
    let tried = control::run(backend, async move {
        let tried = async {
            let client = std::net::TcpStream::connect(address).map_err(step("a connection to 127.0.0.1"))?;
            let (served, _) = listener.accept().map_err(step("an accept"))?;
            let served = Stream::new(backend, served.into()).map_err(step("a connection to 127.0.0.1"))?;
            let client = Stream::new(backend, client.into()).map_err(step("a connection to 127.0.0.1"))?;
            served.write_all(Bytes::from_static(b"hi")).await.map_err(step("a write"))?;
            client.read(Vec::with_capacity(2)).await.0.map_err(step("a read"))?;
            Ok(())
        };
        let silent = |_| RingError { operation: "a read or a write", error: io::ErrorKind::TimedOut.into() };
        tokio::time::timeout(ANSWER_TIME_MAX, tried).await.map_err(silent)?
    });
    tried.map_err(step("a runtime"))?
}

/// Explains a refusal of io_uring: the likely cause, and the fix.
fn explain(refused: &RingError, release: &str) -> String {
    let RingError { operation, error } = refused;
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    explain_with(operation, error, release, disabled.trim())
}

fn explain_with(operation: &str, error: &io::Error, release: &str, disabled: &str) -> String {
    let (major, minor) = KERNEL_MIN;
    let why = match error.raw_os_error() {
        _ if kernel_version(release).is_some_and(|version| version < KERNEL_MIN) => {
            format!("this kernel is {release}, and io_uring has what hi needs since {major}.{minor}: boot a newer one")
        }
        Some(libc::EPERM | libc::EACCES) if disabled == "2" || disabled == "1" => {
            format!("kernel.io_uring_disabled is {disabled}: set it with `sysctl -w kernel.io_uring_disabled=0`")
        }
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => "the likely cause is the seccomp profile of a container \
             (Docker's default one forbids io_uring): run it with a profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register, such as `--security-opt seccomp=docs/deploy/seccomp-hi.json` of hi's source"
            .to_owned(),
        Some(libc::ENOMEM) => "the likely cause is the limit of locked memory, or of the container's memory: raise it \
             with `ulimit -l unlimited`, LimitMEMLOCK=infinity in systemd, or --ulimit memlock=-1 in Docker"
            .to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => {
            "there are no file descriptors left: raise the limit with `ulimit -n`, or LimitNOFILE= in systemd"
                .to_owned()
        }
        _ => format!("this kernel ({release}) doesn't support it; hi needs {major}.{minor} or newer, with all of io_uring"),
    };
    format!("the kernel refused {operation} ({error}); {why}")
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
        for (choice, backend) in
            [(Choice::Auto, Backend::IoUring), (Choice::IoUring, Backend::IoUring), (Choice::Epoll, Backend::Epoll)]
        {
            let kernel = try_kernel(choice).expect("the tests need a kernel with io_uring");
            assert_eq!((kernel.backend, kernel.refused), (backend, None));
        }
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
