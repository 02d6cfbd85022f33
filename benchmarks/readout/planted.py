"""Measure how much of a map lies on planted evidence, and the dependence of a map on the way the network is written.

    python -m benchmarks.readout.planted                  # both parts
    python -m benchmarks.readout.planted evidence
    python -m benchmarks.readout.planted spellings

Takes about 6 minutes on one core.

Evidence. Small networks learn pictures whose class is the colour of an 8 x 8 square
(``benchmarks.shared.planted_squares``). 64 test pictures are explained, each for its own class; the network
classifies them correctly, and wrongly when the square is covered. (Without this condition, the network may predict one
class whenever there is no square, and the evidence for that class is not in the square.) *positive mass*: the share
of the positive attribution inside the square; *top 64 inside*: the share inside of the 64 pixels with the largest
attribution, as many as the square has. Each readout is spread smoothly over the pixels. No map of a coarse grid can be
perfect: the rows *the square on 4 x 4* and so on are the square itself, resized to that grid and back.

Spellings. The same function is written in different ways (``benchmarks.readout.rewritings``), in float64, the logits
equal to 1e-9. The change of a map is the sum of the absolute differences over the sum of its absolute values, mean
over 16 pictures; 1e-15 is rounding. Zero by construction:

* the gate rule, under a split of a linear layer, an identity in front of a layer, a folded batch norm, a bias added
  apart: its coefficients are products of weights and of the activations' ratios, which are the same;
* the gamma rule, under an identity in front of a layer (the one term of such a unit has weight 1), a folded batch
  norm (it scales all terms of a unit alike), a bias added apart (signs are those of the value without the bias);
* each rule, for ReLU6 as a clamp and SiLU as ``x * sigmoid(x)``, as the sigmoid is held like the ratio ``f(x) / x``;
  for attention written out, whose weights are held in both; in another container, as layers are found by
  their operations;
* the head's input, where the head is affine: it has one decomposition, however the network before it is written.

Not zero:

* the gamma rule under a rotation: it weights the terms of every unit by their signs, and the split adds units. No rule
  that uses the terms of single units is free of this;
* ReLU6 as ``relu(x) - relu(x - 6)``: above 6 the two parts cancel, so that the coefficient is 0 and the 6 is bias,
  where the ratio ``6 / x`` of the single activation passes evidence on. Below 6 there is no difference;
* GELU as ``x * 0.5 * (1 + erf(x / sqrt(2)))``: unlike a sigmoid, ``erf`` is an activation, not a gate, so that the
  product is one of two factors with evidence, half each way, and the ``1`` is a bias of the second.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache, partial
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.readout.rewritings import REWRITINGS
from benchmarks.shared.coarse_maps import smoothed
from benchmarks.shared.intervals import plus_minus
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.planted_squares import NAMES, SIDE, SQUARE, Pictures, pictures
from benchmarks.shared.small_networks import VisionTransformer, plain, residual, trained
from xai_align import explain, read_out
from xai_align._tools.sum_keeping import collect_keeping_sum, resize_keeping_sum
from xai_align.evaluation.localisation import energy_inside
from xai_align.features.grid_layers import GridLayer, grid_layers
from xai_align.pinet import ReadoutLayer
from xai_align.pinet.default_layers import default_layers, has_one_grid

#: Numbers of test pictures, of explained ones, and of those explained twice for each spelling.
TESTED, EXPLAINED, COMPARED = 1024, 64, 16
TEST_SEED = 1_000_000
BATCH = 64
CLASSES = len(NAMES)


class Recipe(NamedTuple):
    """Recipe of a network."""

    build: Callable[[], nn.Module]
    steps: int
    rate: float


NETWORKS = {
    "residual network": Recipe(partial(residual, CLASSES), 200, 3e-3),
    "plain network": Recipe(partial(plain, CLASSES), 200, 2e-3),
    "ViT, class token": Recipe(partial(VisionTransformer, CLASSES, True), 300, 2e-3),
    "ViT, average pool": Recipe(partial(VisionTransformer, CLASSES, False), 300, 2e-3),
}
#: For spellings of other activations.
OTHER_ACTIVATIONS = {
    "residual network, ReLU6": Recipe(partial(residual, CLASSES, nn.ReLU6), 200, 3e-3),
    "residual network, SiLU": Recipe(partial(residual, CLASSES, nn.SiLU), 200, 3e-3),
}
#: ``[N, 32, 32]`` for pictures and labels.
Maps = Callable[[nn.Module, Tensor, Tensor], Tensor]


@cache
def network(name: str, seed: int) -> nn.Module:
    """Train a network, each step on new pictures."""
    recipe = (NETWORKS | OTHER_ACTIVATIONS)[name]
    return trained(recipe.build, _batches(seed), steps=recipe.steps, rate=recipe.rate, seed=seed)


def _batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number in count(seed * 10_000):
        drawn = pictures(BATCH, number)
        yield drawn.images, drawn.labels


# Part 1


def print_evidence(seed: int) -> None:
    """Print a table for each network."""
    test = pictures(TESTED, TEST_SEED)
    for name in NETWORKS:
        model = network(name, seed)
        answers, covered = _answers(model, test.images), _answers(model, test.covered)
        right = answers == test.labels
        shown = test[(right & (covered != test.labels)).nonzero()[:EXPLAINED, 0]]
        usual = covered.bincount(minlength=CLASSES) / TESTED
        print(
            f"\n{name}: accuracy {_share(right)}, with the square covered {_share(covered == test.labels)}; of the "
            f"covered pictures {float(usual.max()):.3f} are taken for {NAMES[int(usual.argmax())]}\n"
        )
        print(heading(f"{name}, {len(shown.labels)} pictures", "positive mass", "top 64 inside"))
        print(row("area share", *[f"{SQUARE**2 / SIDE**2:.3f}"] * 2))
        for method, found in methods(model, shown).items():
            print(row(method, *scores(found(), shown.masks)), flush=True)


def scores(maps: Tensor, masks: Tensor) -> list[str]:
    """Return both shares, with their intervals. A map without a positive value has no share inside."""
    mass = energy_inside(maps, masks).nan_to_num(0)
    return plus_minus(torch.stack([mass, top_inside(maps, masks)], 1).numpy())


def top_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share inside of the pixels with the largest attribution, as many as the square has, ``[N]``."""
    top = maps.flatten(1).argsort(dim=1, descending=True, stable=True)[:, : SQUARE**2]
    return masks.flatten(1).double().gather(1, top).mean(1)


def methods(model: nn.Module, shown: Pictures) -> dict[str, Callable[[], Tensor]]:
    """Return the rows of a network's table."""
    x, labels = shown.images, shown.labels
    layers = grid_layers(model, x[:1])
    ways = _of_depths(layers) if has_one_grid(layers) else _of_strides(layers)
    captum = {"integrated gradients": "integrated_gradients", "input x gradient": "input_x_gradient"}
    found: dict[str, Callable[[], Tensor]] = dict(_controls(shown, layers))
    found[f"default ({_in_words(default_layers(model, (x,)), layers)})"] = partial(_read, model, x, labels, None)
    for name, layer in {**_of_both(layers), **ways}.items():
        found[name] = partial(_read, model, x, labels, layer)
    for name, method in captum.items():
        found[name] = partial(_by_captum, model, x, labels, method)
    found["Layer Grad-CAM"] = lambda: torch.stack(
        [smoothed(one, layers[-1].rows) for one in _by_captum(model, x, labels, "layer_grad_cam")]
    )
    return found


def _controls(shown: Pictures, layers: list[GridLayer]) -> Mapping[str, Callable[[], Tensor]]:
    masks = shown.masks.double()
    random = torch.rand(masks.shape, generator=torch.Generator().manual_seed(0))
    grids = dict.fromkeys(layer.rows for layer in layers if layer.rows < SIDE)
    return {
        "random": lambda: random,
        **{f"the square on {rows} x {rows}": partial(_on_grid, masks, rows) for rows in grids},
    }


def _on_grid(masks: Tensor, rows: int) -> Tensor:
    return resize_keeping_sum(collect_keeping_sum(masks, (rows, rows), "area"), masks.shape[-2:], "smooth")


def _of_both(layers: list[GridLayer]) -> dict[str, Any]:
    found: dict[str, Any] = {"head's input": "head"} if layers[-1].reaches_output else {}
    return found | {
        "input, gates": "input",
        "input, gamma .25, placed": ReadoutLayer(feature_space="input", rule="gamma", biases="placed"),
    }


def _of_strides(layers: list[GridLayer]) -> dict[str, Any]:
    by_stride = {
        SIDE // layer.rows: ReadoutLayer(feature_space=layer.space, rule="gamma", biases="placed") for layer in layers
    }
    strides = list(by_stride)
    return {
        **{f"stride {stride}, gates": one.feature_space for stride, one in by_stride.items()},
        **{f"stride {stride}, gamma .25, placed": one for stride, one in by_stride.items()},
        **{
            f"stride {stride}, gamma .25, placed + head": [one, ReadoutLayer(feature_space="head")]
            for stride, one in by_stride.items()
            if one.feature_space != layers[-1].space
        },
        **{
            f"mean of strides {', '.join(map(str, some))}, gamma .25, placed": [by_stride[stride] for stride in some]
            for some in (strides, strides[1:], strides[:-1])
        },
    }


def _of_depths(layers: list[GridLayer]) -> dict[str, Any]:
    first = {layer.depth: layer.space for layer in reversed(layers) if layer.grid == layers[-1].grid}
    spaces = [first[depth] for depth in sorted(first)][:-1]  # behind the last exchange it is the head's input
    third = len(spaces) // 3
    some = {"all depths": spaces, "depths from 1/3 on": spaces[third:], "depths up to 2/3": spaces[:-third]}
    rules: dict[str, dict[str, Any]] = {
        "gates": {},
        "gamma .05": {"rule": "gamma", "gamma": 0.05},
        "gamma .05, residual 1": {"rule": "gamma", "gamma": 0.05, "residual": 1.0},
        "gamma .05, placed": {"rule": "gamma", "gamma": 0.05, "biases": "placed"},
        "gamma .25": {"rule": "gamma", "gamma": 0.25},
    }
    return {
        **{
            f"depth {depth}{' (patch embedding)' if not depth else ''}, {rule}": ReadoutLayer(
                feature_space=space, **rules[rule]
            )
            for rule in ("gates", "gamma .05")
            for depth, space in enumerate(spaces)
        },
        **{
            f"mean of {which}, {rule}": [ReadoutLayer(feature_space=space, **options) for space in chosen]
            for rule, options in rules.items()
            for which, chosen in some.items()
        },
    }


def _in_words(chosen: list[ReadoutLayer], layers: list[GridLayer]) -> str:
    by_name = {layer.name: layer for layer in layers}
    found = [by_name[layer.feature_space.layer] for layer in chosen]  # type: ignore[index, union-attr]
    depths = f"depths {found[0].depth} to {found[-1].depth}"
    where = f"stride {SIDE // found[0].rows}" if len(found) == 1 else depths
    rule = f"gamma {chosen[0].gamma:g}".replace("0.", ".") if chosen[0].rule == "gamma" else "gates"
    return f"{where}, {rule}{', placed' if chosen[0].biases == 'placed' else ''}"


def _read(model: nn.Module, x: Tensor, labels: Tensor, layer: Any, **options: Any) -> Tensor:
    return read_out(model, x, labels, layer, **options).map("smooth").detach()


def _by_captum(model: nn.Module, x: Tensor, labels: Tensor, method: str) -> Tensor:
    return explain(model, x, labels, method).map


def _answers(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def _share(values: Tensor) -> str:
    return f"{float(values.double().mean()):.3f}"


# Part 2


def print_spellings(seed: int) -> None:
    """Print a table of all rewritings that apply to each network."""
    test = pictures(COMPARED, TEST_SEED)
    x, labels = test.images.double(), test.labels
    print("\n" + heading("network", "rewriting", "default", "gates at the same layers", "head's input"))
    for name in NETWORKS | OTHER_ACTIVATIONS:
        model = deepcopy(network(name, seed)).double()
        for rewriting, rewrite in REWRITINGS.items():
            other = rewrite(model)
            if other is not None:
                _check_same(model, other, x)
                changes = (_change(model, other, x, labels, *way) for way in WAYS)
                print(row(name, rewriting, *changes), flush=True)


#: Layers and options of the readouts that are compared.
WAYS: tuple[tuple[str | None, dict[str, Any]], ...] = ((None, {}), (None, {"rule": "gate"}), ("head", {}))


def _check_same(model: nn.Module, other: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        difference = float((model(x) - other(x)).abs().max())
    if not difference < 1e-9:
        raise AssertionError(f"the rewritten network differs by {difference:.1e}")


def _change(
    model: nn.Module, other: nn.Module, x: Tensor, labels: Tensor, layer: str | None, options: dict[str, Any]
) -> str:
    if layer == "head" and not grid_layers(model, x[:1])[-1].reaches_output:
        return "–"
    one, two = (_read(network, x, labels, layer, **options).flatten(1) for network in (model, other))
    return f"{float(((one - two).abs().sum(1) / one.abs().sum(1)).mean()):.1e}"


PARTS = {"evidence": print_evidence, "spellings": print_spellings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, help="default: both")
    parser.add_argument("--seed", type=int, default=0, help="seed of the networks' training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # that maps cancel is a part of the result
    for part in [options.part] if options.part else PARTS:
        PARTS[part](options.seed)


if __name__ == "__main__":
    main()
