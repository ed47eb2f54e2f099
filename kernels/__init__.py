"""The compute seam both model tiers stand on: plain Paddle operators, native ones beside them.

Importing this package sets the process environment that Paddle reads at its own import (`kernels.runtime`),
so any file of it, and any package whose `__init__` imports it, may import paddle safely in whatever order.
"""

from kernels import runtime

runtime.prepare()
