//! The room of one server, with its members: hi's own, and what a shard does with it.

use std::collections::VecDeque;
use std::sync::Arc;

use hi::clock::Time;
use hi::protocol::name::Name;
use hi::protocol::resume::ResumeKey;
use hi::protocol::{MemberId, Namespace};
use hi::room::inbox::{self, Claimed, Wake};
use hi::room::outward::{Outbound, Outward};
use hi::room::registry::Registry;
use hi::room::replay::ReplayBounds;
use hi::room::{Joining, Room, Wakes};
use tokio::sync::mpsc::UnboundedReceiver;

/// Larger than what the room ever sends.
const INBOX_BYTES_MAX: usize = 1 << 20;
/// Names of the room at most, and more than there are.
const NAMES_MAX: usize = 100;

/// What is to be done.
enum Order {
    /// A connection has got its name, and joins.
    Opened(Name, MemberId),
    /// A connection is closed, because it has lost its name.
    Close(MemberId),
}

/// See the module.
pub(super) struct Local {
    name: Name,
    registry: Registry,
    room: Arc<Room>,
    outbound: UnboundedReceiver<Outbound>,
    orders: VecDeque<Order>,
    /// Those that are not closed.
    connections: Vec<Connection>,
}

struct Connection {
    member: MemberId,
    /// The name that it has claimed.
    user: Name,
    has_joined: bool,
}

impl Local {
    /// A room with this name, and a listener in it, so that it lives.
    pub(super) fn new(name: &Name) -> Self {
        let inboxes = inbox::inboxes([Wake(Box::new(|| {}))], INBOX_BYTES_MAX);
        let (outward, outbound) = Outward::new(Arc::clone(&inboxes));
        let registry =
            Registry::new(inboxes, 0, ResumeKey::new(0, [1, 2]), ReplayBounds::OFF).sharing(Arc::new(outward));
        let listener = Joining::new(None, MemberId { shard: 0, slot: 0, serial: 0 });
        let joined = registry.join(Namespace::Chat, name, &listener, now(), &mut Wakes::default());
        let room = joined.expect("a listener needs no name").room;
        Self { name: name.clone(), registry, room, outbound, orders: VecDeque::new(), connections: Vec::new() }
    }

    /// A connection gets its name: its shard will be told.
    pub(super) fn opened(&mut self, user: &Name, member: MemberId) {
        self.connections.push(Connection { member, user: user.clone(), has_joined: false });
        self.orders.push_back(Order::Opened(user.clone(), member));
    }

    /// A connection has lost its name: its shard will be told.
    pub(super) fn close(&mut self, member: MemberId) {
        self.orders.push_back(Order::Close(member));
    }

    /// A user goes, who may not have joined yet.
    pub(super) fn leave(&mut self, user: &str) {
        let theirs = self.connections.iter().find(|connection| connection.user.as_str() == user);
        theirs.map(|connection| connection.member).into_iter().for_each(|member| self.closed(member));
    }

    /// The shard takes its next order. Returns a connection that was closed before it joined with the name that it had claimed.
    pub(super) fn take_order(&mut self) -> Option<(Name, MemberId)> {
        match self.orders.pop_front()? {
            Order::Opened(user, member) => {
                let Some(index) = self.index(member) else { return Some((user, member)) };
                let joining = Joining { claimed: Some(Claimed::Free), ..Joining::new(Some(&user), member) };
                let joined = self.registry.join(Namespace::Chat, &self.name, &joining, now(), &mut Wakes::default());
                joined.expect("it has claimed its name");
                self.connections[index].has_joined = true;
                None
            }
            Order::Close(member) => {
                self.closed(member);
                None
            }
        }
    }

    fn index(&self, member: MemberId) -> Option<usize> {
        self.connections.iter().position(|connection| connection.member == member)
    }

    fn closed(&mut self, member: MemberId) {
        let Some(index) = self.index(member) else { return };
        let Connection { user, has_joined, .. } = self.connections.remove(index);
        if has_joined {
            self.registry.leave(&self.room, Some(&user), member, now(), &mut Wakes::default());
        }
    }

    /// Somebody else has a name on another server, or no longer has it.
    pub(super) fn set_elsewhere(&self, user: &Name, is_there: bool) {
        self.room.set_elsewhere(user, is_there);
    }

    /// A connection has lost its name for good.
    pub(super) fn evict(&self, member: MemberId) {
        self.room.evict(member);
    }

    /// Members that have left since the last call, and their names.
    pub(super) fn released(&mut self) -> Vec<(Name, MemberId)> {
        let outbound = std::iter::from_fn(|| self.outbound.try_recv().ok());
        let released = outbound.filter_map(|outbound| match outbound {
            Outbound::Release { user, member, .. } => Some((user, member)),
            _ => None,
        });
        released.collect()
    }

    /// The users that the room has, here and elsewhere.
    pub(super) fn users(&self) -> Vec<String> {
        self.room.first_users(NAMES_MAX).names.iter().map(Name::to_string).collect()
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_settled(&self) -> bool {
        self.orders.is_empty()
    }
}

/// No time passes here.
fn now() -> Time {
    Time { unix_ms: 0, monotonic_ms: 0 }
}
