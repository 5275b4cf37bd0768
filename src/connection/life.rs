//! A connection's life, from the end of its handshake to the release of its socket, and what the ring holds for it.
//!
//! Each function that changes the state asserts which states it may follow. What the shard does on the way is in
//! `shard/hub/life.rs`.

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Messages go both ways.
    Open,
    /// Our Close is queued, or sent. Input is read only to find the peer's Close.
    Closing,
    /// The peer's Close has arrived, and ours is queued. Once it has left, the connection ends.
    Answering,
    /// The peer has violated the protocol, or this is an event stream. Once our Close has left, only our side of the socket is
    /// shut down, and input is discarded until the peer ends, so that no reset destroys the Close.
    Lingering,
    /// The socket is shut down. It is released as soon as the ring holds nothing for it.
    Ended,
}

/// What the ring does with the sending side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// Nothing: a send may be started.
    Free,
    /// A send is in flight.
    Sending,
    /// The socket is full, and waited for.
    AwaitingWritable,
}

/// The state of a connection, and which operations the ring holds for it.
#[derive(Debug)]
pub(crate) struct Life {
    state: State,
    receiving: bool,
    output: Output,
    peer_ended: bool,
}

impl Life {
    /// A connection begins open, with nothing in the ring.
    pub(crate) fn begin() -> Self {
        Self { state: State::Open, receiving: false, output: Output::Free, peer_ended: false }
    }

    /// The state that the last transition led to.
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether messages go both ways.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether its socket is shut down.
    pub(crate) fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether its input is still read: for messages, or only for the answer to our Close.
    pub(crate) fn reads_input(&self) -> bool {
        matches!(self.state, State::Open | State::Closing)
    }

    /// We close the connection. With `lingers`, we don't wait for an answer.
    pub(crate) fn close(&mut self, lingers: bool) {
        assert!(self.is_open(), "a connection is closed once, not when {:?}", self.state);
        self.state = if lingers { State::Lingering } else { State::Closing };
    }

    /// The peer has sent a Close, or has ended.
    pub(crate) fn answer(&mut self) {
        assert!(!self.is_ended(), "an ended connection answers nothing");
        self.state = State::Answering;
    }

    /// The peer has violated the protocol after our Close.
    pub(crate) fn linger(&mut self) {
        assert!(
            matches!(self.state, State::Closing | State::Lingering),
            "a connection lingers after our Close, not when {:?}",
            self.state
        );
        self.state = State::Lingering;
    }

    /// Records that the socket is shut down.
    pub(crate) fn end(&mut self) {
        assert!(!self.is_ended(), "a connection ends once");
        self.state = State::Ended;
    }

    /// Whether the ring holds nothing for it, so that its socket may be released once it has ended.
    pub(crate) fn is_released(&self) -> bool {
        !self.receiving && self.output == Output::Free
    }

    /// Whether a receive is in flight.
    pub(crate) fn is_receiving(&self) -> bool {
        self.receiving
    }

    /// Whether a receive may be started.
    pub(crate) fn may_receive(&self) -> bool {
        !self.is_ended() && !self.receiving && !self.peer_ended
    }

    /// Records that a receive is started.
    pub(crate) fn receive(&mut self) {
        assert!(self.may_receive(), "one receive at a time, and none after the peer's end: {self:?}");
        self.receiving = true;
    }

    /// Records a completion of the receive; with `armed`, there will be more.
    pub(crate) fn received(&mut self, armed: bool) {
        assert!(self.receiving, "only an operation that was started completes");
        self.receiving = armed;
    }

    /// Whether the ring has reported the end of the peer's input.
    pub(crate) fn has_peer_ended(&self) -> bool {
        self.peer_ended
    }

    /// Records that the peer's input has ended.
    pub(crate) fn peer_ended(&mut self) {
        self.peer_ended = true;
    }

    /// Whether a send is in flight.
    pub(crate) fn is_sending(&self) -> bool {
        self.output == Output::Sending
    }

    /// Whether a send may be started: there is at most one in flight, and none while the socket is full.
    pub(crate) fn may_send(&self) -> bool {
        self.output == Output::Free && !self.is_ended()
    }

    /// Records that a send is started.
    pub(crate) fn send(&mut self) {
        assert!(self.may_send(), "one send at a time, and none into a full socket: {self:?}");
        self.output = Output::Sending;
    }

    /// Records that the send has completed.
    pub(crate) fn sent(&mut self) {
        assert!(self.is_sending(), "only an operation that was started completes");
        self.output = Output::Free;
    }

    /// Records that the socket is full, and that a wait until it is writable is started.
    pub(crate) fn await_writable(&mut self) {
        assert!(self.may_send(), "a connection waits for room only while it sends nothing: {self:?}");
        self.output = Output::AwaitingWritable;
    }

    /// Records that the socket is writable again, or broken.
    pub(crate) fn writable(&mut self) {
        assert_eq!(self.output, Output::AwaitingWritable, "only an operation that was started completes");
        self.output = Output::Free;
    }
}
