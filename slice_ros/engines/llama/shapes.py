"""GGUF models with random weights: a small one to start with, and exact public shapes, whose speed is the real model's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Quantization
from gguf import TokenType

from slice_ros.engines.llama.architectures import SHAPES, ModelShape, is_quantized
from slice_ros.paths import cache_dir, replacing, share_dir

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, which the special tokens below belong to."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QUANTIZATIONS = {"q4_0": Quantization.Q4_0, "q8_0": Quantization.Q8_0, "f16": Quantization.F16, "f32": Quantization.F32}
WRITE_BYTES = 32 * 2**20
"""Size of the random pattern that fills the tensors, and of one write."""


START_SHAPE = ModelShape("start", "llama", 256 + len(SPECIAL_TOKENS), 256, 4, 4, 2, 768, 32768)
SHIPPED_MODEL = "robot-q8_0.gguf"
"""What ``make train`` makes; docs/model.md is its model card."""
START_VERSION = 1
"""Raise it with every change to the start model, so that a cached older one is not taken for it."""


def default_model_path() -> Path:
    """The model to serve when none is named: the one that ships with the package, else the start model.

    Raises:
        OSError: the cache directory cannot be written.
    """
    shipped = share_dir() / "models" / SHIPPED_MODEL
    return shipped if shipped.exists() else start_model_path()


def start_model_path() -> Path:
    """The start model, made on first use: it never ends an answer by itself, so that scripted answer lengths hold.

    Raises:
        OSError: the cache directory cannot be written.
    """
    path = cache_dir() / "models" / f"start-v{START_VERSION}.gguf"
    if not path.exists():
        make_start_model(path)
    return path


def make_start_model(path: Path, *, shape: ModelShape = START_SHAPE, seed: int = 1) -> None:
    """Write a small F32 model that babbles printable ASCII: a place holder for a trained one, with the same tokens and chat template.

    The first embedding dimension is the same for every token and no block writes to it, so that the output matrix can use it as a bias.
    """
    rng = np.random.default_rng(seed)

    def values(name: str, dimensions: tuple[int, ...]) -> npt.NDArray[np.float32]:
        if len(dimensions) == 1:
            return np.ones(dimensions, np.float32)
        matrix: npt.NDArray[np.float32] = rng.standard_normal(dimensions, np.float32) / np.float32(np.sqrt(dimensions[1]))
        if name == "token_embd.weight":
            matrix *= np.sqrt(dimensions[1])
            matrix[:, 0] = 4.0
        elif name == "output.weight":
            matrix *= 3.0
            matrix[:, 0] = [_taste(token) for token in range(len(matrix))]
        elif name.endswith(("attn_output.weight", "ffn_down.weight")):
            matrix[0] = 0.0
        return matrix

    def write(writer: gguf.GGUFWriter) -> None:
        for name, dimensions in shape.tensors():
            writer.write_tensor_data(values(name, dimensions))

    _write_model(path, shape, Quantization.F32, write)


def make_adapter(path: Path, *, seed: int, width: int = START_SHAPE.embedding_length, rank: int = 4) -> None:
    """Write a LoRA adapter of random weights for the attention's output of the first block.

    Args:
        width: the model's embedding length.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for part, dimensions in (("lora_a", (rank, width)), ("lora_b", (width, rank))):
        writer.add_tensor(f"blk.0.attn_output.weight.{part}", rng.standard_normal(dimensions).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _taste(token: int) -> float:
    """How much the start model likes a token: words more than digits and signs, nothing that upsets a terminal."""
    if token == ord(" ") or chr(token) in "etaoinshrdlu":
        return 1.0
    if ord("a") <= token <= ord("z"):
        return 0.4
    if ord(" ") < token <= ord("~"):
        return -0.8
    return -20.0


def make_model(
    shape: ModelShape,
    path: Path,
    quantization: str = "q4_0",
    *,
    seed: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Write a model of an exact public shape with random weights, for timing; its words mean nothing.

    Weights are drawn in their quantised form and small enough that activations stay finite. Memory use is bounded by a few ``WRITE_BYTES``.

    Args:
        quantization: one of ``QUANTIZATIONS``; norms and biases stay F32.
        progress: called with bytes written and bytes in all.

    Raises:
        OSError: the file cannot be written.
        ValueError: no such quantization.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization is {quantization!r}; it must be one of {', '.join(QUANTIZATIONS)}")
    kind = QUANTIZATIONS[quantization]
    rng = np.random.default_rng(seed)
    tensors = list(shape.tensors())
    total = sum(_nbytes(name, dimensions, kind) for name, dimensions in tensors)
    pattern = _random_pattern(kind, 0.7 / np.sqrt(shape.embedding_length), rng)

    def write(writer: gguf.GGUFWriter) -> None:
        done = 0
        for name, dimensions in tensors:
            nbytes = _nbytes(name, dimensions, kind)
            if is_quantized(name, dimensions):
                chunks = _cycle(pattern, int(rng.integers(len(pattern))), nbytes)
            else:
                chunks = iter((_full_precision(name, dimensions, rng).view(np.uint8),))
            for chunk in chunks:
                chunk.tofile(writer.fout[0])
                done += chunk.nbytes
                progress(done, total)
            writer.write_padding(writer.fout[0], nbytes)

    _write_model(path, shape, kind, write)


def _random_pattern(kind: Quantization, deviation: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Random weights of the given standard deviation, as bytes, shape (blocks, bytes of a block).

    The number of blocks is a prime, so that no two rows of a matrix filled with repetitions are equal.
    """
    blocks = _prime_below(WRITE_BYTES // _block_bytes(kind))
    if kind in (Quantization.F16, Quantization.F32):
        dtype = np.float16 if kind is Quantization.F16 else np.float32
        floats = rng.standard_normal(blocks, np.float32) * np.float32(deviation)
        as_bytes: npt.NDArray[np.uint8] = floats.astype(dtype).view(np.uint8).reshape(blocks, -1)
        return as_bytes
    # ggml's Q4_0 and Q8_0 blocks: a half-precision scale, then 32 integers, uniform in -8..7 or -128..127 here.
    levels = 16 if kind is Quantization.Q4_0 else 256
    pattern = rng.integers(0, 256, (blocks, _block_bytes(kind)), np.uint8)
    pattern[:, :2] = np.array([deviation * np.sqrt(12.0) / levels], np.float16).view(np.uint8)
    return pattern


def _cycle(pattern: npt.NDArray[np.uint8], first: int, nbytes: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The pattern repeated from a given block on, in large pieces, nbytes in all."""
    flat = pattern.reshape(-1)
    start = first * pattern.shape[1]
    while nbytes > 0:
        piece = flat[start : start + nbytes]
        yield piece
        nbytes -= len(piece)
        start = 0


def _prime_below(n: int) -> int:
    while any(n % factor == 0 for factor in range(2, int(n**0.5) + 1)):
        n -= 1
    return n


def _block_bytes(kind: Quantization) -> int:
    return int(gguf.GGML_QUANT_SIZES[kind][1])


def _full_precision(name: str, dimensions: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A tensor that is not quantised: states fade, convolutions take the mean, and each token has experts of its own."""
    if "ffn_gate_inp." in name:
        router: npt.NDArray[np.float32] = rng.standard_normal(dimensions, np.float32) / np.float32(np.sqrt(dimensions[-1]))
        return router
    if name.endswith(".bias"):
        return np.zeros(dimensions, np.float32)
    return np.full(dimensions, -1.0 if name.endswith("ssm_a") else 0.3 if "conv" in name else 1.0, np.float32)


def _nbytes(name: str, dimensions: tuple[int, ...], kind: Quantization) -> int:
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind if is_quantized(name, dimensions) else Quantization.F32]
    return int(np.prod(dimensions)) // int(per_block) * int(block_bytes)


def _write_model(path: Path, shape: ModelShape, kind: Quantization, write: Callable[[gguf.GGUFWriter], None]) -> None:
    """Write metadata, vocabulary and tensor table, then let ``write`` add the tensors in the table's order."""
    with replacing(path) as unfinished:
        writer = gguf.GGUFWriter(unfinished, shape.architecture)
        writer.add_name(shape.name)
        writer.add_file_type({"Q4_0": 2, "Q8_0": 7, "F16": 1, "F32": 0}[kind.name])  # llama.cpp's llama_ftype
        shape.describe(writer)
        _add_vocabulary(writer, shape.vocab_size)
        for name, dimensions in shape.tensors():
            of = kind if is_quantized(name, dimensions) else Quantization.F32
            writer.add_tensor_info(name, dimensions, np.dtype(np.float32), _nbytes(name, dimensions, kind), raw_dtype=of)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.write_padding(writer.fout[0], writer.fout[0].tell())
        write(writer)
        writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """A byte-level tokenizer: token b is byte b, then made-up words that no text becomes, the special tokens last."""
    words = size - 256 - len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_letters(), *map(_word, range(words)), *SPECIAL_TOKENS])
    writer.add_token_types([TokenType.NORMAL] * (256 + words) + [TokenType.CONTROL] * len(SPECIAL_TOKENS))
    # llama.cpp insists on merges. These two bytes never meet in UTF-8.
    writer.add_token_merges(["\u00fe \u00ff"])
    writer.add_eos_token_id(size - len(SPECIAL_TOKENS))
    writer.add_eot_token_id(size - 1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def byte_letters() -> list[str]:
    """The printable stand-ins of the 256 bytes, as GPT-2 chose them: printable Latin-1 is itself, the others follow U+0100 in order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = iter(range(256))
    return [chr(byte) if byte in printable else chr(256 + next(others)) for byte in range(256)]


def _word(number: int) -> str:
    """A word of four letters after a space (U+0120 stands for it), a different one for each number below 26**4."""
    return "\u0120" + "".join(chr(ord("a") + number // 26**digit % 26) for digit in range(4))


def main(argv: list[str] | None = None) -> int:
    """Command line of ``python -m slice_ros.engines.llama.shapes``."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    parser = argparse.ArgumentParser(
        prog="python -m slice_ros.engines.llama.shapes",
        description="Write a GGUF model of a public shape with random weights. It is as fast as the real one, and says nothing sensible.",
    )
    parser.add_argument("--shape", required=True, choices=sorted(SHAPES), help="whose shape")
    parser.add_argument("--type", default="q4_0", choices=sorted(QUANTIZATIONS), help="type of the matrices (default: %(default)s)")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="file to write")
    parser.add_argument("--seed", default=1, type=int, help="the same seed gives the same file (default: %(default)s)")
    args = parser.parse_args(argv)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(f"{args.shape} {args.type}", total=None)
            make_model(
                SHAPES[args.shape],
                args.output,
                args.type,
                seed=args.seed,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except OSError as error:
        print(f"cannot write {args.output}: {error.strerror or error}", file=sys.stderr)  # noqa: T201 - a command line tool
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
