// Why does the chat's WebSocket not open? Scripts are not told, so ask by plain HTTP.

const TIMEOUT_MS = 5_000;
const TELL = " Tell whoever runs this site.";

/** An address beside this page's: a proxy may serve hi under a longer path. */
export const beside = (path) => new URL(path, location.href);

/**
 * `text` is for the user; `fix`, if there is one, for whoever runs the site; `isFinal`: the same request will never do.
 * If hi answers, something between drops upgrades.
 */
export async function diagnose(address) {
  const { status, body } = await get(address);
  if (status === 400) {
    // The sentence is the same for all faults of a user's name; the detail, if there is one, is the true reason.
    const why = body?.detail ?? body?.sentence;
    return { text: why ?? "The server refuses this name or room.", isFinal: true };
  }
  if (status === 426 || (await get(beside("healthz"))).status === 200) return blocked(body);
  if (status) return { text: `The chat's address answers with HTTP ${status}.${TELL}` };
  if (!navigator.onLine) return { text: "You're offline." };
  return { text: "Can't reach the server. It may be down, or you may be offline." };
}

/** A proxy drops the upgrade, or changes `Host`: then the server takes this page for one of another site. */
async function blocked(diagnosis) {
  const lines = (fix) => [`In ${fix.place}:`, ...fix.lines.map((line) => `    ${line}`)].join("\n");
  const fixes = (diagnosis?.fix ?? diagnosis?.mend ?? []).map(lines);
  const { body: echo } = await get(beside("-/doctor/echo"));
  const host = echo?.headers?.find(([name]) => name.toLowerCase() === "host")?.[1];
  if (host && host !== location.host) {
    fixes.unshift(`Host arrives as ${host}, and this page is at ${location.host}.\n`
      + `Let the proxy pass Host on unchanged, or start hi with --origins ${location.origin}`);
  }
  return { text: `A proxy on the way blocks the chat's WebSocket.${TELL}`, fix: fixes.join("\n\n") };
}

/** The status, none if nothing answered, and the body, if it is JSON. */
async function get(url) {
  try {
    const options = { cache: "no-store", headers: { Accept: "application/json" }, signal: AbortSignal.timeout(TIMEOUT_MS) };
    const answer = await fetch(url, options);
    const body = await answer.json().catch(() => undefined);
    return { status: answer.status, body };
  } catch {
    return {};
  }
}
