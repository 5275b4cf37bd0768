//! `--find-limit`: raises the rate until it is not held, then narrows down the knee.

use std::time::Duration;

use crate::drive::{Driver, Measured};
use crate::faults::Faults;
use crate::results::{Distribution, Limit, LimitStep};
use crate::verdict::bound;

/// Factor by which `--find-limit` raises the rate until it isn't held.
const LIMIT_FACTOR: f64 = 1.6;
/// How many times the interval is halved after that.
const LIMIT_REFINEMENTS: usize = 3;
/// Steps at most.
const LIMIT_STEPS_MAX: usize = 30;
/// Start of the reason of a step that the load generator couldn't hold.
const BOUND: &str = "load generator bound";

impl Driver {
    /// Raises the rate until it isn't held, then narrows down the knee.
    pub(super) fn find_limit(&mut self, slo: Duration) -> Result<(Measured, Limit), String> {
        let slo_us = slo.as_micros() as u64;
        let plan = self.shared.plan.clone();
        let mut steps: Vec<LimitStep> = Vec::new();
        let (mut held, mut best): (Option<f64>, Option<Measured>) = (None, None);
        let mut broken: Option<f64> = None;
        let mut rate = plan.rate;
        let mut refinements = 0;
        let mut handshake = None;
        let mut inexcusable = Faults::default();
        while steps.len() < LIMIT_STEPS_MAX && refinements <= LIMIT_REFINEMENTS {
            let measured = self.steady(rate, plan.warmup, plan.duration, None)?;
            let mut step = self.judge_step(&measured, rate, slo_us);
            if self.cut_short {
                (step.held, step.reason) = (false, Some("cut short".to_owned()));
            }
            self.display.step(&step);
            handshake.get_or_insert_with(|| measured.all.handshake.clone());
            inexcusable.add(measured.all.faults.inexcusable());
            let holds = step.held;
            steps.push(step);
            if holds {
                held = Some(held.unwrap_or(0.0).max(rate));
                best = Some(measured);
            } else {
                broken = Some(broken.unwrap_or(f64::INFINITY).min(rate));
                best.get_or_insert(measured);
            }
            if self.cut_short || self.open() == 0 {
                // Out of time, or the server is gone.
                break;
            }
            rate = match (held, broken) {
                (Some(held), Some(broken)) => {
                    refinements += 1;
                    (held * broken).sqrt()
                }
                (_, None) => rate * LIMIT_FACTOR,
                (None, Some(broken)) if broken < 0.1 => break,
                (None, Some(broken)) => broken / 4.0,
            };
            if self.step(rate, plan.warmup, plan.duration).is_none() {
                break;
            }
        }
        let knee = steps.iter().filter(|step| step.held).max_by(|a, b| a.rate.total_cmp(&b.rate));
        let limit = Limit {
            slo_us,
            rate: knee.map_or(0.0, |step| step.rate),
            deliveries_per_second: knee.map_or(0.0, |step| step.deliveries_per_second),
            steps,
        };
        let mut best = best.expect("at least one step was taken");
        best.all.handshake = handshake.expect("at least one step was taken");
        best.all.faults.replace_inexcusable(inexcusable);
        Ok((best, limit))
    }

    fn judge_step(&self, measured: &Measured, rate: f64, slo_us: u64) -> LimitStep {
        let latency = Distribution::of(&measured.all.latency);
        let faults = &measured.all.faults;
        let generator = self.generator(measured, &latency);
        let wrong: Vec<String> = [
            (faults.lost, "messages lost"),
            (faults.closed, "connections closed"),
            (faults.doubled, "messages doubled"),
            (faults.reordered, "out of order"),
            (faults.disordered, "in another order than at other clients"),
            (faults.holes, "numbers left out"),
            (faults.unrecovered, "not recovered"),
            (faults.astray, "from another room"),
            (faults.damaged, "cut off or altered"),
            (measured.all.refused, "refused"),
            (measured.all.unanswered, "never answered"),
            (measured.all.unsendable, "not sent: no connection"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        let reason = if let Some(reason) = bound(&measured.all, &generator, &latency).into_iter().next() {
            Some(format!("{BOUND}: {reason}"))
        } else if !wrong.is_empty() {
            Some(wrong.join(", "))
        } else if latency.p99_us > slo_us {
            Some(format!("p99 {:.1} ms", latency.p99_us as f64 / 1e3))
        } else {
            None
        };
        LimitStep {
            rate,
            deliveries_per_second: measured.all.deliveries as f64 / measured.seconds.max(1e-9),
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            held: reason.is_none(),
            reason,
        }
    }
}

/// Whether the knee is the load generator's own, and what shows it.
pub(super) fn own_limit(limit: &Limit) -> Option<String> {
    let broken = limit.steps.iter().filter(|step| !step.held).min_by(|a, b| a.rate.total_cmp(&b.rate))?;
    let reason = broken.reason.as_ref()?.strip_prefix(BOUND)?.trim_start_matches(": ");
    Some(format!("the server may hold more than was found: at {:.1} messages/s, {reason}", broken.rate))
}
