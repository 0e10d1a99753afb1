"""Processes that each hold a part of a batch take the step of one that holds all of it; and
train.py, which starts the second one itself.
"""

import json
import os
import re
import signal
import socket
import sys
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

import pytest
import torch
from tiny import tiny_gpt

import retro.policy
import retro.run.processes
from retro.language_model import LanguageModel
from retro.policy import Policy
from retro.ppo import Batch, PPOConfig, ppo_update
from retro.reflect import Reflection
from retro.run.processes import ALONE, Processes, join, launch
from retro.sft import sft_update
from tests.small_run import outcome

ROOT = Path(__file__).parent.parent
N = 12
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere training is one process")

def reflections() -> list[Reflection]:
    """Random ones; those of odd rows, which rank 1 will hold, are longer."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(0, 50, (n,), generator=generator).tolist()
    return [Reflection(draw(5 + i), draw(2 + i % 3 + 6 * (i % 2)), [], "") for i in range(N)]

def train(processes: Processes, kind: str, target_kl: float | None, whole: int,
          parts: int) -> tuple:  # fmt: skip
    """(how far the weights move, stats) in an update on this rank's rows, `whole` / `parts` of them
    a minibatch.
    """
    torch.manual_seed(0)
    retro.policy.autocast = lambda device: nullcontext()
    model = tiny_gpt(scale=8.0)
    policy = Policy(LanguageModel(model, None), adapt_prompt=True)
    for weight in model.model.layers[0].parameters():
        weight.requires_grad_(False)  # some weights without gradient
    weights = [*model.parameters(), *policy.parameters()]
    optimizer = torch.optim.SGD([p for p in weights if p.requires_grad], lr=0.2)
    start = flat(weights)
    settings = dict(generator=torch.Generator().manual_seed(1), all_reduce=processes.all_reduce)
    rows = processes.shard(list(range(N)))
    mine = [reflections()[i] for i in rows]
    if kind == "sft":
        stats = sft_update(policy, optimizer, mine, epochs=2, minibatch_size=whole // parts,
                           max_grad_norm=0.5, **settings)  # fmt: skip
    else:
        ratings = torch.linspace(-1, 1, N)[rows]
        batch = policy.load_batch(mine)
        old, _, values = policy.evaluate(batch)
        ref = old - torch.linspace(-0.3, 0.5, N)[rows][:, None]
        config = PPOConfig(epochs=2, minibatch_size=whole // parts, clip_coef=0.2, vf_coef=0.5,
                           ent_coef=0.1, gamma=1.0, gae_lambda=0.95, max_grad_norm=0.5,
                           target_kl=target_kl)  # fmt: skip
        stats = ppo_update(lambda rows: policy(batch, rows), optimizer,
                           Batch(batch.mask, old, ref, values, ratings), config, kl_coef=0.1,
                           **settings)  # fmt: skip
        stats.pop("first_ratio_error")
    return flat(weights) - start, stats

def flat(weights) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in weights])

THREADS = Path("/proc/self/task")

def threads() -> list[str]:
    """The names of this process's threads, where Linux tells them."""
    return [(thread / "comm").read_text().strip() for thread in THREADS.glob("*")]

def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])

CASES = [("sft", None), ("ppo", None), ("ppo", 1e-3)]
WHOLE = {2: 4, 3: 6, 4: 4}  # number of processes -> rows of a minibatch, in all of them

@pytest.fixture(scope="module", params=WHOLE)
def of_several(request, tmp_path_factory):
    """[rank][case] -> (weights, stats), of processes started as torchrun starts them."""
    world = request.param
    folder = tmp_path_factory.mktemp("processes")
    shared = os.environ | dict(
        MASTER_ADDR="localhost", MASTER_PORT=free_port(), WORLD_SIZE=str(world),
        PYTHONPATH=str(ROOT),
    )
    started = [
        Popen([sys.executable, __file__, str(folder / str(rank))],
              env=shared | dict(RANK=str(rank), LOCAL_RANK=str(rank)))  # fmt: skip
        for rank in range(world)
    ]
    assert [process.wait(timeout=240) for process in started] == [0] * world
    return [torch.load(folder / str(rank)) for rank in range(world)]

@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)))
def test_several_ranks_take_the_step_of_one(of_several, case, monkeypatch):
    """The one process visits, minibatch by minibatch, the rows that the ranks visit together."""
    shuffle, world = torch.randperm, len(of_several)

    def joined(n, generator):  # local row i of rank r is row world * i + r of all
        if n != N:  # blocks of rows, of which a rank has one
            shuffle(1, generator=generator)
            return torch.arange(n)
        order = shuffle(n // world, generator=generator)
        return torch.stack([world * order + rank for rank in range(world)], dim=1).flatten()

    monkeypatch.setattr(torch, "randperm", joined)
    move, stats = train(ALONE, *CASES[case], WHOLE[world], 1)
    for rank in range(world):
        got, got_stats = of_several[rank]["cases"][case]
        assert (got - move).norm() < 1e-4 * move.norm(), ((got - move).norm(), move.norm())
        assert got_stats == pytest.approx(stats, rel=1e-4, abs=1e-6)
        assert torch.equal(got, of_several[0]["cases"][case][0])
    if case == 2:
        assert stats["updates"] == N // WHOLE[world], stats  # stopped early, after the same epoch
    other, _ = train(ALONE, *CASES[case], WHOLE[world], 2)  # the control: smaller minibatches
    assert (other - move).norm() > 0.1 * move.norm(), ((other - move).norm(), move.norm())

@pytest.mark.slow
def test_all_gather_all_reduce_and_shard(of_several):
    world, sharded = len(of_several), {2: [[0, 2], [1, 3]], 3: [[0], [1], [2]]}
    for rank, found in enumerate(of_several):
        assert found["gathered"] == [f"{r} {x}" for r in range(world) for x in "ab" if x > "a" or r]
        assert found["sharded"] == sharded.get(world, [[0], [1], [2], [3]])[rank]  # of 5 rows
        assert found["reduced"].tolist() == [world * (world - 1) / 2, 10.0 * world]
        assert found["printed"] == ("rank 0\n" if rank == 0 else "")

@pytest.mark.slow
@pytest.mark.skipif(not THREADS.exists(), reason="needs Linux's list of threads")
def test_no_thread_of_the_group_outlives_it(of_several):
    """One that drops its last tensor while Python ends aborts the process, now and then."""
    for found in of_several:
        threads = found["threads"]
        assert any("gloo" in name for name in threads["within"]), threads
        assert not any("gloo" in name for name in threads["after"]), threads

def test_one_process_is_a_rank_alone(monkeypatch, capsys):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = join(torch.device("cpu"))
    assert processes == ALONE == Processes(0, 1) and processes.is_main
    assert processes.shard([1, 2, 3]) == processes.all_gather([1, 2, 3]) == [1, 2, 3]
    assert processes.all_reduce(torch.tensor([2.0])).tolist() == [2.0]
    processes.print0("said", 1)
    assert capsys.readouterr().out == "said 1\n"
    processes.barrier()
    processes.leave()

def test_rows_are_dealt_in_turn_and_one_process_speaks(capsys):
    """Of 8 rows each of 3 processes gets 2; the last 2 are left out, but not by `split`."""
    three = [Processes(rank, 3) for rank in range(3)]
    assert [one.shard(list(range(8))) for one in three] == [[0, 3], [1, 4], [2, 5]]
    assert [one.split("abcdefgh") for one in three] == ["adg", "beh", "cf"]
    assert [one.split([7]) for one in three] == [[7], [], []] and ALONE.split("abc") == "abc"
    assert [one.is_main for one in three] == [True, False, False]
    for one in three:
        one.print0("rank", one.rank)
    assert capsys.readouterr().out == "rank 0\n"

@pytest.mark.parametrize("threads, counts, size", [("1", [4], 1), ("4", [4, 3], 1), ("4", [1], 1)])
def test_a_single_process_is_this_one(threads, counts, size, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: int(threads))
    monkeypatch.setattr(retro.run.processes, "Other", None)
    found = []
    launch(lambda _: found.append(join(torch.device("cpu"))), None, *counts)
    assert found == [ALONE] and found[0].world == size

@linux
@pytest.mark.parametrize("world", [2, 3])
def test_launched_processes_share_what_gathered_ones_do(world, tmp_path, monkeypatch):
    """What the ranks would have by hand; no port is open meanwhile."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: world)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    before = listening()

    def script(config):
        processes = join(torch.device("cpu"))
        rank = processes.rank
        found = [
            processes.world, processes.all_gather([f"{rank} a"] * rank),
            processes.all_reduce(torch.tensor([rank, 10.0])).tolist(),
            processes.all_reduce(torch.tensor(rank)).tolist(), [*(listening() - before)],
        ]  # fmt: skip
        (tmp_path / str(rank)).write_text(json.dumps(found))
        processes.barrier()
        processes.leave()

    launch(script, None)
    gathered = [f"{rank} a" for rank in range(world) for _ in range(rank)]
    total = world * (world - 1) // 2
    for rank in range(world):
        found = json.loads((tmp_path / str(rank)).read_text())
        assert found == [world, gathered, [total, 10.0 * world], total, []]
    assert join(torch.device("cpu")) == ALONE

def listening() -> set[str]:
    """The ports that this process has open."""
    own = {os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if os.path.lexists(fd)}
    rows = [line.split() for name in ("tcp", "tcp6") if Path(f"/proc/net/{name}").exists()
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]  # fmt: skip
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}

@pytest.mark.parametrize("name", ["CREW", "RETRO_LAUNCHED", "WORLD_SIZE", "RANK", "MASTER_PORT"])
def test_a_variable_of_anyones_means_nothing(name, monkeypatch):
    monkeypatch.setenv(name, "7")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found = []
    launch(lambda _: found.append(join(torch.device("cpu"))), None)
    assert found == [ALONE]

class Launched:
    """`train.py` on two threads, as a user starts it."""

    def __init__(self, base: Path, folder: Path, *flags: str, **settings):
        settings = SMALL | settings | dict(base=base, run_dir=folder)
        flags += tuple(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())
        flags += ("--no-gap-check",)  # a random model has none
        self.folder = folder
        self.first = Popen(
            [sys.executable, "train.py", *flags],
            cwd=ROOT, env=os.environ | dict(OMP_NUM_THREADS="2"), stdout=PIPE, stderr=STDOUT,
        )  # fmt: skip

    def others(self) -> list[int]:
        """The ids of its other processes, those that still run."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue  # it has just ended
            if str(self.folder).encode() in words and int(process.name) != self.first.pid:
                found.append(int(process.name))
        return found

    def until_it_trains(self) -> None:
        while not (self.folder / "metrics.jsonl").exists():
            assert self.first.poll() is None, self.first.stdout.read().decode()
            time.sleep(0.05)

    def kill(self) -> None:
        """The first of them, and wait for the end of the others."""
        self.first.kill()
        self.first.communicate()
        give_up = time.time() + 10
        while self.others() and time.time() < give_up:
            time.sleep(0.05)

SMALL = dict(envs="hotpot", gap_tasks=2, train_tasks=8, updates=2, batch_reflections=4, minibatch=2,
             eval_tasks=2, retries=1, min_well_formed=0.0, max_kl=1e9)  # fmt: skip

@pytest.mark.slow
@linux
def test_train_runs_in_two_processes_and_resumes_in_two(tiny_base, tmp_path):
    run = Launched(tiny_base, tmp_path / "run")
    said = run.first.communicate()[0].decode()
    assert run.first.returncode == 0, said
    (versions,) = json.loads((run.folder / "versions.json").read_text())["runs"]
    assert (versions["processes"], versions["threads"]) == (2, 1)
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert said.count("2 unseen tasks of hotpot") == 1 and not run.others()

    killed = Launched(tiny_base, tmp_path / "killed")
    killed.until_it_trains()
    killed.kill()
    resumed = Launched(tiny_base, tmp_path / "killed", "--resume")
    said = resumed.first.communicate()[0].decode()
    assert resumed.first.returncode == 0, said
    assert outcome(run.folder) == outcome(killed.folder)

    again = Launched(tiny_base, tmp_path / "run")  # an error is said once
    said = again.first.communicate()[0].decode()
    assert again.first.returncode == 2 and said.startswith("error: ") and said.count("\n") == 1

@pytest.mark.slow
@linux
def test_no_process_outlives_the_first(tiny_base, tmp_path):
    run = Launched(tiny_base, tmp_path / "run", updates=1000)
    run.until_it_trains()
    assert len(run.others()) == 1
    run.kill()
    assert not run.others()

@pytest.mark.slow
@linux
def test_a_run_that_loses_a_process_ends(tiny_base, tmp_path):
    run = Launched(tiny_base, tmp_path / "run", updates=1000)
    run.until_it_trains()
    os.kill(run.others()[0], signal.SIGKILL)
    said = run.first.communicate(timeout=60)[0].decode()
    assert run.first.returncode == 1 and "Traceback" not in said
    assert said.splitlines()[-1] == ("error: process 2 of 2 was ended by SIGKILL; --resume goes on "
                                     "from the last checkpoint")  # fmt: skip

def main(path: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    processes = join(torch.device("cpu"))
    with redirect_stdout(StringIO()) as printed:
        processes.print0("rank", processes.rank)
    results = dict(
        cases=[train(processes, *case, WHOLE[processes.world], processes.world)
               for case in CASES],
        # the first has fewer
        gathered=processes.all_gather([f"{processes.rank} {x}" for x in "ab"
                                       if x > "a" or processes.rank]),
        sharded=processes.shard(list(range(5))),
        reduced=processes.all_reduce(torch.tensor([processes.rank, 10.0])),
        printed=printed.getvalue(),
    )
    processes.barrier()
    results["threads"] = dict(within=threads())
    processes.leave()
    results["threads"]["after"] = threads()
    torch.save(results, path)

@dataclass
class Dying:
    """Settings of a script that one of its ranks does not survive."""

    run_dir: str = "nowhere"
    rank: int = 0

def die(config: Dying) -> None:
    processes = join(torch.device("cpu"))
    for number in range(10**4):
        processes.all_reduce(torch.ones(3))
        if number == 3 and processes.rank == config.rank:
            print("dies at", time.time(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)

if __name__ == "__main__":
    if sys.argv[1].isdigit():
        launch(die, Dying(rank=int(sys.argv[1])), 1)
    else:
        main(sys.argv[1])

def torchrun(*arguments, nodes=1, a_node=3) -> list[Popen]:
    """A script by torchrun; of several nodes each has an agent here."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    where = ["--nnodes", str(nodes), "--nproc-per-node", str(a_node), "--master-addr", "localhost",
             "--master-port", free_port()]  # fmt: skip
    return [
        Popen([sys.executable, "-m", "torch.distributed.run", *where, "--node-rank", str(node),
               *map(str, arguments)], cwd=ROOT, env=env, stdout=PIPE, stderr=STDOUT, text=True)
        for node in range(nodes)
    ]  # fmt: skip

@pytest.mark.slow
@linux
@pytest.mark.parametrize("rank, nodes, a_node", [(0, 1, 3), (3, 2, 2)])
def test_a_rank_that_dies_ends_the_others_in_seconds_with_one_line(rank, nodes, a_node):
    agents = torchrun(Path(__file__), rank, nodes=nodes, a_node=a_node)
    said = "\n".join(agent.communicate(timeout=200)[0] for agent in agents)
    assert all(agent.returncode == 1 for agent in agents), said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "another process of this run has ended" in lines[0], said
    assert "[rank" not in said, said
    (died,) = re.findall(r"dies at ([\d.]+)", said)
    # as torchrun reports them: its agents themselves may wait for one another
    ends = [datetime.strptime(at, "%Y-%m-%d_%H:%M:%S").timestamp()
            for at in re.findall(r"time +: (\S+)", said)]  # fmt: skip
    assert len(ends) == nodes * a_node and max(ends) - float(died) < 10, said

@pytest.mark.slow
@linux
def test_two_machines_train_as_one_with_as_many_ranks(tiny_base, tmp_path):
    """Uneven shares: of five tasks the first rank plays two."""
    for nodes, a_node in ((1, 4), (2, 2)):
        settings = SMALL | dict(base=tiny_base, run_dir=tmp_path / str(nodes), gap_tasks=1,
                                train_tasks=5, updates=1, batch_reflections=8, minibatch=4,
                                action_tokens=2, reflection_tokens=4)  # fmt: skip
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        agents = torchrun("train.py", *flags, "--no-gap-check", nodes=nodes, a_node=a_node)
        said = [agent.communicate(timeout=280)[0] for agent in agents]
        assert all(agent.returncode == 0 for agent in agents), said
        assert "".join(said).count("2 unseen tasks of hotpot") == 1
    assert outcome(tmp_path / "1") == outcome(tmp_path / "2")

@pytest.mark.slow
@linux
def test_torchrun_with_fewer_tasks_than_ranks(tiny_base, tmp_path):
    run, found = tmp_path / "run", tmp_path / "found.json"
    settings = SMALL | dict(base=tiny_base, run_dir=run, gap_tasks=1, train_tasks=2, updates=1,
                            batch_reflections=6, minibatch=3)  # fmt: skip
    asked = dict(run_dir=run, env="hotpot", tasks=2, choice_tasks=1, retries=1, json=found)
    for script, own, *others in (("train.py", settings, "--no-gap-check"), ("eval.py", asked)):
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in own.items()] + others
        (agent,) = torchrun(script, *flags)
        said = agent.communicate()[0]
        assert agent.returncode == 0, said
        assert said.count("2 unseen tasks of") + said.count("2 tasks of") == 1
    assert {one["n"] for one in json.loads(found.read_text())["methods"].values()} == {2}
