"""For tests of what speaks to an endpoint: a client of tests/server.py, an actor through it."""

import json
import urllib.request

import torch

from retro.interop.api_actor import APIActor
from retro.interop.endpoint import Budget, Client

KEY = "sk-test-0123456789"

def seen(url) -> list:
    with urllib.request.urlopen(f"{url}/seen") as answer:
        return json.load(answer)

def client(url, tmp_path, path="/v1", api="completions", model="base", **settings) -> Client:
    settings = {"budget": Budget(), "timeout": 30.0, "tries": 3} | settings
    return Client(url + path, model, api, cache=tmp_path / "answers", **settings)

def ask(c: Client, *prompts: str, seed=None) -> list:
    if c.api == "chat":
        prompts = [[{"role": "user", "content": prompt}] * 2 for prompt in prompts]
    return [answer.text for answer in c.ask(prompts, 8, 0.0, [seed] * len(prompts))]

def actor_of(c, temperature=0.0, names=("household",), **settings) -> APIActor:
    return APIActor(c, names, temperature, torch.Generator().manual_seed(0), **settings)
