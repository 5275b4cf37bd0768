//! Options from the environment: which variables count, and errors that name the variable.
//!
//! clap reads the environment by itself, but an empty variable is a value to it, its errors name a flag that nobody typed,
//! and a variable may contradict a flag. So the command line is parsed first and alone; then, for the command that it
//! names, together with the variables that count.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, Error, FromArgMatches};

/// Parses the command line and the environment. The command line wins, also over a variable that contradicts it. Returns
/// a line for the log about each variable that was ignored as well.
///
/// # Errors
/// Those of clap, help and version among them; each names the flag or the variable that the value came from.
pub fn parse<C: CommandFactory + FromArgMatches>(arguments: &[OsString]) -> Result<(C, Vec<String>), Error> {
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
    let parsed = command.try_get_matches_from_mut(arguments).and_then(|matches| C::from_arg_matches(&matches));
    match parsed {
        Ok(parsed) => Ok((parsed, links)),
        Err(error) => Err(name_variables(error, chosen(&command, &typed))),
    }
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

/// All that was typed was fine, so an error is about a variable: it has to be named.
fn name_variables(mut error: Error, chosen: &Command) -> Error {
    if error.kind() == ErrorKind::InvalidUtf8 {
        let broken = |argument: &&Arg| variable(argument).is_some_and(|(_, value)| value.to_str().is_none());
        if let Some((name, _)) = chosen.get_arguments().find(broken).and_then(variable) {
            return Error::raw(ErrorKind::InvalidUtf8, format!("the value of {name} is not UTF-8\n"));
        }
    }
    let named = |flag: &str| {
        let argument = chosen.get_arguments().find(|argument| argument.to_string() == flag)?;
        variable(argument).map(|(name, _)| format!("{name} ({flag})"))
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
