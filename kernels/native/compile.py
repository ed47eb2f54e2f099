"""Compile the operators with Paddle's extension builder: `compile.py TARGET_FOLDER SOURCE...`.

A program of its own, because the builder takes over setuptools and prints as it goes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import paddle
from paddle.utils import cpp_extension

NAME = "internvl_native"

_LIBRARIES = Path(paddle.__file__).parent / "libs"
_COMPILE = [
    "-O3",
    "-g0",  # Python's own flags ask for debug information, which takes a quarter of the time
    "-ffp-contract=fast",  # multiply-adds in one rounding
    "-fno-math-errno",
    "-fopenmp",
    "-Wno-psabi",  # notes on passing vectors between functions; those here are all inlined
    "-fvisibility-inlines-hidden",
]
# Paddle's own OpenMP library: with GCC's beside it there would be two pools of threads.
_LINK = [f"-L{_LIBRARIES}", "-l:libiomp5.so", f"-Wl,-rpath,{_LIBRARIES}"]


def main() -> None:
    target, *sources = sys.argv[1:]
    cpp_extension.setup(
        name=NAME,
        ext_modules=cpp_extension.CppExtension(
            sources=sources, extra_compile_args=_COMPILE, extra_link_args=_LINK
        ),
        script_args=["build_ext", "--build-lib", target, "--build-temp", f"{target}/objects"],
    )


if __name__ == "__main__":
    main()
