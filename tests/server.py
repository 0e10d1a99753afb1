"""An OpenAI-compatible server for the tests, in a process of its own: `python tests/server.py BASE`
prints its port, then serves the GPT in the folder BASE to whoever asks for the model "base".

    /v1/...                   answers, as well as it can
    /FAULT/N/v1/...           N requests go wrong, later ones are answered
    /say/v1/...               the last message (or the prompt) is the answer
    /odd/N/NAME/v1/...        N requests are answered well, later ones as ODD or a fault has it
    GET /seen                 every POST so far: [path, Authorization, body]
"""

import gzip
import json
import socket
import struct
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

def message(content, finish="stop", **more):
    """A chat's answer; content ... is left out."""
    own = more if content is ... else {"content": content, **more}
    return {"choices": [{"message": {"role": "assistant", **own}, "finish_reason": finish}],
            "usage": {"total_tokens": 2}}  # fmt: skip

def refusal(text, status=400, **more):
    return status, {}, {"error": {"message": text, **more}}

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ACTION = "Action: look"
HARMONY = "<|channel|>analysis<|message|>Action: think<|end|><|start|>assistant<|channel|>final"
ODD = {  # name -> an answer with status 200, or status, headers, body
    # Usual shapes: the trial is played.
    "think": message(f"<think>Action: no</think>\n\n{ACTION}"),
    "lone_think": message(f"Action: no\n</think>\n\n{ACTION}"),
    "prefixed_think": message(f"<seed:think>Action: no</seed:think>{ACTION}"),
    "harmony": message(f"{HARMONY}<|message|>{ACTION}<|return|>"),
    "end_token": message(f"{ACTION}<|im_end|>\n<|im_start|>user\nAction: no"),
    "start_token": message(f"<|start_header_id|>assistant<|end_header_id|>\n\n{ACTION}<|eot_id|>"),
    "sentence_token": message(f"{ACTION}<｜end▁of▁sentence｜>"),
    "parts": message([{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]},
                      {"type": "text", "text": ACTION}]),
    "reasoning": message(ACTION, reasoning_content="Action: no"),
    "legacy": {"choices": [{"text": ACTION, "finish_reason": None}]},
    "null_part": message([{"type": None, "text": ACTION}]),
    "value_part": message([{"type": "text", "text": {"value": ACTION, "annotations": []}}]),
    "cut_late": message(f"{ACTION}\nObservation: You", "length"),
    "null_error": message(ACTION) | {"error": None},
    "bom": (200, {}, "\ufeff" + json.dumps(message(ACTION))),
    "usage": (200, {}, json.dumps(message(ACTION)).replace("2}", "NaN}")),
    "http10": (200, {"Content-Length": ""}, message(ACTION)),
    "key_inside": message(f"Thought: KEY\n{ACTION}"),
    "key_hidden": message(f"Thought: HIDDEN\n{ACTION}"),
    # Nothing is answered, or half an answer.
    "null": message(None, "length", reasoning_content="The user"),
    "absent": message(...),
    "no_message": {"choices": [{"index": 0, "finish_reason": "content_filter"}]},
    "null_message": {"choices": [{"message": None, "finish_reason": "stop"}]},
    "blank": message(" \n\t "),
    "no_parts": message([]),
    "refusal": message(None, refusal="I can't"),
    "tool_calls": message(None, "tool_calls", tool_calls=[{"id": "a"}]),
    "filter": message("Action: lo", "content_filter"),
    "cut_think": message("<think>I should", "length"),
    "cut_thought": message("The user wants me to", "length"),
    "cut_action": message("Thought: so.\nAction: loo", "max_tokens"),
    "cut_plain": message("Okay, so I need a mug.\nLet me look.\nThe shelves", "length"),
    "cut_next": message("Sure, my next step:\nAction: loo", "length"),
    "incomplete": message("Thought: I sh", "incomplete"),
    "truncated": message("Thought: I should\nget", "truncated"),
    "prohibited": message("Action: lo", "PROHIBITED_CONTENT"),
    "spii": message("Action: lo", "SPII"),
    "used_up": refusal("Could not finish the message because max_tokens or model output limit was "
                       "reached. Please try again with higher max_tokens."),
    "azure": refusal("The response was filtered due to the prompt triggering Azure OpenAI's "
                     "content management policy.", param="prompt", code="content_filter"),
    "only_end": message("<|im_end|>"),
    "key_ends": message(None, "KEY"),
    # Failures inside a 200.
    "ends_error": message("Action: loo", "error"),
    "ends_abort": message("Action: loo", "abort"),
    "choice_error": {"choices": [{"error": {"code": 502, "message": "up"}, "message": None}]},
    "late_error": message("") | {"error": {"message": "overloaded", "code": 503}},
    "error_401": {"error": {"code": 401, "message": "no such key: KEY"}},
    "error_code": {"error": {"code": "context_length_exceeded", "message": "no"}},
    "error_raw": {"error": {"code": 400, "message": "Provider returned error",
                            "metadata": {"raw": '{"message": "prompt is too long: 9 > 8"}'}}},
    # A context that is full.
    "base_resp": {"choices": None, "base_resp": {"status_code": 2013, "status_msg":
                  "invalid params, context window exceeds limit (2013)"}},
    "object": {"object": "error", "message": "This model's maximum context length is 8 tokens."},
    "no_choices": {"choices": [], "detail": "maximum context length is 8 tokens"},
    "negative_tokens": refusal("max_tokens must be at least 1, got -234."),
    "code": refusal("no", code="context_length_exceeded"),
    "llama": refusal("Context size has been exceeded.", 500, code=500, type="server_error"),
    "413": (413, {}, "<html>Request Entity Too Large</html>"),
    "tgi": (422, {}, {"error": "`inputs` tokens + `max_new_tokens` must be <= 9. Given: 10"}),
    "gemini": (400, {}, [{"error": {"message": "The input token count (9) exceeds the maximum"}}]),
    "window": message(None, "model_context_window_exceeded"),
    # Settings and roles.
    "temperature": refusal("Unsupported value: 'temperature' does not support 0 with this model"),
    "stop": refusal("Unsupported parameter", param="stop"),
    "stop_500": refusal("Unsupported param: stop", 500),
    "tokens": (422, {}, {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"],
                                     "msg": "Extra inputs are not permitted"}]}),
    "tokens_2": refusal("Unknown name \"max_completion_tokens\": Cannot find field."),
    "system": refusal("System role not supported"),
    "alternate": refusal("Conversation roles must alternate user/assistant/user/...", 500),
    "unrelated": refusal("Please stop sending images: unsupported content"),
    # Refused for good.
    "403": refusal("no KEY for you", 403),
    "key_escaped": refusal("wrong key: HIDDEN", 401),
    "key_cut": refusal("x" * 294 + "KEY", 401),
    "418": (418, {}, ""),
    # No answer that can be read.
    "204": (204, {}, ""),
    "sse": (200, {"Content-Type": "text/event-stream"}, "data: {}\n\ndata: [DONE]\n\n"),
    "twice": (200, {}, json.dumps(message(ACTION)) * 2),
    "negative": (200, {"Content-Length": "-5"}, "{"),
    "long_header": (200, {"X": "y" * 70_000}, {}),
    "many_headers": (200, {f"X{i}": "y" for i in range(200)}, {}),
    "detail": (200, {}, {"detail": "Not Found"}),
}

# What a request must not have, to be answered.
NEEDLESS = {"temperature": "temperature", "stop": "stop", "stop_500": "stop",
            "tokens": "max_tokens", "tokens_2": "max_completion_tokens", "system": "system",
            "alternate": "system"}

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
        if fault == "odd":
            return self.odd(self.path.split("/")[3], body, key) if over else self.answer(ACTION)
        if over:
            return self.answer("fine")
        self.fail(fault, body, key)

    def fail(self, fault, body, key):
        if fault in ERRORS:
            return self.send(*ERRORS[fault])
        getattr(self, fault)(body, key)

    def odd(self, name, body, key):
        if name == "tokens_2" and "max_tokens" in body:
            name = "tokens"
        if name in NEEDLESS and not self.has(body, NEEDLESS[name]):
            return self.answer(ACTION)
        if name not in ODD:
            return self.fail(name, body, key)
        answer = ODD[name] if isinstance(ODD[name], tuple) else (200, {}, ODD[name])
        secret = key.removeprefix("Bearer ")
        hidden = f"{secret[:4]}\x1b[31m{secret[4:9]}\u200b{secret[9:]}"
        text = answer[2] if isinstance(answer[2], str) else json.dumps(answer[2])
        text = text.replace("KEY", secret).replace("HIDDEN", json.dumps(hidden)[1:-1])
        answer = (*answer[:2], text)
        self.send(*answer)

    def has(self, body, field) -> bool:
        return field in body or field == "system" and body["messages"][0]["role"] == "system"

    # ---- Faults that are more than an answer.

    def raw(self, data: bytes, again: bytes = b"", pause: float = 0.02):
        """Bytes as they are, then others again and again, for three seconds."""
        end = time.monotonic() + 3
        self.close_connection = True
        try:
            self.wfile.write(data)
            while again and time.monotonic() < end:
                self.wfile.write(again)
                time.sleep(pause)
        except OSError:
            pass  # the client has had enough

    def drip_status(self, body, key):
        self.raw(b"HTTP/1.1 2", b"0")

    def drip_header(self, body, key):
        self.raw(b"HTTP/1.1 200 OK\r\nX: y", b"y")

    def drip_headers(self, body, key):
        self.raw(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.1)

    def drip_continue(self, body, key):
        self.raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n")

    def flood_continue(self, body, key):
        self.raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0)

    def drip_size(self, body, key):
        self.raw(CHUNKED, b"0")

    def drip_chunks(self, body, key):
        self.raw(CHUNKED, b"1\r\n \r\n")

    def drip_trailers(self, body, key):
        self.raw(CHUNKED + b"0\r\n", b"X: y\r\n")

    def drip_error(self, body, key):
        self.raw(b"HTTP/1.1 500 Oh\r\nContent-Length: 9999\r\n\r\n", b" ")

    def flood(self, body, key):
        self.raw(b"HTTP/1.1 200 OK\r\n\r\n", b" " * (1 << 20), 0)

    def garbage(self, body, key):
        self.raw(b"\x16\x03\x01\x00 hello\n")

    def bad_size(self, body, key):
        self.raw(CHUNKED + b"-5\r\n{}\r\n0\r\n\r\n")

    def reset(self, body, key):
        self.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def zipped(self, body, key):
        data = gzip.compress(json.dumps(message(ACTION)).encode())
        self.raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + data)

    def slow_chunks(self, body, key):
        """Slow, and in time."""
        self.raw(b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED)
        data = json.dumps(message(ACTION)).encode()
        for part in (data[:9], data[9:]):
            self.raw(b"%x\r\n%b\r\n" % (len(part), part))
            time.sleep(0.02)
        self.raw(b"0\r\n\r\n")

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
