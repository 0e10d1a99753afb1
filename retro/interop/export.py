"""A trained reflector as files that transformers and PEFT read: a whole folder, or none.

    python -m retro.interop.export --run-dir runs/mine --out mine
    python -m retro.interop.export --run-dir runs/mine --out mine --merge

The first writes mine/base, the run's base with a tokenizer.json, and mine/adapter, which
peft.PeftModel.from_pretrained puts on top. The second writes one model, W + (alpha / r) B A.
"""

import retro.run.loading  # isort: skip  # noqa: F401  (Ctrl-C from here on)
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from retro.lora import load_adapter, lora_layers
from retro.model import GPT
from retro.run.cli import option, parse, run_script
from retro.run.files import (
    make_folder,
    model_folder,
    read_json,
    scratch_of,
    sync,
    write_json,
    write_tensors,
)
from retro.run.finished import part_of, read_run
from retro.run.model_files import ADAPTER_SETTINGS, ADAPTER_WEIGHTS
from retro.run.tokenizer_json import HFTokenizer, as_tokenizer_json
from retro.tokenizer import EOS, load

@dataclass(frozen=True)
class Config:
    run_dir: str = option("runs/joint", "folder of a finished run of train.py", "export")
    out: str = option("exported", "folder that is written, new or empty", "export")
    merge: bool = option(False, "one model, the adapter inside its weights", "export")

def main(config: Config) -> None:
    run, out = Path(config.run_dir), Path(config.out).resolve()
    settings = read_run(run, "base")
    base = model_folder(settings["reflector"] or settings["base"])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {config.out}: is there already and not an empty folder")
    adapter = part_of(run, "adapter")
    model = GPT.from_pretrained(base, context=settings.get("context", 0))
    load_adapter(model, adapter)  # what does not fit is not copied either
    # a folder that becomes `out` when it is whole; or, inside it, one whose parts move up
    stays = out.exists() and (out == Path.cwd() or os.path.ismount(out)
                              or not os.access(out.parent, os.W_OK))  # fmt: skip
    scratch = scratch_of(out / "parts" if stays else out)
    try:
        make_folder(scratch)
        if config.merge:
            write_merged(model, base, scratch)
        else:
            write_parts(base, adapter, scratch, Path(config.out))
        if stays:
            for part in sorted(scratch.iterdir()):
                os.replace(part, out / part.name)
            sync(out)
        else:
            if out.exists():
                out.rmdir()
            os.replace(scratch, out)
            sync(out.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not settings.get("adapt_prompt", True):
        print("note: trained with the adapter off on the prompt; transformers and PEFT put it on")
        print("      all tokens, so what it writes there differs (--adapt-prompt trains it so)")
    print(f"wrote {config.out}/")

def write_parts(base: Path, adapter: Path, out: Path, name: Path) -> None:
    """The base and the adapter beside each other, in a folder that will have this name."""
    for path in [base / "config.json", *base.glob("model*.safetensors*")]:
        copy(path, out / "base" / path.name)
    copy_tokenizer(base, out / "base")
    peft = read_json(adapter / ADAPTER_SETTINGS)
    write_json(out / "adapter" / ADAPTER_SETTINGS,
               peft | {"base_model_name_or_path": str(name / "base")})  # fmt: skip
    copy(adapter / ADAPTER_WEIGHTS, out / "adapter" / ADAPTER_WEIGHTS)

def copy(path: Path, out: Path) -> None:
    make_folder(out.parent)
    shutil.copyfile(path, out)
    sync(out)

def copy_tokenizer(base: Path, out: Path) -> None:
    """tokenizer.json and tokenizer_config.json, written anew for a tokenizer of ours."""
    tokenizer = load(base)
    if isinstance(tokenizer, HFTokenizer):
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                     "generation_config.json", "chat_template.jinja",
                     "chat_template.json"):  # fmt: skip
            if (base / name).exists():
                copy(base / name, out / name)
        return
    ours = as_tokenizer_json(tokenizer.ranks, tokenizer.pattern, tokenizer.special_tokens)
    write_json(out / "tokenizer.json", ours)
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS}
    write_json(out / "tokenizer_config.json", kind)
    write_json(out / "generation_config.json", {"eos_token_id": tokenizer.eos})

@torch.no_grad()
def write_merged(model: GPT, base: Path, out: Path) -> None:
    """One model in float32: a merge rounded to bfloat16 would lose what a small adapter adds."""
    tensors = {n: t for n, t in model.state_dict().items() if ".lora_" not in n}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    tensors |= {f"{name}.weight": layer.merged() for name, layer in lora_layers(model)}
    write_tensors(out / "model.safetensors", tensors)
    settings = read_json(base / "config.json")
    settings.pop("torch_dtype", None)  # the older name of dtype
    write_json(out / "config.json", {**settings, "dtype": "float32"})
    copy_tokenizer(base, out)

if __name__ == "__main__":
    run_script(main, parse(Config, __doc__))
