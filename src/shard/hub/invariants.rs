//! What must be true of a shard after each turn. Checked in debug builds, where the tests run: all of it while there are few
//! connections, and a part of them, another one each turn, when there are thousands.

use std::collections::HashSet;

use super::{Hub, Key};

/// Connections that are looked at after one turn.
const CONNECTIONS_PER_TURN: usize = 64;

impl Hub {
    pub(super) fn check_invariants(&self) {
        let all = self.connections.len();
        let first = self.now.time.monotonic_ms as usize % all.max(1);
        let is_small = all <= CONNECTIONS_PER_TURN;
        let in_line: HashSet<_> = self.reading.in_line().copied().collect();
        let queued: HashSet<_> = self.sending.queued().copied().collect();
        for (slot, connection) in self.connections.iter().cycle().skip(first).take(CONNECTIONS_PER_TURN.min(all)) {
            let key = Key { slot: slot as u32, serial: connection.serial };
            let life = &connection.life;
            assert!(
                !life.is_ended() || !life.is_released(),
                "{key:?}: a connection that has ended and is released is gone"
            );
            assert!(
                life.is_open() || connection.memberships.is_empty(),
                "{key:?}: whoever closes is in no room: {life:?}"
            );
            assert!(!life.is_ended() || connection.unread.is_none(), "{key:?}: nothing of an ended connection is read");
            assert!(connection.unread.is_none() || in_line.contains(&key), "{key:?}: what is unread stands in line");
            assert!(connection.queued == queued.contains(&key), "{key:?}: queued as it says: {}", connection.queued);
            assert!(
                life.is_receiving()
                    || life.is_ended()
                    || life.has_peer_ended()
                    || connection.unread.is_some()
                    || self.reading.is_starved(&key),
                "{key:?}: a connection that lives is received from, or has something unread: {life:?}"
            );
            for membership in &connection.memberships {
                let room = self.rooms.get(membership.room);
                assert!(room.members()[membership.index as usize] == key.slot, "{key:?}: the room knows its member");
                assert!(membership.cursor <= room.log.tip(), "{key:?}: no cursor is beyond the tip");
            }
        }
        if is_small {
            let memberships: usize = self.connections.iter().map(|(_, connection)| connection.memberships.len()).sum();
            assert_eq!(memberships, self.rooms.memberships(), "each member of a room has a membership");
        }
    }
}
