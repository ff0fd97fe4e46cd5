"""A service of one's own as an oracle, on this machine alone: run it with the variable MY_TOKEN set, then http.yaml."""

import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = f"Bearer {os.environ['MY_TOKEN']}"


class Kettle(BaseHTTPRequestHandler):
    """How far a tea is from a good one, by grams a litre and minutes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Candidates [n, 2] in, values [n] out."""
        question = self.rfile.read(int(self.headers["Content-Length"]))
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), TOKEN.encode()):
            self.reply(401, {"error": "the token is wrong"})
            return
        teas = json.loads(question)["candidates"]
        self.reply(200, {"values": [(grams - 9) ** 2 + (minutes - 3.5) ** 2 for grams, minutes in teas]})

    def reply(self, status: int, body: object) -> None:
        """A JSON reply."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8900), Kettle)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
