"""The recurrence of a GRU and an LSTM over packed texts, with a gradient that a processor computes faster.

PyTorch's own runs the texts step by step and leaves the gradient to autograd: every step then adds a gradient of the
size of all steps, and one of the size of the weights. Here the gradients of the gates are collected, and those of the
weights are one matrix product over all steps. Values are those of :class:`torch.nn.GRU` and :class:`torch.nn.LSTM`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

Cell = Literal["gru", "lstm"]

_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward


def read_packed(rnn: nn.GRU | nn.LSTM, packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """Run a one-layer network over packed texts.

    On a processor, where a gradient is wanted, by the recurrence of this module; elsewhere by the network itself.

    Args:
        rnn: The network, of one or two directions.
        packed: Word features, (rows, width), of b texts.

    Returns:
        The state after every word, (rows, directions * hidden), in the order of ``packed.data``, and the state after
        the last word each direction reads, (b, directions, hidden), in the order of the texts.
    """
    if packed.data.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return read_by_network(rnn, packed)
    cell: Cell = "lstm" if isinstance(rnn, nn.LSTM) else "gru"
    sizes, found = packed.batch_sizes.tolist(), []
    for suffix in ("", "_reverse")[: 2 if rnn.bidirectional else 1]:
        of_word, of_state, word_bias, state_bias = (
            getattr(rnn, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        inputs = F.linear(packed.data, of_word, word_bias)
        found.append(_Recurrence.apply(inputs, of_state, state_bias, sizes, suffix != "", cell))  # type: ignore[no-untyped-call]
    states, last = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    if packed.unsorted_indices is not None:
        last = last[packed.unsorted_indices]
    return states, last.unflatten(1, (len(found), -1))


def read_by_network(rnn: nn.GRU | nn.LSTM, packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """Return what :func:`read_packed` does, by the network itself and the gradient that autograd gives it."""
    states, last = rnn(packed)
    return states.data, (last[0] if isinstance(last, tuple) else last).transpose(0, 1)


class _Recurrence(torch.autograd.Function):
    """States of all words, (rows, hidden), and of all texts at the end, (b, hidden), longest text first.

    Takes what the words give to the gates, (rows, gates * hidden), the weights and the bias of the states, the number
    of texts that have a word at each step, whether texts are read from their end, and the cell. Gates, in half
    precision, are computed in float32 and kept as they come.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, sizes: list[int], reverse: bool, cell: Cell
    ) -> tuple[Tensor, Tensor]:
        """Return the states of the words and those at the end."""
        hidden = weight.shape[1]
        wide = torch.promote_types(inputs.dtype, torch.float32)
        across, shift = weight.to(inputs.dtype).T, bias.to(inputs.dtype)
        states = inputs.new_empty(len(inputs), hidden, dtype=wide)
        before, kept = inputs.new_empty(len(inputs), hidden), inputs.new_empty(_KEPT[cell], len(inputs), hidden)
        h, c = (inputs.new_zeros(sizes[0], hidden, dtype=wide) for _ in range(2))
        steps = _steps(sizes, reverse)
        for rows, n in steps:
            before[rows] = h[:n]
            from_state = torch.addmm(shift, before[rows], across)
            _FORWARD[cell](inputs[rows], from_state, h[:n], c[:n], kept[:, rows])
            states[rows] = h[:n]
        ctx.save_for_backward(weight, before, kept)
        ctx.steps, ctx.cell, ctx.bias_type = steps, cell, bias.dtype
        return states, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        """Return the gradients for what the words give, the weights and the bias."""
        weight, before, kept = ctx.saved_tensors
        to_states, to_last = gradients
        back, dh = weight.to(before.dtype), to_last.clone()
        dc = torch.zeros_like(dh)
        # A GRU's reset gate stands between the state and one of its gates: their gradients differ there.
        to_inputs = before.new_empty(len(before), len(weight))
        to_gates = torch.empty_like(to_inputs) if ctx.cell == "gru" else to_inputs
        for rows, n in reversed(ctx.steps):
            dh[:n] += to_states[rows]
            saved = kept[:, rows].to(dh.dtype)
            _BACKWARD[ctx.cell](dh[:n], dc[:n], before[rows], saved, to_inputs[rows], to_gates[rows])
            dh[:n] += to_gates[rows] @ back
        to_weight = (to_gates.T @ before).to(weight.dtype)
        return to_inputs, to_weight, to_gates.sum(0, dtype=ctx.bias_type), None, None, None


def _steps(sizes: list[int], reverse: bool) -> list[tuple[slice, int]]:
    """Return the rows of each step and their number, in the order in which they are read."""
    steps, start = [], 0
    for n in sizes:
        steps.append((slice(start, start + n), n))
        start += n
    return steps[::-1] if reverse else steps


def _gru_forward(inputs: Tensor, from_state: Tensor, h: Tensor, _: Tensor, kept: Tensor) -> None:
    two = 2 * h.shape[1]
    r, z = (inputs[:, :two] + from_state[:, :two]).to(h.dtype).sigmoid_().chunk(2, dim=1)
    candidate = from_state[:, two:]
    n = torch.addcmul(inputs[:, two:].to(h.dtype), r, candidate.to(h.dtype)).tanh_()
    for place, value in zip(kept, (r, z, n, candidate), strict=True):
        place.copy_(value)
    h.sub_(n).mul_(z).add_(n)


def _gru_backward(dh: Tensor, _: Tensor, before: Tensor, kept: Tensor, to_inputs: Tensor, to_gates: Tensor) -> None:
    r, z, n, candidate = kept
    hidden = dh.shape[1]
    dn = _tanh_backward(dh * (1 - z), n)
    to_inputs[:, :hidden] = _sigmoid_backward(dn * candidate, r)
    to_inputs[:, hidden : 2 * hidden] = _sigmoid_backward((before - n).mul_(dh), z)
    to_inputs[:, 2 * hidden :] = dn
    to_gates[:, : 2 * hidden] = to_inputs[:, : 2 * hidden]
    to_gates[:, 2 * hidden :] = dn.mul_(r)
    dh.mul_(z)


def _lstm_forward(inputs: Tensor, from_state: Tensor, h: Tensor, c: Tensor, kept: Tensor) -> None:
    i, f, g, o = (inputs + from_state).to(h.dtype).chunk(4, dim=1)
    i, f, g, o = i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
    kept[4].copy_(c)
    c.mul_(f).addcmul_(i, g)
    torch.tanh(c, out=h)
    for place, value in zip(kept, (i, f, g, o), strict=False):
        place.copy_(value)
    kept[5].copy_(h)
    h.mul_(o)


def _lstm_backward(dh: Tensor, dc: Tensor, _: Tensor, kept: Tensor, to_inputs: Tensor, __: Tensor) -> None:
    i, f, g, o, before, squashed = kept
    dc += _tanh_backward(dh * o, squashed)
    gates = (
        _sigmoid_backward(dc * g, i),
        _sigmoid_backward(dc * before, f),
        _tanh_backward(dc * i, g),
        _sigmoid_backward(dh * squashed, o),
    )
    to_inputs.copy_(torch.cat(gates, dim=1))
    dc.mul_(f)
    dh.zero_()


# Tensors of the size of the states that the backward pass needs: a GRU's gates, candidate and what the state gives it;
# an LSTM's gates, the cell before and its hyperbolic tangent after.
_KEPT = {"gru": 4, "lstm": 6}
_FORWARD: dict[str, Any] = {"gru": _gru_forward, "lstm": _lstm_forward}
_BACKWARD: dict[str, Any] = {"gru": _gru_backward, "lstm": _lstm_backward}
