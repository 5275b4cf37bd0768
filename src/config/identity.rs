//! The options of `--auth`, put together and checked.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
#[cfg(feature = "doctor")]
use std::sync::mpsc::{Receiver, sync_channel};

#[cfg(feature = "doctor")]
use doctor::fetch::Document;

use super::Config;
use crate::address::networks::Networks;
use crate::admission::Gate;
use crate::http::bearer::TokenPlaces;
use crate::http::origin::Allowed;
use crate::identity::keys::KeySet;
use crate::identity::rights::Rights;
use crate::identity::{Authority, Mode, Rules, tool};

/// Keys for tokens, where they come from the network.
#[cfg(feature = "doctor")]
pub(crate) struct RemoteKeys {
    pub(crate) document: Document,
    /// Those of the files.
    pub(crate) of_files: KeySet,
    /// Told when a token needs another key.
    pub(crate) asked: Receiver<()>,
}

/// Without the doctor there is no HTTPS client.
#[cfg(not(feature = "doctor"))]
pub(crate) enum RemoteKeys {}

impl Config {
    /// Who decides about tokens; `None` with `--auth off`. Beside it: where further keys come from.
    ///
    /// # Errors
    /// One sentence: a key can't be read, or the options don't go together.
    pub(crate) fn gate(&self) -> Result<(Option<Gate>, Option<RemoteKeys>), String> {
        let has_keys = !self.jwt_key.is_empty() || self.jwks.is_some();
        if self.auth == Mode::Off {
            return match has_keys || self.user_header.is_some() {
                false => Ok((None, None)),
                true => Err("It is said who users are (--jwt-key, --jwks, --user-header), and nobody is asked: add --auth required, \
                             or --auth optional for guests."
                    .to_owned()),
            };
        }
        self.check_identity(has_keys)?;
        let url = self.jwks.as_deref().filter(|jwks| jwks.contains("://"));
        let file = self.jwks.as_deref().filter(|_| url.is_none());
        let keys = tool::load(&self.jwt_key, file.map(Path::new))?;
        let rules = Rules {
            issuers: self.jwt_issuer.clone(),
            audiences: self.jwt_audience.clone(),
            leeway: self.jwt_leeway,
            rights: Arc::new(self.auth_rooms.clone()),
        };
        let guests = (self.auth == Mode::Optional).then(|| Arc::new(self.guest_rooms.clone()));
        let mut authority = Authority::new(keys.clone(), rules, guests);
        let mut remote = None;
        if let Some(url) = url {
            let (source, keys) = remote_keys(url, keys)?;
            (authority, remote) = (authority.asking(source), Some(keys));
        }
        let places = TokenPlaces {
            cookie: self.auth_cookie.clone(),
            query: self.auth_query,
            has_keys,
            user_header: self.user_header.clone(),
        };
        Ok((Some(Gate { authority: Arc::new(authority), places }), remote))
    }

    /// The keys of files for tokens, read again; `None`: there are none, or others come from the network.
    ///
    /// # Errors
    /// One sentence: a file can't be read, or has no key.
    pub(crate) fn token_keys(&self) -> Result<Option<KeySet>, String> {
        let from_url = self.jwks.as_deref().is_some_and(|jwks| jwks.contains("://"));
        if self.auth == Mode::Off || from_url || !self.has_key_files() {
            return Ok(None);
        }
        tool::load(&self.jwt_key, self.jwks.as_deref().map(Path::new)).map(Some)
    }

    /// Whether tokens are checked with keys of files.
    pub(crate) fn has_key_files(&self) -> bool {
        !self.jwt_key.is_empty() || self.jwks.as_deref().is_some_and(|jwks| !jwks.contains("://"))
    }

    /// Who gets in, and with which rights, for `hi config check`.
    pub(super) fn identity_rights(&self) -> String {
        let mut ways = Vec::new();
        if !self.jwt_key.is_empty() || self.jwks.is_some() {
            ways.push("a token".to_owned());
        }
        ways.extend(self.user_header.as_ref().map(|header| format!("{header} of a trusted proxy")));
        let rules =
            |rights: &Rights| if rights.to_string().is_empty() { "nothing".to_owned() } else { rights.to_string() };
        let users = format!(
            "Users are who {} says; without rooms of their own they may: {}.",
            ways.join(" or "),
            rules(&self.auth_rooms)
        );
        match self.auth {
            Mode::Off => "Anyone may join any room under any free name.".to_owned(),
            Mode::Required => format!("{users} Nobody else gets in."),
            Mode::Optional => {
                format!(
                    "{users} Anyone else is a guest, with a name that begins with ~, and may: {}.",
                    rules(&self.guest_rooms)
                )
            }
        }
    }

    fn check_identity(&self, has_keys: bool) -> Result<(), String> {
        if !has_keys && self.user_header.is_none() {
            return Err("--auth asks who users are, and nobody says it: add --jwt-key FILE or --jwks for tokens, or --user-header \
                        for a proxy that signs users in."
                .to_owned());
        }
        if self.user_header.is_some() && Networks::all(&self.trusted_proxies).is_empty() {
            return Err(
                "--user-header is believed from trusted proxies only, and there is none: add --trusted-proxies."
                    .to_owned(),
            );
        }
        if self.auth_cookie.is_some() && self.origins.contains(&Allowed::Any) {
            return Err("--auth-cookie with --origins any lets every site use your users' cookies: name the origins."
                .to_owned());
        }
        Ok(())
    }

    /// What the operator should know about who gets in: one sentence each.
    pub(crate) fn identity_warnings(&self) -> Vec<String> {
        let from_url = self.jwks.as_deref().is_some_and(|jwks| jwks.contains("://"));
        let any_audience = from_url && self.auth != Mode::Off && self.jwt_audience.is_empty();
        let text = "tokens for any audience are accepted, also those that your issuer signs for other services: set --jwt-audience";
        any_audience.then(|| text.to_owned()).into_iter().collect()
    }

    /// Who gets in, for the start's log line.
    pub(crate) fn describe_identity(&self, authority: &Authority) -> String {
        let guests = match authority.guests() {
            Some(rights) if rights.to_string().is_empty() => "guests may do nothing".to_owned(),
            Some(rights) => format!("without one, guests (~) may {rights}"),
            None => "without one, nobody gets in".to_owned(),
        };
        let keys = authority.keys();
        let mut ways = Vec::new();
        match &self.jwks {
            Some(url) if url.contains("://") => ways.push(format!("tokens are checked with the keys of {url}")),
            _ if keys.is_empty() => {}
            _ => ways.push(format!("tokens are checked with {}", keys.describe())),
        }
        ways.extend(self.user_header.as_ref().map(|header| format!("trusted proxies name users in {header}")));
        format!("{}; {guests} (--auth)", ways.join("; "))
    }
}

/// The keys at this address, and how to ask for them.
#[cfg(feature = "doctor")]
fn remote_keys(url: &str, of_files: KeySet) -> Result<(SyncSender<()>, RemoteKeys), String> {
    let document = Document::at(url, None).map_err(|why| format!("--jwks {why}."))?;
    let (source, asked) = sync_channel(1);
    Ok((source, RemoteKeys { document, of_files, asked }))
}

#[cfg(not(feature = "doctor"))]
fn remote_keys(_: &str, _: KeySet) -> Result<(SyncSender<()>, RemoteKeys), String> {
    Err("--jwks: this hi was built without its doctor, so it can only read files: build it with --features doctor."
        .to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn why(args: &[&str]) -> String {
        Config::parse_from([&["hi"], args].concat()).gate().map(drop).unwrap_err()
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        assert!(Config::parse_from(["hi"]).gate().unwrap().0.is_none());
        assert!(why(&["--jwt-key", "x"]).contains("--auth required"));
        assert!(why(&["--jwks", "x"]).contains("--auth required"));
        assert!(why(&["--auth", "required"]).contains("--jwt-key"));
        assert!(why(&["--user-header", "X-User"]).contains("--auth required"));
        assert!(why(&["--auth", "required", "--user-header", "X-User"]).contains("--trusted-proxies"));
        #[cfg(feature = "doctor")]
        assert!(why(&["--auth", "required", "--jwks", "http://keys.example.com/"]).contains("https://"));
        assert!(why(&["--auth", "optional", "--jwt-key", "/nowhere"]).contains("/nowhere"));
        let any = ["--auth", "required", "--jwt-key", "/nowhere", "--auth-cookie", "s", "--origins", "any"];
        assert!(why(&any).contains("--origins any"));
        assert!(Config::try_parse_from(["hi", "--guest-rooms", "a*b"]).unwrap_err().to_string().contains("at its end"));
    }
}
