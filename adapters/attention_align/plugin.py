"""Plugin hooks of attention_align: attention-based methods for vision transformers as baselines."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from xai_align.hookspecs import AttributionSpec, Values, hookimpl


class _Method(NamedTuple):
    """Class of a method, its summary in lists, and its note for readers of a map."""

    module: str
    cls: str
    summary: str
    note: str
    values: Values = "scores"

    def build(self, model: Any, **options: Any) -> Any:
        return getattr(import_module(self.module), self.cls)(model, **options)


METHODS: dict[str, _Method] = {
    "attention_rollout": _Method(
        "attention_align.attention_rollout",
        "AttentionRollout",
        "vision transformers: product of the layers' attention, the same for every question",
        "attention_rollout uses attention weights only, so its map is the same for every class and question.",
    ),
    "chefer": _Method(
        "attention_align.chefer",
        "Chefer",
        "vision transformers: attention weighted by its positive gradient, accumulated over layers",
        "Only attention with a positive gradient counts, so a map of chefer has no evidence against an answer.",
    ),
    "attn_lrp": _Method(
        "attention_align.attn_lrp",
        "AttnLRP",
        "transformers: layer-wise relevance propagation, through attention weights and values",
        "attn_lrp leaves out the constants of softmax and of biases, so its map does not sum to the answer.",
        "contributions",
    ),
    "legrad": _Method(
        "attention_align.legrad",
        "LeGrad",
        "vision transformers: positive gradient of each layer's own answer with respect to its attention",
        "Only positive gradients count, so a map of legrad has no evidence against an answer.",
    ),
}


@hookimpl
def xai_align_attributions() -> list[AttributionSpec]:
    """Return the methods."""
    return [
        AttributionSpec(name=name, build=method.build, summary=method.summary, note=method.note, values=method.values)
        for name, method in METHODS.items()
    ]
