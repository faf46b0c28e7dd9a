from __future__ import annotations

import copy
import json
import shutil
import zlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import surefoot as sf
from surefoot.record import checkpoint
from surefoot.record.background import Buffer
from surefoot.record.weights import load_weights

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


def save(path, weights, state, epoch=0, step=0, values=None):
    checkpoint.write(path, checkpoint.snapshot(weights, state, epoch, step, values or {}))


@given(trees)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_comes_back_as_it_was(tmp_path, tree):
    path = tmp_path / "one"
    shutil.rmtree(path, ignore_errors=True)
    save(path, nn.Linear(1, 1), tree, epoch=1, step=2, values={})
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
    save(tmp_path / "c", model, None, epoch=3, step=70, values={"val/loss": 0.5})
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
    save(tmp_path / "c", one, {"z": torch.tensor(1j)}, 0, 0, {"val/loss": float("nan")})
    saved = checkpoint.load(tmp_path / "c")
    saved.load_model(other)
    assert same(dict(one.state_dict()), dict(other.state_dict()))
    assert saved.state()["z"] == 1j
    assert saved.values["val/loss"] != saved.values["val/loss"]


def test_the_weights_can_be_loaded_without_surefoot(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save(tmp_path / "c", model, None, 0, 0, {})
    other.load_state_dict(load_file(tmp_path / "c" / "model.safetensors"))
    assert torch.equal(model.weight, other.weight)


def test_what_needs_pickle_is_refused_and_named(tmp_path):
    with pytest.raises(sf.UserError, match=r"cannot save a\.1: a object needs pickle"):
        save(tmp_path / "c", nn.Linear(1, 1), {"a": [1, object()]}, 0, 0, {})
    assert not (tmp_path / "c").exists()


def test_a_folder_left_by_a_crash_is_no_hindrance(tmp_path):
    (tmp_path / ".c.new").mkdir()
    (tmp_path / ".c.new" / "junk").write_text("half a file")
    save(tmp_path / "c", nn.Linear(1, 1), None, 0, 0, {})
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "c",
        "commit",
        "manifest.json",
        "model.safetensors",
        "state.safetensors",
    ]


def test_a_checkpoint_is_never_written_over(tmp_path):
    save(tmp_path / "c", {"w": torch.ones(2)}, None)
    with pytest.raises(OSError, match="not empty"):
        save(tmp_path / "c", {"w": torch.zeros(2)}, None)
    assert checkpoint.load(tmp_path / "c").weights_dict()["w"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_unreadable_checkpoints_are_named(tmp_path):
    with pytest.raises(sf.UserError, match="cannot be read"):
        checkpoint.load(tmp_path)
    for text in ("{", "[]", "null"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(sf.UserError, match=r"manifest\.json cannot be read"):
            checkpoint.load(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(sf.UserError, match="its format is 99"):
        checkpoint.load(tmp_path)


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.complex64, torch.complex128, torch.int8, torch.uint16, torch.bool,
]  # fmt: skip


def bits(t: torch.Tensor) -> tuple:
    return t.dtype, t.shape, t.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hold", [False, True], ids=["straight", "by the buffer"])
def test_tensors_of_every_kind_survive_bit_for_bit(tmp_path, dtype, hold):
    base = torch.randint(0, 2 if dtype == torch.bool else 256, (4 * 6 * dtype.itemsize,), dtype=torch.uint8)
    base = base.view(dtype).reshape(4, 6)
    kinds = {
        "whole": base,
        "scalar": base[1, 1],
        "empty": base[:0],
        "transposed": base.T,
        "strided": base[::2, 1::3],
        "expanded": base[:1].expand(3, 6),
        "tied": base,
        "channels_last": base.reshape(2, 2, 2, 3).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(base, requires_grad=False),
        "conjugate": base.conj() if dtype.is_complex else base,
    }
    shot = checkpoint.snapshot(kinds, {0: base, "0": base.clone(), -1: {"m": base.T}}, 0, 0, {})
    checkpoint.write(tmp_path / "c", Buffer().hold(shot) if hold else shot)
    saved = checkpoint.load(tmp_path / "c")
    found, state = saved.weights_dict(), saved.state()
    assert {name: bits(t) for name, t in found.items()} == {name: bits(t.resolve_conj()) for name, t in kinds.items()}
    assert found["tied"] is found["whole"]
    assert list(state) == [0, "0", -1]
    assert bits(state[0]) == bits(state["0"]) == bits(base)
    assert bits(state[-1]["m"]) == bits(base.T)


def test_names_that_meet_do_not_overwrite_each_other(tmp_path):
    a, b, c, d = torch.arange(8.0).split(2)
    tree = {
        "a.b": a.clone(),
        "a": {"b": b.clone()},
        1: c.clone(),
        "1": d.clone(),
        "__metadata__": a + 1,
        "\ud800": b + 1,
    }
    save(tmp_path / "c", tree, tree)
    saved = checkpoint.load(tmp_path / "c")
    assert same(saved.state(), tree)
    assert same(saved.weights_dict(), tree)
    assert len(load_file(saved.weights)) == 6


def test_tensors_in_the_same_memory_under_another_stride_or_type_are_kept_apart(tmp_path):
    square = torch.arange(9.0).reshape(3, 3)
    tree = {"m": square, "t": square.T, "bits": square.view(torch.int32), "part": square[0]}
    save(tmp_path / "c", tree, None)
    assert same(checkpoint.load(tmp_path / "c").weights_dict(), tree)


def test_weights_come_back_as_state_dict_gave_them(tmp_path):
    model = Tied()
    given = model.state_dict()
    save(tmp_path / "c", given, None)
    found = checkpoint.load(tmp_path / "c").weights_dict()
    assert type(found) is type(given)
    assert same(dict(found), dict(given))
    assert found._metadata == given._metadata
    other = Tied()
    other.load_state_dict(found, strict=True)
    assert same(dict(other.state_dict()), dict(given))


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"seen": 5, "mean": torch.ones(2)}

    def set_extra_state(self, state):
        self.found = state


def test_extra_state_is_saved(tmp_path):
    save(tmp_path / "c", Extra(2, 2), None)
    other = Extra(2, 2)
    checkpoint.load(tmp_path / "c").load_model(other)
    assert same(other.found, other.get_extra_state())


def test_an_optimizer_goes_on_to_the_last_bit(tmp_path):
    model = nn.Linear(3, 2)
    opt = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model, opt):
        opt.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        opt.step()

    step(model, opt)
    save(tmp_path / "c", model, opt.state_dict())
    other = copy.deepcopy(model)
    saved = checkpoint.load(tmp_path / "c")
    again = torch.optim.AdamW(other.parameters(), lr=0.5)
    again.load_state_dict(saved.state())
    for _ in range(3):
        step(model, opt)
        step(other, again)
    assert torch.equal(model.weight, other.weight)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": {(1, 2): 3}}, r"cannot save a: the key \(1, 2\)"),
        ({float("nan"): 3}, "the key nan"),
        ({"a": torch.eye(2).to_sparse()}, "cannot save a: a torch.sparse_coo tensor"),
        ({"a": torch.empty(2, device="meta")}, "cannot save a: a meta tensor"),
        ({"a": {1, 2}}, "a set needs pickle"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, tree, words):
    for weights, state in ((tree, None), (nn.Linear(1, 1), tree)):
        with pytest.raises(sf.UserError, match=words):
            save(tmp_path / "c", weights, state)
    assert not any(tmp_path.iterdir())


def test_weights_and_values_of_the_wrong_kind_are_refused(tmp_path):
    with pytest.raises(sf.UserError, match="must be a module or what its state_dict"):
        save(tmp_path / "c", [torch.ones(2)], None)
    with pytest.raises(sf.UserError, match="values of a checkpoint must be numbers"):
        save(tmp_path / "c", {}, None, values={"val/loss": "low"})
    save(tmp_path / "c", {}, None, values={"val/loss": torch.tensor(0.5)})
    assert checkpoint.load(tmp_path / "c").values == {"val/loss": 0.5}


def test_the_manifest_says_what_there_is(tmp_path):
    save(tmp_path / "c", {"w": torch.ones(2, 3, dtype=torch.bfloat16)}, None, epoch=2, step=9)
    said = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert said["format"] == 2
    assert said["torch"] == torch.__version__
    assert said["hash"] == "crc32"
    file = said["files"]["model.safetensors"]
    assert file["tensors"] == [{"name": "w", "dtype": "bfloat16", "shape": [2, 3]}]
    data = (tmp_path / "c" / "model.safetensors").read_bytes()
    assert (file["bytes"], file["crc32"]) == (len(data), f"{zlib.crc32(data):08x}")


def committed(path, **changes) -> None:
    """Change what a manifest says, with a commit marker to match: by somebody who knows how."""
    said = json.loads((path / "manifest.json").read_text()) | changes
    data = json.dumps(said).encode()
    (path / "manifest.json").write_bytes(data)
    (path / "commit").write_bytes(checkpoint.marker(data))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "model.safetensors/../../x", "commit"])
def test_a_manifest_leads_nowhere_else(tmp_path, name):
    save(tmp_path / "c", {"w": torch.ones(2)}, None)
    files = json.loads((tmp_path / "c" / "manifest.json").read_text())["files"]
    for changed in (files | {name: files["model.safetensors"]}, {name: 1, "state.safetensors": 1}):
        committed(tmp_path / "c", files=changed)
        with pytest.raises(sf.UserError, match="names other files than a checkpoint has"):
            checkpoint.load(tmp_path / "c")


@pytest.mark.parametrize("file", ["manifest.json", "commit", "model.safetensors", "state.safetensors", ""])
def test_links_are_refused(tmp_path, file):
    save(tmp_path / "c", {"w": torch.ones(2)}, None)
    path = tmp_path / "c" / file if file else tmp_path / "c"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    def read(*looks) -> None:
        saved = checkpoint.load(tmp_path / "c")
        for look in looks:
            look(saved)

    with pytest.raises(sf.UserError, match="is a link"):
        read(checkpoint.Checkpoint.weights_dict, checkpoint.Checkpoint.state)
    with pytest.raises(sf.UserError, match="is a link"):
        read(checkpoint.Checkpoint.verify)


@pytest.mark.parametrize(
    "changes",
    [{"files": 5}, {"files": None}, {"epoch": None, "values": 3, "model": {"odd": 1}}, {"model": {"tensor": "none"}}],
)
def test_a_manifest_of_nonsense_is_damaged(tmp_path, changes):
    save(tmp_path / "c", {"w": torch.ones(2)}, None)
    committed(tmp_path / "c", **changes)
    with pytest.raises(sf.UserError, match=r"is damaged|names other files"):
        checkpoint.load(tmp_path / "c").weights_dict()


def old_format(path, model) -> None:
    """A checkpoint as surefoot wrote it in format 1."""
    path.mkdir(parents=True)
    tensors = dict(model.state_dict())
    tree = {"dict": [[name, {"tensor": name}] for name in tensors]}
    save_file(tensors, path / "model.safetensors")
    save_file({"z": torch.tensor([[0.0, 1.0]])}, path / "state.safetensors")
    state = {"dict": [["z", {"complex": "z"}], [3, {"float": "nan"}], ["t", {"tuple": [1, None]}]]}
    said = {"format": 1, "torch": "2.13", "epoch": 4, "step": 28, "values": {"dict": [["val/loss", 0.25]]}}
    (path / "manifest.json").write_text(json.dumps(said | {"model": tree, "state": state}, indent=1))


def test_format_1_is_still_read(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    old_format(tmp_path / "c", model)
    saved = checkpoint.load(tmp_path / "c")
    saved.verify()
    saved.load_model(other)
    assert torch.equal(model.weight, other.weight)
    assert (saved.epoch, saved.step, saved.values) == (4, 28, {"val/loss": 0.25})
    state = saved.state()
    assert state["z"].tolist() == [1j]
    assert state[3] != state[3]
    assert state["t"] == (1, None)
    saved.weights.write_bytes(saved.weights.read_bytes()[:-1])
    for look in (saved.verify, saved.weights_dict):
        with pytest.raises(sf.UserError, match=r"model\.safetensors is damaged"):
            look()


@pytest.mark.parametrize("ending", ["safetensors", "pt", "pth"])
def test_weights_are_exported_for_others(tmp_path, ending):
    model, other = Tied(), Tied()
    save(tmp_path / "c", model, {"momentum": torch.ones(1000)})
    file = tmp_path / f"weights.{ending}"
    file.write_bytes(b"an older export")
    checkpoint.load(tmp_path / "c").export(file)
    read = load_file(file) if ending == "safetensors" else torch.load(file, weights_only=True)
    assert same(
        dict(model.state_dict()), dict(sorted(read.items(), key=lambda i: list(model.state_dict()).index(i[0])))
    )
    other.load_state_dict(read, strict=True)
    assert same(load_weights(file), read)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", file.name]


def test_what_cannot_be_exported_is_named(tmp_path):
    save(tmp_path / "c", {"z": torch.ones(1, dtype=torch.complex128), "w": torch.ones(1)}, None)
    saved = checkpoint.load(tmp_path / "c")
    with pytest.raises(sf.UserError, match=r"z is torch\.complex128.*\.pt"):
        saved.export(tmp_path / "w.safetensors")
    with pytest.raises(sf.UserError, match=r"must end in \.safetensors, \.pt or \.pth"):
        saved.export(tmp_path / "w.onnx")
    with pytest.raises(sf.UserError, match="cannot export to"):
        saved.export(tmp_path / "nowhere" / "w.pt")
    save(tmp_path / "d", {"w": torch.ones(1)}, None)
    with pytest.raises(sf.UserError, match="cannot export to"):
        checkpoint.load(tmp_path / "d").export(tmp_path / "nowhere" / "w.safetensors")
    saved.export(str(tmp_path / "w.pt"))
    assert load_weights(tmp_path / "w.pt")["z"].dtype == torch.complex128


class Evil:
    def __reduce__(self):
        return (print, ("owned",))


def test_foreign_weights_run_nothing(tmp_path, capsys):
    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(sf.UserError, match="holds more than weights"):
        load_weights(tmp_path / "evil.pt")
    assert "owned" not in capsys.readouterr().out
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(sf.UserError, match="holds a list, not weights by name"):
        load_weights(tmp_path / "list.pt")
    for name in ("none.pt", "none.safetensors"):
        with pytest.raises(sf.UserError, match="cannot be read as weights"):
            load_weights(tmp_path / name)
    for name in ("junk.pt", "junk.safetensors"):
        (tmp_path / name).write_bytes(b"junk" * 99)
        with pytest.raises(sf.UserError, match=r"cannot be read as weights|holds more than weights"):
            load_weights(tmp_path / name)
