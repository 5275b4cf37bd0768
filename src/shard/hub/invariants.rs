//! What must be true of a shard after each turn. Checked in debug builds, which the tests use: completely while there are few
//! connections; with thousands, a different part of them each turn.

use std::collections::HashSet;

use super::{Hub, Key};

/// Number of connections checked after one turn.
const CONNECTIONS_PER_TURN: usize = 64;

impl Hub {
    pub(super) fn check_invariants(&self) {
        let all = self.connections.len();
        let first = self.now.time.monotonic_ms as usize % all.max(1);
        let is_small = all <= CONNECTIONS_PER_TURN;
        let to_read: HashSet<_> = self.reading.queued().copied().collect();
        let to_send: HashSet<_> = self.sending.queued().copied().collect();
        for (slot, connection) in self.connections.iter().cycle().skip(first).take(CONNECTIONS_PER_TURN.min(all)) {
            let key = Key { slot: slot as u32, serial: connection.serial };
            let life = &connection.life;
            assert!(
                !life.is_ended() || !life.is_released(),
                "{key:?}: a connection that has ended and that the ring has released is gone"
            );
            assert!(
                life.is_open() || connection.memberships.is_empty(),
                "{key:?}: a connection that is closing is in no room: {life:?}"
            );
            assert!(
                !life.is_ended() || connection.unread.is_none(),
                "{key:?}: an ended connection has no unread input"
            );
            assert!(
                connection.unread.is_none() || to_read.contains(&key),
                "{key:?}: a connection with unread input is queued to be read"
            );
            assert!(
                connection.queued == to_send.contains(&key),
                "{key:?}: is in a send queue exactly if it says so: {}",
                connection.queued
            );
            assert!(
                life.is_receiving()
                    || life.is_ended()
                    || life.has_peer_ended()
                    || connection.unread.is_some()
                    || self.reading.is_starved(&key),
                "{key:?}: a live connection has a receive in flight or unread input: {life:?}"
            );
            for membership in &connection.memberships {
                let room = self.rooms.get(membership.room);
                assert!(room.members()[membership.index as usize] == key.slot, "{key:?}: the room knows its member");
                assert!(membership.cursor <= room.log.tip(), "{key:?}: no cursor is beyond the tip");
            }
        }
        if is_small {
            let memberships: usize = self.connections.iter().map(|(_, connection)| connection.memberships.len()).sum();
            assert_eq!(memberships, self.rooms.memberships(), "each room member has a membership");
        }
    }
}
