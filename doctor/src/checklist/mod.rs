//! `hi checklist`: what to do before, during and after a move to another server, each item ticked by a real check.
//!
//! | module | what it does |
//! | --- | --- |
//! | `gather` | runs the checks |
//! | `facts` | what they found (plain data, saved with the list) |
//! | `items` | the items of the list (pure) |
//! | `document` | Markdown, JSON, and what changed between two lists (pure) |

mod document;
mod facts;
mod gather;
mod items;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use document::{Document, diff};
pub use facts::MachineFacts;
use gather::{Subject, gather};
use items::{Phase, items};

use crate::examination::{Options, Target, parse_resolver, runtime};

/// Exit code while a check is open.
const EXIT_OPEN: u8 = 1;

/// The command line of `hi checklist`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Days before the records move: notes the addresses, and checks what has to be ready
    Before(ListArgs),
    /// While the records move: old and new addresses have to work
    During(ListArgs),
    /// After all users have moved: the old address has to be gone from every resolver
    After(ListArgs),
    /// Shows what changed between two saved lists
    Diff { a: PathBuf, b: PathBuf },
}

#[derive(clap::Args, Debug)]
struct ListArgs {
    /// The address as users have it, e.g. wss://chat.example.com/ws
    url: String,

    /// Save the list: as JSON if the name ends in .json, else as Markdown that --since and diff can read
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,

    /// The list that was saved before the move: its addresses are the old ones
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,

    /// An old address; may be given several times
    #[arg(long, value_name = "IP")]
    old: Vec<IpAddr>,

    /// A new address; may be given several times [default: what the records name beside the old ones]
    #[arg(long, value_name = "IP")]
    new: Vec<IpAddr>,

    /// A resolver or name server to ask, with or without a port; may be given several times [default: the system's]
    #[arg(long, value_name = "IP[:PORT]", value_parser = parse_resolver)]
    resolver: Vec<SocketAddr>,

    /// Certificates to trust in addition to the system's, in PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The internal port of hi on the old server, to see whether clients are still connected there
    #[arg(long, value_name = "IP:PORT")]
    old_internal: Option<SocketAddr>,

    /// Don't check this machine's kernel and file limit (the server is another machine)
    #[arg(long)]
    elsewhere: bool,

    /// Print JSON instead of Markdown
    #[arg(long)]
    json: bool,
}

/// Makes a list, or compares two. What to print, and the exit code: 0 nothing is open, 1 something is. `machine` looks at
/// the machine that it runs on.
///
/// # Errors
/// A file or an address is not usable: a sentence for the operator.
pub fn run(args: Args, machine: fn() -> MachineFacts) -> Result<(String, ExitCode), String> {
    let (text, code) = match args.what {
        What::Before(args) => make(Phase::Before, args, machine),
        What::During(args) => make(Phase::During, args, machine),
        What::After(args) => make(Phase::After, args, machine),
        What::Diff { a, b } => read(&a).and_then(|a| Ok((diff(&a, &read(&b)?), ExitCode::SUCCESS))),
    }?;
    Ok((format!("{}\n", text.trim_end()), code))
}

fn make(phase: Phase, args: ListArgs, machine: fn() -> MachineFacts) -> Result<(String, ExitCode), String> {
    let target = Target::parse(&args.url)?;
    let since = args.since.as_deref().map(read).transpose()?;
    let mut old: BTreeSet<IpAddr> = args.old.into_iter().collect();
    if let Some(since) = &since {
        old.extend(since.facts.in_records());
        old.extend(&since.facts.old);
    }
    let new: BTreeSet<IpAddr> = args.new.into_iter().collect();
    // What the earlier list noted as old may have become new meanwhile.
    old.retain(|address| !new.contains(address));
    if let Some(save) = &args.save {
        // A run takes seconds: find out beforehand that the file can't be written.
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(save)
            .map_err(|error| cant("written", save, &error))?;
    }
    let url = target.url.clone();
    let options = Options { resolvers: args.resolver, ca: args.ca, ..Options::new(target) };
    let subject =
        Subject { options, old, new, old_internal: args.old_internal, machine: (!args.elsewhere).then(machine) };
    let facts =
        runtime().map_err(|error| format!("can't start a runtime: {error}."))?.block_on(gather(phase, &subject))?;
    let made_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let document = Document { phase, url, made_unix_ms, items: items(phase, &facts), facts };
    if let Some(save) = &args.save {
        let is_json = save.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let text = if is_json { document.json(true) } else { document.markdown_with_json() };
        std::fs::write(save, text).map_err(|error| cant("written", save, &error))?;
    }
    let text = if args.json { document.json(true) } else { document.markdown() };
    Ok((text, if document.has_open() { ExitCode::from(EXIT_OPEN) } else { ExitCode::SUCCESS }))
}

fn read(file: &Path) -> Result<Document, String> {
    let text = std::fs::read_to_string(file).map_err(|error| cant("read", file, &error))?;
    Document::read(&text).map_err(|why| format!("{}: {why}.", file.display()))
}

fn cant(be: &str, file: &Path, error: &std::io::Error) -> String {
    format!("{} can't be {be}: {error}.", file.display())
}
