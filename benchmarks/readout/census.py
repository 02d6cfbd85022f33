"""Measure the exactness of readouts on every architecture of timm, at the head's input and at the input.

:mod:`benchmarks.readout.default_census` does the same for the default readout.

Random weights, with random values for the zero-initialised ones; one random image.
The census is resumable: rows are appended to the table, and architectures that
are already in it are skipped. Each batch of architectures runs in a separate
process, so that a killed one does not end the census.

    python -m benchmarks.readout.census               # all that are missing
    python -m benchmarks.readout.census --only resnet50,vit_small_patch16_224
    python -m benchmarks.readout.census --summary     # counts, and the rows above the goal

Inputs are the smallest that the architecture takes (the column ``size``):
the operations are the same, with fewer positions.
"""

from __future__ import annotations

import argparse
import csv
import gc
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

TABLE = Path(__file__).with_name("census.tsv")
COLUMNS = (
    "architecture module mparams size space kind error_head error_input dtype forward_difference "
    "seconds_plain seconds_head seconds_input note"
).split()
#: Limit of the parameters in GiB; larger networks are represented by a sibling.
MEMORY = 18.5
#: Where one float32 readout is above the goal of 1e-5, float64 must be below 1e-9.
GOAL = {"float32": 1e-5, "float64": 1e-9}
#: Networks too large for the memory, and the sibling (same module, same head) that represents each.
SIBLINGS = {
    "vit_5b_patch16_sapiens2": "vit_giant_patch16_sapiens2",
    "vit_7b_patch16_dinov3": "vit_huge_plus_patch16_dinov3",
}
BATCH = 20


@dataclass(frozen=True, kw_only=True)
class Census:
    """Measurement of one network, and the table that it fills.

    Attributes:
        module: the benchmark, as ``python -m`` runs it.
        table: the table's file.
        columns: the table's columns.
        measure: the row of an architecture.
        summarise: prints the table's counts.
    """

    module: str
    table: Path
    columns: Sequence[str]
    measure: Callable[[str], dict[str, object]]
    summarise: Callable[[Path], None]


def main() -> None:
    run(Census(module="benchmarks.readout.census", table=TABLE, columns=COLUMNS, measure=measure, summarise=summarise))


def run(census: Census) -> None:
    """Measure the architectures on the command line or all that the table lacks, or print the table's counts."""
    description = sys.modules["__main__"].__doc__
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated architectures, measured in this process")
    parser.add_argument("--table", type=Path, default=census.table)
    parser.add_argument(
        "--largest", type=float, default=float("inf"), help="leave out architectures with more million parameters"
    )
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    census = replace(census, table=options.table)
    if options.summary:
        return census.summarise(options.table)
    if options.only:
        return measure_all(census, options.only.split(","))
    drive(census, options.largest)


def drive(census: Census, largest: float) -> None:
    """Run the missing architectures, smallest first, in batches of one process each."""
    table = census.table
    sizes = architecture_sizes()
    names = [name for name in sorted(sizes, key=sizes.__getitem__) if sizes[name] <= largest]
    while True:
        done = {row["architecture"] for row in rows(table)}
        missing = [name for name in names if name not in done]
        if not missing:
            return
        batch = missing[: BATCH if sizes[missing[0]] < 200 else 3]
        print(f"{len(done)} of {len(names)} done; next {batch[0]} … {batch[-1]}", flush=True)
        code = subprocess.run(
            [sys.executable, "-m", census.module, "--table", str(table), "--only", ",".join(batch)],
            check=False,
        ).returncode
        done = {row["architecture"] for row in rows(table)}
        stopped = [name for name in batch if name not in done]
        if code and stopped:
            append(census, {"architecture": stopped[0], "note": f"the process ended with {code}"})


def measure_all(census: Census, names: list[str]) -> None:
    warnings.filterwarnings("ignore")
    for name in names:
        sibling = SIBLINGS.get(name)
        try:
            row = census.measure(sibling or name)
        except Exception as error:
            row = {"note": f"{type(error).__name__}: {str(error)[:160]}"}
        if sibling:
            row["note"] = f"through its sibling {sibling}; {row['note']}".rstrip("; ")
        append(census, {**row, "architecture": name})
        gc.collect()


def measure(name: str) -> dict[str, object]:

    from xai_align.features import resolve_layer

    model, x, note = build(name)
    row = described(name, model, x, note)
    space = resolve_layer(model, image=x)
    row["space"] = space.layer if isinstance(space.layer, str) else "+".join(space.layer)
    return row | in_precision(model, x, row, partial(readout_errors, space=space), ("error_head", "error_input"))


def described(name: str, model, x, note: str) -> dict[str, object]:
    """Return the columns of a row that describe the network."""
    import timm

    return {
        "module": timm.model_entrypoint(name).__module__.rpartition(".")[2],
        "mparams": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}",
        "size": "x".join(map(str, x.shape[-2:])),
        "note": note,
    }


def in_precision(model, x, row: dict[str, object], measure: Callable, errors: Sequence[str]) -> dict[str, object]:
    """Return the result of ``measure(model, x)`` in float32, or in float64 if an error in float32 is above the goal."""
    import torch

    torch.manual_seed(0)
    found: dict[str, object] = {}
    for dtype in (torch.float32, torch.float64):
        if dtype == torch.float64:
            if float(row["mparams"]) * 8e6 > MEMORY * 2**30:
                return found | {"note": f"{row['note']}; float64 does not fit".lstrip("; ")}
            model, x = model.double(), x.double()
        found = measure(model, x) | {"dtype": str(dtype).removeprefix("torch.")}
        if max(float(found[error]) for error in errors) <= GOAL[found["dtype"]]:
            break
    return found


def readout_errors(model, x, space) -> dict[str, object]:
    import torch

    from xai_align.pinet import read_out

    start = time.perf_counter()
    with torch.no_grad():
        plain = model(x)
    ends = [time.perf_counter()]
    at_head = read_out(model, x, 3, space)
    ends.append(time.perf_counter())
    at_input = read_out(model, x, 3, "input")
    ends.append(time.perf_counter())
    difference = max(float((r.logits - plain).abs().max()) for r in (at_head, at_input)) / float(plain.abs().max())
    return {
        "kind": at_head.kind,
        "error_head": f"{float(at_head.relative_error.max()):.1e}",
        "error_input": f"{float(at_input.relative_error.max()):.1e}",
        "forward_difference": f"{difference:.1e}",
        "seconds_plain": f"{ends[0] - start:.3f}",
        "seconds_head": f"{ends[1] - ends[0]:.3f}",
        "seconds_input": f"{ends[2] - ends[1]:.3f}",
    }


# ---------------------------------------------------------------- building at the smallest size


def build(name: str, smallest: int = 64):
    """Return the model with random weights, an image of the smallest size from ``smallest`` on, and a remark."""
    import timm
    import torch

    config = timm.get_pretrained_cfg(name)
    channels, *default = config.input_size if config else (3, 224, 224)
    failures = []
    for options, size in ways_to_build(default[0], smallest):
        try:
            with QuickInitialisation():
                model = timm.create_model(name, num_classes=1000, **options).eval()
            model, note = with_head(model, name)
            wake(model)
            x = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                if torch.isfinite(model(x)).all():
                    return model, x, note
                failures.append(f"{size}: not finite")
        except Exception as error:
            failures.append(f"{size}: {type(error).__name__} {str(error)[:60]}")
    raise RuntimeError("; ".join(failures))


def ways_to_build(default: int, smallest: int) -> list[tuple[dict[str, int], int]]:
    small = [size for size in (64, 96, 128, 112, 160, 192, 224, 256) if smallest <= size < default]
    return [way for size in small for way in (({"img_size": size}, size), ({}, size))] + [({}, default)]


def with_head(model, name: str):
    """Return the model; an encoder without a classifier gets a mean and a linear layer behind it."""
    import torch

    if getattr(model, "num_classes", 1000) != 0:
        return model, ""

    class Headed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model
            self.head = torch.nn.LazyLinear(10)

        def forward(self, x):
            features = model.forward_features(x)
            features = features[0] if isinstance(features, tuple | list) else features
            axes = (2, 3) if features.shape[1] == model.num_features else tuple(range(1, features.dim() - 1))
            return self.head(features.mean(axes))

    headed = Headed().eval()
    return headed, "an encoder: a mean and a linear map put behind it"


class QuickInitialisation:
    """Mode in which random initialisers leave zeros, which :func:`wake` fills quickly."""

    def __enter__(self):
        import torch
        from torch.overrides import TorchFunctionMode

        skipped = {"uniform_", "normal_", "trunc_normal_", "erfinv_"}

        class Skip(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                if getattr(func, "__name__", "") in skipped and args and isinstance(args[0], torch.nn.Parameter):
                    with torch.no_grad():
                        return args[0].zero_()
                return func(*args, **(kwargs or {}))

        self.mode = Skip()
        self.mode.__enter__()

    def __exit__(self, *exception) -> None:
        self.mode.__exit__(*exception)


def wake(model) -> None:
    """Set zero weights to random numbers, layer scales to values that matter, and statistics to nontrivial ones."""
    import torch

    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(1_000_003, generator=generator)

    def draw(count: int, offset: int) -> torch.Tensor:
        repeats = (count + offset) // len(pool) + 1
        return (pool if repeats == 1 else pool.repeat(repeats))[offset : offset + count]

    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
                continue
            low, high = parameter.aminmax()
            if low != high or abs(float(high)) > 1e-2 or not parameter.numel():
                continue
            flat = draw(parameter.numel(), (index * 7919) % 100_003).to(parameter.dtype)
            if parameter.dim() < 2:
                flat = 0.02 * flat if "bias" in name else 0.4 + 0.1 * flat
            elif any(word in name for word in ("pos", "token", "table", "bias")):
                flat = 0.02 * flat
            else:
                flat = flat * (parameter.numel() / len(parameter)) ** -0.5
            parameter.copy_(flat.view_as(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * draw(buffer.numel(), 17))
            elif name.endswith("running_var"):
                buffer.copy_(0.75 + 0.5 * draw(buffer.numel(), 31).sigmoid())


# ---------------------------------------------------------------- the table


def architecture_sizes() -> dict[str, float]:
    """Return the millions of parameters of every architecture, from its definition alone."""
    cache = TABLE.with_name("architecture_sizes.tsv")
    if cache.exists():
        return {name: float(size) for name, size in (line.split("\t") for line in cache.read_text().splitlines())}
    import timm
    import torch

    from xai_align.comparison.store import write_whole

    warnings.filterwarnings("ignore")
    sizes = {}
    for name in timm.list_models():
        try:
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters()) / 1e6
        except Exception:  # some compute with values while they are built
            sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters()) / 1e6
    write_whole(cache, "".join(f"{name}\t{size:.2f}\n" for name, size in sizes.items()))
    return sizes


def rows(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def append(census: Census, row: dict[str, object]) -> None:
    new = not census.table.exists()
    with census.table.open("a", newline="") as file:
        writer = csv.DictWriter(file, census.columns, delimiter="\t", restval="")
        if new:
            writer.writeheader()
        writer.writerow(row)


def summarise(table: Path) -> None:
    everything = rows(table)
    measured = [row for row in everything if row["dtype"]]
    within = [row for row in measured if max(map(float, (row["error_head"], row["error_input"]))) <= GOAL[row["dtype"]]]
    print(f"{len(everything)} architectures, {len(measured)} measured, {len(within)} within the goal")
    for dtype in GOAL:
        print(f"  in {dtype}: {sum(row['dtype'] == dtype for row in within)}")
    print(f"  local at the head's input: {sum(row['kind'] == 'local' for row in measured)}")
    differences = [float(row["forward_difference"]) for row in measured]
    print(f"  largest relative difference of the logits to the plain model's: {max(differences, default=0):.1e}")
    for row in everything:
        if row not in within:
            print(
                f"  above: {row['architecture']}:",
                f"{row['error_head']} / {row['error_input']} {row['dtype']} {row['note']}",
            )


if __name__ == "__main__":
    main()
