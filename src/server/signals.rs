//! The signals that hi listens to, and what each asks for.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use crate::os;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Close all connections in order and end.
    Stop,
    /// Read the options again.
    Reload,
    /// Nothing that hi knows, and no reason to end.
    Nothing,
    /// Nothing, and it is not logged: SIGXFSZ only means that a log file has reached its size limit.
    Silence,
}

/// All of them would end the process without a Close if they were not listened to.
const SIGNALS: [(libc::c_int, &str, Meaning); 8] = [
    (libc::SIGTERM, "SIGTERM", Meaning::Stop),
    (libc::SIGINT, "SIGINT", Meaning::Stop),
    (libc::SIGQUIT, "SIGQUIT", Meaning::Stop),
    // How LXC asks the first process of a container to stop.
    (libc::SIGPWR, "SIGPWR", Meaning::Stop),
    (libc::SIGHUP, "SIGHUP", Meaning::Reload),
    (libc::SIGUSR1, "SIGUSR1", Meaning::Nothing),
    (libc::SIGUSR2, "SIGUSR2", Meaning::Nothing),
    (libc::SIGXFSZ, "SIGXFSZ", Meaning::Silence),
];

/// Blocks the signals until they are listened to, or released. A signal that arrives before this, between execve(2) and
/// `main`, does what the system has it do: it ends the process, or is lost where hi is the first process of its PID
/// namespace (pid_namespaces(7)). No program can prevent that; container runtimes repeat the signal, or kill.
pub fn hold() {
    os::hold_signals(&SIGNALS.map(|(number, ..)| number), true);
}

/// Unblocks the signals. Those that are not listened to do what the system has them do.
pub fn release() {
    os::hold_signals(&SIGNALS.map(|(number, ..)| number), false);
}

/// The signals that hi listens to.
#[derive(Debug)]
pub(crate) struct Signals(Vec<(Signal, &'static str, Meaning)>);

impl Signals {
    /// Listens to them, and returns the runtime of the calling thread that hears them. Signals that were held come first.
    ///
    /// # Errors
    /// The kernel refuses the runtime or a handler.
    pub(crate) fn listen() -> io::Result<(Runtime, Self)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            let listen = |(number, name, request)| Ok((signal(SignalKind::from_raw(number))?, name, request));
            SIGNALS.into_iter().map(listen).collect::<io::Result<_>>()?
        };
        release();
        Ok((runtime, Self(signals)))
    }

    /// Waits for a signal that asks hi to stop, while it starts or stops. The others are answered in the log.
    pub(crate) async fn stop(&mut self) {
        while !self.asked_to_stop().await {
            info!("the options are not read again while hi starts or stops");
        }
    }

    /// Waits for a signal that asks hi to stop (true), or to read its options again. The others are answered in the log.
    pub(crate) async fn asked_to_stop(&mut self) -> bool {
        loop {
            match self.next().await {
                (_, Meaning::Stop) => return true,
                (name, Meaning::Reload) => {
                    info!("{name}: reading the options again");
                    return false;
                }
                (name, Meaning::Nothing) => info!("{name}: ignored, it means nothing to hi"),
                (_, Meaning::Silence) => {}
            }
        }
    }

    async fn next(&mut self) -> (&'static str, Meaning) {
        poll_fn(|context| {
            let arrived = self
                .0
                .iter_mut()
                .find_map(|(signal, name, request)| signal.poll_recv(context).is_ready().then_some((*name, *request)));
            arrived.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
