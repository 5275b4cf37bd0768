// The keyboard: sending, completing names, earlier texts, moving between rooms and in the log.

import { scrollPages } from "./log.js";
import { complete } from "./people.js";
import { current, isTouch, rooms, show } from "./rooms.js";
import { changed } from "./session.js";
import { $, field, fitField, hint } from "./words.js";

const TEXTS_MAX = 50; // sent texts that come back with the arrow keys

const texts = [];
let at = 0; // texts.length: none of them is in the field

export function remember(text) {
  if (text && text !== texts.at(-1)) texts.push(text);
  if (texts.length > TEXTS_MAX) texts.shift();
  at = texts.length;
}

/** Brings an earlier or later text into the field, unless something else was typed there. */
function recall(step) {
  if (field.value !== (texts[at] ?? "")) return false;
  if (!texts[at + step] && at + step !== texts.length) return false;
  at += step;
  field.value = texts[at] ?? "";
  fitField();
  changed();
  return true;
}

field.oninput = () => {
  hint("");
  fitField();
  changed();
};

field.onkeydown = (event) => {
  const { key, shiftKey, altKey, ctrlKey, metaKey, isComposing, keyCode } = event;
  if (isComposing || keyCode === 229 || altKey || ctrlKey || metaKey) return; // 229: an input method in Safari
  const act = {
    // On a touch keyboard, Enter is the only way to a new line.
    Enter: () => !shiftKey && !isTouch.matches && ($("message-form").requestSubmit(), true),
    Tab: () => !shiftKey && complete(),
    ArrowUp: () => recall(-1),
    ArrowDown: () => at < texts.length && recall(1),
    PageUp: () => (scrollPages(-1), true),
    PageDown: () => (scrollPages(1), true),
  }[key];
  if (act?.()) event.preventDefault();
};

/** The next room in this direction, or the next one with something unread. */
function roomFrom(step, isUnread) {
  const all = [...rooms.values()];
  const here = all.indexOf(current);
  const others = all.map((_, index) => all.at((here + step * (index + 1)) % all.length));
  return isUnread ? others.find((room) => room.unread) : others[0];
}

document.onkeydown = (event) => {
  if (!current) return;
  const { key, altKey, ctrlKey, metaKey, shiftKey, target } = event;
  if (key === "Escape") field.focus();
  const step = altKey && { ArrowUp: -1, ArrowDown: 1 }[key];
  if (step) {
    event.preventDefault();
    const room = roomFrom(step, shiftKey);
    if (room) show(room);
  }
  // Typing anywhere goes to the field; a space on a button presses it.
  const isText = key.length === 1 && key !== " " && !ctrlKey && !metaKey && !altKey;
  if (isText && !target.closest("input, textarea, select")) field.focus();
};
