//! One room of a chat over hi.v1, from connection to connection: what is sent when, what was delivered, what is shown. Pure: frames
//! and times come in, frames and things to show go out.
//!
//! A line is on its way until the server has numbered it. If the connection breaks first, only the replay can tell whether the line
//! was delivered: it is doubtful until its echo comes, or doesn't, and is sent again only then.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use crate::pace::Pace;
use crate::told::{Feed, Told};
use crate::wire::{Frame, request};

/// Lines that wait to be sent, before no more are read.
pub(crate) const WAITING_MAX: usize = 256;
/// Lines without an answer where there is no rate limit. Where there is one, a line waits for the answer to the one before: a refused
/// one must not be overtaken.
const FLYING_MAX: usize = 64;
/// How long after a recovery the echo of a doubtful line may still come.
const DOUBT_TIME: Duration = Duration::from_secs(5);
/// After this time, a room that was refused after a reconnect is asked for again.
const REJOIN_TIME: Duration = Duration::from_secs(10);
/// The shortest silence that is looked into, whatever the server's own interval is.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// The longest silence that is not looked into.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// A line that was refused for the moment is sent again after this time.
const PAUSE: Duration = Duration::from_millis(500);

/// Where the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No `hello` yet.
    Away,
    /// Greeted, and not in the room.
    Greeted,
    /// The join of this `Ref` has no answer yet.
    Joining(u64),
    Joined,
}

/// The chat in one room.
#[derive(Debug)]
pub(crate) struct Session {
    /// As the server writes it.
    pub(crate) name: String,
    pub(crate) room: String,
    /// The secret with which the next connection takes the name over.
    pub(crate) resume: String,
    /// Names for completion.
    pub(crate) names: BTreeSet<String>,
    /// Why the room can't be joined: this is the end.
    pub(crate) refusal: Option<String>,
    /// Lines that the server did not take.
    pub(crate) refused: u64,
    /// After this long without a sign of the server, it is asked for one.
    pub(crate) silence: Duration,
    feed: Feed,
    /// Bytes of a message; 0: no limit.
    message_bytes_max: usize,
    pace: Pace,
    stage: Stage,
    was_joined: bool,
    reference: u64,
    /// The `who` of this `Ref` was asked by the user.
    asked: Option<u64>,
    waiting: VecDeque<String>,
    flying: VecDeque<(u64, String)>,
    doubtful: VecDeque<String>,
    doubt_until: Option<Instant>,
    /// Nothing is sent before.
    pause_until: Option<Instant>,
    rejoin_at: Option<Instant>,
    outgoing: Vec<String>,
    told: Vec<Told>,
}

impl Session {
    pub(crate) fn new(name: &str, room: &str, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            room: room.to_owned(),
            resume: String::new(),
            names: BTreeSet::new(),
            refusal: None,
            refused: 0,
            silence: SILENCE_MAX,
            feed: Feed::default(),
            message_bytes_max: 0,
            pace: Pace::new(0, now),
            stage: Stage::Away,
            was_joined: false,
            reference: 0,
            asked: None,
            waiting: VecDeque::new(),
            flying: VecDeque::new(),
            doubtful: VecDeque::new(),
            doubt_until: None,
            pause_until: None,
            rejoin_at: None,
            outgoing: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Whether the room was joined once.
    pub(crate) fn was_joined(&self) -> bool {
        self.was_joined
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.stage == Stage::Joined
    }

    /// Lines that the server has not numbered yet.
    pub(crate) fn unsent(&self) -> usize {
        self.waiting.len() + self.flying.len() + self.doubtful.len()
    }

    pub(crate) fn may_take_lines(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// The frames to send now.
    pub(crate) fn outgoing(&mut self) -> Vec<String> {
        mem::take(&mut self.outgoing)
    }

    /// What is to be shown.
    pub(crate) fn told(&mut self) -> Vec<Told> {
        mem::take(&mut self.told)
    }

    /// A line of the user. What shows nothing is no message.
    pub(crate) fn line(&mut self, text: String) {
        if !text.trim().is_empty() {
            self.waiting.push_back(text);
        }
    }

    /// Asks who is in the room, for the user.
    pub(crate) fn ask_who(&mut self) {
        self.asked = Some(self.who());
    }

    /// Asks the server for a sign.
    pub(crate) fn ping(&mut self) {
        self.request("ping", false);
    }

    /// The connection is lost. `was_closed`: the server closed it in order. It had answered everything that it published before, so
    /// what has no answer was not delivered.
    pub(crate) fn lost(&mut self, was_closed: bool) {
        self.stage = Stage::Away;
        (self.doubt_until, self.rejoin_at, self.asked) = (None, None, None);
        let unanswered = mem::take(&mut self.flying).into_iter().map(|(_, text)| text);
        if was_closed {
            self.wait_first(unanswered.collect());
        } else {
            self.doubtful.extend(unanswered);
        }
    }

    /// Takes a frame.
    pub(crate) fn frame(&mut self, text: &str, now: Instant) {
        // What isn't JSON isn't hi's.
        let Some(frame) = Frame::parse(text) else { return };
        match frame.text("Op") {
            "hello" => self.greeted(&frame, now),
            "ok" => self.answered(&frame, now),
            "err" => self.denied(&frame, now),
            "" if self.stage == Stage::Joined => self.take(frame),
            _ => {}
        }
    }

    /// Sends what may be sent now. Returns when there may be more to do.
    pub(crate) fn advance(&mut self, now: Instant) -> Option<Instant> {
        if self.rejoin_at.is_some_and(|at| at <= now) {
            self.join();
        }
        if self.doubt_until.is_some_and(|at| at <= now) {
            self.doubt_no_more();
        }
        if self.stage != Stage::Joined || !self.doubtful.is_empty() {
            return [self.rejoin_at, self.doubt_until].into_iter().flatten().min();
        }
        if let Some(until) = self.pause_until.filter(|until| *until > now) {
            return Some(until);
        }
        self.pause_until = None;
        let flying_max = if self.pace.is_limited() { 1 } else { FLYING_MAX };
        while self.flying.len() < flying_max && !self.waiting.is_empty() {
            let wait = self.pace.wait(now);
            if !wait.is_zero() {
                return Some(now + wait);
            }
            let text = self.waiting.pop_front().unwrap_or_default();
            self.publish(text);
        }
        None
    }

    fn publish(&mut self, text: String) {
        self.reference += 1;
        let request = request("", &[("Room", &self.room), ("Message", &text)], None, self.reference);
        let max = self.message_bytes_max;
        if max > 0 && request.len() > max {
            let why = format!("too long by {} bytes of {max}", request.len() - max);
            return self.not_sent(text, why);
        }
        self.outgoing.push(request);
        self.flying.push_back((self.reference, text));
        self.pace.sent();
    }

    fn not_sent(&mut self, text: String, why: String) {
        self.refused += 1;
        self.told.push(Told::NotSent { text, why });
    }

    /// Asks something about the room, perhaps with the position in it. Returns the request's number.
    fn request(&mut self, op: &str, has_position: bool) -> u64 {
        self.reference += 1;
        let since = self.feed.position.as_ref().filter(|_| has_position);
        self.outgoing.push(request(op, &[("Room", &self.room)], since, self.reference));
        self.reference
    }

    fn join(&mut self) {
        self.rejoin_at = None;
        self.stage = Stage::Joining(self.request("join", true));
    }

    fn who(&mut self) -> u64 {
        self.request("who", false)
    }

    fn greeted(&mut self, frame: &Frame, now: Instant) {
        (self.name, self.resume) = (frame.text("User").to_owned(), frame.text("Resume").to_owned());
        self.message_bytes_max = usize::try_from(frame.limit("Message")).unwrap_or(usize::MAX);
        self.silence = Duration::from_secs(frame.number("Ping").unwrap_or(u64::MAX)).clamp(SILENCE_MIN, SILENCE_MAX);
        self.pace = Pace::new(u32::try_from(frame.limit("Rate")).unwrap_or(u32::MAX), now);
        self.stage = Stage::Greeted;
        self.join();
    }

    fn answered(&mut self, frame: &Frame, now: Instant) {
        let reference = frame.number("Ref").unwrap_or_default();
        if self.stage == Stage::Joining(reference) {
            return self.joined(frame, now);
        }
        self.flying.retain(|(flying, _)| *flying != reference);
        let names = frame.names("Users");
        self.names.extend(names.iter().cloned());
        if self.asked == Some(reference) {
            self.asked = None;
            let count = frame.number("Count").unwrap_or(names.len() as u64);
            self.told.push(Told::Users { names, count });
        }
    }

    fn joined(&mut self, frame: &Frame, now: Instant) {
        let is_again = mem::replace(&mut self.was_joined, true);
        let is_whole = !is_again || frame.is_true("Recovered");
        self.stage = Stage::Joined;
        self.told.push(Told::Connected { is_again });
        if !is_whole {
            self.told.push(Told::Gap(None));
        }
        if let Some(position) = frame.position() {
            self.feed.position = Some(position);
        }
        frame.text("Room").clone_into(&mut self.room);
        if !self.doubtful.is_empty() {
            self.doubt_until = Some(now + DOUBT_TIME);
        }
        // Without the messages in between, no echo can come.
        if !is_whole {
            self.doubt_no_more();
        }
        self.who();
    }

    fn denied(&mut self, frame: &Frame, now: Instant) {
        let (reference, why) = (frame.number("Ref").unwrap_or_default(), frame.text("Message"));
        if self.stage == Stage::Joining(reference) {
            self.stage = Stage::Greeted;
            if self.was_joined {
                self.rejoin_at = Some(now + REJOIN_TIME);
                self.told.push(Told::Hint(format!("Can't get back into {}: {why}", self.room)));
            } else {
                self.refusal = Some(why.to_owned());
            }
            return;
        }
        let Some(at) = self.flying.iter().position(|(flying, _)| *flying == reference) else { return };
        let Some((_, text)) = self.flying.remove(at) else { return };
        if frame.is_true("Temporary") {
            self.waiting.push_front(text);
            self.pace.refused();
            self.pause_until = Some(now + PAUSE);
        } else {
            self.not_sent(text, why.to_owned());
        }
    }

    fn take(&mut self, frame: Frame) {
        for told in self.feed.take(frame, &self.name) {
            match &told {
                Told::Message { text, is_own: true, .. } => self.settle(text),
                Told::Message { from, .. } => {
                    self.names.insert(from.clone());
                }
                Told::Presence { joined, left, .. } => {
                    self.names.extend(joined.iter().cloned());
                    self.names.retain(|name| !left.contains(name));
                }
                _ => {}
            }
            self.told.push(told);
        }
    }

    /// A message of ours came: it is delivered, even if the connection breaks before the answer comes.
    fn settle(&mut self, text: &str) {
        if let Some(at) = self.flying.iter().position(|(_, flying)| flying == text) {
            self.flying.remove(at);
        } else if let Some(at) = self.doubtful.iter().position(|doubtful| doubtful == text) {
            self.doubtful.remove(at);
        }
    }

    /// What no echo came for was not delivered, as far as anybody knows.
    fn doubt_no_more(&mut self) {
        self.doubt_until = None;
        let lines = mem::take(&mut self.doubtful);
        self.wait_first(lines);
    }

    fn wait_first(&mut self, mut lines: VecDeque<String>) {
        lines.append(&mut self.waiting);
        self.waiting = lines;
    }
}

#[cfg(test)]
mod tests;
