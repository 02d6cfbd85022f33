"""Checks of :func:`xai_align.testing.check_attribution` that need Captum."""

from __future__ import annotations

from typing import Any

import torch
from captum import metrics
from captum.attr import NoiseTunnel
from torch import Tensor

from xai_align.adapter_tools import kept_random_state
from xai_align.testing.subject import TARGETS, Check, Subject


def captum_face(subject: Subject) -> None:
    """Check for the attributes that Captum's code uses: forward_func, has_convergence_delta, ..., __wrapped__."""
    method = subject.build(subject.network())
    for name in ("forward_func", "has_convergence_delta", "multiplies_by_inputs", "get_name"):
        if not hasattr(method, name):
            raise AssertionError(f"there is no `{name}`")
    if not hasattr(method.attribute, "__wrapped__"):
        raise AssertionError("`attribute` has no `__wrapped__`, which NoiseTunnel calls")
    for name in ("has_convergence_delta", "get_name"):
        if not callable(getattr(method, name)):
            raise AssertionError(f"`{name}` is not a method")


def convergence_delta(subject: Subject) -> None:
    """Check that a class with a convergence delta returns one per example."""
    method, images = subject.build(subject.network()), subject.images()
    if not method.has_convergence_delta():
        return
    answer = method.attribute(images, target=1, return_convergence_delta=True, **subject.options)
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Tensor)):
        raise AssertionError(f"return_convergence_delta=True gave {type(answer).__name__}, not (attributions, delta)")
    attributions, delta = answer
    if attributions.shape != images.shape:
        raise AssertionError(f"with the delta, attributions are {list(attributions.shape)}, not {list(images.shape)}")
    if delta.dim() != 1 or len(delta) % len(images):
        raise AssertionError(f"the delta of {len(images)} examples has shape {list(delta.shape)}")


def noise_tunnel(subject: Subject) -> None:
    """Check that NoiseTunnel without noise gives the plain attributions, and that it runs with noise."""
    network, images = subject.network(), subject.images()
    for target in (1, list(TARGETS), torch.tensor(TARGETS)):
        plain = subject.attribute(network, images, target=target)
        still = _through_tunnel(subject, network, images, target, stdevs=0.0)
        if not subject.close(plain, still):
            raise AssertionError(
                f"with no noise and target={target}, NoiseTunnel gave other attributions than attribute"
            )
    noisy = _through_tunnel(subject, network, (images,), 1, stdevs=0.3, nt_samples_batch_size=2)
    if not isinstance(noisy, tuple) or noisy[0].shape != images.shape:
        raise AssertionError("through NoiseTunnel a tuple of one tensor did not come back as one of its shape")


def sensitivity_max(subject: Subject) -> None:
    """Check that ``captum.metrics.sensitivity_max`` runs on it."""
    images, method = subject.images(), subject.build(subject.network())
    worst = metrics.sensitivity_max(
        method.attribute, images, _nudged, n_perturb_samples=2, target=list(TARGETS), **subject.options
    )
    if worst.shape != (len(images),) or not bool(torch.isfinite(worst).all()):
        raise AssertionError(f"sensitivity_max gave {worst.tolist()} for {len(images)} examples")


def infidelity(subject: Subject) -> None:
    """Check that ``captum.metrics.infidelity`` accepts its attributions."""
    images, network = subject.images(), subject.network()
    attributions = subject.attribute(network, images, target=list(TARGETS))
    value = metrics.infidelity(
        network, _removed, images, attributions.detach(), target=list(TARGETS), n_perturb_samples=2
    )
    if value.shape != (len(images),) or not bool(torch.isfinite(value).all()):
        raise AssertionError(f"infidelity gave {value.tolist()} for {len(images)} examples")


CAPTUM_CHECKS: tuple[Check, ...] = (
    Check(
        run=captum_face,
        advice="derive from captum.attr.Attribution and decorate `attribute` with captum.log.log_usage()",
    ),
    Check(
        run=convergence_delta,
        advice="accept return_convergence_delta=False and return (attributions, delta), delta of shape [N]",
    ),
    Check(
        run=noise_tunnel,
        advice="name the arguments as Captum does (target, additional_forward_args, baselines), "
        "keep the batch first and contiguous",
    ),
    Check(
        run=sensitivity_max,
        advice="take a tuple of one tensor, work under no_grad, keep arguments deep-copyable",
    ),
    Check(
        run=infidelity,
        advice="return attributions in the shape of the inputs",
    ),
)


def _through_tunnel(subject: Subject, network: Any, inputs: Any, target: Any, **noise: Any) -> Any:
    """Run NoiseTunnel, which draws from the global random state, and restore the caller's state."""
    with kept_random_state():
        tunnel = NoiseTunnel(subject.build(network))
        return tunnel.attribute(inputs, target=target, nt_samples=4, **noise, **subject.options)


def _nudged(inputs: Any, radius: float = 0.02) -> tuple[Tensor, ...]:
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(x + radius for x in parts)


def _removed(inputs: Tensor, baselines: Any = None) -> tuple[Tensor, Tensor]:
    """Return the perturbation, a tenth of every value, and the inputs minus it."""
    step = 0.1 * inputs
    return step, inputs - step
