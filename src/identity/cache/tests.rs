use super::super::tests::rules;
use super::*;
use crate::protocol::name::Name;

#[test]
fn it_is_bounded_and_keeps_what_is_in_use() {
    let mut cache = TokenCache::default();
    let guest = Arc::new(Principal::guest(&Name::user("ada").unwrap(), rules().rights).unwrap());
    let used = fingerprint("used");
    cache.put(used, Arc::clone(&guest));
    for number in 0..3 * CACHED_TOKENS_MAX {
        cache.put(fingerprint(&number.to_string()), Arc::clone(&guest));
        assert!(cache.len() <= CACHED_TOKENS_MAX);
        if number % 1000 == 0 {
            assert!(cache.get(&used).is_some());
        }
    }
    assert!(cache.get(&fingerprint("0")).is_none());
    assert!(cache.get(&fingerprint(&(3 * CACHED_TOKENS_MAX - 1).to_string())).is_some());
    cache.clear();
    assert!(cache.get(&used).is_none());
}
