//! What clients do: mostly what they should, and now and then everything else.

use serde_json::json;

use super::{Asked, Client, End, OUT_BYTES_MAX};
use crate::plan::ROOMS;
use crate::scene::Scene;
use crate::server::Kind;
use crate::wire;

/// Messages of a flood.
const FLOOD: usize = 150;

impl Client {
    /// Does something.
    pub fn act(&mut self, scene: &Scene) {
        let random = &scene.random;
        let Some(connection) = &mut self.connection else {
            if random.one_in(2) {
                self.connect(scene);
            }
            return;
        };
        match (connection.end, random.below(100)) {
            (_, 0..2) => return self.goes_away(scene),
            (End::Open, _) if connection.out.len() < OUT_BYTES_MAX => {}
            _ => return,
        }
        if self.kind == Kind::Sse {
            return;
        }
        let room = random.pick(&ROOMS);
        let size = random.pick(&[0, 10, 100, scene.plan.large_bytes / 2]);
        match random.below(1000) {
            0..500 => self.publish(scene, room, random.between(0, size)),
            500..700 => self.join(scene, room),
            700..780 => self.leave(scene, room),
            780..820 => self.asks(scene, room),
            820..860 => {
                let ping = wire::frame(random, true, wire::PING, &random.number().to_be_bytes());
                self.say_bytes(&ping);
            }
            860..870 => self.misbehave(scene),
            870..875 if scene.plan.floods => {
                let size = scene.plan.large_bytes;
                // What it takes hours to send through a small buffer is no flood.
                let bytes_max = FLOOD * scene.shared.network.borrow().link(connection.link).up.room();
                for _ in 0..FLOOD {
                    self.publish(scene, room, random.between(size / 2, size));
                    if self.connection.as_ref().is_none_or(|connection| connection.out.len() > bytes_max) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }

    fn say_bytes(&mut self, bytes: &[u8]) {
        if let Some(connection) = &mut self.connection {
            connection.out.extend_from_slice(bytes);
        }
    }

    /// Says something in a room: mostly one that it is in.
    fn publish(&mut self, scene: &Scene, any: &'static str, size: usize) {
        let random = &scene.random;
        let Some(connection) = &mut self.connection else { return };
        let own: Vec<&'static str> = connection.rooms.keys().copied().collect();
        let is_raw = matches!(self.kind, Kind::Raw { .. });
        let room = match own.is_empty() || !is_raw && random.one_in(6) {
            true => any,
            false => random.pick(&own),
        };
        connection.said += 1;
        // JSON around it has to fit, too.
        let size = size.min(scene.plan.config.max_message.saturating_sub(300));
        let text = format!("{}:{}:{}", connection.tag, connection.said, "x".repeat(size));
        scene.truth.borrow_mut().sends(room, text.as_bytes());
        match self.kind {
            Kind::Raw { .. } => {
                let opcode = random.pick(&[wire::TEXT, wire::BINARY]);
                connection.out.extend_from_slice(&wire::message(random, connection.deflates, opcode, text.as_bytes()));
            }
            Kind::V1 if !random.one_in(8) => {
                connection.ask(scene, json!({"Op": "pub", "Room": room, "Message": text}), Asked::Publish(room, text));
            }
            _ => connection.send_json(scene, &json!({"Room": room, "Message": text})),
        }
    }

    fn join(&mut self, scene: &Scene, room: &'static str) {
        match self.kind {
            Kind::V1 => self.join_v1(scene, room),
            Kind::V0 => self.join_v0(scene, room),
            Kind::Raw { .. } | Kind::Sse => {}
        }
    }

    fn leave(&mut self, scene: &Scene, room: &'static str) {
        match self.kind {
            Kind::V1 => self.leave_v1(scene, room),
            Kind::V0 => self.leave_v0(scene, room),
            Kind::Raw { .. } | Kind::Sse => {}
        }
    }

    /// Asks for lists, and for the time.
    fn asks(&mut self, scene: &Scene, room: &'static str) {
        let random = &scene.random;
        let Some(connection) = &mut self.connection else { return };
        match self.kind {
            Kind::V1 => {
                let request = match random.below(3) {
                    0 if connection.rooms.get(room).is_some_and(|membership| membership.next.is_some()) => {
                        json!({"Op": "who", "Room": room})
                    }
                    0 | 1 => json!({"Op": "rooms"}),
                    _ => json!({"Op": "ping"}),
                };
                connection.ask(scene, request, Asked::Other);
            }
            Kind::V0 => {
                let text = random.pick(&["/list", "/channels", "/join", "  "]);
                connection.send_json(scene, &json!({"Room": room, "Message": text}));
            }
            Kind::Raw { .. } | Kind::Sse => {}
        }
    }

    /// Breaks a rule.
    fn misbehave(&mut self, scene: &Scene) {
        let random = &scene.random;
        let bytes = match random.below(6) {
            0 if !matches!(self.kind, Kind::Raw { .. }) => wire::frame(random, true, wire::TEXT, b"{\"Op\":\"not JSON"),
            0 | 1 => wire::frame(random, true, 3, b"reserved"),
            2 => vec![0x81, 5, b'n', b'o', b'm', b'a', b's'],
            3 => wire::frame(random, true, wire::TEXT, b"\xff\xfe"),
            4 => wire::frame(random, true, wire::BINARY, &vec![7; scene.plan.config.max_message + 1]),
            // With an extension that nobody agreed on.
            _ => [0xf1].into_iter().chain((0..random.between(0, 50)).map(|_| random.number() as u8)).collect(),
        };
        let Some(connection) = &mut self.connection else { return };
        connection.misbehaves = true;
        connection.out.extend_from_slice(&bytes);
        scene.trace.note(format_args!("{} breaks a rule", self.user));
    }

    /// Leaves, in one of the ways there are.
    fn goes_away(&mut self, scene: &Scene) {
        let how = scene.random.below(5);
        scene.trace.note(format_args!("{} goes away: {how}", self.user));
        self.goes(scene, how);
    }

    /// Leaves: says so, ends its direction and reads on, closes, breaks the connection, or falls silent.
    pub fn goes(&mut self, scene: &Scene, how: usize) {
        let Some(connection) = &mut self.connection else { return };
        let link = connection.link;
        match how {
            0 if self.kind != Kind::Sse && connection.end == End::Open => {
                connection.out.extend_from_slice(&wire::frame(
                    &scene.random,
                    true,
                    wire::CLOSE,
                    &1000u16.to_be_bytes(),
                ));
                connection.end = End::Leaving;
            }
            0 | 1 if connection.end == End::Open && connection.out.is_empty() => {
                scene.shared.network.borrow_mut().client_ends(link);
                connection.end = End::Leaving;
            }
            0..3 => self.close(scene, false),
            3 => self.close(scene, true),
            _ => {
                scene.shared.network.borrow_mut().client_vanishes(link);
                self.forget(scene);
            }
        }
    }
}
