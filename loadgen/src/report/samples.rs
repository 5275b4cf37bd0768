//! Made-up runs for the tests of the outputs.

use hdrhistogram::Histogram;

use crate::results::{
    Audit, Connects, Distribution, Generator, Limit, LimitStep, Machine, OwnTail, PlanSummary, Run, Second, ServerCost,
    Storm, Verdict,
};

/// A distribution whose bulk lies near `middle_us`, with a tail up to `max_us`.
pub(super) fn distribution(middle_us: u64, max_us: u64) -> Distribution {
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    for step in 0..10_000_u64 {
        let position = step as f64 / 10_000.0;
        let tail = (max_us - middle_us) as f64 * position.powi(400);
        let value = middle_us as f64 * (0.5 + position) + tail;
        histogram.record_n((value as u64).min(max_us).max(1), 1000).unwrap();
    }
    histogram.record(max_us).unwrap();
    Distribution::of(&histogram)
}

/// Ten thousand clients, nothing wrong.
pub(super) fn sound() -> Run {
    let second = |second: u32| Second {
        second,
        deliveries: 1_000_000 - u64::from(second * 7919 % 23) * 1000,
        p50_us: 1210,
        p99_us: 8000 + u64::from(second * 7919 % 17) * 100,
        max_us: 21_000,
    };
    Run {
        name: "hi, 10,000 clients".to_owned(),
        command: "loadgen --clients 10000 --rate 100 --json hi.json".to_owned(),
        started_unix_ms: 1_793_525_400_000,
        machine: Machine { cores: 2, processor: "AMD EPYC 7B13".to_owned(), kernel: "Linux 6.18.5".to_owned() },
        plan: PlanSummary {
            target: "ws://127.0.0.1:40123/ws".to_owned(),
            dialect: "chat".to_owned(),
            clients: 10_000,
            rooms: 1,
            publishers: 1,
            rate: 100.0,
            message_bytes: 128,
            duration_seconds: 10.0,
            warmup_seconds: 2.0,
            slow_clients: 0,
            churn_per_second: 0.0,
        },
        cut_short: false,
        verdict: Verdict::Sound,
        deliveries: 9_998_740,
        deliveries_expected: 9_998_740,
        seconds: 10.0,
        deliveries_per_second: 999_874.0,
        latency: distribution(1210, 21_000),
        latency_uncorrected: distribution(1110, 9000),
        timeline: (0..10).map(second).collect(),
        connects: Connects {
            count: 10_001,
            per_second: 9120.4,
            handshake: distribution(900, 40_100),
            server_cpu_us_per_connection: None,
        },
        bytes_received: 1_629_794_620,
        server: Some(ServerCost {
            cpu_us_per_delivery: 0.712,
            cores: 0.71,
            memory_bytes_per_connection: 2365.0,
            resident_bytes: 27_682_406,
        }),
        servers: Vec::new(),
        generator: Generator {
            threads: 1,
            memory_bytes_per_client: 824.0,
            resident_bytes: 14_512_128,
            busiest_thread_share: 0.54,
            send_late: distribution(21, 1200),
            read_late: distribution(60, 3100),
            own_tail: None,
        },
        audit: Audit::default(),
        limit: None,
        storm: None,
    }
}

/// A server that lost, duplicated and reordered messages, and stalled for a second.
pub(super) fn failed() -> Run {
    let mut run = sound();
    run.name = "other, 10,000 clients".to_owned();
    run.verdict = Verdict::Failed(vec![
        "17 messages were lost, 2 duplicated, 1 out of order".to_owned(),
        "1 connection was closed by the server".to_owned(),
    ]);
    run.deliveries = 9_998_723;
    run.deliveries_per_second = 999_872.3;
    run.latency = distribution(2300, 1_020_000);
    run.latency_uncorrected = distribution(2100, 64_000);
    for second in &mut run.timeline {
        second.deliveries -= 60_000 + u64::from(second.second % 3) * 20_000;
        second.p99_us *= if second.second == 6 { 100 } else { 2 };
    }
    run.server = None;
    run.audit = Audit {
        lost: 17,
        doubled: 2,
        reordered: 1,
        closed: 1,
        first: (1..=10).map(|client| format!("client {client} in room 0 never got message {}", client * 31)).collect(),
        ..Audit::default()
    };
    run
}

/// The load generator stalled for half a second of a long run.
pub(super) fn frozen() -> Run {
    let mut run = sound();
    run.name = "stalled for a while".to_owned();
    run.generator.own_tail = Some(OwnTail {
        quantiles: vec!["p99.9".to_owned(), "max".to_owned()],
        sent_late_us: None,
        read_late_us: Some(512_000),
    });
    run.audit.slow_closed = 3;
    run.plan.slow_clients = 100;
    run
}

/// The load generator was the limit.
pub(super) fn invalid() -> Run {
    let mut run = sound();
    run.name = "too fast for one thread".to_owned();
    run.verdict = Verdict::Invalid(vec!["its busiest thread was busy 99 % of the time".to_owned()]);
    run.generator.busiest_thread_share = 0.99;
    run
}

/// Connections that are only held.
pub(super) fn idle() -> Run {
    let mut run = sound();
    run.name = "idle".to_owned();
    run.plan.rate = 0.0;
    run.deliveries = 0;
    run.deliveries_expected = 0;
    run.deliveries_per_second = 0.0;
    run.latency = Distribution::default();
    run.latency_uncorrected = Distribution::default();
    run.timeline.clear();
    run.bytes_received = 0;
    run.generator.send_late = Distribution::default();
    run.generator.read_late = Distribution::default();
    run
}

/// All were cut and reconnected.
pub(super) fn storm() -> Run {
    let mut run = sound();
    run.name = "storm".to_owned();
    run.connects.server_cpu_us_per_connection = Some(31.2);
    run.storm = Some(Storm {
        connections: 10_000,
        missing: 0,
        seconds: 1.352,
        handshake: distribution(410_000, 1_310_000),
        server_cpu_us_per_connection: Some(44.5),
    });
    run
}

/// Rates that rise until the latency passes 50 ms.
pub(super) fn limit() -> Run {
    let step = |rate: f64, p99_us: u64, reason: Option<&str>| LimitStep {
        rate,
        deliveries_per_second: rate.min(160.0) * 10_000.0,
        p50_us: p99_us / 7,
        p99_us,
        held: reason.is_none(),
        reason: reason.map(str::to_owned),
    };
    let mut run = sound();
    run.name = "limit".to_owned();
    run.limit = Some(Limit {
        slo_us: 50_000,
        rate: 150.0,
        deliveries_per_second: 1_500_000.0,
        steps: vec![
            step(50.0, 2100, None),
            step(100.0, 8210, None),
            step(200.0, 1_900_000, Some("p99 is above 50 ms")),
            step(150.0, 31_000, None),
            step(175.0, 410_000, Some("p99 is above 50 ms")),
        ],
    });
    run
}

/// A run with every text hostile.
pub(super) fn hostile() -> Run {
    let hostile = "</text></title></style><script>alert(1)</script> & \"quoted\" 'x' \x1b[2J\0 | a\n| b \u{202e}";
    let mut run = failed();
    for text in [
        &mut run.name,
        &mut run.command,
        &mut run.machine.processor,
        &mut run.machine.kernel,
        &mut run.plan.target,
        &mut run.plan.dialect,
    ] {
        *text = hostile.to_owned();
    }
    run.verdict = Verdict::Failed(vec![hostile.to_owned()]);
    run.audit.first = vec![hostile.to_owned()];
    run.limit = limit().limit;
    run.limit.as_mut().unwrap().steps[2].reason = Some(hostile.to_owned());
    run
}
