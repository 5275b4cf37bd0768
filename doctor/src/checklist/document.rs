//! The list as a document: Markdown for people, JSON for programs, and what changed between two of them. Pure.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::items::{Item, Phase, State};
use crate::examination::secrets::shown;
use crate::printable::{printable_json, printable_markdown};

/// In a Markdown file, the JSON stands in a comment behind this.
const COMMENT: &str = "<!-- hi-checklist ";
const COMMENT_END: &str = " -->";

/// A list, with the facts behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// Before, during or after the move.
    pub(crate) phase: Phase,
    /// The address, without its secrets.
    pub(crate) url: String,
    /// The time of the checks, in milliseconds since 1970.
    pub(crate) made_unix_ms: u64,
    pub(crate) items: Vec<Item>,
    pub(crate) facts: Facts,
}

impl Document {
    /// Whether a check found an item that is not done. Questions to the operator don't count.
    pub(crate) fn has_open(&self) -> bool {
        self.items.iter().any(|item| item.state == State::Open)
    }

    /// For people: open items first, then questions, then what is done.
    pub(crate) fn markdown(&self) -> String {
        let phase = match self.phase {
            Phase::Before => "Before",
            Phase::During => "During",
            Phase::After => "After",
        };
        let count = |state| self.items.iter().filter(|item| item.state == state).count();
        let mut text = format!(
            "# {phase} the move of {}\n\n{} done, {} open, {} to be answered by you.\n",
            printable_markdown(&self.url),
            count(State::Done),
            count(State::Open),
            count(State::Ask)
        );
        for (state, heading) in [(State::Open, "Open"), (State::Ask, "For you to answer"), (State::Done, "Done")] {
            let mut items = self.items.iter().filter(|item| item.state == state).peekable();
            if items.peek().is_some() {
                let _ = write!(text, "\n## {heading}\n\n");
            }
            for Item { title, detail, .. } in items {
                let tick = if state == State::Done { 'x' } else { ' ' };
                let _ = writeln!(text, "- [{tick}] **{title}.** {}", printable_markdown(detail));
            }
        }
        text
    }

    /// Markdown with the whole document in a comment, for [`Document::read`].
    pub(crate) fn markdown_with_json(&self) -> String {
        // Two hyphens would end the comment; in a JSON string they can be escaped.
        let json = self.json(false).replace("--", "-\\u002d");
        format!("{}\n{COMMENT}{json}{COMMENT_END}\n", self.markdown())
    }

    pub(crate) fn json(&self, pretty: bool) -> String {
        let json = if pretty { serde_json::to_string_pretty(self) } else { serde_json::to_string(self) };
        printable_json(&json.expect("strings, numbers and addresses are JSON")).into_owned()
    }

    /// Reads what [`Document::json`] or [`Document::markdown_with_json`] wrote.
    ///
    /// # Errors
    /// It is neither: a sentence for the operator.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let json = match text.rfind(COMMENT) {
            Some(start) => text[start + COMMENT.len()..].trim_end().trim_end_matches(COMMENT_END.trim_start()),
            None => text,
        };
        let document = serde_json::from_str(json).map(|document: Self| Self { url: shown(&document.url), ..document });
        document.map_err(|error| format!("it is not a list that `hi checklist --save` wrote: {error}"))
    }
}

/// The changes from one list to another, in Markdown.
pub(crate) fn diff(old: &Document, new: &Document) -> String {
    let mut text = format!("# What changed at {}\n", printable_markdown(&new.url));
    if old.url != new.url {
        let _ = writeln!(text, "\nThe first list is of another address: {}.", printable_markdown(&old.url));
    }
    let mut changes = Vec::new();
    changed(&mut changes, "Addresses in the records", &old.facts.in_records(), &new.facts.in_records());
    let ttl = |facts: &Facts| facts.ttl_seconds_max().map(|seconds| format!("{seconds} s")).into_iter().collect();
    changed(&mut changes, "Longest TTL", &ttl(&old.facts), &ttl(&new.facts));
    let instances = |facts: &Facts| facts.addresses.iter().filter_map(|at| at.instance.clone()).collect();
    changed(&mut changes, "Instances of hi", &instances(&old.facts), &instances(&new.facts));
    let verdict = |facts: &Facts| BTreeSet::from([facts.verdict.name.clone()]);
    changed(&mut changes, "Verdict", &verdict(&old.facts), &verdict(&new.facts));
    for item in &new.items {
        let before = old.items.iter().find(|before| before.name == item.name);
        let (Some(before), title) = (before, &item.title) else { continue };
        if before.state != item.state {
            let words = |state| match state {
                State::Done => "done",
                State::Open => "open",
                State::Ask => "to be answered",
            };
            changes.push(format!(
                "**{}:** {}, was {}. {}",
                printable_markdown(title),
                words(item.state),
                words(before.state),
                printable_markdown(&item.detail)
            ));
        }
    }
    text.push('\n');
    if changes.is_empty() {
        text.push_str("Nothing.\n");
    }
    for change in changes {
        let _ = writeln!(text, "- {change}");
    }
    text
}

fn changed<T: Ord + Display>(changes: &mut Vec<String>, what: &str, old: &BTreeSet<T>, new: &BTreeSet<T>) {
    if old == new {
        return;
    }
    let list = |values: &BTreeSet<T>| match values.is_empty() {
        true => "none".to_owned(),
        // Servers choose their own names, and files may come from anywhere.
        false => values.iter().map(|value| printable_markdown(&value.to_string())).collect::<Vec<_>>().join(", "),
    };
    changes.push(format!("**{what}:** {}, was {}.", list(new), list(old)));
}
