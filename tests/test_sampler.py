"""Reflections from a server that serves adapters, as vLLM does: the same policy's samples, whatever
form they come in; corrected, or refused in one line.
"""

import json

import pytest
import torch

import train
from retro.interop.sampler import MOST, Sampler, ids_of
from retro.ppo import Batch, PPOConfig, ppo_update
from retro.reflect import Reflection
from retro.run.processes import ALONE
from tests.lora_server import LoraServer
from tests.small_run import GUESS, config, outcome, short_games  # noqa: F401

def sampler_of(server, folder, bound=0.1, **settings):
    return Sampler(server.url, folder, ALONE, bound, **{"timeout": 20.0, "tries": 1} | settings)

def moved(lm):
    """An adapter that changes something."""
    for name, weight in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, 0, 0.2, generator=torch.Generator().manual_seed(2))
    return lm

def prompts_of(lm, n=6):
    return [lm.fit(f"You are in a room. You see a mug {i // 2}.") for i in range(n)]

def written(sampler, lm, n=6, seed=3):
    return sampler.write(lm, prompts_of(lm, n), temperature=1.0, adapt_prompt=True, caches=None,
                         generator=torch.Generator().manual_seed(seed))  # fmt: skip

def gap(lm, reflections):
    """Largest distance of their log-probabilities from this policy's, each read alone."""
    worst = 0.0
    for one in reflections:
        ids = torch.tensor([one.prompt_ids + one.response_ids])
        with torch.no_grad():
            states = lm.model.hidden(ids)[0, len(one.prompt_ids) - 1 : -1]
            own = torch.log_softmax(lm.model.logits(states), -1)
        own = own[torch.arange(len(states)), torch.tensor(one.response_ids)]
        worst = max(worst, (own - torch.tensor(one.logprobs)).abs().max().item())
    return worst

def certain(sampler, lm, n, seed):
    """What is written with this seed, unless it is refused."""
    try:
        return written(sampler, lm, n, seed)
    except ValueError as error:
        assert "is not exactly that of known tokens" in str(error)
        return None

FORMS = [(), ("ids",), ("token_ids",), ("token_ids", "names"), ("ids", "token_ids", "names")]

@pytest.mark.parametrize("old", FORMS)
def test_what_comes_back_is_the_policys(lm, tiny_base, tmp_path, old, capsys):
    moved(lm)
    n = 6
    if "names" in old:  # a random model writes parts of letters, which are refused there
        n, lm.reflection_tokens = 2, 2
    with LoraServer(tiny_base, old=old) as server:
        sampler = sampler_of(server, tmp_path / "sampler")
        sampler.load(lm)
        seed = next(seed for seed in range(50) if certain(sampler, lm, n, seed))
        reflections, again = written(sampler, lm, n, seed), written(sampler, lm, n, seed)
        sampler.close()
    assert [r.prompt_ids for r in reflections] == prompts_of(lm, n)
    assert gap(lm, reflections) < 1e-4 and again == reflections
    assert n == 2 or reflections[0] != reflections[1]  # one prompt, two seeds
    with lm.frozen():
        assert gap(lm, reflections) > 5e-3  # the control: it is the adapter's
    ends = {*lm.stop_ids}
    assert all(r.response_ids[-1] in ends or len(r.response_ids) == lm.reflection_tokens
               for r in reflections)  # fmt: skip
    assert all(r.text == " ".join(lm.text(r.response_ids).split()) for r in reflections)
    assert capsys.readouterr().err.count("prompts go there as text") == ("ids" in old)

def test_each_update_has_a_name_of_its_own(lm, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("SAMPLER_API_KEY", "sampler-key")
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    with LoraServer(tiny_base) as server:
        sampler, names = sampler_of(server, tmp_path / "sampler"), []
        for _ in range(3):
            sampler.load(lm)
            assert server.loaded == [sampler.name]
            assert [path.name for path in (tmp_path / "sampler").iterdir()] == [sampler.name]
            names.append(sampler.name)
        sampler.close()
        assert len({*names}) == 3 and not server.loaded and not (tmp_path / "sampler").exists()
        assert {key for _, key, _ in server.seen} == {"Bearer sampler-key"}

def drawn(lm, *rows):
    """Reflections with such log-probabilities."""
    return [Reflection([1], [5] * len(row), list(row), "") for row in rows]

def test_weights_are_truncated_ratios_and_the_bound_holds(lm, tmp_path):
    sampler = Sampler("http://localhost/v1", tmp_path, ALONE, 0.9)
    here = torch.tensor([[0.5, 0.2, 0.1], [0.9, 7.0, 7.0]]).log()  # 7: padding
    there = drawn(lm, *[[torch.tensor(p).log().item() for p in row]
                        for row in ([0.25, 0.4, 0.1], [0.3])])  # fmt: skip
    weights = sampler.weigh(there, here)
    assert torch.allclose(weights, torch.tensor([[2.0, 0.5, 1.0], [MOST, 1.0, 1.0]]))
    assert sampler.ratio_error == pytest.approx((1 + 0.5 + 0 + 2) / 4)
    sampler.max_ratio_error = 0.8
    with pytest.raises(ValueError, match="is 0.875 off on average, above --max-ratio-error 0.8"):
        sampler.weigh(there, here)
    with pytest.raises(ValueError, match="is inf off"):
        sampler.weigh(drawn(lm, [-9999.0]), torch.zeros(1, 1))

def test_a_weight_multiplies_the_advantage():
    """The step of the first minibatch, against the gradient by hand: -mean(w A grad log pi)."""
    weights = torch.tensor([[1.0, 0.5], [2.0, 0.0]])
    move = []
    for given in (weights, None):
        theta = torch.zeros(2, 2, requires_grad=True)
        policy = lambda rows, theta=theta: (theta[rows], torch.zeros(2, 2), torch.zeros(2, 2))
        ratings, zeros, groups = torch.tensor([1.0, -1.0]), torch.zeros(2, 2), torch.zeros(2)
        settings = PPOConfig(1, 2, 0.2, 0.0, 0.0, 1.0, 1.0, 1e9, None, "group")
        ppo_update(policy, torch.optim.SGD([theta], lr=1.0),
                   Batch(torch.ones(2, 2), zeros, zeros, zeros, ratings, groups, given), settings,
                   kl_coef=0.0, generator=torch.Generator())  # fmt: skip
        move.append(theta.detach())
    advantages = torch.tensor([[2.0, 2.0], [-2.0, -2.0]])  # less the other one's rating
    assert torch.allclose(move[0], weights * advantages / 4)
    assert torch.allclose(move[1], advantages / 4)

def spoil(key, value):
    """An answer of which one thing is another."""

    def change(answer):
        choice = answer["choices"][0]
        where = choice["logprobs"] if key in choice["logprobs"] else choice
        where[key] = value(where[key]) if callable(value) else value
        return answer

    return change

REFUSED = [
    (dict(old=["lora"]), "HTTP 404: Not Found; it must serve LoRA adapters by name .*vLLM"),
    (dict(change=lambda answer: {"choices": [{"text": "a"}]}), "expected choices with token ids"),
    (dict(change=spoil("logprobs", None)), "expected choices with token ids"),
    (dict(change=spoil("prompt_token_ids", [1, 2])), "has read another prompt than the .* token"),
    (dict(change=spoil("token_ids", lambda ids: [*ids[:-1], 10**6])), "none that this model"),
    (dict(change=spoil("token_ids", lambda ids: ids[:-1])), "none that this model could have"),
    (dict(change=spoil("token_ids", lambda ids: [*ids, *ids])), "none that this model could"),
    (dict(change=spoil("token_logprobs", lambda ps: ps[:-1])), "has no log-probability for each"),
    (dict(change=spoil("token_logprobs", lambda ps: [float("nan")] * len(ps))), "has no log-prob"),
    (dict(old=["token_ids", "names"], change=spoil("tokens", lambda t: ["\ufffd", *t[1:]])),
     "its answer has no token ids, and its text .* is not exactly that of known tokens"),
]  # fmt: skip

@pytest.mark.parametrize("settings, said", REFUSED)
def test_what_is_not_certain_is_refused_in_one_line(lm, tiny_base, tmp_path, settings, said):
    with LoraServer(tiny_base, **settings) as server:
        sampler = sampler_of(server, tmp_path / "sampler")
        with pytest.raises(ValueError, match=f"^--sampler: http.*{said}") as error:
            sampler.load(lm)
            written(sampler, lm)
    assert str(error.value).isprintable()

def test_ids_of_text_only_where_they_are_certain(lm):
    ids = lm.tokenizer.encode("You see a mug.\n")
    tokens = [lm.tokenizer.decode([i]) for i in ids]
    assert ids_of(tokens, "You see a mug.", lm) == ids == ids_of(tokens, "You see a mug.\n", lm)
    stripped = [token.strip(" ") for token in tokens]  # as some servers show them
    for wrong in (stripped, ["no such token"], ["\ufffd"]):
        with pytest.raises(ValueError, match="has no token ids"):
            ids_of(wrong, "You see a mug.", lm)

@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/v1", "http://me:pass@a/v1"])
def test_the_address_is_checked_before_there_is_a_run(tiny_base, tmp_path, url):
    with pytest.raises(ValueError, match="^--sampler"):
        train.main(config(tiny_base, tmp_path / "run", **GUESS, sampler=url, adapt_prompt=True))
    assert not (tmp_path / "run").exists()

@pytest.mark.slow
def test_a_run_samples_there_and_learns_here(tiny_base, tmp_path):
    """Its reflections are of the right adapter, update by update: the ratio error tells."""
    settings = GUESS | dict(adapt_prompt=True, updates=2)
    with LoraServer(tiny_base) as server:
        train.main(config(tiny_base, tmp_path / "run", **settings, sampler=server.url + "?key=abc",
                          max_ratio_error=1e-3))  # fmt: skip
        kinds = [name for name, *_ in server.seen]
        # tried before the collecting, during which nothing is kept there
        assert kinds[:3] == ["load_lora_adapter", "unload_lora_adapter", "load_lora_adapter"]
        assert not server.loaded
    rows = [json.loads(row) for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["sampler_ratio_error"] < 1e-4 for row in rows)
    assert rows[1]["kl"] != 0 and kinds.count("completions") == 8
    assert kinds.count("load_lora_adapter") == kinds.count("unload_lora_adapter") == 3
    assert "abc" not in (tmp_path / "run/config.json").read_text()
    assert not (tmp_path / "run/sampler").exists()
    assert outcome(tmp_path / "run")

@pytest.mark.slow
def test_another_base_behind_it_is_refused(tiny_base, tmp_path):
    """Its weights differ a little: the bound says by how much."""
    wrong = spoil("token_logprobs", lambda ps: [p - 0.3 for p in ps])
    settings = GUESS | dict(adapt_prompt=True)
    with LoraServer(tiny_base, change=wrong) as server:
        with pytest.raises(ValueError, match="is 0.35 off on average, above --max-ratio-error 0.1"):
            train.main(config(tiny_base, tmp_path / "run", **settings, sampler=server.url))
        assert not server.loaded
    with LoraServer(tiny_base) as server:  # the right one, which stands elsewhere
        train.main(config(tiny_base, tmp_path / "run", **settings, sampler=server.url,
                          resume=True))  # fmt: skip

def test_a_server_needs_the_adapter_on_the_prompt():
    with pytest.raises(ValueError, match="--sampler: .* needs --adapt-prompt"):
        train.Config(sampler="http://localhost/v1")
