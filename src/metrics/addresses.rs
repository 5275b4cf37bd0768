//! What addresses are refused, as metrics.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::scrape::Page;
use crate::address::table::{AddressLimit, AddressTable};

/// `hi_address_limited_total{limit}`, `hi_addresses` and `hi_addresses_untracked_total`.
#[derive(Debug)]
pub(crate) struct AddressMetric(pub(crate) Arc<AddressTable>);

impl Collector for AddressMetric {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let refused = AddressLimit::ALL.map(|limit| (limit.as_str(), self.0.refused(limit)));
        let help = "Handshakes and chat messages refused because their address has or does too much, by the limit";
        page.family("hi_address_limited", help, None, MetricType::Counter, "limit", refused)?;
        page.gauge("hi_addresses", "Addresses with limits that are connected, or were lately", self.0.len() as u64)?;
        let help = "Handshakes from addresses that were not limited because too many others were";
        page.counter("hi_addresses_untracked", help, None, self.0.untracked())
    }
}
