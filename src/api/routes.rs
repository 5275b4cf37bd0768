//! Every address of the internal port.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::App;
use super::call::{Answer, ApiError, Call, read_body};
use super::slots::Slot;
use super::{health, publish, rooms};

/// The description of every address, as `/api/openapi.json` serves it.
pub const OPENAPI: &str = include_str!("openapi.json");

/// What comes of a request.
type Outcome = Result<Answer, ApiError>;
/// The same, once it is there.
type Later<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// What an address does, once the request is there.
#[derive(Clone, Copy)]
enum Handler {
    /// At once.
    Now(fn(&App, &Call) -> Outcome),
    /// Once the shards have answered, or have caught up.
    Later(for<'a> fn(&'a App, &'a Call) -> Later<'a>),
}

/// One address.
struct Route {
    method: Method,
    path: &'static str,
    /// Whether it is open to whoever reaches the port, or asks for the key.
    open: bool,
    handler: Handler,
}

/// All of them. `{*room}` is the rest of the path, so that a room's name may contain slashes.
fn routes() -> Vec<Route> {
    use Handler::{Later, Now};
    let open = |path, handler| Route { method: Method::GET, path, open: true, handler: Now(handler) };
    let guarded = |method, path, handler| Route { method, path, open: false, handler };
    vec![
        open("/healthz", health::healthz),
        open("/readyz", health::readyz),
        open("/metrics", health::metrics),
        guarded(Method::POST, "/api/publish", Later(|app, call| Box::pin(publish::publish(app, call)))),
        guarded(Method::POST, "/api/broadcast", Later(|app, call| Box::pin(publish::broadcast(app, call)))),
        guarded(Method::POST, "/pub/{*room}", Later(|app, call| Box::pin(publish::publish_raw(app, call)))),
        guarded(Method::GET, "/api/rooms", Now(rooms::rooms)),
        guarded(Method::GET, "/api/rooms/{*room}", Now(rooms::one_room)),
        guarded(Method::POST, "/api/disconnect", Later(|app, call| Box::pin(rooms::disconnect(app, call)))),
        guarded(Method::GET, "/api/openapi.json", Now(openapi)),
    ]
}

fn openapi(_: &App, _: &Call) -> Outcome {
    Ok(Answer::text("application/json", OPENAPI.to_owned()))
}

/// What axum serves.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, service(&route, &app));
    }
    for path in routes().iter().map(|route| route.path).collect::<BTreeSet<_>>() {
        router = router.route(path, on(MethodFilter::OPTIONS, async move || options(Some(path))));
    }
    let lost = Arc::clone(&app);
    let fallback = move |method: Method, uri: Uri| async move {
        match (method, uri.path()) {
            // The bare health check of HAProxy asks about `/`.
            (Method::OPTIONS, "*" | "/") => options(None),
            _ => lost.refuse(not_found(&uri)),
        }
    };
    let wrong_method = move |method: Method, uri: Uri| async move { app.refuse(method_not_allowed(&method, &uri)) };
    router.fallback(fallback).method_not_allowed_fallback(wrong_method)
}

/// The methods of an address, or of all of them (RFC 9110 9.3.7).
fn options(path: Option<&str>) -> Response {
    let routes = routes();
    let here = routes.iter().filter(|route| path.is_none_or(|path| route.path == path));
    let mut methods: BTreeSet<_> = here.map(|route| route.method.as_str()).chain(["OPTIONS"]).collect();
    if methods.contains("GET") {
        methods.insert("HEAD");
    }
    let allow = methods.into_iter().collect::<Vec<_>>().join(", ");
    (StatusCode::NO_CONTENT, [(header::ALLOW, allow)]).into_response()
}

fn service(route: &Route, app: &Arc<App>) -> MethodRouter {
    let filter = MethodFilter::try_from(route.method.clone()).expect("methods that we serve");
    let (app, open, handler) = (Arc::clone(app), route.open, route.handler);
    on(filter, move |request: Request| async move {
        let outcome = answer(&app, open, handler, request).await;
        outcome.map_or_else(|error| app.refuse(error), Answer::into_response)
    })
}

async fn answer(app: &App, open: bool, handler: Handler, request: Request) -> Outcome {
    if !open {
        app.keys.admit(request.headers())?;
    }
    let call = call(app, request).await?;
    match handler {
        Handler::Now(handler) => handler(app, &call),
        Handler::Later(handler) => handler(app, &call).await,
    }
}

async fn call(app: &App, request: Request) -> Result<Call, ApiError> {
    let (mut parts, body) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &())
        .await
        .map_err(|_| ApiError::bad_request("room: the name in the address is not UTF-8 in percent-encoding."))?;
    let room = params.iter().next().map(|(_, room)| room.to_owned()).unwrap_or_default();
    let slot = parts.extensions.get::<Arc<Slot>>().map(|slot| &**slot);
    let (body, turn) = read_body(&parts.headers, body, &app.large_bodies, slot).await?;
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let path = parts.uri.path().to_owned();
    Ok(Call { path, room, query, headers: parts.headers, body, turn })
}

fn not_found(uri: &Uri) -> ApiError {
    let paths: Vec<_> = routes().iter().map(|route| route.path.replace('*', "")).collect();
    let message = format!("There is nothing at {:?}. The internal port has: {}.", uri.path(), paths.join(", "));
    ApiError::new(404, "not_found", message)
}

fn method_not_allowed(method: &Method, uri: &Uri) -> ApiError {
    let message = format!("{method} does not work at {:?}: see /api/openapi.json.", uri.path());
    ApiError::new(405, "method_not_allowed", message)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::api::call::ERROR_CODES;

    #[test]
    fn the_description_has_every_address_and_no_other() {
        let description: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let served: BTreeSet<_> = routes()
            .iter()
            .map(|route| (route.path.replace('*', ""), route.method.as_str().to_lowercase(), route.open))
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
