use super::*;
use crate::report::samples;
use crate::results::{Distribution, Verdict};

const SOUND: &str = "\
999,874 deliveries per second    2.16 ms p99 delivery latency

load              10,000 clients in 1 room, 1 publisher, 100 messages/s, 128 bytes a message; chat
                  dialect, ws://127.0.0.1:40123/ws
measured          10 s after 2 s of warm-up

latency             corrected    uncorrected
p50                   1.21 ms        1.11 ms
p90                   1.69 ms        1.55 ms
p99                   2.16 ms        1.79 ms
p99.9                 15.1 ms        6.95 ms
max                   21.0 ms        9.01 ms
Corrected counts from the time a message was due: trust this one. Uncorrected leaves out messages
that fell due while the client was still waiting (coordinated omission), so it hides stalls.

deliveries        9,998,740 of 9,998,740 expected (100 %)
each second       min 979,000, median 990,000, max 1,000,000 deliveries
received          1.52 GiB (155 MiB/s)
connects          9,120 per second; handshake p50 900 us, p99 2.04 ms, max 40.1 ms
server            0.712 us CPU time per delivery, 0.710 cores busy; 2.31 KiB memory per connection,
                  26.4 MiB resident
load generator    1 thread, busy 54 % of the time; sends late by p99 52 us, max 1.20 ms; reads late
                  by p99 143 us, max 3.10 ms; 824 B memory per client, 13.8 MiB resident
audit             every client got every message once and in order

sound
";

/// All but the lines of `SOUND`: what is special about a run.
fn special(run: &Run) -> Vec<String> {
    let text = render(run, Screen::default());
    text.lines().filter(|line| !SOUND.lines().any(|usual| usual == *line)).map(str::to_owned).collect()
}

#[test]
fn a_run_cut_short_says_so_first_and_last() {
    let mut run = samples::sound();
    (run.cut_short, run.seconds) = (true, 2.5);
    let text = render(&run, Screen::default());
    let cut = format!("cut short after 2.5 s of {}", crate::report::units::seconds(run.plan.duration_seconds));
    assert!(text.lines().next().unwrap().ends_with(&cut), "{text}");
    assert!(text.contains(&format!("\n{cut}: the verdict covers what was measured until then\n")), "{text}");
    assert!(render_comparison(&[run.clone()]).contains(&cut));
    run.seconds = 0.0;
    run.bytes_received = 0;
    assert!(render(&run, Screen::default()).contains("cut short after 0 s of"));
}

#[test]
fn a_sound_run_reads_like_this() {
    assert_eq!(render(&samples::sound(), Screen::default()), SOUND);
}

#[test]
fn a_failed_run_says_so_first_and_last() {
    let mut expected = vec![
        "999,872 deliveries per second    21.7 ms p99 delivery latency    FAILED: see below",
        "p50                   2.30 ms        2.10 ms",
        "p90                   3.22 ms        2.94 ms",
        "p99                   21.7 ms        4.24 ms",
        "p99.9                  686 ms        44.6 ms",
        "max                    1.02 s        64.0 ms",
        "deliveries        9,998,723 of 9,998,740 expected (99.9998 %)",
        "each second       min 886,000, median 917,000, max 940,000 deliveries",
        "server            CPU and memory unknown: give the server's process with --server-pid PID",
        "audit             17 lost, 2 duplicated, 1 out of order, 1 connection closed or broken",
    ];
    let named: Vec<String> =
        samples::failed().audit.first.iter().map(|named| format!("                  - {named}")).collect();
    expected.extend(named.iter().map(String::as_str));
    expected.extend([
        "FAILED: 17 messages were lost, 2 duplicated, 1 out of order",
        "        1 connection was closed by the server",
    ]);
    assert_eq!(special(&samples::failed()), expected);
}

#[test]
fn latencies_caused_by_the_load_generator_are_named_below_them() {
    let run = samples::frozen();
    assert_eq!(
        special(&run),
        [
            "load              10,000 clients in 1 room, 1 publisher, 100 messages/s, 128 bytes a message, 100",
            "                  slow; chat dialect, ws://127.0.0.1:40123/ws",
            "p99.9 and max are caused by the load generator: it read up to 512 ms late",
            "audit             every client got every message once and in order; 3 slow clients closed as too",
            "                  slow (4101)",
        ]
    );
    let text = render(&run, Screen::default());
    assert!(text.contains("9.01 ms\np99.9 and max are caused"), "directly under the table: {text}");
    let table = render_comparison(&[run, samples::sound()]);
    let told = |label: &str, cells: &str| table.lines().any(|line| line.starts_with(label) && line.contains(cells));
    assert!(told("| loadgen: latencies it caused", "p99.9, max |"), "{table}");
    assert!(told("| audit: slow clients closed (4101)", " 3 |"), "{table}");
}

#[test]
fn an_invalid_run_names_the_load_generator() {
    let lines = special(&samples::invalid());
    assert!(lines[0].ends_with("    INVALID: see below"), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "INVALID: load generator bound: its busiest thread was busy 99 % of the time");
    let mut run = samples::invalid();
    run.verdict = Verdict::Invalid(Vec::new());
    assert!(render(&run, Screen::default()).ends_with("\n\nINVALID: load generator bound\n"));
}

#[test]
fn an_idle_run_is_about_memory_and_connects() {
    let text = render(&samples::idle(), Screen::default());
    let expected = "\
2.31 KiB memory per connection    9,120 connects per second

load              10,000 clients that only hold connections; chat dialect, ws://127.0.0.1:40123/ws
held              10 s
connects          9,120 per second; handshake p50 900 us, p99 2.04 ms, max 40.1 ms
server            0.710 cores busy; 2.31 KiB memory per connection, 26.4 MiB resident
load generator    1 thread; 824 B memory per client, 13.8 MiB resident
audit             no connection was closed; no message was sent

sound
";
    assert_eq!(text, expected);
    let mut run = samples::idle();
    let begins = |run: &Run, begin: &str| assert!(render(run, Screen::default()).starts_with(begin), "{begin}");
    run.server.as_mut().unwrap().memory_bytes_per_connection = 0.0;
    begins(&run, "unknown memory per connection (restart the server)    9,120 connects");
    run.server = None;
    begins(&run, "unknown memory per connection (give --server-pid)    9,120 connects");
}

#[test]
fn a_limit_shows_every_rate_and_its_knee() {
    let expected = [
        "1,500,000 deliveries per second held    31.0 ms p99 at the knee (limit 50 ms)",
        "load              10,000 clients in 1 room, 1 publisher, rising rates, 128 bytes a message; chat",
        "measured          10 s after 2 s of warm-up; figures above the limit are those at the knee",
        "limit: highest rate with p99 within 50 ms",
        "   messages/s/room   deliveries/s        p50        p99",
        "                50        500,000     300 us    2.10 ms   held",
        "               100      1,000,000    1.17 ms    8.21 ms   held",
        "               200      1,600,000     271 ms     1.90 s   p99 is above 50 ms",
        "               150      1,500,000    4.43 ms    31.0 ms   held: the knee",
        "               175      1,600,000    58.6 ms     410 ms   p99 is above 50 ms",
    ];
    assert_eq!(special(&samples::limit()), expected);

    let mut run = samples::limit();
    let limit = run.limit.as_mut().unwrap();
    limit.steps.iter_mut().for_each(|step| step.held = false);
    (limit.rate, limit.deliveries_per_second) = (0.0, 0.0);
    let text = render(&run, Screen::default());
    assert!(text.starts_with("0 deliveries per second held    2.10 ms p99 at the lowest rate (limit 50 ms)\n"));
    assert!(text.contains("no rate was held"));
}

#[test]
fn a_storm_says_when_all_had_reconnected() {
    let expected = [
        "connects          9,120 per second; handshake p50 900 us, p99 2.04 ms, max 40.1 ms; 31.2 us of",
        "                  server CPU time each",
        "storm             10,000 connections cut, all reconnected after 1.35 s; handshake p50 410 ms, p99",
        "                  627 ms, max 1.31 s; 44.5 us of server CPU time each",
    ];
    assert_eq!(special(&samples::storm()), expected);
}

#[test]
fn a_run_without_deliveries_has_no_numbers() {
    let mut run = samples::failed();
    run.deliveries = 0;
    run.deliveries_per_second = 0.0;
    run.latency = Distribution::default();
    run.latency_uncorrected = Distribution::default();
    let text = render(&run, Screen::default());
    assert!(text.starts_with("0 deliveries per second    - p99 delivery latency    FAILED"), "{text}");
    assert!(text.contains("\np99                         -              -\n"), "{text}");
}

#[test]
fn lines_fit_a_terminal_and_colour_changes_nothing_else() {
    let runs =
        [samples::sound(), samples::failed(), samples::invalid(), samples::frozen(), samples::idle(), samples::storm()];
    for run in runs.iter().chain(&[samples::limit(), samples::hostile()]) {
        for (columns, width) in [(None, COLUMNS_MAX), (Some(80), 80), (Some(200), COLUMNS_MAX), (Some(9), COLUMNS_MIN)]
        {
            let text = render(run, Screen { columns, color: false });
            assert!(text.lines().all(|line| line.chars().count() <= width), "{columns:?}: {text}");
        }
        let plain = render(run, Screen::default());
        assert!(!plain.chars().any(|character| character.is_control() && character != '\n'), "{plain}");
        assert!(plain.ends_with('\n') && !plain.contains("\n\n\n"), "{plain}");
        let mut colored = render(run, Screen { color: true, ..Screen::default() });
        for paint in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[1;31m", "\x1b[1;32m"] {
            colored = colored.replace(paint, "");
        }
        assert_eq!(colored, plain);
    }
}

#[test]
fn long_words_are_broken() {
    assert_eq!(wrap("ab cdefghij k", 4), ["ab", "cdef", "ghij", "k"]);
    assert_eq!(wrap("ü", 4), ["ü"]);
    assert_eq!(wrap("", 4), [""]);
}

#[test]
fn a_comparison_is_a_table_in_markdown() {
    let runs = [samples::sound(), samples::hostile(), samples::idle()];
    let text = render_comparison(&runs);
    let table: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    // Bars that a backslash precedes are text.
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(table.iter().all(|line| columns(line) == runs.len() + 2), "{text}");
    assert!(table[1].starts_with("| ---") && table[1].ends_with("-: |"), "{text}");
    let cells = |label: &str| -> Vec<&str> {
        let line = table.iter().find(|line| line.starts_with(&format!("| {label} "))).expect(label);
        line.split('|').skip(2).map(str::trim).filter(|cell| !cell.is_empty()).collect()
    };
    assert_eq!(cells("verdict"), ["sound", "FAILED", "sound"]);
    assert_eq!(cells("deliveries per second"), ["999,874", "999,872", "-"]);
    assert_eq!(cells("latency: p99"), ["2.16 ms", "21.7 ms", "-"]);
    assert_eq!(cells("uncorrected: p99"), ["1.79 ms", "4.24 ms", "-"]);
    assert_eq!(cells("server: memory per connection"), ["2.31 KiB", "-", "2.31 KiB"]);
    assert!(text.contains("\n- hi, 10,000 clients: `loadgen --clients 10000 --rate 100 --json hi.json`\n"), "{text}");
    assert!(!text.contains("storm:"), "rows that say nothing are left out: {text}");
}
