//! Who may connect: pages of which origins, under which names, and whether there are raw rooms. Made from the settings
//! once and shared by all shards (pure).

use clap::ValueEnum;

use crate::http::diagnosis::Fault;
use crate::http::head::Head;
use crate::http::origin::{self, Allowed};
use crate::http::target::{self, UpgradeParams, UpgradeTarget};
use crate::http::upgrade::{self, Handshake};
use crate::protocol::name::Name;

/// What clients may do in raw rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RawMode {
    /// Publish and listen.
    Open,
    /// Listen; only the internal port publishes.
    Listen,
    /// Nothing: there are no raw rooms.
    Off,
}

/// The rules that every client is held against.
#[derive(Debug)]
pub struct Admission {
    origins: Vec<Allowed>,
    raw: RawMode,
    rooms_max: usize,
    deflates: bool,
}

/// A connection is in as many rooms as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyRooms {
    /// Number of rooms.
    pub max: usize,
}

impl Admission {
    /// Lets in the pages of these origins, and into raw rooms as `raw` says; each connection into at most `rooms_max` rooms.
    pub(crate) fn new(origins: Vec<Allowed>, raw: RawMode, rooms_max: usize) -> Self {
        Self { origins, raw, rooms_max, deflates: false }
    }

    /// Accepts offers to compress messages, if `deflates`.
    pub(crate) fn compressing(self, deflates: bool) -> Self {
        Self { deflates, ..self }
    }

    /// Rooms that one connection may be in.
    pub(crate) fn rooms_max(&self) -> usize {
        self.rooms_max
    }

    /// Whether clients may publish into raw rooms.
    pub(crate) fn publishes_raw(&self) -> bool {
        self.raw == RawMode::Open
    }

    /// Whether a connection that is in `joined` rooms may join another one.
    ///
    /// # Errors
    /// It is in as many as it may be.
    pub(crate) fn join(&self, joined: usize) -> Result<(), TooManyRooms> {
        if joined < self.rooms_max { Ok(()) } else { Err(TooManyRooms { max: self.rooms_max }) }
    }

    /// The origins whose pages may connect.
    pub(crate) fn origins(&self) -> &[Allowed] {
        &self.origins
    }

    /// Whether a request may open a WebSocket, and as whom.
    ///
    /// # Errors
    /// It is no handshake, its page may not connect, raw rooms are switched off, or a parameter of the address is invalid.
    pub(crate) fn connect(
        &self,
        head: &Head<'_>,
        target: &UpgradeTarget<'_>,
    ) -> Result<(Handshake, UpgradeParams), Fault> {
        // A client that names a user is told first what is wrong with the name: a page can read that answer only with a
        // plain GET.
        if target.names_a_user() {
            let params = target.params()?;
            return Ok((self.handshake(head)?, params));
        }
        let handshake = self.handshake(head)?;
        if matches!(target, UpgradeTarget::Raw { .. }) && self.raw == RawMode::Off {
            return Err(Fault::RawRoomsOff);
        }
        Ok((handshake, target.params()?))
    }

    /// Whether a request may read the events of a room, and which room that is.
    ///
    /// # Errors
    /// The room's name is invalid, or its page may not connect.
    pub(crate) fn listen(&self, head: &Head<'_>, room: &str) -> Result<Name, Fault> {
        let room = target::room_name(room)?;
        origin::check(head, &self.origins)?;
        Ok(room)
    }

    fn handshake(&self, head: &Head<'_>) -> Result<Handshake, Fault> {
        let mut handshake = upgrade::examine(head)?;
        if self.deflates {
            handshake.compression = upgrade::extensions::negotiate(head);
        }
        origin::check(head, &self.origins)?;
        Ok(handshake)
    }
}
