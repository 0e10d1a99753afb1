"""Pretraining: documents read as they will be used, batches lose nothing, a killed run goes on the
same.
"""

import random
import re
import subprocess
import sys
from functools import partial
from itertools import islice

import pytest
import torch

import envs
from retro import prompts, tokenizer
from retro.model import GPT, GPTConfig
from retro.pretrain import bpe, corpus
from retro.pretrain.__main__ import Config, Training, learning_rate, main, step
from retro.pretrain.corpus import Document, batches, shard_documents, to_document, weighted_texts
from retro.pretrain.first_weights import grow_vocabulary, head_start
from retro.pretrain.reader import Reader

def demonstrations(n=30):
    return list(islice(envs.make("household").demonstrations("train", "t", 0.5), n))

def test_documents_contain_the_prompts_of_actor_and_reflector():
    for d in demonstrations():
        text = "".join(text for text, _ in weighted_texts(d, random.Random(0)))
        assert text.startswith(prompts.transcript(d.observation, d.reflections, d.steps))
        if d.reflection is not None:
            assert f"{prompts.reflection_request(d.progress)} {d.reflection}\n" in text
        for question, answer in d.questions:
            assert f"{prompts.question(question)} {answer}\n" in text

def test_reflection_often_stands_right_behind_the_transcript():
    """As it will at run time: in half of the documents at least (binomial, 60 draws; fails 1 in
    10^4).
    """
    failed = [d for d in demonstrations(120) if d.reflection is not None]
    right_behind = 0
    for i, d in enumerate(failed):
        text = "".join(text for text, _ in weighted_texts(d, random.Random(i)))
        right_behind += text[
            len(prompts.transcript(d.observation, d.reflections, d.steps)) :
        ].startswith("\nFailed")
    assert right_behind / len(failed) > 0.3, right_behind / len(failed)

def test_bound_tokens_are_mentions_and_name_the_place(tiny_base):
    """The reading loss asks only for what the text before a mention says."""
    coder, env = tokenizer.load(tiny_base), envs.make("household")
    for d in demonstrations():
        document = to_document(weighted_texts(d, random.Random(0)), env, coder)
        text = coder.decode(document.ids[:-1])
        assert len(document.ids) == len(document.loss_weights) == len(document.binding_targets)
        mentions = env.bindings(text)
        assert mentions, text
        room, task, _ = text.partition("Your task")
        room = re.findall(r"\ba (\w+ \d+)", room) if task else []  # a drill has no task
        for thing, end, place, later in mentions:
            assert text[:end].endswith(thing)
            if thing in room:
                step = 1 if later else -1
                assert place == room[(room.index(thing) + step) % len(room)], (thing, place)
                continue
            view = re.search(rf"\b{place}\b[^\n]*, you see [^\n]*\ba {thing}\b", text[: end + 1])
            assert view, (thing, place, text[:end])
            assert later == (len(re.findall(rf"\b{thing}\b", text[view.end() - 1 : end])) > 0)
        names = {tuple(coder.encode(f" {place}")[i] for i in (0, -1)) for *_, place, _ in mentions}
        assert {(first, last) for first, last, sight in document.binding_targets if sight} == names
        things = {thing for thing, *_ in mentions if thing not in room}
        firsts = len(things) + max(len(room) - 1, 0)
        assert sum(sight == 1 for *_, sight in document.binding_targets) == 2 * firsts

def test_shards_are_a_function_of_their_number(tiny_base, monkeypatch):
    monkeypatch.setattr(corpus, "DOCUMENTS", 16)
    shard = partial(shard_documents, ("household",), str(tiny_base), 0, 0.3, 0.8)
    assert shard(3) == shard(3) != shard(4)

def test_batches_hold_every_document_that_fits_once():
    rng = random.Random(0)
    lengths = [rng.randint(5, 400) for _ in range(50)]
    documents = [Document([i] * n, [1] * n, [(i, i, 1)] * n) for i, n in enumerate(lengths, 1)]
    seen = {}
    for ids, weights, targets in batches(documents, 2000, 300, random.Random(1)):
        assert ids.numel() <= 2000 or len(ids) == 1
        for row, predicted, names in zip(ids.tolist(), weights.tolist(), targets.tolist()):
            seen[row[0]] = (row.count(row[0]), sum(predicted))
            assert sum(name == [row[0], row[0], 1] for name in names) == row.count(row[0])
    fitting = {i: (n, n) for i, n in enumerate(lengths, 1) if n <= 300}
    assert seen == fitting

@torch.no_grad()
def copied(model: GPT, ids: torch.Tensor) -> float:
    """Of ids that come twice in a row, the share of second ones that the model foresees; the token
    just read does not count as a guess."""
    logits = model(torch.cat((ids, ids))[None])[0, len(ids) : -1]
    logits.scatter_(1, ids[:-1, None], -torch.inf)
    return (logits.argmax(-1) == ids[1:]).float().mean().item()

@pytest.mark.parametrize("seed", range(3))
def test_first_weights_copy_random_text(seed):
    config, generator = Config(), torch.Generator().manual_seed(seed)
    shape = (config.width, config.mlp_width, config.layers, config.heads, config.heads)
    model = GPT(GPTConfig(config.vocab_size, *shape, 2048, config.rope_theta), generator)
    ids = torch.randperm(config.vocab_size, generator=generator)[:200]
    assert copied(model, ids) < 0.05
    head_start(model, generator)
    assert copied(model, ids) > 0.8

def test_a_step_of_pretraining_on_nan_is_not_taken(monkeypatch):
    model = GPT(GPTConfig(300, 48, 32, 2, 3, 3, 64), torch.Generator().manual_seed(0))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    ids = torch.randint(0, 300, (1, 32), generator=torch.Generator().manual_seed(0))
    weights = (torch.arange(32) > 0).float()[None]
    batch = ids, weights, torch.zeros(1, 32, 3, dtype=torch.long)
    optimizers = [torch.optim.SGD(model.parameters(), lr=1.0)] * 2
    own = Training(model, Reader(model), optimizers, dict(tokens=0, steps=0), None, 0)
    loss = Reader.loss
    monkeypatch.setattr(Reader, "loss", lambda *args: loss(*args) * float("nan"))
    with pytest.raises(FloatingPointError, match="step 0 not taken"):
        step(Config(), own, batch)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    monkeypatch.undo()
    model.zero_grad()
    step(Config(), own, batch)
    assert own.state == dict(tokens=32, steps=1)

def test_head_start_says_what_shape_it_needs():
    model = GPT(GPTConfig(50, 32, 32, 2, 2, 1))
    with pytest.raises(ValueError, match="heads 2, kv_heads 1"):
        head_start(model, torch.Generator())

def test_learning_rate_in_three_cases():
    assert learning_rate(0.01, 0.02, 0.4) == pytest.approx(0.5)
    assert learning_rate(0.3, 0.02, 0.4) == 1
    assert (
        learning_rate(0.8, 0.02, 0.4) == pytest.approx(0.5) and learning_rate(1.0, 0.02, 0.4) == 0
    )

@pytest.mark.slow
def test_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    """Killed in the middle, then resumed from the checkpoint: the same weights, bit for bit."""
    import retro.pretrain.__main__ as module

    monkeypatch.setattr(corpus, "DOCUMENTS", 4)
    monkeypatch.setattr(module, "TOKENIZER_DOCUMENTS", 40)
    monkeypatch.setattr(module, "write_card", lambda *args: None)
    small = dict(
        envs="household",
        tokens=12000,
        batch_tokens=2048,
        vocab_size=400,
        width=48,
        layers=2,
        heads=3,
        mlp_width=32,
        checkpoint_minutes=0.0,
    )
    main(Config(out=str(tmp_path / "whole"), **small))

    saves, save = [], module.checkpoint.save

    def kill_at_second_save(*args):
        save(*args)
        saves.append(1)
        if len(saves) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.checkpoint, "save", kill_at_second_save)
    with pytest.raises(KeyboardInterrupt):
        main(Config(out=str(tmp_path / "cut"), **small))
    main(Config(out=str(tmp_path / "cut"), **small))
    whole, cut = (GPT.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert tokenizer.load(tmp_path / "cut").encode("go to bed 1")
    state = (tmp_path / "cut" / "pretrain.state").read_bytes()
    for name in ("tokenizer.tiktoken", "tokenizer_config.json"):
        good = (tmp_path / "cut" / name).read_bytes()
        other = tmp_path / "other"
        bpe.train(["another text"] * 9, 270).save(other)
        (tmp_path / "cut" / name).write_bytes(good + b"\n" if "json" in name
                                              else (other / name).read_bytes())  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}: is not what the run began with|the ids are"):
            main(Config(out=str(tmp_path / "cut"), **small))
        (tmp_path / "cut" / name).write_bytes(good)
    main(Config(out=str(tmp_path / "cut"), **small))  # once more: it has ended
    assert (tmp_path / "cut" / "pretrain.state").read_bytes() == state

    more = small | {"start": str(tmp_path / "whole"), "vocab_size": 500}
    main(Config(out=str(tmp_path / "more"), **more))  # and another begins with its weights
    assert tokenizer.load(tmp_path / "more").vocab_size == 500
    assert GPT.from_pretrained(tmp_path / "more").config.vocab_size == 500

def test_a_context_that_no_document_fits_is_one_line(tmp_path, monkeypatch):
    import retro.pretrain.__main__ as module

    monkeypatch.setattr(corpus, "DOCUMENTS", 4)
    monkeypatch.setattr(module, "TOKENIZER_DOCUMENTS", 40)
    small = dict(envs="hotpot", vocab_size=300, width=48, layers=2, heads=3, mlp_width=32)
    with pytest.raises(ValueError, match="--context 256: the documents of shard 0 are all longer"):
        main(Config(out=str(tmp_path), context=256, **small))

def test_a_grown_base_says_the_same_of_old_tokens(shipped):
    """New tokens come behind the old ones; no old id, weight or logit changes."""
    model, old = shipped.model, shipped.tokenizer
    new = bpe.train(["zoo zebra zoo zebra é é"], old.vocab_size + 5, start=old)
    assert new.vocab_size == old.vocab_size + 5 and old.ranks.items() <= new.ranks.items()
    assert len(new.encode("zoo zebra")) < len(old.encode("zoo zebra"))
    ids = torch.tensor([old.encode("go to bed 1, and more \x00")])
    with torch.no_grad():
        before, after = model.float()(ids), grow_vocabulary(model, old, new)(ids)
    assert torch.equal(before[..., : old.eos], after[..., : old.eos])
    assert torch.equal(before[..., old.eos], after[..., new.eos])

def test_a_folder_with_a_model_or_a_run_is_left_alone(tiny_base, tmp_path):
    """The default folder is none that ships a base; and one run at a time."""
    assert Config().out != "assets"
    before = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
    with pytest.raises(ValueError, match=f"--out {tiny_base}: holds a model or a run .* .config"):
        main(Config(out=str(tiny_base), envs="hotpot", tokens=1))
    assert {path.name: path.read_bytes() for path in tiny_base.iterdir()} == before
    for name in ("checkpoint", "model-00001-of-00002.safetensors", "replay.jsonl", "config.json"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / name).touch()
        with pytest.raises(ValueError, match=f"run: holds a model or a run already .{name} is"):
            main(Config(out=str(tmp_path / "run"), envs="hotpot", tokens=1))
        (tmp_path / "run" / name).unlink()
        (tmp_path / "run").rmdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert held.stdout.read(1) == b"x"
    with pytest.raises(ValueError, match=f"{tmp_path}: process {held.pid} is running here"):
        main(Config(out=str(tmp_path), envs="hotpot", tokens=1))
    held.communicate(b"")

HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print(os.getpid(), file=file, flush=True)
print("x", end="", flush=True)
sys.stdin.read()
"""
