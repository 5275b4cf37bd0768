// The text of a message as nodes: links, rooms and code. Made by DOM, so that text can never become markup.

import { element } from "./words.js";

// ```code```, `code`, an address, #room.
const TOKENS = /```(?:\w*\n)?([^]+?)\n?```\n?|(?<!`)`([^`\n]+)`(?!`)|(https?:\/\/[^\s<>"`]+)|(?<![\p{L}\p{N}_&/#])#(\p{L}[^\s#,;:!?.()[\]{}"'<>`]*)/gu;
const ENDS = /[.,;:!?'*_]+$/;

/** Punctuation after an address belongs to the sentence, and so does a bracket that the address doesn't open. */
function withoutEnd(address) {
  let short = address.replace(ENDS, "");
  if (short.endsWith(")") && !short.includes("(")) short = short.slice(0, -1).replace(ENDS, "");
  return short;
}

function link(text) {
  if (!URL.canParse(text)) return text;
  return element("a", { href: text, target: "_blank", rel: "noopener noreferrer nofollow" }, text);
}

/** Strings and elements that show the text. */
export function drawText(text) {
  const parts = [];
  let done = 0;
  for (const { 0: all, 1: block, 2: code, 3: address, 4: room, index } of text.matchAll(TOKENS)) {
    parts.push(text.slice(done, index));
    done = index + all.length;
    if (block) parts.push(element("pre", { tabIndex: 0 }, block));
    else if (code) parts.push(element("code", {}, code));
    else if (room) parts.push(element("a", { href: `#${encodeURIComponent(room)}` }, all));
    else {
      const short = withoutEnd(address);
      parts.push(link(short));
      done -= all.length - short.length;
    }
  }
  return [...parts, text.slice(done)];
}

/** Whether a text names a user. */
export function mentions(text, name) {
  const escaped = name.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  return new RegExp(`(?<![\\p{L}\\p{N}_])${escaped}(?![\\p{L}\\p{N}_])`, "iu").test(text);
}
