"""docs/hack.md: each recipe is a short patch that applies to this repository, and a run trains with
it. What the patched code gives is computed anew here.
"""

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import envs
from envs.household.demonstrations import Player
from tests.fixtures import ASSETS

ROOT = Path(__file__).parent.parent
RECIPES = ("Another rating", "GRPO: the spread, and the k3 penalty", "Another actor")
MOST = 15  # lines that a patch takes out or puts in
SMALL = """--gap-tasks 4 --train-tasks 12 --collect-rounds 1 --updates 1 --batch-reflections 8
    --minibatch 4 --choice-tasks 2 --eval-tasks 2 --retries 1""".split()

def patches() -> dict[str, str]:
    """Heading -> the patch below it."""
    sections = re.split(r"^## ", (ROOT / "docs/hack.md").read_text(), flags=re.MULTILINE)[1:]
    (*headings,) = (part.partition("\n")[0] for part in sections)
    found = [re.findall(r"```diff\n(.*?)```", part, re.DOTALL) for part in sections]
    return {heading: patch for heading, (patch,) in zip(headings, found)}

def patched(recipe: str, folder: Path) -> Path:
    """A copy of the code with the recipe's patch, applied as the page says."""
    for name in ("envs", "retro"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    (folder / "assets").symlink_to(ASSETS)
    ended = subprocess.run(["git", "apply", "-p0", "-"], cwd=folder, input=patches()[recipe],
                           capture_output=True, text=True)  # fmt: skip
    assert ended.returncode == 0, f"{recipe}: {ended.stderr}"
    return folder

def trained(folder: Path, *flags: str) -> list[dict]:
    """A small run of that copy; the rows of its replay buffer."""
    command = [sys.executable, "train.py", *SMALL, *flags, "--run-dir", "run"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "run/results.json").exists()
    return rows(folder / "run/replay.jsonl")

def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]

def test_the_page_has_three_recipes_each_a_short_patch():
    assert tuple(patches()) == RECIPES
    for heading, patch in patches().items():
        lines = [line for line in patch.splitlines() if line[:1] in ("+", "-")]
        changed = [line for line in lines if not line.startswith(("+++ ", "--- "))]
        assert 0 < len(changed) <= MOST, f"{heading}: {len(changed)} lines"

@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_applies(recipe, tmp_path):
    """And the code that it leaves is Python in the style of the house."""
    if not shutil.which("git"):
        pytest.skip("no git")
    folder = patched(recipe, tmp_path)
    for path in re.findall(r"^\+\+\+ (\S+)", patches()[recipe], re.MULTILINE):
        text = (folder / path).read_text()
        compile(text, path, "exec")
        assert text != (ROOT / path).read_text() and max(map(len, text.splitlines())) <= 100

@pytest.mark.slow
def test_the_brief_rating_takes_a_thousandth_for_each_character(tmp_path):
    found = trained(patched(RECIPES[0], tmp_path), "--envs", "hotpot", "--rating", "brief")
    lost = [row["next_return"] - row["return"] - row["rating"] for row in found]
    lengths = [len(" ".join(row["response"].split())) for row in found]
    assert lost == pytest.approx([min(n / 1000, 0.5) for n in lengths], abs=1e-9)
    assert len(set(lengths)) > 1 and min(lengths) < 500

GRPO = """
import json, torch
from retro.ppo import Batch, PPOConfig, group_advantages, ppo_update
scores, groups = torch.tensor([1.0, 0.0, 0.5, 0.25, 0.25, 0.75]), torch.tensor([0, 0, 0, 1, 1, 2])
ones = torch.ones(6, 1)
given = group_advantages(scores[:, None], groups, ones)[:, 0].tolist()
logprobs = torch.nn.Parameter(torch.tensor([[-1.0, -2.0], [-0.5, -3.0]]))
ref = torch.tensor([[-1.5, -1.0], [-0.5, -2.0]])
batch = Batch(torch.ones(2, 2), logprobs.detach().clone(), ref, torch.zeros(2, 2),
              torch.ones(2), torch.zeros(2).long())
settings = PPOConfig(epochs=1, minibatch_size=2, clip_coef=0.2, vf_coef=0.0, ent_coef=0.0,
                     gamma=1.0, gae_lambda=1.0, max_grad_norm=1e9, target_kl=None,
                     advantage="group")
ppo_update(lambda rows: (logprobs[rows], torch.zeros(2, 2), torch.zeros(2, 2)),
           torch.optim.SGD([logprobs], lr=1.0), batch, settings, kl_coef=0.1,
           generator=torch.Generator())
print(json.dumps([given, logprobs.tolist()]))
"""

@pytest.mark.slow
def test_grpo_divides_by_the_spread_and_its_penalty_is_in_the_loss(tmp_path):
    folder = patched(RECIPES[1], tmp_path)
    said = subprocess.run([sys.executable, "-c", GRPO], cwd=folder, capture_output=True, text=True)
    given, moved = json.loads(said.stdout or "null") or pytest.fail(said.stderr)
    spread = ((0.5**2 + 0.5**2) / 3) ** 0.5  # of 1, 0 and .5, whose mean is .5
    assert given == pytest.approx([0.5 / spread, -0.5 / spread, 0, 0, 0, 0], abs=1e-4)
    # equal ratings: only the penalty moves the weights, by lr * kl_coef * d k3 / d logprob / tokens
    before, ref = [[-1.0, -2.0], [-0.5, -3.0]], [[-1.5, -1.0], [-0.5, -2.0]]
    ratio = lambda i, t: 2.718281828459045 ** (ref[i][t] - before[i][t])  # pi_ref / pi
    expected = [before[i][t] - 0.1 * (1 - ratio(i, t)) / 4 for i in range(2) for t in range(2)]
    assert sum(moved, []) == pytest.approx(expected, abs=1e-5)
    trained(folder, "--envs", "hotpot", "--advantage", "group", "--group", "4")

@pytest.mark.slow
def test_the_other_actor_is_the_one_that_plays(tmp_path):
    """Each failed first trial is, action by action, the scripted player's."""
    trained(patched(RECIPES[2], tmp_path), "--envs", "household", "--min-well-formed", "0")
    env = envs.make("household")
    tasks = {task["id"]: task for task in env.tasks("train", 12, 0)}
    failed = [row["trajectory"] for row in rows(tmp_path / "run/failed.jsonl") if not row["trial"]]
    assert failed
    for trajectory in failed:
        observation, _ = env.reset(tasks[trajectory["task_id"]])
        player = Player(observation, [], random.Random(observation))
        for step in trajectory["steps"]:
            assert step["action"] == player.act()
            player.read(step["action"], env.step(step["action"])[0])
