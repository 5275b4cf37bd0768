use super::*;
use crate::os;
use crate::protocol::position::Since;
use crate::room::inbox;
use crate::room::{FirstUsers, Speaker};

const AGE_MS: u64 = 1000;
const BOUNDS: ReplayBounds = ReplayBounds { frames_max: 100, bytes_max: 1 << 20, age_max_ms: AGE_MS };
const MEMBER: MemberId = MemberId { shard: 0, slot: 0, serial: 1 };

/// This many milliseconds after the start, on a clock that nobody adjusts.
fn at(monotonic_ms: u64) -> Time {
    Time { unix_ms: 1_800_000_000_000u64.saturating_add(monotonic_ms), monotonic_ms }
}

fn registry(bounds: ReplayBounds) -> Registry {
    Registry::new(inbox::inboxes([os::new_eventfd().unwrap()], 1 << 30), 7, ResumeKey::new(0, [1, 2]), bounds)
}

fn user(name: &str) -> Name {
    Name::user(name).unwrap()
}

fn tea() -> Name {
    Name::room("tea").unwrap()
}

/// A user's membership in a room.
struct Visit<'a> {
    registry: &'a Registry,
    user: Name,
    joined: Joined,
}

impl<'a> Visit<'a> {
    fn new(registry: &'a Registry, room: &str, since: Option<(u64, u64)>, now_ms: u64) -> Self {
        let (user, room) = (user("ann"), Name::room(room).unwrap());
        let since = since.map(|(epoch, seq)| Since { epoch: Some(epoch), seq });
        let joining = Joining { since, ..Joining::new(Some(&user), MEMBER) };
        let joined = registry.join(Namespace::Chat, &room, &joining, at(now_ms), &mut Wakes::default()).unwrap();
        Self { registry, user, joined }
    }

    fn epoch(&self) -> u64 {
        self.joined.room.epoch()
    }

    fn end(self, now_ms: u64) {
        self.registry.leave(&self.joined.room, Some(&self.user), MEMBER, at(now_ms), &mut Wakes::default());
    }
}

#[test]
fn a_dormant_room_is_kept_for_its_age_and_is_hidden() {
    let registry = registry(BOUNDS);
    let visit = Visit::new(&registry, "tea", None, 0);
    let epoch = visit.epoch();
    assert_eq!(visit.joined.entered.first_seq, 1);
    visit.end(100);
    assert!(registry.get(Namespace::Chat, &tea()).is_none() && registry.len(Namespace::Chat) == 0);
    assert!(!registry.expire(at(100 + AGE_MS - 1)), "it stays dormant");
    let visit = Visit::new(&registry, "tea", Some((epoch, 0)), 100 + AGE_MS - 1);
    assert_eq!((visit.epoch(), visit.joined.entered.first_seq), (epoch, 2));
    assert_eq!(visit.joined.entered.recovered, Some(false), "the welcome of the first visit is too old");
    assert!(registry.get(Namespace::Chat, &tea()).is_some() && registry.expire(at(u64::MAX)), "no room is dormant");
    visit.end(2000);
    let visit = Visit::new(&registry, "tea", Some((epoch, 2)), 2000 + AGE_MS);
    assert_ne!(visit.epoch(), epoch, "its time was up, though no tick had come");
    visit.end(4000);
    assert!(registry.expire(at(4000 + AGE_MS)), "forgotten");
}

#[test]
fn a_member_that_reconnects_in_time_has_missed_nothing() {
    let registry = registry(BOUNDS);
    let visit = Visit::new(&registry, "tea", None, 0);
    let epoch = visit.epoch();
    visit.end(1);
    let visit = Visit::new(&registry, "tea", Some((epoch, 1)), 2);
    let entered = &visit.joined.entered;
    assert_eq!((entered.recovered, entered.from_seq, entered.head.is_none()), (Some(true), 2, true));
}

#[test]
fn without_replay_no_room_is_kept() {
    let registry = registry(ReplayBounds::OFF);
    let visit = Visit::new(&registry, "tea", None, 0);
    let epoch = visit.epoch();
    visit.end(0);
    assert!(registry.expire(at(0)));
    assert_ne!(Visit::new(&registry, "tea", None, 0).epoch(), epoch);
}

#[test]
fn of_too_many_dormant_rooms_the_oldest_are_dropped() {
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
fn dormant_rooms_are_bounded_in_bytes() {
    let registry = registry(BOUNDS);
    let text = "x".repeat(100_000);
    let epochs: Vec<u64> = (0..100)
        .map(|number| {
            let visit = Visit::new(&registry, &format!("r{number}"), None, 0);
            let epoch = visit.epoch();
            for _ in 0..10 {
                let speaker = Speaker::Member(&visit.user);
                visit.joined.room.publish_chat(&speaker, &text, at(0), &mut Wakes::default()).unwrap();
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
fn rooms_become_dormant_and_are_revived_on_many_threads_at_once() {
    let registry = registry(BOUNDS);
    let names = ["tea", "milk"].map(|name| Name::room(name).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (registry, names) = (&registry, &names);
            scope.spawn(move || {
                let user = user(&format!("u{thread}"));
                let member = MemberId { shard: 0, slot: thread, serial: 0 };
                for number in 0..3000u64 {
                    let name = &names[(number % 2) as usize];
                    let wakes = &mut Wakes::default();
                    let joined =
                        registry.join(Namespace::Chat, name, &Joining::new(Some(&user), member), at(0), wakes).unwrap();
                    let found = registry.get(Namespace::Chat, name).expect("somebody is in it");
                    assert!(Arc::ptr_eq(&found, &joined.room), "there is one room per name");
                    registry.leave(&joined.room, Some(&user), member, at(0), wakes);
                    if thread == 0 {
                        registry.inboxes()[0].drain(&mut Vec::new(), &mut Vec::new());
                    }
                }
            });
        }
    });
    assert_eq!(registry.len(Namespace::Chat), 0);
    assert_eq!(registry.made.load(Ordering::Relaxed), 2, "none was lost in between");
}

#[test]
fn dropped_dormant_rooms_are_counted() {
    const DORMANT_MAX: usize = 16_384;
    let registry = registry(BOUNDS);
    let visit = |number: usize, now_ms| Visit::new(&registry, &format!("r{number}"), None, now_ms);
    let epochs: Vec<_> = (0..DORMANT_MAX + 2)
        .map(|number| {
            let visit = visit(number, 0);
            let epoch = visit.epoch();
            visit.end(number as u64 / 100);
            epoch
        })
        .collect();
    assert_eq!(registry.dormant(), (DORMANT_MAX, 2));
    assert_eq!(visit(2, 500).epoch(), epochs[2]);
    assert_ne!(visit(1, 500).epoch(), epochs[1], "it was dropped");
    // A room whose time is up doesn't count as dropped early.
    let left: Vec<_> = (0..16)
        .map(|_| {
            registry.expire(at(u64::MAX));
            registry.dormant().0
        })
        .collect();
    assert!(left[0] > DORMANT_MAX / 2, "a tick forgets some of them: {left:?}");
    assert_eq!(registry.dormant(), (0, 2));
}

/// Everything that a room's members see of 600 joins, leaves and messages, without `Ts`. `unix_ms` is the system clock at each
/// moment.
fn transcript(seed: u64, unix_ms: impl Fn(u64) -> u64) -> Vec<String> {
    let registry = registry(BOUNDS);
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut transcript, mut inside, mut folded): (_, Vec<(Name, Arc<Room>)>, _) = (Vec::new(), Vec::new(), Vec::new());
    let (mut monotonic_ms, mut since) = (0, None);
    for step in 0..600 {
        monotonic_ms += [0, 0, 20, 300, 1200][rng.usize(..5)];
        let now = Time { unix_ms: unix_ms(monotonic_ms), monotonic_ms };
        let wakes = &mut Wakes::default();
        let fills = step % 300 < 160;
        match rng.usize(..4) {
            0 | 1 if fills || inside.is_empty() => {
                let user = user(&format!("u{step}"));
                let joining = Joining { since, ..Joining::new(Some(&user), MEMBER) };
                let Joined { room, entered } = registry.join(Namespace::Chat, &tea(), &joining, now, wakes).unwrap();
                let head_end = entered.head.map(|head| head.end_seq);
                transcript.push(format!("{:?} {} {head_end:?}", entered.recovered, entered.from_seq));
                folded.push((Arc::clone(&room), entered.announced));
                inside.push((user, room));
            }
            0..=2 if !inside.is_empty() => {
                let (user, room) = inside.swap_remove(rng.usize(..inside.len()));
                since = Some(Since { epoch: Some(room.epoch()), seq: room.last_seq() });
                let announced = registry.leave(&room, Some(&user), MEMBER, now, wakes);
                folded.push((room, announced));
            }
            _ => {
                let payload = Payload::Chat { from: "api", text: "hello" };
                let published = registry.publish_from_outside(Namespace::Chat, &tea(), payload, now, wakes);
                transcript.push(format!("{:?}", published.map(|(room, seq, members)| (room.epoch(), seq, members))));
            }
        }
        let is_due = |announced: &Announced| matches!(announced, Announced::At(due_ms) if *due_ms <= monotonic_ms);
        for (room, _) in folded.extract_if(.., |(_, announced)| is_due(announced)) {
            room.announce_folded(now, wakes);
        }
        transcript.push(format!("nothing kept: {}", registry.expire(now)));
        let mut relays = Vec::new();
        registry.inboxes()[0].drain(&mut relays, &mut Vec::new());
        transcript.extend(relays.iter().map(|relay| without_ts(&relay.frame)));
    }
    transcript
}

/// The text of a frame up to its `Ts`, which comes last.
fn without_ts(frame: &[u8]) -> String {
    let text = String::from_utf8_lossy(frame);
    let (before, _) = text.rsplit_once(",\"Ts\":").expect("a broadcast has a Ts");
    before[before.find('{').expect("it is an object")..].to_owned()
}

#[test]
fn adjusting_the_clock_changes_nothing_but_ts() {
    const NOW_MS: u64 = 1_800_000_000_000;
    for seed in 0..20 {
        let expected = transcript(seed, |passed_ms| NOW_MS + passed_ms);
        for said in ["Some(true)", "Some(false)", "Welcome to tea, u", "Welcome to tea: ", "nothing kept: false"] {
            assert!(expected.iter().any(|line| line.contains(said)), "{seed}: the transcript lacks {said}");
        }
        // Set forward by five minutes, back by an hour, to 1970, and back and forth without end.
        assert_eq!(transcript(seed, |passed_ms| NOW_MS + passed_ms + 300_000 * (passed_ms / 2000)), expected);
        assert_eq!(
            transcript(seed, |passed_ms| NOW_MS + passed_ms - 3_600_000 * u64::from(passed_ms > 5000)),
            expected
        );
        assert_eq!(transcript(seed, |passed_ms| if passed_ms > 5000 { 0 } else { NOW_MS + passed_ms }), expected);
        assert_eq!(transcript(seed, |passed_ms| NOW_MS + passed_ms * 7919 % 600_000), expected);
    }
}

#[test]
fn messages_that_are_too_old_are_dropped_even_if_nobody_asks_for_them() {
    let registry = registry(BOUNDS);
    let wakes = &mut Wakes::default();
    let visits: Vec<_> =
        (0..5000).map(|number| Visit::new(&registry, &format!("r{number}"), None, number / 10)).collect();
    let keeping = || visits.iter().filter(|visit| visit.joined.room.replay_bytes() > 0).count();
    // One room keeps publishing: it is in the list once, no matter how much it publishes.
    let Visit { joined: Joined { room: busy, .. }, user, .. } = &visits[4999];
    for ms in 500..1400 {
        busy.publish_chat(&Speaker::Member(user), "x", at(ms), wakes).unwrap();
    }
    assert_eq!(registry.expiry.len(), 5000);
    assert!(!registry.expire(at(AGE_MS - 1)));
    assert_eq!(keeping(), 5000);
    registry.expire(at(AGE_MS + 99));
    assert_eq!((keeping(), registry.expiry.len()), (4000, 4000), "the notices of the first 100 ms were too old");
    // All that is left is handled by one tick.
    let mut ticks = 0;
    while registry.expiry.len() > 1 {
        registry.expire(at(1500));
        ticks += 1;
    }
    assert_eq!((keeping(), ticks), (1, 1));
    assert!(busy.replay(busy.last_seq(), busy.last_seq() + 1, 1000).is_some(), "the newest message is not too old");
    assert!(!registry.expire(at(2398)), "there is one left");
    assert!(registry.expire(at(2399)), "it was the last");
    assert_eq!(keeping(), 0);
    busy.publish_chat(&Speaker::Member(user), "x", at(2400), wakes).unwrap();
    assert!(!registry.expire(at(2400)), "a room that keeps something again is listed again");
}

#[test]
fn a_tick_expires_a_bounded_number_of_rooms() {
    let registry = registry(BOUNDS);
    let visits: Vec<_> = (0..10_000).map(|number| Visit::new(&registry, &format!("r{number}"), None, 0)).collect();
    let ticks = (0..10).take_while(|tick| !registry.expire(at(AGE_MS * (1 + tick)))).count();
    assert_eq!(ticks, 2, "10,000 rooms, 4,096 per tick");
    assert!(visits.iter().all(|visit| visit.joined.room.replay_bytes() == 0));
}

#[test]
fn counts_that_are_read_without_the_lock_are_up_to_date() {
    let registry = registry(BOUNDS);
    let mut rng = fastrand::Rng::with_seed(3);
    let mut inside: Vec<(Option<Name>, Arc<Room>)> = Vec::new();
    for step in 0..2000 {
        // Listeners are members without a name.
        let user = (rng.u8(..4) > 0).then(|| user(&format!("u{step}")));
        if inside.is_empty() || rng.bool() {
            let joining = Joining::new(user.as_ref(), MEMBER);
            let joined = registry.join(Namespace::Chat, &tea(), &joining, at(step), &mut Wakes::default()).unwrap();
            inside.push((user, joined.room));
        } else {
            let (user, room) = inside.swap_remove(rng.usize(..inside.len()));
            registry.leave(&room, user.as_ref(), MEMBER, at(step), &mut Wakes::default());
        }
        let mut names: Vec<_> = inside.iter().filter_map(|(user, _)| user.clone()).collect();
        names.sort();
        let (rooms, count) = registry.first_rooms(Namespace::Chat, "te", 5);
        assert_eq!((rooms.len(), count), (usize::from(!inside.is_empty()), rooms.len()));
        for Listed { name, counts } in rooms {
            assert_eq!((counts.members, counts.users), (inside.len(), names.len()));
            let room = registry.get(Namespace::Chat, &name).unwrap();
            let FirstUsers { names: first, count, is_partial } = room.first_users(7);
            assert_eq!((first, count, is_partial), (names[..names.len().min(7)].to_vec(), names.len(), false));
        }
    }
}

#[test]
fn rooms_of_other_servers_are_listed_once_in_order_with_the_members_of_all() {
    let registry = registry(ReplayBounds::OFF);
    let room = |name: &str| Name::room(name).unwrap();
    let counts = |members, users| Counts { members, users };
    let list = || {
        let (rooms, count) = registry.first_rooms(Namespace::Chat, "", 2);
        (rooms.into_iter().map(|room| (room.name.to_string(), room.counts)).collect::<Vec<_>>(), count)
    };
    registry.set_elsewhere(Namespace::Chat, &room("b"), counts(3, 2));
    let joining = Joining::new(None, MEMBER);
    let joined = ["a", "b", "c"]
        .map(|name| registry.join(Namespace::Chat, &room(name), &joining, at(0), &mut Wakes::default()).unwrap().room);
    registry.set_elsewhere(Namespace::Chat, &room("a"), counts(1, 1));
    assert_eq!(list(), (vec![("a".into(), counts(2, 0)), ("b".into(), counts(4, 0))], 3));
    for room in &joined[1..] {
        registry.leave(room, None, MEMBER, at(0), &mut Wakes::default());
    }
    assert_eq!(list(), (vec![("a".into(), counts(2, 0)), ("b".into(), counts(3, 2))], 2), "b is there elsewhere");
    registry.set_elsewhere(Namespace::Chat, &room("a"), counts(0, 0));
    registry.set_elsewhere(Namespace::Chat, &room("b"), counts(0, 0));
    assert_eq!(list(), (vec![("a".into(), counts(1, 0))], 1));
}
