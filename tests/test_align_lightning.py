"""Lightning's loop makes the trainer's own steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

lightning = pytest.importorskip("lightning")

from tests.networks import conv_net, images  # noqa: E402
from xai_align.align import AlignTrainer, Masker  # noqa: E402
from xai_align.align.lightning import AlignModule  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*configure_optimizers.*"),
]


def batches():
    return [(images(4, 16, seed=seed), torch.tensor([0, 1, 2, 0])) for seed in range(3)]


def aligned(recipe="align", masker=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        masker = Masker(width=4) if masker else None
    return AlignTrainer(conv_net(classes=3), masker, "conv2", recipe=recipe)


def fit(module, folder, epochs=1, **options):
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(batches(), batch_size=None), ckpt_path=None)
    return trainer


def state(trainer):
    tensors = {}
    for network in (trainer.classifier, trainer.masker):
        if network is not None:
            tensors |= {f"{type(network).__name__}.{name}": value for name, value in network.state_dict().items()}
    return tensors


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_it_is_the_steps_one_after_the_other(tmp_path):
    by_hand, inside = aligned(), aligned()
    before = {name: value.clone() for name, value in state(inside).items()}
    for batch in batches():
        by_hand.masker_step(batch)
        by_hand.classifier_step(batch)
    trainer = fit(AlignModule(inside), tmp_path, enable_checkpointing=False)
    assert same(state(inside), state(by_hand))
    assert not same(state(inside), before)
    assert {"loss", "masker_loss", "mask_mean"} <= trainer.callback_metrics.keys()


def test_a_recipe_without_a_masker(tmp_path):
    module = AlignModule(aligned("erm", masker=False))
    trainer = fit(module, tmp_path, enable_checkpointing=False)
    assert "masker_loss" not in trainer.callback_metrics


def test_a_checkpoint_goes_on_as_if_nothing_had_been(tmp_path):
    straight, stopped, resumed = aligned(), aligned(), aligned()
    fit(AlignModule(straight), tmp_path / "a", epochs=2, enable_checkpointing=False)
    trainer = fit(AlignModule(stopped), tmp_path / "b", epochs=1)
    file = tmp_path / "last.ckpt"
    trainer.save_checkpoint(file)
    again = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    again.fit(AlignModule(resumed), torch.utils.data.DataLoader(batches(), batch_size=None), ckpt_path=file)
    assert same(state(resumed), state(straight))


def test_what_lightning_must_know_before_it_begins(tmp_path):
    with pytest.raises(ValueError, match=r"give the trainer its masker: AlignTrainer\(classifier, Masker"):
        AlignModule(aligned(masker=False))
    module = AlignModule(aligned())
    module._trainer = type("Two", (), {"world_size": 2})()
    with pytest.raises(ValueError, match="runs in one process"):
        module.on_fit_start()
    assert isinstance(module.masker, nn.Module)
