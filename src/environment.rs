//! Options from the environment and from a configuration file: which of them count, and errors that name the variable, or the
//! line of the file.
//!
//! clap reads the environment by itself, but an empty variable is a value to it, its errors name a flag that nobody typed,
//! and a variable may contradict a flag. So the command line is parsed first and alone; then, for the command that it
//! names, together with the variables that count. Of the options in a file (`--config`), those that neither set come in front
//! of the command line, so that clap checks them as any other.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, Error, FromArgMatches};

pub mod file;

use file::{ConfigFile, Setting, options};

/// Options, and where each comes from.
#[derive(Debug)]
pub struct Parsed<C> {
    /// The options.
    pub options: C,
    /// A line for the log about each variable that was ignored.
    pub links: Vec<String>,
    /// Each option that a file may have, by its name; empty if a subcommand was chosen.
    pub values: Vec<OptionValue>,
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionValue {
    /// Its name, without dashes in front.
    pub name: String,
    /// As they were typed; none if it has no default and nobody has set it.
    pub values: Vec<String>,
    /// Where they come from.
    pub source: Source,
}

/// Where the value of an option comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody has set it.
    Default,
    /// A file: its path and the line.
    File(String),
    /// A variable with this name.
    Variable(String),
    /// The command line.
    Flag,
}

/// Parses the command line, the environment, and the file that either of them names. The command line wins, then the
/// environment, also over what contradicts them.
///
/// # Errors
/// Those of clap, help and version among them; each names the flag or the variable that the value came from.
pub fn parse<C: CommandFactory + FromArgMatches>(arguments: &[OsString]) -> Result<Parsed<C>, Error> {
    let typed = match alone(C::command()).try_get_matches_from(arguments) {
        Ok(typed) => typed,
        // Help shows the environment.
        Err(help) if !help.use_stderr() => {
            return Err(C::command().try_get_matches_from(arguments).err().unwrap_or(help));
        }
        Err(error) if error.kind() == ErrorKind::InvalidUtf8 => return Err(not_utf8_argument(arguments, error)),
        Err(error) => return Err(error),
    };
    let mut links = Vec::new();
    let mut command = with_environment(C::command(), &typed, &mut links);
    let file = file(&command, &typed).map_err(|why| Error::raw(ErrorKind::ValueValidation, format!("{why}\n")))?;
    let settings: Vec<_> = file.settings().iter().filter(|setting| counts(setting, &command, &typed)).collect();
    let of_file = settings
        .iter()
        .flat_map(|setting| setting.values.iter().map(|value| OsString::from(format!("--{}={value}", setting.name))));
    let (program, rest) = arguments.split_at(arguments.len().min(1));
    let all: Vec<OsString> = program.iter().cloned().chain(of_file).chain(rest.iter().cloned()).collect();
    let matches = command.try_get_matches_from_mut(all);
    let parsed = matches.and_then(|matches| Ok((C::from_arg_matches(&matches)?, matches)));
    match parsed {
        Ok((options, matches)) => {
            let of_file = |name: &str| settings.iter().find(|set| set.name == name).map(|set| file.place(set));
            Ok(Parsed { options, links, values: option_values(&command, &matches, of_file) })
        }
        Err(error) => Err(name_sources(error, chosen(&command, &typed), &file)),
    }
}

/// The file that the command line or the environment names, if the command takes options from one.
fn file(command: &Command, typed: &ArgMatches) -> Result<ConfigFile, String> {
    let Some(argument) = command.get_arguments().find(|argument| argument.get_id() == "config") else {
        return Ok(ConfigFile::default());
    };
    let of_command_line = typed.try_get_raw("config").ok().flatten().and_then(|mut paths| paths.next());
    let path = of_command_line.map(OsStr::to_owned).or_else(|| variable(argument).map(|(_, path)| path));
    match path.filter(|_| typed.subcommand().is_none()) {
        Some(path) => ConfigFile::read(Path::new(&path), command),
        None => Ok(ConfigFile::default()),
    }
}

/// Whether an option in the file counts: neither the command line nor the environment sets it, or contradicts it.
fn counts(setting: &Setting, command: &Command, typed: &ArgMatches) -> bool {
    let Some((_, argument)) = options(command).find(|(name, _)| *name == setting.name) else { return false };
    let stronger = command.get_arguments().filter(|other| is_typed(typed, other) || other.get_env().is_some());
    stronger.into_iter().all(|other| other.get_id() != argument.get_id() && !contradict(command, other, argument))
}

/// Each option's value, and where it comes from.
fn option_values(
    command: &Command,
    matches: &ArgMatches,
    of_file: impl Fn(&str) -> Option<String>,
) -> Vec<OptionValue> {
    if matches.subcommand().is_some() {
        return Vec::new();
    }
    let value = |(name, argument): (&str, &Arg)| {
        let id = argument.get_id().as_str();
        let raw = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => of_file(name).map_or(Source::Flag, Source::File),
            Some(ValueSource::EnvVariable) => {
                Source::Variable(argument.get_env().unwrap_or_default().to_string_lossy().into_owned())
            }
            _ => Source::Default,
        };
        let values = raw.map(|value| value.to_string_lossy().into_owned()).collect();
        OptionValue { name: name.to_owned(), values, source }
    };
    options(command).map(value).collect()
}

/// The command without the environment.
fn alone(command: Command) -> Command {
    let command = command.mut_args(without_variable);
    command.mut_subcommands(alone)
}

/// The command with those variables that count beside what was typed: of the command that was chosen, and of no other.
fn with_environment(mut command: Command, typed: &ArgMatches, links: &mut Vec<String>) -> Command {
    if let Some((name, typed)) = typed.subcommand() {
        command = command.mut_args(without_variable);
        return command.mut_subcommand(name, |subcommand| with_environment(subcommand, typed, links));
    }
    let of_command_line: Vec<_> = command.get_arguments().filter(|argument| is_typed(typed, argument)).collect();
    let beaten = |argument: &&Arg| {
        of_command_line.iter().any(|typed| typed.get_id() == argument.get_id() || contradict(&command, typed, argument))
    };
    let beaten: Vec<_> = command.get_arguments().filter(beaten).map(|argument| argument.get_id().clone()).collect();
    command.mut_args(|argument| {
        let Some(variable) = argument.get_env().map(OsStr::to_owned) else { return argument };
        let value = std::env::var_os(&variable).unwrap_or_default();
        let link = service_link(&variable, &value);
        let counts = !value.is_empty() && link.is_none() && !beaten.contains(argument.get_id());
        links.extend(link);
        if counts { argument } else { without_variable(argument) }
    })
}

fn without_variable(argument: Arg) -> Arg {
    argument.env(Resettable::Reset)
}

fn is_typed(typed: &ArgMatches, argument: &Arg) -> bool {
    // Arguments that clap adds, such as --help, are not among the matches.
    let known = typed.try_contains_id(argument.get_id().as_str()).is_ok();
    known && typed.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
}

fn contradict(command: &Command, a: &Arg, b: &Arg) -> bool {
    let excludes =
        |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|excluded| excluded.get_id() == b.get_id());
    excludes(a, b) || excludes(b, a)
}

/// What to log about a variable that has the name of an option and was set by something else. Kubernetes (and Docker's
/// links) tell each container where the services are: `NAME_PORT`, and `NAME_PORT_...` and `NAME_SERVICE_...` beside it.
/// The first may be the name of an option, and is known by its value: `HI_PORT=tcp://10.96.12.7:8080`.
fn service_link(variable: &OsStr, value: &OsStr) -> Option<String> {
    let (variable, value) = (variable.to_str()?, value.to_str()?);
    let (protocol, address) = value.split_once("://")?;
    let is_link = variable.ends_with("_PORT")
        && ["tcp", "udp", "sctp"].contains(&protocol)
        && address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let why =
        "Kubernetes or a Docker link sets it for a service of that name (enableServiceLinks: false turns that off)";
    is_link.then(|| format!("{variable}={value:?} is ignored: {why}"))
}

/// The command that the command line names.
fn chosen<'c>(command: &'c Command, typed: &ArgMatches) -> &'c Command {
    match typed.subcommand().and_then(|(name, typed)| Some((command.find_subcommand(name)?, typed))) {
        Some((subcommand, typed)) => chosen(subcommand, typed),
        None => command,
    }
}

/// All that was typed was fine, so an error is about a variable, or about the file: it has to be named.
fn name_sources(mut error: Error, chosen: &Command, file: &ConfigFile) -> Error {
    if error.kind() == ErrorKind::InvalidUtf8 {
        let broken = |argument: &&Arg| variable(argument).is_some_and(|(_, value)| value.to_str().is_none());
        if let Some((name, _)) = chosen.get_arguments().find(broken).and_then(variable) {
            return Error::raw(ErrorKind::InvalidUtf8, format!("the value of {name} is not UTF-8\n"));
        }
    }
    let named = |flag: &str| {
        let argument = chosen.get_arguments().find(|argument| argument.to_string() == flag)?;
        let of_file = || argument.get_long().and_then(|name| file.get(name)).map(|setting| file.place(setting));
        let source = variable(argument).map(|(name, _)| name).or_else(of_file)?;
        Some(format!("{source} ({flag})"))
    };
    for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
        if let Some(ContextValue::String(flag)) = error.get(kind)
            && let Some(named) = named(flag)
        {
            error.insert(kind, ContextValue::String(named));
        }
    }
    error
}

/// The variable that an argument takes its value from, and the value.
fn variable(argument: &Arg) -> Option<(String, OsString)> {
    let name = argument.get_env()?;
    Some((name.to_string_lossy().into_owned(), std::env::var_os(name)?))
}

fn not_utf8_argument(arguments: &[OsString], error: Error) -> Error {
    match arguments.iter().find(|argument| argument.to_str().is_none()) {
        Some(argument) => Error::raw(ErrorKind::InvalidUtf8, format!("the argument {argument:?} is not UTF-8\n")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_sets_is_known_by_name_and_value() {
        let is_link = |variable: &str, value: &str| service_link(variable.as_ref(), value.as_ref()).is_some();
        for value in ["tcp://10.96.12.7:8080", "udp://10.96.12.7:53", "tcp://[fd00::7]:80", "sctp://10.0.0.1:9"] {
            assert!(is_link("HI_PORT", value), "{value}");
        }
        for (variable, value) in [
            ("HI_PORT", "8080"),
            ("HI_PORT", ""),
            ("HI_PORT", "tcp://10.96.12.7"),
            ("HI_PORT", "http://10.96.12.7:80"),
            ("HI_LISTEN", "tcp://10.96.12.7:8080"),
        ] {
            assert!(!is_link(variable, value), "{variable}={value}");
        }
    }
}
