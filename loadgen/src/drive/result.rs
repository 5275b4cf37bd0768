//! Turns what the threads counted into the numbers of a run.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::drive::{Driver, per_connection_us};
use crate::faults::Faults;
use crate::os;
use crate::results::{Audit, Connects, Distribution, Generator, Machine, Run, Second, ServerCost, ServerShare};
use crate::stats::{Collected, ServerCount};
use crate::target::Endpoint;
use crate::verdict::{own_tail, verdict};

/// What one step measured, across all threads.
pub(super) struct Measured {
    pub(super) all: Collected,
    pub(super) busiest: f64,
    /// Our own, in bytes.
    pub(super) resident: u64,
    pub(super) seconds: f64,
    pub(super) server: Option<(Duration, Duration)>,
}

impl Driver {
    /// How busy and how late the load generator itself was.
    pub(super) fn generator(&self, measured: &Measured, latency: &Distribution) -> Generator {
        let send_late = Distribution::of(&measured.all.send_late);
        let read_late = Distribution::of(&measured.all.read_late);
        let grown = measured.resident.saturating_sub(self.own_resident_before);
        Generator {
            threads: self.shared.threads,
            memory_bytes_per_client: grown as f64 / self.shared.plan.clients as f64,
            resident_bytes: measured.resident,
            busiest_thread_share: measured.busiest,
            own_tail: own_tail(&send_late, &read_late, latency),
            send_late,
            read_late,
        }
    }

    /// What each server did, if there are several.
    fn servers(&self, all: &Collected) -> Vec<ServerShare> {
        let endpoints = Some(&self.shared.members_at).filter(|endpoints| endpoints.len() > 1);
        let share = |(endpoint, count): (&Endpoint, &ServerCount)| ServerShare {
            url: endpoint.shown.clone(),
            connects: count.connects,
            deliveries: count.deliveries,
        };
        endpoints.into_iter().flatten().zip(&all.servers).map(share).collect()
    }

    pub(super) fn result(&self, measured: &Measured, connections: u64) -> Run {
        let Measured { all, seconds, server, .. } = measured;
        let latency = Distribution::of(&all.latency);
        let generator = self.generator(measured, &latency);
        let audit = audit(all);
        let resident = self.pid.and_then(os::process_resident_bytes).unwrap_or(0);
        Run {
            name: String::new(),
            command: String::new(),
            started_unix_ms: 0,
            machine: Machine { cores: 0, processor: String::new(), kernel: String::new() },
            plan: self.shared.plan.summary(""),
            cut_short: self.cut_short,
            verdict: verdict(all, &audit, &generator, &latency),
            deliveries: all.deliveries,
            deliveries_expected: all.deliveries + all.lost_measured,
            seconds: *seconds,
            deliveries_per_second: all.deliveries as f64 / seconds.max(1e-9),
            latency,
            latency_uncorrected: Distribution::of(&all.uncorrected),
            timeline: all.timeline.iter().enumerate().map(second).collect(),
            connects: Connects {
                count: connections,
                per_second: connections as f64 / self.connect_seconds.max(1e-9),
                handshake: Distribution::of(&all.handshake),
                server_cpu_us_per_connection: self.connect_cpu.map(|cpu| per_connection_us(cpu, connections as usize)),
            },
            bytes_received: all.bytes,
            server: server.map(|(after, before)| {
                // Saturating, because the time of threads that ended meanwhile is missing.
                let spent = after.saturating_sub(before).as_secs_f64();
                ServerCost {
                    cpu_us_per_delivery: if all.deliveries == 0 { 0.0 } else { spent * 1e6 / all.deliveries as f64 },
                    cores: spent / seconds.max(1e-9),
                    memory_bytes_per_connection: 0.0,
                    resident_bytes: resident,
                }
            }),
            servers: self.servers(all),
            generator,
            audit,
            limit: None,
            storm: None,
        }
    }
}

fn audit(all: &Collected) -> Audit {
    let faults = all.faults.clone();
    let Faults { lost, doubled, reordered, astray, damaged, announced, closed, too_slow, first, .. } = faults;
    Audit {
        disordered: faults.disordered,
        holes: faults.holes,
        recovered: all.recovered,
        replayed: all.replayed,
        unrecovered: faults.unrecovered,
        refused: all.refused,
        unanswered: all.unanswered,
        lost,
        doubled,
        reordered,
        astray,
        damaged,
        announced: announced.min(lost),
        closed,
        closed_as_too_slow: too_slow,
        slow_closed: all.slow_closed,
        never_sent: all.never_sent,
        unsendable: all.unsendable,
        first,
    }
}

fn second((index, histogram): (usize, &Histogram<u64>)) -> Second {
    Second {
        second: index as u32,
        deliveries: histogram.len(),
        p50_us: histogram.value_at_quantile(0.5),
        p99_us: histogram.value_at_quantile(0.99),
        max_us: histogram.max(),
    }
}
