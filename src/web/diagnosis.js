// Finds out why the WebSocket doesn't open. Browsers don't tell scripts, so this asks over plain HTTP.

const TIMEOUT_MS = 5_000;
const TELL = " Tell whoever runs this site.";

/** Resolves a path relative to this page: a proxy may serve hi under a prefix. */
export const beside = (path) => new URL(path, location.href);

/**
 * `text` is for the user; `fix`, if any, for whoever runs the site; `isFinal`: retrying can't help; `isBlocked`: hi answers, but
 * something in between drops upgrades.
 */
export async function diagnose(address, token) {
  const { status, body } = await get(address, token && { Authorization: `Bearer ${token}` });
  if (status === 401 || ["token_other_user", "denied"].includes(body?.reason)) {
    return { text: body?.sentence ?? "The server asks for a token.", isFinal: true, needsToken: true };
  }
  if (status === 400) {
    // The sentence is the same for every invalid user name; the detail, if any, is the actual reason.
    const why = body?.detail ?? body?.sentence;
    return { text: why ?? "The server refused this name or room.", isFinal: true };
  }
  if (status === 426 || (await get(beside("healthz"))).status === 200) return blocked(body);
  if (status) return { text: `The chat server answered with HTTP ${status}.${TELL}` };
  if (!navigator.onLine) return { text: "You're offline." };
  return { text: "Can't reach the server. It may be down, or you may be offline." };
}

/** A proxy drops the upgrade, or changes `Host`, which makes this page look like another site's. */
async function blocked(diagnosis) {
  const lines = (fix) => [`In ${fix.place}:`, ...fix.lines.map((line) => `    ${line}`)].join("\n");
  const fixes = (diagnosis?.fix ?? diagnosis?.mend ?? []).map(lines);
  const { body: echo } = await get(beside("-/doctor/echo"));
  const host = echo?.headers?.find(([name]) => name.toLowerCase() === "host")?.[1];
  if (host && host !== location.host) {
    fixes.unshift(`Host arrives as ${host}, but this page is at ${location.host}.\n`
      + `Configure the proxy to pass Host unchanged, or start hi with --origins ${location.origin}`);
  }
  return { text: `A proxy between you and the server blocks the chat's WebSocket.${TELL}`, fix: fixes.join("\n\n"), isBlocked: true };
}

/** The status (undefined without an answer), and the body if it is JSON. */
async function get(url, further) {
  try {
    const options = { cache: "no-store", headers: { Accept: "application/json", ...further }, signal: AbortSignal.timeout(TIMEOUT_MS) };
    const answer = await fetch(url, options);
    const body = await answer.json().catch(() => undefined);
    return { status: answer.status, body };
  } catch {
    return {};
  }
}
