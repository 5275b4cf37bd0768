// Sends a notification to a user: node notify.mjs USER TEXT.

import { randomUUID } from "node:crypto";

/** Returns how many pages show it: 0 if the user has none open. */
async function notify(user, text) {
  const answer = await fetch("http://localhost:8081/api/publish", {
    method: "POST",
    // With the key, the request may be repeated safely if its answer is lost.
    headers: { "Content-Type": "application/json", "Idempotency-Key": randomUUID() },
    body: JSON.stringify({ room: `for-${user}`, from: "shop", message: text }),
    signal: AbortSignal.timeout(10_000),
  });
  const { members, error } = await answer.json();
  if (error) throw new Error(error.message);
  return members;
}

console.log(await notify(...process.argv.slice(2)));
