//! Every address of the internal port.

use std::pin::Pin;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use percent_encoding::percent_decode_str;

use super::App;
use super::call::{self, ApiAnswer, ApiError, Call};
use super::caller::Caller;
use super::slots::Slot;
use super::{health, publish, rooms, tokens};

/// The description of all addresses, served at `/api/openapi.json`.
const OPENAPI: &str = include_str!("openapi.json");
/// Stands for the rest of the path, so that a room's name may contain slashes.
const ROOM: &str = "{room}";

/// What a request comes to.
type Outcome = Result<ApiAnswer, ApiError>;
type Handler = for<'a> fn(&'a App, &'a Call) -> Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// One address, and the one method that it has beside `OPTIONS` and `HEAD`.
struct Route {
    method: Method,
    path: &'static str,
    /// Whether it needs no key.
    open: bool,
    /// Whether no token opens it.
    operator_only: bool,
    handler: Handler,
}

static ROUTES: [Route; 10] = [
    Route::open("/healthz", |_, _| Box::pin(health::healthz())),
    Route::open("/readyz", |app, _| Box::pin(health::readyz(app))),
    Route::open("/metrics", |app, call| Box::pin(health::metrics(app, call))),
    Route::guarded(Method::POST, "/api/publish", |app, call| Box::pin(publish::publish(app, call))),
    Route::guarded(Method::POST, "/api/broadcast", |app, call| Box::pin(publish::broadcast(app, call))),
    Route::guarded(Method::POST, "/pub/{room}", |app, call| Box::pin(publish::publish_raw(app, call))),
    Route::guarded(Method::GET, "/api/rooms", |app, call| Box::pin(rooms::rooms(app, call))),
    Route::guarded(Method::GET, "/api/rooms/{room}", |app, call| Box::pin(rooms::one_room(app, call))),
    Route::of_operator(Method::POST, "/api/disconnect", |app, call| Box::pin(rooms::disconnect(app, call))),
    Route::guarded(Method::GET, "/api/openapi.json", |_, _| Box::pin(openapi())),
];

impl Route {
    const fn open(path: &'static str, handler: Handler) -> Self {
        Self { method: Method::GET, path, open: true, operator_only: false, handler }
    }

    const fn guarded(method: Method, path: &'static str, handler: Handler) -> Self {
        Self { method, path, open: false, operator_only: false, handler }
    }

    const fn of_operator(method: Method, path: &'static str, handler: Handler) -> Self {
        Self { method, path, open: false, operator_only: true, handler }
    }

    /// The room in the path, still percent-encoded (empty if the address has none); `None` if the path is another address.
    fn matches<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.strip_suffix(ROOM) {
            Some(start) => path.strip_prefix(start).filter(|room| !room.is_empty()),
            None => (path == self.path).then_some(""),
        }
    }

    fn serves(&self, method: &Method) -> bool {
        self.method == *method || self.method == Method::GET && method == Method::HEAD
    }

    /// The value of `Allow` (RFC 9110 10.2.1).
    fn allow(&self) -> &'static str {
        if self.method == Method::GET { "GET, HEAD, OPTIONS" } else { "OPTIONS, POST" }
    }
}

async fn openapi() -> Outcome {
    Ok(ApiAnswer::text("application/json", OPENAPI.to_owned()))
}

pub(super) async fn answer(app: &App, request: Request<Incoming>, slot: &Slot) -> Response<Full<Bytes>> {
    dispatch(app, request, slot).await.unwrap_or_else(|error| app.refuse(error))
}

async fn dispatch(app: &App, request: Request<Incoming>, slot: &Slot) -> Result<Response<Full<Bytes>>, ApiError> {
    let (head, body) = request.into_parts();
    let (method, path, headers) = (head.method, head.uri.path(), head.headers);
    let Some((route, room)) = ROUTES.iter().find_map(|route| Some((route, route.matches(path)?))) else {
        // HAProxy's default health check sends `OPTIONS /`; `*` is the server as a whole (RFC 9110 9.3.7).
        let is_of_all = method == Method::OPTIONS && matches!(path, "*" | "/");
        return if is_of_all { Ok(call::no_content("GET, HEAD, OPTIONS, POST")) } else { Err(not_found(path)) };
    };
    if method == Method::OPTIONS {
        return Ok(call::no_content(route.allow()));
    }
    if !route.serves(&method) {
        let message = format!("{method} does not work at {path:?}: see /api/openapi.json.");
        return Err(ApiError::new(405, "method_not_allowed", message).header("allow", route.allow()));
    }
    let caller =
        if route.open { Caller::Operator } else { tokens::identify(&app.keys, app.tokens.as_ref(), &headers)? };
    if route.operator_only && matches!(caller, Caller::User(_)) {
        let message = format!("{path} is for the operator: tokens don't open it, send an API key (--api-key-file).");
        return Err(ApiError::new(403, "denied", message));
    }
    let room = percent_decode_str(room)
        .decode_utf8()
        .map_err(|_| ApiError::bad_request("room: the name in the address is not UTF-8 in percent-encoding."))?;
    let (body, turn) = call::read_body(&headers, body, &app.large_bodies, slot).await?;
    let (path, query) = (path.to_owned(), head.uri.query().unwrap_or_default().to_owned());
    let call = Call { caller, path, room: room.into_owned(), query, headers, body, turn };
    (route.handler)(app, &call).await.map(ApiAnswer::into_response)
}

fn not_found(path: &str) -> ApiError {
    let paths = ROUTES.each_ref().map(|route| route.path).join(", ");
    ApiError::new(404, "not_found", format!("There is nothing at {path:?}. The internal port has: {paths}."))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::counters::ERROR_CODES;

    #[test]
    fn the_description_has_every_address_and_no_other() {
        let description: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let served: BTreeSet<_> = ROUTES
            .iter()
            .map(|route| (route.path.to_owned(), route.method.as_str().to_lowercase(), route.open))
            .collect();
        let mut described = BTreeSet::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let open = operation.get("security") == Some(&Value::Array(Vec::new()));
                described.insert((path.clone(), method.clone(), open));
            }
        }
        assert_eq!(served, described);
    }

    #[test]
    fn the_description_has_every_code_of_an_error() {
        let description: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let mut lists = Vec::new();
        let mut values = vec![&description];
        while let Some(value) = values.pop() {
            match value {
                Value::Array(list) => values.extend(list),
                Value::Object(fields) => {
                    lists.extend(fields.get("code").and_then(|code| code["enum"].as_array()));
                    values.extend(fields.values());
                }
                _ => {}
            }
        }
        assert_eq!(lists, [&ERROR_CODES.map(Value::from).to_vec()]);
    }

    #[test]
    fn every_reference_in_the_description_leads_somewhere() {
        let description: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let references: Vec<_> =
            OPENAPI.split("\"$ref\": \"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(references.len() > 20);
        for reference in references {
            assert!(description.pointer(reference).is_some(), "{reference}");
        }
    }
}
