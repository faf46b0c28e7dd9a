"""Parameter groups: who is decayed, at which rate, and what Muon gets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surefoot as sf
from surefoot.optim.muon import hidden
from surefoot.optim.places import places


class RMS(nn.Module):
    """A normalisation of somebody's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))


class OwnNorm(RMS):
    pass


class GPT(nn.Module):
    """A language model whose head is tied to its embedding."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50, 16), nn.Embedding(8, 16)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(16, 2, 32) for _ in range(3)])
        self.norm, self.head = OwnNorm(16), nn.Linear(16, 50, bias=False)
        if tied:
            self.head.weight = self.tokens.weight


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.lstm = nn.EmbeddingBag(5, 4), nn.GRU(4, 8, 2), nn.LSTM(8, 8, proj_size=4)
        self.out = nn.Linear(4, 5)


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3),
        nn.GroupNorm(2, 8),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


MODELS = {"gpt": GPT, "untied": lambda: GPT(False), "recurrent": Recurrent, "conv": conv}


def by_name(groups) -> dict[str, dict]:
    return {name: group for group in groups for name, _ in group["params"]}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@settings(deadline=None, max_examples=20)
@given(
    no_decay=st.sets(st.sampled_from(["norm", "bias", "embedding"])),
    lr=st.one_of(st.none(), st.floats(1e-4, 1)),
    layer_decay=st.one_of(st.none(), st.floats(0.1, 1)),
    frozen=st.booleans(),
)
def test_every_trainable_parameter_is_in_one_group_and_no_two_groups_are_alike(make, no_decay, lr, layer_decay, frozen):
    model = make()
    if make is Recurrent:
        layer_decay = None  # it has no blocks
    groups = sf.optim.param_groups(
        model, lr=lr, weight_decay=0.1, no_decay=",".join(no_decay), layer_decay=layer_decay,
        freeze="*bias*" if frozen else None,
    )  # fmt: skip
    held = [id(p) for group in groups for _, p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    alike = [{k: v for k, v in group.items() if k not in ("params", "lr_factors")} for group in groups]
    assert all(a != b for i, a in enumerate(alike) for b in alike[:i])
    assert all(len(group.get("lr_factors", group["params"])) == len(group["params"]) for group in groups)
    assert str(groups).count("\n") == len(groups)
    for module in (sf.optim, torch.optim):
        module.AdamW(groups, lr=1e-3)


def test_norms_biases_and_embeddings_are_told_by_their_modules():
    found = by_name(sf.optim.param_groups(GPT(), weight_decay=0.1))
    spared = {name for name, group in found.items() if not group["weight_decay"]}
    block = {"self_attn.in_proj_bias", "self_attn.out_proj.bias", "linear1.bias", "linear2.bias"}
    block |= {f"norm{i}.{key}" for i in (1, 2) for key in ("weight", "bias")}
    assert spared == {
        "tokens.weight",
        "positions.weight",
        "norm.scale",
        *(f"blocks.{i}.{n}" for i in range(3) for n in block),
    }
    kinds = {place.name: place.kind for place in places(conv())}
    assert (kinds["1.weight"], kinds["4.bias"], kinds["0.bias"], kinds["3.weight"]) == ("norm", "norm", "bias", "conv")
    kinds = {place.name: place.kind for place in places(Recurrent())}
    assert (kinds["gru.bias_ih_l0"], kinds["gru.weight_hh_l1"], kinds["embed.weight"]) == (
        "bias",
        "recurrent",
        "embedding",
    )
    plain = nn.Module()
    plain.weights = nn.ParameterList([nn.Parameter(torch.ones(2, 2))])
    assert [place.kind for place in places(plain)] == ["other"]


def test_compiled_models_keep_their_names():
    assert [place.name for place in places(torch.compile(nn.Linear(2, 2)))] == ["weight", "bias"]


def test_rates_fall_with_depth_with_ours_and_with_torchs():
    for module, lr in ((sf.optim, None), (sf.optim, 1.0), (torch.optim, 1.0)):
        model = GPT()
        groups = sf.optim.param_groups(model, lr=lr, layer_decay=0.5)
        opt = module.SGD(groups, lr=1.0)
        before = {place.name: place.param.detach().clone() for place in places(model)}
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        opt.step()
        moved = {place.name: (before[place.name] - place.param.detach()).max().item() for place in places(model)}
        assert moved["tokens.weight"] == pytest.approx(0.5**4, rel=1e-4)
        assert moved["blocks.0.linear1.weight"] == pytest.approx(0.5**3, rel=1e-4)
        assert moved["blocks.2.norm1.bias"] == pytest.approx(0.5, rel=1e-4)
        assert moved["norm.scale"] == pytest.approx(1)


def test_overrides_and_freezing():
    model = conv()
    groups = sf.optim.param_groups(
        model, weight_decay=0.1, overrides={"6.*": {"lr": 0.5}, "*.weight": {"lr": 0.1}}, freeze=["0.*", "1.*"]
    )
    found = by_name(groups)
    assert found["6.weight"]["lr"] == 0.1  # the later one wins
    assert found["6.bias"]["lr"] == 0.5
    assert "lr" not in found["3.bias"]
    assert "0.weight" not in found
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"no_decay": "norms"}, "unknown kind of parameter in no_decay norms: did you mean norm?"),
        (
            {"overrides": {"6.wieght": {"lr": 1}}},
            "overrides: no parameter's name matches '6.wieght'; near are 6.weight",
        ),
        ({"overrides": {"6.*": {"params": 1}}}, "cannot set params"),
        ({"freeze": "seven"}, "freeze: no parameter's name matches 'seven'"),
        ({"freeze": "*"}, "no trainable parameters"),
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"layer_decay": "a"}, "layer_decay='a'"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(sf.UserError) as error:
        sf.optim.param_groups(conv(), **options)
    assert words in str(error.value)


def test_no_blocks_and_no_shapes():
    with pytest.raises(sf.UserError, match="no ModuleList or Sequential"):
        sf.optim.param_groups(nn.Linear(2, 2), layer_decay=0.5)
    with pytest.raises(sf.UserError, match="weight has no shape yet"):
        sf.optim.param_groups(nn.LazyLinear(2))


def test_muon_gets_hidden_matrices_and_adamw_the_rest():
    for tied in (True, False):
        found = by_name(hidden(GPT(tied), split={"blocks.0.linear1.weight": 2}))
        muons = {name for name, group in found.items() if group["algorithm"] == "muon"}
        own = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")
        assert muons == {f"blocks.{i}.{name}" for i in range(3) for name in own}
        assert not any(
            found[name].get("weight_decay", 1) for name in ("tokens.weight", "norm.scale", "blocks.0.norm1.bias")
        )
        parts = {
            name: n for group in found.values() for (name, _), n in zip(group["params"], group["parts"], strict=True)
        }
        assert (parts["blocks.1.self_attn.in_proj_weight"], parts["blocks.0.linear1.weight"]) == (3, 2)
        assert parts["blocks.1.linear1.weight"] == 1
    found = by_name(hidden(Recurrent()))
    assert {name for name, group in found.items() if group["algorithm"] == "muon"} == {
        *(f"gru.weight_{kind}_l{i}" for kind in ("ih", "hh") for i in (0, 1)),
        *(f"lstm.weight_{kind}_l0" for kind in ("ih", "hh", "hr")),
    }
    muons = {name for name, group in by_name(hidden(conv())).items() if group["algorithm"] == "muon"}
    assert muons == {"0.weight", "3.weight"}
    with pytest.raises(sf.UserError, match="split: no parameter's name matches"):
        sf.optim.create("muon", conv(), split={"qkv": 3})
