"""Checks of arguments: what is accepted, and the wording of what is not."""

import numpy as np
import pytest
import torch

from xai_align._tools.checks import check_choice, check_finite, check_fractions, check_integer, check_number
from xai_align._tools.images import check_images

NAN = torch.tensor([[0.0], [float("nan")], [float("inf")]])


def test_values_that_fit_are_returned():
    assert check_choice("order", "morf", ("morf", "lerf")) == "morf"
    assert check_integer("n", 1) == check_integer("n", np.int64(1)) == 1
    assert check_integer("n", 0, least=0) == 0
    assert check_number("x", 0) == 0.0
    assert check_number("x", np.float32(0.5), above=0, below=1) == 0.5
    assert check_number("x", 1, above=0, most=1) == 1.0
    assert check_number("x", -2, least=-2) == -2.0
    assert check_fractions("shares", [0, 1]) == (0.0, 1.0)
    check_finite("the map", torch.ones(2, 3))
    images = torch.zeros(1, 3, 2, 2)
    assert check_images("images", images) is images


@pytest.mark.parametrize(
    ("check", "error", "message"),
    [
        (lambda: check_choice("order", "mor", ("morf", "lerf")), ValueError, "'morf' or 'lerf', got 'mor'; did you"),
        (lambda: check_choice("order", "x", ("a", "b", "c")), ValueError, "^order must be 'a', 'b' or 'c', got 'x'$"),
        (lambda: check_choice("order", torch.ones(2), ("a",)), ValueError, "^order must be 'a', got tensor"),
        (lambda: check_integer("n", 0), ValueError, "^n must be a positive integer, got 0$"),
        (lambda: check_integer("n", -1, least=0), ValueError, "^n must be a non-negative integer, got -1$"),
        (lambda: check_integer("n", 1, least=2), ValueError, "^n must be an integer of at least 2, got 1$"),
        (lambda: check_integer("n", True), ValueError, "got True"),
        (lambda: check_integer("n", 2.0), ValueError, "got 2.0"),
        (lambda: check_number("x", -1), ValueError, "^x must be a non-negative number, got -1$"),
        (lambda: check_number("x", 0, above=0), ValueError, "^x must be a positive number, got 0$"),
        (lambda: check_number("x", 0, above=0, most=1), ValueError, r"^x must be a number in \(0, 1\], got 0$"),
        (lambda: check_number("x", 1, below=1), ValueError, r"^x must be a number in \[0, 1\), got 1$"),
        (lambda: check_number("x", 2, least=3), ValueError, "^x must be a number of at least 3, got 2$"),
        (lambda: check_number("x", 3, above=3), ValueError, "^x must be a number above 3, got 3$"),
        (lambda: check_number("x", float("nan")), ValueError, "got nan"),
        (lambda: check_number("x", float("inf")), ValueError, "got inf"),
        (lambda: check_number("x", True), ValueError, "got True"),
        (lambda: check_number("x", "1"), ValueError, "got '1'"),
        (
            lambda: check_fractions("shares", ()),
            ValueError,
            r"shares must be one or more numbers in \[0, 1\], got",
        ),
        (lambda: check_fractions("shares", (0.5, 1.5)), ValueError, r"got \[0.5, 1.5\]"),
        (lambda: check_finite("the map", NAN), ValueError, r"the map must be finite; example\(s\) 1, 2 hold NaN"),
        (lambda: check_finite("the fill", NAN[1, 0]), ValueError, "^the fill must be finite, got NaN or infinity$"),
        (lambda: check_finite("the map", NAN[1:2].expand(7, 1)), ValueError, "0, 1, 2, 3, 4 … hold"),
        (lambda: check_images("images", [1]), TypeError, "got list"),
        (lambda: check_images("images", torch.zeros(1, 3, 2, 2).long()), TypeError, "got torch.int64"),
        (lambda: check_images("images", torch.zeros(3, 2, 2)), ValueError, r"got \[3, 2, 2\]"),
        (lambda: check_images("images", torch.zeros(0, 3, 2, 2)), ValueError, r"got \[0, 3, 2, 2\]"),
        (lambda: check_images("images", torch.full((1, 3, 2, 2), torch.nan)), ValueError, "must be finite"),
    ],
)
def test_other_values_are_refused(check, error, message):
    with pytest.raises(error, match=message):
        check()


def test_images_may_be_checked_without_their_values():
    images = torch.full((1, 3, 2, 2), torch.nan)
    assert check_images("images", images, finite=False) is images
