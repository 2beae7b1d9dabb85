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
    for setting, value in (("every_s", every_s), ("timeout_s", timeout_s)):
        if not value > 0:
            raise ValueError(f"{setting} is {value}; give it more than 0")
    return _moves(url.rstrip("/"), alias, model, every_s, timeout_s, stop or threading.Event())


def _moves(
    url: str, alias: str, model: Optional[str], every_s: float, timeout_s: float, stop: threading.Event
) -> Iterator[Tuple[str, Dict[str, Any]]]:
    known: Optional[str] = None
    last: Optional[Tuple[int, str, str]] = None
    failures = 0
    while not stop.is_set():
        wait = every_s
        try:
            if model is None:
                model = _first_model(url, timeout_s)
            answer, known = get_json(f"{url}/v1/models/{quote(model)}/{quote(alias)}", timeout_s, known)
            if answer is not None:
                # A server that began anew may give an old name, and revision, to other weights.
                try:
                    move = (answer["revision"], answer["name"], answer["card"]["sha256"])
                except (KeyError, TypeError):
                    known = None
                    raise Unavailable(f"{url} did not answer with an alias") from None
                if move != last:
                    failures = 0
                    last = move
                    yield answer["name"], answer["card"]
                    # The next question comes at once: what was yielded may have taken long.
                    continue
            failures = 0
        except Refused:
            if last is None:
                raise
            # The server has begun anew with less than it had; it may come back.
            wait = _pause(every_s, failures)
            failures += 1
        except Unavailable as error:
            wait = max(_pause(every_s, failures), min(error.retry_after or 0.0, AWAY_MAX_S))
            failures += 1
        stop.wait(min(wait, threading.TIMEOUT_MAX))


def _first_model(url: str, timeout_s: float) -> str:
    listed, _ = get_json(f"{url}/v1/models", timeout_s)
    items = listed.get("items") if isinstance(listed, dict) else None
    try:
        return str(items[0]["model_key"])  # type: ignore[index]
    except (IndexError, KeyError, TypeError):
        raise Unavailable(f"{url} has no model yet") from None


def _pause(every_s: float, failures: int) -> float:
    """Grows with each failure and differs between followers."""
    return min(AWAY_MAX_S, every_s * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0)
