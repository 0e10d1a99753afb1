"""Progress bars: what is counted, how much of it is left, and the figures that matter, on one line
of at most 80 columns.
"""

import shutil

from tqdm import tqdm

WIDTH = 80
DELAY = 0.5  # seconds before a bar is shown: of work that is already done there is none
FORMAT = "{desc} {n_fmt}/{total_fmt} {unit} |{bar}| {remaining} left{postfix}"

def progress(total: int | None, desc: str, unit: str, *, initial: int = 0, shown: bool = True,
             unit_scale: bool = False) -> tqdm:  # fmt: skip
    """A bar of `total` units (None: not known yet), `initial` of which are done. What
    `set_postfix_str` says stands at its end.
    """
    width = min(WIDTH, shutil.get_terminal_size().columns)
    return tqdm(
        total=total, desc=desc, unit=unit, initial=initial, disable=not shown,
        unit_scale=unit_scale, ncols=width, bar_format=FORMAT, delay=DELAY,
    )  # fmt: skip
