// Texts outside the log: the state of the connection, trouble, hints.

export const $ = (id) => document.getElementById(id);
export const field = $("message-input");

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const STATES = { connecting: "Connecting…", connected: "Connected", reading: "Read only", waiting: "Reconnecting", offline: "Offline" };

export function showState(state, seconds) {
  $("status").dataset.state = state;
  $("status-text").textContent = STATES[state];
  $("countdown").textContent = seconds ? ` in ${seconds} s` : "";
  $("change-name").hidden = state !== "offline";
  field.readOnly = state === "reading";
  if (state !== "connected") return;
  if ($("trouble").contains(document.activeElement)) field.focus();
  $("trouble").hidden = true;
  hint("");
}

/** Shows a sentence for the user; the fix, for whoever runs the site, is folded. */
function explain(box, { text, fix }) {
  box.replaceChildren(element("p", {}, text));
  if (fix) box.append(element("details", {}, element("summary", {}, "How to fix it"), element("pre", {}, fix)));
}

export function showTrouble(found) {
  explain($("trouble-text"), found);
  $("trouble").hidden = false;
}

export function joinError(found, at = "join-name") {
  explain($("join-error"), found);
  $("join-error").hidden = !found.text;
  $(at).focus();
}

/** Shows a hint below the message field. Returns false, for callers that failed. */
export function hint(text) {
  $("hint").textContent = text;
  return false;
}

/** A name as a part of a line; it can't change the direction of the sentence around it. */
export const named = (name) => ({ name });

/** Names as parts of a line; `count` is how many there are in all. */
export function listed(names, count = names.length, max = 100) {
  const shown = names.slice(0, max);
  const parts = shown.flatMap((name, at) => [at ? ", " : "", named(name)]);
  return count > shown.length ? [...parts, `${parts.length ? " and " : ""}${count - shown.length} more`] : parts;
}

export function size(count) {
  if (count < 1024) return `${count} byte${count === 1 ? "" : "s"}`;
  return `${(count / 1024).toFixed(1).replace(/\.0$/, "")} KiB`;
}

/** For browsers without `field-sizing`. */
export function fitField() {
  if (!CSS.supports("field-sizing", "content")) field.rows = Math.min(6, field.value.split("\n").length);
}
