"""A game in another language: it knows an address and the envelope, and has no package of ours.

usage: python plain_producer.py URL GAME_ID       each answer is a line of JSON on standard output
"""
import json
import sys
import urllib.error
import urllib.request

url, game = sys.argv[1], sys.argv[2]


def event(seq, kind, payload, **other):
    return {
        "v": 1, "system": "tank", "kind": kind, "game_id": game, "seq": seq, "ts_ms": 1_700_000_000_000 + 33 * seq,
        "actor": "ana", "model": None, "payload": payload, **other,
    }


def post(body):
    request = urllib.request.Request(
        url + "/v1/events", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        answer = urllib.request.urlopen(request, timeout=200)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        kind, text = answer.headers["Content-Type"], answer.read()
        print(json.dumps({"status": answer.status, "type": kind, "body": json.loads(text)}))


ticks = [event(seq, "tank.tick", {"tick": seq, "note": "schön"}) for seq in range(10)]
post(ticks)
post(ticks)
post(event(10, "tank.session.closed", {"cause": "finished"}))
post([event(11, "tank.tick", {"tick": 11}), event(12, "tank.tick", {"tick": 12}, ts_ms="noon")])
