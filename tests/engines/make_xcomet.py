"""Makes a tiny XCOMET checkpoint with random weights: ``python make_xcomet.py FOLDER``, in COMET's own environment."""

import sys
from pathlib import Path

import torch
import yaml
from comet.models import XCOMETMetric
from pytorch_lightning import Trainer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import XLMRobertaConfig, XLMRobertaTokenizerFast

WORDS = "Hello Hola world mundo uno one two dos number 日本語 Japan Japanese 0 1 2 3 4 5 6 7 8 9 , ."


def encoder(folder: Path) -> None:
    """A one-layer XLM-R configuration and its tokenizer: what the checkpoint's ``pretrained_model`` names."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        [WORDS] * 20, trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    XLMRobertaTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=130,
    ).save_pretrained(folder)


def main() -> None:
    torch.manual_seed(1)
    folder = Path(sys.argv[1])
    encoder(folder / "encoder")
    model = XCOMETMetric(
        encoder_model="XLM-RoBERTa",
        pretrained_model=str(folder / "encoder"),
        word_layer=2,
        hidden_sizes=[16, 8],
        load_pretrained_weights=False,
        layer_transformation="softmax",
    )
    for weights in model.parameters():  # the usual initialisation is so small that all texts would score alike
        torch.nn.init.normal_(weights, std=0.4)
    trainer = Trainer(logger=False, accelerator="cpu")
    trainer.strategy.connect(model)
    (folder / "checkpoints").mkdir()
    trainer.save_checkpoint(folder / "checkpoints" / "model.ckpt", weights_only=True)
    (folder / "hparams.yaml").write_text(yaml.safe_dump({"class_identifier": "xcomet_metric"}))


if __name__ == "__main__":
    main()
