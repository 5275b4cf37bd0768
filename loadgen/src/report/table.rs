//! The rows of the tables that compare runs.

use crate::report::facts::{self, Quantile};
use crate::report::units::{self, bytes, count, number, percent, seconds, short, time};
use crate::results::{Distribution, Run, ServerCost, Storm};

/// A group of rows.
pub(super) struct Section {
    /// Its heading, where sections have one.
    pub(super) title: &'static str,
    /// Precedes each label where sections have no heading.
    pub(super) prefix: &'static str,
    rows: Rows,
}

enum Rows {
    /// One by one.
    Listed(&'static [Row]),
    /// The quantiles of a distribution.
    Quantiles(fn(&Run) -> &Distribution),
}

struct Row {
    label: &'static str,
    cell: fn(&Run) -> Option<String>,
}

impl Section {
    /// The rows that have a value for at least one run: a label, and a cell for each run.
    pub(super) fn filled(&self, runs: &[Run]) -> Vec<(&'static str, Vec<String>)> {
        let rows: Vec<(&str, Vec<Option<String>>)> = match self.rows {
            Rows::Listed(rows) => rows.iter().map(|row| (row.label, runs.iter().map(row.cell).collect())).collect(),
            Rows::Quantiles(times) => facts::QUANTILES
                .into_iter()
                .map(|(label, quantile)| (label, runs.iter().map(|run| spent(times(run), quantile)).collect()))
                .collect(),
        };
        rows.into_iter()
            .filter(|(_, cells)| cells.iter().any(Option::is_some))
            .map(|(label, cells)| (label, cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".into())).collect()))
            .collect()
    }
}

const fn row(label: &'static str, cell: fn(&Run) -> Option<String>) -> Row {
    Row { label, cell }
}

/// Deliveries, counted.
pub(super) const DELIVERIES: Section = Section {
    title: "Deliveries",
    prefix: "",
    rows: Rows::Listed(&[
        row("deliveries per second", |run| busy(run, number(run.deliveries_per_second))),
        row("deliveries", |run| busy(run, count(run.deliveries))),
        row("share of expected", |run| busy(run, units::part(run.deliveries, run.deliveries_expected))),
        row("slowest second", |run| facts::seconds_spread(run).and_then(|spread| busy(run, count(spread[0])))),
        row("median second", |run| facts::seconds_spread(run).and_then(|spread| busy(run, count(spread[1])))),
        row("fastest second", |run| facts::seconds_spread(run).and_then(|spread| busy(run, count(spread[2])))),
        row("bytes received", |run| busy(run, bytes(run.bytes_received as f64))),
    ]),
};

/// Delivery latencies, corrected and uncorrected.
pub(super) const LATENCIES: [Section; 2] = [
    Section { title: "Delivery latency", prefix: "latency: ", rows: Rows::Quantiles(|run| &run.latency) },
    Section {
        title: "Delivery latency, uncorrected",
        prefix: "uncorrected: ",
        rows: Rows::Quantiles(|run| &run.latency_uncorrected),
    },
];

/// All the rest.
pub(super) const SECTIONS: &[Section] = &[
    Section {
        title: "Server",
        prefix: "server: ",
        rows: Rows::Listed(&[
            row("CPU time per delivery", |run| server(run, |server| time(server.cpu_us_per_delivery), true)),
            row("cores busy", |run| server(run, |server| number(server.cores), false)),
            row("memory per connection", |run| server(run, |server| bytes(server.memory_bytes_per_connection), false)),
            row("resident memory", |run| server(run, |server| bytes(server.resident_bytes as f64), false)),
        ]),
    },
    Section {
        title: "Connects",
        prefix: "",
        rows: Rows::Listed(&[
            row("connections", |run| Some(count(run.connects.count))),
            row("connects per second", |run| Some(number(run.connects.per_second))),
            row("handshake p50", |run| spent(&run.connects.handshake, |times| times.p50_us)),
            row("handshake p99", |run| spent(&run.connects.handshake, |times| times.p99_us)),
            row("handshake max", |run| spent(&run.connects.handshake, |times| times.max_us)),
            row("server CPU time each", |run| run.connects.server_cpu_us_per_connection.map(time)),
        ]),
    },
    Section {
        title: "Storm",
        prefix: "storm: ",
        rows: Rows::Listed(&[
            row("connections cut", |run| storm(run, |storm| count(storm.connections))),
            row("not reconnected", |run| occurred(run.storm.as_ref()?.missing)),
            row("all reconnected after", |run| {
                run.storm.as_ref().filter(|storm| storm.missing == 0).map(|storm| time(storm.seconds * 1e6))
            }),
            row("handshake p50", |run| storm(run, |storm| facts::time_of(&storm.handshake, |times| times.p50_us))),
            row("handshake p99", |run| storm(run, |storm| facts::time_of(&storm.handshake, |times| times.p99_us))),
            row("handshake max", |run| storm(run, |storm| facts::time_of(&storm.handshake, |times| times.max_us))),
            row("server CPU time each", |run| run.storm.as_ref()?.server_cpu_us_per_connection.map(time)),
        ]),
    },
    Section {
        title: "Limit",
        prefix: "limit: ",
        rows: Rows::Listed(&[
            row("p99 latency allowed", |run| Some(units::time_short(run.limit.as_ref()?.slo_us as f64))),
            row("messages/s in each room held", |run| Some(short(run.limit.as_ref()?.rate))),
            row("deliveries per second held", |run| Some(number(run.limit.as_ref()?.deliveries_per_second))),
        ]),
    },
    Section {
        title: "Audit",
        prefix: "audit: ",
        rows: Rows::Listed(&[
            row("lost", |run| busy(run, count(run.audit.lost))),
            row("lost and announced", |run| busy(run, count(run.audit.announced))),
            row("duplicated", |run| busy(run, count(run.audit.doubled))),
            row("out of order", |run| busy(run, count(run.audit.reordered))),
            row("from another room", |run| busy(run, count(run.audit.astray))),
            row("cut off or altered", |run| occurred(run.audit.damaged)),
            row("connections closed or broken", |run| Some(count(run.audit.closed))),
            row("closed as too slow (4101)", |run| occurred(run.audit.closed_as_too_slow)),
            row("slow clients closed (4101)", |run| (run.plan.slow_clients > 0).then(|| count(run.audit.slow_closed))),
            row("messages never sent", |run| occurred(run.audit.never_sent)),
            row("not sent: no connection", |run| occurred(run.audit.unsendable)),
        ]),
    },
    Section {
        title: "Load generator",
        prefix: "loadgen: ",
        rows: Rows::Listed(&[
            row("threads", |run| Some(count(run.generator.threads as u64))),
            row("busiest thread", |run| busy(run, percent(run.generator.busiest_thread_share))),
            row("sends late, p99", |run| spent(&run.generator.send_late, |times| times.p99_us)),
            row("sends late, max", |run| spent(&run.generator.send_late, |times| times.max_us)),
            row("reads late, p99", |run| spent(&run.generator.read_late, |times| times.p99_us)),
            row("reads late, max", |run| spent(&run.generator.read_late, |times| times.max_us)),
            row("latencies it caused", |run| {
                run.generator.own_tail.as_ref().map(|own| units::printable(&own.quantiles.join(", ")))
            }),
            row("memory per client", |run| Some(bytes(run.generator.memory_bytes_per_client))),
            row("resident memory", |run| Some(bytes(run.generator.resident_bytes as f64))),
        ]),
    },
    Section {
        title: "Load",
        prefix: "",
        rows: Rows::Listed(&[
            row("target", |run| Some(units::printable(&run.plan.target))),
            row("dialect", |run| Some(units::printable(&run.plan.dialect))),
            row("clients", |run| Some(count(run.plan.clients as u64))),
            row("rooms", |run| Some(count(run.plan.rooms as u64))),
            row("publishers per room", |run| busy(run, count(run.plan.publishers as u64))),
            row("messages/s in each room", |run| {
                busy(run, if run.limit.is_some() { "rising".to_owned() } else { short(run.plan.rate) })
            }),
            row("bytes per message", |run| busy(run, count(run.plan.message_bytes as u64))),
            row("slow clients", |run| positive(run.plan.slow_clients as f64)),
            row("reconnects per second (churn)", |run| positive(run.plan.churn_per_second)),
            row("duration", |run| Some(seconds(run.plan.duration_seconds))),
            row("warm-up before", |run| busy(run, seconds(run.plan.warmup_seconds))),
        ]),
    },
    Section {
        title: "Machine",
        prefix: "",
        rows: Rows::Listed(&[
            row("cores for loadgen", |run| Some(count(run.machine.cores as u64))),
            row("processor", |run| Some(units::printable(&run.machine.processor))),
            row("kernel", |run| Some(units::printable(&run.machine.kernel))),
            row("when", |run| Some(units::date(run.started_unix_ms))),
        ]),
    },
];

/// A cell that an idle run doesn't have.
fn busy(run: &Run, cell: String) -> Option<String> {
    (!facts::is_idle(run)).then_some(cell)
}

fn occurred(number: u64) -> Option<String> {
    (number > 0).then(|| count(number))
}

fn positive(value: f64) -> Option<String> {
    (value > 0.0).then(|| short(value))
}

fn spent(times: &Distribution, quantile: Quantile) -> Option<String> {
    (times.count > 0).then(|| time(quantile(times) as f64))
}

fn server(run: &Run, cell: fn(&ServerCost) -> String, of_deliveries: bool) -> Option<String> {
    run.server.as_ref().filter(|_| !(of_deliveries && facts::is_idle(run))).map(cell)
}

fn storm(run: &Run, cell: fn(&Storm) -> String) -> Option<String> {
    run.storm.as_ref().map(cell)
}
