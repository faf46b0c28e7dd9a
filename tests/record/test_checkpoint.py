from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import surefoot as sf
from surefoot.record import checkpoint

tensors = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]).flatmap(
    lambda dtype: st.sampled_from([(), (0,), (3,), (2, 3)]).map(lambda shape: torch.ones(shape).to(dtype))
)
keys = st.one_of(st.integers(0, 99), st.text(max_size=5))
leaves = st.one_of(tensors, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
trees = st.recursive(
    leaves, lambda t: st.one_of(st.dictionaries(keys, t), st.lists(t), st.lists(t).map(tuple)), max_leaves=12
)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


@given(trees)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_comes_back_as_it_was(tmp_path, tree):
    path = tmp_path / "one"
    checkpoint.rmtree(path, ignore_errors=True)
    checkpoint.save(path, nn.Linear(1, 1), tree, epoch=1, step=2, values={})
    assert same(tree, checkpoint.load(path).state())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_models_come_back_with_buffers_and_tied_weights(tmp_path):
    model = Tied()
    model.norm(torch.randn(8, 3))
    checkpoint.save(tmp_path / "c", model, None, epoch=3, step=70, values={"val/loss": 0.5})
    saved = checkpoint.load(tmp_path / "c")
    assert (saved.epoch, saved.step, saved.values) == (3, 70, {"val/loss": 0.5})
    other = Tied()
    saved.load_model(other)
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert other.head.weight is other.embedding.weight
    assert len(load_file(saved.weights)) == len(model.state_dict()) - 1  # the shared weight lies there once


class Odd(nn.Module):
    """Complex numbers, a square weight beside its own transpose, and a buffer that is a view of a weight."""

    def __init__(self, value: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 3), value).triu())
        self.register_buffer("transposed", self.weight.data.T)
        self.register_buffer("part", self.weight.data[:1])
        self.register_buffer("wide", torch.full((2,), value, dtype=torch.complex128))
        self.register_buffer("narrow", torch.full((2,), 1j * value, dtype=torch.complex64).conj())


def test_odd_tensors_come_back_too(tmp_path):
    one, other = Odd(2.0), Odd(3.0)
    checkpoint.save(tmp_path / "c", one, {"z": torch.tensor(1j)}, 0, 0, {"val/loss": float("nan")})
    saved = checkpoint.load(tmp_path / "c")
    saved.load_model(other)
    assert same(dict(one.state_dict()), dict(other.state_dict()))
    assert saved.state()["z"] == 1j
    assert saved.values["val/loss"] != saved.values["val/loss"]


def test_the_weights_can_be_loaded_without_surefoot(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    checkpoint.save(tmp_path / "c", model, None, 0, 0, {})
    other.load_state_dict(load_file(tmp_path / "c" / "model.safetensors"))
    assert torch.equal(model.weight, other.weight)


def test_what_needs_pickle_is_refused_and_named(tmp_path):
    with pytest.raises(sf.UserError, match=r"cannot save a\.1: a object needs pickle"):
        checkpoint.save(tmp_path / "c", nn.Linear(1, 1), {"a": [1, object()]}, 0, 0, {})
    assert not (tmp_path / "c").exists()


def test_a_folder_left_by_a_crash_is_no_hindrance(tmp_path):
    (tmp_path / ".c.new").mkdir()
    (tmp_path / ".c.new" / "junk").write_text("half a file")
    checkpoint.save(tmp_path / "c", nn.Linear(1, 1), None, 0, 0, {})
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "c",
        "manifest.json",
        "model.safetensors",
        "state.safetensors",
    ]


def test_unreadable_checkpoints_are_named(tmp_path):
    with pytest.raises(sf.UserError, match="cannot be read"):
        checkpoint.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(sf.UserError, match="cannot be read"):
        checkpoint.load(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(sf.UserError, match="its format is 99"):
        checkpoint.load(tmp_path)
