//! Many rooms are read at once: for each of them alone, NATS looks at what lies between its records, which are those of other rooms.

use std::collections::HashMap;
use std::rc::Rc;

use async_nats::Message;
use serde_json::json;
use tokio::time::sleep;

use super::stored::rfc3339;
use super::{Nats, Unreachable, header, record};
use crate::cluster::record::Record;
use crate::limits::cluster::{
    LAG_PAUSE, LAGS_MAX, SWEEP_BATCH_BYTES, SWEEP_BATCH_RECORDS, SWEEP_BYTES_MAX, SWEEP_RECORDS_MAX,
};

impl Nats {
    /// The records since then of those of these chat rooms that have some, in order. Of all others it says nothing, and of none if
    /// there are too many records.
    pub(in crate::cluster) async fn sweep(
        &self,
        rooms: &[Rc<str>],
        since_ms: u64,
    ) -> Result<HashMap<Rc<str>, Vec<Record>>, Unreachable> {
        let subjects: HashMap<String, &Rc<str>> = rooms.iter().map(|room| (self.places(room).stored, room)).collect();
        let last = self.reached("chat").await?;
        let mut found = HashMap::<Rc<str>, Vec<Record>>::new();
        if last.last_timestamp.unix_timestamp_nanos() / 1_000_000 < i128::from(since_ms) {
            return Ok(found);
        }
        let read = |message: &Message| {
            let room = subjects.get(message.headers.as_ref()?.get("Nats-Subject")?.as_str());
            let record = room.and_then(|room| Some((Rc::clone(room), record(message)?)));
            Some((header(message, "Nats-Sequence")?, record))
        };
        let all = self.subject("c", "*");
        let since = rfc3339(since_ms).ok_or(Unreachable)?;
        // Large answers: the log writes the rest of one while the first records are read.
        let ask = |from: &str, value: serde_json::Value| {
            let (batch, max_bytes) = (SWEEP_BATCH_RECORDS, SWEEP_BATCH_BYTES);
            json!({from: value, "next_by_subj": all, "batch": batch, "max_bytes": max_bytes})
        };
        let mut question = ask("start_time", since.into());
        let (mut lags, mut bytes) = (0, 0);
        // Other servers than the leader answer this, and may lag.
        while lags < LAGS_MAX {
            let batch = self.ask_batch("chat", &question, read).await?;
            let reached = batch.last().map(|(at, _)| *at);
            let is_long = batch.first().is_some_and(|(at, _)| at + SWEEP_RECORDS_MAX < last.last_sequence);
            for (room, record) in batch.into_iter().filter_map(|(_, record)| record) {
                bytes += record.content.len();
                found.entry(room).or_default().push(record);
            }
            if is_long || bytes > SWEEP_BYTES_MAX {
                return Ok(HashMap::new());
            }
            match reached {
                Some(reached) if reached >= last.last_sequence => return Ok(found),
                Some(reached) => question = ask("seq", (reached + 1).into()),
                None => {
                    lags += 1;
                    sleep(LAG_PAUSE).await;
                }
            }
        }
        Err(Unreachable)
    }
}
