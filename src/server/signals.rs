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
enum Request {
    /// Close everyone in order and end.
    Stop,
    /// Read the options again.
    Reload,
    /// Nothing that hi knows, but whoever sends it wants no harm.
    Nothing,
    /// Nothing at all, and it is not worth a word: a log file that has reached its limit (SIGXFSZ) is full, no more.
    Silence,
}

/// All of them would end the process without a Close if they were not listened to.
const SIGNALS: [(libc::c_int, &str, Request); 8] = [
    (libc::SIGTERM, "SIGTERM", Request::Stop),
    (libc::SIGINT, "SIGINT", Request::Stop),
    (libc::SIGQUIT, "SIGQUIT", Request::Stop),
    // How LXC asks the first process of a container to stop.
    (libc::SIGPWR, "SIGPWR", Request::Stop),
    (libc::SIGHUP, "SIGHUP", Request::Reload),
    (libc::SIGUSR1, "SIGUSR1", Request::Nothing),
    (libc::SIGUSR2, "SIGUSR2", Request::Nothing),
    (libc::SIGXFSZ, "SIGXFSZ", Request::Silence),
];

/// Has the signals wait until they are listened to, or released.
pub fn hold() {
    os::hold_signals(&SIGNALS.map(|(number, ..)| number), true);
}

/// Lets the signals through that were held: what is not listened to does what the system has it do.
pub fn release() {
    os::hold_signals(&SIGNALS.map(|(number, ..)| number), false);
}

/// The signals, listened to.
#[derive(Debug)]
pub struct Signals(Vec<(Signal, &'static str, Request)>);

impl Signals {
    /// Listens to them, and returns the runtime of the calling thread that hears them. What was held comes first.
    ///
    /// # Errors
    /// The runtime or a handler can't be had.
    pub fn listen() -> io::Result<(Runtime, Self)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            let listen = |(number, name, request)| Ok((signal(SignalKind::from_raw(number))?, name, request));
            SIGNALS.into_iter().map(listen).collect::<io::Result<_>>()?
        };
        release();
        Ok((runtime, Self(signals)))
    }

    /// Waits for a signal that asks hi to stop. The others are answered in the log.
    pub async fn stop(&mut self) {
        loop {
            match self.next().await {
                (_, Request::Stop) => return,
                (name, Request::Reload) => {
                    info!(
                        "{name}: there is nothing to reload; hi reads its options at start only, so restart it instead"
                    );
                }
                (name, Request::Nothing) => info!("{name}: ignored, it means nothing to hi"),
                (_, Request::Silence) => {}
            }
        }
    }

    async fn next(&mut self) -> (&'static str, Request) {
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
