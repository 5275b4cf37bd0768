//! Whether hi is alive, whether it is ready, and what it counts.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::header;
use serde::Serialize;

use super::App;
use super::call::{ApiAnswer, ApiError, Call};
use crate::metrics::format::Format;
use crate::stop::Stop;

/// One condition for sending clients to this server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What is checked, in one word or two.
    pub(crate) name: &'static str,
    pub(crate) ok: bool,
    /// Whether a failure makes the server unready.
    pub(crate) decides: bool,
    /// One sentence: what was found, and how to fix it if it is wrong.
    pub(crate) detail: String,
}

type Examine = Box<dyn Fn() -> Check + Send + Sync>;

/// Whether clients should be sent to this server. The first check is that it isn't stopping.
pub struct Readiness {
    checks: Mutex<Vec<Examine>>,
}

impl Readiness {
    /// Ready until `stop` is requested.
    pub fn new(stop: Arc<Stop>) -> Self {
        let readiness = Self { checks: Mutex::default() };
        readiness.add(move || {
            let stopping = stop.is_requested();
            let detail = if stopping { "The server stops: send new clients elsewhere." } else { "The server accepts." };
            Check { name: "accepting", ok: !stopping, decides: true, detail: detail.to_owned() }
        });
        readiness
    }

    /// Adds a check. It runs with every request for `/readyz`, so it must not wait: a slow check runs elsewhere and leaves its
    /// last result here.
    pub(crate) fn add(&self, examine: impl Fn() -> Check + Send + Sync + 'static) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(examine));
    }

    /// Runs all checks.
    pub(crate) fn examine(&self) -> Vec<Check> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|examine| examine()).collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.examine()).finish()
    }
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    checks: Vec<Check>,
}

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> Result<ApiAnswer, ApiError> {
    Ok(ApiAnswer::text("text/plain; charset=utf-8", "ok".to_owned()))
}

/// `GET /readyz`: 200 if every check that decides is OK, otherwise 503.
pub(super) async fn readyz(app: &App) -> Result<ApiAnswer, ApiError> {
    let checks = app.readiness.examine();
    let ready = checks.iter().all(|check| check.ok || !check.decides);
    Ok(ApiAnswer::json(if ready { 200 } else { 503 }, &Ready { ready, checks }))
}

/// `GET /metrics`, in the format that `Accept` asks for.
pub(super) async fn metrics(app: &App, call: &Call) -> Result<ApiAnswer, ApiError> {
    let values = call.headers.get_all(header::ACCEPT).iter();
    let accept: Vec<_> =
        values.flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii).collect();
    let format = Format::wanted(&accept);
    Ok(ApiAnswer::text(format.content_type(), app.metrics.encode(format)))
}
