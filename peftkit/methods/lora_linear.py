"""The linear layer of LoRA as one autograd function.

    forward    u = s A x              h = W x + b + B u           `B u` is added in place
    backward   dx = W^T dh + A^T du   du = s B^T dh               `A^T du` is added in place
               dB = dh u^T            dA = du x^T

Computes the same numbers as PEFT's layer, which makes three more tensors of the size of h in the
forward pass and two in the backward pass. `Linear.place` makes PEFT use it for every `nn.Linear`.

On a CPU, products with thin matrices are slow: the products with A and B take a sixth of a step's
time, but are 3 % of its multiplications. For training on a CPU, one matrix M therefore holds W and
A, so that one product gives both h and u:

    M = | W   |       | h | = M x + | b |
        | s A |       | u |         | 0 |

In evaluation the layer rounds exactly as PEFT's layer does, so a reloaded adapter gives the same
bits.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Linear(PeftLinear):
    """PEFT's LoRA layer with a faster computation for the ordinary case: one adapter, not merged,
    without dropout, on a plain `nn.Linear`. PEFT's own code computes all other cases.
    """

    fused = True
    """Whether the faster computation is used; if False, PEFT computes."""
    fused_weight: Tensor | None = None
    """The module's matrix M, (out + r, in); None until the first training step on a CPU."""

    @staticmethod
    def place(config: LoraConfig) -> None:
        """Makes PEFT wrap each `nn.Linear` in this class when it injects `config`."""
        config._register_custom_module({_Plain: Linear})

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self.fused or not self._is_ordinary():
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        name = self.active_adapters[0]
        base: Any = self.base_layer
        a: Any = self.lora_A[name].weight
        b: Any = self.lora_B[name].weight
        operands: tuple[Any, ...] = (x, base.weight, base.bias, a, b)
        if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
            if not self.training:
                return super().forward(x)
            dtype = torch.get_autocast_dtype(x.device.type)
            operands = tuple(t if t is None else t.to(dtype) for t in operands)
            with torch.autocast(x.device.type, enabled=False):
                return _low_rank(*operands, self.scaling[name], None)
        if any(t is not None and t.dtype != torch.float32 for t in operands):
            return super().forward(x)
        in_whole = self.training and x.device.type == "cpu"
        whole = self._whole(a, self.scaling[name]) if in_whole else None
        return _low_rank(*operands, self.scaling[name], whole)

    @torch.no_grad()
    def _whole(self, a: Tensor, scale: float) -> Tensor:
        """Returns M after writing the current A into it. The first call also moves the base layer's
        weight into M.
        """
        weight: Any = self.base_layer.weight
        height, width = weight.shape
        shape, whole = (height + len(a), width), self.fused_weight
        if whole is None or whole.shape != shape or whole.data_ptr() != weight.data_ptr():
            with torch.inference_mode(False):  # inference tensors cannot be trained
                whole = weight.new_empty(shape)
            whole[:height] = weight
            weight.data = whole[:height]
            self.fused_weight = whole
        torch.mul(a, scale, out=whole[height:])
        return whole

    @property
    def moved(self) -> Tensor | None:
        """The weight of the base layer if it is in M; None if it is not."""
        return None if self.fused_weight is None else self.base_layer.weight  # type: ignore[return-value]

    def unfuse(self) -> None:
        """Moves the weight of the base layer out of M into its own memory."""
        if self.fused_weight is not None:
            weight: Any = self.base_layer.weight
            weight.data = weight.data.clone()
            self.fused_weight = None

    def _is_ordinary(self) -> bool:
        names = self.active_adapters
        return (
            len(names) == 1
            and names[0] in self.lora_A
            and not (self.disable_adapters or self.merged or self.fan_in_fan_out)
            and names[0] not in self.lora_variant
            and not self.lora_bias[names[0]]
            and isinstance(self.lora_dropout[names[0]], nn.Identity)
        )


class _OnlyPlain(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return type(instance) is nn.Linear  # layers of bitsandbytes are subclasses


class _Plain(nn.Linear, metaclass=_OnlyPlain):
    """A class for `isinstance`: plain `nn.Linear` layers are its instances, subclasses are not."""


def _low_rank(*operands: Any) -> Tensor:
    output: Tensor = _LowRank.apply(*operands)  # type: ignore[no-untyped-call]
    return output


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
        whole: Tensor | None,
    ) -> Tensor:
        flat, height = x.reshape(-1, x.shape[-1]), len(weight)  # (tokens, in)
        if whole is None:
            u = flat @ a.T  # (tokens, r)
            u *= scale
            out = torch.addmm(bias, flat, weight.T) if bias is not None else flat @ weight.T
        else:
            longer = None if bias is None else torch.cat([bias, bias.new_zeros(len(a))])
            both = F.linear(flat, whole, longer)
            out, u = both[:, :height], both[:, height:].contiguous()
        out.addmm_(u, b.T)
        ctx.save_for_backward(flat, u, weight, a, b)
        ctx.scale = scale
        return out.view(*x.shape[:-1], height)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, u, weight, a, b = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_a, needs_b = ctx.needs_input_grad[:5]
        grad_out = gradients[0].reshape(-1, gradients[0].shape[-1])  # (tokens, out)
        grad_u = grad_out @ b.T.contiguous().T  # three times as fast on a CPU as `grad_out @ b`
        grad_u *= ctx.scale
        grad_x = None
        if needs_x:
            grad_x = grad_out @ weight
            grad_x = grad_x.addmm_(grad_u, a).view(*gradients[0].shape[:-1], flat.shape[1])
        return (
            grad_x,
            grad_out.T @ flat if needs_weight else None,
            grad_out.sum(0) if needs_bias else None,
            grad_u.T @ flat if needs_a else None,
            (u.T @ grad_out).T if needs_b else None,  # four times as fast as `grad_out.T @ u`
            None,
            None,
        )


def fused_lora_layers(model: nn.Module) -> list[Linear]:
    """Returns the LoRA layers of a model that have the faster computation."""
    return [module for module in model.modules() if isinstance(module, Linear)]
