//! The log compared with a plain vector that keeps every frame, and only remembers where the log has to begin.

use proptest::prelude::*;

use super::*;

/// The reference: `frames[0]` is the oldest frame that is kept.
struct Model {
    bytes_max: usize,
    first_seq: u64,
    frames: Vec<Bytes>,
}

impl Model {
    fn tip(&self) -> u64 {
        self.first_seq + self.frames.len() as u64
    }

    fn bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.len() + FRAME_OVERHEAD_BYTES).sum()
    }

    fn append(&mut self, seq: u64, frame: Bytes) {
        if seq < self.tip() {
            return;
        }
        if seq > self.tip() {
            self.frames.clear();
            self.first_seq = seq;
        }
        self.frames.push(frame);
        while self.bytes() > self.bytes_max && self.frames.len() > 1 {
            self.trim(self.first_seq + 1);
        }
    }

    fn trim(&mut self, seq: u64) {
        while self.first_seq < seq && !self.frames.is_empty() {
            self.frames.remove(0);
            self.first_seq += 1;
        }
    }

    /// The bytes of the frames from one `Seq` to before another.
    fn concat(&self, from: u64, until: u64) -> Vec<u8> {
        self.frames[(from - self.first_seq) as usize..(until - self.first_seq) as usize].concat()
    }

    /// Like [`Log::position_after`], byte by byte.
    fn position_after(&self, cursor: u64, sent: usize) -> Option<(u64, usize)> {
        if sent == 0 {
            return Some((cursor, 0));
        }
        let index = usize::try_from(cursor.checked_sub(self.first_seq)?).unwrap();
        let mut position = (cursor, 0);
        let mut bytes =
            self.frames.iter().skip(index).flat_map(|frame| (0..frame.len()).map(|at| frame.len() - at - 1));
        for _ in 0..sent {
            let missing = bytes.next()?;
            position = (position.0 + u64::from(position.1 == 0), missing);
        }
        Some(position)
    }
}

/// Positions are random numbers, which are then mapped to what the log holds at that time, and a little beyond.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Append a number of frames of this size.
    Append {
        count: usize,
        frame_bytes: usize,
    },
    /// Append a frame after a number of missing ones.
    Jump {
        missing: u64,
        frame_bytes: usize,
    },
    /// Append a frame that is older than the tip.
    Late {
        back: u64,
    },
    Trim {
        at: u64,
    },
    Shrink {
        held_bytes_max: usize,
    },
    Read {
        at: u64,
        until: Option<u64>,
    },
    PositionAfter {
        at: u64,
        sent: usize,
    },
}

fn frame_bytes() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 2..200usize,
        3 => 200..5000usize,
        1 => COPIED_FRAME_BYTES_MAX - 2..COPIED_FRAME_BYTES_MAX + 3,
        1 => COPIED_FRAME_BYTES_MAX..100 * 1024,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..30usize, frame_bytes()).prop_map(|(count, frame_bytes)| Step::Append {
            count: if frame_bytes > 5000 { 1 } else { count },
            frame_bytes,
        }),
        1 => (1..50u64, frame_bytes()).prop_map(|(missing, frame_bytes)| Step::Jump { missing, frame_bytes }),
        1 => (1..50u64).prop_map(|back| Step::Late { back }),
        2 => any::<u64>().prop_map(|at| Step::Trim { at }),
        1 => (0..200_000usize).prop_map(|held_bytes_max| Step::Shrink { held_bytes_max }),
        6 => (any::<u64>(), any::<Option<u64>>()).prop_map(|(at, until)| Step::Read { at, until }),
        4 => (any::<u64>(), prop_oneof![0..300usize, 0..200_000usize])
            .prop_map(|(at, sent)| Step::PositionAfter { at, sent }),
    ]
}

/// A `Seq` between a little before the oldest frame and a little after the tip.
fn near(model: &Model, at: u64) -> u64 {
    (model.first_seq + at % (model.frames.len() as u64 + 8)).saturating_sub(4)
}

/// A frame that differs from every other frame of the test, and no part of which looks like another.
fn frame(len: usize, serial: &mut u32) -> Bytes {
    *serial += 1;
    let mut value = *serial;
    let bytes = std::iter::repeat_with(|| {
        value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (value >> 24) as u8
    });
    bytes.take(len).collect()
}

/// Bytes allocated for the log's frames.
fn held_bytes(log: &Log) -> usize {
    let chunk_bytes = |stored: &Stored| match &stored.body {
        Body::Copied(chunk) => chunk.capacity(),
        Body::Shared(bytes) => bytes.len(),
    };
    log.chunks.iter().map(chunk_bytes).sum::<usize>() + log.frames.capacity() * FRAME_OVERHEAD_BYTES
}

fn compare_read(log: &Log, model: &Model, cursor: u64, until: u64) -> Option<(Slice, Vec<u8>)> {
    let read = log.read(cursor, until);
    if cursor < model.first_seq {
        assert!(matches!(read, Read::Lapped(first) if first == model.first_seq), "{read:?}");
        return None;
    }
    let until = until.min(model.tip());
    if cursor >= until {
        assert!(matches!(read, Read::AtTip), "{read:?}");
        return None;
    }
    let Read::Frames(slice, next) = read else { panic!("{cursor} is kept, but {read:?}") };
    assert!((cursor + 1..=until).contains(&next), "{cursor} < {next} <= {until}");
    let expected = model.concat(cursor, next);
    assert!(slice.clone().detached() == expected, "other bytes than those of {cursor}..{next}");
    Some((slice, expected))
}

fn run(first_seq: u64, bytes_max: usize, steps: &[Step]) {
    let mut model = Model { bytes_max, first_seq, frames: Vec::new() };
    let mut log = Log::new(first_seq, bytes_max);
    let mut serial = 0;
    let mut largest = 0;
    // What the kernel might still be reading: it must not change, no matter what happens to the log.
    let mut in_flight = Vec::new();
    for step in steps {
        match *step {
            Step::Append { count, frame_bytes } => {
                largest = largest.max(frame_bytes);
                for _ in 0..count {
                    let frame = frame(frame_bytes, &mut serial);
                    log.append(log.tip(), &frame);
                    model.append(model.tip(), frame);
                }
            }
            Step::Jump { missing, frame_bytes } => {
                largest = largest.max(frame_bytes);
                let frame = frame(frame_bytes, &mut serial);
                let seq = model.tip() + missing;
                log.append(seq, &frame);
                model.append(seq, frame);
                assert_eq!((log.first_seq(), log.tip()), (seq, seq + 1), "frames before a hole are dropped");
            }
            Step::Late { back } => log.append(model.tip().saturating_sub(back), &frame(9, &mut serial)),
            Step::Trim { at } => {
                // No member is beyond the tip.
                let seq = near(&model, at).min(model.tip());
                log.trim(seq);
                model.trim(seq);
            }
            Step::Shrink { held_bytes_max } => {
                let before = log.held_bytes();
                log.shrink(held_bytes_max);
                assert!(log.held_bytes() <= held_bytes_max, "{} of {held_bytes_max} held", log.held_bytes());
                assert!(
                    before > held_bytes_max || log.first_seq() == model.first_seq,
                    "nothing is dropped from a log that is small enough"
                );
                model.trim(log.first_seq());
            }
            Step::Read { at, until } => {
                let until = until.map_or(u64::MAX, |at| near(&model, at));
                in_flight.extend(compare_read(&log, &model, near(&model, at), until));
            }
            Step::PositionAfter { at, sent } => {
                let cursor = near(&model, at);
                assert_eq!(log.position_after(cursor, sent), model.position_after(cursor, sent), "{cursor} {sent}");
            }
        }
        assert_eq!((log.first_seq(), log.tip(), log.bytes()), (model.first_seq, model.tip(), model.bytes()));
        assert!(log.bytes() <= bytes_max || model.frames.len() == 1, "{} of {bytes_max} bytes", log.bytes());
        assert!(held_bytes(&log) <= 2 * (bytes_max + largest) + 3 * CHUNK_BYTES_MAX, "{} held", held_bytes(&log));
        let overhead = log.chunks.len() * ALLOCATION_OVERHEAD_BYTES + log.chunks.capacity() * size_of::<Stored>();
        assert_eq!((log.held_bytes(), log.held.bytes()), (held_bytes(&log) + overhead, log.held_bytes()));
        if model.frames.is_empty() {
            assert_eq!(held_bytes(&log), 0, "an emptied log frees its memory");
        }
        in_flight.drain(..in_flight.len().saturating_sub(20));
    }
    // A member that reads everything that is kept gets exactly that.
    let mut cursor = model.first_seq;
    while cursor < model.tip() {
        let (slice, expected) = compare_read(&log, &model, cursor, u64::MAX).expect("it is kept");
        assert_eq!(slice.len(), expected.len());
        let Read::Frames(_, next) = log.read(cursor, u64::MAX) else { unreachable!("just read") };
        cursor = next;
    }
    for (slice, expected) in in_flight {
        assert!(slice.detached() == expected, "bytes changed while the kernel could have been reading them");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_agrees_with_a_plain_vector(
        first_seq in 1..1000u64,
        bytes_max in prop_oneof![1..100usize, 100..4000usize, 4000..400_000usize],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(first_seq, bytes_max, &steps);
    }
}

#[test]
fn many_small_frames_leave_in_few_slices() {
    let mut log = Log::new(1, 1 << 20);
    let mut serial = 0;
    (0..5000).for_each(|_| log.append(log.tip(), &frame(130, &mut serial)));
    let (mut cursor, mut slices) = (log.first_seq(), 0);
    while let Read::Frames(_, next) = log.read(cursor, u64::MAX) {
        (cursor, slices) = (next, slices + 1);
    }
    assert_eq!(cursor, log.tip());
    // 650 kB in chunks that double from 1 KiB to 64 KiB.
    assert!(slices <= 17, "{slices} slices");
}

#[test]
fn a_large_frame_is_shared_and_a_small_one_copied() {
    let mut log = Log::new(1, 1 << 20);
    let mut serial = 0;
    let (small, large) = (frame(COPIED_FRAME_BYTES_MAX, &mut serial), frame(COPIED_FRAME_BYTES_MAX + 1, &mut serial));
    log.append(1, &small);
    log.append(2, &large);
    let pointer = |cursor| match log.read(cursor, u64::MAX) {
        Read::Frames(slice, _) => slice.as_ptr(),
        other => panic!("{other:?}"),
    };
    assert_ne!(pointer(1), small.as_ptr());
    assert_eq!(pointer(2), large.as_ptr());
}

#[test]
fn a_frame_larger_than_the_bound_is_kept_until_the_next_one_comes() {
    let mut log = Log::new(1, 100);
    let mut serial = 0;
    for _ in 0..3 {
        let frame = frame(5000, &mut serial);
        let seq = log.tip();
        log.append(seq, &frame);
        assert_eq!((log.first_seq(), log.tip()), (seq, seq + 1));
        assert!(matches!(log.read(seq, u64::MAX), Read::Frames(slice, _) if slice.len() == 5000));
    }
}
