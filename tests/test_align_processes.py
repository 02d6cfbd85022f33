"""Two processes train to what one does; so do two passes for each step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from align_factory import PLAN, bends, fit_without_batch_norm, loader, rows, small_masker, trainer, weights

from xai_align.align.training.share_of_work import Gradients, joined, pieces_of
from xai_align.align.views.batch import TrainingBatch

pytestmark = pytest.mark.filterwarnings("ignore::xai_align.align.CollapseWarning")

TESTS = Path(__file__).parent


def launched(processes, *words):
    """What ``align_factory.py`` says, run by so many processes."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), str(TESTS.parent / "adapters")])
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*program, str(TESTS / "align_factory.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["align", "random", "aim"])
def test_two_processes_train_to_what_one_does(tmp_path, recipe):
    """21 examples in steps of 8, 8 and 5: the processes' shares of a step are not even equal."""
    alone = fit_without_batch_norm(recipe=recipe)
    done = launched(2, "processes", tmp_path, recipe)
    assert done.returncode == 0, done.stderr
    both = json.loads(done.stdout.splitlines()[-1])  # what connects the processes may have said something before
    for one, two in zip(rows(alone.history), both["rows"], strict=True):
        assert one.keys() == two.keys()
        numbers = [name for name in one if isinstance(one[name], float) and name not in REPORTED]
        assert {name: two[name] for name in numbers} == pytest.approx({n: one[n] for n in numbers}, rel=1e-4, abs=1e-6)
    networks = [network for network in (alone.classifier, alone.masker) if network is not None]
    own = [value for network in networks for p in network.parameters() for value in p.flatten().tolist()]
    assert both["weights"] == pytest.approx(own, rel=1e-3, abs=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows(lines) == both["rows"]  # one process writes
    with pytest.raises(ValueError, match="processes was 2, is 1"):
        fit_without_batch_norm(tmp_path, recipe=recipe)


#: What terms report for themselves: means over processes, which have unequal parts here.
REPORTED = ("inside", "outside", "excess", "mixup_consistency", "mixup_sparsity", "mixup_classification", "dead_cams")


def test_two_passes_for_a_step_are_one_pass_with_twice_the_batch():
    networks = []
    for passes in (1, 2):
        made = trainer(
            bends(batch_norm=False, dropout=0.0),
            small_masker(),
            gradient_accumulation_steps=passes,
            learning_rate=2e-3,
            **PLAN,
        )
        data = [loader(24, batch_size=24)] if passes == 1 else [loader(24, batch_size=12)]
        done = made.fit(data[0], epochs=5)
        assert done.steps == 5
        networks.append(done)
    one, two = (weights(done.classifier) | weights(done.masker) for done in networks)
    assert all(torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5) for name in one)
    losses = [[row["loss"] or row["masker_loss"] for row in done.history] for done in networks]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def batch(count):
    return TrainingBatch(images=torch.arange(count * 4.0).view(count, 1, 2, 2), labels=torch.arange(count))


@pytest.mark.parametrize(("count", "passes", "processes"), [(8, 1, 1), (7, 1, 2), (7, 2, 3), (2, 1, 3), (1, 2, 2)])
def test_every_example_is_in_one_piece_and_shares_add_up(count, passes, processes):
    step = batch(count)
    found = [pieces_of(step, passes=passes, processes=processes, rank=rank) for rank in range(processes)]
    pieces = [piece for mine in found for piece in mine]
    labels = sorted(label for piece in pieces for label in piece.batch.labels.tolist())
    assert labels == list(range(count))
    assert sum(piece.share for piece in pieces) == pytest.approx(1)
    assert all(len(mine) <= passes for mine in found)
    for piece in pieces:
        assert piece.share == pytest.approx(len(piece.batch) / count)
        if piece.everyone is not None:
            start = piece.everyone.start
            assert torch.equal(piece.everyone.labels[start : start + len(piece.batch)], piece.batch.labels)


def test_gradients_of_pieces_are_those_of_the_whole():
    """loss = mean of (w x)^2 over 3 examples: d/dw = 2 w mean(x^2); what isn't reached has no gradient."""
    w, unused = torch.nn.Parameter(torch.tensor(2.0)), torch.nn.Parameter(torch.tensor(1.0))
    x = torch.tensor([1.0, 2.0, 3.0])
    gradients = Gradients([w, unused])
    for part in (x[:2], x[2:]):
        gradients.add((w * part).square().mean() * len(part) / 3, scale=lambda loss: loss)
    from xai_align.align.training.share_of_work import Crew

    (found, nothing), loss = gradients.total(Crew())
    assert found.item() == pytest.approx(2 * 2 * 14 / 3)
    assert nothing is None
    assert loss.item() == pytest.approx(4 * 14 / 3)
    assert w.grad is None


def test_batches_of_a_step_are_joined():
    one = joined([batch(2), batch(3)])
    assert one.labels.tolist() == [0, 1, 0, 1, 2]
    assert one.images.shape == (5, 1, 2, 2)
    other = TrainingBatch(images=torch.zeros(1, 1, 3, 3), labels=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="several shapes"):
        joined([batch(2), other])


def test_a_process_that_is_alone_launches_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    import torch.distributed

    trainer().fit(loader(), epochs=1)
    assert not torch.distributed.is_initialized()
