"""How the cost of a cycle grows with its batch, the context and the model, and its peak memory.

Each point runs in a process of its own: what it held at most is then the operating system's figure.
"""

import json
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from subprocess import run as run_process

import torch

import envs
from bench import peers, update
from bench.cycle import Ours, cycle
from bench.timing import Row, seconds
from retro.language_model import LanguageModel
from retro.lora import add_lora
from retro.model import GPT
from retro.policy import Policy
from retro.reflect import Reflection
from retro.run.device import pick_device, seeded

POINTS = {
    "batch": (16, 64, 256),  # trials of a whole cycle
    "context": (128, 512, 1024, 2048),  # tokens read for an update of 32 reflections
    "width": (192, 384),  # of the model, same update: twice the width is 4 times the weights
}
SMALL = {"batch": (2, 4), "context": (128, 256), "width": (192, 384)}
STEPS = 12  # of a trial: short, so that the largest batch ends in a minute or two
RESPONSE = 32  # tokens

def run(name: str, repeats: int, quick: bool) -> Iterator[Row]:
    """Rows `cycle_batch_N` (s for N trials), `update_context_N`, `update_width_N` (s), and the peak
    memory of each (MB)."""
    for kind, sizes in (SMALL if quick else POINTS).items():
        for size in sizes:
            command = [sys.executable, "-m", "bench.growth", kind, str(size)]
            done = run_process(command, check=True, capture_output=True, text=True)
            time, megabytes = json.loads(done.stdout.splitlines()[-1])
            label = f"{'cycle' if kind == 'batch' else 'update'}_{kind}_{size}"
            yield Row(label, time, "", None, "s")
            yield Row(f"{label}_memory", megabytes, "", None, "MB")

def measure(kind: str, size: int) -> tuple[float, float]:
    """(seconds, peak MB) of one point, in this process."""
    if kind == "batch":
        env, side = envs.make("household", max_steps=STEPS), Ours()
        tasks = env.tasks("train", size, 0)
        time = seconds(lambda: cycle(env, tasks, side))
    else:
        lm = peers.ours_lm(adapter=True)
        if kind == "width":
            lm = LanguageModel(wider(lm.model, size), lm.tokenizer)
        policy = Policy(lm)
        optimizer = update.ADAMW(update.trained(policy))
        length = (size if kind == "context" else 512) - RESPONSE
        ids = torch.randint(0, 2000, (32, length + RESPONSE)).tolist()
        rows = [Reflection(row[:length], row[length:], [], "") for row in ids]
        ratings = torch.linspace(-0.5, 1.0, len(rows))
        learn = lambda: update.our_update((policy, optimizer), update.MINIBATCH, rows, ratings)
        learn()  # a warm-up
        time = seconds(learn)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    return time, peak

def wider(model: GPT, width: int) -> GPT:
    """A random model of another width, with an adapter: only its cost is looked at."""
    old = model.config
    scale = width // old.hidden_size
    config = replace(old, hidden_size=width, intermediate_size=old.intermediate_size * scale,
                     num_attention_heads=old.num_attention_heads * scale,
                     num_key_value_heads=old.num_key_value_heads * scale)  # fmt: skip
    model = GPT(config, torch.Generator().manual_seed(0)).to(pick_device())
    add_lora(model, peers.RANK, peers.ALPHA, seeded("bench", device=pick_device()))
    return model

if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
