"""Two processes train to what one does; so do two passes for each step."""

from __future__ import annotations

import pytest
import torch
from align_factory import PLAN, bends, loader, small_masker, trainer, weights
from align_launch import check_two_processes_train_to_what_one_does

from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.training.micro_batches import Gradients, joined, micro_batches_of
from xai_align.training.process_group import ProcessGroup

pytestmark = pytest.mark.filterwarnings("ignore::xai_align.align.CollapseWarning")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["align", "random"])
def test_two_processes_train_to_what_one_does(tmp_path, recipe):
    check_two_processes_train_to_what_one_does(tmp_path, recipe)


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
    found = [micro_batches_of(step, passes=passes, processes=processes, rank=rank) for rank in range(processes)]
    pieces = [piece for mine in found for piece in mine]
    labels = sorted(label for piece in pieces for label in piece.batch.labels.tolist())
    assert labels == list(range(count))
    assert sum(piece.share for piece in pieces) == pytest.approx(1)
    assert all(len(mine) <= passes for mine in found)
    for piece in pieces:
        assert piece.share == pytest.approx(len(piece.batch) / count)
        if piece.global_batch is not None:
            start = piece.global_batch.start
            assert torch.equal(piece.global_batch.labels[start : start + len(piece.batch)], piece.batch.labels)


def test_gradients_of_pieces_are_those_of_the_whole():
    """loss = mean of (w x)^2 over 3 examples: d/dw = 2 w mean(x^2); what isn't reached has no gradient."""
    w, unused = torch.nn.Parameter(torch.tensor(2.0)), torch.nn.Parameter(torch.tensor(1.0))
    x = torch.tensor([1.0, 2.0, 3.0])
    gradients = Gradients([w, unused])
    for part in (x[:2], x[2:]):
        gradients.add((w * part).square().mean() * len(part) / 3, scale=lambda loss: loss)
    (found, nothing), loss = gradients.total(ProcessGroup())
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
