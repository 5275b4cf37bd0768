// State that survives a reload of this tab: name, rooms, their positions and lines, drafts. It is kept in
// sessionStorage, if available. A duplicated tab gets a copy, and must not use it while the original is still open.

import { attempt } from "./connection.js";

const KEY = `hi ${location.pathname}`;
const LINES_SAVED = 100; // per room, if they fit
const SAVE_MS = 1_000;
const CLAIM_MS = 150;

/** The saved state, or undefined. */
export const loadSession = () => attempt(() => JSON.parse(sessionStorage.getItem(KEY))) ?? undefined;

const tab = loadSession()?.tab ?? String(Math.random());
const channel = globalThis.BroadcastChannel && new BroadcastChannel(KEY);
if (channel) {
  channel.addEventListener("message", ({ data }) => data.ask === tab && channel.postMessage({ here: tab }));
}

function saveSession(state) {
  const store = (lines) => {
    const rooms = state.rooms.map((room) => ({ ...room, lines: lines ? room.lines.slice(-lines) : [] }));
    sessionStorage.setItem(KEY, JSON.stringify({ ...state, rooms, tab }));
    return true;
  };
  attempt(() => store(LINES_SAVED)) ?? attempt(() => store(0));
}

let stateNow = () => null;
let due = 0;
let hasLeft = false;

/** From now on, saves what this function returns, unless it is null. */
export function keepSession(state) {
  stateNow = state;
  addEventListener("pagehide", saveNow);
  document.addEventListener("visibilitychange", saveNow);
}

/** Schedules a save: something has changed. */
export function changed() {
  due ||= setTimeout(saveNow, SAVE_MS);
}

function saveNow() {
  clearTimeout(due);
  due = 0;
  const state = hasLeft ? null : stateNow();
  if (state) saveSession(state);
}

/** Returns to the join form. */
export function signOut() {
  hasLeft = true;
  attempt(() => sessionStorage.removeItem(KEY));
  location.reload();
}

/** Whether the tab that saved this is still open. */
export function isElsewhere(saved) {
  return new Promise((resolve) => {
    if (!channel) return resolve(false);
    channel.addEventListener("message", ({ data }) => data.here === saved.tab && resolve(true));
    channel.postMessage({ ask: saved.tab });
    setTimeout(resolve, CLAIM_MS, false);
  });
}
