"""Sends a notification to a user: python3 notify.py USER TEXT."""

import json
import sys
import urllib.request
import uuid


def notify(user, text):
    """Returns how many pages show it: 0 if the user has none open."""
    body = {"room": f"for-{user}", "from": "shop", "message": text}
    request = urllib.request.Request(
        "http://localhost:8081/api/publish",
        data=json.dumps(body).encode(),
        # With this, the request may be repeated safely if its answer is lost.
        headers={"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["members"]


if __name__ == "__main__":
    print(notify(*sys.argv[1:]))
