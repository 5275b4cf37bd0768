//! Every address of the internal port.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::App;
use super::call::{Answer, ApiError, Call, read_body};
use super::health;

/// What an address does, once the request is there.
type Handler = fn(&App, &Call) -> Result<Answer, ApiError>;

/// One address.
struct Route {
    method: Method,
    path: &'static str,
    handler: Handler,
}

/// All of them. `{*room}` is the rest of the path, so that a room's name may contain slashes.
fn routes() -> Vec<Route> {
    let route = |method, path, handler: Handler| Route { method, path, handler };
    vec![
        route(Method::GET, "/healthz", health::healthz),
        route(Method::GET, "/readyz", health::readyz),
        route(Method::GET, "/metrics", health::metrics),
    ]
}

/// What axum serves.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for Route { method, path, handler } in routes() {
        router = router.route(path, service(&method, handler, &app));
    }
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed)
}

fn service(method: &Method, handler: Handler, app: &Arc<App>) -> MethodRouter {
    let filter = MethodFilter::try_from(method.clone()).expect("methods that we serve");
    let app = Arc::clone(app);
    on(filter, move |request: Request| async move {
        match call(request).await.and_then(|call| handler(&app, &call)) {
            Ok(answer) => answer.into_response(),
            Err(error) => error.into_response(),
        }
    })
}

async fn call(request: Request) -> Result<Call, ApiError> {
    let (mut parts, body) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &())
        .await
        .map_err(|_| ApiError::bad_request("room: the name in the address is not UTF-8 in percent-encoding."))?;
    let room = params.iter().next().map(|(_, room)| room.to_owned()).unwrap_or_default();
    let body = read_body(body).await?;
    let query = parts.uri.query().unwrap_or_default().to_owned();
    Ok(Call { room, query, headers: parts.headers, body })
}

async fn not_found(uri: Uri) -> Response {
    let paths: Vec<_> = routes().iter().map(|route| route.path.replace('*', "")).collect();
    let message = format!("There is nothing at {:?}. The internal port has: {}.", uri.path(), paths.join(", "));
    ApiError::new(404, "not_found", message).into_response()
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("{method} does not work at {:?}: see /api/openapi.json.", uri.path());
    ApiError::new(405, "method_not_allowed", message).into_response()
}
