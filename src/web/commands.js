// What begins with a slash.

import { connection, current, findRoom, goTo, leave, nameProblem, notice, offlineText, openChat, rooms } from "./rooms.js";
import { hint, listed } from "./words.js";

const HELP = [
  "/join ROOM - join a room, or create it",
  "/leave [ROOM] - leave this room, or another",
  "/list [ROOM] - who is in this room, or in another",
  "/channels - all rooms",
  "/nick NAME - change your name",
  "/help - this list",
  "//TEXT - send text that begins with a slash",
].join("\n");

const COMMANDS = {
  "/join": (name) => (name ? goTo(name) : hint("Which room? /join ROOM")),
  "/leave": (name = current.name) => {
    const room = findRoom(name);
    if (!room) return hint(`You're not in ${name}.`);
    leave(room);
    return true;
  },
  "/list": (name = current.name) => ask(connection.who, findRoom(name)?.name ?? name, ({ Users, Count }) =>
    [`${Count} here: `, ...listed(Users, Count)]),
  "/channels": () => ask(connection.channels, "", ({ Rooms, Count }) =>
    [`${Count} room${Count === 1 ? "" : "s"}: `, ...listed(Rooms.map(({ Room }) => Room), Count)]),
  "/nick": rename,
  "/help": () => {
    notice(current, [HELP]);
    return true;
  },
};

export function obey(typed) {
  const [word, ...rest] = typed.split(/\s+/);
  const act = COMMANDS[word.toLowerCase()];
  if (!act) return hint(`Unknown command ${word.slice(0, 40)}. Type /help for a list, or start with // to send it as text.`);
  if (act === rename) return rename(rest.join(" "));
  if (rest.length > 1) return hint("A room name can't contain spaces.");
  return act(rest[0]);
}

function ask(request, name, words) {
  if (!connection.isConnected) return hint(offlineText());
  const room = current;
  request.call(connection, name).then((answer) => notice(room, words(answer)), ({ message }) => notice(room, [message]));
  return true;
}

function rename(name) {
  if (nameProblem(name)) return hint(name ? nameProblem(name) : "Which name? /nick NAME");
  if (!connection.isConnected || !connection.isIn(current.name)) return hint("Not changed: you're offline.");
  if (!connection.v1) return hint("Not possible here. Sign out, and join with another name.");
  for (const room of rooms.values()) room.isRestored = room !== current; // nothing is lost, and nothing need be said
  connection.rename(name).then((why) => (why ? notice(current, [`Your name is still ${connection.name}. ${why}`]) : openChat()));
  return true;
}
