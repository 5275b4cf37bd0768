//! A connection's life, from the end of its handshake to the release of its socket; and what the ring holds of it.
//!
//! Every change of state is one of the functions here, and says from which states it may come. What the shard does on the
//! way: `shard/hub/life.rs`.

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Messages go both ways.
    Open,
    /// Our Close is on its way behind what was owed; what still arrives is read only to find the peer's Close.
    Closing,
    /// The peer's Close has arrived, ours is on its way; once it has left, the connection ends.
    Answering,
    /// The peer broke the protocol, or it is a stream. Our Close is on its way, and then only our end of the socket is
    /// closed: bytes that arrive are thrown away until the peer ends, so that no reset overtakes the Close.
    Lingering,
    /// The socket is shut down. As soon as the ring holds nothing of it any more, it is released.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Life {
    state: State,
    receiving: bool,
    sending: bool,
    awaiting_writable: bool,
    peer_ended: bool,
}

impl Life {
    /// It begins open, and the ring holds nothing of it.
    pub fn begin() -> Self {
        Self { state: State::Open, receiving: false, sending: false, awaiting_writable: false, peer_ended: false }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether messages go both ways.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether its socket is shut down.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether what it says is still read: messages, or only the answer to our Close.
    pub fn is_heard(&self) -> bool {
        matches!(self.state, State::Open | State::Closing)
    }

    /// We close: with `lingers`, the peer's answer is not waited for.
    pub fn close(&mut self, lingers: bool) {
        assert!(self.is_open(), "a connection is closed once, not when {:?}", self.state);
        self.state = if lingers { State::Lingering } else { State::Closing };
    }

    /// The peer has closed, or has ended what it says.
    pub fn answer(&mut self) {
        assert!(!self.is_ended(), "an ended connection answers nothing");
        self.state = State::Answering;
    }

    /// The peer broke the protocol behind our Close.
    pub fn linger(&mut self) {
        assert!(
            matches!(self.state, State::Closing | State::Lingering),
            "our Close is on its way, not {:?}",
            self.state
        );
        self.state = State::Lingering;
    }

    /// Its socket is shut down now.
    pub fn end(&mut self) {
        assert!(!self.is_ended(), "a connection ends once");
        self.state = State::Ended;
    }

    /// Whether the ring holds nothing of it, so that its socket may be released once it has ended.
    pub fn is_released(&self) -> bool {
        !self.receiving && !self.sending && !self.awaiting_writable
    }

    /// Whether the ring holds a receive.
    pub fn is_receiving(&self) -> bool {
        self.receiving
    }

    /// Whether a receive may be asked for.
    pub fn may_receive(&self) -> bool {
        !self.is_ended() && !self.receiving && !self.peer_ended
    }

    /// A receive is asked for.
    pub fn receive(&mut self) {
        assert!(self.may_receive(), "one receive at a time, and none behind the peer's end: {self:?}");
        self.receiving = true;
    }

    /// A receive has completed; with `armed` it goes on.
    pub fn received(&mut self, armed: bool) {
        assert!(self.receiving, "only what was asked for completes");
        self.receiving = armed;
    }

    /// Whether the ring has told of the end of what the peer says.
    pub fn has_peer_ended(&self) -> bool {
        self.peer_ended
    }

    /// The peer has ended what it says.
    pub fn peer_ended(&mut self) {
        self.peer_ended = true;
    }

    /// Whether the ring holds a send.
    pub fn is_sending(&self) -> bool {
        self.sending
    }

    /// Whether a send may be given to the ring: at most one is in flight, and none while the socket is full.
    pub fn may_send(&self) -> bool {
        !self.sending && !self.awaiting_writable && !self.is_ended()
    }

    /// A send is given to the ring.
    pub fn send(&mut self) {
        assert!(self.may_send(), "one send at a time, and none into a full socket: {self:?}");
        self.sending = true;
    }

    /// The send has completed.
    pub fn sent(&mut self) {
        assert!(self.sending, "only what was asked for completes");
        self.sending = false;
    }

    /// The socket is full: a wait for room is asked for.
    pub fn await_writable(&mut self) {
        assert!(self.may_send(), "nothing else is on its way: {self:?}");
        self.awaiting_writable = true;
    }

    /// The wait for room is over.
    pub fn writable(&mut self) {
        assert!(self.awaiting_writable, "only what was asked for completes");
        self.awaiting_writable = false;
    }
}
