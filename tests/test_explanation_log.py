"""Explanations while a network trains: what is found, what they cost, and that the training does not change."""

from __future__ import annotations

import csv
import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.networks import conv_net, images, untouched
from xai_align import Question, explain
from xai_align.evaluation import agreement
from xai_align.report.watching import ExplanationLog, FolderWriter
from xai_align.report.watching.time_budget import TimeBudget


class Kept:
    """A writer that keeps what it gets."""

    def __init__(self):
        self.images, self.numbers, self.closed = {}, {}, 0

    def image(self, name, picture, step):
        self.images[name, step] = picture

    def number(self, name, value, step):
        assert (name, step) not in self.numbers
        self.numbers[name, step] = value

    def close(self):
        self.closed += 1


class Clock:
    """A clock that moves when it is told to, and by ``cost`` seconds whenever the network is explained."""

    def __init__(self, cost=0.0):
        self.now, self.cost = 0.0, cost

    def __call__(self):
        return self.now


class Costly(Kept):
    """A writer whose pictures take a second of the clock."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def image(self, name, picture, step):
        if name.startswith("map/"):
            self.clock.now += self.clock.cost


def changed(model, seed):
    """The same network with other weights."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def watching(writer=None, **options):
    return ExplanationLog(images(2, 16), [1, 3], writer=writer or Kept(), **options)


# ---------------------------------------------------------------- what is found


def test_the_map_and_numbers_are_those_of_the_network_in_eval_mode():
    model = conv_net().train()
    seen = watching().step(model)
    expected = explain(conv_net(), images(2, 16), [1, 3])
    for index, one in enumerate(seen):
        assert one.question == Question.why([1, 3][index])
        assert torch.equal(one.map, expected.map[index])
        assert one.answer == float(expected.answer[index])
        assert one.completeness_error == float(expected.readout.completeness_error[index])
        assert one.amplification == float(expected.readout.amplification[index])
        assert (one.rank_correlation, one.top_overlap, one.top_sign_agreement) == (None, None, None)
        assert one.overlay.shape == (16, 16, 3)
        assert one.overlay.dtype == np.uint8
        assert one.overlay.std() > 0


def test_agreement_is_with_the_map_of_the_call_before():
    model, log = conv_net(), watching(share=1)
    first = log.step(model)
    changed(model, 1)
    second = log.step(model)
    changed(model, 2)
    third = log.step(model)
    for before, now in ((first, second), (second, third)):
        wanted = agreement(
            torch.stack([one.map for one in now]), torch.stack([one.map for one in before]), k=0.1,
            metrics=("rc", "iou", "sa"),
        )  # fmt: skip
        for index, one in enumerate(now):
            assert one.rank_correlation == pytest.approx(float(wanted["rc"][index]))
            assert one.top_overlap == pytest.approx(float(wanted["iou"][index]))
            assert one.top_sign_agreement == pytest.approx(float(wanted["sa"][index]))
            assert one.rank_correlation < 1


def test_a_network_that_did_not_change_agrees_with_itself():
    model, log = conv_net(), watching(share=1)
    log.step(model)
    for one in log.step(model):
        assert one.rank_correlation == pytest.approx(1)
        assert (one.top_overlap, one.top_sign_agreement) == (1, 1)


def test_a_map_of_the_other_sign_agrees_in_magnitude_alone():
    model, log = conv_net(), watching(share=1)
    log.step(model)
    with torch.no_grad():
        model.fc.weight.neg_()
        model.fc.bias.neg_()
    for one in log.step(model):
        assert one.rank_correlation == pytest.approx(1)
        assert (one.top_overlap, one.top_sign_agreement) == (1, 0)


def test_maps_for_another_prediction_are_not_compared():
    model = conv_net()
    log = ExplanationLog(images(2, 16), writer=Kept(), share=1)
    first = log.step(model)
    with torch.no_grad():
        model.fc.bias.copy_(torch.tensor([100.0, 0, 0, 0, 0]))
    second, third = log.step(model), log.step(model)
    assert first[0].question != second[0].question == Question.why(0)
    assert second[0].rank_correlation is None
    assert third[0].rank_correlation == pytest.approx(1)


def test_a_method_without_a_decomposition_and_its_options():
    seen = watching(method="random").step(conv_net())
    assert seen[0].numbers.keys() == {"answer"}
    seen = watching(layer="input").step(conv_net())
    assert torch.equal(seen[0].map, explain(conv_net(), images(2, 16), [1, 3], layer="input").map[0])


def test_pictures_do_not_depend_on_the_batch_they_are_explained_in():
    kept = [ExplanationLog(images(5, 16), 2, writer=Kept(), batch_size=size).step(conv_net()) for size in (2, 5)]
    for one, other in zip(*kept, strict=True):
        assert torch.allclose(one.map, other.map, atol=1e-6)


def test_what_is_written():
    writer, model = Kept(), conv_net()
    log = watching(writer, names=["a cat", "dog"], share=1)
    first = log.step(model, 10)
    changed(model, 1)
    second = log.step(model, 20)
    log.finish(model)
    assert writer.closed == 1
    assert set(writer.images) == {
        ("picture/a cat", 10), ("picture/dog", 10),
        ("map/a cat", 10), ("map/dog", 10), ("map/a cat", 20), ("map/dog", 20),
    }  # fmt: skip
    assert writer.images["map/dog", 20] is second[1].overlay
    assert writer.numbers["answer/dog", 10] == first[1].answer
    assert writer.numbers["top_overlap/a cat", 20] == second[0].top_overlap
    assert ("top_overlap/a cat", 10) not in writer.numbers
    assert writer.numbers["answer/mean", 20] == pytest.approx((second[0].answer + second[1].answer) / 2)
    errors = [abs(one.completeness_error) for one in first]
    assert writer.numbers["completeness_error/mean", 10] == pytest.approx(sum(errors) / 2)
    assert writer.numbers["seconds", 20] > 0
    assert 0 < writer.numbers["share_of_time", 20] <= 1


def test_large_pictures_are_written_small():
    log = ExplanationLog(images(1, 8).repeat_interleave(75, 2).repeat_interleave(50, 3), 0, writer=Kept())
    (one,) = log.step(conv_net())
    assert one.map.shape == (600, 400)
    assert one.overlay.shape == (256, 171, 3)


# ---------------------------------------------------------------- the training does not change


class Trained(nn.Module):
    """Everything that has a state or draws at random."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 5)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.fc(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


def train(log=None, epochs=3):
    torch.manual_seed(3)
    model = Trained().train()
    steps = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        for number in range(3):
            steps.zero_grad()
            loss = nn.functional.cross_entropy(model(images(4, 16, seed=number)), torch.randint(5, (4,)))
            loss.backward()
            if log is not None:  # also between gradients and step
                with untouched(model):
                    assert log.step(model, 3 * epoch + number) is not None
            steps.step()
    if log is not None:
        log.finish(model)
    return model


def test_training_is_the_same_with_and_without():
    plain, watched = train(), train(watching(share=1))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert watched.calls == plain.calls


def test_a_method_that_draws_draws_the_same_at_every_call():
    log = watching(method="random", share=1)
    with untouched(model := conv_net()):
        first, second = log.step(model), log.step(model)
    assert torch.equal(first[0].map, second[0].map)


def test_the_log_keeps_its_own_pictures():
    batch = images(2, 16)
    log = ExplanationLog(batch, 1, writer=Kept())
    batch.zero_()
    assert torch.equal(log.step(conv_net())[0].map, explain(conv_net(), images(2, 16), 1).map[0])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode):
    with mode():
        log = ExplanationLog(images(2, 16), [1, 3], writer=Kept())
        seen = log.step(conv_net())
    assert torch.equal(seen[0].map, watching().step(conv_net())[0].map)


def test_compiled_and_parallel_wrappers_are_taken_off():
    expected = watching().step(conv_net())[0].map
    assert torch.equal(watching().step(torch.compile(conv_net(), backend="eager"))[0].map, expected)
    assert torch.equal(watching().step(nn.DataParallel(conv_net()).cpu())[0].map, expected)


def test_pictures_follow_the_dtype_of_the_network():
    assert watching().step(conv_net().double())[0].map.shape == (16, 16)


# ---------------------------------------------------------------- time


CLOCK = Clock()


class Slow(nn.Module):
    """A network that takes ``CLOCK.cost`` seconds of the clock for a forward pass of a picture, in 100 parts."""

    def __init__(self):
        super().__init__()
        self.network = conv_net()

    def forward(self, x):
        for _ in range(100):
            CLOCK.now += CLOCK.cost * len(x) / 100
            x = x + 0.0
        return self.network(x)


@pytest.mark.parametrize(("cost", "share"), [(0.05, 0.02), (0.3, 0.02), (3.0, 0.1), (0.0001, 0.02), (3000.0, 0.05)])
@pytest.mark.parametrize("epochs", [1, 2, 7, 60])
def test_the_share_of_time_is_kept_after_every_call_however_short_the_training(cost, share, epochs):
    """Epochs of ten seconds. Nothing is overdrawn, but by the one operation after which a trial is given up."""
    CLOCK.now, CLOCK.cost = 100.0, cost
    writer = Kept()
    log, model, seen = watching(writer, share=share, clock=CLOCK), Slow(), []
    log.start()
    assert log.step(model, 0) is None  # no time has passed, of which there could be a share
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for epoch in range(1, epochs + 1):
            CLOCK.now += 10
            seen.append(log.step(model, epoch))
            assert log.share_of_time <= share + cost / 100 / (CLOCK.now - 100)
        seen.append(log.finish(model, epochs + 1))
        assert log.share_of_time <= share + cost / 100 / (CLOCK.now - 100)
    made = [one for one in seen if one is not None]
    assert bool(made) == bool(writer.images)
    assert all(len(one) == 2 for one in made[1:-1])
    if cost == 0.0001:
        assert len(made) == epochs + 1
    if cost == 3000:
        assert not made
        assert f"no explanation was written: {100 * share:.3g} % of the training's" in str(told[-1].message)
    if (cost, epochs) == (0.05, 60):  # it does take what it may
        assert log.share_of_time > 0.75 * share


def test_without_a_start_time_begins_with_the_first_call_which_is_made():
    CLOCK.now, CLOCK.cost = 5.0, 1.0
    log, model = watching(clock=CLOCK), Slow()
    assert len(log.step(model, 0)) == 2
    CLOCK.now += 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert log.step(model, 1) is None
        assert log.finish(model, 2) is None
    CLOCK.now += 10_000
    log = watching(clock=CLOCK)
    log.step(model, 0)
    CLOCK.now += 10_000
    assert len(log.finish(model, 1)) == 2


def test_a_trial_that_is_given_up_leaves_nothing_and_is_repeated_with_twice_the_time():
    CLOCK.now, CLOCK.cost = 0.0, 1.0
    writer, model = Kept(), Slow()
    log, tried = watching(writer, clock=CLOCK), []
    log.start()
    for epoch in range(1, 101):
        CLOCK.now += 10
        before = log.share_of_time * CLOCK.now
        found = log.step(model, epoch)
        spent = log.share_of_time * CLOCK.now - before
        if found is not None:
            break
        assert not writer.images
        tried += [spent] if spent > 1e-9 else []
    assert len(found) == 1  # of the two, there is time for one
    torch.testing.assert_close(found[0].map, watching().step(conv_net())[0].map)
    assert all(later > 1.9 * earlier for earlier, later in pairwise(tried))


@pytest.mark.parametrize(
    ("spent", "pictures", "seconds"),
    [
        ({}, 1, math.inf),
        ({1: 0.5}, 8, 4.0),
        ({8: 2.0}, 1, 2.0),
        ({1: 0.5, 8: 2.0}, 1, 0.5),
        ({1: 0.5, 8: 2.0}, 16, 4.0),
    ],
)
def test_what_pictures_take_is_foreseen_and_not_too_little(spent, pictures, seconds):
    clock = Clock()
    budget = TimeBudget(0.5, clock)
    budget.start()
    for count, took in spent.items():
        with budget.spending(count):
            clock.now += took
    assert budget.seconds_of(pictures) == seconds


def test_skipping_is_said_once():
    clock = Clock(0.1)
    log, model = watching(Costly(clock), clock=clock), conv_net()
    log.start()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(20):
            clock.now += 6
            log.step(model)
    assert [str(one.message) for one in told] == [
        "explaining 2 pictures takes 0.2 s, and 2 % of the time allows that every 10 s; calls in between are "
        "skipped. For more of them, give fewer pictures or a larger share."
    ]
    assert told[0].filename == __file__


def test_every_and_the_numbers_of_calls():
    writer, model = Kept(), conv_net()
    log = watching(writer, every=3, share=1)
    made = [log.step(model) is not None for _ in range(8)]
    assert made == [True, False, False, True, False, False, True, False]
    assert log.finish(model) is not None
    assert {step for _, step in writer.images} == {0, 3, 6, 7}


def test_the_last_call_is_not_made_twice_and_a_second_training_begins_anew():
    writer, model = Kept(), conv_net()
    log = watching(writer, share=1)
    log.step(model, 5)
    assert log.finish(model, 5) is None
    assert writer.closed == 1
    log.start()
    assert log.step(model, 6)[0].rank_correlation is None
    assert ("picture/1", 6) in writer.images


def test_a_budget_counts_blocks_that_fail():
    clock = Clock()
    budget = TimeBudget(0.5, clock)
    budget.start()

    def fail():
        with budget.spending():
            clock.now += 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (budget.spent, budget.last) == (2, 2)
    assert not budget.is_known
    assert budget.left == -1
    clock.now = 8
    assert budget.left == 2


# ---------------------------------------------------------------- failures


class NaN(nn.Module):
    def __init__(self):
        super().__init__()
        self.network, self.broken = conv_net(), False

    def forward(self, x):
        logits = self.network(x)
        return logits * float("nan") if self.broken else logits


def test_a_failure_ends_the_first_call_and_is_a_warning_afterwards():
    model = NaN()
    model.broken = True
    with pytest.raises(ValueError, match=r"NaN|finite"):
        watching().step(model)
    log, model.broken = watching(share=1), False
    log.step(model, 0)
    model.broken = True
    with pytest.warns(RuntimeWarning, match="at step 1 are missing"):
        assert log.step(model, 1) is None
    model.broken = False
    assert log.step(model, 2)[0].rank_correlation == pytest.approx(1)  # with step 0


def test_an_interrupt_comes_out_as_itself():
    class Interrupted(Kept):
        def image(self, name, picture, step):
            if step:
                raise KeyboardInterrupt

    log, model = watching(Interrupted(), share=1), conv_net()
    log.step(model, 0)
    with pytest.raises(KeyboardInterrupt):
        log.step(model, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": torch.zeros(3, 8, 8)}, r"got \[3, 8, 8\]"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "at least one picture"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "uint8"),
        ({"images": torch.full((2, 3, 8, 8), torch.nan)}, "NaN"),
        ({"images": [1]}, "a list"),
        ({"question": [1, 2, 3]}, "3 targets for 2"),
        ({"names": ["a"]}, "one for each of the 2"),
        ({"names": "ab"}, "one for each of the 2"),
        ({"names": ["a", "a"]}, "stands for two"),
        ({"names": ["a/b", "a:b"]}, "'a-b' stands for two"),
        ({"names": ["mean", "b"]}, "'mean' is the name"),
        ({"share": 0}, "share must be"),
        ({"share": 1.5}, "share must be"),
        ({"every": 0}, "every must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"writer": "tensorbord"}, "tensorboard"),
        ({"writer": 3}, "writer is a int"),
    ],
)
def test_wrong_arguments_are_refused_before_the_training(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ExplanationLog(**{"images": images(2, 8), "writer": Kept()} | wrong)


def test_wrong_calls_are_refused():
    with pytest.raises(TypeError, match="model is a str"):
        watching().step("resnet18")
    with pytest.raises(ValueError, match="step must be"):
        watching().step(conv_net(), -1)
    with pytest.raises(ValueError, match="class 9"):
        ExplanationLog(images(1, 8), 9, writer=Kept()).step(conv_net())


# ---------------------------------------------------------------- files


def test_files(tmp_path):
    log, model = watching(FolderWriter(tmp_path), share=1, names=["../a", "b"]), conv_net()
    seen = [log.step(model, step) for step in (0, 100)]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")) == [
        "map/-a/000000.png", "map/-a/000100.png", "map/b/000000.png", "map/b/000100.png",
        "picture/-a/000000.png", "picture/b/000000.png",
    ]  # fmt: skip
    assert np.array_equal(np.asarray(Image.open(tmp_path / "map/b/000100.png")), seen[1][1].overlay)
    with (tmp_path / "numbers.csv").open() as file:
        rows = {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    assert rows["100", "answer/b"] == seen[1][1].answer
    watching(FolderWriter(tmp_path)).step(model, 200)  # a resumed training
    assert (tmp_path / "numbers.csv").read_text().count("step,name,value") == 1


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leads out of the folder"):
        FolderWriter(tmp_path / "in").image("../out", np.zeros((2, 2, 3), np.uint8), 0)
    assert not (tmp_path / "out").exists()
