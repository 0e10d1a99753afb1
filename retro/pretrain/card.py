"""The card of a base: what it is, how it was made, what it can do."""

import hashlib
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from retro.actor import TEMPERATURE
from retro.pretrain.skills import open_base, rows_of, table
from retro.run.cli import option_of
from retro.run.files import write_atomically
from retro.run.processes import Processes

NEVER_NAMED = ("out", "games", "checkpoint_minutes")  # settings that are of one machine

def write_card(config: Any, state: dict, processes: Processes, n: int = 200) -> None:
    """CARD.md of the base in `config.out`; `state`: how far its run is. No path is in it."""
    out = Path(config.out)
    processes.barrier()  # until the base is written
    lm = open_base(out)
    skills = table(lm, rows_of(config.envs, "seen,unseen", config.games), n, processes)
    if not processes.is_main:
        return
    usual = {one.name: one.default for one in fields(config) if one.name not in NEVER_NAMED}
    changed = {k: v for k, v in asdict(config).items() if v != usual.get(k, v)}
    if config.start:
        changed["start"] = Path(config.start).resolve().name
    world = state["processes"]
    card = Path(__file__).with_name("card.txt").read_text().format(
        million=sum(p.numel() for p in lm.model.parameters()) / 1e6, vocab=lm.tokenizer.vocab_size,
        flags="".join(f" {option_of(k)} {v}" for k, v in changed.items()),
        date=time.strftime("%Y-%m-%d"), names=config.envs.replace(",", ", "), state=state,
        model=lm.model.config, tokens=state["tokens"] / 1e6, hours=state["seconds"] / 3600,
        processes=f"{world} process{'es' * (world > 1)}",
        config=config, n=n, temperature=TEMPERATURE, table=skills,
        hash=hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    )  # fmt: skip
    write_atomically(out / "CARD.md", card.encode())
    print(card)
