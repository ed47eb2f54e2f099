"""Data-parallel AdamW over shared memory: every process holds the same parameters and updates its own part of
them."""

from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Barrier

import numpy as np
from numpy.typing import NDArray

BETA1, BETA2, EPSILON, WEIGHT_DECAY, CLIP = 0.9, 0.98, 1e-8, 0.05, 1.0
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each parameter lies in the flat buffers."""

    shapes: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        return sum(int(np.prod(s)) for s in self.shapes.values())

    def views(self, flat: Floats) -> dict[str, Floats]:
        """One view of `flat` per parameter."""
        out, start = {}, 0
        for name, shape in self.shapes.items():
            count = int(np.prod(shape))
            out[name] = flat[start : start + count].reshape(shape)
            start += count
        return out


class SharedState:
    """Flat float32 buffers in shared memory: parameters, both moments, one gradient and one scalar per
    process."""

    def __init__(self, size: int, processes: int, name: str | None = None) -> None:
        rows = 3 + processes
        count = rows * size + 64
        self._memory = SharedMemory(name=name, create=name is None, size=count * 4)
        flat: Floats = np.ndarray((count,), np.float32, buffer=self._memory.buf)
        self.name = self._memory.name
        body = flat[: rows * size].reshape(rows, size)
        self.parameters, self.first, self.second = body[0], body[1], body[2]
        self.gradients = body[3:]
        self.scalars = flat[rows * size :]

    def unlink(self) -> None:
        """Free the memory; call once, from the process that created it."""
        self._memory.unlink()


class Optimizer:
    """AdamW on this process's contiguous part of the flat buffers."""

    def __init__(
        self, state: SharedState, layout: Layout, rank: int, processes: int, barrier: Barrier
    ) -> None:
        self._state, self._rank, self._barrier = state, rank, barrier
        self.gradients = layout.views(state.gradients[rank])
        cut = [layout.size * r // processes for r in range(processes + 1)]
        self._part = slice(cut[rank], cut[rank + 1])
        decay = {n: np.full(s, float(n.endswith("weight")), np.float32) for n, s in layout.shapes.items()}
        self._decay = np.concatenate([d.reshape(-1) for d in decay.values()])[self._part] * np.float32(
            WEIGHT_DECAY
        )
        self._layout = layout

    def rates(self, rate: dict[str, float]) -> Floats:
        """The learning rate of every value of this part, from one rate per parameter (0 freezes it)."""
        full = [np.full(int(np.prod(s)), rate[n], np.float32) for n, s in self._layout.shapes.items()]
        return np.concatenate(full)[self._part]

    def step(self, rates: Floats, factor: float, count: int) -> float:
        """Average the gradients, clip, update; returns the norm. `count` is the 1-based step for bias
        correction."""
        state, part = self._state, self._part
        self._barrier.wait()
        grad = state.gradients[:, part].mean(axis=0)
        grad *= rates > 0
        state.scalars[self._rank] = float(np.dot(grad, grad))
        self._barrier.wait()
        norm = float(np.sqrt(state.scalars[: state.gradients.shape[0]].sum()))
        grad *= np.float32(min(1.0, CLIP / (norm + 1e-6)))
        first, second, values = state.first[part], state.second[part], state.parameters[part]
        first += np.float32(1 - BETA1) * (grad - first) * (rates > 0)
        second += np.float32(1 - BETA2) * (grad * grad - second) * (rates > 0)
        scale = np.float32(factor) * rates
        values *= 1 - scale * self._decay
        update = first / np.float32(1 - BETA1**count)
        update /= np.sqrt(second / np.float32(1 - BETA2**count)) + np.float32(EPSILON)
        values -= scale * update
        self._barrier.wait()
        return norm
