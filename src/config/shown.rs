//! Options as text: a file with all defaults, made from what `--help` shows, and the values that a server would run with.

use std::fmt::Write as _;

use clap::Command;

use crate::environment::file::options;
use crate::environment::{OptionValue, Source};
use crate::limits::CONFIG_COLUMNS;

/// A configuration file in which every option stands with its default, commented out.
pub fn default_file(command: &Command) -> String {
    let mut text = "# Options of hi. The command line and the environment win over this file.\n".to_owned();
    text.push_str("# `hi config check FILE` says what is wrong with it, and who may do what.\n");
    let mut heading = None;
    for (name, argument) in options(command) {
        if argument.get_help_heading() != heading {
            heading = argument.get_help_heading();
            let _ = write!(text, "\n\n### {}\n", heading.unwrap_or_default());
        }
        text.push('\n');
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let possible = argument.get_possible_values();
        let possible: Vec<_> = possible.iter().map(|value| value.get_name()).collect();
        let choice = if possible.is_empty() { String::new() } else { format!(" ({})", possible.join(", ")) };
        comment(&mut text, &format!("{help}{choice}"));
        let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let value = match &defaults[..] {
            [] => format!("{:?}", argument.get_value_names().unwrap_or_default().join(" ")),
            [value] => literal(value),
            values => format!("[{}]", values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", ")),
        };
        let _ = writeln!(text, "#{name} = {value}");
    }
    text
}

/// The values of all options that are set or have a default, each with its source.
pub fn effective(values: &[OptionValue]) -> String {
    let mut text = String::new();
    for OptionValue { name, values, source } in values.iter().filter(|value| !value.values.is_empty()) {
        let value = match &values[..] {
            [value] => literal(value),
            values => format!("[{}]", values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", ")),
        };
        let source = match source {
            Source::Default => "default",
            Source::File(place) => place,
            Source::Variable(name) => name,
            Source::Flag => "command line",
        };
        let _ = writeln!(text, "{:<40} # {source}", format!("{name} = {value}"));
    }
    text
}

/// A value in TOML: numbers as such, all else in quotes.
fn literal(value: &str) -> String {
    let is_number = value.parse::<i64>().is_ok_and(|number| number.to_string() == value);
    if is_number { value.to_owned() } else { serde_json::Value::from(value).to_string() }
}

fn comment(text: &mut String, words: &str) {
    let mut column = 0;
    for word in words.split_whitespace() {
        if column == 0 || column + 1 + word.len() > CONFIG_COLUMNS {
            let start = if column == 0 { "# " } else { "\n# " };
            let _ = write!(text, "{start}{word}");
            column = 2 + word.len();
        } else {
            let _ = write!(text, " {word}");
            column += 1 + word.len();
        }
    }
    text.push('\n');
}
