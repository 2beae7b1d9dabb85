"""Events from a game to the server, without the game ever waiting."""
import json
import logging
import os
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional

from .http import Refused, Unavailable, post_lines
from .spool import Spool

MAX_EVENT_BYTES = 1 << 20

_LOG = logging.getLogger("flywheel")


@dataclass
class Stats:
    """What went through an emitter."""

    emitted: int = 0
    acknowledged: int = 0
    spooled: int = 0
    #: Named as malformed by the server and left out.
    refused: int = 0
    #: Neither server, memory nor spool could take them.
    lost: int = 0
    retries: int = 0
    #: Why the server is away, if it is.
    away: Optional[str] = None
    #: Last acknowledged `seq` of each game that this emitter still has open.
    last_seq: Dict[str, int] = field(default_factory=dict)


class Game:
    """One game's events, with its `seq` counted from 0 (or from where a restarted producer goes on)."""

    def __init__(self, emitter: "Emitter", system: str, game_id: str, next_seq: int) -> None:
        self._emitter, self.system, self.game_id, self._next = emitter, system, game_id, next_seq
        self._lock = threading.Lock()

    def emit(
        self,
        kind: str,
        payload: Mapping[str, Any],
        actor: Optional[str] = None,
        model: Optional[str] = None,
        ts_ms: Optional[int] = None,
    ) -> int:
        """Queues one event and returns its `seq`. Raises `ValueError` for what is no JSON (NaN too), and takes no `seq`
        then."""
        with self._lock:
            event = {
                "v": 1,
                "system": self.system,
                "kind": kind,
                "game_id": self.game_id,
                "seq": self._next,
                "ts_ms": int(time.time() * 1000) if ts_ms is None else ts_ms,
                "actor": actor,
                "model": model,
                "payload": dict(payload),
            }
            line = json.dumps(event, separators=(",", ":"), allow_nan=False).encode()
            if len(line) > MAX_EVENT_BYTES:
                raise ValueError(f"the event is {len(line)} bytes long; at most {MAX_EVENT_BYTES} are allowed")
            self._emitter._queue(line)
            self._next += 1
            return self._next - 1


class Emitter:
    """The way of events to `POST /v1/events`. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        spool: Optional[str] = None,
        *,
        batch_events: int = 5000,
        batch_bytes: int = 4 << 20,
        linger_s: float = 0.02,
        memory_bytes: int = 64 << 20,
        spool_bytes: int = 4 << 30,
        timeout_s: float = 15.0,
        backoff_s: float = 0.1,
        backoff_max_s: float = 10.0,
        on_refused: Optional[Callable[[bytes, Dict[str, Any]], None]] = None,
        key: Optional[str] = None,
    ) -> None:
        for setting, value in (
            ("batch_events", batch_events),
            ("batch_bytes", batch_bytes),
            ("memory_bytes", memory_bytes),
            ("spool_bytes", spool_bytes),
            ("timeout_s", timeout_s),
            ("backoff_s", backoff_s),
            ("backoff_max_s", backoff_max_s),
        ):
            if not value > 0:
                raise ValueError(f"{setting} is {value}; give it more than 0")
        self._url = url.rstrip("/") + "/v1/events"
        # The key of this source; neither logs nor errors show it.
        self._key = (os.environ.get("FLYWHEEL_KEY") if key is None else key) or None
        if self._key is not None:
            self._key = self._key.strip()
            if not (self._key.startswith("fw_") and self._key.isascii() and self._key.isprintable()):
                raise ValueError("key is no key: expected `fw_<env>_<id>_<secret>_<crc>`")
        self._batch_events, self._batch_bytes, self._linger = batch_events, batch_bytes, linger_s
        self._memory_limit, self._timeout = memory_bytes, timeout_s
        self._backoff, self._backoff_max, self._on_refused = backoff_s, backoff_max_s, on_refused
        self._spool = Spool(spool, spool_bytes) if spool else None
        self._memory: Deque[bytes] = deque()
        self._bytes = 0
        self._in_flight = 0
        self._stats = Stats()
        self._failures = 0
        self._closed = self._flushing = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="flywheel-emitter", daemon=True)
        self._thread.start()

    def game(self, system: str, game_id: str, next_seq: int = 0) -> Game:
        return Game(self, system, game_id, next_seq)

    @property
    def stats(self) -> Stats:
        with self._change:
            return replace(self._stats, last_seq=dict(self._stats.last_seq))

    def forget(self, game_id: str) -> None:
        """A game is over: its last `seq` need not be remembered."""
        with self._change:
            self._stats.last_seq.pop(game_id, None)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Waits until everything is acknowledged; false if that took too long."""
        with self._change:
            self._flushing = True
            self._change.notify_all()
            try:
                return self._change.wait_for(self._drained, min(timeout_s, threading.TIMEOUT_MAX))
            finally:
                self._flushing = False

    def close(self, timeout_s: float = 5.0) -> Stats:
        """Sends what it can in time; the rest stays in the spool, and goes first at the next start."""
        self.flush(timeout_s)
        with self._change:
            self._closed = True
            self._change.notify_all()
        # A request under way ends within its timeout.
        self._thread.join(min(self._timeout + 5.0, threading.TIMEOUT_MAX))
        with self._change:
            self._put_memory_away()
            while self._memory and self._spool and self._spool.pending_bytes == 0:
                # Not all of it fits: the oldest do.
                if not self._spool.append([self._memory[0]]):
                    break
                self._stats.spooled += 1
                self._forget(1)
            self._stats.lost += len(self._memory)
            self._forget(len(self._memory))
            # A thread that hangs in a request still reads the spool.
            if self._spool and not self._thread.is_alive():
                self._spool.close()
                self._spool = None
        return self.stats

    def __enter__(self) -> "Emitter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _queue(self, line: bytes) -> None:
        with self._change:
            if self._closed:
                raise RuntimeError("the emitter is closed")
            self._stats.emitted += 1
            spooled = self._spool is not None and self._spool.pending_bytes > 0
            if spooled or self._bytes + len(line) > self._memory_limit:
                # Behind the spool queue all later events, so that order is kept; memory is older than the spool.
                taken = self._spool is not None and self._spool.append([line])
                self._stats.spooled += taken
                self._stats.lost += not taken
            else:
                self._memory.append(line)
                self._bytes += len(line)
            self._change.notify_all()

    def _put_memory_away(self) -> None:
        """Memory goes to the spool, in front where it is the older; all of it or nothing."""
        if not self._spool or not self._memory:
            return
        lines = list(self._memory)
        if self._spool.prepend(lines) if self._spool.pending_bytes else self._spool.append(lines):
            self._stats.spooled += len(lines)
            self._forget(len(lines))

    def _forget(self, n: int) -> None:
        for _ in range(n):
            self._bytes -= len(self._memory.popleft())

    def _drained(self) -> bool:
        return not self._memory and not self._in_flight and not (self._spool and self._spool.pending_bytes)

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except Exception as error:  # noqa: BLE001
                # A disk that refuses, or `on_refused` of the program: neither may end the sending.
                _LOG.exception("sending events")
                self._pause(Unavailable(f"{type(error).__name__}: {error}"))

    def _turn(self) -> bool:
        """Sends what there is, once; false when the emitter is closed."""
        with self._change:
            self._change.wait_for(lambda: self._closed or not self._drained())
            if self._closed:
                return False
            old = self._spool is not None and self._spool.pending_bytes > 0
            if not old and not self._flushing and self._bytes < self._batch_bytes:
                linger = min(self._linger, threading.TIMEOUT_MAX)
                self._change.wait_for(lambda: self._closed or self._flushing, linger)
            lines, from_spool = self._take()
            if not lines:
                # What waited in the spool is gone; its file was cut.
                self._change.notify_all()
        if lines:
            self._send(lines, from_spool)
        return True

    def _take(self) -> "tuple[List[bytes], bool]":
        """The oldest events, which stay where they are until they are acknowledged."""
        lines: List[bytes] = []
        total = 0
        # Memory is older than the spool, or empty: it is filled before the spool is, and emptied into it as a whole.
        for line in self._memory:
            if len(lines) >= self._batch_events or (lines and total + len(line) > self._batch_bytes):
                break
            lines.append(line)
            total += len(line)
        from_spool = not lines and self._spool is not None
        if from_spool and self._spool:
            lines = self._spool.peek(self._batch_events, self._batch_bytes)
        self._in_flight = len(lines)
        return lines, from_spool

    def _send(self, lines: List[bytes], from_spool: bool) -> None:
        try:
            ack = post_lines(self._url, lines, self._timeout, self._key)
        except Unavailable as error:
            self._pause(error)
            return
        except Refused as error:
            self._leave_out(lines, from_spool, error.problem)
            return
        with self._change:
            self._failures = 0
            self._stats.away = None
            self._stats.acknowledged += len(lines)
            for game, state in ack.get("games", {}).items():
                self._stats.last_seq[game] = state["last_seq"]
            self._done(lines, from_spool)

    def _done(self, lines: List[bytes], from_spool: bool) -> None:
        self._in_flight = 0
        if from_spool and self._spool:
            self._spool.drop(lines)
        else:
            self._forget(len(lines))
        self._change.notify_all()

    def _leave_out(self, lines: List[bytes], from_spool: bool, problem: Dict[str, Any]) -> None:
        """The server took nothing, and says which event is to blame; without a name the whole batch is."""
        index = problem.get("index")
        if not isinstance(index, int) or not 0 <= index < len(lines):
            if len(lines) > 1:
                # Smaller batches find the one to blame, or are short enough.
                with self._change:
                    self._in_flight = 0
                half = len(lines) // 2
                self._send(lines[:half], from_spool)
                return
            index = 0
        if index > 0:
            # Those before it first, so that what is left begins with the bad one.
            self._send(lines[:index], from_spool)
            return
        with self._change:
            self._stats.refused += 1
            self._done(lines[:1], from_spool)
        if self._on_refused:
            self._on_refused(lines[0], problem)

    def _pause(self, error: Unavailable) -> None:
        """Grows with each failure, differs between producers, and ends at once when the emitter is closed."""
        ceiling = min(self._backoff_max, self._backoff * 2.0 ** min(self._failures, 30))
        wait = max(ceiling * random.uniform(0.5, 1.0), min(error.retry_after or 0.0, self._backoff_max))
        with self._change:
            self._failures += 1
            self._stats.retries += 1
            self._stats.away = str(error)
            self._in_flight = 0
            if self._spool and self._spool.pending_bytes == 0:
                # What waits survives the end of this process from now on; later events queue behind it. If it does not
                # fit, memory keeps it, and stays the older of the two.
                self._put_memory_away()
            self._change.wait_for(lambda: self._closed, min(wait, threading.TIMEOUT_MAX))
