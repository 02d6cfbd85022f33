"""Numbers in words and signs that a person reads: one way for the terminal and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xai_align.report.record import Record

#: The table's columns; numbers are in logits.
COLUMNS = (
    "image",
    "question",
    "method",
    "class",
    "answer",
    "sum of contributions",
    "bias",
    "completeness error",
    "seconds",
)

#: Those of them that hold numbers.
NUMBER_COLUMNS = frozenset(COLUMNS[4:])

#: What a colour bar counts: a map sums to logits, and the eye compares shares of the picture.
LOGITS = "logits per 1 % of the picture"
#: For maps that are in other units.
UNITLESS = "value per 1 % of the picture"
#: For maps that rank places; about as long as a colour bar has room for.
SCORES = "score per 1 % of the picture; its order counts"

NO_ACCOUNT = "–"
# maps of slopes: what they sum to has nothing to do with the answer
_SLOPES = frozenset(("saliency", "guided_backprop", "clipped-gradient"))
# optimised maps and masks: only the order of their values means something
_RANKINGS = frozenset(("align", "fei", "fei-nested"))
# other than PiNet: gradients times inputs, and differences of answers, are in logits too
_IN_LOGITS = frozenset(
    (
        "layer_grad_cam",
        "integrated_gradients",
        "gradient_shap",
        "deep_lift",
        "input_x_gradient",
        "occlusion",
        "feature_ablation",
    )
)


def number(value: float) -> str:
    """Three digits after the point, with a true minus: ``−1.234``."""
    return f"{value:.3f}".replace("-", "−")


def tiny(value: float) -> str:
    """A small error with its order of magnitude: ``2.1e−07``."""
    return f"{value:.1e}".replace("-", "−")


def unit_of(record: Record) -> str:
    """What the colour bar of a record's picture counts."""
    if record.method in _RANKINGS:
        return SCORES
    return LOGITS if record.is_account or record.method in _IN_LOGITS else UNITLESS


def totals(record: Record) -> str:
    """What speaks for and against, in numbers; of a map that ranks places, that it does."""
    if unit_of(record) == SCORES:
        return "a ranking of places"
    return f"{number(record.positive)} for, {number(record.negative)} against"


def seconds(value: float) -> str:
    """Seconds with two digits."""
    return f"{value:.2f}"


def table_row(record: Record) -> tuple[str, ...]:
    """A record in the order of :data:`COLUMNS`.

    Where a method has no account, the last but one column tells what its sum
    leaves of the answer: a gap, not an error of rounding. Slopes and rankings
    have no sum that could be compared with it.
    """
    bias, error = NO_ACCOUNT, NO_ACCOUNT
    adds_up = record.method not in _SLOPES | _RANKINGS
    total = number(record.contributions) if adds_up else NO_ACCOUNT
    if record.bias is not None and record.completeness_error is not None:
        bias, error = number(record.bias), tiny(record.completeness_error)
    elif adds_up:
        error = f"gap {number(record.gap)}"
    return (
        record.image,
        record.question,
        record.label,
        record.class_name,
        number(record.answer),
        total,
        bias,
        error,
        seconds(record.seconds),
    )


def arithmetic(record: Record) -> str:
    """The answer as a sum: ``9.384 = 9.120 (picture) + 0.264 (bias)``; or what a map leaves of it."""
    if record.method in _SLOPES:
        return f"{number(record.answer)} is the answer; the map holds slopes, which don't add up to it"
    if record.method in _RANKINGS:
        return f"{number(record.answer)} is the answer; the map ranks places for it, and its values have no sum"
    if record.bias is None:
        return (
            f"{number(record.answer)} is the answer, {number(record.contributions)} the sum of the map: "
            f"{number(record.gap)} is left without an account"
        )
    on_picture = record.contributions - (record.prefix or 0.0)
    terms = [f"{number(on_picture)} (picture)"]
    if record.prefix:
        terms.append(f"{number(record.prefix)} (tokens without a place in the picture)")
    if record.around:
        terms.append(f"{number(record.around)} (evidence that goes round the layer)")
    terms.append(f"{number(record.bias)} (bias)")
    return f"{number(record.answer)} = {' + '.join(terms)}"


def exactness(record: Record) -> str:
    """How exact the sum is and what it means, for an account; nothing for other methods."""
    if record.completeness_error is None:
        return ""
    meaning = {
        "local": "local: without a place, the answer is lower by what that place contributes",
        "frozen": "the gates of this image held: the sum is exact, taking places away also moves the gates",
    }
    clauses = (f"sum off by {tiny(record.completeness_error)}", meaning.get(record.kind or "", ""), *record.remarks)
    return "; ".join(clauses)


def remarks(records: Sequence[Record]) -> list[str]:
    """What the readouts of these records have to say besides their numbers, each once."""
    return list(dict.fromkeys(f"{record.label}: {remark}." for record in records for remark in record.remarks))


def footnotes(methods: set[str]) -> list[str]:
    """What has to be said about these methods' sums."""
    notes = []
    if "pinet" in methods:
        notes.append(
            "pinet accounts for the answer: sum of contributions + bias = answer; "
            "the completeness error is what is left of that sum, found by a second computation."
        )
    if methods - {"pinet"} - _RANKINGS:
        notes.append("Methods marked – have no account of the answer; gap is the answer less the sum of their map.")
    rankings = sorted(methods & _RANKINGS)
    if rankings:
        notes.append(
            f"{' and '.join(rankings)} only rank{'s' * (len(rankings) == 1)} places, the most relevant highest: "
            "the values are no contributions and do not sum to anything."
        )
    if "align" in methods:
        notes.append("align shows one mask, whatever is asked: the masker looks at the image alone, not at the class.")
    if "fei" in methods:
        notes.append("fei counts from the mean of its map: blue is less relevant than the mean, not evidence against.")
    if "clipped-gradient" in methods:
        notes.append(
            "clipped-gradient holds slopes of the answer on the way from solid colours to the image, "
            "less what would reroute the computation: no sum of them is the answer."
        )
    if "layer_grad_cam" in methods:
        notes.append(
            "layer_grad_cam promises nothing about its sum. Where a network ends in a mean over places and "
            "one linear layer, its map equals the exact readout of the head's input and the gap is the bias; "
            "elsewhere it does not."
        )
    if "integrated_gradients" in methods:
        notes.append(
            "integrated_gradients promises another sum, F(x) − F(baseline) along a path of images, "
            "up to the error of its steps; its gap holds F(baseline) and that error."
        )
    return notes
