"""Whether hundreds of objects are as they were, asked in one call.

Before each step the engine must know that no parameter, state or group was replaced, moved or reshaped. Asked from
Python that takes longer than the step itself. So a witness remembers the memory of the objects in question (the Python
objects, torch's TensorImpl and StorageImpl behind them, the tables of dicts and lists), and a compiled kernel compares:
where every word is as it was, so is all that a plan rests on. The reverse does not hold: a word may change for no
reason that matters, and then the plan asks the objects themselves.

Memory is compared in an order in which each region is known to be alive: first that of Python objects, which the
witness holds, then what these own. How far the regions reach is found out here, and tried on objects that are changed
in every way that matters; where this Python or this torch is otherwise, there is no witness.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from surefoot.engine import cache as code
from surefoot.engine.launch import Kernel, address_of, block
from surefoot.engine.shards import Slots, description, local, maker, sharded, slots

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

BLOCK = (  # of the kernel: one int64 each
    "CHANGED",  # set to 1 where a word is not what it was
    "REGIONS",
    "ADDRESS",  # int64 [regions + AHEAD]
    "WORDS",  # int64 [regions]: how many to compare
    "WAS",  # int64 [words of all regions]: what they were
)
AHEAD = 24  # regions fetched in advance: a step's streams have emptied the caches
KERNEL = f"""
def kernel(block):
    address, words, was = ints(block[ADDRESS]), ints(block[WORDS]), block[WAS]
    for i in range(block[REGIONS]):
        prefetch(address[i + {AHEAD}])  # the three lines of a TensorImpl
        prefetch(address[i + {AHEAD}] + 64)
        prefetch(address[i + {AHEAD}] + 128)
        now, before, changed = ints(address[i]), ints(was), 0
        for j in range(words[i]):
            changed |= now[j] ^ before[j]
        if changed != 0:
            block[CHANGED] = 1
            return
        was += 8 * words[i]
"""

WORD = 8
HEAD = 2  # words at the start of an object that count references
STORAGE = 5  # words of a StorageImpl after these: data, its owner, its deleter, device, bytes
KEYS, ITEMS = 4, 3  # where the addresses of their tables are in a dict and in a list of CPython, in words

Region = tuple[int, int]  # address, words


class Witness:
    """The objects as they are now.

    Args:
        tensors: plain ones, and sharded ones together with their parts
        dicts, lists: whose items must stay the same objects
    """

    def __init__(
        self, tensors: Sequence[Tensor], dicts: Sequence[dict[Any, Any]], lists: Sequence[list[Any]], layout: Layout
    ) -> None:
        self._held = [*tensors], [*dicts], [*lists], [description(t) for t in tensors if sharded(t)]
        regions = [*_objects(tensors, dicts, lists, layout), *_owned(tensors, dicts, lists, layout)]
        regions += [(_storage(t) + HEAD * WORD, STORAGE) for t in tensors if not sharded(t)]
        was = b"".join(ctypes.string_at(address, WORD * words) for address, words in regions)
        self._tables = {
            "ADDRESS": np.array([*(address for address, _ in regions), *[0] * AHEAD], np.int64),
            "WORDS": np.array([words for _, words in regions], np.int64),
            "WAS": np.frombuffer(was, np.int64),
        }
        self._block = block(BLOCK, self._tables, REGIONS=len(regions))
        self._address = address_of(self._block)
        self._run = layout.run

    def holds(self) -> bool:
        """Whether all is as it was; once it is not, it is not any more."""
        self._run(self._address)
        return not self._block[0]


def _objects(
    tensors: Sequence[Tensor], dicts: Sequence[dict[Any, Any]], lists: Sequence[list[Any]], layout: Layout
) -> Iterator[Region]:
    """The memory of Python objects, without the head."""
    reach = 0 if layout.slots is None else (max(layout.slots.local, layout.slots.spec) - layout.place) // WORD
    yield from ((id(t) + layout.place, 1 + reach if sharded(t) else 1) for t in tensors)
    for each in (*dicts, *lists):
        yield id(each) + HEAD * WORD, type(each).__basicsize__ // WORD - HEAD


def _owned(
    tensors: Sequence[Tensor], dicts: Sequence[dict[Any, Any]], lists: Sequence[list[Any]], layout: Layout
) -> Iterator[Region]:
    """The memory that they own."""
    parts = [t for t in tensors if not sharded(t)]  # what a sharded one owns beside them says nothing
    yield from ((t._cdata + HEAD * WORD, layout.tensor - HEAD) for t in parts)
    yield from ((_word(id(d), KEYS), (dict.__sizeof__(d) - type(d).__basicsize__) // WORD) for d in dicts)
    yield from ((_word(id(items), ITEMS), len(items)) for items in lists)


def _storage(t: Tensor) -> int:
    return t.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _word(address: int, place: int) -> int:
    return ctypes.c_int64.from_address(address + WORD * place).value


@dataclass(frozen=True)
class Layout:
    """What a witness must know.

    run: the kernel
    place: how far into its Python object the address of a TensorImpl is, in bytes
    tensor: how large a TensorImpl is, in words
    slots: of sharded tensors; None where only plain ones are known
    """

    run: Callable[[int], None]
    place: int
    tensor: int
    slots: Slots | None = None


def witness(tensors: Sequence[Tensor], dicts: Sequence[Any], lists: Sequence[Any]) -> Witness | None:
    """A witness of these objects; None where there can be none."""
    first = next(filter(sharded, tensors), None)
    known = layout() if first is None else sharded_layout(first.device_mesh)
    builtin = all(isinstance(d, dict) for d in dicts) and all(isinstance(items, list) for items in lists)
    if known is None or not builtin or any(t.dim() > 5 for t in tensors):  # of more dimensions, sizes lie elsewhere
        return None
    parts = [local(t) for t in tensors if sharded(t)]
    return Witness([*tensors, *parts], dicts, lists, known)


@cache
def layout() -> Layout | None:
    """What this Python and this torch need, tried out; None where they are not what a witness is made for."""
    run = code.address(Kernel("witness"))
    usable = getattr(ctypes.CDLL(None), "malloc_usable_size", None) if sys.platform == "linux" else None
    if run is None or usable is None or sys.implementation.name != "cpython":
        return None
    probes = [torch.nn.Parameter(torch.empty(0)) for _ in range(8)]
    places = range(HEAD * WORD, torch.nn.Parameter.__basicsize__, WORD)
    found = [place for place in places if all(_word(id(p) + place, 0) == p._cdata for p in probes)]
    usable.argtypes, usable.restype = [ctypes.c_void_p], ctypes.c_size_t
    words = min(usable(p._cdata) for p in probes) // WORD
    if len(found) != 1 or not 20 <= words <= 28:
        return None
    known = Layout(ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(run), found[0], words)
    return known if _works(known) else None


@lru_cache(maxsize=1)
def sharded_layout(mesh: DeviceMesh) -> Layout | None:
    """What is needed for sharded tensors, too, tried out with some on this mesh."""
    plain = layout()
    found = None if plain is None else slots(mesh, plain.tensor)
    if plain is None or found is None:
        return None
    known = replace(plain, slots=found)
    return known if _works_with_shards(known, mesh) else None


Change: TypeAlias = Callable[[Tensor, "dict[str, Any]", "list[Any]"], object]


def _works(known: Layout) -> bool:
    """Whether a witness holds while nothing is changed, and notices each change."""

    def held(change: Change) -> bool:
        t = torch.zeros(2, 3)
        d, items = {"s": t}, [t]
        tried = Witness([t], [d], [items], known)
        change(t, d, items)
        return tried.holds()

    same: list[Change] = [lambda t, d, items: t.add_(1), lambda t, d, items: d.get("s")]
    others: list[Change] = [
        lambda t, d, items: setattr(t, "data", torch.zeros(2, 3)),
        lambda t, d, items: setattr(t, "data", t.double()),
        lambda t, d, items: t.t_(),
        lambda t, d, items: t.resize_(600),
        lambda t, d, items: torch.Tensor.resize_(t.detach(), 600),
        lambda t, d, items: d.update(s=torch.zeros(2, 3)),
        lambda t, d, items: d.update(more=1),
        lambda t, d, items: items.append(t),
        lambda t, d, items: items.__setitem__(0, d),
    ]
    return all(map(held, same)) and not any(map(held, others))


def _works_with_shards(known: Layout, mesh: DeviceMesh) -> bool:
    """Whether it does so with a sharded tensor, too."""
    make = maker(mesh)

    def held(change: Callable[[DTensor], object]) -> bool:
        t = make(torch.zeros(2, 3))
        tried = Witness([t, local(t)], [], [], known)
        change(t)
        return tried.holds()

    same: list[Callable[[DTensor], object]] = [
        lambda t: t.add_(1),
        lambda t: local(t).zero_(),
        lambda t: t.full_tensor(),
    ]
    others: list[Callable[[DTensor], object]] = [
        lambda t: setattr(t, "_local_tensor", torch.zeros(2, 3)),
        lambda t: setattr(t, "_spec", description(make(torch.zeros(2, 3)))),
        lambda t: setattr(local(t), "data", torch.zeros(2, 3)),
        lambda t: local(t).resize_(600),
        lambda t: torch.utils.swap_tensors(t, make(torch.zeros(2, 3))),
    ]
    return all(map(held, same)) and not any(map(held, others))
