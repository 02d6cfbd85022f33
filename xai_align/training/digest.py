"""Digests of tensors: two sets, or two series of images, with the same digest are bitwise equal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of a text and of names, dtypes, shapes and bytes of tensors, in hexadecimal."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


class DigestOfRows:
    """Digest of rows that are read a batch at a time, in their order. The sizes of the batches don't change it.

    Example::

        digest = DigestOfRows()
        for images in batches:
            digest.add(images)
        digest.value()  # SHA-256, in hexadecimal
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, rows: Tensor) -> None:
        """Add the rows of a tensor ``[N, ...]``."""
        for row in rows.split(1):
            self._sha256.update(digest_of({"": row}).encode())

    def value(self) -> str:
        """Return the digest of all rows so far."""
        return self._sha256.hexdigest()
