//! A request with its body, the answer, and the errors that every address has in common.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::caller::Caller;
use super::slots::Slot;
use crate::identity::rights::Denied;
pub(crate) use crate::limits::BODY_BYTES_MAX;
use crate::limits::{BODY_TIME_MAX, EXCESS_BYTES_MAX, SMALL_BODY_BYTES_MAX};

/// A request, with its whole body.
#[derive(Debug)]
pub struct Call {
    /// Whose it is.
    pub caller: Caller,
    /// The path as it arrived, still percent-encoded.
    pub path: String,
    /// The room in the address, decoded but not checked; empty where the address names none.
    pub room: String,
    /// What follows the `?`; empty if nothing does.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Held together with a large body.
    pub turn: Option<OwnedSemaphorePermit>,
}

/// The answer to a request that succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiAnswer {
    /// The HTTP status.
    pub status: u16,
    pub(crate) content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl ApiAnswer {
    /// An answer in JSON.
    pub(crate) fn json(status: u16, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("our answers are JSON");
        Self { status, content_type: "application/json", body: body.into() }
    }

    /// Text, with status 200.
    pub(crate) fn text(content_type: &'static str, text: String) -> Self {
        Self { status: 200, content_type, body: text.into() }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = StatusCode::from_u16(self.status).expect("our own status");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// An answer without a body that names the allowed methods.
pub(super) fn no_content(allow: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// Why a request fails. `Display` is the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// One word for programs: one of [`ERROR_CODES`](crate::counters::ERROR_CODES).
    pub code: &'static str,
    /// One or two sentences for people, which name the invalid field.
    pub message: String,
    /// Whether the same request may succeed later.
    pub temporary: bool,
    /// Further keys of the body, beside `error`: an object, or null.
    pub(super) beside: Value,
    header: Option<(&'static str, &'static str)>,
}

impl ApiError {
    /// An error that another try does not change.
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), temporary: false, beside: Value::Null, header: None }
    }

    /// The request is invalid (400).
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "bad_request", message)
    }

    /// The server can't do it at the moment; a retry may succeed.
    pub(super) fn temporary(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        let header = Some(("retry-after", "1"));
        Self { temporary: true, header, ..Self::new(status, code, message) }
    }

    /// Adds the keys of this object to the body.
    pub(super) fn with(self, beside: Value) -> Self {
        Self { beside, ..self }
    }

    /// Adds a header to the answer; its name is in lower case.
    pub(super) fn header(self, name: &'static str, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// The body of the answer.
    pub(super) fn to_json(&self) -> Value {
        let Self { code, message, temporary, beside, .. } = self;
        let mut body = json!({"error": {"code": code, "message": message, "temporary": temporary}});
        if let (Value::Object(body), Value::Object(beside)) = (&mut body, beside) {
            body.extend(beside.clone());
        }
        body
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = ApiAnswer::json(self.status, &self.to_json()).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        response
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        Self::new(403, "denied", denied.to_string())
    }
}

/// Reads a whole body; a large one takes a turn of `large_bodies`. A client that asks first (`Expect: 100-continue`, RFC
/// 9110 10.1.1) is spared sending a body that is too large.
///
/// # Errors
/// It is too large (413), does not arrive in time or before the connection's slot is needed (408), or breaks off.
pub(super) async fn read_body(
    headers: &HeaderMap,
    body: Incoming,
    large_bodies: &Arc<Semaphore>,
    slot: &Slot,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    if headers.contains_key(header::EXPECT) && body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_big());
    }
    tokio::select! {
        biased;
        read = timeout(BODY_TIME_MAX, read(body, large_bodies)) => read.unwrap_or_else(|_| {
            let seconds = BODY_TIME_MAX.as_secs();
            Err(too_late(format!("The body did not arrive within {seconds} seconds: send it at once.")))
        }),
        () = slot.hurry.notified() => {
            Err(too_late("The body did not arrive before the connection was needed for another request: send it at once."))
        }
    }
}

fn too_late(message: impl Into<String>) -> ApiError {
    ApiError::temporary(408, "too_late", message)
}

async fn read(
    mut body: Incoming,
    large_bodies: &Arc<Semaphore>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let mut bytes = Vec::new();
    let mut excess = 0;
    let mut turn = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("The body broke off: {error}.")))?;
        let Ok(data) = frame.into_data() else { continue };
        if excess == 0 && bytes.len() + data.len() <= BODY_BYTES_MAX {
            if turn.is_none() && bytes.len() + data.len() > SMALL_BODY_BYTES_MAX {
                let semaphore = Arc::clone(large_bodies);
                turn = Some(semaphore.acquire_owned().await.expect("the semaphore is never closed"));
            }
            bytes.extend_from_slice(&data);
            continue;
        }
        (bytes, turn) = (Vec::new(), None);
        excess += data.len();
        if excess > EXCESS_BYTES_MAX {
            break;
        }
    }
    if excess > 0 {
        return Err(too_big());
    }
    Ok((bytes.into(), turn))
}

fn too_big() -> ApiError {
    let message = format!("The body is larger than {BODY_BYTES_MAX} bytes (1 MiB): send less at once.");
    ApiError::new(413, "too_big", message)
}
