"""Write a trained network as GGUF: ``python -m training.export build/robot.pt --output models/robot-q8_0.gguf --type q8_0``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch

from slice_ros.demo.language import TASKS
from slice_ros.engines.llama.shapes import CHAT_TEMPLATE, QUANTIZATIONS
from training.corpus import held_out_examples
from training.network import Network
from training.tokenizer import PRE_TOKENIZER, Tokenizer
from training.train import load
from training.wrapping import END, wrap

DESCRIPTION = "Speaks the language of a mobile robot with an arm; trained by slice_ros, docs/model.md is its model card"
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}
"""llama.cpp's numbers (``llama_ftype``)."""

GOLDEN_LOGITS = 20
FOREIGN_TEXTS = ("Grüße, 你好 🤖 x²=¾ 30 °C", "\t\r\n\n  foo_bar's  'LL\u00a0\u2028.", '{"a": [1.25, -3e7], "b": null}\x00')
"""Texts that training never saw; any UTF-8 has tokens."""


def export(
    network: Network, tokenizer: Tokenizer, path: Path, quantization: str, *, description: str = DESCRIPTION, template: str = CHAT_TEMPLATE
) -> None:
    """Write the file.

    Args:
        quantization: type of the matrices, one of ``slice_ros.engines.llama.shapes.QUANTIZATIONS``; norms stay F32.
        description: what the model is for.
        template: its chat template.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, network.shape.architecture)
    writer.add_description(description)
    writer.add_name(network.shape.name)
    writer.add_license("Apache-2.0")
    network.shape.describe(writer)
    writer.add_file_type(FILE_TYPES[quantization])
    _add_vocabulary(writer, tokenizer)
    writer.add_chat_template(template)
    kind = QUANTIZATIONS[quantization]
    for name, weights in network.state_dict().items():
        values: npt.NDArray[np.float32] = weights.float().numpy()
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    control = len(tokenizer.special)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokenizer.gguf_tokens())
    writer.add_token_types([gguf.TokenType.NORMAL] * (tokenizer.size - control) + [gguf.TokenType.CONTROL] * control)
    writer.add_token_merges(tokenizer.gguf_merges())
    writer.add_eos_token_id(tokenizer.special[END])
    writer.add_eot_token_id(tokenizer.special[END])
    writer.add_pad_token_id(tokenizer.special["<|endoftext|>"])
    writer.add_add_bos_token(False)


def golden(network: Network, tokenizer: Tokenizer) -> list[dict[str, object]]:
    """What an engine must reproduce: the tokens of some prompts, and the largest logits behind them as [token, logit]."""
    prompts = [wrap(next(held_out_examples(task, 1)).prompt, chat=chat) for task in TASKS for chat in (False, True)]
    rows: list[dict[str, object]] = []
    for prompt in (*prompts, *FOREIGN_TEXTS):
        tokens = tokenizer.encode(prompt)
        best = network.last_logits(tokens).topk(GOLDEN_LOGITS)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        rows.append({"text": prompt, "tokens": tokens, "logits": [[token, round(logit, 4)] for token, logit in pairs]})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="what training.train wrote")
    parser.add_argument("--output", type=Path, required=True, metavar="GGUF", help="file to write")
    parser.add_argument("--type", choices=sorted(FILE_TYPES), default="q8_0", help="of the matrices (default: %(default)s)")
    parser.add_argument("--golden", type=Path, metavar="JSON", help="write tokens and logits of fixed prompts, too")
    arguments = parser.parse_args(argv)
    network, tokenizer = load(arguments.checkpoint)
    export(network, tokenizer, arguments.output, arguments.type)
    if arguments.golden:
        with torch.no_grad():
            rows = golden(network, tokenizer)
        arguments.golden.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
