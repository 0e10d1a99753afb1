"""Pretraining: documents read as they will be used, rows lose nothing, a killed run goes on the
same, by one process or two.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from itertools import islice, product

import pytest
import torch
from test_processes import linux
from trainer import Trainer

import envs
import retro.pretrain.__main__ as module
from retro import prompts, tokenizer
from retro.model import GPT, GPTConfig
from retro.pretrain import bpe, corpus
from retro.pretrain.__main__ import (
    Config,
    Training,
    learning_rate,
    losses_of,
    main,
    shards,
    step,
    written_ahead,
)
from retro.pretrain.corpus import (
    ACTION_WEIGHT,
    TURN_WEIGHT,
    UNBOUND,
    Document,
    deal,
    pack,
    part_documents,
    steps_of,
    to_document,
    weighted_texts,
    work,
)
from retro.pretrain.first_weights import grow_vocabulary, head_start
from retro.pretrain.packed import Packed, PackedAsRows
from retro.pretrain.reader import Reader
from retro.run import checkpoint
from retro.run.processes import ALONE, join, launch
from tests.tiny import tiny_gpt

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

def test_an_action_with_another_verb_than_the_last_one_weighs_more():
    weights = set()
    for d in demonstrations():
        acts = [pair for pair in weighted_texts(d, random.Random(0)) if pair[0].startswith("\n>")]
        assert [text for text, _ in acts] == [f"\n> {action}\n" for action, _ in d.steps]
        last = None
        for i, (text, weight) in enumerate(acts):
            verb = text.split()[1]
            turn = last not in (None, verb)
            assert weight == (0 if i in d.slips else TURN_WEIGHT if turn else ACTION_WEIGHT)
            weights.add(weight)
            last = verb
    assert weights == {0, 2, 6}

def test_a_request_may_go_on_to_the_cause(tiny_base):
    """`Reflection: Cause:` as one request has the ids that such a reflection begins with here."""
    encode = tokenizer.load(tiny_base).encode
    (d,) = demonstrations(1)
    d = d._replace(reflection="Cause: I never found a mug. Plan: search shelf 2.", questions=[])
    document = to_document(weighted_texts(d, random.Random(0)), envs.make("household"),
                           tokenizer.load(tiny_base))  # fmt: skip
    transcript = prompts.transcript(d.observation, d.reflections, d.steps)
    request = transcript + prompts.reflection_request(d.progress) + " Cause:"
    assert request.endswith("\nReflection: Cause:")
    text, ids = encode(request), document.ids
    assert ids[: len(text)] == text
    rest = encode(" I never found a mug. Plan: search shelf 2.\n")
    assert ids[len(text) : -1] == rest

def test_a_part_is_a_function_of_its_number(tiny_base, monkeypatch):
    monkeypatch.setattr(corpus, "DOCUMENTS", 8)
    part = partial(part_documents, ("household",), str(tiny_base), 0, 0.3, 0.8)
    found = [part(numbers) for numbers in ((3, 1), (3, 1), (3, 0), (4, 1))]
    assert found[0] == found[1] and found[0] != found[2] != found[3] != found[0]
    assert [len(documents) for documents in found] == [8] * 4

def documents_of(lengths, vocab=300):
    """Random ones: every third token is to be predicted, and a few are bound to names."""
    rng = random.Random(0)
    token = lambda: rng.randrange(vocab)
    targets = lambda: (token(), token(), rng.randint(1, 2)) if rng.random() < 0.2 else UNBOUND
    return [Document([token() for _ in range(n)], [rng.choice((0, 0, 1, 2, 6)) for _ in range(n)],
                     [targets() for _ in range(n)]) for n in lengths]  # fmt: skip

def test_steps_hold_every_document_that_fits_once_and_are_equally_large():
    rng = random.Random(0)
    documents = documents_of([rng.randint(5, 400) for _ in range(50)])
    steps = steps_of(documents, 1000, 300)
    key = lambda d: d.ids
    fitting = sorted((d for d in documents if len(d.ids) <= 300), key=key)
    assert sorted((d for step in steps for d in step), key=key) == fitting
    sizes = [sum(len(d.ids) for d in step) for step in steps]
    assert len(sizes) == round(sum(sizes) / 1000) and max(sizes) - min(sizes) < 100, sizes
    assert sorted(steps_of(documents, 1, 300)) == [[d] for d in sorted(fitting)]
    assert steps_of(documents, 1000, 4) == []

def test_documents_are_dealt_nearly_as_well_as_can_be():
    """Of all ways to deal 9 documents to two or three, none is faster by more than the 1/3 that
    Graham (1969) has proved.
    """
    for seed in range(5):
        lengths = [random.Random(seed).randint(10, 2000) for _ in range(9)]
        for n in (2, 3):
            piles = deal(documents_of(lengths), n)
            assert sorted(len(d.ids) for pile in piles for d in pile) == sorted(lengths)
            slowest = max(sum(work(len(d.ids)) for d in pile) for pile in piles)
            ways = product(range(n), repeat=9)
            loads = ([sum(work(x) for x, own in zip(lengths, way) if own == i) for i in range(n)]
                     for way in ways)  # fmt: skip
            assert slowest <= (4 / 3) * min(max(load) for load in loads)
    assert deal(documents_of([5]), 3)[1:] == [[], []]

@pytest.mark.parametrize("kind", [Packed, PackedAsRows])
def test_a_row_of_documents_gives_the_losses_and_gradients_of_padded_rows(kind, monkeypatch):
    """Token by token from a padded batch, in double precision."""
    model = tiny_gpt(vocab_size=300, num_hidden_layers=3)
    reader, documents = Reader(model).double(), documents_of([17, 40, 1, 23])
    monkeypatch.setattr(module, "packed", lambda m, lengths: kind(lengths, m.causal, m.device))
    weights = [*model.parameters(), *reader.parameters()]
    ours = losses_of(model, reader, pack(documents), ALONE)
    our_gradients = torch.autograd.grad(ours[0] + 2 * ours[1], weights)

    ids = torch.zeros(4, 40, dtype=torch.long)
    for row, d in enumerate(documents):
        ids[row, : len(d.ids)] = torch.tensor(d.ids)
    states = model.hidden(ids)
    inner = dict(reader.states)
    chances = model.logits(states).log_softmax(-1)
    through = lambda probe, state: reader.probes[probe](model.model.norm(state)).split(32)
    answer = lambda part: model.logits(part).log_softmax(-1)
    loss, weight, reading, asked = 0.0, 0, [0.0] * 3, [0] * 3
    for row, d in enumerate(documents):
        for i in range(len(d.ids)):
            if i and d.loss_weights[i]:
                loss -= d.loss_weights[i] * chances[row, i - 1, d.ids[i]]
                weight += d.loss_weights[i]
                (part,) = through(0, inner[0][row, i])
                reading[0] -= answer(part)[d.ids[i - 1]]
                asked[0] += 1
            *name, probe = d.binding_targets[i]
            for part, target in zip(through(probe, inner[probe][row, i]), name) if probe else ():
                reading[probe] -= answer(part)[target]
                asked[probe] += 1
    theirs = loss / weight, sum(total / n for total, n in zip(reading, asked)) / 3
    assert min(asked) > 5
    for own, other in zip(ours, theirs):
        assert own.item() == pytest.approx(other.item(), rel=1e-9)
    for own, other in zip(our_gradients, torch.autograd.grad(theirs[0] + 2 * theirs[1], weights)):
        assert (own - other).abs().max() < 1e-9 * (1 + other.abs().max())

def test_a_process_without_a_document_changes_nothing():
    model = tiny_gpt(vocab_size=300, dtype=torch.float32)
    loss, reading = losses_of(model, Reader(model), pack([corpus.NOTHING]), ALONE)
    assert reading.item() == 0 and loss.isnan()  # 0 of 0: other processes have targets
    one = join(torch.device("cpu"))
    counts = torch.tensor([9, 9, 9, 9])
    two = type("Two", (), dict(all_reduce=lambda self, own: own + counts))()
    loss, reading = losses_of(model, Reader(model), pack([corpus.NOTHING]), two)
    assert (loss.item(), reading.item()) == (0, 0) and one == ALONE
    (loss + reading).backward()
    assert all(w.grad is None or not w.grad.any() for w in model.parameters())

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
    batch = documents_of([32])
    optimizers = [torch.optim.SGD(model.parameters(), lr=1.0)] * 2
    state = dict(tokens=0, steps=0, taken=0, rate=1.0, loss=0.0, reading=0.0)
    own = Training(model, Reader(model), optimizers, dict(state), None)
    loss = Reader.loss
    monkeypatch.setattr(Reader, "loss", lambda *args: loss(*args) * float("nan"))
    with pytest.raises(FloatingPointError, match="step 0 not taken"):
        step(Config(), own, batch)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    monkeypatch.undo()
    model.zero_grad()
    step(Config(), own, batch)
    assert {**own.state, "loss": 0, "reading": 0} == state | dict(tokens=32, steps=1, taken=1)

def test_head_start_says_what_shape_it_needs():
    model = GPT(GPTConfig(50, 32, 32, 2, 2, 1))
    with pytest.raises(ValueError, match="heads 2, kv_heads 1"):
        head_start(model, torch.Generator())

def rates(last=0.0, first=0, steps=1000, **shares):
    """Of a run of `steps`, from step `first` on."""
    found = [last]
    for i in range(first, steps):
        found.append(learning_rate(found[-1], i / steps, 1 / steps, **shares))
    return found[1:]

def test_the_rate_rises_stays_and_falls_to_zero():
    found = rates(warmup=0.02, decay=0.4)
    assert found[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert set(found[20:600]) == {1.0}
    assert found[600:] == pytest.approx([1 - i / 400 for i in range(400)])
    assert rates(warmup=0.0, decay=0.0) == [1.0] * 1000
    assert learning_rate(1.0, 1.2, 0.1, 0.02, 0.4) == 0  # of a run that was made shorter

def test_the_rate_of_a_run_that_is_made_longer_rises_no_faster_than_at_first():
    last = rates(warmup=0.02, decay=0.4)[-1]
    assert last < 0.01
    longer = rates(last, first=1000, steps=4000, warmup=0.02, decay=0.4)
    assert longer[:80] == pytest.approx([last + (i + 1) / 80 for i in range(79)] + [1.0])
    assert longer[80:1400] == [1.0] * 1320 and longer[-1] == pytest.approx(1 / 1600)
    sooner = rates(1.0, first=600, warmup=0.02, decay=0.8)  # and a longer decay begins at once
    assert sooner == pytest.approx([0.5 - i / 800 for i in range(400)])

SMALL = dict(envs="household", tokens=12000, batch_tokens=2048, vocab_size=400, width=48, layers=2,
             heads=3, mlp_width=32, checkpoint_minutes=0.0)  # fmt: skip

@pytest.fixture
def small(monkeypatch):
    """Pretraining in seconds, without a card."""
    monkeypatch.setattr(corpus, "DOCUMENTS", 4)
    monkeypatch.setattr(module, "TOKENIZER_DOCUMENTS", 40)
    monkeypatch.setattr(module, "write_card", lambda *args: None)
    return SMALL

def left(folder) -> tuple:
    """What a run leaves behind, but for the clock and the name of its folder."""
    tensors, state = checkpoint.read(folder / "pretrain.state")
    tensors = {name: x.flatten().view(torch.uint8).tolist() for name, x in tensors.items()}
    state["config"].pop("out")
    state.pop("seconds")
    return tensors, state, (folder / "model.safetensors").read_bytes()

def test_resumed_equals_uninterrupted(tmp_path, small, monkeypatch):
    """Killed in the middle of a shard, copied, then resumed: the same state, bit for bit."""
    main(Config(out=str(tmp_path / "whole"), **small))

    saves, save = [], Training.save

    def kill_at_second_save(*args):
        save(*args)
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "save", kill_at_second_save)
    with pytest.raises(KeyboardInterrupt):
        main(Config(out=str(tmp_path / "killed"), **small))
    state = checkpoint.read(tmp_path / "killed" / "pretrain.state")[1]
    assert state["taken"] == 2 and 0 < state["tokens"] < small["tokens"] / 2
    shutil.copytree(tmp_path / "killed", tmp_path / "cut")
    shutil.rmtree(tmp_path / "killed")
    main(Config(out=str(tmp_path / "cut"), **small))
    assert left(tmp_path / "whole") == left(tmp_path / "cut")
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

    longer = dict(tokens=24000, decay=0.0)
    main(Config(out=str(tmp_path / "cut"), **small | longer))  # and it is made longer
    after = checkpoint.read(tmp_path / "cut" / "pretrain.state")[1]
    assert after["tokens"] >= 24000 and longer.items() <= after["config"].items()
    with pytest.raises(ValueError, match="pretrain.state: was written with other batch_tokens$"):
        main(Config(out=str(tmp_path / "cut"), **small | dict(batch_tokens=1024)))

    more = small | {"start": str(tmp_path / "whole"), "vocab_size": 500}
    main(Config(out=str(tmp_path / "more"), **more))  # and another begins with its weights
    assert tokenizer.load(tmp_path / "more").vocab_size == 500
    assert GPT.from_pretrained(tmp_path / "more").config.vocab_size == 500
    (tmp_path / "whole").rename(tmp_path / "elsewhere")  # known by its hash, not by its name
    main(Config(out=str(tmp_path / "more"), **more | {"start": str(tmp_path / "elsewhere")}))

def kill_in_step(patch, number: int) -> None:
    """SIGKILL the first process in this step; its state is that of the step before."""
    take = module.step

    def killed(config, training, documents):
        if training.state["steps"] == number and training.processes.is_main:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(config, training, documents)

    patch.setattr(module, "step", killed)

@linux
def test_two_processes_do_what_one_does_and_resume_what_two_did(tmp_path, small):
    """A rank's sums are rounded otherwise, so one and two agree to six digits."""
    settings = small | dict(context=512)
    run = lambda name, *damage, processes=2: Trainer(
        Config(out=str(tmp_path / name), **settings), *damage, main=main, processes=processes
    ).finish()
    assert run("whole")[0] == 0
    assert run("cut", kill_in_step, 3)[0] == -signal.SIGKILL
    assert checkpoint.read(tmp_path / "cut" / "pretrain.state")[1]["steps"] == 3
    assert run("cut")[0] == 0
    assert left(tmp_path / "whole") == left(tmp_path / "cut")

    status, said = run("cut", processes=1)  # ended: nothing is left to do
    assert status == 0 and "written by another number of processes" in said
    assert run("one", processes=1)[0] == 0
    (one, first), (two, second) = (
        checkpoint.read(tmp_path / name / "pretrain.state") for name in ("one", "whole")
    )
    assert first["tokens"] == second["tokens"] and first["steps"] == second["steps"] > 5
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    moved = [name for name in one if name.startswith("weight.")]
    gaps = {name: (one[name] - two[name]).abs().max().item() for name in moved}
    assert max(gaps.values()) < 1e-4, gaps

@linux
@pytest.mark.parametrize("world", [2, 3])
def test_a_shard_is_the_same_for_any_number_of_processes(world, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "DOCUMENTS", 6)
    config = Config(out=str(tiny_base), envs="household,hotpot")

    def script(_):
        processes = join(torch.device("cpu"))
        found = list(islice(shards(config, ("household", "hotpot"), processes, 5), 2))
        (tmp_path / str(processes.rank)).write_text(json.dumps(found))
        processes.barrier()

    alone = list(islice(shards(config, ("household", "hotpot"), ALONE, 5), 2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: world)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    launch(script, None)
    for rank in range(world):
        assert (tmp_path / str(rank)).read_text() == json.dumps(alone)

def test_text_that_is_written_ahead_comes_in_order():
    made = written_ahead(abs, iter(range(0, -30, -1)))
    assert list(made) == list(range(30))

def test_a_context_that_no_document_fits_is_one_line(tmp_path, monkeypatch):
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
