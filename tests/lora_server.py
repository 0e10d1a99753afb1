"""A server that does what vLLM does for `--sampler`, with a GPT of ours behind it: adapters by
name, prompts as ids or text, answers with ids and log-probabilities. A thread of the test.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from retro import tokenizer
from retro.language_model import generate
from retro.lora import load_adapter, using
from retro.model import GPT
from retro.run.device import seeded

class LoraServer(ThreadingHTTPServer):
    """`old`: what it does not do: "ids" (prompts as ids), "token_ids" (answers as ids), "names"
    (`token_id:7` either), "lora" (adapters at run time). `change`: answer -> the answer that
    is sent.
    """

    daemon_threads = True

    def __init__(self, base, *, old=(), change=lambda answer: answer, dtype=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokenizer, self.old, self.change = tokenizer.load(base), set(old), change
        self.model = GPT.from_pretrained(base, dtype=dtype)
        self.loaded, self.seen, self.lock = [], [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.path.removeprefix("/v1/").partition("?")[0]
        with self.server.lock, torch.no_grad():
            self.server.seen.append((name, self.headers.get("Authorization"), body))
            if name != "completions" and "lora" in self.server.old:
                return self.send(404, {"detail": "Not Found"})
            getattr(self, name)(body)

    def load_lora_adapter(self, body):
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.server.loaded:
            return self.error(400, f"The lora adapter '{name}' has already been loaded.")
        if not path.is_absolute() or not path.is_dir():
            return self.error(404, f"Loading lora {name} failed: No adapter found for {path}")
        load_adapter(self.server.model, path, name)
        self.server.loaded.append(name)
        self.send(200, f"Success: LoRA adapter '{name}' added successfully.")

    def unload_lora_adapter(self, body):
        if body["lora_name"] not in self.server.loaded:
            return self.error(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        self.server.loaded.remove(body["lora_name"])
        self.send(200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully.")

    def completions(self, body):
        server, coder = self.server, self.server.tokenizer
        if body["model"] not in server.loaded:
            return self.error(404, f"The model `{body['model']}` does not exist.")
        prompt = body["prompt"]
        if isinstance(prompt, list) and "ids" in server.old:
            return self.error(400, "prompt: Input should be a valid string")
        ids = coder.encode(prompt) if isinstance(prompt, str) else prompt
        stops = body["stop_token_ids"]
        with using(server.model, body["model"]):  # on the whole prompt
            out = generate(server.model, [ids], body["max_tokens"], tuple(stops),
                           body["temperature"], seeded(body["seed"]))  # fmt: skip
        (written,), logprobs = out.response_ids, out.logprobs[0].tolist()
        stopped = written[-1] in stops
        text = coder.decode(written[: len(written) - stopped])  # vLLM leaves a stop token out here
        shown = [f"token_id:{i}" if body["return_tokens_as_token_ids"] and "names" not in server.old
                 else coder.decode([i]) for i in written]  # fmt: skip
        choice = {"index": 0, "text": text, "finish_reason": "stop" if stopped else "length",
                  "logprobs": {"tokens": shown, "token_logprobs": logprobs}}  # fmt: skip
        if body["return_token_ids"] and "token_ids" not in server.old:
            choice |= {"token_ids": written, "prompt_token_ids": ids}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(written)}
        self.send(200, server.change({"choices": [choice], "usage": usage}))

    def error(self, status, message):
        self.send(status, {"error": {"message": message, "type": "BadRequestError",
                                     "code": status}})  # fmt: skip

    def send(self, status, body):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass
