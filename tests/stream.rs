//! Server-sent events over real sockets: what listeners get, how they reconnect, and that members don't notice them.

mod support;

use std::collections::HashSet;
use std::io::Write;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::listener::Listener;
use support::{Client, Server};

/// A publisher in the room that has sent `count` messages of a size, from `Seq` 2 on.
fn publisher(server: &Server, room: &str, count: u64, bytes: usize) -> (Client, String) {
    let (mut client, answer) = server.join_v1("publisher", room);
    client.expect_message(&format!("#{room}"), &format!("Welcome to {room}, publisher!"));
    publish(&mut client, room, 2..2 + count, bytes);
    (client, answer["Epoch"].as_str().unwrap().to_owned())
}

fn text(seq: u64, bytes: usize) -> String {
    format!("m{seq}{}", "\n".repeat(bytes))
}

fn publish(client: &mut Client, room: &str, seqs: std::ops::Range<u64>, bytes: usize) {
    for seq in seqs {
        client.say(room, &text(seq, bytes));
        assert_eq!(client.json()["Seq"], seq);
    }
}

/// Expects these messages as the next events, without a gap.
#[track_caller]
fn expect_seqs(listener: &mut Listener, seqs: impl IntoIterator<Item = u64>, bytes: usize) {
    for seq in seqs {
        let message = listener.message();
        assert!(message["Seq"] == seq && message["Message"] == text(seq, bytes), "{seq}: {message}");
    }
}

#[test]
fn a_listener_gets_what_members_get_and_is_invisible_to_them() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut listener = server.listen("tea", None).opened();
    let mut ann = server.join("ann", "tea");
    let (mut bob, _) = server.join_v1("bob", "tea");
    bob.expect_message("#tea", "Welcome to tea, bob!");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    // A second listener, while there are members.
    let _second = server.listen("tea", None).opened();
    ann.say("tea", "a \"b\" <c>\n\u{2028}");
    let (of_v0, of_v1) = (ann.text(), bob.text());
    assert_eq!(of_v0, of_v1);
    for expected in ["Welcome to tea, ann!", "Welcome to tea, bob!"] {
        assert_eq!(listener.message()["Message"], expected);
    }
    assert_eq!(listener.next().unwrap().data, of_v0, "byte by byte");

    let who = bob.ask(&json!({"Op": "who", "Room": "tea"}));
    assert!(who["Users"] == json!(["ann", "bob"]) && who["Count"] == 2, "{who}");
    ann.say("tea", "/list");
    ann.expect_message("#tea", "ann, bob");
    let (_, room) = internal.get("/api/rooms/tea");
    assert!(room["members"] == 4 && room["users"] == json!(["ann", "bob"]) && room["count"] == 2, "{room}");
    assert_eq!(internal.metric("hi_connections{dialect=\"sse\"}"), 2.0);
    // A raw room of the same name is a different room.
    server.websocket("/raw/tea").send_text("raw");
    ann.close();
    assert_eq!(listener.message()["Message"], "User ann left channel.");
    drop(listener);
    internal.wait_for_metric("hi_connections{dialect=\"sse\"}", 1.0);
    // Its welcome, the messages, the answers, a notice, and nothing about listeners.
    bob.expect_message("#tea", "User ann left channel.");
}

#[test]
fn a_listener_keeps_a_room_alive_as_a_member_does() {
    let (server, internal) = Server::start_with_internal(&["--replay-age", "0"]);
    let mut outside = server.join("ann", "elsewhere");
    outside.say("tea", "anyone?");
    outside.expect_system("room does not exist.");
    let mut listener = server.listen("tea?since=yesterday&since=ever", None).opened();
    let (status, published) = internal.post("/api/publish", &json!({"room": "tea", "message": "one"}));
    assert!(status == 200 && published["members"] == 1, "{status} {published}");
    assert_eq!(listener.message()["Message"], "one");
    outside.say("tea", "two");
    assert_eq!(listener.message()["From"], "ann");
    internal.wait_for_metric("hi_deliveries_total", 3.0);
    drop(listener);
    internal.wait_for_metric("hi_rooms{kind=\"chat\"}", 1.0);
    outside.say("tea", "anyone?");
    outside.expect_system("room does not exist.");
}

#[test]
fn a_listener_that_reconnects_gets_everything_it_missed_once_and_in_order() {
    let (server, internal) = Server::start_with_internal(&["--rate-limit", "0", "--replay-bytes", "4m"]);
    let (mut publisher, epoch) = publisher(&server, "tea", 300, 1000);
    // On two shards: some listeners are on a shard without the room before; and the missed messages are sent in several
    // parts.
    let mut next = 302;
    for _ in 0..8 {
        let mut listener = server.listen("tea", Some(&format!("{epoch}:5"))).opened();
        assert_eq!(listener.last_event_id, format!("{epoch}:5"));
        publish(&mut publisher, "tea", next..next + 1, 1000);
        next += 1;
        expect_seqs(&mut listener, 6..next, 1000);
        assert_eq!(listener.last_event_id, format!("{epoch}:{}", next - 1));
    }
    assert_eq!(internal.metric("hi_replay_requests_total{outcome=\"recovered\"}"), 8.0);
    assert_eq!(internal.metric("hi_gaps_total"), 0.0);
}

#[test]
fn a_listener_without_any_event_yet_gets_what_it_missed() {
    let server = Server::start(&[]);
    let position = server.listen("tea", None).opened().last_event_id;
    // No one is there any more, so messages are kept.
    let mut ann = server.join("ann", "tea");
    ann.say("tea", "hello");
    ann.expect_message("ann", "hello");
    ann.close();
    let mut listener = server.listen("tea", Some(&position)).opened();
    assert_eq!(listener.message()["Message"], "Welcome to tea, ann!");
    assert_eq!(listener.message()["Message"], "hello");
}

#[test]
fn polyfills_may_use_the_query_instead_of_the_header() {
    let server = Server::start(&[]);
    let (mut ann, epoch) = publisher(&server, "tea", 0, 10);
    publish(&mut ann, "tea", 2..6, 10);
    let first_after = |path: &str, header: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: hi\r\n{header}\r\n");
        Listener::ask(server.connect(), &request).opened().next().expect("an event")
    };
    let expected = format!("{epoch}:4");
    for path in [format!("/stream/tea?lastEventId={epoch}:3"), format!("/stream/tea?x=1&lastEventID={epoch}%3A3")] {
        assert_eq!(first_after(&path, "").id, expected, "{path}");
        let newer = first_after(&path, &format!("Last-Event-ID: {epoch}:4\r\n"));
        assert_eq!(newer.id, format!("{epoch}:5"), "the header is the newer one: {path}");
    }
    let answer = server.get("/stream/tea?lastEventId=1&lastEventId=2");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("lastEventId"), "{answer}");
}

#[test]
fn an_incomplete_replay_is_a_gap_instead() {
    let (server, internal) = Server::start_with_internal(&["--rate-limit", "0", "--replay-frames", "100"]);
    let (mut publisher, epoch) = publisher(&server, "tea", 200, 0);
    let known = server.listen("tea", Some(&format!("{epoch}:5")));
    let others = ["0000000000000001:5", "nonsense", &format!("{epoch}:999")].map(|id| server.listen("tea", Some(id)));
    let mut listeners: Vec<_> = [known].into_iter().chain(others).collect();
    for (index, listener) in listeners.iter_mut().enumerate() {
        let gap = listener.gap();
        assert_eq!(gap["Epoch"], epoch, "{gap}");
        match index {
            0 => assert!(gap["FromSeq"] == 6 && gap["ToSeq"] == 201 && gap["Message"] == "You missed 196 messages."),
            _ => assert!(gap["FromSeq"].is_null() && gap["ToSeq"].is_null(), "{gap}"),
        }
        assert_eq!(listener.last_event_id, format!("{epoch}:201"), "told once");
    }
    publish(&mut publisher, "tea", 202..204, 0);
    listeners.iter_mut().for_each(|listener| expect_seqs(listener, 202..204, 0));
    // A gap is not reported twice.
    let mut again = server.listen("tea", Some(&format!("{epoch}:201"))).opened();
    expect_seqs(&mut again, 202..204, 0);
    assert_eq!(internal.metric("hi_replay_requests_total{outcome=\"too_old\"}"), 2.0);
    assert_eq!(internal.metric("hi_replay_requests_total{outcome=\"other_epoch\"}"), 2.0);
}

#[test]
fn without_replay_there_is_a_gap_only_after_messages() {
    let server = Server::start(&["--replay-frames", "0"]);
    let (mut publisher, epoch) = publisher(&server, "tea", 2, 0);
    let mut listener = server.listen("tea", Some(&format!("{epoch}:3"))).opened();
    let mut late = server.listen("tea", Some(&format!("{epoch}:2")));
    let gap = late.gap();
    assert!(gap["FromSeq"] == 3 && gap["ToSeq"] == 3 && gap["Message"] == "You missed 1 message.", "{gap}");
    publish(&mut publisher, "tea", 4..5, 0);
    expect_seqs(&mut listener, [4], 0);
    expect_seqs(&mut late, [4], 0);
}

#[test]
fn members_and_listeners_of_one_shard_join_and_leave_independently() {
    let server = Server::start_on_one_shard(&["--replay-frames", "0"]);
    let nobody = server.sockets();
    let mut ann = server.join("ann", "tea");
    let mut say = |listeners: &mut [&mut Listener], text: &str| {
        ann.say("tea", text);
        let expected = ann.text();
        for listener in listeners {
            assert_eq!(listener.next().unwrap().data, expected);
        }
    };
    let mut first = server.listen("tea", None).opened();
    say(&mut [&mut first], "one");
    let mut second = server.listen("tea", None).opened();
    say(&mut [&mut first, &mut second], "two");
    drop(first);
    server.wait_for_sockets(nobody + 2);
    say(&mut [&mut second], "three");
    drop(second);
    server.wait_for_sockets(nobody + 1);
    say(&mut [], "four");
    let mut third = server.listen("tea", None).opened();
    say(&mut [&mut third], "five");
    ann.close();
    server.wait_for_sockets(nobody + 1);
    server.join("bob", "tea").close();
    for expected in ["User ann left channel.", "Welcome to tea, bob!", "User bob left channel."] {
        assert_eq!(third.message()["Message"], expected);
    }
}

#[test]
fn a_listener_that_stops_reading_is_disconnected() {
    let args = ["--rate-limit", "0", "--max-message", "64k", "--ping-interval", "1s", "--ping-timeout", "1s"];
    let (server, internal) = Server::start_with_internal(&args);
    let (mut publisher, _) = publisher(&server, "tea", 1, 0);
    let stuck = Listener::open(server.connect_narrow(), "tea", None).opened();
    // Enough for a full socket.
    publish(&mut publisher, "tea", 3..3 + FLOOD, FLOOD_BYTES);
    // Its end of the connection is still open.
    internal.wait_for_metric("hi_connections{dialect=\"sse\"}", 0.0);
    drop(stuck);
}

/// More than the kernel buffers for a listener that doesn't read.
const FLOOD: u64 = 700;
const FLOOD_BYTES: usize = 8_000;

#[test]
fn a_slow_listener_is_told_exactly_what_it_lost() {
    let args = ["--rate-limit", "0", "--max-message", "64k", "--backlog-bytes", "100k"];
    let (server, internal) = Server::start_with_internal(&args);
    let (mut publisher, epoch) = publisher(&server, "tea", 1, 0);
    let mut slow = Listener::open(server.connect_narrow(), "tea", None).opened();
    publish(&mut publisher, "tea", 3..3 + FLOOD, FLOOD_BYTES);
    let (mut next, mut lost) = (3, 0);
    while next < 3 + FLOOD {
        let event = slow.next().expect("an event");
        let json = event.json();
        if event.name == "gap" {
            assert!(json["FromSeq"] == next && json["Epoch"] == epoch, "{next}: {json}");
            next = json["ToSeq"].as_u64().unwrap() + 1;
            lost += next - json["FromSeq"].as_u64().unwrap();
            assert_eq!(event.id, format!("{epoch}:{}", next - 1));
        } else {
            assert!(json["Seq"] == next && json["Message"] == text(next, FLOOD_BYTES), "{next}");
            next += 1;
        }
    }
    assert!(lost > 0, "the kernel took all of it");
    assert_eq!(internal.metric("hi_lost_messages_total"), lost as f64);
    assert!(internal.metric("hi_gaps_total") >= 1.0 && internal.metric("hi_lapped_total{policy=\"gap\"}") >= 1.0);
    publish(&mut publisher, "tea", next..next + 1, 0);
    expect_seqs(&mut slow, [next], 0);
}

#[test]
fn with_slow_close_the_stream_of_a_slow_listener_ends() {
    let args = ["--rate-limit", "0", "--max-message", "64k", "--backlog-bytes", "100k", "--slow", "close"];
    let (server, internal) = Server::start_with_internal(&args);
    let (mut publisher, epoch) = publisher(&server, "tea", 1, 0);
    let mut slow = Listener::open(server.connect_narrow(), "tea", None).opened();
    publish(&mut publisher, "tea", 3..3 + FLOOD, FLOOD_BYTES);
    let mut next = 3;
    while let Some(event) = slow.next() {
        assert!(event.name == "message" && event.json()["Seq"] == next, "{next}: {event:?}");
        next += 1;
    }
    assert!(next < 3 + FLOOD && slow.last_event_id == format!("{epoch}:{}", next - 1));
    // An empty comment is a ping, which may be due meanwhile on a busy machine.
    slow.comments.retain(|comment| !comment.is_empty());
    assert_eq!(slow.comments, ["too slow: messages were lost; come back"]);
    internal.wait_for_metric("hi_disconnects_total{code=\"4101\"}", 1.0);
    drop(slow);
    internal.wait_for_metric("hi_connections{dialect=\"sse\"}", 0.0);
}

#[test]
fn a_hundred_listeners_on_two_shards_see_one_order() {
    const EACH: usize = 200;
    let (server, internal) = Server::start_with_internal(&["--rate-limit", "0"]);
    let mut listeners: Vec<_> = (0..100).map(|_| server.listen("busy", None).opened()).collect();
    std::thread::scope(|scope| {
        for name in ["ann", "bob", "cid", "dot"] {
            let mut speaker = server.join_quietly(name, "elsewhere");
            scope.spawn(move || {
                (0..EACH).for_each(|number| speaker.say("busy", &format!("{name} {number}")));
                // A client that just leaves resets the connection because of unread input, and its last messages may be
                // lost.
                speaker.close();
            });
        }
    });
    let order: Vec<_> = (0..4 * EACH).map(|_| listeners[0].next().unwrap()).collect();
    assert_eq!(order.iter().map(|event| &event.data).collect::<HashSet<_>>().len(), 4 * EACH);
    for listener in &mut listeners[1..] {
        for expected in &order {
            assert_eq!(listener.next().as_ref(), Some(expected));
        }
    }
    assert_eq!(internal.metric("hi_lost_messages_total"), 0.0);
    drop(listeners);
    internal.wait_for_metric("hi_connections{dialect=\"sse\"}", 0.0);
}

#[test]
fn at_stop_streams_end_and_each_listener_is_told_when_to_reconnect() {
    let mut server = Server::start(&[]);
    let mut listeners: Vec<_> = (0..20).map(|_| server.listen("tea", None).opened()).collect();
    let in_case_of_a_crash: HashSet<_> = listeners.iter().map(|listener| listener.retry_ms.unwrap()).collect();
    assert!(in_case_of_a_crash.len() > 5 && in_case_of_a_crash.iter().all(|ms| (2000..4000).contains(ms)));
    server.signal(Signal::TERM);
    let mut times: Vec<_> = listeners
        .iter_mut()
        .map(|listener| {
            assert_eq!(listener.next(), None);
            listener.retry_ms.unwrap()
        })
        .collect();
    drop(listeners);
    assert!(server.wait().success());
    times.sort_unstable();
    assert!(times[0] >= 1000 && times[19] < 2000, "{times:?}");
    assert!(times.iter().collect::<HashSet<_>>().len() >= 10, "spread: {times:?}");
}

#[test]
fn comments_keep_the_stream_alive_without_an_answer() {
    let (server, internal) = Server::start_with_internal(&["--ping-interval", "1s", "--ping-timeout", "1s"]);
    let mut listener = server.listen("tea", None).opened();
    listener.wait_for_comments(4);
    assert!(listener.comments.iter().all(String::is_empty), "{:?}", listener.comments);
    assert_eq!(internal.metric("hi_connections{dialect=\"sse\"}"), 1.0);
}

#[test]
fn input_from_a_listener_is_ignored_up_to_a_limit() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut ann = server.join("ann", "tea");
    let mut listener = server.listen("tea", None).opened();
    // A masked WebSocket message, and no HTTP either.
    listener.stream.write_all(b"\x81\x82\0\0\0\0hi GET / HTTP/1.1\r\n\r\n").unwrap();
    ann.say("tea", "still there?");
    assert_eq!(listener.message()["Message"], "still there?");
    listener.stream.write_all(&[b'x'; 20_000]).unwrap();
    assert_eq!(listener.next(), None);
    assert_eq!(listener.comments, ["a stream is there to be read; messages go through /ws"]);
    internal.wait_for_metric("hi_disconnects_total{code=\"1008\"}", 1.0);
    ann.expect_message("ann", "still there?");
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: hi\r\n{headers}\r\n")
}

#[test]
fn other_requests_to_a_stream_get_sensible_answers() {
    let (server, internal) = Server::start_with_internal(&["--origins", "https://a.example"]);
    let head = server.http(&request("HEAD", "/stream/tea", ""));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/event-stream\r\n") && !head.contains("Content-Length"), "{head}");
    let post = server.http(&request("POST", "/stream/tea", "Content-Length: 0\r\n"));
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), "{post}");
    for path in ["/stream/", "/stream/a%20b", "/stream/%00", &format!("/stream/{}", "x".repeat(65))] {
        let answer = server.get(path);
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.trim_end().ends_with('.'), "{answer}");
    }
    let preflight = request("OPTIONS", "/stream/tea", "Origin: https://a.example\r\n");
    let preflight = server.http(&preflight);
    assert!(preflight.starts_with("HTTP/1.1 204 "), "{preflight}");
    for line in
        ["Access-Control-Allow-Origin: https://a.example", "Access-Control-Allow-Headers: Authorization, Last-Event-ID"]
    {
        assert!(preflight.contains(line), "{preflight}");
    }
    let refused =
        server.ask(request("GET", "/stream/tea", "Origin: https://b.example\r\nAccept: application/json\r\n"));
    let body: Value = serde_json::from_str(&refused.body).unwrap();
    assert!(refused.status == 403 && body["reason"] == "origin_refused", "{body}");
    assert_eq!(internal.metric("hi_connections{dialect=\"sse\"}"), 0.0);
    assert_eq!(internal.metric("hi_rooms{kind=\"chat\"}"), 0.0);
    // HTTP/1.0, as forgotten proxies speak it, without a Host.
    let page =
        Listener::ask(server.connect(), "GET /stream/tea HTTP/1.0\r\nOrigin: https://a.example\r\n\r\n").opened();
    assert!(page.head.contains("\r\nAccess-Control-Allow-Origin: https://a.example\r\n"), "{}", page.head);
}
