"""Weights and optimizer state as one process would have them, also where processes share them out (FSDP2).

So a checkpoint of many processes is one of any number of them. The gathering is torch.distributed.checkpoint's.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from surefoot.optim import Optimizer
from surefoot.record import Checkpoint
from surefoot.train.distributed import Processes


def weights(model: nn.Module, processes: Processes) -> dict[str, Any]:
    """The model's state by the names of `state_dict()`; in the first process, where they are shared out."""
    if processes.kind != "fsdp":
        return model.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def optimizer_state(model: nn.Module, optimizer: Optimizer, processes: Processes) -> dict[str, Any]:
    """The optimizer's state, by its own layout or, where it is shared out, by the parameters' names."""
    if processes.kind != "fsdp":
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole: Any = get_optimizer_state_dict(model, optimizer, options=options)
    return by_position(whole) if processes.first else {}  # the others get nothing


def load(
    model: nn.Module, optimizer: Optimizer, saved: Checkpoint, state: dict[str, Any], processes: Processes
) -> None:
    """Put saved weights and the optimizer's state that belongs to them into place."""
    if processes.kind != "fsdp":
        saved.load_model(model)
        optimizer.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, saved.weights_dict(), options=options)
    set_optimizer_state_dict(model, optimizer, by_name(model, state), options=options)


def by_position(state: dict[str, Any]) -> dict[str, Any]:
    """What goes by the parameters' names, by their numbers: the layout of torch.optim's state."""
    order = [name for group in state["param_groups"] for name in group["params"]]
    number = {name: i for i, name in enumerate(order)}
    groups = [
        {**group, "params": [number[n] for n in group["params"]], "param_names": group["params"]}
        for group in state["param_groups"]
    ]
    return {"state": {number[name]: value for name, value in state["state"].items()}, "param_groups": groups}


def by_name(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """The other way; states that name no parameters have them in the model's order."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    own: dict[int, str] = {}
    for group in state["param_groups"]:
        said: list[str] = group.get("param_names") or [names[i] for i in group["params"]]
        own.update(zip(group["params"], said, strict=True))
    groups = [
        {**{k: v for k, v in group.items() if k != "param_names"}, "params": [own[i] for i in group["params"]]}
        for group in state["param_groups"]
    ]
    return {"state": {own[i]: value for i, value in state["state"].items()}, "param_groups": groups}
