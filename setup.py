"""The extension; everything else stands in pyproject.toml.

SIMPLE_WS_EXTENSION decides as it does at import: `1` the extension must be built, `0`
it is not built, unset: it is built if possible, and a failed build leaves a working
installation in pure Python. SIMPLE_WS_DEBUG=1 turns on the checks that a release does
without. SIMPLE_WS_ZLIB names a folder with the sources of zlib, which are compiled in
where a system has none to link to (Windows).
"""

import os
import sys
from pathlib import Path
from sysconfig import get_platform

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("SIMPLE_WS_DEBUG") == "1"


def _wanted() -> str:
    """What SIMPLE_WS_EXTENSION says: "1", "0" or "" for: if possible."""
    value = os.environ.get("SIMPLE_WS_EXTENSION", "")
    if value not in {"", "0", "1"}:
        sys.exit(f"SIMPLE_WS_EXTENSION must be 1, 0 or unset, not {value!r}")
    if value == "" and sys.implementation.name != "cpython":
        return "0"  # elsewhere the fallback is the faster one
    return value


class BuildExtension(build_ext):
    """Builds with our flags, and says so when nothing came of it."""

    def build_extension(self, ext: Extension) -> None:  # noqa: D102
        if self.compiler.compiler_type != "msvc":
            # Not in CFLAGS: those replace the interpreter's own flags when they are
            # set. -O3 rather than -O2: gcc 12 vectorises no masking loop below it.
            # No debug symbols: with them a wheel is six times as large.
            ext.extra_compile_args += ["-O3", "-fvisibility=hidden", "-g0"]
            if DEBUG:
                ext.extra_compile_args += ["-O1", "-g"]
        super().build_extension(ext)

    def run(self) -> None:  # noqa: D102
        super().run()
        paths = [self.get_ext_fullpath(extension.name) for extension in self.extensions]
        if not all(map(os.path.exists, paths)):
            bar = "*" * 72
            note = "* simple_ws: the C extension was NOT built; pure Python will serve"
            print(bar, note, bar, sep="\n", file=sys.stderr)


def _zlib_sources(folder: Path) -> list[str]:
    """What deflate needs of zlib: all but its own files (`gzopen` and others)."""
    names = ["adler32", "crc32", "deflate", "inffast"]
    names += ["inflate", "inftrees", "trees", "zutil"]
    return [str(folder / f"{name}.c") for name in names]


def _extensions(optional: bool) -> list[Extension]:
    from Cython.Build import cythonize  # only where something is built

    zlib = os.environ.get("SIMPLE_WS_ZLIB")
    libraries = [] if zlib else ["z"]
    if get_platform().startswith("win"):  # also when it is cross-compiled for
        libraries.append("ws2_32")
    speedups = Extension(
        "simple_ws._speedups",
        ["simple_ws/_speedups.pyx", *(_zlib_sources(Path(zlib)) if zlib else ())],
        depends=["simple_ws/_c/system.h"],
        include_dirs=["simple_ws", *([zlib] if zlib else ())],
        # A prefix, for Python may have loaded a zlib of its own.
        define_macros=[("Z_PREFIX", "1")] if zlib else [],
        libraries=libraries,
    )
    directives = {
        "boundscheck": DEBUG,
        "initializedcheck": DEBUG,
        "wraparound": False,
        "cdivision": True,
    }
    modules = cythonize([speedups], compiler_directives=directives)
    for module in modules:
        module.optional = optional  # cythonize() forgets optional=… of Extension()
    return modules


if _wanted() == "0":
    setup()
else:
    setup(
        ext_modules=_extensions(optional=_wanted() == ""),
        cmdclass={"build_ext": BuildExtension},
    )
