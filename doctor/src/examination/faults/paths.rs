//! Answers that point at a wrong path: 404, a page, a redirect. Pure.

use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::Url;

use super::super::facts::{Address, Answer, ECHO_PATH, Facts};
use super::super::url::Target;
use super::super::verdict::Kind;
use super::Fault;
use super::front::{front, html, is_web_page, ok_200, server, unexpected};

/// Beginnings of words in the address of a login page.
const LOGIN_WORDS: [&str; 8] = ["login", "logon", "signin", "oauth", "openid", "saml", "authoriz", "authenti"];
/// The same, as whole words.
const LOGIN_WHOLE_WORDS: [&str; 6] = ["auth", "sso", "oidc", "idp", "accounts", "cloudflareaccess"];

/// What hi serves at a path (`src/http/target.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Chat,
    Raw,
    Stream,
    Echo,
    Health,
    Page,
    Nothing,
}

impl Place {
    fn of(path: &str) -> Self {
        let path = percent_decode_str(path).decode_utf8_lossy();
        match path.trim_start_matches('/') {
            _ if path == ECHO_PATH => Self::Echo,
            _ if path.starts_with("/-/") => Self::Nothing,
            _ if path.starts_with("/raw/") => Self::Raw,
            _ if path.starts_with("/stream/") => Self::Stream,
            "healthz" => Self::Health,
            "" | "index.html" => Self::Page,
            file if !file.contains('/') && (file.ends_with(".js") || file.ends_with(".css")) => Self::Page,
            _ if path.ends_with("/ws") => Self::Chat,
            _ => Self::Nothing,
        }
    }
}

/// What hi serves at the path of the address, if hi was seen there. A proxy's prefix is left out.
fn at_path(address: &Address, facts: &Facts) -> Option<Place> {
    Some(Place::of(facts.target.path.strip_prefix(address.base()?).unwrap_or(&facts.target.path)))
}

/// The address of the chat where hi was seen.
fn chat(address: &Address, facts: &Facts) -> String {
    let target = &facts.target;
    let base = address.base().unwrap_or_default();
    let without_slash = target.path.trim_end_matches('/');
    let place = Place::of(without_slash.strip_prefix(base).unwrap_or(without_slash));
    match place == Place::Chat {
        true => target.websocket(without_slash),
        false => target.websocket(&format!("{base}/ws")),
    }
}

/// An error of hi's internal port (`src/api`).
fn is_internal_port(answer: &Answer) -> bool {
    let body: Option<Value> = serde_json::from_str(&answer.body).ok();
    body.is_some_and(|body| body["error"]["code"].is_string() && body["error"]["temporary"].is_boolean())
}

/// 404. Where hi itself has nothing at the path, no proxy is to blame.
pub(super) fn not_found(address: &Address, answer: &Answer, facts: &Facts) -> Fault {
    let path = &facts.target.path;
    let nothing = |who: &str| format!("{who} answers there and has nothing at {path} (404)");
    match at_path(address, facts) {
        None if is_internal_port(answer) => Fault::new(
            Kind::NotFound,
            format!("hi's internal port answers there and has no WebSockets (404 at {path})"),
            "use the public port (hi --listen; 8080 unless it says otherwise)",
        ),
        None => Fault::new(
            Kind::NotFound,
            nothing(&server(address, answer)),
            "check the path; where a proxy stands before hi, check its rule for this path",
        ),
        Some(Place::Chat | Place::Raw) => Fault::new(
            Kind::NotFound,
            nothing(&front(address, answer)),
            format!("let the proxy pass {path} on as it is; hi serves the chat at every path that ends in /ws"),
        ),
        Some(_) => Fault::new(Kind::NotFound, nothing("hi"), where_hi_listens(address, facts)),
    }
}

fn where_hi_listens(address: &Address, facts: &Facts) -> String {
    let used = format!("use {}: the chat is at every path that ends in /ws", chat(address, facts));
    let hops = address.hops();
    match hops.is_empty() {
        true => format!("{used}, raw rooms are at /raw/ROOM"),
        false => format!("{used}; to serve it at {}, let the proxy in front rewrite the path", facts.target.path),
    }
}

/// 200: the handshake was treated as a request for a page.
pub(super) fn wrong_page(address: &Address, answer: &Answer, facts: &Facts) -> Fault {
    let path = &facts.target.path;
    let what = match at_path(address, facts) {
        Some(Place::Page) => "its page, for browsers",
        Some(Place::Health) => "its health check",
        Some(Place::Echo) => "the echo, which hi doctor asks by itself",
        Some(Place::Stream) => {
            let clause = format!("hi answers with server-sent events at {path}, which are for EventSource");
            let fix = format!(
                "use {}?room=ROOM for WebSockets, or open this address with EventSource (http:// or https://)",
                chat(address, facts)
            );
            return Fault::new(Kind::Ok200InsteadOf101, clause, fix);
        }
        _ if is_web_page(address, answer) => return html(address, answer, 200, facts),
        _ => return ok_200(address, answer, facts),
    };
    let clause = format!("{path} is not a WebSocket address of hi: it is {what} (200 instead of 101)");
    Fault::new(Kind::Ok200InsteadOf101, clause, where_hi_listens(address, facts))
}

/// The address of a redirect, and where it leads (RFC 9110 10.2.2): without its query, which may hold anything.
struct Redirect {
    from: Url,
    to: Url,
}

impl Redirect {
    fn of(location: &str, target: &Target) -> Option<Self> {
        let from = Url::parse(&target.websocket(&target.path)).ok()?;
        let mut to = from.join(location).ok().filter(Url::has_host)?;
        to.set_query(None);
        to.set_fragment(None);
        to.set_username("").and_then(|()| to.set_password(None)).ok()?;
        Some(Self { from, to })
    }

    fn adds_tls(&self) -> bool {
        self.from.scheme() == "ws" && self.is_secure()
    }

    fn is_secure(&self) -> bool {
        matches!(self.to.scheme(), "https" | "wss")
    }

    /// The destination for a browser.
    fn page(&self) -> String {
        self.with_scheme(["http", "https"])
    }

    fn websocket(&self) -> String {
        self.with_scheme(["ws", "wss"])
    }

    fn with_scheme(&self, [plain, secure]: [&str; 2]) -> String {
        let scheme = if self.is_secure() { secure } else { plain };
        format!("{scheme}://{}{}", self.to.authority(), self.to.path())
    }

    fn is_login(&self) -> bool {
        let text = format!("{}{}", self.to.authority(), self.to.path()).to_ascii_lowercase();
        let words: Vec<_> = text.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
        words.iter().any(|word| LOGIN_WORDS.iter().any(|login| word.starts_with(login)))
            || words.iter().any(|word| LOGIN_WHOLE_WORDS.contains(word))
            || words.windows(2).any(|pair| matches!(pair, ["sign" | "log", "in" | "on"]))
    }
}

pub(super) fn redirect(address: &Address, answer: &Answer, facts: &Facts) -> Fault {
    let path = &facts.target.path;
    let redirect = answer.header("location").and_then(|location| Redirect::of(location, &facts.target));
    let Some(redirect) = redirect else { return unexpected(address, answer, answer.status) };
    let same_path = redirect.to.path() == redirect.from.path();
    let same_host = redirect.to.host() == redirect.from.host();
    let is_login = !same_path && redirect.is_login();
    let login = if is_login { "a login page, " } else { "" };
    let clause = format!(
        "{} redirects the handshake to {login}{} ({}), and WebSocket clients don't follow redirects",
        front(address, answer),
        redirect.page(),
        answer.status
    );
    let fix = if is_login {
        format!(
            "let {path} pass without that login; or log in first: a browser sends the cookies of its page with the handshake"
        )
    } else if same_path && (!same_host || redirect.adds_tls()) {
        format!("use {}", redirect.websocket())
    } else if same_host && redirect.adds_tls() {
        format!("use wss://{}{path}: plain requests are redirected to https", redirect.to.authority())
    } else {
        format!("don't redirect {path}: let the proxy pass it on as it is ({} is another page)", redirect.page())
    };
    Fault::new(Kind::Redirect, clause, fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_hi_are_known() {
        for (place, paths) in [
            (Place::Chat, &["/ws", "/a/ws", "/%77s"][..]),
            (Place::Raw, &["/raw/tea", "/raw/ws"]),
            (Place::Stream, &["/stream/tea", "/stream/ws"]),
            (Place::Echo, &["/-/doctor/echo"]),
            (Place::Health, &["/healthz"]),
            (Place::Page, &["/", "/index.html", "/app.js", "/style.css"]),
            (Place::Nothing, &["/nothing", "/ws/", "/-/ws", "/a/app.js"]),
        ] {
            assert!(paths.iter().all(|path| Place::of(path) == place), "{place:?}");
        }
    }
}
