"""The package against a real door: the program named by FLYWHEEL_DOOR."""
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "src"))

from flywheel import Emitter, read_table  # noqa: E402
from flywheel.spool import Spool  # noqa: E402

DOOR = os.environ.get("FLYWHEEL_DOOR")


class Door:
    def __init__(self, folder, address="127.0.0.1:0"):
        self.folder = folder
        self.process = subprocess.Popen(
            [DOOR, folder, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError("the door did not start")
        self.url = "http://" + self.address

    def stop(self):
        self.process.kill()
        self.process.communicate()

    def seqs(self, game):
        """Each `seq` once, in the order in which it is there first."""
        with urllib.request.urlopen(self.url + "/records") as answer:
            events = [json.loads(line) for line in answer.read().splitlines()]
        return list(dict.fromkeys(event["seq"] for event in events if event["game_id"] == game))


class Heads:
    """Keeps the head of each request and acknowledges it, but for the first, which it points to `elsewhere`."""

    def __init__(self, elsewhere=None):
        self.seen = seen = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen.append(dict(self.headers))
                if elsewhere and len(seen) == 1:
                    self.send_response(302)
                    self.send_header("Location", elsewhere)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                said = {"accepted": len(body.splitlines()), "repeated": 0, "durability": "memory", "games": {}}
                said = json.dumps(said).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


class Key(unittest.TestCase):
    KEY = "fw_live_k3Yq0aBcD1eF_0123456789012345678901234567890123456789012_000000"

    def test_goes_with_every_request_and_never_to_an_address_that_an_answer_points_to(self):
        other = Heads()
        self.addCleanup(other.stop)
        server = Heads(elsewhere=other.url + "/v1/events")
        self.addCleanup(server.stop)
        with Emitter(server.url, key=self.KEY, backoff_s=0.01) as emitter:
            game = emitter.game("tank", "arena-1")
            game.emit("tank.tick", {"tick": 0})
            self.assertTrue(emitter.flush())
            game.emit("tank.tick", {"tick": 1})
            self.assertTrue(emitter.flush())
        self.assertEqual({head.get("Authorization") for head in server.seen}, {"Bearer " + self.KEY})
        self.assertEqual({head.get("Authorization") for head in other.seen}, {None})

    def test_comes_from_the_environment_and_what_is_none_is_not_repeated(self):
        server = Heads()
        self.addCleanup(server.stop)
        os.environ["FLYWHEEL_KEY"] = self.KEY + "\n"
        self.addCleanup(os.environ.pop, "FLYWHEEL_KEY")
        with Emitter(server.url) as emitter:
            emitter.game("tank", "arena-1").emit("tank.tick", {})
            self.assertTrue(emitter.flush())
        with Emitter(server.url, key="") as emitter:
            emitter.game("tank", "g-1").emit("tank.tick", {})
            self.assertTrue(emitter.flush())
        self.assertEqual([head.get("Authorization") for head in server.seen], ["Bearer " + self.KEY, None])
        for wrong in ("hunter2", "fw_live_\nX-Other: 1"):
            with self.assertRaises(ValueError) as raised:
                Emitter(server.url, key=wrong)
            self.assertNotIn(wrong, str(raised.exception))


class Proxy:
    """Says what it is told to, and then what the door says."""

    def __init__(self, url, said):
        said = list(said)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if said:
                    status, answer = said.pop(0)
                    answer = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                else:
                    names = {name: self.headers[name] for name in ("Content-Type", "Content-Encoding") if name in self.headers}
                    with urllib.request.urlopen(urllib.request.Request(url + self.path, body, names)) as door:
                        status, answer = door.status, door.read()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("waited for 30 s")
        time.sleep(0.01)


@unittest.skipUnless(DOOR, "FLYWHEEL_DOOR does not name the program")
class WithADoor(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.door = Door(self.path("log"))
        self.addCleanup(lambda: self.door.stop())

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def restart(self):
        self.door = Door(self.path("log"), self.door.address)

    def emitter(self, **options):
        return Emitter(self.door.url, self.path("spool"), backoff_s=0.01, backoff_max_s=0.1, **options)

    def test_events_arrive_in_order_and_are_acknowledged_with_their_last_seq(self):
        with self.emitter(batch_events=700) as emitter:
            game = emitter.game("tank", "g")
            for tick in range(5000):
                self.assertEqual(game.emit("tank.tick", {"tick": tick}), tick)
            self.assertTrue(emitter.flush())
            self.assertEqual(emitter.stats.last_seq, {"g": 4999})
        self.assertEqual(self.door.seqs("g"), list(range(5000)))

    def test_what_is_emitted_while_the_server_is_away_arrives_in_order_when_it_is_back(self):
        with self.emitter() as emitter:
            game = emitter.game("tank", "g")
            for tick in range(100):
                game.emit("tank.tick", {"tick": tick})
            self.assertTrue(emitter.flush())
            self.door.stop()
            for tick in range(100, 400):
                game.emit("tank.tick", {"tick": tick})
                if tick == 200:
                    wait_for(lambda: emitter.stats.spooled > 0)
            self.assertIsNotNone(emitter.stats.away)
            self.restart()
            for tick in range(400, 500):
                game.emit("tank.tick", {"tick": tick})
            self.assertTrue(emitter.flush())
            self.assertEqual((emitter.stats.lost, emitter.stats.last_seq), (0, {"g": 499}))
        self.assertEqual(self.door.seqs("g"), list(range(500)))

    def test_what_could_not_be_sent_goes_first_at_the_next_start(self):
        self.door.stop()
        emitter = self.emitter()
        game = emitter.game("tank", "g")
        for tick in range(300):
            game.emit("tank.tick", {"tick": tick})
        emitter.close(timeout_s=0.2)
        self.assertEqual((emitter.stats.acknowledged, emitter.stats.lost), (0, 0))
        self.restart()
        with self.emitter() as emitter:
            game = emitter.game("tank", "g", next_seq=300)
            for tick in range(300, 310):
                game.emit("tank.tick", {"tick": tick})
            self.assertTrue(emitter.flush())
        self.assertEqual(self.door.seqs("g"), list(range(310)))

    def test_a_refused_event_is_named_and_holds_up_nobody(self):
        refused = []
        with self.emitter(on_refused=lambda line, problem: refused.append((json.loads(line)["seq"], problem))) as emitter:
            game = emitter.game("tank", "g")
            for tick in range(10):
                game.emit("tank.tick" if tick % 4 else "baloot.tick", {"tick": tick})
            with self.assertRaises(ValueError):
                game.emit("tank.tick", {"x": float("nan")})
            self.assertTrue(emitter.flush())
            self.assertEqual((emitter.stats.refused, emitter.stats.acknowledged), (3, 7))
        self.assertEqual([seq for seq, _ in refused], [0, 4, 8])
        self.assertEqual({problem["reason"] for _, problem in refused}, {"bad_kind"})
        self.assertEqual(self.door.seqs("g"), [1, 2, 3, 5, 6, 7, 9])

    def test_what_a_proxy_says_refuses_no_event(self):
        ours = "urn:flywheel:problem:bad-request"
        said = [
            (400, "<html><h1>400 Bad Request</h1></html>"),
            (413, "<html>too large</html>"),
            (422, ""),
            (403, {"type": "urn:flywheel:problem:forbidden", "status": 403, "detail": "a page of another origin"}),
            (404, {"status": 404, "detail": "nothing is here"}),
            (400, {"type": "about:blank", "status": 400, "reason": "bad_kind", "index": 0}),
            (400, {"type": ours, "status": 400, "reason": "bad_compression", "detail": "broken on its way"}),
            (200, "<html>welcome to the hotel's wireless</html>"),
        ]
        refused = []
        with Proxy(self.door.url, said) as proxy:
            with Emitter(proxy.url, backoff_s=0.01, backoff_max_s=0.05, on_refused=lambda *it: refused.append(it)) as emitter:
                game = emitter.game("tank", "g")
                for tick in range(10):
                    game.emit("tank.tick", {"tick": tick})
                wait_for(lambda: emitter.stats.acknowledged == 10)
                self.assertEqual((emitter.stats.refused, emitter.stats.lost, emitter.stats.retries), (0, 0, len(said)))
        self.assertEqual((refused, self.door.seqs("g")), ([], list(range(10))))

    def test_what_neither_spool_nor_server_takes_waits_in_memory(self):
        self.door.stop()
        with self.emitter(spool_bytes=100) as emitter:
            game = emitter.game("tank", "g")
            for tick in range(50):
                game.emit("tank.tick", {"tick": tick})
            wait_for(lambda: emitter.stats.retries > 1)
            self.assertEqual((emitter.stats.lost, emitter.stats.spooled), (0, 0))
            self.restart()
            self.assertTrue(emitter.flush())
        self.assertEqual(self.door.seqs("g"), list(range(50)))

    def test_order_is_kept_when_memory_overflows_into_the_spool_and_both_are_left_behind(self):
        self.door.stop()
        # The first events fill memory, and the sending thread is still waiting for more when the rest is spooled.
        emitter = self.emitter(memory_bytes=1000, linger_s=float("inf"))
        game = emitter.game("tank", "g")
        for tick in range(100):
            game.emit("tank.tick", {"tick": tick})
        self.assertGreater(emitter.stats.spooled, 0)
        stats = emitter.close(timeout_s=0.0)
        self.assertEqual((stats.spooled, stats.lost), (100, 0))
        self.restart()
        with self.emitter() as emitter:
            self.assertTrue(emitter.flush(float("inf")))
        self.assertEqual(self.door.seqs("g"), list(range(100)))

    def test_a_program_whose_on_refused_fails_still_sends(self):
        with self.assertLogs("flywheel"), self.emitter(on_refused=lambda *_: 1 / 0) as emitter:
            game = emitter.game("tank", "g")
            for kind in ["baloot.tick", "tank.tick", "baloot.tick", "tank.tick"]:
                game.emit(kind, {})
            wait_for(lambda: emitter.stats.acknowledged == 2)
            self.assertEqual(emitter.stats.refused, 2)
        self.assertEqual(self.door.seqs("g"), [1, 3])

    def test_a_spool_that_somebody_cuts_while_the_server_is_away_holds_up_nobody(self):
        self.door.stop()
        with self.emitter() as emitter:
            game = emitter.game("tank", "g")
            for tick in range(200):
                game.emit("tank.tick", {"tick": tick})
            wait_for(lambda: emitter.stats.spooled == 200)
            os.truncate(self.path("spool"), 0)
            self.restart()
            for tick in range(200, 210):
                game.emit("tank.tick", {"tick": tick})
            self.assertTrue(emitter.flush())
            self.assertEqual(emitter.stats.refused, 0)
        self.assertEqual(self.door.seqs("g"), list(range(200, 210)))

    def test_the_example_runs(self):
        environment = {**os.environ, "PYTHONPATH": str(HERE / "src")}
        done = subprocess.run(
            [sys.executable, str(HERE / "examples/emit.py"), self.door.url, "py-1"],
            capture_output=True, text=True, env=environment, timeout=60,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("101 events of py-1 acknowledged, last seq 100", done.stdout)
        self.assertEqual(self.door.seqs("py-1"), list(range(101)))


class Files(unittest.TestCase):
    def test_a_spool_torn_anywhere_keeps_every_whole_event(self):
        lines = [b"{%d}" % n for n in range(20)]
        whole = b"".join(line + b"\n" for line in lines)
        with tempfile.TemporaryDirectory() as folder:
            for cut in range(len(whole) + 1):
                path = os.path.join(folder, f"spool-{cut}")
                Path(path).write_bytes(whole[:cut])
                spool = Spool(path, 1 << 20)
                kept = spool.peek(100, 1 << 20)
                self.assertEqual(kept, lines[: whole[:cut].count(b"\n")])
                spool.append([b"{new}"])
                spool.drop(kept)
                spool.close()
                spool = Spool(path, 1 << 20)
                self.assertEqual(spool.peek(100, 1 << 20), [b"{new}"])
                spool.close()

    def test_a_note_of_an_earlier_file_is_never_believed_of_a_later_one(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            # Cut to nothing by a process that died before it wrote the note; or a note from within a line.
            for left, note, kept in [(b"", "8", []), (b"{first}\n{second}\n", "3", [b"{first}", b"{second}"])]:
                Path(path).write_bytes(left)
                Path(path + ".done").write_text(note)
                spool = Spool(path, 1 << 20)
                spool.append([b"{new}"] * 10)
                spool.close()
                spool = Spool(path, 1 << 20)
                self.assertEqual(spool.peek(100, 1 << 20), kept + [b"{new}"] * 10)
                spool.close()

    def test_a_spool_is_bounded_and_belongs_to_one_emitter(self):
        with tempfile.TemporaryDirectory() as folder:
            spool = Spool(os.path.join(folder, "s"), 25)
            self.assertTrue(spool.append([b"123456789"] * 2))
            self.assertFalse(spool.append([b"123456789"]))
            self.assertTrue(spool.append([b"1234"]))
            with self.assertRaisesRegex(RuntimeError, "in use"):
                Spool(os.path.join(folder, "s"), 25)
            spool.close()

    def test_what_is_acknowledged_takes_no_room_from_what_waits(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            spool = Spool(path, 1000)
            line = b"%099d"
            for n in range(9):
                self.assertTrue(spool.append([line % n]))
            # Never empty, and never more than nine tenths full.
            for n in range(9, 500):
                front = spool.peek(1, 1)
                self.assertEqual(front, [line % (n - 9)])
                spool.drop(front)
                self.assertTrue(spool.append([line % n]), n)
                self.assertLessEqual(os.path.getsize(path), 1250)
            self.assertTrue(spool.append([line % 500]))
            self.assertFalse(spool.append([line % 501]))
            with self.assertRaisesRegex(RuntimeError, "in use"):
                Spool(path, 1000)
            spool.close()
            spool = Spool(path, 1000)
            self.assertEqual(spool.peek(100, 1 << 20), [line % n for n in range(491, 501)])
            spool.close()

    def test_a_long_front_that_is_acknowledged_gives_its_disk_back(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            spool = Spool(path, 1 << 30)
            line = b"x" * ((64 << 10) - 1)
            self.assertTrue(spool.append([line] * 100))
            for _ in range(80):
                spool.drop([line])
            self.assertEqual(spool.pending_bytes, 20 * (64 << 10))
            self.assertLess(os.path.getsize(path), 4 << 20)
            self.assertEqual(spool.peek(100, 1 << 30), [line] * 20)
            spool.close()

    def test_an_acknowledgement_of_lines_that_somebody_cut_away_is_not_taken_for_later_ones(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "spool")
            spool = Spool(path, 1 << 20)
            spool.append([b"{%d}" % n for n in range(9)])
            sent = spool.peek(9, 1 << 20)
            os.truncate(path, 0)
            # It is this that sees the cut.
            later = [b"{10}", b"{11}"]
            self.assertTrue(spool.append(later))
            spool.drop(sent)
            self.assertEqual(spool.peek(9, 1 << 20), later)
            spool.close()

    def test_a_file_that_somebody_cuts_is_read_on_from_what_is_left(self):
        lines = [b"{%d}" % n for n in range(9)]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            spool = Spool(path, 1 << 20)
            spool.append(lines)
            spool.drop(spool.peek(2, 100))
            os.truncate(path, 18)
            self.assertEqual(spool.peek(100, 100), lines[2:4])
            spool.drop(lines[2:4])
            spool.append(lines)
            spool.drop(lines[:2])
            os.truncate(path, 0)
            self.assertTrue(spool.append(lines[5:]))
            self.assertEqual(spool.peek(100, 100), lines[5:])
            os.truncate(path, 0)
            spool.drop(lines[5:])
            self.assertEqual((spool.pending_bytes, spool.peek(1, 1)), (0, []))
            spool.close()

    def test_a_setting_that_makes_no_sense_is_named_before_anything_starts(self):
        for setting in ["batch_events", "memory_bytes", "timeout_s", "backoff_s", "backoff_max_s"]:
            with self.assertRaisesRegex(ValueError, f"^{setting} is 0"):
                Emitter("http://127.0.0.1:1", **{setting: 0})

    def test_a_table_is_read_into_arrays(self):
        try:
            import deltalake
            import pyarrow
        except ImportError:
            self.skipTest("deltalake and pyarrow are not there")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "events")
            deltalake.write_deltalake(path, pyarrow.table({"seq": [0, 1], "kind": ["a", "b"], "obs": [b"xy", b"z\0"]}))
            deltalake.write_deltalake(path, pyarrow.table({"seq": [2], "kind": ["c"], "obs": [b"q"]}), mode="append")
            table = read_table(folder, "events", columns=["seq", "kind"])
            self.assertEqual(sorted(zip(table["seq"].tolist(), table["kind"].tolist())), [(0, "a"), (1, "b"), (2, "c")])
            self.assertEqual(table["seq"].dtype.kind, "i")
            self.assertEqual(sorted(read_table(path)["obs"]), [b"q", b"xy", b"z\0"])
            self.assertEqual(set(read_table(path)), {"seq", "kind", "obs"})
            with self.assertRaisesRegex(KeyError, "no column nope"):
                read_table(path, columns=["nope"])


if __name__ == "__main__":
    unittest.main()
