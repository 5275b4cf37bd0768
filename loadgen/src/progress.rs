//! Progress of a run: a live line on a terminal, a plain line every few seconds in a pipe.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::plan::Plan;
use crate::printable::{printable, printable_lines};
use crate::results::LimitStep;

/// Time between two lines in a pipe.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time between two changes of the line on a terminal.
const FRAME_EVERY: Duration = Duration::from_millis(200);

/// Time over which deliveries per second are averaged: the threads report less often than the line changes.
const RATE_OVER: Duration = Duration::from_secs(1);

/// Prints a line on stderr. A closed stderr ends no run, and whatever the line quotes is made harmless.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable_lines(line));
}

/// How fast messages arrive.
struct Rate {
    since: Instant,
    deliveries: u64,
    per_second: Option<f64>,
}

impl Rate {
    /// The latest rate, if there has been time to count one.
    fn next(last: &mut Option<Self>, now: Instant, deliveries: u64) -> Option<f64> {
        let rate = last.get_or_insert(Self { since: now, deliveries, per_second: None });
        if now - rate.since >= RATE_OVER {
            let arrived = deliveries.saturating_sub(rate.deliveries) as f64;
            let per_second = Some(arrived / (now - rate.since).as_secs_f64());
            *rate = Self { since: now, deliveries, per_second };
        }
        rate.per_second
    }
}

/// The progress of a run, on stderr.
pub struct Display {
    bar: Option<ProgressBar>,
    quiet: bool,
    connections: usize,
    last: Option<(Instant, String)>,
    rate: Option<Rate>,
}

impl Display {
    /// Starts with a line that says what is measured.
    pub fn new(plan: &Plan, url: &str, private: bool) -> Self {
        let live = !plan.quiet && std::io::stderr().is_terminal();
        let bar = live.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").expect("a valid template"));
            bar
        });
        if !plan.quiet {
            let whose = if private { " (a private hi)" } else { "" };
            let (clients, rooms, s) = (plan.clients, plan.rooms, if plan.rooms == 1 { "" } else { "s" });
            say(&format!("{url}{whose}: {clients} clients in {rooms} room{s}, {}", plan.dialect.name()));
        }
        Self { bar, quiet: plan.quiet, connections: plan.connections(), last: None, rate: None }
    }

    /// Shows how far the run is.
    pub fn show(
        &mut self,
        phase: &str,
        open: usize,
        deliveries: u64,
        left: Duration,
        latency: impl FnOnce() -> Option<Histogram<u64>>,
    ) {
        let now = Instant::now();
        let every = if self.bar.is_some() { FRAME_EVERY } else { LINE_EVERY };
        let due = self.last.as_ref().is_none_or(|(at, last)| now - *at >= every || last != phase);
        if self.quiet || !due {
            return;
        }
        if self.last.as_ref().is_none_or(|(_, last)| last != phase) {
            self.rate = None;
        }
        self.last = Some((now, phase.to_owned()));
        let rate = Rate::next(&mut self.rate, now, deliveries);
        let mut line = phase.to_owned();
        if !matches!(phase, "connecting" | "reconnecting" | "draining") {
            line.push_str(&format!(", {:.0} s left", left.as_secs_f64().ceil()));
        }
        match self.connections {
            all if all == open => line.push_str(&format!(": {open} connected")),
            all => line.push_str(&format!(": {open}/{all} connected")),
        }
        if deliveries > 0 {
            if let Some(rate) = rate {
                line.push_str(&format!(", {rate:.0} deliveries/s"));
            }
            if let Some(latency) = latency() {
                let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
                line.push_str(&format!(", p50 {:.1}, p99 {:.1} ms", ms(0.5), ms(0.99)));
            }
        }
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => say(&line),
        }
    }

    /// A rate of `--find-limit` has been tried.
    pub fn step(&self, step: &LimitStep) {
        if self.quiet {
            return;
        }
        let outcome = step.reason.as_deref().unwrap_or("held");
        let line = format!(
            "rate {:.1}/s: {:.0} deliveries/s, p50 {:.1} ms, p99 {:.1} ms: {outcome}",
            step.rate,
            step.deliveries_per_second,
            step.p50_us as f64 / 1e3,
            step.p99_us as f64 / 1e3
        );
        match &self.bar {
            Some(bar) => bar.println(printable(&line)),
            None => say(&line),
        }
    }

    /// The run is over.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_counted_over_a_second() {
        let (mut rate, start) = (None, Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let shown: Vec<_> = [(0, 0), (200, 0), (400, 250), (1000, 500), (1200, 500), (2000, 1500)]
            .map(|(ms, deliveries)| Rate::next(&mut rate, at(ms), deliveries))
            .into();
        assert_eq!(shown, [None, None, None, Some(500.0), Some(500.0), Some(1000.0)]);
    }
}
