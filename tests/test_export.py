"""python -m retro.interop.export, read back by transformers, PEFT and ourselves."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from test_pretrained import FAMILIES, their_model
from tiny import largest_gap, random_ids, tiny_gpt

from retro import tokenizer
from retro.interop.export import Config, main
from retro.lora import add_lora, load_adapter, lora_parameters, save_adapter
from retro.model import GPT
from retro.pretrain import bpe
from retro.run.cli import run_script
from retro.run.files import read_json

TEXT = "You open the drawer 2. In it, you see a mug 1.\n> take mug 1 from drawer 2\n" * 5

def trained_run(folder, base, adapt_prompt=True):
    """A run folder as train.py leaves it, with an adapter that does something; and its model."""
    model = GPT.from_pretrained(base)
    add_lora(model, 3, 6.0, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for i, weight in enumerate(lora_parameters(model)):
            weight.normal_(std=0.3, generator=torch.Generator().manual_seed(i))
    save_adapter(model, folder / "adapter")
    settings = {"base": str(base), "adapt_prompt": adapt_prompt}
    (folder / "config.json").write_text(json.dumps(settings))
    return model

def close(a, b) -> bool:
    return largest_gap(a, b) < 1e-5 * max(1.0, b.abs().max().item())

def base_of(tmp_path, family) -> Path:
    """A random model of a family, in shards, with a tokenizer of ours."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)  # whatever ran before
    changes = {**FAMILIES[family], "vocab_size": 300}
    their_model(transformers, **changes).save_pretrained(tmp_path / "base", max_shard_size="20KB")
    bpe.train([TEXT], 300).save(tmp_path / "base")
    return tmp_path / "base"

@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama3 scaling", "qwen2", "qwen2, tied"])
@torch.no_grad()
def test_base_and_adapter_in_peft(tmp_path, family):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    ours, ids = trained_run(tmp_path, base_of(tmp_path, family)), random_ids(2, 30)
    main(Config(run_dir=str(tmp_path), out=str(tmp_path / "out")))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out/base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out/adapter").eval()
    assert close(ours(ids), theirs(ids).logits)
    assert not close(ours(ids), GPT.from_pretrained(tmp_path / "out/base")(ids))
    again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out/adapter").eval()
    assert close(ours(ids), again(ids).logits)

    theirs.save_pretrained(tmp_path / "theirs")  # and the way back, as PEFT writes it
    back = GPT.from_pretrained(tmp_path / "out/base")
    load_adapter(back, tmp_path / "theirs")
    assert torch.equal(back(ids), ours(ids))

def test_a_base_of_too_many_positions_is_exported_as_it_was_trained(tmp_path):
    """With --context; the exported model keeps its own number of positions."""
    base = tmp_path / "base"
    tiny_gpt(dtype=torch.float32, vocab_size=300).save_pretrained(base)
    bpe.train([TEXT], 300).save(base)
    trained_run(tmp_path, base)
    for name, more in (("config.json", {"context": 64}), ("base/config.json", {})):
        settings = json.loads((tmp_path / name).read_text())
        more = more or {"max_position_embeddings": 10_000_000}
        (tmp_path / name).write_text(json.dumps(settings | more))
    for merge, name in ((False, "parts/base"), (True, "merged")):
        out = tmp_path / name.split("/")[0]
        main(Config(run_dir=str(tmp_path), out=str(out), merge=merge))
        assert read_json(tmp_path / name / "config.json")["max_position_embeddings"] == 10_000_000

@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "llama, old names", "qwen2"])
@torch.no_grad()
def test_merged_in_transformers(tmp_path, family):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours, ids = trained_run(tmp_path, base_of(tmp_path, family)), random_ids(2, 30)
    main(Config(run_dir=str(tmp_path), out=str(tmp_path / "out"), merge=True))
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert close(ours(ids), theirs.eval()(ids).logits)
    assert close(ours(ids), GPT.from_pretrained(tmp_path / "out")(ids))

    coder = tokenizer.load(tmp_path / "base")  # qwen2's AutoTokenizer insists on its own pattern
    kind = transformers.PreTrainedTokenizerFast if family == "qwen2" else transformers.AutoTokenizer
    reader = kind.from_pretrained(tmp_path / "out")
    assert reader(TEXT)["input_ids"] == coder.encode(TEXT)
    assert reader.eos_token_id == coder.eos == theirs.generation_config.eos_token_id
    assert tokenizer.load(tmp_path / "out").encode(TEXT) == coder.encode(TEXT)

@torch.no_grad()
def test_a_rounded_base_is_merged_in_float32(tmp_path, tiny_base):
    """The shipped base is bfloat16: rounded like it, the merge would not give our logits."""
    GPT.from_pretrained(tiny_base).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    tokenizer.load(tiny_base).save(tmp_path / "base")
    ours, ids = trained_run(tmp_path, tmp_path / "base"), random_ids(2, 30)
    main(Config(run_dir=str(tmp_path), out=str(tmp_path / "out"), merge=True))
    assert close(GPT.from_pretrained(tmp_path / "out")(ids), ours(ids))

def test_what_is_refused_and_what_is_said(tmp_path, tiny_base, capsys):
    with pytest.raises(ValueError, match="holds no run .no config.json .*: run train.py first"):
        main(Config(run_dir=str(tmp_path), out=str(tmp_path / "out")))
    trained_run(tmp_path, tiny_base, adapt_prompt=False)
    main(Config(run_dir=str(tmp_path), out=str(tmp_path / "out")))
    said = capsys.readouterr().out
    assert "adapter off on the prompt" in said and said.endswith(f"wrote {tmp_path / 'out'}/\n")
    with pytest.raises(ValueError, match="not an empty folder"):
        main(Config(run_dir=str(tmp_path), out=str(tmp_path / "out")))
    settings = read_json(tmp_path / "out/adapter/adapter_config.json")
    assert settings["base_model_name_or_path"] == str(tmp_path / "out/base")
    good = (tmp_path / "adapter/adapter_model.safetensors").read_bytes()
    for damaged in (b"", b"garbage", good[:-9]):
        (tmp_path / "adapter/adapter_model.safetensors").write_bytes(damaged)
        for merge in (False, True):
            with pytest.raises(ValueError, match="adapter_model.safetensors: is not a whole"):
                main(Config(run_dir=str(tmp_path), out=str(tmp_path / "new"), merge=merge))
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(good)
    (tmp_path / "adapter").rename(tmp_path / "sft")
    with pytest.raises(SystemExit) as ended:
        run_script(main, Config(run_dir=str(tmp_path), out=str(tmp_path / "new")))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "has not come to its end" in said
    assert said.count("\n") == 1 and not (tmp_path / "new").exists()

@pytest.mark.parametrize("where", [".", "link", "into/nothing", "locked/out"])
@pytest.mark.parametrize("merge", [False, True])
def test_an_empty_folder_may_be_anywhere(tmp_path, tiny_base, monkeypatch, where, merge):
    """The one in which one stands, one behind a link, one in a folder that is not ours."""
    trained_run(tmp_path / "run", tiny_base)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "empty").mkdir()
    for link in ("link", "into"):
        if where.startswith(link):
            Path(link).symlink_to(tmp_path / "empty")
    if where == "locked/out":
        Path(where).mkdir(parents=True)
        allowed = os.access
        monkeypatch.setattr(os, "access",
                            lambda path, mode: path.name != "locked" and allowed(path, mode))
    stood = here.stat().st_ino
    main(Config(run_dir=str(tmp_path / "run"), out=where, merge=merge))
    found = {path.name for path in Path(where).iterdir()}
    assert found == ({"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                      "generation_config.json"} if merge else {"base", "adapter"})  # fmt: skip
    assert here.stat().st_ino == stood and Path.cwd() == here

@pytest.mark.parametrize("merge", [False, True])
def test_a_full_disk_leaves_no_half_an_export(tmp_path, tiny_base, monkeypatch, merge):
    """At every write in turn; an empty folder that was there stays."""
    trained_run(tmp_path, tiny_base)
    out, sync, copied, left = tmp_path / "out", os.fsync, shutil.copyfile, 0

    def full(*args):
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", lambda file: full() or sync(file))
    monkeypatch.setattr(shutil, "copyfile", lambda a, b: full() or copied(a, b))
    for n in range(1, 100):
        left = n
        out.mkdir()
        try:
            main(Config(run_dir=str(tmp_path), out=str(out), merge=merge))
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC
        kept = [path.name for path in tmp_path.iterdir()]
        assert not [name for name in kept if "scratch" in name], kept
        if not out.exists() or any(out.iterdir()):  # it had its name when the disk was found full
            assert (out / "config.json").exists() or (out / "adapter").exists()
            shutil.rmtree(out)
        else:
            out.rmdir()
    assert 5 < n < 99 and not [path for path in tmp_path.glob(".*")]
