// What calls the user back to a hidden page: the title, the icon, and notifications, if wanted.

import { attempt } from "./connection.js";
import { $ } from "./words.js";

const KEY = "hi.notify";
const icon = document.querySelector("link[rel=icon]");
const plain = icon.href;
const dotted = plain.replace("</svg>", "<circle cx='12' cy='4' r='4' fill='%23d33'/></svg>");
const box = $("notify");

/** The title and the icon: messages that wait, and whether one of them is for us. */
export function callBack(name, unread, isForUs) {
  const isHidden = document.hidden && unread > 0;
  document.title = `${isHidden ? `(${isForUs ? "@" : unread}) ` : ""}${name} · hi`;
  const wanted = isHidden ? dotted : plain;
  if (icon.href !== wanted) icon.href = wanted;
}

/** Tells of a message that names us, if the page is hidden and the user wants it. */
export function notify(room, from, text, opened) {
  if (!document.hidden || !box.checked || Notification.permission !== "granted") return;
  const note = attempt(() => new Notification(`${from} in ${room}`, { body: text.slice(0, 200), tag: room }));
  if (note) note.onclick = () => (window.focus(), opened(), note.close());
}

box.parentElement.hidden = !("Notification" in window);
box.checked = attempt(() => localStorage.getItem(KEY)) === "yes" && Notification.permission === "granted";
box.onchange = async () => {
  if (box.checked) box.checked = (await Notification.requestPermission()) === "granted";
  attempt(() => localStorage.setItem(KEY, box.checked ? "yes" : "no"));
};
