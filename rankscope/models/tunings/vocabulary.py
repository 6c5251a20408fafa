"""Adapters that were made after words were added: they bring the embeddings, and the base's are sized to them."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from rankscope.checkpoint import Tuning
from rankscope.errors import CheckpointError
from rankscope.models.tunings.keys import Placed

_ENDS = (".weight", ".base_layer.weight")


def fit_vocabulary(model: nn.Module, placed: Placed, tuning: Tuning) -> None:
    """Give the embeddings of the base, and its head, as many rows as the adapter brings for them; in place.

    Args:
        model: the base.
        placed: the adapter's tensors.
        tuning: the adapter, for errors.

    Raises:
        CheckpointError: if it brings the embeddings of a larger vocabulary without the head that goes with them.
    """
    if not isinstance(model, PreTrainedModel):
        return
    host = model.get_submodule(placed.host)
    owner = host if isinstance(host, PreTrainedModel) else model
    embedding, head = _embedding(owner), owner.get_output_embeddings()
    if embedding is None:
        return
    rows = _rows(owner, embedding, placed)
    if rows is None or len(rows) == len(embedding.weight) or rows.shape[1:] != embedding.weight.shape[1:]:
        return
    own_head = isinstance(head, nn.Linear) and head.weight is not embedding.weight
    if own_head and _rows(owner, head, placed) is None:
        raise CheckpointError(
            f"{tuning.path} brings embeddings of {len(rows)} words and the base has {len(embedding.weight)}; the rows of its head for "
            "the new words are not in the file, and nothing is filled in at random. Save it with save_embedding_layers=True"
        )
    # Every row is overwritten by the adapter's.
    owner.resize_token_embeddings(len(rows), mean_resizing=False)


def _embedding(model: PreTrainedModel) -> nn.Embedding | None:
    try:
        found = model.get_input_embeddings()
    except NotImplementedError:
        return None
    return found if isinstance(found, nn.Embedding) else None


def _rows(owner: nn.Module, module: nn.Module, placed: Placed) -> Tensor | None:
    """What an adapter brings in place of a module's weight; None if it brings nothing."""
    path = next((path for path, m in owner.named_modules() if m is module), None)
    return next((placed.weights[f"{path}{end}"] for end in _ENDS if f"{path}{end}" in placed.weights), None)
