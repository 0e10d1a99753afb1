"""Options that name a benchmark's own files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from retro.run.cli import option

data_option = partial(option, group="data")

@dataclass(frozen=True)
class FileOptions:
    games: str = data_option("", "household: folder of ALFWorld's game.tw-pddl files, or one file")
    data: str = data_option("", "hotpot: a file of HotpotQA's questions")
    products: str = data_option("", "shop: WebShop's products; needs --attributes or --goals")
    attributes: str = data_option("", "shop: WebShop's attributes; without --goals of goals too")
    goals: str = data_option("", "shop: WebShop's file of instructions that people wrote")

def files_of(options: Any, known: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """name -> what `envs.make` takes, of the environments that files are given for. `known`: the
    options of each environment (`envs.FILES`).
    """
    given = {
        name: {key: path for key in keys if (path := getattr(options, key))}
        for name, keys in known.items()
    }
    shop = given["shop"]
    if shop and not ("products" in shop and len(shop) > 1):
        raise ValueError(f"--products {shop.get('products', '')!r}: shop needs --products, and "
                         "--attributes or --goals")  # fmt: skip
    return {name: files for name, files in given.items() if files}
