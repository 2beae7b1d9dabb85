"""Which version of a model an alias names, and when it moves."""
import random
import threading
from typing import Any, Dict, Iterator, Optional, Tuple
from urllib.parse import quote

from .http import Refused, Unavailable, get_json

AWAY_MAX_S = 10.0


def follow(
    url: str,
    alias: str = "champion",
    model: Optional[str] = None,
    *,
    every_s: float = 1.0,
    timeout_s: float = 10.0,
    stop: Optional[threading.Event] = None,
) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Yields name (`tank-ai-dqn@12`) and card of the version that `alias` names now, and again each time it moves.

    Asks every `every_s` seconds, and gets the card only when there is a new one. A server that is away is waited for;
    moves that were taken back meanwhile are not seen. Without `model` it is the first that the server lists. Ends when
    `stop` is set. Raises `Refused` if the server has no such model or alias when the following begins.
    """
    url = url.rstrip("/")
    stop = stop or threading.Event()
    known: Optional[str] = None
    last: Optional[Tuple[int, str]] = None
    failures = 0
    while not stop.is_set():
        wait = every_s
        try:
            if model is None:
                model = _first_model(url, timeout_s)
            answer, known = get_json(f"{url}/v1/models/{quote(model)}/{quote(alias)}", timeout_s, known)
            failures = 0
            if answer is not None:
                move = (answer["revision"], answer["name"])
                if move != last:
                    last = move
                    yield answer["name"], answer["card"]
                    # The next question comes at once: what was yielded may have taken long.
                    continue
        except Refused:
            if last is None:
                raise
            # The server has begun anew with less than it had; it may come back.
            wait = _pause(every_s, failures)
            failures += 1
        except Unavailable as error:
            wait = max(_pause(every_s, failures), min(error.retry_after or 0.0, AWAY_MAX_S))
            failures += 1
        stop.wait(wait)


def _first_model(url: str, timeout_s: float) -> str:
    listed, _ = get_json(f"{url}/v1/models", timeout_s)
    items = listed.get("items") if isinstance(listed, dict) else None
    if not items:
        raise Unavailable(f"{url} has no model yet")
    return str(items[0]["model_key"])


def _pause(every_s: float, failures: int) -> float:
    """Grows with each failure and differs between followers."""
    return min(AWAY_MAX_S, every_s * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0)
