"""A webhook receiver that verifies with libraries that are not ours and prints a JSON line for each request.

    receiver.py PORT SECRET [PUBLIC_KEY]

SECRET is a whsec_… (v1, PyPI `standardwebhooks`), PUBLIC_KEY a whpk_… (v1a, PyPI `cryptography`).
Answers 204 when what is signed is right, 401 when not. The first line printed is {"listening": PORT}.
"""

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

printing = threading.Lock()
port, secret = int(sys.argv[1]), sys.argv[2]
key = sys.argv[3].removeprefix("whpk_") if len(sys.argv) > 3 else None
public_key = Ed25519PublicKey.from_public_bytes(base64.b64decode(key)) if key else None


def verify_v1(body, headers):
    try:
        Webhook(secret).verify(body, headers)
        return None
    except WebhookVerificationError as error:
        return f"v1: {error}"


def verify_v1a(body, headers):
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    signatures = [part[4:] for part in headers["webhook-signature"].split() if part.startswith("v1a,")]
    for signature in signatures:
        try:
            public_key.verify(base64.b64decode(signature), signed)
            return None
        except InvalidSignature:
            pass
    return f"v1a: none of {len(signatures)} signatures is right"


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        try:
            error = verify_v1(body, headers) or (verify_v1a(body, headers) if public_key else None)
        except Exception as broken:  # a missing header, a malformed one
            error = f"{type(broken).__name__}: {broken}"
        line = {"headers": headers, "body": base64.b64encode(body).decode(), "error": error}
        with printing:  # requests are answered side by side, and a line must stay whole
            print(json.dumps(line), flush=True)
        self.send_response(401 if error else 204)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    # Five connections wait by default. The kernel lets a further one believe that it is open, and the receiver reads its
    # request when the attempt was given up long ago.
    request_queue_size = 128


server = Server(("127.0.0.1", port), Receiver)
print(json.dumps({"listening": port}), flush=True)
server.serve_forever()
