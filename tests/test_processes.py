"""Two processes that each hold half of a batch take the step of one that holds all of it; and
train.py, which starts the second one itself.
"""

import json
import os
import signal
import socket
import sys
import time
from contextlib import nullcontext, redirect_stdout
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

def train(processes: Processes, kind: str, target_kl: float | None, halves: int) -> tuple:
    """(how far the weights move, stats) in an update on this rank's rows; minibatches of 4 in all.
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
        stats = sft_update(policy, optimizer, mine, epochs=2, minibatch_size=4 // halves,
                           max_grad_norm=0.5, **settings)  # fmt: skip
    else:
        ratings = torch.linspace(-1, 1, N)[rows]
        batch = policy.load_batch(mine)
        old, _, values = policy.evaluate(batch)
        ref = old - torch.linspace(-0.3, 0.5, N)[rows][:, None]
        config = PPOConfig(epochs=2, minibatch_size=4 // halves, clip_coef=0.2, vf_coef=0.5,
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

CASES = [("sft", None), ("ppo", None), ("ppo", 1e-3)]

@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """[rank][case] -> (weights, stats), of two processes started as torchrun starts them."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:  # a free port
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    shared = os.environ | dict(
        MASTER_ADDR="localhost", MASTER_PORT=str(port), WORLD_SIZE="2",
        PYTHONPATH=str(ROOT),
    )
    started = [
        Popen([sys.executable, __file__, str(folder / str(rank))],
              env=shared | dict(RANK=str(rank), LOCAL_RANK=str(rank)))  # fmt: skip
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    return [torch.load(folder / str(rank)) for rank in range(2)]

@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_ranks_take_the_step_of_one(of_two, case, monkeypatch):
    """The one process visits, minibatch by minibatch, the rows that the two visit together."""
    shuffle = torch.randperm

    def joined(n, generator):  # local row i of rank r is row 2 i + r of all
        order = shuffle(n // 2, generator=generator)
        return torch.stack((2 * order, 2 * order + 1), dim=1).flatten()

    monkeypatch.setattr(torch, "randperm", joined)
    move, stats = train(ALONE, *CASES[case], halves=1)
    for rank in range(2):
        got, got_stats = of_two[rank]["cases"][case]
        assert (got - move).norm() < 1e-4 * move.norm(), ((got - move).norm(), move.norm())
        assert got_stats == pytest.approx(stats, rel=1e-4, abs=1e-6)
    assert torch.equal(of_two[0]["cases"][case][0], of_two[1]["cases"][case][0])
    if case == 2:
        assert stats["updates"] == 3, stats  # stopped early, after the same epoch
    other, _ = train(ALONE, *CASES[case], halves=2)  # the control: minibatches of 2
    assert (other - move).norm() > 0.1 * move.norm(), ((other - move).norm(), move.norm())

@pytest.mark.slow
def test_all_gather_all_reduce_and_shard(of_two):
    for rank in range(2):
        assert of_two[rank]["gathered"] == ["0 a", "0 b", "1 a", "1 b"]
        assert of_two[rank]["sharded"] == [[0, 2], [1, 3]][rank]  # of 5 rows one is nobody's
        assert of_two[rank]["reduced"].tolist() == [1.0, 20.0]
        assert of_two[rank]["printed"] == ("rank 0\n" if rank == 0 else "")

@pytest.mark.slow
@pytest.mark.skipif(not THREADS.exists(), reason="needs Linux's list of threads")
def test_no_thread_of_the_group_outlives_it(of_two):
    """One that drops its last tensor while Python ends aborts the process, now and then."""
    for rank in range(2):
        threads = of_two[rank]["threads"]
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
    """One of the two processes."""
    torch.set_num_threads(1)
    processes = join(torch.device("cpu"))
    with redirect_stdout(StringIO()) as printed:
        processes.print0("rank", processes.rank)
    results = dict(
        cases=[train(processes, *case, halves=2) for case in CASES],
        gathered=processes.all_gather([f"{processes.rank} {x}" for x in "ab"]),
        sharded=processes.shard(list(range(5))),
        reduced=processes.all_reduce(torch.tensor([processes.rank, 10.0])),
        printed=printed.getvalue(),
    )
    processes.barrier()
    results["threads"] = dict(within=threads())
    processes.leave()
    results["threads"]["after"] = threads()
    torch.save(results, path)

if __name__ == "__main__":
    main(sys.argv[1])

@pytest.mark.slow
@linux
def test_torchrun_with_fewer_tasks_than_ranks(tiny_base, tmp_path):
    run, found = tmp_path / "run", tmp_path / "found.json"
    settings = SMALL | dict(base=tiny_base, run_dir=run, gap_tasks=1, train_tasks=2, updates=1,
                            batch_reflections=6, minibatch=3)  # fmt: skip
    asked = dict(run_dir=run, env="hotpot", tasks=2, choice_tasks=1, retries=1, json=found)
    for script, own, *others in (("train.py", settings, "--no-gap-check"), ("eval.py", asked)):
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in own.items()] + others
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3", script]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        ended = Popen([*command, *flags], cwd=ROOT, env=env, stdout=PIPE, stderr=STDOUT, text=True)
        said = ended.communicate()[0]
        assert ended.returncode == 0, said
        assert said.count("2 unseen tasks of") + said.count("2 tasks of") == 1
    assert {one["n"] for one in json.loads(found.read_text())["methods"].values()} == {2}
