//! How a room is written: for people, with or without colors, or for programs, one JSON object a line. Pure.

use doctor::printable::{is_unsafe, printable_json, thousands};
use serde_json::{Value, json};

use crate::told::Told;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    /// For a terminal whose user has not asked for none (no-color.org).
    Colored,
    Json,
}

/// Whether something belongs to the room or to the connection: in plain text, the latter goes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Room,
    Connection,
}

/// Lines, each with its line break; empty if there is nothing to show.
pub(crate) fn lines(told: &Told, room: &str, style: Style) -> (About, String) {
    if style == Style::Json {
        let json = json(told, room).to_string();
        return (About::Room, format!("{}\n", printable_json(&json)));
    }
    let text = match told {
        Told::Message { from, text, .. } => {
            // Each line says whose it is: a text can't pass for the message of somebody else.
            let from = paint(&harmless(from), color(from), style);
            return (About::Room, text.split('\n').map(|line| format!("{from}: {}\n", harmless(line))).collect());
        }
        Told::Presence { joined, left, counts, .. } => presence(joined, left, *counts),
        Told::Notice { text, .. } => text.clone(),
        Told::Gap(Some((from, to))) if from == to => "1 message is missing here".to_owned(),
        Told::Gap(Some((from, to))) => format!("{} messages are missing here", thousands(to - from + 1)),
        Told::Gap(None) => "messages may be missing here".to_owned(),
        Told::Users { names, count } => {
            format!("{} here: {}{}", thousands(*count), names.join(", "), more(names, *count))
        }
        Told::Connected { is_again: false } => format!("in {room}"),
        Told::Connected { is_again: true } => format!("back in {room}"),
        Told::Lost { reason, retry } => format!("{reason} Trying again in {} s.", retry.as_secs_f64().ceil()),
        Told::NotSent { text, why } => format!("not sent: {text} ({why})"),
        Told::Hint(text) => text.clone(),
    };
    let about = match told {
        Told::Connected { .. } | Told::Lost { .. } | Told::NotSent { .. } | Told::Hint(_) => About::Connection,
        _ => About::Room,
    };
    (about, format!("{}\n", paint(&format!("-- {}", harmless(&text)), DIM, style)))
}

/// Fainter than the rest.
const DIM: u8 = 2;

/// One of six colors for a name, always the same.
pub(crate) fn color(name: &str) -> u8 {
    31 + name.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) % 6
}

/// A text in a color, where there are colors.
pub(crate) fn paint(text: &str, code: u8, style: Style) -> String {
    if style == Style::Colored { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// One line for a terminal. Tabs stay, and so do the joiners that scripts and emoji need.
fn harmless(line: &str) -> String {
    let stays = |letter| matches!(letter, '\t' | '\u{200c}' | '\u{200d}') || !is_unsafe(letter);
    line.trim_end_matches('\r').chars().map(|letter| if stays(letter) { letter } else { '?' }).collect()
}

fn presence(joined: &[String], left: &[String], (joined_count, left_count): (u64, u64)) -> String {
    let part = |names: &[String], count: u64, what: &str| {
        (count > 0).then(|| format!("{}{} {what}", names.join(", "), more(names, count)))
    };
    let parts = [part(joined, joined_count, "joined"), part(left, left_count, "left")];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn more(names: &[String], count: u64) -> String {
    match count.saturating_sub(names.len() as u64) {
        0 => String::new(),
        more => format!(" and {} more", thousands(more)),
    }
}

fn json(told: &Told, room: &str) -> Value {
    match told {
        Told::Message { from, text, time, position, is_own } => {
            let (epoch, seq) = position.as_ref().map(|position| (&position.epoch, position.seq)).unzip();
            json!({"type": "message", "room": room, "from": from, "text": text, "time": time, "epoch": epoch, "seq": seq, "own": is_own})
        }
        Told::Presence { joined, left, counts, users } => json!({
            "type": "presence", "room": room, "joined": joined, "left": left,
            "joinedCount": counts.0, "leftCount": counts.1, "users": users,
        }),
        Told::Notice { event, text } => json!({"type": "notice", "room": room, "event": event, "text": text}),
        Told::Gap(missing) => {
            let (from, to) = missing.unzip();
            let missed = missing.map(|(from, to)| to - from + 1);
            json!({"type": "gap", "room": room, "from": from, "to": to, "missed": missed})
        }
        Told::Connected { is_again } => json!({"type": "state", "state": "connected", "again": is_again}),
        Told::Lost { reason, retry } => {
            let ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
            json!({"type": "state", "state": "waiting", "reason": reason, "retryMs": ms})
        }
        Told::NotSent { text, why } => json!({"type": "refused", "room": room, "text": text, "reason": why}),
        Told::Users { names, count } => json!({"type": "users", "room": room, "users": names, "count": count}),
        Told::Hint(text) => json!({"type": "hint", "text": text}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(from: &str, text: &str) -> Told {
        Told::Message { from: from.to_owned(), text: text.to_owned(), time: None, position: None, is_own: false }
    }

    #[test]
    fn a_text_can_neither_pass_for_another_message_nor_move_the_cursor() {
        let (about, text) = lines(&message("bob", "a\nada: b\u{1b}[2J\tc\r"), "tea", Style::Plain);
        assert_eq!((about, text.as_str()), (About::Room, "bob: a\nbob: ada: b?[2J\tc\n"));
        let (_, json) = lines(&message("bob", "a\n\u{202e}"), "tea", Style::Json);
        assert!(json.ends_with("}\n") && json.lines().count() == 1 && json.contains("\\u202e"), "{json}");
    }

    #[test]
    fn notices_are_in_plain_words() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let told = Told::Presence { joined: names(&["bob", "eve"]), left: names(&["ada"]), counts: (12, 1), users: 9 };
        assert_eq!(lines(&told, "tea", Style::Plain).1, "-- bob, eve and 10 more joined; ada left\n");
        assert_eq!(lines(&Told::Gap(Some((3, 3))), "tea", Style::Plain).1, "-- 1 message is missing here\n");
        assert_eq!(
            lines(&Told::Gap(None), "tea", Style::Colored).1,
            "\u{1b}[2m-- messages may be missing here\u{1b}[0m\n"
        );
    }
}
