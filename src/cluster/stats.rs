//! What the thread of the log counts, for `/metrics` and `/readyz`.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::number::Number;
use crate::words::words;

words! {
    /// What becomes of a record.
    pub(crate) enum Published {
        /// The log has stored it.
        Stored = "stored",
        /// It was stored before: the answer to the first attempt was lost.
        Duplicate = "duplicate",
        /// There was no answer in time: it may be stored or not.
        Unavailable = "unavailable",
        /// The log will never take it.
        Refused = "refused",
    }
}

words! {
    /// What becomes of records that were missing.
    pub(crate) enum Repair {
        /// All of them were found.
        Whole = "whole",
        /// The log doesn't have them any more.
        Hole = "hole",
    }
}

/// Upper bounds of the times until a record is stored, in microseconds.
pub(crate) const STORED_MICROS: [u64; 12] =
    [250, 500, 1000, 2000, 5000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_000_000, 10_000_000];

/// Written by the thread of the log, and read by all.
#[derive(Debug, Default)]
pub struct Stats {
    /// Since when the log can't be reached, if it can't.
    away_since: Mutex<Option<Instant>>,
    /// Which log it is: the same number on all servers that share it.
    pub(crate) log: Number,
    pub(crate) away_millis: Number,
    pub(crate) reconnects: Number,
    /// Servers that share the rooms, with this one.
    pub(crate) nodes: Number,
    pub(crate) followed_rooms: Number,
    /// Names of this server's members.
    pub(crate) names: Number,
    published: [Number; Published::ALL.len()],
    pub(crate) stored_times: [Number; STORED_MICROS.len() + 1],
    pub(crate) stored_micros: Number,
    pub(crate) received: Number,
    pub(crate) received_bytes: Number,
    /// Records of rooms that this server doesn't follow.
    pub(crate) unwanted: Number,
    pub(crate) in_flight: Number,
    pub(crate) queue_bytes: Number,
    repairs: [Number; Repair::ALL.len()],
    /// Lives of rooms that have begun while they had members.
    pub(crate) lives: Number,
    pub(crate) reaped_names: Number,
}

impl Stats {
    pub(crate) fn published(&self, outcome: Published) -> &Number {
        &self.published[outcome as usize]
    }

    pub(crate) fn repairs(&self, outcome: Repair) -> &Number {
        &self.repairs[outcome as usize]
    }

    /// A record was stored after this time.
    pub(crate) fn stored_after(&self, time: Duration) {
        let micros = time.as_micros() as u64;
        let range = STORED_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(STORED_MICROS.len());
        self.stored_times[range].add(1);
        self.stored_micros.add(micros);
    }

    pub(crate) fn set_away_since(&self, since: Option<Instant>) {
        *self.away_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// For how long the log has been away, if it is.
    pub(crate) fn away_for(&self) -> Option<Duration> {
        self.away_since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }
}
