//! One WebSocket: a task that connects, reads and writes, and the times by which something has to arrive.

use std::time::{Duration, Instant};

use doctor::client::{Arrival, Incoming, Outgoing, Problem, Site};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Any answer, and a connection with its handshake, has to come within this time.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The answer to a ping, which costs the server nothing.
pub(crate) const PONG_TIME: Duration = Duration::from_secs(8);
/// How long a server may take to answer a Close.
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// Arrivals that are not dealt with. What comes beyond them stays in the socket, and a server notices that.
pub(crate) const ARRIVALS_MAX: usize = 64;
/// The subprotocol.
const HI_V1: &str = "hi.v1";

/// What a link reports.
pub(crate) enum Report {
    Opened,
    /// There is no connection. It is the last report.
    Failed(Problem),
    Came(Arrival),
}

/// What a link is to send.
pub(crate) enum Order {
    Text(String),
    Pong(Vec<u8>),
    Close,
}

/// A connection, from the attempt to its end. Dropping it drops the connection.
pub(crate) struct Link {
    /// Tells its reports from those of earlier links.
    pub(crate) number: u64,
    pub(crate) is_open: bool,
    pub(crate) born: Instant,
    heard: Instant,
    /// Something has to arrive by then.
    due: Option<Instant>,
    orders: mpsc::UnboundedSender<Order>,
    task: JoinHandle<()>,
}

impl Link {
    /// Begins to connect.
    pub(crate) fn start(number: u64, site: Site, path: String, reports: mpsc::Sender<(u64, Report)>) -> Self {
        // Bounded by what a session has without an answer, and by the pings that came.
        let (orders, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            match timeout(2 * ANSWER_TIME, site.websocket(&path, HI_V1)).await {
                Ok(Ok((incoming, outgoing))) => {
                    if reports.send((number, Report::Opened)).await.is_ok() {
                        carry(number, incoming, outgoing, receiver, &reports).await;
                    }
                }
                Ok(Err(problem)) => drop(reports.send((number, Report::Failed(problem))).await),
                Err(_) => {
                    let sentence = "Can't connect: no answer in time.".to_owned();
                    drop(reports.send((number, Report::Failed(Problem { is_refusal: false, sentence }))).await);
                }
            }
        });
        let now = Instant::now();
        Self { number, is_open: false, born: now, heard: now, due: None, orders, task }
    }

    /// Sends something, as far as the connection lives.
    pub(crate) fn send(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// Something arrived.
    pub(crate) fn hear(&mut self, now: Instant) {
        (self.heard, self.due) = (now, None);
    }

    /// Something has to arrive within this time.
    pub(crate) fn expect(&mut self, now: Instant, time: Duration) {
        let due = now + time;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Whether what was due has not come.
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Whether the other side has been silent for so long that it should be asked for a sign.
    pub(crate) fn is_silent(&self, now: Instant, silence: Duration) -> bool {
        self.is_open && self.due.is_none() && self.heard + silence <= now
    }

    /// When to look again.
    pub(crate) fn wake(&self, silence: Duration) -> Option<Instant> {
        self.due.or(self.is_open.then(|| self.heard + silence))
    }

    /// Closes in order.
    pub(crate) async fn close(mut self) {
        self.send(Order::Close);
        let _ = timeout(CLOSE_TIME, &mut self.task).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    number: u64,
    mut incoming: Incoming,
    mut outgoing: Outgoing,
    mut orders: mpsc::UnboundedReceiver<Order>,
    reports: &mpsc::Sender<(u64, Report)>,
) {
    let write = async {
        while let Some(order) = orders.recv().await {
            let written = match order {
                Order::Text(text) => outgoing.text(text).await,
                Order::Pong(payload) => outgoing.pong(payload).await,
                Order::Close => outgoing.close().await,
            };
            if !written {
                break;
            }
        }
        // The reading half sees the end.
        std::future::pending::<()>().await;
    };
    let read = async {
        loop {
            let arrival = incoming.next().await;
            let is_last = matches!(arrival, Arrival::Close(..) | Arrival::Lost(_));
            if reports.send((number, Report::Came(arrival))).await.is_err() || is_last {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
