"""One request to the door, with errors by what can be done about them."""
import gzip
import http.client
import json
import math
import urllib.error
import urllib.request
from typing import Any, Dict, List, Optional, Tuple

GZIP_FROM_BYTES = 1024
#: Longest answer that is read.
ANSWER_BYTES_MAX = 16 << 20


class Unavailable(Exception):
    """The server is away or overloaded; the same events may be sent again, after `retry_after` seconds if it said so."""

    def __init__(self, why: str, retry_after: Optional[float] = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Refused(Exception):
    """The server will never take this request; `problem` is its RFC 9457 answer."""

    def __init__(self, problem: Dict[str, Any], status: int) -> None:
        super().__init__(problem.get("detail") or str(problem))
        self.problem, self.status = problem, status


def post_lines(url: str, lines: List[bytes], timeout: float, key: Optional[str] = None) -> Dict[str, Any]:
    """Posts envelopes, one a line, and returns the acknowledgement.

    Only what the doors say of the events themselves is `Refused`: an address that is not the loop's, that wants a password,
    or a proxy with an opinion, is a server that is away.
    """
    body = b"\n".join(lines)
    headers = {"Content-Type": "application/x-ndjson"}
    if len(body) >= GZIP_FROM_BYTES:
        body = gzip.compress(body, 1)
        headers["Content-Encoding"] = "gzip"
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    if key:
        # Goes to this address and to none that it points to.
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    try:
        ack, _ = _ask(request, timeout)
    except Refused as error:
        if _blames(error, lines):
            raise
        raise Unavailable(f"{url} answered {error.status}: {error}") from error
    if not isinstance(ack, dict) or "accepted" not in ack:
        raise Unavailable(f"{url}: the answer is no acknowledgement")
    return ack


def get_json(url: str, timeout: float, known: Optional[str] = None) -> Tuple[Any, Optional[str]]:
    """The answer and its tag; `None` instead of an answer whose tag is `known`."""
    request = urllib.request.Request(url, headers={"If-None-Match": known} if known else {})
    try:
        answer, headers = _ask(request, timeout)
    except Refused as error:
        if error.status == 304:
            return None, known
        raise
    return answer, headers.get("ETag")


def _ask(request: urllib.request.Request, timeout: float) -> Tuple[Any, Any]:
    url = request.full_url
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            body = answer.read(ANSWER_BYTES_MAX + 1)
            if len(body) > ANSWER_BYTES_MAX:
                raise Unavailable(f"{url} answered with more than {ANSWER_BYTES_MAX} bytes")
            return json.loads(body), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            problem = _problem(error)
        if error.code in (408, 425, 429) or error.code >= 500:
            raise Unavailable(str(problem.get("detail", error)), _seconds(error.headers.get("Retry-After"))) from error
        raise Refused(problem, error.code) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"{url}: {error}") from error


def _problem(error: urllib.error.HTTPError) -> Dict[str, Any]:
    try:
        problem = json.loads(error.read(1 << 20))
    except (OSError, http.client.HTTPException, ValueError):
        problem = None
    return problem if isinstance(problem, dict) else {"status": error.code, "detail": str(error)}


def _blames(error: Refused, lines: List[bytes]) -> bool:
    """Whether the doors say this of the events. A body that broke on its way is no event's fault."""
    reason = error.problem.get("reason")
    if error.status not in (400, 413, 422) or not isinstance(reason, str):
        return False
    if not str(error.problem.get("type")).startswith("urn:flywheel:problem:"):
        return False
    if reason == "empty":
        return not any(line.strip() for line in lines)
    return isinstance(error.problem.get("index"), int) or error.status == 413


def _seconds(text: Optional[str]) -> Optional[float]:
    try:
        seconds = float(text) if text else None
    except ValueError:
        return None
    return max(0.0, seconds) if seconds is not None and math.isfinite(seconds) else None
