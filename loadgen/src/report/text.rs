//! The text printed after a run, and the table that compares runs.

use std::iter::once;

use crate::report::table::{DELIVERIES, LATENCIES, SECTIONS};
use crate::report::{facts, units};
use crate::results::{Connects, Distribution, Limit, Run};

/// Characters per line at most.
const COLUMNS_MAX: usize = 100;
/// Characters per line even on a narrower terminal.
const COLUMNS_MIN: usize = 72;
/// Column at which the text after a label begins.
const INDENT: usize = 18;

/// Where a text is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Screen {
    /// Width in characters, if it is a terminal of known width.
    pub columns: Option<usize>,
    /// Whether to use colours.
    pub color: bool,
}

/// The result of a run, for a person.
pub fn render(run: &Run, screen: Screen) -> String {
    let columns = screen.columns.unwrap_or(COLUMNS_MAX).clamp(COLUMNS_MIN, COLUMNS_MAX);
    let mut page = Page { text: String::new(), columns, color: screen.color };
    page.headline(run);
    page.blank();
    page.paragraph("load", &facts::load(run));
    let which = match &run.limit {
        Some(limit) if limit.rate > 0.0 => "; figures above the limit are those at the knee",
        _ => "",
    };
    let (measured, warmup) = (units::seconds(run.seconds), units::seconds(run.plan.warmup_seconds));
    if facts::is_idle(run) {
        page.paragraph("held", &measured);
    } else {
        page.paragraph("measured", &format!("{measured} after {warmup} of warm-up{which}"));
        page.latencies(run);
        page.deliveries(run);
    }
    let Connects { per_second, handshake, server_cpu_us_per_connection, .. } = &run.connects;
    let (spread_out, each) = (spread(handshake), each_cost(*server_cpu_us_per_connection));
    page.paragraph("connects", &format!("{} per second; handshake {spread_out}{each}", units::number(*per_second)));
    if let Some(servers) = facts::servers(run) {
        page.paragraph("servers", &servers);
    }
    page.paragraph("server", &server(run));
    page.paragraph("load generator", &generator(run));
    if let Some(storm) = &run.storm {
        let connections = units::plural(storm.connections, "connection");
        let time = units::time(storm.seconds * 1e6);
        let back = match storm.missing {
            0 => format!("all reconnected after {time}"),
            missing => format!("{} not reconnected after {time}", units::count(missing)),
        };
        let (spread_out, each) = (spread(&storm.handshake), each_cost(storm.server_cpu_us_per_connection));
        page.paragraph("storm", &format!("{connections} cut, {back}; handshake {spread_out}{each}"));
    }
    if let Some(limit) = &run.limit {
        page.limit(run, limit);
    }
    page.audit(run);
    page.blank();
    page.verdict(run);
    page.text
}

/// A comparison of runs, as a Markdown table.
pub fn render_comparison(runs: &[Run]) -> String {
    let mut rows = vec![
        (String::new(), runs.iter().map(|run| run.name.clone()).collect()),
        ("verdict".to_owned(), runs.iter().map(|run| facts::verdict_word(run).to_owned()).collect()),
    ];
    for section in once(&DELIVERIES).chain(&LATENCIES).chain(SECTIONS) {
        let labelled = |(label, cells)| (format!("{}{label}", section.prefix), cells);
        rows.extend(section.filled(runs).into_iter().map(labelled));
    }
    let mut text = markdown(&rows);
    for run in runs {
        let (verdict, mut reasons) = facts::verdict(run);
        reasons.extend(facts::cut_short(run));
        if !reasons.is_empty() {
            text += &format!("\n- {}: {verdict}: {}", markdown_cell(&run.name), markdown_cell(&reasons.join("; ")));
        }
    }
    text += "\n";
    for run in runs {
        // A code span may contain backticks if it is enclosed in more of them.
        let fence = if run.command.contains('`') { "``` " } else { "`" };
        let end: String = fence.chars().rev().collect();
        text += &format!("- {}: {fence}{}{end}\n", markdown_cell(&run.name), units::printable(&run.command));
    }
    text
}

/// A Markdown table whose columns are also aligned in plain text. The first row is the head.
fn markdown(rows: &[(String, Vec<String>)]) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|(label, cells)| std::iter::once(label).chain(cells).map(|cell| markdown_cell(cell)).collect())
        .collect();
    let columns = cells.first().map_or(0, Vec::len);
    let width = |column: usize| cells.iter().map(|row: &Vec<String>| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|column| width(column).max(3)).collect();
    let mut text = String::new();
    for (index, row) in cells.iter().enumerate() {
        text += &format!("| {:<1$} |", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            text += &format!(" {cell:>width$} |");
        }
        text.push('\n');
        if index == 0 {
            text += &format!("| {} |", "-".repeat(widths[0]));
            widths.iter().skip(1).for_each(|width| text += &format!(" {}: |", "-".repeat(width - 1)));
            text.push('\n');
        }
    }
    text
}

fn markdown_cell(text: &str) -> String {
    units::printable(text).replace('|', "\\|").replace('<', "&lt;")
}

fn spread(times: &Distribution) -> String {
    let of = |quantile| facts::time_of(times, quantile);
    format!("p50 {}, p99 {}, max {}", of(|times| times.p50_us), of(|times| times.p99_us), of(|times| times.max_us))
}

/// What connecting cost the server, if known.
fn each_cost(us: Option<f64>) -> String {
    us.map_or_else(String::new, |us| format!("; {} of server CPU time each", units::time(us)))
}

fn server(run: &Run) -> String {
    let Some(server) = &run.server else {
        if !run.servers.is_empty() {
            return "CPU and memory unknown, as there are several".to_owned();
        }
        return "CPU and memory unknown: give the server's process with --server-pid PID".to_owned();
    };
    let cores = if server.cores == 1.0 { "core" } else { "cores" };
    let mut text = format!("{} {cores} busy", units::number(server.cores));
    if !facts::is_idle(run) {
        text = format!("{} CPU time per delivery, {text}", units::time(server.cpu_us_per_delivery));
    }
    let memory = units::bytes(server.memory_bytes_per_connection);
    format!("{text}; {memory} memory per connection, {} resident", units::bytes(server.resident_bytes as f64))
}

fn generator(run: &Run) -> String {
    let generator = &run.generator;
    let busiest = units::percent(generator.busiest_thread_share);
    let mut text = units::plural(generator.threads as u64, "thread");
    match generator.threads {
        _ if facts::is_idle(run) => {}
        1 => text += &format!(", busy {busiest} of the time"),
        _ => text += &format!(", the busiest {busiest} of the time"),
    }
    for (name, late) in [("sends", &generator.send_late), ("reads", &generator.read_late)] {
        if late.count > 0 {
            let (p99, max) = (units::time(late.p99_us as f64), units::time(late.max_us as f64));
            text += &format!("; {name} late by p99 {p99}, max {max}");
        }
    }
    let memory = units::bytes(generator.memory_bytes_per_client);
    text + &format!("; {memory} memory per client, {} resident", units::bytes(generator.resident_bytes as f64))
}

/// The text so far, its width, and whether to colour it.
struct Page {
    text: String,
    columns: usize,
    color: bool,
}

impl Page {
    fn headline(&mut self, run: &Run) {
        let figures = facts::headline(run);
        let warning =
            Some(facts::verdict_word(run)).filter(|word| *word != "sound").map(|word| format!("{word}: see below"));
        let warning =
            facts::cut_short(run).into_iter().chain(warning).reduce(|cut, warning| format!("{cut}; {warning}"));
        let plain = figures.iter().map(|figure| format!("{} {}", figure.value, figure.label)).chain(warning.clone());
        let together = plain.map(|part| part.chars().count() + 4).sum::<usize>() - 4 <= self.columns;
        let painted = figures.iter().map(|figure| format!("{} {}", self.paint("1", &figure.value), figure.label));
        let parts: Vec<_> = painted.chain(warning.map(|warning| self.paint("1;31", &warning))).collect();
        self.line(&parts.join(if together { "    " } else { "\n" }));
    }

    fn latencies(&mut self, run: &Run) {
        self.blank();
        let heads = ["latency", "corrected", "uncorrected"];
        self.line(&format!("{:<INDENT$}{:>11}{:>15}", heads[0], heads[1], heads[2]));
        for (name, quantile) in facts::QUANTILES {
            let corrected = facts::time_of(&run.latency, quantile);
            let uncorrected = facts::time_of(&run.latency_uncorrected, quantile);
            self.line(&format!("{name:<INDENT$}{corrected:>11}{uncorrected:>15}"));
        }
        if let Some(own) = facts::own_tail(run) {
            wrap(&own, self.columns).iter().for_each(|line| self.line(&self.paint("1;31", line)));
        }
        let explanation = wrap(facts::UNCORRECTED, self.columns);
        explanation.iter().for_each(|line| self.line(&self.paint("2", line)));
        self.blank();
    }

    fn deliveries(&mut self, run: &Run) {
        let (got, expected) = (units::count(run.deliveries), units::count(run.deliveries_expected));
        let part = units::part(run.deliveries, run.deliveries_expected);
        self.paragraph("deliveries", &format!("{got} of {expected} expected ({part})"));
        if let Some(spread) = facts::seconds_spread(run) {
            let [slowest, median, fastest] = spread.map(units::count);
            self.paragraph("each second", &format!("min {slowest}, median {median}, max {fastest} deliveries"));
        }
        let each_second = units::bytes(run.bytes_received as f64 / run.seconds.max(1e-9));
        self.paragraph("received", &format!("{} ({each_second}/s)", units::bytes(run.bytes_received as f64)));
    }

    fn limit(&mut self, run: &Run, limit: &Limit) {
        let slo = units::time_short(limit.slo_us as f64);
        self.blank();
        self.line(&format!("limit: highest rate with p99 within {slo}"));
        let heads = ["messages/s/room", "deliveries/s", "p50", "p99"];
        self.line(&format!("{:>18}{:>15}{:>11}{:>11}", heads[0], heads[1], heads[2], heads[3]));
        for step in &limit.steps {
            let (rate, deliveries) = (units::short(step.rate), units::number(step.deliveries_per_second));
            let (p50, p99) = (units::time(step.p50_us as f64), units::time(step.p99_us as f64));
            let knee = facts::knee(run).is_some_and(|knee| std::ptr::eq(knee, step));
            let word = match (knee, step.held, &step.reason) {
                (true, ..) => "held: the knee".to_owned(),
                (_, true, _) => "held".to_owned(),
                (.., Some(reason)) => units::printable(reason),
                (.., None) => "not held".to_owned(),
            };
            let figures = format!("{rate:>18}{deliveries:>15}{p50:>11}{p99:>11}   ");
            let indent = " ".repeat(figures.len());
            for (index, line) in wrap(&word, self.columns - indent.len()).iter().enumerate() {
                self.line(&format!("{}{line}", if index == 0 { &figures } else { &indent }));
            }
        }
        if facts::knee(run).is_none() {
            let by_latency = limit.steps.iter().any(|step| step.p99_us > limit.slo_us);
            let hint = if by_latency { ": start from a lower --rate, or give a higher --slo" } else { "" };
            self.line(&format!("no rate was held{hint}"));
        }
        self.blank();
    }

    fn audit(&mut self, run: &Run) {
        self.paragraph("audit", &facts::audit(run));
        for named in &run.audit.first {
            let lines = wrap(&units::printable(named), self.columns - INDENT - 2);
            for (index, line) in lines.iter().enumerate() {
                let bullet = if index == 0 { "- " } else { "  " };
                self.line(&format!("{:INDENT$}{bullet}{line}", ""));
            }
        }
    }

    /// One line per reason, so that tools can find whole reasons.
    fn verdict(&mut self, run: &Run) {
        if let Some(cut) = facts::cut_short(run) {
            self.line(&self.paint("1;31", &format!("{cut}: the verdict covers what was measured until then")));
        }
        let (word, reasons) = facts::verdict(run);
        if reasons.is_empty() {
            let color = if word == "sound" { "1;32" } else { "1;31" };
            self.line(&self.paint(color, word));
            return;
        }
        let lead = format!("{word}: ");
        for (index, reason) in reasons.iter().enumerate() {
            let lead = if index == 0 { lead.clone() } else { " ".repeat(lead.len()) };
            for (index, line) in wrap(reason, self.columns - lead.len()).iter().enumerate() {
                let lead = if index == 0 { lead.clone() } else { " ".repeat(lead.len()) };
                self.line(&self.paint("1;31", &format!("{lead}{line}")));
            }
        }
    }

    /// A label, and a text next to it.
    fn paragraph(&mut self, label: &str, text: &str) {
        for (index, line) in wrap(text, self.columns - INDENT).iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            self.line(&format!("{label:<INDENT$}{line}"));
        }
    }

    fn line(&mut self, line: &str) {
        self.text += line.trim_end();
        self.text.push('\n');
    }

    /// An empty line, but never two in a row.
    fn blank(&mut self) {
        if !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// Text in a colour or weight (an SGR parameter of ECMA-48), if colours are used.
    fn paint(&self, parameter: &str, text: &str) -> String {
        if self.color { format!("\x1b[{parameter}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Wraps words into lines of at most `columns` characters, and breaks longer words.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut length = word.chars().count();
        if used > 0 && used + 1 + length > columns {
            lines.push(String::new());
            used = 0;
        }
        if used > 0 {
            lines.last_mut().expect("there is always one").push(' ');
            used += 1;
        }
        let mut rest: String = word.to_owned();
        while length > columns {
            let tail = rest.split_off(rest.char_indices().nth(columns).map_or(rest.len(), |(index, _)| index));
            lines.last_mut().expect("there is always one").push_str(&rest);
            lines.push(String::new());
            rest = tail;
            length -= columns;
        }
        lines.last_mut().expect("there is always one").push_str(&rest);
        used += length;
    }
    lines
}

#[cfg(test)]
mod tests;
