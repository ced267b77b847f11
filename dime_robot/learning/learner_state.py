"""LearnerState: all tensors that the next update depends on, and checks of those from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dime_robot.runtime.io.errors import InputError

OPTIMIZERS = ("actor", "critic", "temperature")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class LearnerState:
    """The result of `DIME.state_dict`."""

    actor: Tensors
    critic: Tensors
    log_alpha: Tensor
    generator: Tensor  # state of the random numbers, uint8
    optimizers: dict[str, dict[int, Tensors]]  # name -> parameter number -> Adam's moments
    updates: int  # critic updates done

    def tensors(self) -> dict[str, Any]:
        """Return all tensors as plain dictionaries, for a file."""
        return {
            "actor": dict(self.actor),
            "critic": dict(self.critic),
            "log_alpha": self.log_alpha,
            "generator": self.generator,
            "optimizers": self.optimizers,
        }

    @classmethod
    def of(cls, given: Any, updates: int) -> LearnerState:
        """Make the state from a file's dictionaries.

        Raises:
            InputError: they have another structure.
        """
        names = {"actor", "critic", "log_alpha", "generator", "optimizers"}
        if not isinstance(given, dict) or given.keys() != names:
            raise InputError(f"tensors: expected {', '.join(sorted(names))}")
        optimizers = given["optimizers"]
        if not isinstance(optimizers, dict) or optimizers.keys() != set(OPTIMIZERS):
            raise InputError(f"optimizers: expected {', '.join(OPTIMIZERS)}")
        for name, state in optimizers.items():
            if not isinstance(state, dict) or not all(type(number) is int for number in state):
                raise InputError(f"optimizers.{name}: expected parameter numbers")
            for number, moments in state.items():
                _require_tensors(f"optimizers.{name}.{number}", moments)
        for name in ("actor", "critic"):
            _require_tensors(name, given[name])
        _require_tensors("tensors", {name: given[name] for name in ("log_alpha", "generator")})
        return cls(**given, updates=updates)


def _require_tensors(where: str, given: Any) -> None:
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected named tensors, got {type(given).__name__}")
    for name, value in given.items():
        if not isinstance(name, str) or type(value) not in (Tensor, torch.nn.Parameter):
            raise InputError(f"{where}: expected named tensors, got {type(value).__name__}")
        if value.layout != torch.strided or value.is_quantized:
            raise InputError(f"{where}.{name}: expected a dense tensor")


def require_alike(where: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that differ in name, shape or type from the expected ones.

    Args:
        where: description of the values, for the message.
        given: name -> value of any shape (...).
        expected: name -> a value of the same shape (...) and type.

    Raises:
        InputError: they differ, a value is NaN or infinite, or a variance is negative.
    """
    if given.keys() != expected.keys():
        missing, unknown = expected.keys() - given.keys(), given.keys() - expected.keys()
        raise InputError(
            f"{where}: its networks are not those its settings say: missing {sorted(missing)},"
            f" unknown {sorted(unknown)}"[:400]
        )
    for name, own in expected.items():
        value = given[name]
        if value.shape != own.shape or value.dtype != own.dtype:
            raise InputError(
                f"{where}.{name}: its networks are not those its settings say: expected"
                f" {tuple(own.shape)} {own.dtype}, got {tuple(value.shape)} {value.dtype}"
            )
        if not torch.isfinite(value).all():
            raise InputError(
                f"{where}.{name} holds NaN or infinity: the policy cannot be used; take an earlier"
                " checkpoint (best.pt)"
            )
        if name.endswith(("running_var", "exp_avg_sq", "passes", "samples")) and (value < 0).any():
            raise InputError(f"{where}.{name}: expected no negative value")
