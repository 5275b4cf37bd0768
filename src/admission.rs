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
}

impl Admission {
    /// Lets in the pages of these origins, and into raw rooms as `raw` says.
    pub fn new(origins: Vec<Allowed>, raw: RawMode) -> Self {
        Self { origins, raw }
    }

    /// The origins whose pages may connect.
    pub fn origins(&self) -> &[Allowed] {
        &self.origins
    }

    /// Whether a request may open a WebSocket, and as whom.
    ///
    /// # Errors
    /// It is no handshake, its page may not connect, raw rooms are switched off, or a parameter of the address is invalid.
    pub fn connect(&self, head: &Head<'_>, target: &UpgradeTarget<'_>) -> Result<(Handshake, UpgradeParams), Fault> {
        // A client that names a user is told first what is wrong with the name: a page can read that answer only with a
        // plain GET.
        if matches!(target, UpgradeTarget::Chat { query } if query.contains("username=")) {
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
    pub fn listen(&self, head: &Head<'_>, room: &str) -> Result<Name, Fault> {
        let room = target::stream_room(room)?;
        origin::check(head, &self.origins)?;
        Ok(room)
    }

    fn handshake(&self, head: &Head<'_>) -> Result<Handshake, Fault> {
        let handshake = upgrade::examine(head)?;
        origin::check(head, &self.origins)?;
        Ok(handshake)
    }
}
