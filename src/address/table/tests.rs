use proptest::prelude::*;

use super::*;

fn limits(connections_max: u32, handshakes: u32) -> AddressLimits {
    let handshakes = RateLimit::new(handshakes, handshakes);
    AddressLimits { connections_max, handshakes, messages: false, unlimited: "loopback".parse().unwrap() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_address_has_its_connections_until_they_end() {
    let (table, limits) = (Arc::<AddressTable>::default(), limits(2, 0));
    let enter = |address| table.enter(ip(address), &limits, 0);
    let mut seats = vec![enter("203.0.113.7").unwrap(), enter("::ffff:203.0.113.7").unwrap()];
    let excess = enter("203.0.113.7").unwrap_err();
    assert_eq!((excess.limit, excess.max, excess.network.as_str()), (AddressLimit::Connections, 2, "203.0.113.7"));
    assert!(excess.retry_after > 0 && enter("203.0.113.8").is_ok());
    assert!(enter("127.0.0.1").unwrap().is_none(), "without limits");
    // One ends here, the other one in a shard.
    seats.pop();
    let kept = seats.pop().unwrap().unwrap().keep().unwrap();
    let _again = enter("203.0.113.7").unwrap();
    enter("203.0.113.7").unwrap_err();
    table.leave(kept);
    assert!(enter("203.0.113.7").is_ok());
    assert_eq!(table.refused(AddressLimit::Connections), 2);
}

#[test]
fn an_ipv6_network_counts_as_one() {
    let (table, limits) = (Arc::<AddressTable>::default(), limits(1, 0));
    let _seat = table.enter(ip("2001:db8:1:2::7"), &limits, 0).unwrap();
    let excess = table.enter(ip("2001:db8:1:2:ffff::8"), &limits, 0).unwrap_err();
    assert_eq!(excess.network, "2001:db8:1:2::/64");
    assert!(table.enter(ip("2001:db8:1:3::7"), &limits, 0).is_ok());
}

#[test]
fn handshakes_are_limited_per_minute_and_failures_count_twice() {
    let (table, limits) = (Arc::<AddressTable>::default(), limits(0, 6));
    let enter = |now_ms| table.enter(ip("203.0.113.7"), &limits, now_ms);
    for _ in 0..3 {
        enter(0).unwrap().unwrap().fail(&limits, 0);
    }
    let excess = enter(0).unwrap_err();
    assert_eq!((excess.limit, excess.max, excess.retry_after), (AddressLimit::Handshakes, 6, 11));
    assert_eq!(enter(6_000).unwrap_err().retry_after, 5);
    assert!(enter(11_000).is_ok() && enter(11_001).is_err());
    // After a minute, all of them.
    assert_eq!((0..10).filter(|_| enter(120_000).is_ok()).count(), 6);
    assert_eq!(table.refused(AddressLimit::Handshakes), 7);
}

#[test]
fn messages_are_limited_over_all_connections_of_an_address() {
    let (table, mut limits) = (Arc::<AddressTable>::default(), limits(0, 0));
    assert!(table.enter(ip("203.0.113.7"), &limits, 0).unwrap().is_none(), "there is no limit");
    limits.messages = true;
    let rate = RateLimit::new(2, 4);
    let seats: Vec<_> =
        (0..8).map(|_| table.enter(ip("203.0.113.7"), &limits, 0).unwrap().unwrap().keep().unwrap()).collect();
    let other = table.enter(ip("203.0.113.8"), &limits, 0).unwrap().unwrap().keep().unwrap();
    let passed = |now_ms| seats.iter().filter(|seat| table.admits_message(**seat, &rate, now_ms)).count();
    assert_eq!((passed(0), passed(0), passed(1000)), (4, 0, 2));
    assert!(table.admits_message(other, &rate, 0));
    assert_eq!(table.refused(AddressLimit::Messages), 18);
    assert!(seats.iter().all(|seat| table.admits_message(*seat, &RateLimit::OFF, 1000)));
}

#[test]
fn what_is_not_used_is_forgotten_and_the_table_is_bounded() {
    let (table, limits) = (Arc::<AddressTable>::default(), limits(9, 9));
    let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
    let stays = table.enter(address(0), &limits, 0).unwrap();
    for number in 1..100_000 {
        // 100 new ones a second: no more than some minutes' worth are kept.
        drop(table.enter(address(number), &limits, u64::from(number) * 10).unwrap());
    }
    assert!(table.len() < 12_000, "{} entries", table.len());
    assert!(table.enter(address(0), &limits, 1_000_000).unwrap().is_some());
    drop(stays);
    let all_at_once = Arc::<AddressTable>::default();
    for number in 0..2 * ADDRESSES_MAX as u32 {
        drop(all_at_once.enter(address(number), &limits, 0).unwrap());
    }
    assert!(all_at_once.len() <= ADDRESSES_MAX && all_at_once.len() > ADDRESSES_MAX / 2);
    assert_eq!(all_at_once.untracked() as usize + all_at_once.len(), 2 * ADDRESSES_MAX);
    // Those that have an entry go on being limited.
    assert!((0..10).any(|_| all_at_once.enter(address(0), &limits, 0).is_err()));
}

proptest! {
    /// Against counts of everything that has happened.
    #[test]
    fn no_address_has_more_than_it_may(
        steps in prop::collection::vec((0u8..4, any::<bool>(), 0u64..400), 1..300),
    ) {
        let (table, limits) = (Arc::<AddressTable>::default(), limits(5, 40));
        let mut seats: Vec<(u8, Seat)> = Vec::new();
        let mut now_ms = 0;
        let mut entered: Vec<(u8, u64)> = Vec::new();
        for (number, enters, time) in steps {
            now_ms += time;
            let open = seats.iter().filter(|(of, _)| *of == number).count();
            if !enters {
                if let Some(at) = seats.iter().position(|(of, _)| *of == number) {
                    seats.swap_remove(at);
                }
                continue;
            }
            match table.enter(IpAddr::from([10, 0, 0, number]), &limits, now_ms) {
                Ok(seat) => {
                    prop_assert!(open < 5);
                    seats.push((number, seat.expect("it has limits")));
                }
                Err(Excess { limit: AddressLimit::Connections, .. }) => prop_assert_eq!(open, 5),
                Err(excess) => {
                    prop_assert_eq!(excess.limit, AddressLimit::Handshakes);
                    let lately = entered.iter().filter(|(of, at)| *of == number && at + 60_000 > now_ms).count();
                    prop_assert!(lately >= 39, "refused after {}", lately);
                    continue;
                }
            }
            entered.push((number, now_ms));
        }
    }
}
