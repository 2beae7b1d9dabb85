"""One request to the door, with errors by what can be done about them."""
import gzip
import http.client
import json
import urllib.error
import urllib.request
from typing import Any, Dict, List, Optional

GZIP_FROM_BYTES = 1024


class Unavailable(Exception):
    """The server is away or overloaded; the same events may be sent again, after `retry_after` seconds if it said so."""

    def __init__(self, why: str, retry_after: Optional[float] = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Refused(Exception):
    """The server will never take this request; `problem` is its RFC 9457 answer."""

    def __init__(self, problem: Dict[str, Any]) -> None:
        super().__init__(problem.get("detail") or str(problem))
        self.problem = problem


def post_lines(url: str, lines: List[bytes], timeout: float) -> Dict[str, Any]:
    """Posts envelopes, one a line, and returns the acknowledgement."""
    body = b"\n".join(lines)
    headers = {"Content-Type": "application/x-ndjson"}
    if len(body) >= GZIP_FROM_BYTES:
        body = gzip.compress(body, 1)
        headers["Content-Encoding"] = "gzip"
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            ack = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            problem = _problem(error)
        if error.code in (408, 425, 429) or error.code >= 500:
            raise Unavailable(str(problem.get("detail", error)), _seconds(error.headers.get("Retry-After"))) from error
        raise Refused(problem) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"{url}: {error}") from error
    if not isinstance(ack, dict) or "accepted" not in ack:
        raise Unavailable(f"{url}: the answer is no acknowledgement")
    return ack


def _problem(error: urllib.error.HTTPError) -> Dict[str, Any]:
    try:
        problem = json.loads(error.read(1 << 20))
    except (OSError, http.client.HTTPException, ValueError):
        problem = None
    return problem if isinstance(problem, dict) else {"status": error.code, "detail": str(error)}


def _seconds(text: Optional[str]) -> Optional[float]:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None
