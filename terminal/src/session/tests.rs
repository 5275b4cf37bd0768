use serde_json::{Value, json};

use super::*;

/// A session, and what a server would say to it.
struct Chat {
    session: Session,
    now: Instant,
    /// `Seq` of the server's last message.
    seq: u64,
}

impl Chat {
    fn new() -> Self {
        let now = Instant::now();
        Self { session: Session::new("ada", "tea", now), now, seq: 0 }
    }

    fn hear(&mut self, frame: &Value) {
        self.session.frame(&frame.to_string(), self.now);
    }

    /// What is sent now.
    fn sent(&mut self) -> Vec<Value> {
        self.session.advance(self.now);
        self.session.outgoing().iter().map(|frame| serde_json::from_str(frame).unwrap()).collect()
    }

    /// Greets the session, and lets it join. Returns its request.
    fn join(&mut self, rate: u32, recovered: Option<bool>) -> Value {
        self.hear(&json!({"Op": "hello", "User": "ada", "Resume": "secret", "Ping": 25, "Limits": {"Message": 100, "Rate": rate}}));
        let join = self.sent().pop().expect("a join");
        let since = join["Since"]["Seq"].as_u64().filter(|_| recovered == Some(true));
        let answer = json!({"Op": "ok", "Ref": join["Ref"], "Room": "tea", "Epoch": "e", "Seq": since.unwrap_or(self.seq), "Recovered": recovered.unwrap_or(false)});
        self.hear(&answer);
        join
    }

    /// The texts that are sent now, and the number of the request of each.
    fn texts(&mut self) -> Vec<(String, u64)> {
        let sent = self.sent().into_iter().filter(|frame| frame["Message"].is_string());
        sent.map(|frame| (frame["Message"].as_str().unwrap().to_owned(), frame["Ref"].as_u64().unwrap())).collect()
    }

    fn number(&mut self, reference: u64) {
        self.seq += 1;
        self.hear(&json!({"Op": "ok", "Ref": reference, "Room": "tea", "Epoch": "e", "Seq": self.seq}));
    }

    fn echo(&mut self, text: &str) {
        self.seq += 1;
        self.hear(
            &json!({"From": "ada", "Room": "tea", "Message": text, "Meta": false, "Epoch": "e", "Seq": self.seq}),
        );
    }

    fn say(&mut self, lines: &[&str]) {
        lines.iter().for_each(|line| self.session.line((*line).to_owned()));
    }
}

fn only(texts: Vec<(String, u64)>) -> (String, u64) {
    let [one] = <[_; 1]>::try_from(texts).expect("one text");
    one
}

#[test]
fn with_a_rate_limit_a_refused_line_is_not_overtaken() {
    let mut chat = Chat::new();
    chat.say(&["early"]);
    assert!(chat.texts().is_empty(), "there is no connection");
    chat.join(20, None);
    chat.say(&["late", " \t"]);
    let (text, reference) = only(chat.texts());
    assert_eq!(text, "early");
    chat.hear(&json!({"Op": "err", "Ref": reference, "Code": "too_many_requests", "Message": "", "Temporary": true}));
    assert!(chat.texts().is_empty(), "it waits");
    chat.now += 2 * PAUSE;
    let (text, reference) = only(chat.texts());
    assert_eq!(text, "early");
    chat.number(reference);
    let (text, reference) = only(chat.texts());
    assert_eq!((text.as_str(), chat.session.unsent()), ("late", 1));
    chat.number(reference);
    assert_eq!((chat.session.unsent(), chat.session.refused), (0, 0));
}

#[test]
fn what_the_server_does_not_take_is_told_and_the_rest_goes_on() {
    let mut chat = Chat::new();
    chat.join(0, None);
    chat.session.told();
    let long = "x".repeat(100);
    chat.say(&["denied", &long, "good"]);
    let texts = chat.texts();
    let [(denied, reference), (good, _)] = &texts[..] else { panic!("{texts:?}") };
    assert_eq!([denied, good], ["denied", "good"]);
    chat.hear(&json!({"Op": "err", "Ref": reference, "Code": "denied", "Message": "No.", "Temporary": false}));
    let told = chat.session.told();
    assert!(
        matches!(&told[..], [Told::NotSent { text, .. }, Told::NotSent { why, .. }] if *text == long && why == "No.")
    );
    assert_eq!((chat.session.unsent(), chat.session.refused), (1, 2));
}

#[test]
fn a_line_is_doubtful_until_its_echo_comes_or_does_not() {
    for is_delivered in [true, false] {
        let mut chat = Chat::new();
        chat.join(0, None);
        chat.say(&["one", "two"]);
        assert_eq!(chat.texts().len(), 2);
        chat.echo("one");
        // The echo of "one" has come, its answer has not.
        chat.session.lost(false);
        let join = chat.join(0, Some(true));
        assert_eq!(join["Since"], json!({"Epoch": "e", "Seq": 1}));
        chat.say(&["three"]);
        assert!(chat.texts().is_empty(), "nothing overtakes a doubtful line");
        if is_delivered {
            chat.echo("two");
        }
        chat.now += DOUBT_TIME;
        let texts: Vec<_> = chat.texts().into_iter().map(|(text, _)| text).collect();
        let expected: &[&str] = if is_delivered { &["three"] } else { &["two", "three"] };
        assert_eq!(texts, expected);
    }
}

#[test]
fn after_a_close_in_order_nothing_is_doubtful() {
    let mut chat = Chat::new();
    chat.join(0, None);
    chat.say(&["one", "two"]);
    let texts = chat.texts();
    chat.number(texts[0].1);
    chat.session.lost(true);
    chat.join(0, Some(false));
    assert_eq!(only(chat.texts()).0, "two");
    assert!(chat.session.told().contains(&Told::Gap(None)), "the new server knows nothing of before");
}

#[test]
fn a_room_that_refuses_at_first_is_the_end_and_later_it_is_asked_again() {
    let deny = |chat: &mut Chat| {
        chat.hear(&json!({"Op": "hello", "User": "ada", "Resume": "", "Ping": 25, "Limits": {}}));
        let join = chat.sent().pop().unwrap();
        chat.hear(
            &json!({"Op": "err", "Ref": join["Ref"], "Code": "name_taken", "Message": "Taken.", "Temporary": false}),
        );
    };
    let mut chat = Chat::new();
    deny(&mut chat);
    assert_eq!(chat.session.refusal.as_deref(), Some("Taken."));
    let mut chat = Chat::new();
    chat.join(0, None);
    chat.session.lost(false);
    deny(&mut chat);
    assert!(chat.session.refusal.is_none() && chat.sent().is_empty());
    chat.now += REJOIN_TIME;
    assert_eq!(chat.sent()[0]["Op"], "join");
}
