//! `hi token`: makes tokens for the shell, and says why a server would refuse one.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::keys::{KeySet, Origin};
use super::rights::{Rights, Source};
use super::sign::SigningKey;
use super::{Authority, Rules};
use crate::clock::unix_time;
use crate::limits::tokens::{KEY_FILE_BYTES_MAX, TOKEN_BYTES_MAX};

/// Exit code for a token that a server would refuse.
const EXIT_REFUSED: u8 = 1;
/// Exit code for wrong options.
const EXIT_USAGE: u8 = 2;

/// What `hi token` takes.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    #[command(flatten)]
    make: MakeArgs,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Says whom a token is for and what it allows, or why a server would refuse it: exit code 0 or 1
    Check(CheckArgs),
}

/// What a new token is to say.
#[derive(Args, Debug)]
struct MakeArgs {
    /// File with the secret, or with the private key in PEM, that signs the token
    #[arg(long, value_name = "FILE", env = "HI_JWT_KEY", required = true)]
    jwt_key: Option<PathBuf>,
    /// Who the token is for: the user's lasting id, and the name in the chat unless --name gives another
    #[arg(long, value_name = "ID", required = true)]
    sub: Option<String>,
    /// The name in the chat
    #[arg(long)]
    name: Option<String>,
    /// Rooms and what is allowed there: 'tea', 'team-*=join,pub', 'news=join', 'raw:scores=listen'; may be given several times
    /// [default: none, and the server's --auth-rooms decide]
    #[arg(long = "room", value_name = "ROOM=RIGHTS")]
    rooms: Vec<String>,
    /// How long the token is valid
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = doctor::time::parse)]
    ttl: Duration,
    /// Who issues it (iss)
    #[arg(long, value_name = "NAME")]
    iss: Option<String>,
    /// Which service it is for (aud)
    #[arg(long, value_name = "NAME")]
    aud: Option<String>,
    /// The id of the key (kid), for servers with several
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
}

/// What a token is checked with.
#[derive(Args, Debug)]
struct CheckArgs {
    /// The token; -: it is read from stdin
    #[arg(default_value = "-")]
    token: String,
    /// File with the secret, or with a public key in PEM; may be given several times
    #[arg(long, value_name = "FILE", env = "HI_JWT_KEY", value_delimiter = ',')]
    jwt_key: Vec<PathBuf>,
    /// File with a JWK set
    #[arg(long, value_name = "FILE", env = "HI_JWKS", required_unless_present = "jwt_key")]
    jwks: Option<PathBuf>,
    /// Issuer that the token has to name (iss)
    #[arg(long, value_name = "NAME", env = "HI_JWT_ISSUER", value_delimiter = ',')]
    jwt_issuer: Vec<String>,
    /// Audience that the token has to name (aud)
    #[arg(long, value_name = "NAME", env = "HI_JWT_AUDIENCE", value_delimiter = ',')]
    jwt_audience: Vec<String>,
    /// What tokens without rooms allow
    #[arg(long, value_name = "RULES", env = "HI_AUTH_ROOMS", default_value = super::rights::DEFAULT)]
    auth_rooms: String,
}

/// The text to print, or the sentence for stderr; both with the exit code.
type Outcome = Result<(String, ExitCode), (String, ExitCode)>;

/// Runs the command.
///
/// # Errors
/// A sentence and the exit code: the token is refused, or the options are wrong.
pub fn run(args: &TokenArgs) -> Outcome {
    let now = unix_time().as_secs();
    match &args.command {
        Some(TokenCommand::Check(args)) => check(args, now),
        None => make(&args.make, now).map(|token| (token + "\n", ExitCode::SUCCESS)).map_err(wrong),
    }
}

fn wrong(sentence: String) -> (String, ExitCode) {
    (sentence, ExitCode::from(EXIT_USAGE))
}

fn make(args: &MakeArgs, now: u64) -> Result<String, String> {
    let path = args.jwt_key.as_deref().ok_or("--jwt-key is missing: name the file with the key that signs.")?;
    let text = String::from_utf8(read_key_file(path)?).map_err(|_| format!("{} is not text.", path.display()))?;
    let key = SigningKey::of_file(&text).map_err(|why| format!("{} {why}.", path.display()))?;
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Option<Value>| value.and_then(|value| claims.insert(name.to_owned(), value));
    claim("sub", args.sub.clone().map(Value::from));
    claim("name", args.name.clone().map(Value::from));
    claim("iss", args.iss.clone().map(Value::from));
    claim("aud", args.aud.clone().map(Value::from));
    claim("iat", Some(now.into()));
    claim("exp", Some(now.saturating_add(args.ttl.as_secs().max(1)).into()));
    claim("rooms", rooms(&args.rooms)?);
    let token = key.token(&claims, args.kid.as_deref());
    // What a server would refuse is not handed out: names and rules are checked as a server does.
    super::claims::principal(&json!(claims).to_string().into_bytes(), &any(Rights::parse("", Source::Token)?), now)
        .map_err(|refused| refused.to_string())?;
    match token.len() > TOKEN_BYTES_MAX {
        true => Err(format!(
            "The token has {} bytes, and servers accept {TOKEN_BYTES_MAX}: use fewer rules, with *.",
            token.len()
        )),
        false => Ok(token),
    }
}

/// The claim `rooms` of these rules.
fn rooms(rules: &[String]) -> Result<Option<Value>, String> {
    if rules.is_empty() {
        return Ok(None);
    }
    let mut rooms = Map::new();
    for rule in rules {
        let (pattern, rights) = rule.rsplit_once('=').unwrap_or((rule, "join,pub"));
        let rights: Vec<_> = rights.split(',').collect();
        if rooms.insert(pattern.to_owned(), json!(rights)).is_some() {
            return Err(format!("--room: {pattern} is given twice."));
        }
    }
    let rooms = Value::Object(rooms);
    Rights::of_claim(&rooms).map_err(|why| format!("--room: {why}."))?;
    Ok(Some(rooms))
}

fn check(args: &CheckArgs, now: u64) -> Outcome {
    let mut text = args.token.clone();
    if text == "-" {
        text.clear();
        let mut stdin = io::stdin().take(2 * TOKEN_BYTES_MAX as u64);
        stdin.read_to_string(&mut text).map_err(|error| wrong(format!("can't read the token: {error}.")))?;
    }
    let rights =
        Rights::parse(&args.auth_rooms, Source::TokensWithout).map_err(|why| wrong(format!("--auth-rooms: {why}.")))?;
    let rules = Rules { issuers: args.jwt_issuer.clone(), audiences: args.jwt_audience.clone(), ..any(rights) };
    let keys = load(&args.jwt_key, args.jwks.as_deref()).map_err(wrong)?;
    match Authority::new(keys, rules, None).check(text.trim(), now) {
        Ok(principal) => {
            let until = match principal.expires {
                Some(expires) => format!("for {}", super::refused::time(expires.saturating_sub(now))),
                None => "for ever, as it has no exp: give tokens an end".to_owned(),
            };
            let subject = principal.subject.as_deref().unwrap_or_default();
            let told = format!(
                "The token is good {until}.\nuser   {} (sub {})\nrooms  {}\n",
                principal.user,
                super::refused::shown(subject),
                principal.rights
            );
            Ok((told, ExitCode::SUCCESS))
        }
        Err(refused) => {
            let detail = refused.detail.map(|detail| format!("\n({detail})")).unwrap_or_default();
            Err((format!("{}: {}{detail}", refused.reason.as_str(), refused.sentence), ExitCode::from(EXIT_REFUSED)))
        }
    }
}

/// Rules that accept tokens of any issuer, for any audience.
fn any(rights: Rights) -> Rules {
    Rules { issuers: Vec::new(), audiences: Vec::new(), leeway: Duration::ZERO, rights: Arc::new(rights) }
}

/// The keys in these files.
///
/// # Errors
/// One sentence: a file can't be read, or has no key that can be used.
pub(crate) fn load(key_files: &[PathBuf], jwks: Option<&Path>) -> Result<KeySet, String> {
    let mut sets = Vec::new();
    for path in key_files {
        let keys = KeySet::of_key_file(&read_key_file(path)?);
        sets.push(keys.map_err(|why| format!("{} (--jwt-key) {why}.", path.display()))?);
    }
    if let Some(path) = jwks {
        let keys = KeySet::of_jwks(&read_key_file(path)?, Origin::File);
        sets.push(keys.map_err(|why| format!("{} (--jwks) {why}.", path.display()))?);
    }
    KeySet::joined(sets).map_err(|why| format!("The set of all keys {why}."))
}

fn read_key_file(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let cannot = |error| format!("can't read the key in {shown} ({error}).");
    if fs::metadata(path).map_err(cannot)?.len() > KEY_FILE_BYTES_MAX {
        return Err(format!("{shown} is too large to be a file of keys."));
    }
    fs::read(path).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_the_claim_of_a_token() {
        let claim = |rules: &[&str]| rooms(&rules.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(claim(&[]), Ok(None));
        assert_eq!(
            claim(&["tea*", "raw:scores=listen"]),
            Ok(Some(json!({"tea*": ["join", "pub"], "raw:scores": ["listen"]})))
        );
        assert!(claim(&["tea", "tea=join"]).unwrap_err().contains("twice"));
        assert!(claim(&["tea=fly"]).unwrap_err().contains("join, pub and listen"));
    }
}
