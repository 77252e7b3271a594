"""TRL reads and trains on what is exported, with the real small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.jobs.export import data

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_datasets_cache")]

COMMON: dict[str, Any] = {
    **{"max_steps": 2, "per_device_train_batch_size": 1, "use_cpu": True, "report_to": [], "max_length": 96},
    **{"save_strategy": "no", "logging_steps": 1, "bf16": False, "gradient_checkpointing": False, "seed": 1},
}


def exported(tmp_path: Path, format: str, **keys: Any) -> Any:
    """The train split of an export of a few rows, as ``datasets`` loads it."""
    from datasets import load_dataset

    run = data.write(tmp_path / "run", data.plain_rows(6))
    return load_dataset(str(data.export(run, format=format, splits={"train": 1.0}, **keys).folder))["train"]


def losses(trainer: Any) -> list[float]:
    """The losses of the steps taken."""
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("format", ["sft", "dpo", "reward", "kto"])
def test_trl_takes_every_format_for_conversational(tmp_path: Path, format: str, chat_model: str) -> None:
    from transformers import AutoTokenizer
    from trl.data_utils import apply_chat_template, is_conversational, maybe_extract_prompt

    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    record = exported(tmp_path, format)[0]
    assert is_conversational(record)
    assert maybe_extract_prompt(record) == record  # the prompt is explicit already
    turns = {k: v for k, v in record.items() if isinstance(v, list) or k == "label"}
    text = apply_chat_template(turns, tokenizer)
    best = next(text[k] for k in ("text", "chosen", "completion") if k in text)
    assert "The best answer to question 0 is this one." in best


def test_sft_trains(tmp_path: Path, chat_model: str) -> None:
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(output_dir=str(tmp_path / "out"), **COMMON)
    found = losses(SFTTrainer(model=chat_model, args=args, train_dataset=exported(tmp_path, "sft")))
    assert len(found) == 2 and all(0 < loss < 20 for loss in found)


def test_sft_reads_the_tools(tmp_path: Path, chat_model: str) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = [row | {"source": {"tools": '[{"name": "weigh_it"}]'}} for row in data.plain_rows(2)]
    run = data.write(tmp_path / "run", rows, source={"tools": pa.string()})
    exported = load_dataset(str(data.export(run, splits={"train": 1.0}).folder))["train"]
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    tokenizer.chat_template = "{% for t in tools or [] %}{{ t.name }} {% endfor %}" + tokenizer.chat_template
    args = SFTConfig(output_dir=str(tmp_path / "out"), **COMMON)
    trainer = SFTTrainer(model=chat_model, args=args, train_dataset=exported, processing_class=tokenizer)
    assert tokenizer.decode(trainer.train_dataset[0]["input_ids"]).startswith("weigh_it ")


def test_dpo_trains(tmp_path: Path, chat_model: str) -> None:
    from trl import DPOConfig, DPOTrainer

    args = DPOConfig(output_dir=str(tmp_path / "out"), **COMMON)
    found = losses(DPOTrainer(model=chat_model, args=args, train_dataset=exported(tmp_path, "dpo")))
    assert len(found) == 2 and found[0] == pytest.approx(0.693, abs=0.05)  # log 2: the policy is still its reference


def test_the_reward_trainer_takes_pairs_with_margins(tmp_path: Path, chat_model: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(chat_model, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    model.config.pad_token_id = tokenizer.pad_token_id
    args = RewardConfig(output_dir=str(tmp_path / "out"), **COMMON)
    trainer = RewardTrainer(
        model=model, args=args, train_dataset=exported(tmp_path, "reward"), processing_class=tokenizer
    )
    assert next(iter(trainer.get_train_dataloader()))["margin"].tolist() == [2.0]


def test_the_kto_trainer_takes_labelled_answers(tmp_path: Path, chat_model: str) -> None:
    from trl import KTOConfig, KTOTrainer

    args = KTOConfig(output_dir=str(tmp_path / "out"), **{**COMMON, "per_device_train_batch_size": 2})
    trainer = KTOTrainer(model=chat_model, args=args, train_dataset=exported(tmp_path, "kto"))
    assert len(trainer.train_dataset) == 12 and sum(trainer.train_dataset["label"]) == 6
    assert next(iter(trainer.get_train_dataloader()))
