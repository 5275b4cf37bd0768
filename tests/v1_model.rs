//! The real server on two shards, compared with a model of rooms: members join, leave, publish, flood, stall, vanish
//! and reconnect at random. Whatever they do, each sees a gapless part of its room's single order from the position in
//! its join's answer, or is told exactly what is missing; and a client that reconnects within the bounds gets
//! everything. `HI_TEST_SEED` repeats a run's plan.

mod support;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Instant;

use fastrand::Rng;
use serde_json::{Value, json};
use support::{Client, PATIENCE, Server, seeded};
use tungstenite::{Error, Message};

const ROOMS: [&str; 3] = ["tea", "milk", "honey"];
const MEMBERS: usize = 14;
/// The last of these speak v0.
const OLD_MEMBERS: usize = 3;
const STEPS: usize = 900;
/// `--replay-frames`; the other bounds of replay are not reached here.
const REPLAY_FRAMES: u64 = 150;
/// A flood: the number of messages, and their size in bytes. Sockets and backlogs of stalled clients hold less.
const FLOOD: (usize, usize) = (220, 15_000);

/// The single order of each room, as far as any client has seen it: the message at each `Seq`.
#[derive(Default)]
struct Orders {
    epochs: HashMap<String, Value>,
    frames: HashMap<(String, u64), Value>,
    recoveries: usize,
    refusals: usize,
    gaps: usize,
    take_overs: usize,
}

impl Orders {
    /// Records the message at a `Seq`; all clients have to agree.
    fn agree(&mut self, room: &str, seq: u64, frame: &Value) {
        let known = self.frames.entry((room.to_owned(), seq)).or_insert_with(|| frame.clone());
        assert_eq!(known, frame, "{room} {seq}");
    }

    /// No room ends in this test, so each has one epoch.
    fn epoch(&mut self, room: &str, epoch: &Value) {
        let known = self.epochs.entry(room.to_owned()).or_insert_with(|| epoch.clone());
        assert_eq!(known, epoch, "{room}");
    }
}

enum Asked {
    Join { room: &'static str, since: Option<u64> },
    Leave { room: &'static str },
    Publish { room: &'static str, text: String },
}

struct Member {
    number: usize,
    client: Option<Client>,
    resume: Option<String>,
    asked: HashMap<u64, Asked>,
    next_ref: u64,
    /// The rooms that it is in, with the next expected `Seq`; v0 isn't told the first one.
    rooms: HashMap<&'static str, Option<u64>>,
    /// The rooms that it was in, with the last `Seq` that it got.
    left: HashMap<&'static str, u64>,
    stalled: u32,
    said: u32,
}

impl Member {
    fn new(number: usize) -> Self {
        Self {
            number,
            client: None,
            resume: None,
            asked: HashMap::new(),
            next_ref: 0,
            rooms: HashMap::new(),
            left: HashMap::new(),
            stalled: 0,
            said: 0,
        }
    }

    fn speaks_v1(&self) -> bool {
        self.number < MEMBERS - OLD_MEMBERS
    }

    fn connect(&mut self, server: &Server, random: &mut Rng) {
        let stream = if random.bool() { server.connect_narrow() } else { server.connect() };
        if self.speaks_v1() {
            let resume = self.resume.take().filter(|_| random.u8(..4) > 0).unwrap_or_default();
            let (client, hello) = server.v1_over(stream, &format!("username=u{}&resume={resume}", self.number));
            self.resume = Some(hello["Resume"].as_str().unwrap().to_owned());
            self.client = Some(client);
        } else {
            let room = random.choice(ROOMS).unwrap();
            self.client = server.try_websocket(&format!("/ws?username=u{}&room={room}", self.number)).ok();
            self.rooms.insert(room, None);
        }
    }

    /// The connection is gone, or no longer read. It remembers its position in its rooms.
    fn disconnect(&mut self) -> Option<Client> {
        for (room, next) in self.rooms.drain() {
            if let Some(next) = next {
                self.left.insert(room, next - 1);
            }
        }
        self.asked.clear();
        self.stalled = 0;
        self.client.take()
    }

    fn ask(&mut self, mut request: Value, asked: Asked) {
        self.next_ref += 1;
        request["Ref"] = json!(self.next_ref);
        self.asked.insert(self.next_ref, asked);
        self.write(&request);
    }

    fn write(&mut self, request: &Value) {
        let Some(client) = &mut self.client else { return };
        client.socket.get_ref().set_nonblocking(false).unwrap();
        // An error means that it was closed; reading shows why.
        let _ = client.socket.send(Message::text(request.to_string()));
    }

    fn publish(&mut self, room: &'static str, len: usize) {
        self.said += 1;
        let text = format!("{}:{}:{}", self.number, self.said, "x".repeat(len));
        let request = json!({"Room": room, "Message": text});
        if self.speaks_v1() {
            self.ask(request, Asked::Publish { room, text });
        } else {
            self.write(&request);
        }
    }

    fn join(&mut self, room: &'static str, comes_back: bool, orders: &Orders) {
        let under_way =
            self.asked.values().any(|asked| matches!(asked, Asked::Join { room: other, .. } if *other == room));
        if self.rooms.contains_key(room) || under_way || !self.speaks_v1() {
            return;
        }
        let since = self.left.get(room).copied().filter(|_| comes_back);
        let request = since.map(|seq| json!({"Epoch": orders.epochs[room], "Seq": seq}));
        self.ask(json!({"Op": "join", "Room": room, "Since": request}), Asked::Join { room, since });
    }

    fn leave(&mut self, room: &'static str) {
        let under_way = self.asked.values().any(|asked| matches!(asked, Asked::Leave { .. }));
        if self.rooms.contains_key(room) && !under_way && self.speaks_v1() {
            self.ask(json!({"Op": "leave", "Room": room}), Asked::Leave { room });
        }
    }

    /// Reads what has arrived. True if anything had.
    fn read(&mut self, orders: &mut Orders) -> bool {
        if self.stalled > 0 {
            self.stalled -= 1;
            return true;
        }
        let mut moved = false;
        while let Some(client) = &mut self.client {
            client.socket.get_ref().set_nonblocking(true).unwrap();
            match client.socket.read() {
                Ok(Message::Text(text)) => {
                    let frame = serde_json::from_str(&text).unwrap();
                    self.hear(&frame, orders);
                }
                Ok(Message::Close(close)) => {
                    let code = close.map_or(0, |close| u16::from(close.code));
                    assert!([4002, 4101].contains(&code), "u{} was closed with {code}", self.number);
                    self.disconnect();
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("u{}: {error}", self.number),
            }
            moved = true;
        }
        moved
    }

    fn hear(&mut self, frame: &Value, orders: &mut Orders) {
        if frame["Op"].is_string() {
            return self.answered(frame, orders);
        }
        let Some(room) = ROOMS.iter().find(|room| frame["Room"] == **room) else {
            assert!(frame["From"] == "hi" && !self.speaks_v1(), "{frame}");
            return;
        };
        orders.epoch(room, &frame["Epoch"]);
        let number = self.number;
        let next = self.rooms.get_mut(room).unwrap_or_else(|| panic!("u{number} is not in {room}: {frame}"));
        if frame["Event"] == "gap" {
            let (first, last) = (frame["FromSeq"].as_u64().unwrap(), frame["ToSeq"].as_u64().unwrap());
            assert!(first <= last && next.is_none_or(|next| next == first), "u{number} {room} {next:?}: {frame}");
            *next = Some(last + 1);
            orders.gaps += 1;
            return;
        }
        let seq = frame["Seq"].as_u64().unwrap_or_else(|| panic!("no Seq: {frame}"));
        assert!(next.is_none_or(|next| next == seq), "u{number} in {room}: {next:?} has to come, not {frame}");
        *next = Some(seq + 1);
        orders.agree(room, seq, frame);
    }

    fn answered(&mut self, answer: &Value, orders: &mut Orders) {
        let asked = self.asked.remove(&answer["Ref"].as_u64().expect("our Ref")).expect("asked, and not answered yet");
        let is_ok = answer["Op"] == "ok";
        match asked {
            Asked::Join { room, since } if is_ok => {
                let seq = answer["Seq"].as_u64().unwrap();
                orders.epoch(room, &answer["Epoch"]);
                assert_eq!(answer.get("Recovered").is_some(), since.is_some(), "{answer}");
                match since {
                    Some(since) if answer["Recovered"] == true => {
                        assert_eq!(seq, since, "{answer}");
                        orders.recoveries += 1;
                    }
                    Some(since) => {
                        assert!(seq - since > REPLAY_FRAMES, "u{} has {since} of {room}: {answer}", self.number);
                        orders.refusals += 1;
                    }
                    None => {}
                }
                assert!(self.rooms.insert(room, Some(seq + 1)).is_none());
            }
            Asked::Join { .. } => assert_eq!(answer["Code"], "name_taken", "{answer}"),
            Asked::Leave { room } => {
                assert!(is_ok, "{answer}");
                let next = self.rooms.remove(room).flatten().expect("joined");
                self.left.insert(room, next - 1);
            }
            Asked::Publish { room, text } if is_ok => {
                let seen = orders.frames.get(&(room.to_owned(), answer["Seq"].as_u64().unwrap()));
                assert!(seen.is_none_or(|seen| seen["Message"] == text), "{answer}: {seen:?}");
            }
            Asked::Publish { room, .. } => {
                // From outside, while its own half-open connection still has the name there.
                assert!(["room_not_found", "name_taken"].contains(&answer["Code"].as_str().unwrap()), "{answer}");
                assert!(!self.rooms.contains_key(room), "u{} is in {room}: {answer}", self.number);
            }
        }
    }
}

/// One random action of one member.
fn act(member: &mut Member, server: &Server, random: &mut Rng, orders: &mut Orders, lost: &mut Vec<Client>) {
    let room = *random.choice(&ROOMS).unwrap();
    if member.client.is_none() {
        return member.connect(server, random);
    }
    match random.u32(..100) {
        0..45 => member.publish(room, random.usize(..400)),
        45..46 => (0..FLOOD.0).for_each(|_| member.publish(room, FLOOD.1)),
        46..70 => member.join(room, random.u8(..5) > 0, orders),
        70..75 => member.leave(room),
        75..85 => member.stalled = random.u32(20..300),
        85..92 => drop(member.disconnect()),
        _ if member.speaks_v1() => {
            // Half open: the server doesn't know yet that no one reads.
            orders.take_overs += 1;
            lost.extend(member.disconnect());
        }
        _ => {}
    }
}

#[test]
fn each_member_sees_a_gapless_part_of_the_one_order_or_is_told_what_is_missing() {
    let mut random = seeded();
    let frames = REPLAY_FRAMES.to_string();
    let server = Server::start(&[
        "--rate-limit=0",
        "--backlog-bytes=64k",
        "--replay-bytes=1g",
        "--replay-age=1h",
        "--replay-frames",
        &frames,
    ]);
    let mut orders = Orders::default();
    let mut lost = Vec::new();
    let mut members: Vec<Member> = (0..MEMBERS).map(Member::new).collect();
    for _ in 0..STEPS {
        let member = random.usize(..MEMBERS);
        act(&mut members[member], &server, &mut random, &mut orders, &mut lost);
        for member in &mut members {
            member.read(&mut orders);
        }
    }
    // Now all v1 clients connect, read, and reach the end of each room.
    let mut deadline = Instant::now() + PATIENCE;
    // A client without its secret would have to wait for a ping timeout to free its name.
    drop(lost);
    for member in &mut members {
        member.stalled = 0;
    }
    let all_in = |members: &[Member]| {
        members
            .iter()
            .filter(|member| member.speaks_v1())
            .all(|member| member.client.is_some() && member.rooms.len() == ROOMS.len())
    };
    while !all_in(&members) {
        let mut moved = false;
        for member in &mut members {
            if member.client.is_none() {
                member.connect(&server, &mut random);
            }
            ROOMS.iter().for_each(|room| member.join(room, true, &orders));
            moved |= member.read(&mut orders);
        }
        deadline = if moved { Instant::now() + PATIENCE } else { deadline };
        assert!(Instant::now() < deadline, "nothing moves, and not every client has joined");
    }
    ROOMS.iter().for_each(|room| members[0].publish(room, 7));
    let said = members[0].said;
    let ends: Vec<String> = (said - 2..=said).map(|said| format!("0:{said}:xxxxxxx")).collect();
    let heard_all = |members: &[Member], orders: &Orders| {
        ROOMS.iter().zip(&ends).all(|(room, end)| {
            let seq = orders.frames.iter().find(|((of, _), frame)| of == room && frame["Message"] == **end);
            seq.is_some_and(|((_, seq), _)| {
                members.iter().filter(|member| member.speaks_v1()).all(|member| member.rooms[room] > Some(*seq))
            })
        })
    };
    while !heard_all(&members, &orders) {
        let moved = members.iter_mut().fold(false, |moved, member| member.read(&mut orders) | moved);
        deadline = if moved { Instant::now() + PATIENCE } else { deadline };
        assert!(Instant::now() < deadline, "nothing moves, and not every client has got the end");
    }
    let Orders { recoveries, refusals, gaps, take_overs, frames, .. } = &orders;
    println!(
        "{} frames, {recoveries} recoveries, {refusals} refused, {gaps} gaps, {take_overs} taken over",
        frames.len()
    );
    assert!(*recoveries > 0 && *take_overs > 0, "the plan covered its cases");
}
