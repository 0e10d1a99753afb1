"""--tensorboard: what TensorBoard reads is what metrics.jsonl holds; refused at once without it."""

import json
import sys

import pytest

import train
from retro.report.tensorboard import check_tensorboard, open_sink, scalars
from tests.small_run import GUESS, Killed, config, short_games  # noqa: F401

ABSENT = "--tensorboard: needs a package that is not there; pip install tensorboard"

def read(folder) -> dict[str, dict[int, float]]:
    """key -> {update: number}, as TensorBoard shows them."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder)).Reload()
    return {key: {event.step: event.value for event in events.Scalars(key)}
            for key in events.Tags()["scalars"]}  # fmt: skip

def flat(row: dict) -> dict[str, float]:
    """By another way: level after level, until none is left. A kind of cause may be "", none."""
    while any(isinstance(value, dict) for value in row.values()):
        levels = [{f"{key}/{k}": v for k, v in value.items()} if isinstance(value, dict)
                  else {key: value} for key, value in row.items()]  # fmt: skip
        row = {key: value for level in levels for key, value in level.items()}
    return {key: value for key, value in row.items() if value is not None}

def test_a_run_without_the_package_ends_before_any_work(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its import fails
    with pytest.raises(ValueError, match=ABSENT):
        train.main(config(tiny_base, tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=ABSENT):
        check_tensorboard()

def test_tensorboard_shows_the_metrics_of_a_run_that_was_killed(tiny_base, tmp_path, monkeypatch):
    """After the second update's line, before the checkpoint: the update is made anew."""
    pytest.importorskip("tensorboard")
    folder, health = tmp_path / "run", train.check_health
    monkeypatch.setattr(train, "choose", lambda *args: {})
    monkeypatch.setattr(train, "compare_methods", lambda *args: None)
    settings = config(tiny_base, folder, **GUESS | {"updates": 2})

    def killing(stats, *rest):
        raise Killed

    monkeypatch.setattr(train, "check_health", killing)
    with pytest.raises(Killed):  # without TensorBoard: it may come later
        train.main(settings)
    monkeypatch.setattr(train, "check_health", health)
    train.main(config(tiny_base, folder, resume=True, tensorboard=True,
                      **GUESS | {"updates": 2}))  # fmt: skip
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seen = read(folder / "tensorboard")
    assert [row["update"] for row in rows] == [0, 1]
    expected = {key: value for key, value in flat(rows[1]).items() if key != "update"}
    assert {*seen} == {*expected} > {"kl", "mean_rating_by_env/guess", "faithfulness/guess/n"}
    for key, value in expected.items():
        assert seen[key] == {1: pytest.approx(value, rel=1e-6)}, key

def test_what_was_written_beyond_a_checkpoint_is_hidden(tmp_path):
    pytest.importorskip("tensorboard")
    first = open_sink(tmp_path, 0)
    for update in range(3):
        first({"update": update, "kl": float(update)})
    second = open_sink(tmp_path, 1)
    second({"update": 1, "kl": 10.0})
    assert read(tmp_path)["kl"] == {0: 0.0, 1: 10.0}

def test_all_numbers_and_nothing_else():
    row = {"update": 3, "kl": 1.5, "success": None, "flag": "x", "by": {"a": {"n": 2, "c": None}}}
    assert dict(scalars(row)) == {"kl": 1.5, "by/a/n": 2}
