//! What hi does to a message between two system calls: `cargo bench --bench pure`.
//!
//! Each part by itself, in nanoseconds. A whole delivery takes microseconds, nearly all of them in the kernel (see
//! `figures`). Only `log/advance` grows with the number of members.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hi::clock::Time;
use hi::frame::OpCode;
use hi::frame::decode::{Decoder, MessageKind};
use hi::frame::deflate::{Deflater, Inflater};
use hi::frame::encode;
use hi::http::{head, upgrade};
use hi::identity::keys::{KeySet, Origin};
use hi::identity::rights::{DEFAULT, Rights, Source};
use hi::identity::{Authority, Checker, Rules};
use hi::os;
use hi::protocol::broadcast::{Unnumbered, to_one};
use hi::protocol::name::Name;
use hi::protocol::resume::ResumeKey;
use hi::protocol::v0::text;
use hi::protocol::v1::{Answer, RoomEntry};
use hi::protocol::{MemberId, Namespace};
use hi::protocol::{ROOMS_LISTED_MAX, USERS_LISTED_MAX};
use hi::room::inbox;
use hi::room::log::{Log, Read};
use hi::room::registry::Registry;
use hi::room::replay::ReplayBounds;
use hi::room::{FirstUsers, Joining, Wakes};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

const MESSAGE_BYTES_MAX: usize = 1 << 20;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// A browser's handshake through a reverse proxy.
const HANDSHAKE: &[u8] = b"GET /ws?username=ada&room=general HTTP/1.1\r\nHost: chat.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nOrigin: https://chat.example.com\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n";

fn masked(payload: &[u8]) -> Vec<u8> {
    let frame = encode::frame(OpCode::Text, payload);
    let (head, payload) = frame.split_at(frame.len() - payload.len());
    let mut bytes = head.to_vec();
    bytes[1] |= 0x80;
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// From a client's bytes to messages, including unmasking and the UTF-8 check.
fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, payload_bytes, frames) in [("128 B", 128, 1), ("20 x 128 B", 128, 20), ("16 KiB", 16 * 1024, 1)] {
        let input = masked(&vec![b'a'; payload_bytes]).repeat(frames);
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |bencher| {
            let decode_all = |mut input: Vec<u8>| {
                let (mut decoder, mut rest) = (Decoder::new(), &mut input[..]);
                for _ in 0..frames {
                    let event = decoder.next(&mut rest, MESSAGE_BYTES_MAX, false).expect("the frames are valid");
                    black_box(event.expect("the frames are whole"));
                }
                input
            };
            bencher.iter_batched(|| input.clone(), decode_all, BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// Compressing a frame of live data once, for any number of members, and decompressing it.
fn deflate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deflate");
    for (name, bytes) in [("1 KiB", 1024), ("16 KiB", 16 * 1024), ("256 KiB", 256 * 1024)] {
        let items = (0..)
            .map(|n: usize| format!("{{\"Id\":{},\"Price\":{}.{:02}}},", n * 7919 % 65_536, n * 31 % 997, n % 100));
        let text: String = items.take(bytes / 20).collect();
        let frame = encode::frame(OpCode::Text, &text.as_bytes()[..bytes]);
        let (mut deflater, mut inflater) = (Deflater::new(0), Inflater::default());
        let deflated = deflater.frame(&frame);
        let payload = deflated.slice(if deflated[1] < 126 { 2 } else { 4 }..);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{name} to {} bytes", payload.len()), |bencher| {
            bencher.iter(|| deflater.frame(black_box(&frame)));
        });
        group.bench_function(format!("{name} back"), |bencher| {
            bencher.iter(|| {
                let message = inflater.message(MessageKind::Text, black_box(&payload), MESSAGE_BYTES_MAX);
                inflater.reuse(message.expect("it was compressed"));
            });
        });
    }
    group.finish();
}

/// Encoding a broadcast once, for any number of members: JSON and frame header.
fn encode_once(criterion: &mut Criterion) {
    let text = "x".repeat(128);
    criterion.bench_function("encode/chat message of 128 B", |bencher| {
        bencher.iter(|| Unnumbered::message("ada", "general", black_box(&text)).number(1234, 5, 1_764_000_000_000));
    });
    criterion.bench_function("encode/raw frame of 128 B", |bencher| {
        bencher.iter(|| encode::frame(OpCode::Text, black_box(text.as_bytes())));
    });
}

/// From a request's bytes to those of the 101.
fn handshake(criterion: &mut Criterion) {
    criterion.bench_function("handshake/parse, examine, answer", |bencher| {
        bencher.iter(|| {
            let (head, _) = head::parse(black_box(HANDSHAKE)).expect("it is valid").expect("it is whole");
            upgrade::response_101(&upgrade::examine(&head).expect("it is a handshake"), None)
        });
    });
}

/// Appending a frame to a shard's log, and moving a thousand cursors over it.
fn log(criterion: &mut Criterion) {
    let frame = encode::frame(OpCode::Text, &[b'x'; 128]);
    criterion.bench_function("log/append", |bencher| {
        let (mut log, mut seq) = (Log::new(0, 1 << 20), 0);
        bencher.iter(|| {
            log.append(seq, &frame);
            seq += 1;
        });
    });
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("advance 1,000 cursors", |bencher| {
        let mut log = Log::new(0, 1 << 20);
        log.append(0, &frame);
        let mut cursors = vec![0; 1000];
        bencher.iter(|| {
            for cursor in &mut cursors {
                let Read::Frames(slice, next) = log.read(*cursor, log.tip()) else { unreachable!("a frame is there") };
                black_box((slice, next));
            }
        });
    });
    group.finish();
}

/// From a room's lock into the inboxes of two shards, and out again.
fn relay(criterion: &mut Criterion) {
    let wake_ups = [(); 2].map(|()| os::new_eventfd().expect("an eventfd"));
    let registry = Registry::new(inbox::inboxes(wake_ups, 1 << 30), 0, ResumeKey::new(0, [1, 2]), ReplayBounds::OFF);
    let name = Name::room("bench").expect("a name");
    let mut wakes = Wakes::default();
    let mut room = None;
    for shard in 0..2 {
        let member = MemberId { shard, slot: 0, serial: 1 };
        let joined = registry
            .join(Namespace::Raw, &name, &Joining::new(None, member), Time::default(), &mut wakes)
            .expect("raw rooms have no names");
        room = Some(joined.room);
    }
    let room = room.expect("two have joined");
    let frame = Bytes::from_static(&[b'x'; 132]);
    let mut relays = Vec::new();
    criterion.bench_function("relay/to two shards", |bencher| {
        bencher.iter(|| {
            Arc::clone(&room).publish_raw(&frame, &mut wakes);
            wakes.wake_all(registry.inboxes());
            for inbox in registry.inboxes() {
                inbox.drain(&mut relays, &mut Vec::new());
                black_box(relays.drain(..).count());
            }
        });
    });
}

/// The answers to `/channels` and `rooms` on a server with ten thousand rooms (they show a thousand), and to `who` in a
/// room with ten thousand users.
fn lists(criterion: &mut Criterion) {
    let inboxes = inbox::inboxes([os::new_eventfd().expect("an eventfd")], 1 << 30);
    let registry = Registry::new(inboxes, 0, ResumeKey::new(0, [1, 2]), ReplayBounds::OFF);
    let (member, mut wakes) = (MemberId { shard: 0, slot: 0, serial: 1 }, Wakes::default());
    let mut join = |room: &str, user: String| {
        let (room, user) = (Name::room(room).expect("a name"), Name::user(&user).expect("a name"));
        let joining = Joining::new(Some(&user), member);
        registry.join(Namespace::Chat, &room, &joining, Time::default(), &mut wakes).expect("the name is free").room
    };
    for number in 0..10_000 {
        join(&format!("room-{number:050}"), "ann".to_owned());
    }
    let large: Vec<_> = (0..10_000).map(|number| join("room-", format!("user-{number:050}"))).collect();
    let mut group = criterion.benchmark_group("lists");
    group.bench_function("rooms", |bencher| {
        bencher.iter(|| {
            let (rooms, count) = registry.first_rooms(Namespace::Chat, "room-", ROOMS_LISTED_MAX);
            let entries = rooms.iter().map(|room| RoomEntry { room: room.name.as_str(), users: room.counts.users });
            black_box(Answer::rooms(entries.collect(), count).frame(None))
        });
    });
    group.bench_function("channels", |bencher| {
        bencher.iter(|| {
            let (rooms, count) = registry.first_rooms(Namespace::Chat, "", ROOMS_LISTED_MAX);
            let names: Vec<_> = rooms.iter().map(|room| room.name.as_str()).collect();
            black_box(to_one("#tea", "tea", &text::list(&names, count)))
        });
    });
    group.bench_function("who", |bencher| {
        bencher.iter(|| {
            let FirstUsers { names: users, count, .. } = large[0].first_users(USERS_LISTED_MAX);
            let users = users.iter().map(Name::as_str).collect();
            black_box(Answer::who("tea", users, count, false).frame(None))
        });
    });
    group.finish();
}

/// What a token adds to a handshake: a secret's, a public key's, and one that is remembered.
fn tokens(criterion: &mut Criterion) {
    const NOW: u64 = 1_787_300_000;
    let claims = r#"{"sub":"42","name":"ada","iat":1787299000,"exp":1787303600,"iss":"https://app.example.com","aud":"hi","rooms":{"tea":["join","pub"],"team-*":["join"]}}"#;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = |header: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let message = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
        let signature = sign(message.as_bytes());
        format!("{message}.{}", encode(&signature))
    };
    let rights = Arc::new(Rights::parse(DEFAULT, Source::TokensWithout).expect("rules"));
    let rules = Rules {
        issuers: vec!["https://app.example.com".into()],
        audiences: vec!["hi".into()],
        leeway: Duration::ZERO,
        rights,
    };
    let secret = "0123456789abcdef0123456789abcdef";
    let keys = KeySet::of_key_file(secret.as_bytes()).expect("a secret");
    let of_secret = Authority::new(keys, rules.clone(), None);
    let hs256 = signed(r#"{"alg":"HS256"}"#, &|message| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message).as_ref().to_vec()
    });
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.as_ref(), &random).expect("a key");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let jwk = format!(r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#, encode(x), encode(y));
    let keys = KeySet::of_jwks(jwk.as_bytes(), Origin::File).expect("a key");
    let of_pair = Arc::new(Authority::new(keys, rules, None));
    let es256 = signed(r#"{"alg":"ES256"}"#, &|message| pair.sign(&random, message).expect("signed").as_ref().to_vec());
    let remembering = Checker::new(Arc::clone(&of_pair));
    let mut group = criterion.benchmark_group("token");
    group.bench_function("HS256", |bencher| bencher.iter(|| of_secret.check(black_box(&hs256), NOW).expect("good")));
    group.bench_function("ES256", |bencher| bencher.iter(|| of_pair.check(black_box(&es256), NOW).expect("good")));
    group.bench_function("ES256, remembered", |bencher| {
        bencher.iter(|| remembering.check(black_box(&es256), NOW).expect("good"));
    });
    group.finish();
}

criterion_group!(benches, decode, deflate, encode_once, handshake, log, relay, lists, tokens);
criterion_main!(benches);
