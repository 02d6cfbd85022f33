"""Bad input is refused with a word on what to do, before anything is changed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from align_factory import Bars, bends, loader, rows, small_masker, trainer
from networks import untouched
from torch import nn

from xai_align.align import AlignTrainer, Classification, ClassifierPass, Masker, Recipe, TrainingBatch
from xai_align.align.captured_pass import cam_space
from xai_align.align.mask_sources import GivenMask
from xai_align.align.recipe_record import needs_mask_source
from xai_align.align.recipes import care, gradia, rrr
from xai_align.align.training.steps import Steps
from xai_align.training.diverged import DivergedError

pytestmark = pytest.mark.filterwarnings("ignore::xai_align.align.CollapseWarning")


def batches(*found):
    return list(found)


def images(count=6):
    return Bars(count).images


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        ([{"image": images(), "label": LABELS}], TypeError, r"are dictionaries \(with 'image', 'label'\).*read_batch="),
        ([images()], TypeError, r"are tensors \[6, 1, 12, 12\] without labels"),
        ([(images(), None)], TypeError, "there are no labels"),
        ([(images(),)], TypeError, r"are tuples of 1 part; yield \(images, labels\)"),
        ([1, 2, 3], TypeError, "are ints; yield"),
        ([(images(), LABELS + 1)], ValueError, "label 3 is out of range: the classifier has 3 classes, 0 to 2"),
        ([(images(), LABELS - 1)], ValueError, "label -1 is out of range"),
        ([(images(), LABELS.float())], TypeError, "the labels are float32; give the numbers"),
        ([(images(), nn.functional.one_hot(LABELS))], TypeError, r"shape \[6, 3\].*labels.argmax\(1\)"),
        ([(images(), LABELS[:4])], ValueError, r"shape \[4\] for 6 images"),
        ([(images(), LABELS > 0)], ValueError, "bool of shape"),
        ([(images(), ["a"] * 6)], TypeError, "the labels are list; give the numbers"),
        (
            [((images() * 255).to(torch.uint8), LABELS)],
            TypeError,
            "the images must be a floating.* got torch.uint8",
        ),
        (
            [(images()[0], LABELS[0])],
            ValueError,
            r"the images must have the shape .* got \[1, 12, 12\]",
        ),
        ([(images() * math.nan, LABELS)], ValueError, "the images must be finite; example.* hold NaN or infinity"),
        (
            [(images(), LABELS, torch.zeros(6, 1, 3, 3))],
            ValueError,
            r"shape \[6, 1, 3, 3\]; give \[6, 1, 12",
        ),
        ([(images(), LABELS, torch.full((6, 12, 12), 2.0))], ValueError, "masks hold values between 2 and 2"),
        ([], ValueError, "the training data are empty"),
        (iter([(images(), LABELS)]), TypeError, "can be iterated over only once"),
        (7, TypeError, "the training data are a int; give a DataLoader"),
    ],
)
def test_data_that_can_not_be_trained_with(data, error, told):
    classifier, masker = bends(), small_masker()
    made = AlignTrainer(classifier, masker)
    with untouched(classifier), untouched(masker), pytest.raises(error, match=told):
        made.fit(data, epochs=1)


def test_the_same_is_asked_of_validation_data(tmp_path):
    made = trainer(out=tmp_path)
    with untouched(made.classifier), pytest.raises(ValueError, match="the validation data: label 5 is out of range"):
        made.fit(loader(), [(images(), LABELS + 3)], epochs=1)
    assert not list(tmp_path.rglob("*.safetensors"))


def three_channels():
    classifier = bends()
    classifier.one = nn.Conv2d(3, 8, 3, padding=1)
    return classifier


@pytest.mark.parametrize(
    ("make", "shape", "told"),
    [
        (bends, (6, 3, 12, 12), r"images are \[2, 3, 12, 12\].*convolution 'one' takes 1 channel, and they have 3"),
        (bends, (6, 12, 12, 1), r"have 1 channel as the last dimension: give images.permute\(0, 3, 1, 2\)"),
        (three_channels, (6, 12, 12, 3), r"have 3 channels as the last dimension: give images.permute"),
        (three_channels, (6, 3, 1, 1), r"Bends does not run on them .*number of channels and the size that it takes"),
    ],
)
def test_images_of_another_shape_than_the_classifiers_are_refused_before_training(tmp_path, make, shape, told):
    classifier = make()
    data = [(torch.rand(shape), LABELS)]
    with untouched(classifier), pytest.raises(ValueError, match=f"the training data: the .*{told}"):
        AlignTrainer(classifier, out=tmp_path).fit(data, epochs=1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_batches_made_in_inference_mode_train_as_others_do():
    masks = (images() > 0.3).float()
    with torch.inference_mode():
        data = [(images() * 1, LABELS * 1, masks * 1)]
    done = trainer(recipe="oracle").fit(data, epochs=1)
    plain = trainer(recipe="oracle").fit([(images(), LABELS, masks)], epochs=1)
    assert rows(done.history) == rows(plain.history)


def test_networks_made_in_inference_mode_are_refused_and_their_copies_are_not():
    with torch.inference_mode():
        classifier, masker = bends(), small_masker()
    with pytest.raises(
        ValueError, match=r"'one.weight' of the Bends was made inside torch.inference_mode\(\).*deepcopy"
    ):
        AlignTrainer(classifier)
    with pytest.raises(ValueError, match=r"of the Masker was made inside torch.inference_mode\(\)"):
        AlignTrainer(bends(), masker).fit(loader(), epochs=1)
    assert trainer(copy.deepcopy(classifier)).fit(loader(), epochs=1).steps == 3


@pytest.mark.parametrize("recipe", ["oracle", "rrr"])
def test_masks_that_are_unknown_everywhere_are_refused_after_the_first_epoch(tmp_path, recipe):
    unknown = torch.full_like(images(), math.nan)
    made = trainer(recipe=recipe, out=tmp_path)
    with pytest.raises(ValueError, match=f"'{recipe}' needs masks, and all values .* are NaN, which means unknown"):
        made.fit([(images(), LABELS, unknown)], epochs=2)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["epoch-00000.safetensors"]
    one = unknown.clone()
    one[0, 0, 0, 0] = 1.0
    assert trainer(recipe=recipe).fit([(images(), LABELS, unknown), (images(), LABELS, one)], epochs=1).steps == 2


@pytest.mark.parametrize("recipe", [rrr, gradia, care])
def test_masks_outside_0_to_1_are_refused_in_loops_of_ones_own(recipe):
    term = next(term for term in recipe().terms if needs_mask_source(term))
    classifier, x = bends().eval(), images()
    masks = torch.full_like(x, 2.0)
    masks[0] = math.nan
    forward = ClassifierPass(
        TrainingBatch(images=x, labels=LABELS, masks=masks),
        classifier=classifier,
        space=cam_space(classifier, x),
        mask_source=GivenMask(),
        generator=torch.Generator(),
    )
    with pytest.raises(ValueError, match=f"the masks for the term '{term.name}' hold values between 2 and 2; give 1"):
        term(forward)


def test_a_bad_batch_in_the_middle_is_named_and_nothing_is_lost(tmp_path):
    good, bad = (images(), LABELS), (images(), LABELS + 9)
    made = trainer(out=tmp_path)
    with pytest.raises(ValueError, match="label 11 is out of range"):
        made.fit([good, good, bad], epochs=1)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["epoch-00000.safetensors"]


def test_an_epoch_whose_validation_fails_is_not_counted(tmp_path):
    made = trainer(out=tmp_path)
    validation = [(images(), LABELS), (images(), LABELS + 3)]
    with pytest.raises(ValueError, match="the validation data: label 5 is out of range"):
        made.fit(loader(), validation, epochs=2)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["epoch-00000.safetensors"]
    done = made.fit(loader(), validation[:1], epochs=2)
    assert [row["epoch"] for row in done.history] == [1, 2]
    assert "resuming from the end of epoch 0" in done.notes[0]


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    made = trainer(out=tmp_path)
    with pytest.raises(ValueError, match="all 6 labels of the training data are 2: with one class"):
        made.fit([(images(), torch.full((6,), 2))], epochs=2)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["epoch-00000.safetensors"]


def test_a_class_without_examples_is_told_of():
    done = trainer().fit([(images(), LABELS % 2)], epochs=1)
    assert "1 of 3 classes has no training example (class 2)" in done.notes


def test_batches_of_one_train():
    """Partners for mixing are the images themselves; batch norm over the places of one image is still one."""
    done = trainer().fit(loader(3, batch_size=1), epochs=2)
    assert all(math.isfinite(row["loss"]) for row in done.history)


def test_read_batch_makes_a_batch_of_anything():
    made = trainer(read_batch=lambda b: (b["image"], b["label"]))
    done = made.fit([{"image": images(), "label": LABELS}], epochs=1)
    plain = trainer().fit([(images(), LABELS)], epochs=1)
    assert rows(done.history) == rows(plain.history)


class Gives(nn.Module):
    """A classifier whose output is something else."""

    def __init__(self, change):
        super().__init__()
        self.inner, self.change = bends(), change

    def forward(self, x):
        return self.change(self.inner(x))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x[:, :, None, None], r"gave \[2, 3, 1, 1\] for 2 images; logits \[N, K\] are needed"),
        (lambda x: (x, x), r"gave a tuple for 2 images; logits \[N, K\] are needed"),
        (lambda x: {"logits": x}, r"gave a dict with logits for 2 images"),
        (lambda x: x[:, :1], "one output"),
        (lambda x: x * math.nan, "NaN or infinite logits before any training"),
    ],
)
def test_a_classifier_that_gives_no_logits(change, told):
    classifier = Gives(change)
    with untouched(classifier), pytest.raises(ValueError, match=told):
        trainer(classifier).fit(loader(), epochs=1)


class Detour(nn.Module):
    """A classifier with a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.inner, self.unused = bends(), nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.inner(x)


def test_a_layer_that_is_not_reached_or_not_there():
    classifier = Detour()
    with untouched(classifier), pytest.raises(ValueError, match="unused"):
        AlignTrainer(classifier, target_layer="unused").fit(loader(), epochs=1)
    with untouched(classifier), pytest.raises(ValueError, match="nowhere"):
        AlignTrainer(classifier, target_layer="nowhere").fit(loader(), epochs=1)


def test_masks_and_indices_where_a_recipe_needs_them():
    for name in ("oracle", "random", "inverse", "rrr", "gradia", "care"):
        with pytest.raises(ValueError, match=rf"the recipe '{name}' needs masks, and the batches have none"):
            trainer(recipe=name).fit(loader(), epochs=1)
    counting = Classification()
    counting.needs_indices = True
    with pytest.raises(ValueError, match="has a state per example, and the batches have no indices"):
        trainer(recipe=Recipe(name="counting", terms=(counting,))).fit(loader(), epochs=1)


class Bad(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.conv, self.change = nn.Conv2d(1, 1, 1), change

    def forward(self, x):
        return self.change(self.conv(x))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m[:, :, ::2, ::2].sigmoid(), r"the masker gives \[2, 1, 6, 6\] for images \[2, 1, 12, 12\]"),
        (lambda m: m.sigmoid()[:, 0], r"the masker gives \[2, 12, 12\]"),
        (lambda m: (m.sigmoid(),), "the masker gives a tuple"),
        (lambda m: m - 100, r"masks lie in \[0, 1\], so let it end in a sigmoid"),
        (lambda m: m * math.nan, r"the masker gives values between nan and nan"),
    ],
)
def test_a_masker_that_gives_no_masks(change, told):
    classifier, masker = bends(), Bad(change)
    with untouched(classifier), untouched(masker), pytest.raises(ValueError, match=told):
        AlignTrainer(classifier, masker).fit(loader(), epochs=1)


def test_a_masker_for_other_images():
    with pytest.raises(ValueError, match=r"the masker was made for images \[N, 3, H, W\]"):
        AlignTrainer(bends(), Masker(3)).fit(loader(), epochs=1)


def test_networks_that_share_parameters():
    classifier = bends()

    class Sharing(nn.Module):
        def __init__(self):
            super().__init__()
            self.theirs, self.own = classifier.one, nn.Conv2d(8, 1, 1)

        def forward(self, x):
            return self.own(self.theirs(x)).sigmoid()

    masker = Sharing()
    with untouched(classifier), pytest.raises(ValueError, match=r"share parameters \('theirs.weight' of the masker\)"):
        AlignTrainer(classifier, masker).fit(loader(), epochs=1)


def test_networks_in_different_precision():
    with pytest.raises(ValueError, match=r"is not torch.float64 .*\(dtype\)"):
        AlignTrainer(bends().double(), small_masker()).fit(loader(), epochs=1)


@pytest.mark.parametrize("recipe", ["align", "erm"])
def test_float16_weights_are_refused_and_bfloat16_is_noted(recipe):
    with pytest.raises(ValueError, match=r"'one.weight' is float16, in which training diverges.*model.float\(\)"):
        AlignTrainer(bends().half(), recipe=recipe)
    done = AlignTrainer(bends().bfloat16(), recipe=recipe).fit(loader(), epochs=1)
    assert "parameter 'one.weight' is bfloat16: steps smaller than 1/512 of a weight are lost" in done.notes[0]
    assert math.isfinite(done.history[0]["loss"])


def test_a_step_of_less_than_the_512th_part_is_lost_in_bfloat16():
    """The note's number, for every weight that bfloat16 holds in one binade."""
    weights = 1 + torch.arange(128) / 128
    for part, lost in ((1 / 513, True), (1 / 250, False)):
        assert bool((weights.bfloat16() - (weights * part).bfloat16() == weights.bfloat16()).all()) is lost


def test_a_frozen_classifier():
    with pytest.raises(ValueError, match="no parameter of the model requires grad"):
        AlignTrainer(bends().requires_grad_(False))


def test_what_is_no_network():
    with pytest.raises(TypeError, match="the classifier is a function; give a"):
        AlignTrainer(lambda x: x)
    with pytest.raises(TypeError, match="the masker is a str"):
        AlignTrainer(bends(), "small")


def test_half_precision_on_a_cpu():
    made = trainer(mixed_precision="fp16")
    with untouched(made.classifier), pytest.raises(ValueError, match="fp16 is for GPUs"):
        made.fit(loader(), epochs=1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"order": "third"}, "order must be 'first' or 'second', got 'third'"),
        ({"alternation": "step"}, "alternation must be 'batch' or 'epoch', got 'step'"),
        ({"on_collapse": "pray"}, "on_collapse must be 'area', 'sparsity' or 'warn'"),
        ({"keep": "all"}, "keep must be 'best' or 'last'"),
        ({"schedule": "plateau"}, "schedule must be 'none', 'cosine' or 'cosine_each'"),
        ({"masker_every": 0}, "masker_every must be a positive integer, got 0"),
        ({"warmup_epochs": -1}, "warmup_epochs must be a non-negative integer, got -1"),
        ({"warmup_steps": 1.5}, "warmup_steps must be a non-negative integer, got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0.0"),
        ({"gradient_clip": -1.0}, "gradient_clip must be a positive number, got -1.0"),
        ({"weight_decay": math.inf}, "weight_decay must be a non-negative number, got inf"),
        ({"gradient_accumulation_steps": True}, "gradient_accumulation_steps must be a positive integer, got True"),
        ({"patience": 0}, "patience must be a positive integer, got 0"),
        ({"recipe": "alien"}, "there is no training recipe 'alien'; did you mean 'align'"),
    ],
)
def test_options_that_are_not_possible(options, told):
    with pytest.raises(ValueError, match=told):
        trainer(**options)


def test_epochs_and_patience():
    with pytest.raises(ValueError, match="epochs must be a positive integer, got 0"):
        trainer().fit(loader(), epochs=0)
    with pytest.raises(ValueError, match="patience needs validation data"):
        trainer(patience=2).fit(loader(), epochs=1)


def test_optimisers_that_are_none_or_over_something_else():
    with pytest.raises(TypeError, match="classifier_optimizer gave a int"):
        trainer(classifier_optimizer=len).fit(loader(), epochs=1)
    elsewhere = torch.optim.SGD(bends().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="masker_optimizer gave an optimiser over other parameters"):
        trainer(masker_optimizer=lambda ps: elsewhere).fit(loader(), epochs=1)


class Sick(nn.Module):
    """The forward pass number ``at`` in train mode gives NaN; so do batch statistics that it leaves."""

    def __init__(self, at):
        super().__init__()
        self.inner, self.at, self.count = bends(), at, 0

    def forward(self, x):
        self.count += self.training
        return self.inner(x * (math.nan if self.training and self.count == self.at else 1.0))


def interrupted_before_step(number, monkeypatch):
    """Of the classifier."""
    known, seen = Steps.classifier_step, []

    def step(self, *args, **options):
        seen.append(1)
        if len(seen) == number:
            raise KeyboardInterrupt
        known(self, *args, **options)

    monkeypatch.setattr(Steps, "classifier_step", step)


def test_a_loss_that_is_no_number_names_the_batch_and_leaves_the_weights(monkeypatch):
    """Two passes for a step (clean and mixed), three steps an epoch: the ninth pass is that of the second's second."""
    classifier = Sick(at=9)
    made = trainer(classifier, schedule="none")
    with pytest.raises(DivergedError, match="epoch 2, batch 2: the loss of the classifier was nan"):
        made.fit(loader(), epochs=3)
    twin = Sick(at=0)
    interrupted_before_step(5, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        trainer(twin, schedule="none").fit(loader(), epochs=3)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


def test_a_gradient_that_is_no_number_too():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = bends(batch_norm=False, dropout=0.0)
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.inner(x) + self.scale.sqrt()  # finite, with a slope that isn't

    with pytest.raises(
        DivergedError, match=r"epoch 1, batch 1: the loss of the classifier was .*gradient was (nan|inf)"
    ):
        trainer(Root(), recipe="erm").fit(loader(), epochs=1)


def test_a_step_of_ones_own_is_refused_alike():
    made = trainer(recipe="erm")
    with pytest.raises(ValueError, match="the recipe 'erm' trains no masker, so there is no step"):
        made.masker_step((images(), LABELS))
    with pytest.raises(ValueError, match="the batches: label 8 is out of range"):
        made.classifier_step((images(), LABELS + 6))
    with pytest.raises(TypeError, match="the batches are dictionaries"):
        made.classifier_step({"image": images()})


class OneLogit(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = bends(classes=1)

    def forward(self, x):
        return self.inner(x)


def test_what_is_refused_comes_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"trains no masker.*; make classifier_step alone"):
        trainer(recipe="erm").masker_step((images(), LABELS))
    with pytest.raises(ValueError, match=r"are empty.*; give examples, or drop_last=False"):
        trainer().fit(loader(4, batch_size=8, drop_last=True), epochs=1)
    with pytest.raises(TypeError, match=r"there are no labels.*; yield \(images, labels\)"):
        trainer().fit([(images(), None)], epochs=1)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint to resume from; give one, or the folder of a fit"):
        trainer().resume(tmp_path)
    with pytest.raises(ValueError, match=r"has one output.*Of a logit z of two classes return torch.cat"):
        trainer(OneLogit()).fit(loader(), epochs=1)
    z = torch.tensor([[-2.0], [0.5]])
    both = torch.cat([-z / 2, z / 2], 1).softmax(1)[:, 1]
    assert torch.allclose(both, z[:, 0].sigmoid())


def test_a_compiled_classifier_is_looked_into():
    """Nothing is compiled: the network inside is trained."""
    plain, inside = bends(), bends()
    compiled = torch.compile(inside, backend="eager")
    done = trainer(compiled).fit(loader(), epochs=1)
    trainer(plain).fit(loader(), epochs=1)
    assert done.classifier is compiled
    assert "the network inside the OptimizedModule was trained" in done.notes[0]
    for one, two in zip(plain.parameters(), inside.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_training_batch_of_ones_own_is_read():
    batch = TrainingBatch(images=images(), labels=LABELS, indices=torch.arange(6))
    done = trainer().fit([batch], epochs=1)
    plain = trainer().fit([(images(), LABELS)], epochs=1)
    assert rows(done.history) == rows(plain.history)
