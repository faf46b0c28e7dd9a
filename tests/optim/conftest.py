"""What tests of optimizers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from test_dropin import SINGLE


@pytest.fixture
def numbers_in_double(request: pytest.FixtureRequest) -> Iterator[None]:
    """torch keeps numbers such as NAdam's mu_product in its default precision: double, so that it agrees with ours."""
    wide = hasattr(request.node, "callspec") and request.node.callspec.params.get("name") in SINGLE
    torch.set_default_dtype(torch.float64 if wide else torch.float32)
    yield
    torch.set_default_dtype(torch.float32)
