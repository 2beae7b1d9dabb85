"""Events that wait in a file: appended at the end, taken from the front, kept over restarts."""
import os
from typing import IO, List


class Spool:
    """One event a line. `path` holds the events, `path.done` how many bytes of it are acknowledged.

    A line without its newline was torn by a crash and is cut off. If the process dies between an acknowledgement and the
    note of it, events are sent again, which the server recognises.
    """

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = path
        self._limit = limit_bytes
        self._done = 0
        self._file: IO[bytes] = open(path, "a+b")
        try:
            self._lock()
            self._recover()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"the spool `{self._path}` is in use by another emitter; give each its own file") from error

    def _recover(self) -> None:
        self._size = os.path.getsize(self._path)
        end = self._size
        while end > 0:
            start = max(0, end - (64 << 10))
            self._file.seek(start)
            at = self._file.read(end - start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
        if end < self._size:
            self._file.truncate(end)
            self._size = end
        try:
            with open(self._path + ".done", encoding="ascii") as note:
                done = int(note.read())
        except (OSError, ValueError):
            done = 0
        self._done = done
        if not self._ends_a_line(done):
            # A note of another file. It must not be believed later either, when this file has grown.
            self._done = 0
            self._note()

    def _ends_a_line(self, at: int) -> bool:
        if at <= 0 or at > self._size:
            return at == 0
        self._file.seek(at - 1)
        return self._file.read(1) == b"\n"

    @property
    def pending_bytes(self) -> int:
        return self._size - self._done

    def append(self, lines: List[bytes]) -> int:
        """Writes as many as fit and returns how many; a full disk fits none."""
        taken, data = 0, bytearray()
        for line in lines:
            if self._size + len(data) + len(line) + 1 > self._limit:
                break
            data += line + b"\n"
            taken += 1
        if not taken:
            return 0
        try:
            self._file.write(data)
            self._file.flush()
        except OSError:
            # A buffered writer may still hold a part; start over from what is known to be whole.
            self._reopen()
            return 0
        self._size += len(data)
        return taken

    def _reopen(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass
        self._file = open(self._path, "a+b")
        self._lock()
        self._file.truncate(self._size)

    def peek(self, max_events: int, max_bytes: int) -> List[bytes]:
        """The oldest events, with at least one if there is any."""
        self._file.seek(self._done)
        lines: List[bytes] = []
        total = 0
        while len(lines) < max_events and self._done + total < self._size:
            line = self._file.readline()
            if lines and total + len(line) > max_bytes:
                break
            total += len(line)
            lines.append(line[:-1])
        return lines

    def drop(self, lines: List[bytes]) -> None:
        """The front `lines` are acknowledged."""
        self._done += sum(len(line) + 1 for line in lines)
        emptied = self._done == self._size
        if emptied:
            self._done = 0
        # The note first: if the process dies between the two, all of it is sent again. The other way round, a note of an
        # earlier file could be believed of a later one.
        self._note()
        if emptied:
            self._file.truncate(0)
            self._size = 0

    def _note(self) -> None:
        part = self._path + ".done.part"
        with open(part, "w", encoding="ascii") as note:
            note.write(str(self._done))
        os.replace(part, self._path + ".done")

    def close(self) -> None:
        self._file.close()
