"""The example package of training recipes: what its terms compute, and that the core runs it like its own recipes."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import align_recipe_checks as checks
import pytest
import torch
from align_factory import (
    NumberedBars,
    bends,
    fit,
    loader,
    read_numbered,
    rows,
    same_weights,
    small_masker,
    trained_by_name,
    trainer,
    weights,
)
from align_launch import check_two_processes_train_to_what_one_does
from plugin_site import site_in
from torch import nn
from torch.nn import functional as F

from tests.networks import conv_net, images, untouched
from xai_align import FeatureSpace, plugins
from xai_align.align import ClassifierPass, Masker, MaskerPass, TrainingBatch, grad_cam, recipe
from xai_align.align.forward_passes.training_batch import GlobalBatch
from xai_align_experiments.adversarial_training import Adversarial
from xai_align_experiments.annealed_area import AnnealedArea
from xai_align_experiments.explanation_consistency import ConsistencyWeighted, background_of
from xai_align_experiments.projected_gradient import ProjectedGradient
from xai_align_experiments.straight_through_masks import StraightThroughMasks

PACKAGE = Path(__file__).parents[1] / "examples" / "plugin_align_experiments"
SOURCES = sorted((PACKAGE / "src" / "xai_align_experiments").glob("*.py"))
NAMES = ("egat", "aim", "consistency")
SPACE = FeatureSpace(layer="conv2", layout="NCHW")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(count=6, *, indices=None, seed=0):
    places = torch.arange(count) if indices is None else torch.tensor(indices)
    return TrainingBatch(images=images(count, seed=seed), labels=torch.arange(count) % 3, indices=places)


def forward_of(model, batch, **options):
    return ClassifierPass(batch, classifier=model, space=SPACE, generator=seeded(), **options)


def net_without_dead_cams():
    """Every channel speaks for every class, some more than others."""
    model = conv_net()
    with torch.no_grad():
        model.fc.weight.abs_()
    return model


def losses_of(model, x, labels):
    return F.cross_entropy(model(x), labels, reduction="none").detach()


@pytest.fixture(autouse=True)
def site(tmp_path_factory, monkeypatch):
    """An environment with the core's plugin and the example, which is found by the entry point that it declares."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    with site_in(tmp_path_factory.mktemp("site"), monkeypatch, keep=("builtin",)) as site:
        site.distribution(project["name"], project["version"], project["entry-points"]["xai_align"])
        yield site


# the package


def test_the_recipes_are_found_with_their_origin():
    assert set(NAMES) <= set(plugins.training_recipes())
    for name in NAMES:
        row = plugins.origin(name, kind="training_recipe")
        assert (row.name, row.distribution, row.version) == ("align_experiments", "xai-align-experiments", "0.1.0")
        assert plugins.training_recipe(name).summary.startswith("experimental: ")
        assert plugins.training_recipe(name).build.__doc__.startswith("Build the experimental recipe")


@pytest.mark.slow
def test_the_package_installs_and_the_command_line_lists_it(tmp_path):
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", *options, "--target", str(tmp_path), str(PACKAGE)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XAI_ALIGN_")}
    done = subprocess.run(
        [sys.executable, "-m", "xai_align", "methods"],
        env={**environment, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NAMES:
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"│ {name} ")]
        assert "xai-align-experiments" in line


def test_importing_the_plugin_imports_no_trainer():
    code = "import sys, xai_align_experiments.plugin; print('xai_align.align' in sys.modules)"
    path = os.pathsep.join([str(PACKAGE / "src"), str(PACKAGE.parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr


def test_the_package_uses_public_names_only():
    import xai_align
    import xai_align.align

    public = {"xai_align": xai_align.__all__, "xai_align.align": xai_align.align.__all__}
    assert len(SOURCES) >= 8
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.partition(".")[0] == "xai_align" for alias in node.names), file
            elif isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "xai_align":
                assert {alias.name for alias in node.names} <= set(public.get(node.module, ())), (file, node.module)


def test_the_example_of_the_readme_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```$", (PACKAGE / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(code, "README.md", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.stem)
def test_every_file_is_in_the_readme(file):
    if file.stem != "__init__":
        assert f"`src/xai_align_experiments/{file.name}`" in (PACKAGE / "README.md").read_text()


# the recipes


@pytest.mark.parametrize(
    ("name", "terms", "masker_terms"),
    [
        ("egat", "classification adversarial mixup", ""),
        ("aim", "classification alignment mixup", "distinction annealed_area smoothness"),
        ("consistency", "consistency_weighted", ""),
    ],
)
def test_each_recipe_has_its_terms(name, terms, masker_terms):
    method = recipe(name)
    assert method.name == name
    assert [term.name for term in method.terms] == terms.split()
    assert [term.name for term in method.masker_terms] == masker_terms.split()
    assert method.trains_masker == bool(masker_terms)
    assert not method.needs_masks
    assert method.needs_indices == (name == "consistency")


def test_options_reach_their_terms():
    assert recipe("egat", epsilon=0.2, steps=3).terms[1].attack == ProjectedGradient(epsilon=0.2, steps=3)
    assert [term.name for term in recipe("egat", mixup=0).terms] == ["classification", "adversarial"]
    method = recipe("aim", area=3.0, final_area=0.2, until=0.5, temperature=2.0, smoothness=0.3, alignment=0.4)
    assert method.masker_terms[1] == AnnealedArea(weight=3.0, last=0.2, until=0.5)
    assert (method.masks_from, method.masker_terms[2].weight) == (StraightThroughMasks(temperature=2.0), 0.3)
    assert method.terms[1].weight == 0.4
    term = recipe("consistency", epsilon=0.2, background=0.1, normalise="none", label_smoothing=0.1).terms[0]
    assert (term.epsilon, term.background, term.normalise, term.classification.label_smoothing) == (
        0.2,
        0.1,
        "none",
        0.1,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_properties_of_a_recipe(name):
    checks.check_own_criterion(name)
    checks.check_no_trace(name)
    checks.check_half_precision(name)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_step_trains_the_classifier_alone(name, order):
    checks.check_classifier_step(name, order)


def test_a_masker_step_trains_the_masker_alone_in_one_pass_of_both_parts():
    checks.check_masker_step("aim")
    method, model, masker = recipe("aim"), checks.Counting(conv_net()), checks.Counting(checks.small_masker())
    checks.loss_of(method.masker_terms, checks.masker_forward(method, model, checks.full_batch(), masker))
    assert model.passes == [12]
    assert masker.passes == [6]


def test_the_warm_up_of_aim_is_dre():
    assert [term.name for term in recipe("aim").terms if not term.needs_mask_source] == ["classification", "mixup"]


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("egat", [6, 6, 6, 6]),  # as it is, for the attack, attacked, mixed
        ("consistency", [6, 6, 6, 6]),  # as it is; before, during and after the attack
    ],
)
def test_what_is_shared_is_computed_once(name, passes):
    checks.check_passes(name, passes)


def test_aim_tries_binary_masks():
    masks = checks.masker_forward(recipe("aim"), conv_net(), checks.full_batch(), checks.small_masker()).masks
    assert set(masks.unique().tolist()) <= {0.0, 1.0}


def test_two_processes_get_the_gradient_of_one():
    checks.check_two_processes("egat")


@pytest.mark.filterwarnings("ignore::xai_align.align.CollapseWarning")
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_trains(name):
    made, done, before = trained_by_name(name)
    assert not same_weights(done.classifier, before)
    assert (done.masker is not None) == made.recipe.trains_masker
    assert {term.name for term in made.recipe.terms} <= done.history[0].keys()


class Stop(Exception):
    pass


def stop_after(epoch):
    def log(row):
        if row["epoch"] == epoch:
            raise Stop

    return log


@pytest.mark.filterwarnings("ignore::xai_align.align.CollapseWarning")
def test_a_fit_of_aim_that_was_stopped_goes_on_to_the_last_bit(tmp_path):
    straight, stopped = bends(), bends(seed=7)
    wanted = fit(None, straight, small_masker(), recipe="aim")
    with pytest.raises(Stop):
        fit(tmp_path, recipe="aim", log=stop_after(4))
    done = fit(tmp_path, stopped, small_masker(seed=7), recipe="aim")
    assert str(rows(done.history)) == str(rows(wanted.history))
    assert same_weights(stopped, weights(straight))


def test_a_fit_of_consistency_that_was_stopped_goes_on_to_the_last_bit(tmp_path):
    """The weights that explanation consistency gave to examples are part of the checkpoint."""

    def run(out, classifier, **options):
        data = torch.utils.data.DataLoader(NumberedBars(24), batch_size=8, shuffle=True)
        made = trainer(classifier, recipe="consistency", out=out, read_batch=read_numbered, **options)
        return made.fit(data, epochs=4)

    straight, stopped = bends(), bends(seed=7)
    wanted = run(None, straight)
    with pytest.raises(Stop):
        run(tmp_path, bends(), log=stop_after(3))
    assert str(rows(run(tmp_path, stopped).history)) == str(rows(wanted.history))
    assert same_weights(stopped, weights(straight))


def test_consistency_needs_indices():
    with pytest.raises(ValueError, match="has a state per example, and the batches have no indices"):
        trainer(recipe="consistency").fit(loader(), epochs=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::xai_align.align.CollapseWarning")
def test_two_processes_train_to_what_one_does(tmp_path, site):
    check_two_processes_train_to_what_one_does(tmp_path, "aim", path=(site.folder, PACKAGE / "src"))


# explanation-guided adversarial training


def noise_like(x, seed=3):
    return torch.rand(x.shape, generator=seeded(seed))


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("limits", [None, (-1.0, 1.5)])
def test_an_attack_stays_in_its_box_and_raises_the_loss(steps, limits):
    model, batch = conv_net(), batch_of()
    x = batch.images.clamp(*limits) if limits else batch.images
    attacked = ProjectedGradient(epsilon=0.1, steps=steps, limits=limits)(x, batch.labels, model, noise_like(x))
    assert (attacked - x).abs().max() <= 0.1 + 1e-6
    if limits:
        assert attacked.min() >= limits[0]
        assert attacked.max() <= limits[1]
    assert (losses_of(model, attacked, batch.labels) > losses_of(model, x, batch.labels)).all()
    assert not attacked.requires_grad


def test_several_steps_raise_the_loss_further():
    model, batch = conv_net(), batch_of()
    start = torch.full_like(batch.images, 0.5)
    one, many = (
        losses_of(
            model, ProjectedGradient(epsilon=0.5, steps=n)(batch.images, batch.labels, model, start), batch.labels
        )
        for n in (1, 10)
    )
    assert many.sum() > one.sum()


def test_only_the_places_named_change():
    model, batch = conv_net(), batch_of()
    where = torch.zeros(6, 1, 8, 8, dtype=torch.bool)
    where[:, :, :4] = True
    attack = ProjectedGradient(epsilon=0.1)
    attacked = attack(batch.images, batch.labels, model, noise_like(batch.images), where=where)
    assert torch.equal(attacked[:, :, 4:], batch.images[:, :, 4:])
    assert not torch.equal(attacked[:, :, :4], batch.images[:, :, :4])


def test_making_an_attack_touches_nothing():
    model, batch = conv_net().train(), batch_of()
    model.add_module("dropout", nn.Dropout(0.5))
    with untouched(model):
        ProjectedGradient(epsilon=0.1, steps=3)(batch.images, batch.labels, model, noise_like(batch.images))
    assert model.norm.num_batches_tracked == 0


def test_batch_statistics_do_not_remember_attacked_images():
    model, batch = conv_net().train(), batch_of()
    Adversarial()(forward_of(model, batch))
    assert model.norm.num_batches_tracked == 1  # the images


def test_a_perturbation_of_nothing_moves_no_cam():
    for mode in (True, False):
        model, batch = conv_net().train(mode), batch_of()
        term = Adversarial(epsilon=0.0, classification=0.0)
        assert torch.equal(term(forward_of(model, batch)), torch.zeros(6))
        report = term.report()
        assert report["adversarial_consistency"] == 0
    assert report["adversarial_classification"] == pytest.approx(
        losses_of(model, batch.images, batch.labels).mean().item()
    )


def test_both_parts_of_the_adversarial_term_teach():
    for parts in ({"classification": 0.0}, {"consistency": 0.0}):
        model = conv_net()
        Adversarial(**parts)(forward_of(model, batch_of())).mean().backward()
        assert model.conv1.weight.grad.any()
        assert model.conv1.weight.grad.isfinite().all()


def test_an_attack_of_ones_own():
    model, batch = conv_net(), batch_of()
    given = []

    def brighter(x, labels, classifier, noise):
        given.append((x.shape, noise.shape, classifier is model))
        return x + 1

    values = Adversarial(attack=brighter, consistency=0.0)(forward_of(model, batch))
    torch.testing.assert_close(values.detach(), losses_of(model, batch.images + 1, batch.labels))
    assert given == [((6, 3, 8, 8), (6, 3, 8, 8), True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, "epsilon must be a non-negative number, got -0.1"),
        ({"epsilon": 0.1, "steps": 0}, "steps is 0"),
        ({"epsilon": 0.1, "step_size": float("inf")}, "step_size must be a non-negative number, got inf"),
        ({"epsilon": 0.1, "limits": (1.0, 0.0)}, "give the smallest value and a larger one"),
    ],
)
def test_attacks_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ProjectedGradient(**options)
    if "step_size" not in options:
        with pytest.raises(ValueError, match=message):
            Adversarial(**options)


# annealed binary masks


def masker_forward(masker, batch, *, progress=0.0, **options):
    return MaskerPass(batch, classifier=conv_net(), masker=masker, generator=seeded(), progress=progress, **options)


class Constant(nn.Module):
    """The same mask everywhere, with a gradient."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, x):
        return self.value.expand(len(x), 1, *x.shape[2:])


def test_the_area_shrinks_in_proportion():
    term = AnnealedArea()
    assert [term.tau(progress) for progress in (0, 0.5, 1)] == pytest.approx([1, 0.675, 0.35])
    assert AnnealedArea(last=0.25, until=0.5).tau(0.25) == pytest.approx(0.625)
    assert AnnealedArea(until=0.5).tau(0.8) == pytest.approx(0.35)


def test_the_area_is_penalised_both_ways():
    for value in (0.2, 0.5):
        values = AnnealedArea()(masker_forward(Constant(value), batch_of(), progress=1.0))
        torch.testing.assert_close(values, torch.full((6,), (value - 0.35) ** 2))
    assert AnnealedArea().weight == 6


def test_straight_through_masks_are_binary_and_teach():
    torch.manual_seed(0)
    masker, batch = Masker(width=8), batch_of()
    forward = masker_forward(masker, batch, masks_from=StraightThroughMasks())
    assert set(forward.masks.unique().tolist()) == {0.0, 1.0}
    forward.masks.mean().backward()
    gradients = [p.grad for p in masker.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    torch.testing.assert_close(forward.soft, masker(batch.images))


def test_straight_through_masks_have_the_gradient_of_soft_ones():
    masker, batch = Constant(0.3), batch_of(2)
    forward = masker_forward(masker, batch, masks_from=StraightThroughMasks(temperature=0.5))
    forward.masks.sum().backward()
    logit = torch.tensor(0.3).logit().requires_grad_()
    noise = forward.draws.uniform("binary masks", 1, 8, 8).logit()
    ((logit + noise) / 0.5).sigmoid().sum().backward()
    # d logit / d p = 1 / (p (1 - p))
    torch.testing.assert_close(masker.value.grad, logit.grad / (0.3 * 0.7), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.1, 0.5, 0.9])
def test_a_pixel_is_kept_with_its_masks_probability(value):
    batch = batch_of(64)
    masks = masker_forward(Constant(value), batch, masks_from=StraightThroughMasks()).masks
    assert masks.mean().item() == pytest.approx(value, abs=0.03)  # 4,096 draws: four standard errors


def test_binary_masks_do_not_depend_on_how_a_step_is_shared():
    batch = batch_of()
    whole = masker_forward(Constant(0.5), batch, masks_from=StraightThroughMasks()).masks
    part = TrainingBatch(images=batch.images[2:], labels=batch.labels[2:])
    global_batch = GlobalBatch(batch.images, batch.labels, 2)
    forward = masker_forward(Constant(0.5), part, masks_from=StraightThroughMasks(), global_batch=global_batch)
    assert torch.equal(forward.masks, whole[2:])


def test_a_hundred_steps_bring_the_area_down():
    """The annealed penalty alone leads a full mask to the last area."""
    masker, batch, term = Constant(0.95), batch_of(16), AnnealedArea()
    optimiser = torch.optim.SGD(masker.parameters(), 0.05)
    for step in range(100):
        forward = masker_forward(masker, batch, progress=min(step / 60, 1.0), masks_from=StraightThroughMasks())
        optimiser.zero_grad()
        term(forward).mean().backward()
        optimiser.step()
    assert masker.value.item() == pytest.approx(0.35, abs=0.08)


# explanation consistency


def test_unseen_examples_weigh_one():
    model, batch = conv_net(), batch_of()
    term = ConsistencyWeighted()
    torch.testing.assert_close(term(forward_of(model, batch)).detach(), losses_of(model, batch.images, batch.labels))


def test_weights_are_what_consistency_left_over():
    model, batch = net_without_dead_cams(), batch_of()
    term = ConsistencyWeighted(normalise="none", epsilon=0.5)
    forward = forward_of(model, batch)
    consistency = term.examine(forward)
    assert not forward.dead.any()
    assert ((consistency > 0) & (consistency < 1)).all()
    assert consistency.std() > 0
    term(forward)
    torch.testing.assert_close(term.weights_of(batch.indices), 1 - consistency)
    again = term(forward_of(model, batch)).detach()
    torch.testing.assert_close(again, (1 - consistency) * losses_of(model, batch.images, batch.labels))
    scaled = ConsistencyWeighted(epsilon=0.5)
    scaled.load_state_dict(term.state_dict())
    torch.testing.assert_close(scaled.weights_of(batch.indices), (1 - consistency) / (1 - consistency).mean())


def test_no_attack_leaves_the_explanation_as_it_is():
    model, term = net_without_dead_cams(), ConsistencyWeighted(epsilon=0.0)
    torch.testing.assert_close(term.examine(forward_of(model, batch_of())), torch.ones(6))
    term(forward_of(model, batch_of()))
    assert torch.equal(term.weights_of(torch.arange(6)), torch.ones(6))  # nothing tells examples apart
    assert term.report()["consistency"] == pytest.approx(1)


def test_only_the_background_is_attacked():
    model, batch = net_without_dead_cams(), batch_of()
    term = ConsistencyWeighted(epsilon=0.3, background=0.4)
    forward, seen = forward_of(model, batch), []
    handle = model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    term.examine(forward)
    handle.remove()
    moved = (seen[-1] != batch.images).any(1, keepdim=True)
    heat = F.interpolate(forward.saliency.detach(), (8, 8), mode="bilinear", align_corners=False)
    cam = grad_cam(model, batch.images, batch.labels, layer=SPACE).detach()
    assert torch.equal(background_of(cam, 0.4, (8, 8)), heat < 0.4)
    assert moved.any()
    assert not (moved & (heat >= 0.4)).any()
    assert (seen[-1] - batch.images).abs().max() <= 0.3 + 1e-6


def test_examples_are_known_by_their_index_across_epochs():
    model = net_without_dead_cams()
    term = ConsistencyWeighted(normalise="none", epsilon=0.5)
    first = batch_of(indices=[7, 3, 11, 0, 1, 2])
    consistency = term.examine(forward_of(model, first))
    term(forward_of(model, first))
    torch.testing.assert_close(term.weights_of(torch.tensor([11, 7])), 1 - consistency[[2, 0]])
    assert term.weights_of(torch.tensor([5, 40])).tolist() == [1.0, 1.0]  # never seen


def test_what_is_remembered_goes_through_a_checkpoint(tmp_path):
    from safetensors.torch import load_file, save_file

    model, batch = conv_net(), batch_of()
    term, other = ConsistencyWeighted(), ConsistencyWeighted()
    save_file(other.state_dict(), tmp_path / "empty.safetensors")
    other.load_state_dict(load_file(tmp_path / "empty.safetensors"))
    term(forward_of(model, batch))
    save_file(term.state_dict(), tmp_path / "state.safetensors")
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert torch.equal(term(forward_of(model, batch)), other(forward_of(model, batch)))
    state = term.state_dict()
    state["inconsistency"].fill_(0)  # a copy
    assert term.weights_of(batch.indices).sum() > 0


def test_a_dead_cam_says_nothing_about_an_example():
    model, batch = net_without_dead_cams(), batch_of()
    with torch.no_grad():
        model.fc.weight[1] = -1.0  # nothing speaks for class 1
    term = ConsistencyWeighted()
    term(forward_of(model, batch))
    assert term.examine(forward_of(model, batch)).isnan().tolist() == (batch.labels == 1).tolist()
    weights = term.weights_of(batch.indices)
    assert (weights[batch.labels == 1] == 1).all()  # as if it had not been seen
    assert weights[batch.labels != 1].mean().item() == pytest.approx(1)


def test_examining_touches_nothing():
    model, batch = conv_net().train(), batch_of()
    with untouched(model):
        ConsistencyWeighted(steps=2).examine(forward_of(model, batch))


def test_no_gradient_goes_through_the_explanation():
    model, batch = net_without_dead_cams(), batch_of()
    term = ConsistencyWeighted(normalise="none", epsilon=0.5)
    term(forward_of(model, batch))
    weights = term.weights_of(batch.indices)
    (found,) = torch.autograd.grad(term(forward_of(model, batch)).sum(), model.conv1.weight)
    plain = F.cross_entropy(model(batch.images), batch.labels, reduction="none")
    torch.testing.assert_close(found, torch.autograd.grad((weights * plain).sum(), model.conv1.weight)[0])


def test_consistency_says_what_it_needs(monkeypatch):
    model, batch = conv_net(), batch_of()
    bare = TrainingBatch(images=batch.images, labels=batch.labels)
    with pytest.raises(ValueError, match=r"let the loader yield TrainingBatch\(images=..., labels=..., indices=...\)"):
        ConsistencyWeighted()(forward_of(model, bare))
    with pytest.raises(ValueError, match="the index -1; indices count from 0"):
        ConsistencyWeighted()(forward_of(model, batch_of(2, indices=[-1, 0])))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match=r"in 2 processes.*run it in one"):
        ConsistencyWeighted()(forward_of(model, batch))


@pytest.mark.parametrize(
    "module", ["adversarial_training", "annealed_area", "straight_through_masks", "explanation_consistency"]
)
def test_experiments_are_called_so(module):
    text = next(file for file in SOURCES if file.stem == module).read_text()
    assert text.startswith('"""Experimental: ')
    assert "our reading" in " ".join(ast.get_docstring(ast.parse(text)).lower().split())
