"""A fit that is stopped, killed or damaged goes on to what it would have been, and loses nothing."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from align_factory import (
    PLAN,
    NumberedBars,
    bends,
    fit,
    loader,
    read_numbered,
    rows,
    same_weights,
    small_masker,
    trainer,
    weights,
)

from xai_align.align.masker import Masker
from xai_align.training.checkpoints import CheckpointWarning, read_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::xai_align.align.CollapseWarning"),
    pytest.mark.filterwarnings("ignore::xai_align.align.ShortcutWarning"),
]

TESTS = Path(__file__).parent


def undisturbed(**options):
    classifier, masker = bends(), small_masker()
    done = fit(classifier=classifier, masker=masker, **options)
    return done, weights(classifier), weights(masker)


class Stop(Exception):
    pass


def stop_after(count):
    """Raises when so many rows were logged."""
    heard = []

    def listen(row):
        heard.append(row)
        if len(heard) == count:
            raise Stop

    return listen


def same(one, two):
    """Equal rows, where NaN equals NaN."""
    return json.dumps(rows(one)) == json.dumps(rows(two))


def stored(out):
    return sorted(path.name for path in Path(out, "checkpoints").iterdir())


def content(out):
    return {path: path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}


def lines(out):
    return [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]


PHASES = {
    "in the warm-up": (2, {"warmup_epochs": 3}),
    "after the warm-up": (2, {"warmup_epochs": 1}),
    "while the masker is alone": (3, {"masker_only_epochs": 2}),
    "in turn": (4, {}),
    "between a masker's epoch and a classifier's": (3, {"alternation": "epoch", "warmup_epochs": 1}),
    "between a classifier's epoch and a masker's": (4, {"alternation": "epoch", "warmup_epochs": 1}),
    "in turn, unevenly": (3, {"masker_every": 2, "warmup_epochs": 0}),
}


@pytest.mark.parametrize("where", PHASES)
def test_a_fit_that_was_stopped_goes_on_to_the_last_bit(tmp_path, where):
    after, options = PHASES[where]
    if options.get("alternation") == "epoch":
        options = {"warmup_steps": 0, "masker_only_steps": 0} | options
    wanted, classifiers, maskers = undisturbed(**options)
    with pytest.raises(Stop):
        fit(tmp_path, log=stop_after(after), **options)
    classifier, masker = bends(seed=7), small_masker(seed=7)  # whatever they have: the checkpoint knows better
    done = fit(tmp_path, classifier, masker, **options)
    assert f"resuming from the end of epoch {after - 1} " in done.notes[0]
    assert same(done.history, wanted.history)
    assert same(lines(tmp_path), wanted.history)
    assert same_weights(classifier, classifiers)
    assert same_weights(masker, maskers)
    assert same([done.best], [wanted.best])
    with (tmp_path / "metrics.csv").open() as file:
        names = next(csv.reader(file))
    assert names == list(dict.fromkeys(name for row in wanted.history for name in row))


@pytest.mark.parametrize(
    "options",
    [
        {"mixed_precision": "bf16", "gradient_accumulation_steps": 2},
        {"order": "second", "on_collapse": "sparsity", "recipe": "align", "schedule": "none"},
        {"recipe": "dre"},
        {"classifier_optimizer": lambda ps: torch.optim.SGD(ps, lr=0.02, momentum=0.9)},
    ],
)
def test_so_it_is_with_other_options(tmp_path, options):
    wanted, classifiers, _ = undisturbed(**options)
    with pytest.raises(Stop):
        fit(tmp_path, log=stop_after(4), **options)
    classifier = bends(seed=7)
    done = fit(tmp_path, classifier, small_masker(seed=7), **options)
    assert same(done.history, wanted.history)
    assert same_weights(classifier, classifiers)


def test_in_the_middle_of_an_epoch_it_is_begun_again(tmp_path, monkeypatch):
    from xai_align.align.training.steps import Steps

    wanted, classifiers, maskers = undisturbed()
    known, count = Steps.classifier_step, []

    def interrupted(self, *args, **options):
        count.append(1)
        if len(count) == 8:
            raise KeyboardInterrupt
        known(self, *args, **options)

    monkeypatch.setattr(Steps, "classifier_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    monkeypatch.undo()
    classifier, masker = bends(seed=7), small_masker(seed=7)
    assert same(fit(tmp_path, classifier, masker).history, wanted.history)
    assert same_weights(classifier, classifiers)
    assert same_weights(masker, maskers)


def test_without_a_folder_an_interrupted_epoch_is_begun_again_with_the_weights_it_left():
    made = trainer(log=stop_after(2), schedule="none")
    with pytest.raises(Stop):
        made.fit(loader(), epochs=3)
    notes = made.fit(loader(), epochs=3).notes
    assert not any("interrupted" in note for note in notes)  # it was stopped between two epochs
    sick = trainer(log=None, schedule="none")
    with pytest.raises(TypeError):
        sick.fit([next(iter(loader())), {}], epochs=1)
    again = sick.fit(loader(), epochs=1)
    assert again.notes[0] == "epoch 1 was interrupted and is repeated, from the weights that it had changed"


def test_a_second_call_goes_on_too(tmp_path):
    """With the weights after the last epoch, though in between the networks have the best ones."""
    options = {"schedule": "none"}
    wanted, classifiers, maskers = undisturbed(**options)
    made = trainer(**PLAN, **options)
    made.fit(loader(), loader(12, seed=1), epochs=3)
    done = made.fit(loader(), loader(12, seed=1), epochs=5)
    assert same(done.history, wanted.history)
    assert same_weights(done.classifier, classifiers)
    assert same_weights(done.masker, maskers)


@pytest.mark.parametrize("kind", ["file", "folder", "state"])
def test_a_trainer_is_saved_and_resumed(tmp_path, kind):
    options = {"schedule": "none"}
    wanted, classifiers, maskers = undisturbed(**options)
    first = trainer(**PLAN, **options)
    first.fit(loader(), loader(12, seed=1), epochs=3)
    second = trainer(bends(seed=7), small_masker(seed=7), **PLAN, **options)
    if kind == "state":
        second.load_state_dict(first.state_dict())
    else:
        path = tmp_path / ("one.safetensors" if kind == "file" else "folder")
        assert first.save(path).is_file()
        second.resume(path)
    done = second.fit(loader(), loader(12, seed=1), epochs=5)
    assert same(done.history, wanted.history)
    assert same_weights(done.classifier, classifiers)
    assert same_weights(done.masker, maskers)


def test_a_masker_that_nobody_gave_is_there_again_after_resuming(tmp_path):
    from xai_align.align import AlignTrainer

    first = AlignTrainer(bends(), seed=2)
    assert first.masker is None
    first.fit(loader(), epochs=1)
    first.save(tmp_path / "one.safetensors")
    second = AlignTrainer(bends(), seed=2)
    second.resume(tmp_path / "one.safetensors")
    assert isinstance(second.masker, Masker)
    assert second.masker.options == first.masker.options
    assert same_weights(second.masker, weights(first.masker))


def test_what_a_fit_wrote_can_be_resumed_by_hand(tmp_path):
    fit(tmp_path)
    made = trainer(bends(seed=7), **PLAN)
    made.resume(tmp_path)
    assert "epoch 5" in repr(made)


class Memory:
    """Cross entropy, weighted by one plus how often each example was seen."""

    name, weight, needs_indices = "memory", 1.0, True

    def __init__(self):
        self.seen = torch.zeros(24)

    def __call__(self, forward):
        weights = 1 + self.seen[forward.batch.indices]
        self.seen[forward.batch.indices] += 1
        return weights * torch.nn.functional.cross_entropy(forward.logits, forward.batch.labels, reduction="none")

    def state_dict(self):
        return {"seen": self.seen.clone()}

    def load_state_dict(self, state):
        self.seen = state["seen"].clone()


def test_terms_with_a_memory_go_on(tmp_path):
    from xai_align.align import Recipe

    def run(out, classifier, **options):
        data = torch.utils.data.DataLoader(NumberedBars(24), batch_size=8, shuffle=True)
        remembering = Recipe(name="remembering", terms=(Memory(),))
        made = trainer(classifier, recipe=remembering, out=out, read_batch=read_numbered, **options)
        return made.fit(data, epochs=4)

    straight, stopped = bends(), bends(seed=7)
    wanted = run(None, straight)
    with pytest.raises(Stop):
        run(tmp_path, bends(), log=stop_after(3))
    assert same(run(tmp_path, stopped).history, wanted.history)
    assert same_weights(stopped, weights(straight))


def test_the_collapse_answer_goes_on(tmp_path):
    from xai_align.align import recipe

    def run(out=None, **options):
        full = recipe("align", sparsity=0.0, smoothness=0.0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            masker = Masker(1, width=4, depth=1, start=0.97)
        return fit(out, bends(), masker, recipe=full, warmup_epochs=0, **options)

    with pytest.warns(match="collapsed"):
        wanted = run()
    with pytest.raises(Stop), pytest.warns(match="collapsed"):
        run(tmp_path, log=stop_after(4))
    done = run(tmp_path)
    assert same(done.history, wanted.history)
    assert any(row.get("collapse_area") for row in done.history)


@pytest.fixture
def one_thread():
    """As the program has that is killed: another number of threads is another rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_killed_ten_times_in_a_row_it_still_goes_on(tmp_path, one_thread):
    """SIGKILL at ten random moments, each time the same fit is begun again: in the end it is the same."""
    epochs = 30
    wanted, classifiers, maskers = undisturbed(epochs=epochs)
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), str(TESTS.parent / "adapters")])
    program = [sys.executable, str(TESTS / "align_factory.py"), "killed", str(tmp_path), "10", str(epochs)]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert died.returncode == 0, died.stderr
    told = json.loads(died.stdout.splitlines()[-1])
    assert set(told["codes"]) <= {-signal.SIGKILL, 0}  # 0: the last ones found nothing left to do
    assert told["codes"].count(-signal.SIGKILL) >= 5
    assert told["reached"] == sorted(told["reached"])  # nothing that was reached is lost
    classifier, masker = bends(seed=7), small_masker(seed=7)
    done = fit(tmp_path, classifier, masker, epochs=epochs)
    assert same(done.history, wanted.history)
    assert same(lines(tmp_path), wanted.history)
    assert same_weights(classifier, classifiers)
    assert same_weights(masker, maskers)


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path):
    wanted, classifiers, _ = undisturbed()
    fit(tmp_path)
    assert stored(tmp_path) == ["epoch-00004.safetensors", "epoch-00005.safetensors"]
    newest = tmp_path / "checkpoints/epoch-00005.safetensors"
    newest.write_bytes(newest.read_bytes()[:2000])
    classifier = bends(seed=7)
    with pytest.warns(CheckpointWarning, match=r"epoch-00005.*damaged.*The older '.*epoch-00004.safetensors' is used"):
        done = fit(tmp_path, classifier)
    assert same(done.history, wanted.history)
    assert same_weights(classifier, classifiers)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seed": 6}, "seed was 5, is 6"),
        ({"learning_rate": 0.1}, r"optimizers \(classifier .*initial_lr was 0\.005, is 0\.1"),
        ({"recipe": "dre"}, r"recipe \(name was .*align.*, is .*dre"),
        ({"masker_every": 2}, r"plan \(masker_every was 1, is 2\)"),
        ({"epochs": 6}, "epochs was 5, is 6"),
        ({"mixed_precision": "bf16"}, 'mixed_precision was "no", is "bf16"'),
        ({"gradient_clip": None}, "gradient_clip was 1.0, is null"),
        ({"classifier": bends(width=4)}, "trained .*"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, options, told):
    fit(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=f"is of a run with another configuration: .*{told}"):
        fit(tmp_path, **options)
    assert content(tmp_path) == before


def test_other_weights_of_a_loss_are_another_configuration(tmp_path):
    from xai_align.align import recipe

    fit(tmp_path, recipe=recipe("align"))
    with pytest.raises(ValueError, match=r"masker_terms \(sparsity \(weight was 2.0, is 1.0\)"):
        fit(tmp_path, recipe=recipe("align", sparsity=1.0))


def test_resume_says_what_should_be_there(tmp_path):
    with pytest.raises(ValueError, match="there is no folder to resume from"):
        fit(resume="must")
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        fit(tmp_path, resume="must")
    fit(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="already holds a run; choose another folder"):
        fit(tmp_path, resume="never")
    assert content(tmp_path) == before
    assert fit(tmp_path, resume="must").epochs == 5
    made = trainer()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        made.resume(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="another configuration: seed was 5, is 6"):
        trainer(seed=6, **PLAN).resume(tmp_path)
    with pytest.raises(ValueError, match="nothing was trained yet"):
        made.state_dict()


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    fit(tmp_path)
    monkeypatch.setattr(torch, "load", None)
    assert "had already finished after epoch 5" in fit(tmp_path).notes[0]
    newest = read_checkpoint(tmp_path / "checkpoints/epoch-00005.safetensors")
    assert {name.split("/")[0] for name in newest.tensors} == {"network", "best", "optimizer"}


def test_after_a_loss_that_is_no_number_the_last_good_checkpoint_can_be_resumed(tmp_path):
    from xai_align.training.diverged import DivergedError

    class Poisoned(torch.nn.Module):
        """NaN from the eighth forward pass on."""

        def __init__(self, poisoned=True):
            super().__init__()
            self.inner, self.count, self.poisoned = bends(), 0, poisoned

        def forward(self, x):
            self.count += self.training
            bad = self.poisoned and self.count == 14
            return self.inner(x) * (math.nan if bad else 1.0)

    sane, sick = Poisoned(poisoned=False), Poisoned()
    wanted = fit(classifier=sane)
    with pytest.raises(DivergedError, match=r"epoch \d, batch \d: the loss of the classifier was nan"):
        fit(tmp_path, sick)
    assert all(value.isfinite().all() for value in sick.state_dict().values())
    sick.poisoned = False
    assert same(fit(tmp_path, sick).history, wanted.history)
    assert same_weights(sick, weights(sane))
