//! A configuration file: TOML whose keys are the names of options. Tables only group them: `cert` in `[tls]` is `tls-cert`.

use std::fs;
use std::path::Path;

use clap::{Arg, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::limits::{CONFIG_FILE_BYTES_MAX, SUGGESTED_SIMILARITY_MIN};

/// The options in a file, which all exist.
#[derive(Debug, Default)]
pub struct ConfigFile {
    path: String,
    settings: Vec<Setting>,
}

/// One option in the file.
#[derive(Debug)]
pub struct Setting {
    /// Its name, without dashes in front.
    pub name: String,
    /// As on the command line; several for a list.
    pub values: Vec<String>,
    /// Counted from 1.
    pub line: usize,
}

impl ConfigFile {
    /// Reads the options of `command` from a file.
    ///
    /// # Errors
    /// One sentence, with the file and the line: it can't be read, is no TOML, or has a key that is no option.
    pub fn read(path: &Path, command: &Command) -> Result<Self, String> {
        let shown = path.display().to_string();
        let cannot = |error| format!("can't read {shown} ({error}): check --config");
        if fs::metadata(path).map_err(cannot)?.len() > CONFIG_FILE_BYTES_MAX {
            return Err(format!("{shown} is too large to be a configuration file: check --config"));
        }
        Self::parse(shown.clone(), &fs::read_to_string(path).map_err(cannot)?, command)
    }

    fn parse(path: String, text: &str, command: &Command) -> Result<Self, String> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let table = DeTable::parse(text).map_err(|error| {
            let line = line_of(error.span().map_or(0, |span| span.start));
            format!("{path}:{line}: {}", error.message().replace('\n', ": "))
        })?;
        let mut file = Self { path, settings: Vec::new() };
        file.add("", table.get_ref(), command, &line_of)?;
        Ok(file)
    }

    fn add(
        &mut self,
        group: &str,
        table: &DeTable<'_>,
        command: &Command,
        line_of: &dyn Fn(usize) -> usize,
    ) -> Result<(), String> {
        for (key, value) in table {
            let (name, line) = (format!("{group}{}", key.get_ref()), line_of(key.span().start));
            if let DeValue::Table(table) = value.get_ref() {
                self.add(&format!("{name}-"), table, command, line_of)?;
                continue;
            }
            let at = format!("{}:{line}", self.path);
            if !options(command).any(|(option, _)| option == name) {
                return Err(format!("{at}: there is no option {name}{}", suggestion(&name, command)));
            }
            if let Some(before) = self.get(&name) {
                return Err(format!("{at}: {name} is set in line {} as well: keep one of them", before.line));
            }
            let values = values(value).map_err(|why| format!("{at}: {name} {why}"))?;
            self.settings.push(Setting { name, values, line });
        }
        Ok(())
    }

    /// All options in it.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// An option in it.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    /// Where an option is set: file and line.
    pub fn place(&self, setting: &Setting) -> String {
        format!("{}:{}", self.path, setting.line)
    }
}

/// What can be set in a file: the options that `--help` shows, but not the one that names it.
pub fn options(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let named = command.get_arguments().filter_map(|argument| Some((argument.get_long()?, argument)));
    named.filter(|(name, argument)| !argument.is_hide_set() && !["config", "help", "version"].contains(name))
}

fn suggestion(name: &str, command: &Command) -> String {
    let similar = |(option, _): (&str, &Arg)| (strsim::jaro_winkler(name, option), option.to_owned());
    let best = options(command).map(similar).max_by(|a, b| a.0.total_cmp(&b.0));
    match best.filter(|(similarity, _)| *similarity >= SUGGESTED_SIMILARITY_MIN) {
        Some((_, option)) => format!(": did you mean {option}?"),
        None => ": `hi config default` lists all".to_owned(),
    }
}

/// The values of a key, as on the command line.
fn values(value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, String> {
    match value.get_ref() {
        DeValue::Array(list) if list.is_empty() => {
            Err("is an empty list: give a value, or leave the line out".to_owned())
        }
        DeValue::Array(list) => list.iter().map(|value| single(value.get_ref())).collect(),
        value => Ok(vec![single(value)?]),
    }
}

fn single(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Boolean(on) => Ok(if *on { "on" } else { "off" }.to_owned()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            Err("has a value of the wrong type: give a string, a number, true, false, or a list of strings".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, Vec<String>, usize)>, String> {
        let args =
            ["port", "max-message", "origins", "tls-cert", "echo", "config"].map(|name| Arg::new(name).long(name));
        let file = ConfigFile::parse("hi.toml".to_owned(), text, &Command::new("hi").args(args))?;
        Ok(file.settings.into_iter().map(|setting| (setting.name, setting.values, setting.line)).collect())
    }

    #[test]
    fn keys_are_options_and_tables_group_them() {
        let text = "# a comment\nport = 80\nmax-message = \"16k\"\necho = false\norigins = [\n \"a\",\n \"b\"]\n[tls]\ncert = \"x\"\n";
        let mut all = parsed(text).unwrap();
        all.sort_by_key(|(_, _, line)| *line);
        let all: Vec<_> = all.iter().map(|(name, values, line)| (name.as_str(), values.join("|"), *line)).collect();
        let expected = [
            ("port", "80", 2),
            ("max-message", "16k", 3),
            ("echo", "off", 4),
            ("origins", "a|b", 5),
            ("tls-cert", "x", 9),
        ];
        assert_eq!(all, expected.map(|(name, values, line)| (name, values.to_owned(), line)));
        assert_eq!(parsed("").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_said_with_file_and_line() {
        for (text, said) in [
            ("\nmax-mesage = 1\n", "hi.toml:2: there is no option max-mesage: did you mean max-message?"),
            ("[tls]\n\ncrt = \"x\"", "hi.toml:3: there is no option tls-crt: did you mean tls-cert?"),
            ("x = 1", "hi.toml:1: there is no option x: `hi config default` lists all"),
            ("config = \"other.toml\"", "hi.toml:1: there is no option config"),
            ("port = 1.5", "hi.toml:1: port has a value of the wrong type"),
            ("origins = [[\"a\"]]", "hi.toml:1: origins has a value of the wrong type"),
            ("origins = []", "hi.toml:1: origins is an empty list"),
            ("tls-cert = \"x\"\n[tls]\ncert = \"y\"", "tls-cert is set in line"),
            ("port = 1\nport = 2", "hi.toml:2: duplicate key"),
            ("port = 1\n\nport 2", "hi.toml:3: "),
            ("port = \"", "hi.toml:1: "),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(said) && !error.contains('\n'), "{text:?}: {error}");
        }
    }
}
