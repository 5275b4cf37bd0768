//! Request bodies of the internal port, sent to every address that takes JSON.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hi::admission::RawMode;
use hi::api::call::{ApiAnswer, ApiError, Call};
use hi::api::caller::Caller;
use hi::api::health::Readiness;
use hi::api::key::Keys;
use hi::api::{App, publish, rooms};
use hi::counters::ERROR_CODES;
use hi::metrics::Metrics;
use hi::protocol::resume::ResumeKey;
use hi::protocol::surrogates::without_lone_surrogates;
use hi::room::registry::Registry;
use hi::room::replay::ReplayBounds;
use hi::stop::Stop;
use serde_json::Value;

use super::assert_sentence;

/// The field names of all addresses.
const FIELDS: [&str; 6] = ["room", "rooms", "message", "from", "user", "reason"];

thread_local! {
    /// A server without shards, whose rooms are empty.
    static APP: App = {
        let rooms = Arc::new(Registry::new(Arc::new([]), 1, ResumeKey::new(0, [1, 2]), ReplayBounds::OFF));
        let metrics = Arc::new(Metrics::new("fuzz", "epoll", 0, Arc::clone(&rooms)));
        let readiness = Arc::new(Readiness::new(Arc::<Stop>::default()));
        App::new(rooms, metrics, readiness, RawMode::Open, Keys::default())
    };
}

/// The body of a request.
pub fn check(body: &[u8]) {
    let call = Call {
        caller: Caller::Operator,
        path: String::new(),
        room: "tea".to_owned(),
        query: String::new(),
        headers: Default::default(),
        body: body.to_vec().into(),
        turn: None,
    };
    APP.with(|app| {
        check_outcome(body, at_once(publish::publish(app, &call)), 202);
        check_outcome(body, at_once(publish::broadcast(app, &call)), 202);
        check_outcome(body, at_once(rooms::disconnect(app, &call)), 200);
    });
}

fn at_once<T>(outcome: impl Future<Output = T>) -> T {
    match pin!(outcome).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("there is no shard to wait for"),
    }
}

fn check_outcome(body: &[u8], outcome: Result<ApiAnswer, ApiError>, success: u16) {
    let fields = match serde_json::from_slice(&without_lone_surrogates(body)) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    };
    match outcome {
        Ok(ApiAnswer { status, body, .. }) => {
            assert!(fields.is_some() && status == success, "{status}");
            assert!(matches!(serde_json::from_slice(&body), Ok(Value::Object(_))), "{}", body.escape_ascii());
        }
        Err(ApiError { status, code, message, temporary, .. }) => {
            assert_eq!((status, code, temporary), (400, "bad_request", false), "{message}");
            assert!(ERROR_CODES.contains(&code));
            assert_sentence(&message);
            if let Some(fields) = fields {
                let unknown = fields.keys().map(|name| name.escape_debug().to_string());
                let mut names = FIELDS.into_iter().map(str::to_owned).chain(unknown);
                let is_named =
                    |name: String| message.strip_prefix(&name).is_some_and(|rest| rest.starts_with([':', '[']));
                assert!(names.any(is_named), "{message} names no field");
            }
        }
    }
}
