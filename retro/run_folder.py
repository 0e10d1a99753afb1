"""A training run on disk: config, checkpoint, metrics, replay buffer; made to be killed and
resumed.

config.json         the settings
checkpoint          adapter, value head, optimiser, counters: replaced after each unit of work
metrics.jsonl       one line an update; README has the glossary
replay.jsonl        D_RL: every rated reflection
failed.jsonl        the failed trajectories that PPO reflects on
sft/, adapter/      the adapter after imitation and after PPO, in PEFT's format
reward/             the reward model of an offline run: its adapter, its head
results.json        success by retry for every method, a report for each environment; results.png if
                    matplotlib is there
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from retro import checkpoint
from retro.files import read_json, write_json
from retro.memory import JsonLines, ReplayBuffer
from retro.ranks import ALONE, Ranks

FREE = ("run_dir", "resume")  # settings that a resumed run may change


class RunFolder:
    """Opens the folder: a new one, or with `config.resume` one that was interrupted. Of several
    ranks one writes, the others read.

    `state` holds the counters that say how far the run is; `save` writes them with the weights, and
    what the files hold beyond that is dropped when the run is resumed.
    """

    def __init__(self, config, weights: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer,
                 ranks: Ranks = ALONE):  # fmt: skip
        self.path, self.ranks = Path(config.run_dir), ranks
        path = self.path
        self.weights, self.optimizer = weights, optimizer
        self.files = {
            "metrics": JsonLines(path / "metrics.jsonl", ranks=ranks),
            "replay": ReplayBuffer(path / "replay.jsonl", ranks),
            "failed": JsonLines(path / "failed.jsonl", ranks=ranks),
        }
        self.metrics, self.replay, self.failed = self.files.values()
        self.state: dict = {"lines": dict.fromkeys(self.files, 0)}
        if ranks.writes:
            self.open(config)
        ranks.wait()
        if (path / "checkpoint").exists():
            self.state = checkpoint.load(path / "checkpoint", weights, [optimizer])
        if ranks.writes:
            for name, file in self.files.items():
                file.truncate(self.state["lines"][name])
        ranks.wait()

    def open(self, config) -> None:
        """Make the folder, or check that it is the one to resume."""
        path = self.path
        settings = json.loads(json.dumps(asdict(config)))
        if (path / "config.json").exists():
            if not config.resume:
                raise ValueError(
                    f"{path}: holds a run already; --resume continues it, --run-dir names another"
                )
            old = read_json(path / "config.json")
            changed = [key for key in settings if key not in FREE and settings[key] != old.get(key)]
            if changed:
                raise ValueError(
                    f"{path}: was started with another {changed[0]}: {old.get(changed[0])!r}, "
                    f"now {settings[changed[0]]!r}"
                )
        elif config.resume:
            raise ValueError(f"{path}: no run to resume here")
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "config.json", settings)

    def save(self, **state) -> None:
        """Checkpoint: the weights, the optimiser, `state` and the number of lines in each file."""
        self.state |= state
        if not self.ranks.writes:
            return
        self.state["lines"] = {name: len(file) for name, file in self.files.items()}
        checkpoint.save(self.path / "checkpoint", self.weights, [self.optimizer], self.state)
