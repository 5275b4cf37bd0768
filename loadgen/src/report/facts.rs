//! Sentences that all outputs share: the headline, the verdict, the audit and the load.

use crate::report::units;
use crate::results::{Distribution, LimitStep, Run, Verdict};

/// One sentence on latencies that the load generator itself caused.
pub(super) fn own_tail(run: &Run) -> Option<String> {
    let own = run.generator.own_tail.as_ref()?;
    let are = if own.quantiles.len() > 1 { "are" } else { "is" };
    let late = |word: &str, late_us: Option<u64>| Some(format!("{word} up to {} late", units::time(late_us? as f64)));
    let lates: Vec<String> =
        [late("sent", own.sent_late_us), late("read", own.read_late_us)].into_iter().flatten().collect();
    let quantiles = units::printable(&own.quantiles.join(" and "));
    Some(format!("{quantiles} {are} caused by the load generator: it {}", lates.join(" and ")))
}

/// Explains the two columns of latencies.
pub(super) const UNCORRECTED: &str = "Corrected counts from the time a message was due: trust this one. Uncorrected \
     leaves out messages that fell due while the client was still waiting (coordinated omission), so it hides stalls.";

/// One number of a distribution, in microseconds.
pub(super) type Quantile = fn(&Distribution) -> u64;

/// The five latencies of a table, each with its name.
pub(super) const QUANTILES: [(&str, Quantile); 5] = [
    ("p50", |distribution| distribution.p50_us),
    ("p90", |distribution| distribution.p90_us),
    ("p99", |distribution| distribution.p99_us),
    ("p99.9", |distribution| distribution.p999_us),
    ("max", |distribution| distribution.max_us),
];

/// A time of a distribution, or `-` if nothing was measured.
pub(super) fn time_of(distribution: &Distribution, quantile: Quantile) -> String {
    if distribution.count == 0 { "-".to_owned() } else { units::time(quantile(distribution) as f64) }
}

/// A number and what it counts.
pub(super) struct Figure {
    /// With its unit.
    pub(super) value: String,
    /// What it is.
    pub(super) label: String,
}

/// The two headline numbers.
pub(super) fn headline(run: &Run) -> [Figure; 2] {
    let figure = |value: String, label: &str| Figure { value, label: label.to_owned() };
    if is_idle(run) {
        let memory = match &run.server {
            Some(server) if server.memory_bytes_per_connection > 0.0 => {
                figure(units::bytes(server.memory_bytes_per_connection), "memory per connection")
            }
            // It had already held this many connections before.
            Some(_) => figure("unknown".to_owned(), "memory per connection (restart the server)"),
            None => figure("unknown".to_owned(), "memory per connection (give --server-pid)"),
        };
        return [memory, figure(units::number(run.connects.per_second), "connects per second")];
    }
    if let Some(limit) = &run.limit {
        let slo = units::time_short(limit.slo_us as f64);
        let (step, which) = match knee(run) {
            Some(step) => (Some(step), "at the knee"),
            None => (limit.steps.first(), "at the lowest rate"),
        };
        let p99 = step.map_or_else(|| "-".to_owned(), |step| units::time(step.p99_us as f64));
        return [
            figure(units::number(limit.deliveries_per_second), "deliveries per second held"),
            figure(p99, &format!("p99 {which} (limit {slo})")),
        ];
    }
    [
        figure(units::number(run.deliveries_per_second), "deliveries per second"),
        figure(time_of(&run.latency, |latency| latency.p99_us), "p99 delivery latency"),
    ]
}

/// Whether nothing was published on purpose.
pub(super) fn is_idle(run: &Run) -> bool {
    run.plan.rate == 0.0 && run.deliveries == 0
}

/// The step of `--find-limit` at the limit; none if no rate was held.
pub(super) fn knee(run: &Run) -> Option<&LimitStep> {
    let limit = run.limit.as_ref()?;
    limit.steps.iter().rev().find(|step| step.held && step.rate == limit.rate)
}

/// The verdict, and its reasons.
pub(super) fn verdict(run: &Run) -> (&'static str, Vec<String>) {
    let printable = |reasons: &[String]| reasons.iter().map(|reason| units::printable(reason)).collect();
    match &run.verdict {
        Verdict::Sound => ("sound", Vec::new()),
        Verdict::Failed(reasons) => ("FAILED", printable(reasons)),
        Verdict::Invalid(reasons) => ("INVALID: load generator bound", printable(reasons)),
    }
}

/// The verdict's first word, where there is little room.
pub(super) fn verdict_word(run: &Run) -> &'static str {
    match &run.verdict {
        Verdict::Sound => "sound",
        Verdict::Failed(_) => "FAILED",
        Verdict::Invalid(_) => "INVALID",
    }
}

/// Says that a signal ended the run early, and when.
pub(super) fn cut_short(run: &Run) -> Option<String> {
    let (came, wanted) = (units::seconds(run.seconds), units::seconds(run.plan.duration_seconds));
    match run.limit {
        _ if !run.cut_short => None,
        Some(_) => Some("cut short: not every rate was tried".to_owned()),
        None => Some(format!("cut short after {came} of {wanted}")),
    }
}

/// Deliveries in the slowest, median and fastest second; none if there was no whole second.
pub(super) fn seconds_spread(run: &Run) -> Option<[u64; 3]> {
    // A second cut short by the end of the run doesn't count as slow.
    let whole = |second: u32| f64::from(second) + 1.0 <= run.seconds + 0.1;
    let mut deliveries: Vec<u64> =
        run.timeline.iter().filter(|second| whole(second.second)).map(|second| second.deliveries).collect();
    deliveries.sort_unstable();
    Some([*deliveries.first()?, deliveries[deliveries.len() / 2], *deliveries.last()?])
}

/// The load in one sentence.
pub(super) fn load(run: &Run) -> String {
    let plan = &run.plan;
    let mut text = units::plural(plan.clients as u64, "client");
    if is_idle(run) {
        text += " that only hold connections";
    } else {
        text += &format!(" in {}", units::plural(plan.rooms as u64, "room"));
        let each = if plan.rooms == 1 { "" } else { " in each" };
        let rate = if run.limit.is_some() {
            "rising rates".to_owned()
        } else if plan.rate == 1.0 {
            "1 message/s".to_owned()
        } else {
            format!("{} messages/s", units::short(plan.rate))
        };
        text += &format!(
            ", {}{each}, {rate}{each}, {} a message",
            units::plural(plan.publishers as u64, "publisher"),
            units::plural(plan.message_bytes as u64, "byte")
        );
    }
    if plan.slow_clients > 0 {
        text += &format!(", {} slow", units::count(plan.slow_clients as u64));
    }
    if plan.churn_per_second > 0.0 {
        text += &format!(", {} a second leave and reconnect", units::short(plan.churn_per_second));
    }
    text += &format!("; {} dialect, {}", plan.dialect, plan.target);
    units::printable(&text)
}

/// What each of several servers did.
pub(super) fn servers(run: &Run) -> Option<String> {
    let of_each = run.servers.iter().map(|server| {
        let (connects, deliveries) = (units::plural(server.connects, "connect"), units::count(server.deliveries));
        format!("{}: {connects}, {deliveries} deliveries", units::printable(&server.url))
    });
    (!run.servers.is_empty()).then(|| of_each.collect::<Vec<_>>().join("; "))
}

/// The audit in one sentence.
pub(super) fn audit(run: &Run) -> String {
    let audit = &run.audit;
    let unannounced = audit.lost.saturating_sub(audit.announced);
    let mut wrong = Vec::new();
    let counts = [
        (unannounced, "lost"),
        (audit.doubled, "duplicated"),
        (audit.reordered, "out of order"),
        (audit.disordered, "in another order than at other clients"),
        (audit.holes, "numbers left out"),
        (audit.unrecovered, "times told that what was missed is lost"),
        (audit.astray, "from another room"),
        (audit.damaged, "cut off or altered"),
    ];
    for (number, word) in counts.into_iter().filter(|(number, _)| *number > 0) {
        wrong.push(format!("{} {word}", units::count(number)));
    }
    if audit.closed > 0 {
        let too_slow = match audit.closed_as_too_slow {
            0 => String::new(),
            number => format!(", {} of them as too slow (4101)", units::count(number)),
        };
        wrong.push(format!("{} closed or broken{too_slow}", units::plural(audit.closed, "connection")));
    }
    let announced = match audit.announced {
        0 => String::new(),
        number => format!("{} lost and announced by the server", units::count(number)),
    };
    let found = match (wrong.is_empty(), announced.is_empty()) {
        (true, true) if is_idle(run) => "no connection was closed; no message was sent".to_owned(),
        (true, true) => "every client got every message once and in order".to_owned(),
        (true, false) => format!("every client got every message once and in order, but {announced}"),
        (false, true) => wrong.join(", "),
        (false, false) => format!("{}; in addition, {announced}", wrong.join(", ")),
    };
    let recovered = (audit.recovered > 0).then(|| {
        let clients = units::plural(audit.recovered, "reconnected client");
        format!("{clients} recovered, with {} replayed", units::plural(audit.replayed, "message"))
    });
    std::iter::once(found).chain(recovered).chain(worth_knowing(run)).collect::<Vec<_>>().join("; ")
}

/// Facts worth knowing that are no fault of the server.
fn worth_knowing(run: &Run) -> impl Iterator<Item = String> {
    let audit = &run.audit;
    [
        (audit.slow_closed, "slow client", "closed as too slow (4101)"),
        (audit.never_sent, "message", "never sent"),
        (audit.unsendable, "message", "not sent: no connection"),
        (audit.refused, "message", "refused by the server"),
        (audit.unanswered, "message", "never answered by the server"),
    ]
    .into_iter()
    .filter(|(number, ..)| *number > 0)
    .map(|(number, noun, what)| format!("{} {what}", units::plural(number, noun)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;
    use crate::results::{Audit, OwnTail, Second, ServerShare};

    #[test]
    fn a_second_cut_short_is_not_the_slowest() {
        let mut run = samples::sound();
        let second = |second, deliveries| Second { second, deliveries, p50_us: 1, p99_us: 2, max_us: 3 };
        run.seconds = 2.5;
        run.timeline = vec![second(0, 10), second(1, 12), second(2, 5)];
        assert_eq!(seconds_spread(&run), Some([10, 12, 12]));
        run.timeline.clear();
        assert_eq!(seconds_spread(&run), None);
    }

    #[test]
    fn announced_losses_are_reported_separately() {
        let mut run = samples::sound();
        (run.audit.lost, run.audit.announced) = (12, 12);
        assert_eq!(
            audit(&run),
            "every client got every message once and in order, but 12 lost and announced by the server"
        );
        (run.audit.lost, run.audit.doubled) = (15, 1);
        assert_eq!(audit(&run), "3 lost, 1 duplicated; in addition, 12 lost and announced by the server");
    }

    #[test]
    fn several_servers_and_recoveries_are_told() {
        let mut run = samples::sound();
        assert_eq!(servers(&run), None);
        let server = |url: &str, deliveries| ServerShare { url: url.to_owned(), connects: 1, deliveries };
        run.servers = vec![server("ws://a", 1234), server("ws://b", 0)];
        assert_eq!(servers(&run).unwrap(), "ws://a: 1 connect, 1,234 deliveries; ws://b: 1 connect, 0 deliveries");
        (run.audit.recovered, run.audit.replayed, run.audit.disordered) = (2, 1, 3);
        assert_eq!(
            audit(&run),
            "3 in another order than at other clients; 2 reconnected clients recovered, with 1 message replayed"
        );
    }

    #[test]
    fn other_facts_follow_the_audit() {
        let mut run = samples::sound();
        run.audit.slow_closed = 1;
        assert_eq!(
            audit(&run),
            "every client got every message once and in order; 1 slow client closed as too slow (4101)"
        );
        run.audit = Audit { lost: 3, astray: 2, closed: 2, closed_as_too_slow: 1, ..Audit::default() };
        (run.audit.never_sent, run.audit.unsendable) = (1000, 1);
        assert_eq!(
            audit(&run),
            "3 lost, 2 from another room, 2 connections closed or broken, 1 of them as too slow (4101); 1,000 messages \
             never sent; 1 message not sent: no connection"
        );
    }

    #[test]
    fn latencies_caused_by_the_load_generator_are_named() {
        let mut run = samples::sound();
        assert_eq!(own_tail(&run), None);
        let own = |quantiles: &[&str], sent_late_us, read_late_us| OwnTail {
            quantiles: quantiles.iter().map(|name| (*name).to_owned()).collect(),
            sent_late_us,
            read_late_us,
        };
        run.generator.own_tail = Some(own(&["p99.9", "max"], None, Some(512_000)));
        assert_eq!(
            own_tail(&run).unwrap(),
            "p99.9 and max are caused by the load generator: it read up to 512 ms late"
        );
        run.generator.own_tail = Some(own(&["max"], Some(30_000), Some(41_200)));
        assert_eq!(
            own_tail(&run).unwrap(),
            "max is caused by the load generator: it sent up to 30.0 ms late and read up to 41.2 ms late"
        );
    }
}
