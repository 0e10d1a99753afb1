"""An OpenAI-compatible server for the tests, in a process of its own: `python tests/server.py BASE`
prints its port, then serves the GPT in the folder BASE to whoever asks for the model "base".

    /v1/...                   answers, as well as it can
    /FAULT/N/v1/...           N requests go wrong, later ones are answered
    /say/v1/...               the last message (or the prompt) is the answer
    GET /seen                 every POST so far: [path, Authorization, body]
"""

import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

ERRORS = {  # fault -> status, headers, body
    "429": (429, {"Retry-After": "7"}, {"error": {"message": "slow down"}}),
    "429now": (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}),
    "429hours": (429, {"Retry-After": "7200"}, {"error": {"message": "come back later"}}),
    "quota": (429, {}, {"error": {"message": "no credit", "code": "insufficient_quota"}}),
    "500": (500, {}, "<html>\x1b[31moh\nno</html>"),
    "503": (503, {"Retry-After": "soon"}, {"error": "loading"}),
    "404": (404, {}, {"error": {"message": "the model `base` does not exist", "code": "gone"}}),
    "302": (302, {"Location": "/say/v1/completions"}, {}),
    "context": (400, {}, {"error": {"message": "maximum context length is 9 tokens"}}),
    "notjson": (200, {}, "{'choices': "),
    "deep": (200, {}, "[" * 200_000),
    "list": (200, {}, []),
    "empty": (200, {}, {"choices": []}),
    "error200": (200, {}, {"error": {"message": "upstream"}}),
    "number": (200, {}, {"choices": [{"text": 7, "message": {"content": [7]}}]}),
    "huge": (200, {}, {"choices": [{"text": "x" * (9 << 20)}]}),
}

class Handler(BaseHTTPRequestHandler):
    seen: list = []
    failed: Counter = Counter()
    lock = threading.Lock()

    def do_GET(self):
        self.send(200, {}, self.seen)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers.get("Authorization", "")
        with self.lock:
            self.seen.append([self.path, key, body])
        fault, times = (self.path.split("/") + ["", ""])[1:3]
        if fault == "v1":
            return self.play(body)
        if fault == "say":
            said = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
            return self.answer(said.replace("KEY", key))
        with self.lock:
            self.failed[self.path] += 1
            over = self.failed[self.path] > int(times)
        if over:
            return self.answer("fine")
        if fault in ERRORS:
            return self.send(*ERRORS[fault])
        getattr(self, fault)(body, key)

    # ---- Faults that are more than an answer.

    def half(self, body, key):
        self.send(200, {"Content-Length": "500"}, {"choices": [{"text": "half"}]})

    def chunk(self, body, key):
        self.send(200, {"Transfer-Encoding": "chunked", "Content-Length": ""}, "ff\r\n{")

    def drop(self, body, key):
        self.connection.close()

    def hang(self, body, key):
        time.sleep(3)

    def drip(self, body, key):
        self.send(200, {"Content-Length": "500"}, "")
        try:
            for _ in range(30):
                self.wfile.write(b" ")
                time.sleep(0.1)
        except OSError:
            pass  # the client has had enough

    def key(self, body, key):
        self.send(401, {}, {"error": {"message": f"wrong key: {key}"}})

    def fields(self, body, key):
        for field in ("seed", "max_tokens"):
            if field in body:
                message = f"unsupported parameter: '{field}'"
                return self.send(400, {}, {"error": {"message": message}})
        self.answer(json.dumps(sorted(body)))

    # ---- Answers.

    def play(self, body):
        """What the GPT goes on with, up to a line's end."""
        if body["model"] != "base":
            message = f"model {body['model']!r} does not exist"
            return self.send(404, {}, {"error": {"message": message, "code": "model_not_found"}})
        prompt = body.get("prompt") or "\n".join(m["content"] for m in body["messages"])
        with self.lock:
            model, coder = load()
            ids = coder.encode(prompt)
            if len(ids) + body["max_tokens"] > model.config.max_position_embeddings:
                return self.send(*ERRORS["context"])
            self.answer(*complete(model, coder, ids, body), len(ids))

    def answer(self, text: str, written: int = 1, read: int = 1):
        usage = {"prompt_tokens": read, "completion_tokens": written}
        usage["total_tokens"] = read + written
        message = {"role": "assistant", "content": text}
        self.send(200, {}, {"choices": [{"text": text, "message": message}], "usage": usage})

    def send(self, status, headers, body):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            pass  # the client has had enough

    def log_message(self, *args):
        pass

loaded: list = []

def load():
    """The model and its tokenizer, on first use: the faults need neither."""
    if not loaded:
        import torch

        from retro import tokenizer
        from retro.model import GPT

        torch.set_num_threads(1)
        loaded.extend((GPT.from_pretrained(sys.argv[1]), tokenizer.load(sys.argv[1])))
    return loaded

def complete(model, coder, ids, body) -> tuple[str, int]:
    from retro.language_model import generate
    from retro.run.device import seeded

    out = generate(model, [ids], body["max_tokens"], tuple(coder.encode("\n")),
                   body["temperature"], seeded(body.get("seed")))  # fmt: skip
    written = out.response_ids[0]
    return coder.decode(written).removesuffix("\n"), len(written)

if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
