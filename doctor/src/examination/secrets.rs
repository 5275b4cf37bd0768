//! The secrets in an address (`?token=...`, `;jsessionid=...`): sent to the server, and never shown. Pure.
//!
//! Reports are pasted into tickets and chats. Secrets are masked in the address, and in everything that a server sent back:
//! error pages, redirects and close reasons repeat the request.

use std::fmt;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Serialize, Serializer};

/// What stands in place of a secret.
const MASK: &str = "***";
/// Parameters whose values may be shown: hi's own, and those that only name a protocol. All others may be secrets.
const SHOWN: [&str; 11] =
    ["username", "room", "echo", "lossy", "latest", "interval", "EIO", "transport", "v", "vsn", "version"];
/// Parts of parameter names whose values are masked everywhere, also without their name.
const TELLING: [&str; 15] = [
    "token", "secret", "pass", "pwd", "auth", "key", "sig", "session", "sid", "jwt", "code", "ticket", "resume",
    "cred", "bearer",
];
/// Values of fewer bytes are masked only behind their name: they would match parts of other words.
const VALUE_BYTES_MIN: usize = 5;
/// Values of at least this many bytes, with letters and digits, are taken for secrets under any name.
const RANDOM_BYTES_MIN: usize = 12;

/// The query of an address. `Debug`, `Display` and JSON mask its secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(String);

impl Query {
    /// As it was given.
    pub(crate) fn new(query: &str) -> Self {
        Self(query.to_owned())
    }

    /// As it is sent: with its secrets.
    pub(crate) fn as_sent(&self) -> &str {
        &self.0
    }

    /// Whether a value looks like a secret, not just like a setting.
    pub(crate) fn has_secrets(&self) -> bool {
        self.pairs().any(|(key, value)| is_telling(key) || is_random(value))
    }

    /// The parameters that may be secrets, as name and value; the name may be empty.
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split('&').filter_map(pair)
    }
}

/// Name and value of a parameter that may be a secret.
fn pair(parameter: &str) -> Option<(&str, &str)> {
    let (key, value) = parameter.split_once('=').unwrap_or(("", parameter));
    (!value.is_empty() && !SHOWN.contains(&key)).then_some((key, value))
}

/// A parameter as it may be shown.
fn masked(parameter: &str) -> String {
    match pair(parameter) {
        None => parameter.to_owned(),
        Some(("", _)) if !parameter.starts_with('=') => MASK.to_owned(),
        Some((key, _)) => format!("{key}={MASK}"),
    }
}

/// The parameters in a path: what follows a `;` in each segment (RFC 3986 3.3).
fn in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').flat_map(|part| part.split(';').skip(1))
}

/// Whether a path has parameters that look like secrets.
pub(crate) fn has_secrets(path: &str) -> bool {
    in_path(path).filter_map(pair).any(|(key, value)| is_telling(key) || is_random(value))
}

/// A path as it may be shown: `/x;jsessionid=***/y`.
pub(crate) fn shown_path(path: &str) -> String {
    let part = |part: &str| match part.split_once(';') {
        Some((name, parameters)) => {
            format!("{name};{}", parameters.split(';').map(masked).collect::<Vec<_>>().join(";"))
        }
        None => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, parameter) in self.0.split('&').enumerate() {
            let separator = if position == 0 { "" } else { "&" };
            write!(f, "{separator}{}", masked(parameter))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for Query {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An address as it may be shown, valid or not: without user name, password and secrets.
pub(crate) fn shown(url: &str) -> String {
    let (before, query) = url.split_once('?').map_or((url, None), |(before, query)| (before, Some(query)));
    let host = before.find("://").map_or(0, |at| at + 3);
    let path = before[host..].find('/').map_or(before.len(), |at| host + at);
    let mut shown = match before[host..path].rfind('@') {
        Some(at) => format!("{}{MASK}@{}", &before[..host], &before[host + at + 1..path]),
        None => before[..path].to_owned(),
    };
    shown.push_str(&shown_path(&before[path..]));
    if let Some(query) = query {
        shown.push('?');
        shown.push_str(&Query::new(query).to_string());
    }
    shown
}

/// The secrets of an address, in every form in which a server may repeat them.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secrets {
    /// What to look for, and its replacement, the longest first.
    masked: Vec<(String, String)>,
}

impl Secrets {
    /// The secrets of a path and a query.
    pub(crate) fn of(path: &str, query: &Query) -> Self {
        let mut masked = Vec::new();
        for (key, value) in in_path(path).filter_map(pair).chain(query.pairs()) {
            let forms = forms(value);
            if !key.is_empty() {
                // In a redirect to a login page, the address is itself a parameter.
                let pair = |equals| forms.iter().map(move |form| format!("{key}{equals}{form}"));
                let pairs = ["=", "%3D", "%3d"].into_iter().flat_map(pair);
                masked.extend(pairs.map(|pair| (pair, format!("{key}={MASK}"))));
            }
            if value.len() >= VALUE_BYTES_MIN && is_telling(key) || is_random(value) {
                masked.extend(forms.into_iter().map(|form| (form, MASK.to_owned())));
            }
        }
        masked.sort_by_key(|(secret, _)| std::cmp::Reverse(secret.len()));
        Self { masked }
    }

    /// The text with each secret masked.
    pub(crate) fn mask(&self, text: &str) -> String {
        self.masked.iter().fold(text.to_owned(), |text, (secret, mask)| text.replace(secret, mask))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// A value as it was given, decoded, encoded again, and in canonical encoding.
fn forms(value: &str) -> Vec<String> {
    let decoded = percent_decode_str(value).decode_utf8_lossy().into_owned();
    let encoded = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
    let canonical = utf8_percent_encode(&decoded, NON_ALPHANUMERIC).to_string();
    let mut forms = vec![value.to_owned(), decoded, encoded, canonical];
    forms.sort();
    forms.dedup();
    forms
}

fn is_telling(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.is_empty() || TELLING.iter().any(|telling| key.contains(telling))
}

fn is_random(value: &str) -> bool {
    value.len() >= RANDOM_BYTES_MIN
        && value.contains(|letter: char| letter.is_ascii_digit())
        && value.contains(|letter: char| letter.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        for (url, expected) in [
            ("wss://h/ws?username=ada&room=tea", "wss://h/ws?username=ada&room=tea"),
            ("wss://h/ws?token=abc&room=tea&resume=&x", "wss://h/ws?token=***&room=tea&resume=&***"),
            ("wss://ada:pw@h:1/ws?key=1", "wss://***@h:1/ws?key=***"),
            ("ada:p@w@h/a@b", "***@h/a@b"),
            ("h?abc", "h?***"),
            ("ws://h/x;jsessionid=abc/y;v=1;abc/ws;k=1?=1", "ws://h/x;jsessionid=***/y;v=1;***/ws;k=***?=***"),
            ("ada:pw@h/x;sid=a@b", "***@h/x;sid=***"),
            ("", ""),
        ] {
            assert_eq!(shown(url), expected);
        }
    }

    #[test]
    fn a_query_masks_its_secrets() {
        let query = Query::new("token=abc");
        assert_eq!(
            (query.as_sent(), format!("{query} {query:?}")),
            ("token=abc", "token=*** \"token=***\"".to_owned())
        );
        assert_eq!(serde_json::to_string(&query).unwrap(), "\"token=***\"");
    }

    #[test]
    fn a_secret_is_masked_in_every_form() {
        let secrets = Secrets::of("/ws", &Query::new("token=s3%2Bcr3t&n=7&id=550e8400-e29b-41d4&room=general&bare5"));
        for (text, expected) in [
            ("Cannot GET /ws?token=s3%2Bcr3t&n=7", "Cannot GET /ws?token=***&n=***"),
            ("no such token: s3+cr3t", "no such token: ***"),
            ("/login?next=%2Fws%3Ftoken%3Ds3%252Bcr3t%26n%3D7", "/login?next=%2Fws%3Ftoken=***%26n=***"),
            ("7 members of general", "7 members of general"),
            ("550e8400-e29b-41d4, bare5", "***, ***"),
        ] {
            assert_eq!(secrets.mask(text), expected);
        }
    }

    #[test]
    fn secrets_of_the_path_are_masked() {
        let secrets = Secrets::of("/x;jsessionid=A1B2/ws;v=2", &Query::default());
        assert_eq!(secrets.mask("Cannot GET /x;jsessionid=A1B2/ws;v=2"), "Cannot GET /x;jsessionid=***/ws;v=2");
        let secrets = Secrets::of("/x;jsessionid=s3cret", &Query::default());
        assert_eq!(secrets.mask("No session s3cret"), "No session ***");
        assert!(has_secrets("/x;sid=1") && !has_secrets("/x;v=1/sid=2"));
    }

    #[test]
    fn an_address_without_secrets_changes_nothing() {
        let secrets = Secrets::of("/ws", &Query::new("username=ada&room=tea"));
        assert_eq!(secrets.mask("ada is in tea"), "ada is in tea");
        assert_eq!(secrets, Secrets::default());
    }
}
