//! Answers that say that the path is wrong: 404, a page, a redirect. Pure.

use std::net::IpAddr;

use serde_json::Value;

use super::super::facts::{Address, Answer, Facts};
use super::super::url::Target;
use super::super::verdict::Kind;
use super::Fault;
use super::handshake::{front, html, is_web_page, ok_200, server};
use crate::http::target::{Route, UpgradeTarget, route};

/// Words in the address of a page where users log in; those in capitals stand alone.
const LOGIN_WORDS: [&str; 8] = ["login", "logon", "signin", "oauth", "openid", "saml", "authoriz", "authenti"];
const LOGIN_WORDS_ALONE: [&str; 6] = ["auth", "sso", "oidc", "idp", "accounts", "cloudflareaccess"];

/// What hi has at the path of the address, if hi was seen there: the proxy's prefix is not hi's.
fn at_path<'f>(address: &Address, facts: &'f Facts) -> Option<Route<'f>> {
    let path = facts.target.path.strip_prefix(address.base()?).unwrap_or(&facts.target.path);
    route(path).ok()
}

/// The address of the chat next to where hi was seen.
fn chat(address: &Address, facts: &Facts) -> String {
    let target = &facts.target;
    let base = address.base().unwrap_or_default();
    let without_slash = target.path.trim_end_matches('/');
    let is_chat = |path: &str| matches!(route(path), Ok(Route::Upgrade(UpgradeTarget::Chat { .. })));
    match is_chat(without_slash.strip_prefix(base).unwrap_or(without_slash)) {
        true => target.websocket(without_slash),
        false => target.websocket(&format!("{base}/ws")),
    }
}

/// An error of hi's internal port (`src/api`).
fn is_internal_port(answer: &Answer) -> bool {
    let body: Option<Value> = serde_json::from_str(&answer.body).ok();
    body.is_some_and(|body| body["error"]["code"].is_string() && body["error"]["temporary"].is_boolean())
}

/// Nothing at the path. Where hi itself has nothing there, nobody else is to blame.
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
        Some(Route::Upgrade(_)) => Fault::new(
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

/// 200: something takes the handshake for a request for a page.
pub(super) fn wrong_page(address: &Address, answer: &Answer, facts: &Facts) -> Fault {
    let path = &facts.target.path;
    let what = match at_path(address, facts) {
        Some(Route::Page(_)) => "its page, for browsers",
        Some(Route::Healthz) => "its health check",
        Some(Route::DoctorEcho) => "the echo, which hi doctor asks by itself",
        Some(Route::Stream { .. }) => {
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
    let clause = format!("{path} is no WebSocket of hi: it is {what} (200 instead of 101)");
    Fault::new(Kind::Ok200InsteadOf101, clause, where_hi_listens(address, facts))
}

/// Where a redirect leads: without its query, which may hold anything.
struct Destination {
    tls: bool,
    authority: String,
    path: String,
}

impl Destination {
    /// `Location` may leave out what stays the same (RFC 9110 10.2.2).
    fn of(location: &str, from: &Target) -> Self {
        let bare = location.split(['?', '#']).next().unwrap_or_default();
        let (tls, rest) = match bare.split_once("://") {
            Some((scheme, rest)) => (matches!(&*scheme.to_ascii_lowercase(), "https" | "wss"), rest),
            None => match bare.strip_prefix("//") {
                Some(rest) => (from.tls, rest),
                None => {
                    let path = match (bare.starts_with('/'), from.path.rfind('/')) {
                        (false, Some(end)) if !bare.is_empty() => format!("{}{bare}", &from.path[..=end]),
                        _ => bare.to_owned(),
                    };
                    return Self { tls: from.tls, authority: from.authority(), path };
                }
            },
        };
        let end = rest.find('/').unwrap_or(rest.len());
        let authority = rest[..end].rsplit('@').next().unwrap_or_default().to_owned();
        let path = if end == rest.len() { "/" } else { &rest[end..] };
        Self { tls, authority, path: path.to_owned() }
    }

    fn page(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.path)
    }

    fn websocket(&self) -> String {
        format!("{}://{}{}", if self.tls { "wss" } else { "ws" }, self.authority, self.path)
    }

    fn host(&self) -> &str {
        let port = self.authority.rfind(':').filter(|at| !self.authority[*at..].contains(']'));
        &self.authority[..port.unwrap_or(self.authority.len())]
    }

    fn is_at(&self, host: &str) -> bool {
        let bare = self.host().trim_matches(['[', ']']);
        match (bare.parse::<IpAddr>(), host.parse::<IpAddr>()) {
            (Ok(one), Ok(other)) => one == other,
            _ => bare.eq_ignore_ascii_case(host),
        }
    }

    fn is_login(&self) -> bool {
        let text = format!("{}{}", self.authority, self.path).to_ascii_lowercase();
        let words: Vec<_> = text.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
        words.iter().any(|word| LOGIN_WORDS.iter().any(|login| word.starts_with(login)))
            || words.iter().any(|word| LOGIN_WORDS_ALONE.contains(word))
            || words.windows(2).any(|pair| matches!(pair, ["sign" | "log", "in" | "on"]))
    }
}

pub(super) fn redirect(address: &Address, answer: &Answer, facts: &Facts) -> Fault {
    let target = &facts.target;
    let to = Destination::of(answer.header("location").unwrap_or_default(), target);
    let path = &target.path;
    let (same_path, same_host) = (to.path == *path, to.is_at(&target.host));
    let is_login = !same_path && to.is_login();
    let login = if is_login { "a login page, " } else { "" };
    let clause = format!(
        "{} redirects the handshake to {login}{} ({}), and WebSocket clients don't follow redirects",
        front(address, answer),
        to.page(),
        answer.status
    );
    let fix = if is_login {
        format!(
            "let {path} pass without that login; or log in first: a browser sends the cookies of its page with the handshake"
        )
    } else if same_path && (!same_host || to.tls && !target.tls) {
        format!("use {}", to.websocket())
    } else if same_host && to.tls && !target.tls {
        format!("use wss://{}{path}: plain requests are redirected to https", to.authority)
    } else {
        format!("don't redirect {path}: let the proxy pass it on as it is ({} is another page)", to.page())
    };
    Fault::new(Kind::Redirect, clause, fix)
}
