//! The page: everything about one or more runs, in one self-contained file.

use std::iter::once;

use crate::report::table::{DELIVERIES, SECTIONS};
use crate::report::units::escape;
use crate::report::{chart, facts, units};
use crate::results::{Run, Verdict};

const STYLE: &str = include_str!("page.css");

/// The page of one or more runs. It is also well-formed XML, and its policy forbids scripts and requests.
pub fn page(runs: &[Run]) -> String {
    let title = match runs {
        [run] => escape(&run.name),
        _ => format!("Comparison of {}", units::plural(runs.len() as u64, "run")),
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <title>{title} - loadgen</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    );
    page += "<div class=\"runs\">\n";
    for (index, run) in runs.iter().enumerate() {
        page += &card(run, index, runs.len() > 1);
    }
    page += "</div>\n";
    let chart = chart::svg(&runs.iter().collect::<Vec<_>>());
    page += &format!("<figure>\n{chart}</figure>\n");
    page += &latencies(runs);
    for run in runs {
        page += &limit_steps(run, runs.len() > 1);
    }
    page += &sections(runs);
    page += &named_messages(runs);
    page += "<h2>Made by</h2>\n";
    for run in runs {
        if runs.len() > 1 {
            page += &format!("<h3>{}</h3>\n", escape(&run.name));
        }
        page += &format!("<pre><code>{}</code></pre>\n", escape(&run.command));
    }
    page += "</main>\n</body>\n</html>\n";
    page
}

/// A run's headline and verdict.
fn card(run: &Run, index: usize, named: bool) -> String {
    let mut text = format!("<article class=\"run c{}\">\n", index % chart::COLORS.len());
    if named {
        text += &format!("<h3>{}</h3>\n", escape(&run.name));
    }
    let (word, reasons) = facts::verdict(run);
    let class = match run.verdict {
        Verdict::Sound => "sound",
        Verdict::Failed(_) => "failed",
        Verdict::Invalid(_) => "invalid",
    };
    let verdict = match class {
        "sound" => format!("<p class=\"sound\">{word}</p>\n"),
        _ => {
            let reasons: String = reasons.iter().map(|reason| format!("<li>{}</li>", escape(reason))).collect();
            let reasons = if reasons.is_empty() { reasons } else { format!("<ul>{reasons}</ul>") };
            format!("<div class=\"verdict {class}\"><strong>{word}</strong>{reasons}</div>\n")
        }
    };
    let cut = facts::cut_short(run).map(|cut| format!("<p class=\"own\">{}</p>\n", escape(&cut)));
    text += &cut.unwrap_or_default();
    // A warning precedes the numbers it is about.
    let (before, after) = if class == "sound" { ("", verdict.as_str()) } else { (verdict.as_str(), "") };
    text += before;
    text += "<div class=\"figures\">\n";
    for figure in facts::headline(run) {
        let (value, label) = (escape(&figure.value), escape(&figure.label));
        text += &format!("<div class=\"figure\"><b>{value}</b><span>{label}</span></div>\n");
    }
    text += "</div>\n";
    text += after;
    text += &format!("<p>{}</p>\n", escape(&facts::load(run)));
    if let Some(servers) = facts::servers(run) {
        text += &format!("<p>{}</p>\n", escape(&servers));
    }
    let audit = escape(&facts::audit(run));
    text += &format!("<p>Audit: {audit}.</p>\n");
    let (cores, when) = (units::plural(run.machine.cores as u64, "core"), units::date(run.started_unix_ms));
    let (processor, kernel) = (escape(&run.machine.processor), escape(&run.machine.kernel));
    text + &format!("<p class=\"faint\">{processor}, {cores}, {kernel}; {when}</p>\n</article>\n")
}

/// A table of corrected and uncorrected latencies.
fn latencies(runs: &[Run]) -> String {
    let runs: Vec<&Run> = runs.iter().filter(|run| run.latency.count > 0).collect();
    if runs.is_empty() {
        return String::new();
    }
    let mut text = "<h2>Delivery latency</h2>\n".to_owned();
    let class = if runs.len() > 1 { "scroll" } else { "scroll alone" };
    text += &format!("<div class=\"{class}\">\n<table>\n<thead>\n");
    if runs.len() > 1 {
        let names = runs.iter().map(|run| format!("<th colspan=\"2\">{}</th>", escape(&run.name)));
        text += &format!("<tr><th></th>{}</tr>\n", names.collect::<String>());
    }
    let columns = "<th>corrected</th><th>uncorrected</th>".repeat(runs.len());
    text += &format!("<tr><th></th>{columns}</tr>\n</thead>\n<tbody>\n");
    for (name, quantile) in facts::QUANTILES {
        let class = if name == "p99" { " class=\"strong\"" } else { "" };
        text += &format!("<tr{class}><th>{name}</th>");
        for run in &runs {
            let corrected = facts::time_of(&run.latency, quantile);
            let uncorrected = facts::time_of(&run.latency_uncorrected, quantile);
            text += &format!("<td>{corrected}</td><td class=\"quiet\">{uncorrected}</td>");
        }
        text += "</tr>\n";
    }
    text += "</tbody>\n</table>\n</div>\n";
    for run in &runs {
        if let Some(own) = facts::own_tail(run) {
            let name = if runs.len() > 1 { format!("{}: ", escape(&run.name)) } else { String::new() };
            text += &format!("<p class=\"own below\">{name}{}.</p>\n", escape(&own));
        }
    }
    text + &format!("<p class=\"faint below\">{}</p>\n", escape(facts::UNCORRECTED))
}

/// The steps of `--find-limit`.
fn limit_steps(run: &Run, named: bool) -> String {
    let Some(limit) = &run.limit else { return String::new() };
    let slo = units::time_short(limit.slo_us as f64);
    let name = if named { format!(" of {}", escape(&run.name)) } else { String::new() };
    let mut text = format!(
        "<h2>Limit{name}: p99 within {slo}</h2>\n<div class=\"scroll\">\n<table>\n<thead>\n<tr><th>messages/s in each \
         room</th><th>deliveries per second</th><th>p50</th><th>p99</th><th>held</th></tr>\n</thead>\n<tbody>\n"
    );
    for step in &limit.steps {
        let knee = facts::knee(run).is_some_and(|knee| std::ptr::eq(knee, step));
        let word = match (knee, step.held, &step.reason) {
            (true, ..) => "yes: the knee".to_owned(),
            (_, true, _) => "yes".to_owned(),
            (.., Some(reason)) => format!("no: {}", escape(reason)),
            (.., None) => "no".to_owned(),
        };
        let cells = [
            units::number(step.deliveries_per_second),
            units::time(step.p50_us as f64),
            units::time(step.p99_us as f64),
        ];
        let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
        let class = if knee { " class=\"strong\"" } else { "" };
        text +=
            &format!("<tr{class}><th>{}</th>{cells}<td class=\"words\">{word}</td></tr>\n", units::short(step.rate));
    }
    text + "</tbody>\n</table>\n</div>\n"
}

fn sections(runs: &[Run]) -> String {
    let many = runs.len() > 1;
    let mut text = format!("<div class=\"facts{}\">\n", if many { " many" } else { "" });
    let names: String = runs.iter().map(|run| format!("<th>{}</th>", escape(&run.name))).collect();
    for section in once(&DELIVERIES).chain(SECTIONS) {
        let rows = section.filled(runs);
        if rows.is_empty() {
            continue;
        }
        text += "<section class=\"scroll\">\n";
        let head = if many { names.as_str() } else { "<th></th>" };
        text += &format!("<table>\n<thead>\n<tr><th>{}</th>{head}</tr>\n</thead>\n<tbody>\n", section.title);
        for (label, cells) in rows {
            let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
            text += &format!("<tr><th>{}</th>{cells}</tr>\n", escape(label));
        }
        text += "</tbody>\n</table>\n</section>\n";
    }
    text + "</div>\n"
}

/// The first faults that the audit found.
fn named_messages(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs.iter().filter(|run| !run.audit.first.is_empty()) {
        let items: String = run.audit.first.iter().map(|named| format!("<li>{}</li>\n", escape(named))).collect();
        text += &format!(
            "<h2>First faults found by the audit: {}</h2>\n<ul class=\"named\">\n{items}</ul>\n",
            escape(&run.name)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;
    use plotters::style::RGBColor;

    /// The page's text and the names of its elements, if it is well-formed.
    fn read(page: &str) -> (String, Vec<String>) {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(page, options).unwrap();
        let texts = document.descendants().filter(|node| node.is_text()).filter_map(|node| node.text());
        let text: String = texts.collect::<Vec<_>>().join(" ");
        let names =
            document.descendants().filter(|node| node.is_element()).map(|node| node.tag_name().name().to_owned());
        (text, names.collect())
    }

    #[test]
    fn a_page_says_what_the_run_found() {
        let (text, _) = read(&page(&[samples::sound()]));
        for said in
            ["999,874", "deliveries per second", "2.16 ms", "sound", "loadgen --clients 10000", "AMD EPYC", "2.31 KiB"]
        {
            assert!(text.contains(said), "{said}");
        }
    }

    #[test]
    fn bad_verdicts_precede_the_numbers() {
        for (run, word) in [(samples::failed(), "FAILED"), (samples::invalid(), "INVALID: load generator bound")] {
            let page = page(&[samples::sound(), run.clone()]);
            let (text, _) = read(&page);
            let (Verdict::Failed(reasons) | Verdict::Invalid(reasons)) = &run.verdict else { unreachable!() };
            assert!(reasons.iter().all(|reason| text.contains(reason.as_str())));
            let card = &page[page.find("<article class=\"run c1\">").unwrap()..];
            assert!(card.find(word).unwrap() < card.find("<div class=\"figures\">").unwrap());
        }
    }

    #[test]
    fn latencies_caused_by_the_load_generator_are_named() {
        let own = "p99.9 and max are caused by the load generator: it read up to 512 ms late.";
        let (text, _) = read(&page(&[samples::frozen()]));
        assert!(text.contains(own) && text.contains("3 slow clients closed as too slow (4101)"));
        let (text, _) = read(&page(&[samples::sound(), samples::frozen()]));
        assert!(text.contains(&format!("stalled for a while: {own}")));
    }

    #[test]
    fn every_kind_of_run_makes_a_well_formed_page() {
        let runs = [samples::idle(), samples::storm(), samples::limit(), samples::failed(), samples::invalid()];
        runs.iter().for_each(|run| drop(read(&page(std::slice::from_ref(run)))));
        let (text, _) = read(&page(&runs));
        assert!(text.contains("Comparison of 5 runs"));
        assert!(
            text.contains("yes: the knee")
                && text.contains("all reconnected after")
                && text.contains("client 10 in room 0")
        );
        read(&page(&[]));
    }

    #[test]
    fn hostile_names_stay_text() {
        let (text, names) = read(&page(&[samples::hostile(), samples::sound()]));
        assert!(text.contains("</text></title></style><script>alert(1)</script> & \"quoted\" 'x'"));
        assert!(!names.iter().any(|name| name == "script"));
        assert_eq!(names.iter().filter(|name| *name == "style").count(), 1);
    }

    #[test]
    fn a_page_makes_no_requests() {
        let page = page(&[samples::sound(), samples::failed()]);
        for asks in ["src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(asks), "{asks}");
        }
        let addresses: Vec<_> = page.match_indices("http").map(|(at, _)| &page[at..at + 26]).collect();
        // These attributes name a language and a header: neither is fetched.
        assert!(
            addresses.iter().all(|it| it.starts_with("http://www.w3.org/2000/svg") || it.starts_with("http-equiv"))
        );
    }

    #[test]
    fn the_dark_page_knows_every_colour_of_the_chart() {
        let hex = |color: &RGBColor| format!("\"#{:02X}{:02X}{:02X}\"", color.0, color.1, color.2);
        let colors = [chart::PAPER, chart::INK, chart::FAINT_INK, chart::AXIS, chart::GRID];
        for color in colors.iter().chain(&chart::COLORS) {
            assert!(STYLE.contains(&hex(color)), "{}", hex(color));
        }
    }
}
