use super::*;
use crate::os;
use crate::relay;
use crate::room::replay::Since;

const AGE_MS: u64 = 1000;
const BOUNDS: ReplayBounds = ReplayBounds { frames_max: 100, bytes_max: 1 << 20, age_max_ms: AGE_MS };
const MEMBER: MemberId = MemberId { shard: 0, slot: 0, serial: 1 };

fn registry(bounds: ReplayBounds) -> Registry {
    Registry::new(relay::inboxes([os::new_eventfd().unwrap()], 1 << 30), 7, ResumeKey::new([1, 2]), bounds)
}

/// A user's visit to a room.
struct Visit<'a> {
    registry: &'a Registry,
    user: Arc<str>,
    joined: Joined,
}

impl<'a> Visit<'a> {
    fn new(registry: &'a Registry, room: &str, since: Option<(u64, u64)>, now_ms: u64) -> Self {
        let user: Arc<str> = "ann".into();
        let since = since.map(|(epoch, seq)| Since { epoch: Some(epoch), seq });
        let joining = Joining { since, ..Joining::new(Some(&user), MEMBER) };
        let joined = registry.join(Namespace::Chat, room, &joining, now_ms, &mut Wakes::default()).unwrap();
        Self { registry, user, joined }
    }

    fn epoch(&self) -> u64 {
        self.joined.room.epoch()
    }

    fn end(self, now_ms: u64) {
        self.registry.leave(&self.joined.room, Some(&self.user), MEMBER, now_ms, &mut Wakes::default());
    }
}

#[test]
fn a_room_sleeps_for_its_age_and_is_hidden_while_it_does() {
    let registry = registry(BOUNDS);
    let visit = Visit::new(&registry, "tea", None, 0);
    let epoch = visit.epoch();
    assert_eq!(visit.joined.entered.first_seq, 1);
    visit.end(100);
    assert!(registry.get(Namespace::Chat, "tea").is_none() && registry.names(Namespace::Chat).is_empty());
    assert!(!registry.expire(100 + AGE_MS - 1), "it sleeps on");
    let visit = Visit::new(&registry, "tea", Some((epoch, 0)), 100 + AGE_MS - 1);
    assert_eq!((visit.epoch(), visit.joined.entered.first_seq), (epoch, 2));
    assert_eq!(visit.joined.entered.recovered, Some(false), "the welcome of the first visit is too old");
    assert!(registry.get(Namespace::Chat, "tea").is_some() && registry.expire(u64::MAX), "nobody sleeps");
    visit.end(2000);
    let visit = Visit::new(&registry, "tea", Some((epoch, 2)), 2000 + AGE_MS);
    assert_ne!(visit.epoch(), epoch, "its time was up, though nobody had looked");
    visit.end(4000);
    assert!(registry.expire(4000 + AGE_MS), "forgotten");
}

#[test]
fn who_comes_back_in_time_has_missed_nothing() {
    let registry = registry(BOUNDS);
    let visit = Visit::new(&registry, "tea", None, 0);
    let epoch = visit.epoch();
    visit.end(1);
    let visit = Visit::new(&registry, "tea", Some((epoch, 1)), 2);
    let entered = &visit.joined.entered;
    assert_eq!((entered.recovered, entered.from_seq, entered.head.is_none()), (Some(true), 2, true));
}

#[test]
fn without_replay_nothing_sleeps() {
    let registry = registry(ReplayBounds::OFF);
    let visit = Visit::new(&registry, "tea", None, 0);
    let epoch = visit.epoch();
    visit.end(0);
    assert!(registry.expire(0));
    assert_ne!(Visit::new(&registry, "tea", None, 0).epoch(), epoch);
}

#[test]
fn of_too_many_sleepers_those_go_that_have_slept_longest() {
    let registry = registry(BOUNDS);
    let visit = |number: u64, now_ms| Visit::new(&registry, &format!("r{number}"), None, now_ms);
    let epochs: Vec<u64> = (0..20_000)
        .map(|number| {
            let visit = visit(number, 0);
            let epoch = visit.epoch();
            visit.end(number / 100);
            epoch
        })
        .collect();
    assert_ne!(visit(0, 300).epoch(), epochs[0]);
    assert_ne!(visit(3000, 300).epoch(), epochs[3000]);
    assert_eq!(visit(4000, 300).epoch(), epochs[4000]);
    assert_eq!(visit(19_999, 300).epoch(), epochs[19_999]);
}

#[test]
fn what_sleeps_is_bounded_in_bytes() {
    let registry = registry(BOUNDS);
    let text = "x".repeat(100_000);
    let epochs: Vec<u64> = (0..100)
        .map(|number| {
            let visit = Visit::new(&registry, &format!("r{number}"), None, 0);
            let epoch = visit.epoch();
            for _ in 0..10 {
                visit.joined.room.publish_chat("ann", &text, 0, &mut Wakes::default());
            }
            registry.inboxes()[0].drain(&mut Vec::new(), &mut Vec::new());
            visit.end(number);
            epoch
        })
        .collect();
    assert_ne!(Visit::new(&registry, "r0", None, 300).epoch(), epochs[0]);
    let visit = |number: usize| Visit::new(&registry, &format!("r{number}"), None, 300).epoch();
    let kept = (1..100).filter(|number| visit(*number) == epochs[*number]).count();
    assert!((60..=67).contains(&kept), "{kept} rooms of 1 MB in 64 MiB");
}

#[test]
fn rooms_fall_asleep_and_wake_on_many_threads_at_once() {
    let registry = registry(BOUNDS);
    let names = ["tea", "milk"];
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let registry = &registry;
            scope.spawn(move || {
                let user: Arc<str> = format!("u{thread}").into();
                let member = MemberId { shard: 0, slot: thread, serial: 0 };
                for number in 0..3000u64 {
                    let name = names[(number % 2) as usize];
                    let wakes = &mut Wakes::default();
                    let joined =
                        registry.join(Namespace::Chat, name, &Joining::new(Some(&user), member), 0, wakes).unwrap();
                    let found = registry.get(Namespace::Chat, name).expect("somebody is in it");
                    assert!(Arc::ptr_eq(&found, &joined.room), "there is one room of a name");
                    registry.leave(&joined.room, Some(&user), member, 0, wakes);
                    if thread == 0 {
                        registry.inboxes()[0].drain(&mut Vec::new(), &mut Vec::new());
                    }
                }
            });
        }
    });
    assert!(registry.names(Namespace::Chat).is_empty());
    assert_eq!(registry.made.load(Ordering::Relaxed), 2, "none was forgotten on the way");
}

#[test]
fn too_many_rooms_that_sleep_are_dropped_oldest_first_and_counted() {
    const SLEEPERS_MAX: usize = 16_384;
    let registry = registry(BOUNDS);
    let visit = |number: usize, now_ms| Visit::new(&registry, &format!("r{number}"), None, now_ms);
    let epochs: Vec<_> = (0..SLEEPERS_MAX + 2)
        .map(|number| {
            let visit = visit(number, 0);
            let epoch = visit.epoch();
            visit.end(number as u64 / 100);
            epoch
        })
        .collect();
    assert_eq!(registry.sleeping(), (SLEEPERS_MAX, 2));
    assert_eq!(visit(2, 500).epoch(), epochs[2]);
    assert_ne!(visit(1, 500).epoch(), epochs[1], "it had to go");
    // Whose time is up is not dropped early.
    registry.expire(u64::MAX);
    assert_eq!(registry.sleeping(), (0, 2));
}
