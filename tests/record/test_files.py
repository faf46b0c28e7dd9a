"""The file layer, and tensors as bytes, against the safetensors library."""

from __future__ import annotations

import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from surefoot.record import tensors
from surefoot.record.files import PIECE, Counted, Disk

ODD = [torch.complex64, torch.complex128, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]


def drawn(dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    """Any bits that the type can have, NaNs of all kinds among them."""
    room = torch.randint(0, 256, (torch.Size(shape).numel() * dtype.itemsize,), dtype=torch.uint8)
    return tensors.from_bytes(room % 2 if dtype == torch.bool else room, dtype, shape)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    alike = a.dtype == b.dtype and a.shape == b.shape
    return alike and torch.equal(tensors.as_bytes(a), tensors.as_bytes(b))


dictionaries = st.dictionaries(
    st.text(min_size=1, max_size=6),
    st.builds(drawn, st.sampled_from([*tensors.TYPES]), st.lists(st.integers(0, 4), max_size=3)),
    max_size=6,
)


def whole(held: dict[str, torch.Tensor]) -> bytes:
    return b"".join(bytes(piece) for piece in tensors.pieces(tensors.in_file_order(held)))


@given(dictionaries)
@settings(deadline=None)
def test_the_library_reads_what_we_write(held):
    found = load(whole(held))
    assert found.keys() == held.keys()
    assert all(same_bits(found[name], t) for name, t in held.items())


@pytest.mark.parametrize("dtype", ODD)
@pytest.mark.parametrize("shape", [[], [0], [3], [2, 3]])
def test_types_unknown_to_safetensors_are_read_by_us_bit_for_bit(tmp_path, dtype, shape):
    held = {"odd": drawn(dtype, shape), "usual": drawn(torch.float32, [5])}
    file = tmp_path / "file"
    file.write_bytes(whole(held))
    assert load(file.read_bytes()).keys() == held.keys()  # the library reads the file all the same
    ordered = tensors.in_file_order(held)
    found, hash = tensors.read(file, tensors.described(ordered))
    assert all(same_bits(found[name], t) for name, t in held.items())
    assert hash == zlib.crc32(file.read_bytes())


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
def test_large_tensors_go_through_in_pieces(tmp_path, size):
    held = {"t": drawn(torch.uint8, [size])}
    counted = Counted(tensors.pieces(held))
    Disk().write(tmp_path / "file", counted)
    data = (tmp_path / "file").read_bytes()
    assert (counted.size, counted.hash) == (len(data), zlib.crc32(data))
    assert data == whole(held)
    found, hash = tensors.read(tmp_path / "file", tensors.described(held))
    assert same_bits(found["t"], held["t"])
    assert hash == counted.hash


@pytest.mark.parametrize("said", [{"dtype": "load"}, {"dtype": "nothing"}, {"shape": [-1, -4]}, {"shape": [1 << 50]}])
def test_what_a_manifest_says_is_not_believed(tmp_path, said):
    (tmp_path / "file").write_bytes(whole({"t": torch.ones(4)}))
    with pytest.raises(ValueError, match=r"describes no tensor|too short"):
        tensors.read(tmp_path / "file", [{"name": "t", "dtype": "float32", "shape": [4]} | said])


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    class Full(Disk):
        def sync(self, path):
            raise OSError(28, "No space left on device")

    file = tmp_path / "index.json"
    Disk().replace(file, b"old")
    with pytest.raises(OSError, match="No space"):
        Full().replace(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
    Disk().replace(file, b"new")
    assert file.read_bytes() == b"new"


def test_removing_never_follows_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("precious")
    (tmp_path / "link").symlink_to(outside)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    for path in (tmp_path / "link", folder, tmp_path / "never was"):
        Disk().remove(path)
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]
    assert (outside / "mine").read_text() == "precious"
