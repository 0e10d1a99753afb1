"""Every door and parser against hostile input (hypothesis): a value or the documented ValueError,
within seconds, within a gigabyte. The fast run tries a few inputs of each, the slow one 10,000.
"""

import io
import json
import time
import urllib.error
from email.message import Message
from threading import Event

import pytest
from test_hotpot import ITEM
from test_household_games import GRAMMAR, PLAIN_GOAL, PROBLEM
from test_shop_files import ATTRIBUTES, HUMAN, PRODUCTS

import envs
from envs.household import load_game
from retro import tokenizer
from retro.interop import api_actor, post
from retro.interop.endpoint import Budget, Client
from retro.lora import add_lora, load_adapter, save_adapter
from retro.memory import FIELDS, replay_buffer
from retro.model import GPT, GPTConfig
from retro.pretrain import bpe
from retro.run import checkpoint
from retro.run.model_files import read_checkpoint, read_tensors
from retro.run.tokenizer_json import as_tokenizer_json
from tests.hostile import DEEP, broken, broken_bytes, fuzz, st, told, with_reason

def play(env, task, actions) -> None:
    observation, info = env.reset(task)
    for action in [*actions, *env.admissible_actions()[:2]]:
        observation, reward, terminated, truncated, info = env.step(action)
        assert isinstance(observation, str) and 0 <= reward <= 1 and 0 <= info["progress"] <= 1
        assert {type(terminated), type(truncated), type(info["success"])} == {bool}

# ---- The doors: a strategy, and what is done with its values in a folder

def household(folder):
    env = envs.make("household")
    task = env.tasks("train", 1, 0)[0]
    names = [*task["receptacles"], *task["objects"]]
    pieces = ["go to", "take", "from", "put", "in/on", "open", "use", "heat", "with", *names]
    return st.lists(told(*pieces), max_size=8), lambda actions: play(env, task, actions)

def hotpot(folder):
    env, task = envs.make("hotpot"), envs.make("hotpot").tasks("train", 1, 0)[0]
    pieces = ["Search[", "Lookup[", "Finish[", "think[", "]", "yes", "the", ITEM["answer"], "\n"]
    return st.lists(told(*pieces), max_size=8), lambda actions: play(env, task, actions)

def shop(folder):
    env, task = envs.make("shop"), envs.make("shop").tasks("train", 1, 0)[0]
    product = task["products"][0]
    pieces = ["search[", "click[", "think[", "]", "Buy Now", "< Prev", "Next >", "Back to Search",
              product["asin"], product["Title"], "Description"]  # fmt: skip
    return st.lists(told(*pieces), max_size=8), lambda actions: play(env, task, actions)

def game_file(folder):
    game = {"grammar": GRAMMAR, "pddl_problem": PROBLEM % PLAIN_GOAL}
    path = folder / "game.tw-pddl"

    def read(files):
        path.write_bytes(files[0])
        play(envs.make("household"), load_game(path), ["go to shelf 1", "take mug 1 from shelf 1"])

    return broken(game), read

def hotpot_file(folder):
    path = folder / "hotpot.json"

    def read(files):
        path.write_bytes(files[0])
        env = envs.make("hotpot", data=path)
        for task in env.tasks("seen", 2, 0):
            play(env, task, ["Search[Ravenmund]", "Lookup[oak]", "Search[x]", "Finish[the Oak]"])

    return broken([ITEM, ITEM]), read

def shop_files(folder):
    paths = [folder / name for name in ("products", "goals", "attributes")]

    def read(files):
        for path, data in zip(paths, files):
            path.write_bytes(data)
        env = envs.make("shop", products=paths[0], goals=paths[1], attributes=paths[2])
        for task in env.tasks("seen", 2, 0):
            asin = task["goal"]["asin"]
            clicks = [f"click[{button}]" for button in (asin, "red", "Features", "< Prev")]
            play(env, task, ["search[velvet lamp]", *clicks, "click[Buy Now]"])

    goals = st.sampled_from([HUMAN, ATTRIBUTES])
    return goals.flatmap(lambda g: broken(PRODUCTS, g, ATTRIBUTES)), read

def small_tokenizer():
    return bpe.train(["go to drawer 1, then open the drawer 1"] * 3, 270)

def both_ways(coder) -> None:
    for text in ("go to drawer 1", "a'é漢🙂\n  12345"):
        assert isinstance(coder.decode(coder.encode(text)), str)

def tokenizer_json(folder):
    coder = small_tokenizer()
    good = as_tokenizer_json(coder.ranks, coder.pattern, coder.special_tokens)
    names = {"eos_token": tokenizer.EOS, "bos_token": None, "add_bos_token": False}

    def read(files):
        (folder / "tokenizer.json").write_bytes(files[0])
        (folder / "tokenizer_config.json").write_bytes(files[1])
        both_ways(tokenizer.load(folder))

    return broken(good, names), read

def own_tokenizer(folder):
    small_tokenizer().save(folder)
    ranks, names = folder / "tokenizer.tiktoken", folder / "tokenizer_config.json"

    def read(files):
        ranks.write_bytes(files[0][0])
        names.write_bytes(files[1][0])
        both_ways(tokenizer.load(folder))

    good = broken_bytes(ranks.read_bytes()), broken(json.loads(names.read_text()))
    return st.tuples(*good), read

def tiny_model():
    return GPT(GPTConfig(30, 8, 8, 1, 2, 1, 16))

def config_json(folder):
    tiny_model().save_pretrained(folder)
    path = folder / "config.json"
    more = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "attention_bias": False}

    def read(files):
        path.write_bytes(files[0])
        GPT.from_pretrained(folder)

    return broken(json.loads(path.read_text()) | more), read

def adapter_config(folder):
    model = tiny_model()
    add_lora(model, 2, 4.0)
    save_adapter(model, folder)
    path = folder / "adapter_config.json"

    def read(files):
        path.write_bytes(files[0])
        load_adapter(tiny_model(), folder)

    return broken(json.loads(path.read_text())), read

def safetensors(folder):
    model, path = tiny_model(), folder / "model.safetensors"
    model.save_pretrained(folder)
    state = {"updates": 1, "lines": {"replay": 0}}
    checkpoint.save(folder / "checkpoint", dict(model.named_parameters()), [], state)

    def read(files):
        path.write_bytes(files[0])
        (folder / "checkpoint").write_bytes(files[1])
        for door in (read_tensors, lambda _: GPT.from_pretrained(folder), checkpoint_of):
            with_reason(door, path)

    def checkpoint_of(_):
        checkpoint.load(folder / "checkpoint", dict(model.named_parameters()), [])

    return broken_bytes(path.read_bytes(), (folder / "checkpoint").read_bytes()), read

def shards(folder):
    tiny_model().save_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    path = folder / "model.safetensors.index.json"

    def read(files):
        path.write_bytes(files[0])
        read_checkpoint(folder)

    return broken({"weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}), read

def replay(folder):
    row = json.dumps(dict(zip(FIELDS, ("guess", "t", 0, "x\ny", "é", 0.5, 1.0, 0.5)))) + "\n"
    buffer, whole = replay_buffer(folder / "replay.jsonl"), row.encode()
    buffer.append([json.loads(row)])
    mark = buffer.mark
    lines = broken_bytes(row.encode() * 3).map(lambda files: files[0])

    def read(args):
        data, deep = args
        buffer.path.write_bytes(data + deep)
        with_reason(list, buffer)
        with_reason(buffer.restore, mark)
        assert data.startswith(whole) == (buffer.path.read_bytes() == whole)

    return st.tuples(lines, st.sampled_from([b"", *DEEP])), read

def reply(folder):
    pieces = ["Thought", "Action", "Observation", "Reflection", ":", "\n", "```", "<think>", ">",
              "</think>", "**", "[", "]", "\x1b[2J", "\x1b]0;", "\x07", "go to desk 1"]  # fmt: skip

    def read(args):
        before, piece, times, after = args
        text = before + piece * times + after
        for line in (*api_actor.read_reply(text), api_actor.read_reflection(text)):
            assert isinstance(line, str) and line.isprintable() and len(line) <= 1000

    times = st.sampled_from([1, 10_000])
    return st.tuples(told(*pieces), st.sampled_from(pieces), times, told(*pieces)), read

def endpoint_body(folder):
    """The bodies of a 200 and of an error, and an error's headers."""
    good = {"choices": [{"message": {"content": "x"}, "text": "y"}], "usage": {"total_tokens": 3}}
    failed = {"error": {"message": "context length", "code": "insufficient_quota"}}
    wait = told("7", "Wed, 21 Oct 2015 07:28:00 GMT", "-", "99999999", "+9999", ":", "Oct")
    status = st.sampled_from([300, 400, 401, 404, 429, 500, 599])

    def read(args):
        (body, error_body), status, wait, api = args
        client = Client("http://a/v1", "m", api, cache=str(folder), budget=Budget(), tries=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(post, "_once", lambda *args: body)
            fetch = lambda body: client._fetch(folder / "ab", body, Event(), bool)
            answer = with_reason(fetch, {"max_tokens": 1})
            assert answer is None or isinstance(answer.text, str | None)
        headers = Message()
        headers["Retry-After"] = wait
        error = urllib.error.HTTPError("u", status, "no", headers, io.BytesIO(error_body))
        error.length = len(error_body)
        assert isinstance(post._status(error), (post.Refused, post.Passing))

    apis = st.sampled_from(["chat", "completions"])
    return st.tuples(broken(good, failed), status, wait, apis), read

# ---- Sizes: what large files once took minutes for

def seconds(work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started

@pytest.mark.parametrize("title", ["a" * 200_000, "(," * 100_000, "&#" * 100_000, "a" * 301])
def test_a_title_of_any_length_is_refused_in_no_time(tmp_path, title):
    item = json.loads(json.dumps(ITEM))
    item["context"][0][0] = title
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps([item]))
    with pytest.raises(ValueError, match="more than 200 paragraphs, or a title of over 300"):
        envs.make("hotpot", data=path).tasks("seen", 1, 0)

def test_a_search_for_a_long_text_among_long_titles_takes_no_time(tmp_path):
    item = json.loads(json.dumps(ITEM))
    item["context"] += [["a" * 290 + str(i), ["It is."]] for i in range(30)]
    (tmp_path / "hotpot.json").write_text(json.dumps([item]))
    env = envs.make("hotpot", data=tmp_path / "hotpot.json")
    env.reset(env.tasks("seen", 1, 0)[0])
    assert seconds(lambda: env.step(f"Search[{'a' * 200_000}]")) < 3

def test_many_combinations_of_options_and_long_ones_are_refused(tmp_path):
    paths = {name: tmp_path / name for name in ("products", "attributes")}
    paths["attributes"].write_text(json.dumps(ATTRIBUTES))
    option = lambda text, n: [{"value": f"{text}{i}"} for i in range(n)]
    for options, message in (
        ({"size": option("s", 300), "color": option("c", 300)}, "more than 10000 combinations"),
        ({str(i): option("s", 2) for i in range(16)}, "more than 10000 combinations"),
        ({"size": option("s" * 200_000, 1)}, "sss... has 200001 characters, at most 500"),
    ):
        products = json.loads(json.dumps(PRODUCTS))
        products[0]["customization_options"] = options
        paths["products"].write_text(json.dumps(products))
        with pytest.raises(ValueError, match=message) as error:
            envs.make("shop", **paths)
        assert len(str(error.value)) < 500

def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    """Windows' editors write one."""
    game = {"grammar": GRAMMAR, "pddl_problem": PROBLEM % PLAIN_GOAL}
    files = {"game.tw-pddl": game, "hotpot": [ITEM], "products": PRODUCTS, "goals": HUMAN}
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value), encoding="utf-8-sig")
    assert load_game(tmp_path / "game.tw-pddl")["goal"]
    assert envs.make("hotpot", data=tmp_path / "hotpot").tasks("seen", 1, 0)
    shop = envs.make("shop", products=tmp_path / "products", goals=tmp_path / "goals")
    assert shop.tasks("seen", 1, 0)
    row = dict(zip(FIELDS, ("guess", "t", 0, "x", "y", 0.5, 1.0, 0.5)))
    (tmp_path / "b.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8-sig")
    assert list(replay_buffer(tmp_path / "b.jsonl")) == [row]

DOORS = [household, hotpot, shop, game_file, hotpot_file, shop_files, tokenizer_json,
         own_tokenizer, config_json, adapter_config, safetensors, shards, replay, reply,
         endpoint_body]  # fmt: skip

@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_hostile_input(door, tmp_path):
    fuzz(door, tmp_path, 10)

@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_hostile_input_at_length(door, tmp_path):
    fuzz(door, tmp_path, 10_000)
