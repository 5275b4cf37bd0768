use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// Few letters, so that names repeat and share prefixes; the last two take two and four bytes.
fn name() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[abé😀]{0,5}").unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Insert(String, u32),
    Remove(String),
    /// Remove everything with this prefix.
    Clear(String),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (name(), any::<u32>()).prop_map(|(name, value)| Step::Insert(name, value)),
        8 => name().prop_map(Step::Remove),
        1 => name().prop_map(Step::Clear),
    ]
}

/// Names with their values, from either map.
fn pairs<'a>(entries: impl Iterator<Item = (&'a Arc<str>, &'a u32)>) -> Vec<(&'a str, u32)> {
    entries.map(|(name, value)| (&**name, *value)).collect()
}

proptest! {
    #[test]
    fn it_is_a_sorted_map_that_counts(
        steps in prop::collection::vec(step(), 0..300),
        prefixes in prop::collection::vec(name(), 8),
    ) {
        let (mut sorted, mut model) = (Sorted::<Arc<str>, u32, 4>::default(), BTreeMap::<Arc<str>, u32>::new());
        for step in steps {
            match step {
                Step::Insert(name, value) => {
                    prop_assert_eq!(sorted.insert(name.as_str().into(), value), model.insert(name.into(), value));
                }
                Step::Remove(name) => prop_assert_eq!(sorted.remove(&name), model.remove_entry(&*name)),
                Step::Clear(prefix) => {
                    let names: Vec<_> = model.keys().filter(|name| name.starts_with(&*prefix)).cloned().collect();
                    for name in names {
                        prop_assert_eq!(sorted.remove(&name), model.remove_entry(&name));
                    }
                }
            }
            prop_assert_eq!((sorted.len(), sorted.len() == 0), (model.len(), model.is_empty()));
        }
        prop_assert_eq!(pairs(sorted.iter()), pairs(model.iter()));
        for prefix in prefixes.iter().map(String::as_str).chain([""]) {
            prop_assert_eq!(sorted.get(prefix), model.get(prefix));
            let (found, count) = sorted.with_prefix(prefix);
            let expected = pairs(model.iter().filter(|(name, _)| name.starts_with(prefix)));
            prop_assert_eq!(count, expected.len());
            prop_assert_eq!(pairs(found), expected);
        }
        for name in model.keys() {
            prop_assert!(sorted.remove(name).is_some());
        }
        prop_assert!(sorted.len() == 0 && sorted.chunks.capacity() <= 1, "an empty map keeps no memory");
    }
}

#[test]
fn memory_is_freed_as_entries_are_removed() {
    let mut rng = fastrand::Rng::with_seed(1);
    let names: Vec<Arc<str>> = (0..20_000).map(|number| format!("{number:05}").into()).collect();
    let shuffled = |rng: &mut fastrand::Rng| {
        let mut names = names.clone();
        rng.shuffle(&mut names);
        names
    };
    let backwards: Vec<_> = names.iter().rev().cloned().collect();
    for leaving in [names.clone(), backwards, shuffled(&mut rng)] {
        let mut sorted = Sorted::<Arc<str>, u32>::default();
        for name in shuffled(&mut rng) {
            sorted.insert(name, 0);
        }
        let capacity = |sorted: &Sorted<Arc<str>, u32>| sorted.chunks.iter().map(Vec::capacity).sum::<usize>();
        assert!(capacity(&sorted) < 3 * names.len(), "{} for {}", capacity(&sorted), names.len());
        // All but every hundredth entry, and then those as well.
        let (staying, going): (Vec<_>, Vec<_>) = leaving.iter().partition(|name| name.ends_with("00"));
        for name in going {
            sorted.remove(name);
        }
        assert!(sorted.len() == 200 && sorted.chunks.len() <= 4, "{} chunks for 200", sorted.chunks.len());
        assert!(capacity(&sorted) <= 1600 && sorted.chunks.capacity() <= 16, "{} for 200", capacity(&sorted));
        for name in staying {
            sorted.remove(name);
        }
        assert!(sorted.len() == 0 && sorted.chunks.is_empty() && !sorted.chunks.spilled());
    }
}
