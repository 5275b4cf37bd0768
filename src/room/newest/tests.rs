use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn frame(seq: u64) -> Bytes {
    format!("<{seq}>").into()
}

fn key(key: u8) -> Key {
    (key > 0).then(|| key.to_string().into())
}

/// The `Seq` of the frames in a batch.
fn seqs(gathered: Option<Gathered>) -> Vec<u64> {
    let bytes = gathered.map(|gathered| gathered.batch().bytes).unwrap_or_default();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    text.split(['<', '>']).filter(|seq| !seq.is_empty()).map(|seq| seq.parse().unwrap()).collect()
}

struct Member {
    cursor: u64,
    progress: Progress,
}

impl Member {
    fn at(cursor: u64) -> Self {
        Self { cursor, progress: Progress::default() }
    }

    fn take(&mut self, newest: &Newest, tip: u64, messages_max: usize) -> Vec<u64> {
        seqs(newest.take((&mut self.cursor, &mut self.progress), tip, messages_max, |_| false))
    }
}

#[test]
fn only_the_newest_of_each_key_is_left_in_order() {
    let mut newest = Newest::new(1);
    for (seq, of) in [(1, 1), (2, 2), (3, 0), (4, 1), (5, 0), (6, 3)] {
        newest.replace(seq, key(of), &frame(seq));
    }
    assert_eq!(Member::at(1).take(&newest, 7, 100), [2, 4, 5, 6]);
    assert_eq!(Member::at(5).take(&newest, 7, 100), [5, 6]);
    let mut done = Member::at(7);
    assert_eq!(done.take(&newest, 7, 100), [0; 0]);
    let own = newest.take((&mut 1, &mut Progress::default()), 7, 100, |seq| seq == 4);
    assert_eq!(seqs(own), [2, 5, 6]);
    newest.trim(6);
    assert_eq!((newest.is_empty(), Member::at(1).take(&newest, 7, 100)), (false, vec![6]));
    newest.trim(7);
    assert!(newest.is_empty() && newest.held_bytes() == 0 && newest.is_whole_from(1));
}

#[test]
fn a_member_that_takes_one_message_in_a_while_gets_the_keys_in_turn() {
    let (mut newest, mut member, mut seq) = (Newest::new(1), Member::at(1), 1);
    let mut came = vec![0; 21];
    for _ in 0..420 {
        // Key 20 changes most often, and is always the last in order.
        for of in (1..20).chain([20; 20]) {
            newest.replace(seq, key(of), &frame(seq));
            seq += 1;
        }
        let taken = member.take(&newest, seq, 1);
        let of = newest.kept[newest.by_seq[&taken[0]]].key.as_ref().unwrap().parse::<usize>().unwrap();
        came[of] += 1;
    }
    assert!(came[1..].iter().all(|times| (20..=22).contains(times)), "{came:?}");
}

#[test]
fn beyond_the_bounds_the_oldest_are_dropped_and_the_newest_stays() {
    let mut newest = Newest::new(1);
    for seq in 1..=NEWEST_KEYS_MAX as u64 + 2 {
        newest.replace(seq, Some(seq.to_string().into()), &frame(seq));
    }
    assert!(!newest.is_whole_from(2) && newest.is_whole_from(3));
    let kept = Member::at(1).take(&newest, 2000, 2000);
    assert_eq!((kept.len(), &kept[..2]), (NEWEST_KEYS_MAX, &[3, 4][..]));
    newest.replace(3000, None, &vec![0; NEWEST_BYTES_MAX + 1].into());
    assert!(newest.kept.len() == 1 && newest.is_whole_from(1027) && !newest.is_whole_from(1026));
    newest.shrink(0);
    assert!(newest.is_empty() && !newest.is_whole_from(3000) && newest.is_whole_from(3001));
    newest.lose(4000);
    assert!(!newest.is_whole_from(3999) && newest.is_whole_from(4000));
}

#[derive(Clone, Debug)]
enum Step {
    Publish { key: u8, is_own: bool },
    Take { messages_max: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..30u8, any::<bool>()).prop_map(|(key, is_own)| Step::Publish { key, is_own }),
        1 => prop_oneof![Just(1), Just(2), 1..40usize].prop_map(|messages_max| Step::Take { messages_max }),
    ]
}

proptest! {
    /// The twin keeps all messages, and for each what the member has got.
    #[test]
    fn a_member_gets_what_is_newest_once_and_in_the_end_the_last_of_each_key(
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        let (mut newest, mut member) = (Newest::new(1), Member::at(1));
        let (mut published, mut own, mut got): (Vec<u8>, BTreeSet<u64>, BTreeSet<u64>) = Default::default();
        // The rest, then nothing.
        let end = [40, 40].map(|messages_max| Step::Take { messages_max });
        for step in steps.into_iter().chain(end) {
            let tip = published.len() as u64 + 1;
            match step {
                Step::Publish { key: of, is_own } => {
                    newest.replace(tip, key(of), &frame(tip));
                    published.push(of);
                    own.extend(is_own.then_some(tip));
                }
                Step::Take { messages_max } => {
                    let is_newest = |seq: &u64| !published[*seq as usize..].contains(&published[*seq as usize - 1]);
                    let due: Vec<_> =
                        (1..tip).filter(|seq| is_newest(seq) && !own.contains(seq) && !got.contains(seq)).collect();
                    let before = member.cursor;
                    let reader = (&mut member.cursor, &mut member.progress);
                    let taken = seqs(newest.take(reader, tip, messages_max, |seq| own.contains(&seq)));
                    prop_assert!(taken.is_sorted() && taken.iter().all(|seq| due.contains(seq)), "{:?} of {:?}", taken, due);
                    prop_assert_eq!(taken.len(), due.len().min(messages_max));
                    got.extend(taken);
                    let first_left = due.iter().find(|seq| !got.contains(seq)).copied().unwrap_or(tip);
                    prop_assert!(member.cursor == first_left && before <= member.cursor);
                    prop_assert!(member.progress.ahead.len() <= SENT_AHEAD_MAX);
                }
            }
        }
    }
}
