//! `hi_handshake_failures_total`: whoever refuses handshakes counts them, by reason and by the hop that is the likely
//! cause.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Handshakes that failed for one reason at one hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeFailures {
    /// What is wrong, in a word of a fixed list: never something that a client chose.
    pub reason: String,
    /// Who is the likely cause: the client, the proxy, ...
    pub hop: String,
    /// How many.
    pub count: u64,
}

type Count = Box<dyn Fn() -> Vec<HandshakeFailures> + Send + Sync>;

/// Asks whoever counts.
#[derive(Clone, Default)]
pub(super) struct Handshakes(Arc<Mutex<Option<Count>>>);

impl Handshakes {
    pub(super) fn count_with(&self, count: Count) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(count);
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshakes")
    }
}

impl Collector for Handshakes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests for a WebSocket that were refused, by reason and by the hop that is the likely cause";
        let mut metric = encoder.encode_descriptor("hi_handshake_failures", help, None, MetricType::Counter)?;
        let count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for HandshakeFailures { reason, hop, count } in count.as_ref().map(|count| count()).unwrap_or_default() {
            let labels = [("reason", reason.as_str()), ("hop", hop.as_str())];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}
