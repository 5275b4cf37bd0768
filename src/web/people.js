// Who is in the room on the screen: a number beside its name that opens the list; and completing names.

import { fold } from "./connection.js";
import { $, element, field } from "./words.js";

const PEOPLE_MAX = 500; // names known per room, for completion

const button = $("people");
const list = $("people-list");

let shown; // the room on the screen
let connection;

export function showPeople(room, itsConnection) {
  [shown, connection] = [room, itsConnection];
  const users = connection.isConnected && connection.isIn(room.name) ? connection.room(room.name).users : 0;
  button.hidden = !users;
  button.textContent = `${users} here`;
  $("alone").hidden = users !== 1;
  if (list.matches(":popover-open")) fillList();
}

async function fillList() {
  const room = shown;
  const { Users, Count } = await connection.who(room.name).catch(() => ({ Users: [], Count: 0 }));
  meet(room, Users);
  if (room !== shown) return;
  const items = Users.map((name) => element("li", {}, element("bdi", {}, name), name === connection.name ? " (you)" : ""));
  const more = Count - Users.length;
  if (more > 0) items.push(element("li", {}, `and ${more} more`));
  list.querySelector("ul").replaceChildren(...items);
}

list.onbeforetoggle = ({ newState }) => newState === "open" && fillList();

/** Remembers names for completion: the latest are offered first. */
export function meet(room, names) {
  for (const name of names) {
    room.people.delete(fold(name));
    room.people.set(fold(name), name);
  }
  for (const key of room.people.keys()) {
    if (room.people.size <= PEOPLE_MAX) break;
    room.people.delete(key);
  }
}

let completing; // { names, at, start, rest } while Tab is pressed again and again

/** Completes the name before the cursor, or replaces it by the next one. Returns false if there is none. */
export function complete() {
  const { value, selectionStart: caret, selectionEnd } = field;
  if (completing?.value !== value || completing.caret !== caret) {
    const start = caret === selectionEnd ? value.slice(0, caret).search(/[^\s@]+$/) : -1;
    if (start < 0) return false;
    const typed = fold(value.slice(start, caret));
    const names = [...shown.people.values()].reverse().filter((name) => fold(name).startsWith(typed) && name !== connection.name);
    if (!names.length) return false;
    completing = { names, at: -1, start, rest: value.slice(caret) };
  }
  completing.at = (completing.at + 1) % completing.names.length;
  const { names, at, start, rest } = completing;
  const isFirst = !value.slice(0, start).replace("@", "");
  const name = names[at] + (isFirst ? ": " : " ");
  field.setRangeText(name, start, value.length - rest.length, "end");
  Object.assign(completing, { value: field.value, caret: field.selectionStart });
  return true;
}
