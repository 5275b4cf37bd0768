//! The `loadgen` command.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use loadgen::options::{Command, CommandLine, Options};
use loadgen::outputs::{Files, Output, each_its_own};
use loadgen::progress::say;
use loadgen::report::text::Screen;
use loadgen::results::Run;
use loadgen::secrets::without_secrets_of_urls;
use loadgen::{drive, interrupt, os, report};

/// Exit code for bad options, targets and files.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let outcome = match CommandLine::try_parse() {
        Ok(CommandLine { command: Some(Command::Report { runs, html, svg }), .. }) => {
            compare(&runs, html.as_ref(), svg.as_ref())
        }
        Ok(line) => measure(line.run),
        Err(answer) => tell(&answer),
    };
    match outcome {
        Ok(code) => code,
        Err(sentence) => {
            say(&sentence);
            ExitCode::from(if interrupt::has_come() { interrupt::exit_code() } else { EXIT_USAGE })
        }
    }
}

fn measure(options: Options) -> Result<ExitCode, String> {
    let plan = options.plan()?;
    interrupt::watch()?;
    let files = Files::create(&plan.outputs)?;
    let shown: Vec<_> = words().map(|word| without_secrets_of_urls(&word)).collect();
    let run = drive::run(plan, shown.join(" "))?;
    write_all(files, &run)?;
    show(&report::text::render(&run, screen()))?;
    Ok(ExitCode::from(if run.cut_short { interrupt::exit_code() } else { run.verdict.exit_code() }))
}

/// The words of the command line.
fn words() -> impl Iterator<Item = String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned())
}

/// Prints an answer of the command line's parser: help and version on stdout, complaints on stderr.
fn tell(answer: &clap::Error) -> Result<ExitCode, String> {
    if !answer.use_stderr() {
        let printed = answer.print().and_then(|()| std::io::stdout().flush());
        return shown(printed).map(|()| ExitCode::SUCCESS);
    }
    // A complaint repeats words, perhaps a URL where none belongs. If it can't be written, the exit code remains.
    let text = answer.to_string();
    let masked = words().fold(text.clone(), |text, word| text.replace(&word, &without_secrets_of_urls(&word)));
    let _ = if masked == text { answer.print() } else { std::io::stderr().write_all(masked.as_bytes()) };
    Ok(ExitCode::from(EXIT_USAGE))
}

/// Writes to stdout.
fn show(text: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout();
    shown(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Reports a failed write to stdout. A reader that has left has read enough.
fn shown(written: std::io::Result<()>) -> Result<(), String> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("stdout can't be written: {error}.")),
        _ => Ok(()),
    }
}

/// The screen that the result is shown on.
fn screen() -> Screen {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return Screen::default();
    }
    Screen {
        columns: os::terminal_columns(&stdout),
        color: std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()),
    }
}

fn write_all(files: Files, run: &Run) -> Result<(), String> {
    if let Some(file) = files.json {
        file.write(
            &serde_json::to_vec_pretty(run)
                .map_err(|error| format!("the result can't be written as JSON: {error}."))?,
        )?;
    }
    if let Some(file) = files.hgrm {
        let mut bytes = Vec::new();
        report::hgrm::write(&run.latency, &mut bytes)
            .map_err(|error| format!("the histogram can't be written: {error}."))?;
        file.write(&bytes)?;
    }
    if let Some(file) = files.html {
        file.write(report::html::page(std::slice::from_ref(run)).as_bytes())?;
    }
    if let Some(file) = files.svg {
        file.write(report::chart::svg(&[run]).as_bytes())?;
    }
    Ok(())
}

fn compare(paths: &[PathBuf], html: Option<&PathBuf>, svg: Option<&PathBuf>) -> Result<ExitCode, String> {
    let runs = paths.iter().map(report::load).collect::<Result<Vec<Run>, _>>()?;
    let (html, svg) = (Output::create(html)?, Output::create(svg)?);
    for output in [&html, &svg].into_iter().flatten() {
        for run in paths {
            each_its_own(&[run, &output.path])?;
        }
    }
    each_its_own(&[&html, &svg].into_iter().flatten().map(|output| output.path.as_path()).collect::<Vec<_>>())?;
    if let Some(file) = html {
        file.write(report::html::page(&runs).as_bytes())?;
    }
    if let Some(file) = svg {
        file.write(report::chart::svg(&runs.iter().collect::<Vec<_>>()).as_bytes())?;
    }
    show(&report::text::render_comparison(&runs))?;
    Ok(ExitCode::SUCCESS)
}
