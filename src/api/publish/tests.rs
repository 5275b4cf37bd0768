//! Publishing while shards are behind: a registry whose one shard is the test, on tokio's paused clock.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hyper::HeaderMap;
use hyper::header::HeaderName;
use serde_json::Value;

use super::*;
use crate::api::health::Readiness;
use crate::api::key::Keys;
use crate::limits::PUBLISHES_WAITING_MAX;
use crate::metrics::Metrics;
use crate::os;
use crate::protocol::MemberId;
use crate::protocol::resume::ResumeKey;
use crate::room::inbox;
use crate::room::registry::Registry;
use crate::room::replay::ReplayBounds;
use crate::room::{Joining, Room};
use crate::stop::Stop;

const ROOMS: [&str; 3] = ["one", "two", "three"];

/// The internal port of a server with a member in each of the rooms.
fn app() -> (App, [Arc<Room>; 3]) {
    let inboxes = inbox::inboxes([os::new_eventfd().unwrap()], 1 << 30);
    let registry = Arc::new(Registry::new(inboxes, 1, ResumeKey::new(0, [1, 2]), ReplayBounds::OFF));
    let rooms = ROOMS.map(|name| {
        let joining = Joining::new(None, MemberId { shard: 0, slot: 0, serial: 1 });
        let name = Name::room(name).unwrap();
        registry.join(Namespace::Chat, &name, &joining, Time::default(), &mut Wakes::default()).unwrap().room
    });
    let metrics = Arc::new(Metrics::new("test", "epoll", 1, Arc::clone(&registry)));
    let readiness = Arc::new(Readiness::new(Arc::<Stop>::default()));
    (App::new(registry, metrics, readiness, RawMode::Open, Keys::default()), rooms)
}

/// A broadcast to the rooms.
fn call(key: Option<&'static str>) -> Call {
    let mut headers = HeaderMap::new();
    headers.extend(key.map(|key| (HeaderName::from_static("idempotency-key"), key.parse().unwrap())));
    let body = json!({"rooms": ROOMS, "message": "hello"}).to_string().into();
    let caller = Caller::Operator;
    Call { caller, path: "/api/broadcast".into(), room: String::new(), query: String::new(), headers, body, turn: None }
}

fn last_seqs(rooms: &[Arc<Room>; 3]) -> [u64; 3] {
    rooms.each_ref().map(|room| room.last_seq())
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_that_has_to_wait_too_long_says_which_rooms_have_it_and_goes_on_there() {
    let (app, rooms) = app();
    rooms[1].set_behind(true);
    let refusal = broadcast(&app, &call(Some("k"))).await.unwrap_err();
    assert_eq!((refusal.status, refusal.code, refusal.temporary), (503, "busy", true), "{refusal}");
    assert_eq!((&refusal.beside["remaining"], &refusal.beside["members"]), (&json!(["two", "three"]), &json!(1)));
    assert_eq!((&refusal.beside["rooms"][0]["room"], &refusal.beside["rooms"][0]["seq"]), (&json!("one"), &json!(1)));
    assert_eq!(last_seqs(&rooms), [1, 0, 0]);
    rooms[1].set_behind(false);
    let answer = broadcast(&app, &call(Some("k"))).await.unwrap();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &body["members"]), (200, &json!(3)), "{body}");
    assert_eq!(last_seqs(&rooms), [1, 1, 1], "in no room twice");
}

#[tokio::test(start_paused = true)]
async fn a_room_that_catches_up_in_time_is_waited_for() {
    let (app, rooms) = app();
    rooms[1].set_behind(true);
    let call = call(None);
    let catches_up = async {
        sleep(PUBLISH_TIME_MAX / 2).await;
        rooms[1].set_behind(false);
    };
    let (answer, ()) = tokio::join!(broadcast(&app, &call), catches_up);
    assert_eq!((answer.unwrap().status, last_seqs(&rooms)), (200, [1, 1, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_few_requests_wait_and_further_ones_are_refused_at_once() {
    let (app, rooms) = app();
    rooms[0].set_behind(true);
    let call = call(None);
    let mut waiting: Vec<_> = (0..PUBLISHES_WAITING_MAX).map(|_| Box::pin(broadcast(&app, &call))).collect();
    for request in &mut waiting {
        assert!(poll_once(request.as_mut()).is_none(), "it waits");
    }
    let refusal = poll_once(Box::pin(broadcast(&app, &call)).as_mut()).expect("it doesn't wait").unwrap_err();
    assert_eq!((refusal.status, refusal.code, last_seqs(&rooms)), (503, "busy", [0; 3]));
    drop(waiting);
    rooms[0].set_behind(false);
    assert_eq!(broadcast(&app, &call).await.unwrap().status, 200);
}

fn poll_once<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
