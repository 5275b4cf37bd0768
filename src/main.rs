//! The `hi` command.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use doctor::INTERNAL_ADDRESS_DEFAULT;
use hi::api::asking::ask_whether_ready;
use hi::config::{Config, Internal, shown};
use hi::environment::{OptionValue, Parsed};
use hi::ring::probe::{self, Choice};
use hi::server::{Options, signals};
use hi::{environment, log, output, server};

/// Exit code of `hi health` for a server that is not ready.
const EXIT_NOT_READY: u8 = 1;
/// Exit code for what the operator can fix: options, ports, the kernel's refusals.
const EXIT_USAGE: u8 = 2;
/// Exit code for a bug of ours.
const EXIT_BUG: i32 = 70;

/// The features that can be left out when hi is built.
const FEATURES: &str = if cfg!(feature = "doctor") { "doctor" } else { "none" };

/// hi: a minimal, performant WebSocket chat and broadcast server for Linux on io_uring.
///
/// Without any option it serves the chat page and its rooms on port 8080 of all addresses. Every option can also be set
/// in the environment, under the name shown with it; the command line wins. Sizes take k, m and g (1k = 1,024 bytes),
/// times take ms, s, m and h.
#[derive(Parser)]
#[command(name = "hi", version, max_term_width = 110, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Config,
}

/// What `hi` does besides serving.
#[derive(Subcommand)]
enum Command {
    /// Asks a running server whether it is ready: exit code 0 if it is, 1 if not or if nobody answers within 2 seconds
    Health {
        /// The internal port of the server, also as a URL
        #[arg(value_name = "ADDR:PORT", env = "HI_INTERNAL", default_value = INTERNAL_ADDRESS_DEFAULT,
              value_parser = parse_internal)]
        internal: Internal,
    },
    /// Shows and checks the options of the server, as a file and the environment set them
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Diagnoses a WebSocket address: checks every IP and proxy on the way, prints one verdict and the fix
    #[cfg(feature = "doctor")]
    Doctor(Box<doctor::examination::Args>),
    /// Lists what to do before, during and after a move to another server, each item ticked by a real check
    #[cfg(feature = "doctor")]
    Checklist(doctor::checklist::Args),
    /// Publishes a message into a room of a running server
    #[cfg(feature = "doctor")]
    Pub(doctor::internal::PublishArgs),
    /// Shows the rooms of a running server
    #[cfg(feature = "doctor")]
    Rooms(doctor::internal::RoomsArgs),
    /// Makes a token for a user, or says why a server would refuse one
    Token(Box<hi::identity::tool::TokenArgs>),
    /// Chats in a terminal, or publishes what is piped into it: lines in, lines out
    #[cfg(feature = "doctor")]
    Chat(terminal::ChatArgs),
    /// Prints what is said in a room, without a name
    #[cfg(feature = "doctor")]
    Tail(terminal::TailArgs),
    /// The clients in a build without them
    #[cfg(not(feature = "doctor"))]
    #[command(name = "doctor", aliases = ["chat", "checklist", "pub", "rooms", "tail"], hide = true)]
    LeftOut {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        _arguments: Vec<OsString>,
    },
}

/// What `hi config` does.
#[derive(Subcommand)]
enum ConfigCommand {
    /// Prints a configuration file in which every option stands with its default
    Default,
    /// Prints the value of each option, and where it comes from
    Show {
        /// The configuration file [default: the one that HI_CONFIG names, if it does]
        file: Option<PathBuf>,
    },
    /// Says what is wrong with a configuration file, or who may do what with a server that runs with it
    Check {
        /// The configuration file [default: the one that HI_CONFIG names, if it does]
        file: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    // Before anything else: a signal that comes now is handled once it is clear which command runs.
    signals::hold();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let Parsed { options: CommandLine { command, config }, links, values } = match environment::parse(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => return explain(&error),
    };
    let Some(command) = command else {
        let read = Box::new(move || read_again(&arguments));
        return serve(Options { config, values, read }, &links);
    };
    signals::release();
    match command {
        Command::Health { internal } => answer(health(internal)),
        Command::Token(args) => answer(hi::identity::tool::run(&args)),
        Command::Config(command) => configuration(command),
        #[cfg(feature = "doctor")]
        Command::Doctor(args) => answer(doctor::examination::run(*args).map_err(wrong)),
        #[cfg(feature = "doctor")]
        Command::Checklist(args) => answer(doctor::checklist::run(args, this_machine).map_err(wrong)),
        #[cfg(feature = "doctor")]
        Command::Pub(args) => answer(doctor::internal::publish(&args, &hi::api::RULES)),
        #[cfg(feature = "doctor")]
        Command::Rooms(args) => answer(doctor::internal::rooms(&args, &hi::api::RULES)),
        #[cfg(feature = "doctor")]
        Command::Chat(args) => streamed(terminal::chat(&args)),
        #[cfg(feature = "doctor")]
        Command::Tail(args) => streamed(terminal::tail(&args)),
        #[cfg(not(feature = "doctor"))]
        Command::LeftOut { .. } => {
            answer(Err(wrong("this hi was built without its doctor: build it with --features doctor".to_owned())))
        }
    }
}

/// The options once more, for a reload.
fn read_again(arguments: &[OsString]) -> Result<(Config, Vec<OptionValue>), String> {
    let parsed: Parsed<CommandLine> = environment::parse(arguments).map_err(|error| error.to_string())?;
    Ok((parsed.options.config, parsed.values))
}

/// `hi config`.
fn configuration(command: ConfigCommand) -> ExitCode {
    let (file, checks) = match command {
        ConfigCommand::Default => {
            return output::print(shown::default_file(&CommandLine::command()), ExitCode::SUCCESS);
        }
        ConfigCommand::Show { file } => (file, false),
        ConfigCommand::Check { file } => (file, true),
    };
    let named = file.iter().flat_map(|file| [OsString::from("--config"), file.into()]);
    let arguments: Vec<OsString> = [OsString::from("hi")].into_iter().chain(named).collect();
    let Parsed { options: CommandLine { config, .. }, values, .. } = match environment::parse(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => return explain(&error),
    };
    if !checks {
        return output::print(shown::effective(&values), ExitCode::SUCCESS);
    }
    let rights = || config.rights(&values).join("\n") + "\n";
    answer(config.check().map(|()| (rights(), ExitCode::SUCCESS)).map_err(wrong))
}

/// Prints help, the version, or what is wrong with the options.
fn explain(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::DisplayVersion {
        return output::print(version(), ExitCode::SUCCESS);
    }
    let printed = error.print().and_then(|()| io::stdout().flush());
    if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { output::finish(printed, ExitCode::SUCCESS) }
}

/// The version, how it was built, and what it would serve with here.
fn version() -> String {
    let backend = probe::try_kernel(Choice::Auto).map_or("none", |kernel| kernel.backend.as_str());
    format!("hi {} (features: {FEATURES}; backend here: {backend})\n", env!("CARGO_PKG_VERSION"))
}

/// A command that could not begin, and the exit code of that.
fn wrong(sentence: String) -> (String, ExitCode) {
    (sentence, ExitCode::from(EXIT_USAGE))
}

/// Prints what a command found, or why it failed.
fn answer(outcome: Result<(String, ExitCode), (String, ExitCode)>) -> ExitCode {
    match outcome {
        Ok((text, code)) => output::print(text, code),
        Err((sentence, code)) => {
            // The exit code is the same if nobody reads this.
            let _ = writeln!(io::stderr(), "{sentence}");
            code
        }
    }
}

/// The end of a command that has printed what there was as it came.
#[cfg(feature = "doctor")]
fn streamed(outcome: terminal::Outcome) -> ExitCode {
    match outcome {
        Ok((written, code)) => output::finish(written, code),
        Err(failure) => answer(Err(failure)),
    }
}

/// An address of the internal port, or its URL.
fn parse_internal(text: &str) -> Result<Internal, String> {
    let address = text.strip_prefix("http://").map_or(text, |url| url.split('/').next().unwrap_or_default());
    address.parse()
}

fn health(internal: Internal) -> Result<(String, ExitCode), (String, ExitCode)> {
    let Internal::At(address) = internal else {
        return Err(wrong(
            "The internal port is off (HI_INTERNAL): only a server that has one can be asked.".to_owned(),
        ));
    };
    let ready = |told| (told, ExitCode::SUCCESS);
    ask_whether_ready(address).map(ready).map_err(|why| (why, ExitCode::from(EXIT_NOT_READY)))
}

/// What the checklist says about the machine that is to run hi.
#[cfg(feature = "doctor")]
fn this_machine() -> doctor::checklist::MachineFacts {
    doctor::checklist::MachineFacts {
        kernel: probe::try_kernel(Choice::Auto).map(|kernel| kernel.to_string()),
        files_max: hi::os::raise_file_limit().unwrap_or(0),
    }
}

fn serve(options: Options, service_links: &[String]) -> ExitCode {
    log::start(options.config.log, io::stderr().is_terminal());
    end_on_panic();
    for link in service_links {
        tracing::info!("{link}");
    }
    let Err(error) = server::serve(options);
    log::say(error);
    log::exit(EXIT_USAGE.into(), Duration::MAX)
}

/// Ends the process on a panic: a dead shard would take its connections with it and leave their rooms half served. The
/// canary serves no connections, so it just looks again. The log writes the report: stderr might block the dying shard.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        log::say(format_args!("thread '{}' {panic}", thread.name().unwrap_or("?")));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            log::say(backtrace);
        }
        #[cfg(feature = "doctor")]
        if hi::canary::is_this_thread() || hi::keys::is_this_thread() {
            return;
        }
        tracing::error!("a bug in hi: {panic}; the process ends so that it can be started again");
        log::exit(EXIT_BUG, Duration::MAX)
    }));
}
