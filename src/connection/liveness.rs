//! Whether a peer is still alive: pings, and what has arrived since.
//!
//! Pure: time comes in as ticks of the timer wheel, which are seconds.

/// What is known about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// No ping is unanswered.
    Quiet,
    /// A ping was sent, and nothing has arrived since.
    Pinged {
        /// The tick of the first unanswered ping; others may have followed.
        since_tick: u32,
    },
    /// Something has arrived since the last ping.
    Heard,
}

/// What has to happen when a connection's timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Close the connection: the peer has been silent for too long.
    Silent,
    /// Send a ping, and set the timer to this number of seconds.
    Ping(u32),
    /// Only set the timer to this number of seconds.
    Wait(u32),
}

/// The intervals of pinging, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    /// Seconds between two pings.
    pub interval: u32,
    /// Seconds from an unanswered ping until the connection is closed.
    pub timeout: u32,
}

impl Liveness {
    /// Records that something has arrived: the peer is alive.
    pub(crate) fn heard(&mut self) {
        if matches!(self, Self::Pinged { .. }) {
            *self = Self::Heard;
        }
    }

    /// The process was suspended, and answers to pings may be waiting in the socket: the timeout starts again.
    pub(crate) fn restart_timeout(&mut self, tick: u32) {
        if let Self::Pinged { since_tick } = self {
            *since_tick = tick;
        }
    }

    /// Decides what happens when the connection's timer is due.
    pub(crate) fn due(&mut self, tick: u32, heartbeat: Heartbeat) -> Due {
        let Heartbeat { interval, timeout } = heartbeat;
        let since_tick = match *self {
            Self::Pinged { since_tick } if tick >= since_tick + timeout => return Due::Silent,
            Self::Pinged { since_tick } => since_tick,
            Self::Heard if timeout < interval => {
                *self = Self::Quiet;
                return Due::Wait(interval - timeout);
            }
            Self::Heard | Self::Quiet => tick,
        };
        *self = Self::Pinged { since_tick };
        Due::Ping((since_tick + timeout - tick).min(interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Heartbeat = Heartbeat { interval: 25, timeout: 10 };

    #[test]
    fn a_peer_that_answers_is_pinged_once_an_interval() {
        let mut liveness = Liveness::Quiet;
        let (mut tick, mut pings) = (5, Vec::new());
        while tick < 100 {
            tick += match liveness.due(tick, HEARTBEAT) {
                Due::Ping(seconds) => {
                    pings.push(tick);
                    liveness.heard();
                    seconds
                }
                Due::Wait(seconds) => seconds,
                Due::Silent => panic!("it has answered"),
            };
        }
        assert_eq!(pings, [5, 30, 55, 80]);
    }

    #[test]
    fn a_silent_peer_has_the_timeout_from_its_first_unanswered_ping() {
        let mut liveness = Liveness::Quiet;
        let slow = Heartbeat { interval: 4, timeout: 10 };
        assert_eq!(liveness.due(100, slow), Due::Ping(4));
        assert_eq!(liveness.due(104, slow), Due::Ping(4));
        assert_eq!(liveness.due(108, slow), Due::Ping(2));
        assert_eq!(liveness.due(110, slow), Due::Silent);
        liveness.restart_timeout(110);
        assert_eq!(liveness.due(110, slow), Due::Ping(4));
        liveness.heard();
        assert_eq!(liveness.due(114, slow), Due::Ping(4));
        assert_eq!(liveness, Liveness::Pinged { since_tick: 114 });
    }
}
