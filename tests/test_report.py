"""The page of a run: its numbers by other arithmetic, and nothing hostile gets out of its data."""

import json
import os
import re
import shutil
import unicodedata
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import largest_gap

import envs
from envs.observer import Verdict
from retro import policy as policies
from retro.evaluate import Evaluation, Variant, evaluate, rows_of
from retro.interop.open import open_model
from retro.lora import add_lora, lora_parameters, save_adapter, using
from retro.memory import JsonLines
from retro.policy import Policy
from retro.reflect import reflection_prompt
from retro.report import page as report
from retro.report import results
from retro.run import checkpoint
from retro.run.files import hash_of, write_json
from tests.scripted import ScriptedActor

HOSTILE = (
    "</script><script>document.title='in'</script><img src=x onerror=\"document.title='in'\"><!--"
    "\x1b[2J\x1b]0;in\x07\x00\x9b31m\u202eabc\u2028 {{js}} {{nonsense}} \ud800 & &lt; `${1}` \\"
)
CAUSE = "I never found a mug. Plan: search shelf 2."

def opened(base):
    return open_model(str(base), torch.device("cpu"), False)

def trained(base, seed=0):
    """A tiny model with an adapter and a critic that do something."""
    lm, generator = opened(base), torch.Generator().manual_seed(seed)
    add_lora(lm.model, 2, 4.0, generator)
    policy = Policy(lm, adapt_prompt=True)
    for weight in [*lora_parameters(lm.model), policy.value_head.weight]:
        weight.data.normal_(0, 0.3, generator=generator)
    return policy

def judge(reflection, observation, steps):
    """Takes CAUSE for true, the hostile text for false and invented, and knows no other."""
    assert observation.startswith("You are") and [action for action, _ in steps] == ["look"] * 2
    return {CAUSE: Verdict("not found", True, None, None, False)}.get(
        reflection, Verdict(HOSTILE, False, False, None, True) if "漢" in reflection else Verdict()
    )

@pytest.fixture(scope="module")
def evaluation():
    """Three tasks which all fail; each step looks about."""
    env = envs.make("household", max_steps=2)
    env.judge = judge
    actor = ScriptedActor(lambda text: "look")
    actor.device, actor.generator = torch.device("cpu"), None
    rows = rows_of(env.tasks("seen", 3, 0))
    return Evaluation(env, rows, actor, retries=2, seed=0, template="first seen")

REFLECTOR = SimpleNamespace(write=lambda asked, generators: [], writers={})

@pytest.fixture(scope="module")
def played(evaluation):
    """The chains of five methods, one of them at two temperatures."""
    texts = {"react": None, "reflexion": CAUSE, "retroformer": f"{HOSTILE} Plan: é漢🙂.",
             "long": "look " * 200, "template": "Plan: look."}  # fmt: skip
    writers = {name: lambda ts, _, text=text: [text] * len(ts) for name, text in texts.items()}
    variants = [Variant(n, 0.0 if n in ("reflexion", "retroformer") else None) for n in texts]
    own = SimpleNamespace(write=REFLECTOR.write, writers=writers)
    return evaluate(evaluation, [*variants, Variant("reflexion", 1.0)], own)

@pytest.fixture(scope="module")
def chains(played):
    return {variant.method: own for variant, own in played.items() if variant.temperature != 1}

@pytest.fixture(scope="module")
def page(tiny_base, evaluation, played, chains, tmp_path_factory):
    """(bytes of the page, data in it, folder) of a run made by hand, named by an attacker."""
    run_dir = tmp_path_factory.mktemp("runs") / "<b>in<"
    policy = trained(tiny_base)
    settings = dict(seed=0, base=str(tiny_base), adapt_prompt=False, kl_coef=0.1, gamma=1.0)
    write_json(run_dir / "config.json", settings | {"gae_lambda": 1.0})
    save_adapter(policy.lm.model, run_dir / "adapter")
    weights = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    sealed = {f"adapter/{path.name}": hash_of(path) for path in (run_dir / "adapter").iterdir()}
    checkpoint.save(run_dir / "checkpoint", weights, [], {"sealed": sealed})
    curves = ("mean_rating", "success", "kl", "entropy", "value_loss", "explained_variance")
    rows = [{"update": i, "kl_coef": 0.1} | {c: i / 7 for c in curves} for i in range(5)]
    for i, row in enumerate(rows[2:]):
        row["faithfulness"] = {"household": {"cause": i / 3, "sound": None, "invented": 0.1}}
        row["mutual_information"] = {"household": 0.3}
    JsonLines(run_dir / "metrics.jsonl").append([*rows, rows[-1] | {"kl": float("nan")}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "information_of", lambda *_: 0.5)
        found = results.report(evaluation, HOSTILE, played, {"reflexion": 0.0}, REFLECTOR)
    found |= {"runs": ["a", HOSTILE], "panel": HOSTILE}
    environments = {"household": evaluation.env}
    report.write_page(run_dir / "report.html", [found], [chains], environments, run_dir,
                      opened(tiny_base))  # fmt: skip
    html = (run_dir / "report.html").read_bytes()
    return html, json.loads(re.search(rb'id="data">(.*?)</script>', html, re.S)[1]), run_dir

def test_tokens_are_weighed_as_a_plain_forward_pass_weighs_them(tiny_base, chains, monkeypatch):
    """gamma = lambda = 1: A_t = worth - kl_coef * (log-ratios from t on) - V_t."""
    monkeypatch.setattr(policies, "autocast", lambda device: nullcontext())  # all in float32
    policy, kl_coef = trained(tiny_base), 0.3
    lm, model, coder = policy.lm, policy.lm.model, policy.lm.tokenizer
    before, after = chains["reflexion"][0][:2]
    gain = after.episode_return - before.episode_return
    (found,) = report.weigh(policy, [(before, CAUSE, gain - 0.25)], kl_coef, 1.0, 1.0)
    prompt = reflection_prompt(before, lm)
    ids = coder.encode(f" {CAUSE}\n")
    assert "".join(row[0] for row in found) == f" {CAUSE}\n" and len(found) == len(ids)

    def logprobs():
        hidden = model.hidden(torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1]
        full = model.logits(hidden).float().log_softmax(-1)
        return full[range(len(ids)), ids], policy.value_head(hidden.float())[:, 0]

    with torch.no_grad():
        own, values = logprobs()
        with using(model, None):
            base, _ = logprobs()
    charged = kl_coef * (own - base).flip(0).cumsum(0).flip(0)
    advantages = gain - 0.25 - charged - values
    expected = torch.stack((advantages, values, own, base), 1)
    assert largest_gap(torch.tensor([row[1:] for row in found]), expected) < 1e-4
    assert largest_gap(own, base) > 0.01, "the adapter does nothing: the test is blind"

def test_characters_cut_into_several_tokens_stay_whole(tiny_base):
    lm, text = opened(tiny_base), " é漢🙂 mug 1\n"
    parts = report.token_texts(lm, lm.tokenizer.encode(text))
    assert "".join(parts) == text and len(parts) == len(lm.tokenizer.encode(text))

def test_the_page_holds_the_episodes(page, chains):
    html, data, _ = page
    assert len(html) < 2_000_000 and data["failed"] == len(data["episodes"]) == 3
    retries = data["episodes"][0]["chains"]
    assert [r["text"] for r in retries["reflexion"]] == [CAUSE] * 2
    assert "".join(token for token, *_ in retries["reflexion"][0]["tokens"]) == f" {CAUSE}\n"
    assert retries["react"][0]["text"] is None and "tokens" not in retries["react"][0]
    assert retries["long"][0]["text"] and retries["long"][0]["tokens"] is None
    assert retries["react"][1]["trial"]["steps"][0][0] == "look"
    verdict = {"kind": "not found", "cause": True, "sound": None, "place": None, "invented": False,
               "notes": None}  # fmt: skip
    assert [r["verdict"] for r in retries["reflexion"]] == [verdict] * 2
    assert data["metrics"][-1]["kl"] is None  # NaN is no JSON

def test_hostile_text_stays_data(page):
    html, data, _ = page
    script = re.search(rb'id="data">(.*?)</script>', html, re.S)[1]
    assert b"<" not in script and script.isascii()
    assert len(re.findall(rb"</script", html)) == 2 and b"{{nonsense}}" in script
    assert data["episodes"][0]["chains"]["retroformer"][0]["text"].startswith("</script><script>")
    shown = json.dumps(data, ensure_ascii=False)
    assert not {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs")}

DATA = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)

@settings(max_examples=25, deadline=None)
@given(DATA)
def test_any_data_stays_in_its_place(value):
    stays_in_its_place(value)

@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(DATA)
def test_any_data_stays_in_its_place_at_length(value):
    stays_in_its_place(value)

def stays_in_its_place(value):
    html = report.render({"x": value}).decode()
    script = html.split('id="data">')[1].split("</script>")[0]
    assert "<" not in script and html.count("</script") == 2
    assert json.loads(script) == {"x": json.loads(json.dumps(report.plain(value)))}

def test_the_page_asks_for_nothing_and_runs_its_own_script_only(page):
    html = page[0].decode()
    policy = re.search('Content-Security-Policy" content="([^"]*)"', html)[1]
    script = re.search(r"<script>(.*?)</script>", html, re.S)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert f"script-src '{report.digest(script)}'" in policy
    outside = html.replace(re.search(r'id="data">(.*?)</script>', html, re.S)[1], "")
    assert re.findall(r"https?://[^\s\"'`]+", outside) == ["http://www.w3.org/2000/svg"]
    assert "innerHTML" not in script and "eval(" not in script

def test_environments_take_turns(chains):
    one = {method: c[:1] for method, c in chains.items()}
    picked = report.pick([{"env": "a"}, {"env": "b"}, {"env": "c"}], [one, chains, chains], 2)
    assert [env for env, _ in picked] == ["a", "b", "c", "b", "c"]
    assert picked[3][1]["long"] is chains["long"][1]

def test_a_page_never_grows_too_large(page, tiny_base, evaluation, chains, monkeypatch):
    """Episodes that do not fit are left out."""
    size = len(json.dumps(page[1]["episodes"][0], separators=(",", ":")))
    monkeypatch.setattr(report, "EPISODE_BYTES", int(size * 2.5))
    reports = [{"env": "household"}]
    environments = {"household": evaluation.env}
    data = report.page_data(reports, [chains], environments, page[2], opened(tiny_base))
    assert 1 <= len(data["episodes"]) <= 2 and data["failed"] == 3

def test_a_run_without_a_critic_is_told_in_words(tmp_path):
    own = dict(base="assets", seed=0, adapt_prompt=False, kl_coef=0.02, gamma=1.0, gae_lambda=1.0)
    write_json(tmp_path / "config.json", own)
    write_json(tmp_path / "metrics.jsonl", {})
    checkpoint.save(tmp_path / "checkpoint", {}, [], {})
    with pytest.raises(ValueError, match="metrics.jsonl"):
        report.left_by(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="no critic"):
        report.left_by(tmp_path)

@pytest.mark.slow
@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 1280), ("light", 360)])
def test_in_a_browser(page, tmp_path, scheme, width):
    """Console free of errors, no request, nothing injected, fits the width, works by keyboard."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if not browser:
        pytest.skip("needs chromium on the path")
    (tmp_path / "report.html").write_bytes(page[0])
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with driver.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=arguments)
        view = dict(viewport={"width": width, "height": 800}, color_scheme=scheme)
        tab, said = chromium.new_context(**view).new_page(), []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda r: said.append(r.url) if r.url.startswith("http") else None)
        tab.goto((tmp_path / "report.html").as_uri())
        chosen = lambda: tab.locator("#list [aria-selected=true]").get_attribute("id")
        assert chosen() == "item-0"
        tab.keyboard.press("j")
        assert chosen() == "item-1"
        tab.locator("#list").focus()
        tab.keyboard.press("ArrowUp")
        assert chosen() == "item-0"
        tab.locator("#outcome").select_option("gain")
        assert "No episode" in tab.locator("#episode").inner_text()
        tab.locator("#outcome").select_option("none")
        tab.locator(".reflection").first.focus()
        tab.keyboard.press("ArrowRight")
        assert "critic" in tab.locator(".readout").first.inner_text()
        tab.locator("[name=shade][value=advantage]").focus()
        tab.keyboard.press("ArrowRight")
        assert tab.locator("[name=shade]:checked").get_attribute("value") == "kl"
        assert tab.locator("#success circle").count() == 5 * 3
        assert tab.locator("#curves svg").count() == 6
        assert tab.locator("#truths svg").count() == 3  # no plan is known to be sound or not
        words = tab.locator("#episode .ordinal").all_inner_texts()
        assert words[0] == "Reflection 1, cause true"
        assert words[2] == "Reflection 1, cause false, plan not sound, invented"
        rows = [" ".join(row.split()) for row in tab.locator("#pairs tbody tr").all_inner_texts()]
        names = ("react", "template: first seen", "reflexion, T = 0")
        assert rows == [f"{name}{' 0 [0, 0] 0 : 0 1.000' * 2}" for name in names]
        rows = [row.split("\t") for row in tab.locator("#said tbody tr").all_inner_texts()]
        assert rows[0] == ["reflexion, T = 0", "3", *"100\xa0%,-,-,0\xa0%,0.00,0.50".split(","),
                           "not found 3"]  # fmt: skip
        assert len(rows) == 4 and "</script>" in rows[1][-1]
        folded = tab.locator("#numbers details tbody tr")
        assert folded.all_text_contents()[0].startswith("reflexion, T = 1")
        assert "</script>" in tab.locator("#episode").inner_text()
        assert tab.locator("#episode img, #list img").count() == 0
        assert tab.title().startswith("Retroformer: ")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        chromium.close()
    assert said == []
