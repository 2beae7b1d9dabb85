"""Following an alias, against a server that answers as it is told."""
import json
import sys
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from flywheel import Refused, follow  # noqa: E402


def named(version, revision):
    card = {"model_key": "bot", "version": version, "sha256": f"{version:02x}"}
    return {"name": f"bot@{version}", "alias": "champion", "revision": revision, "card": card}


class Server:
    """Gives its answers one after the other, the last one for ever: an alias, or a status."""

    def __init__(self, *answers):
        self.answers, self.asked, self.not_sent_again = list(answers), [], 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def answer(self, request):
        self.asked.append(request.path)
        if request.path == "/v1/models":
            self.send(request, 200, {"items": [{"model_key": "bot"}]})
            return
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, list):
            self.send(request, 200, answer)
            return
        if isinstance(answer, int):
            self.send(request, answer, {"status": answer, "detail": "told so"})
            return
        tag = f'W/"{answer["revision"]}-{answer["card"]["version"]}-{answer["card"]["sha256"]}"'
        if request.headers.get("If-None-Match") == tag:
            self.not_sent_again += 1
            request.send_response(304)
            request.send_header("ETag", tag)
            request.end_headers()
            return
        self.send(request, 200, answer, tag)

    def send(self, request, status, value, tag=None):
        body = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        if tag:
            request.send_header("ETag", tag)
        request.end_headers()
        request.wfile.write(body)

    def stop(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class Following(unittest.TestCase):
    def server(self, *answers):
        server = Server(*answers)
        self.addCleanup(server.stop)
        return server

    def test_each_move_is_yielded_once_also_one_back_and_a_server_that_is_away_is_waited_for(self):
        one, two, back = named(1, 1), named(2, 2), named(1, 3)
        server = self.server(503, one, one, one, 500, two, 404, two, back)
        found = []
        for name, card in follow(server.url, every_s=0.001):
            found.append((name, card["sha256"]))
            if len(found) == 3:
                break
        self.assertEqual(found, [("bot@1", "01"), ("bot@2", "02"), ("bot@1", "01")])
        self.assertEqual(server.not_sent_again, 3, "what is known is not sent again")
        self.assertEqual(server.asked[:2], ["/v1/models", "/v1/models/bot/champion"])
        self.assertEqual(server.asked.count("/v1/models"), 1)

    def test_a_name_that_stands_for_other_weights_is_another_version(self):
        other = named(1, 1)
        other["card"] = {**other["card"], "sha256": "ff"}
        # In between an answer of something that is not the loop.
        server = self.server(named(1, 1), named(1, 1), ["welcome"], other)
        found = [card["sha256"] for _, (_, card) in zip(range(2), follow(server.url, every_s=0.001))]
        self.assertEqual(found, ["01", "ff"])

    def test_a_setting_that_makes_no_sense_is_named_at_once(self):
        for setting in ["every_s", "timeout_s"]:
            with self.assertRaisesRegex(ValueError, f"^{setting} is 0"):
                follow("http://127.0.0.1:1", **{setting: 0})

    def test_an_alias_that_is_not_there_is_refused_at_the_beginning(self):
        server = self.server(404)
        with self.assertRaisesRegex(Refused, "told so"):
            next(follow(server.url, "candidate", "other"))
        self.assertEqual(server.asked, ["/v1/models/other/candidate"])

    def test_the_following_ends_when_it_is_told_to(self):
        server = self.server(named(1, 1))
        stop = threading.Event()
        found = []
        for name, _ in follow(server.url, model="bot", every_s=60, stop=stop):
            found.append(name)
            stop.set()
        self.assertEqual(found, ["bot@1"])


if __name__ == "__main__":
    unittest.main()
