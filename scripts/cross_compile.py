"""Compile and link the extension for systems that are not at hand, with Zig.

`python scripts/cross_compile.py [TARGET …]`: for each target (all of them if none is
named), `setup.py build_ext` runs with the settings of that system's Python, as for a
wheel. What comes out lies in `build/cross/TARGET` and is examined: processor, what it
exports, and whether wheels may need its libraries. Nothing is loaded.

Zig and LIEF come from the package index by pip; Windows' `pyconfig.h` and zlib from
source packages of Debian (scripts/debian_source.sh). They are kept in
`~/.cache/simple-ws/cross`. Where they cannot be had, nothing is compiled: a line says
so, and the status is 0. Otherwise it is 1 if any target has failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "cross"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
KEPT = CACHE / "simple-ws" / "cross"
TOOLS = KEPT / "tools"
#: Zig and what reads its results. This version of Zig is known to compile all targets.
REQUIREMENTS = ("ziglang==0.17.1", "lief>=0.16")

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
CPYTHON = VERSION.replace(".", "")
#: What tells setuptools about a compiler; ours come by sysconfig.
COMPILER_VARIABLES = {"AR", "CC", "CFLAGS", "CPPFLAGS", "CXX", "LDFLAGS", "LDSHARED"}


@dataclass(frozen=True)
class Target:
    """A system and a processor."""

    triple: str  #: as Zig calls them
    platform: str  #: as `sysconfig.get_platform()` does there
    suffix: str  #: of extensions
    processor: str  #: as LIEF calls it
    libraries: str  #: that are there on every such system, a pattern
    flags: str = ""  #: of the compiler
    link: str = "-shared"  #: its flags when it links
    zlib: str = "libz.so -Wl,-soname,libz.so.1"  #: what is linked to; "" compiles it in


GLIBC = r"libz\.so\.1|lib(c|m|dl|pthread)\.so\.\d|ld-linux-.*\.so\.\d"
MUSL = r"libz\.so\.1|libc\.so"
MACOS = r"/usr/lib/libz\.1\.dylib|/usr/lib/libSystem\.B\.dylib"
#: Symbols of Python are looked up when the extension is loaded, as on Linux.
MACOS_LINK = "-shared -undefined dynamic_lookup"
#: `-D`: zlib before 1.3 takes macOS for a system without fdopen().
MACOS_ZLIB = "libz.dylib -install_name /usr/lib/libz.1.dylib -Dfdopen=fdopen"

TARGETS = {
    "win-amd64": Target(
        triple="x86_64-windows-gnu",
        platform="win-amd64",
        suffix=f".cp{CPYTHON}-win_amd64.pyd",
        processor="X86_64",
        libraries=rf"python{CPYTHON}\.dll|api-ms-win-crt-.*|(KERNEL32|WS2_32)\.dll",
        flags="-DMS_WIN64",  # pyconfig.h has it for Microsoft's compiler only
        link=f"-shared -lpython{CPYTHON}",
        zlib="",
    ),
    "manylinux-aarch64": Target(
        triple="aarch64-linux-gnu.2.28",  # of manylinux_2_28
        platform="linux-aarch64",
        suffix=f".cpython-{CPYTHON}-aarch64-linux-gnu.so",
        processor="ARM64",
        libraries=GLIBC,
    ),
    "musllinux-aarch64": Target(
        triple="aarch64-linux-musl",
        platform="linux-aarch64",
        suffix=f".cpython-{CPYTHON}-aarch64-linux-musl.so",
        processor="ARM64",
        libraries=MUSL,
    ),
    "musllinux-x86_64": Target(
        triple="x86_64-linux-musl",
        platform="linux-x86_64",
        suffix=f".cpython-{CPYTHON}-x86_64-linux-musl.so",
        processor="X86_64",
        libraries=MUSL,
    ),
    "macos-arm64": Target(
        triple="aarch64-macos",
        platform="macosx-11.0-arm64",
        suffix=f".cpython-{CPYTHON}-darwin.so",
        processor="ARM64",
        libraries=MACOS,
        link=MACOS_LINK,
        zlib=MACOS_ZLIB,
    ),
    "macos-x86_64": Target(
        triple="x86_64-macos",
        platform="macosx-11.0-x86_64",
        suffix=f".cpython-{CPYTHON}-darwin.so",
        processor="X86_64",
        libraries=MACOS,
        link=MACOS_LINK,
        zlib=MACOS_ZLIB,
    ),
}


class NotToBeHad(Exception):
    """Something that would have to be downloaded."""


def main() -> int:
    """Compile what is asked for, or everything."""
    names = sys.argv[1:] or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        sys.exit(f"no target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    try:
        download()
    except NotToBeHad as error:
        print(f"== cross left out: {error}")
        return 0
    failed = [name for name in names if not succeeds(name)]
    if failed:
        print(f"== failed: {', '.join(failed)}")
    return 1 if failed else 0


def succeeds(name: str) -> bool:
    """Whether a target compiles, links, and is as it should be; prints what it is."""
    began = time.monotonic()
    try:
        extension = build(TARGETS[name], BUILD / name)
        faults = examine(TARGETS[name], extension)
    except subprocess.CalledProcessError as error:
        faults = [f"failed: {' '.join(map(str, error.cmd))}"]
    for fault in faults:
        print(f"{name}: {fault}")
    print(f"== {name} {'FAILED' if faults else 'ok'}, {time.monotonic() - began:.0f} s")
    return not faults


# -- what is downloaded, once ----------------------------------------------------------


def download() -> None:
    """Have the tools and sources; a folder appears only when it is complete."""
    KEPT.mkdir(parents=True, exist_ok=True)
    if not TOOLS.exists():
        install_tools()
    sys.path.append(str(TOOLS))
    os.environ["ZIG_GLOBAL_CACHE_DIR"] = str(KEPT / "zig-cache")
    for folder, package in ((zlib(), "zlib"), (cpython(), f"python{VERSION}")):
        if not folder.exists():
            fetch_source(folder, package)


def install_tools() -> None:
    """By the pip of this environment or, where it has none, of its Python."""
    new = fresh(TOOLS)
    outer = getattr(sys, "_base_executable", sys.executable)
    options = ["install", "-q", "--disable-pip-version-check", "--target", new]
    for pip in (
        [sys.executable, "-m", "pip"],
        [outer, "-m", "pip", "--python", sys.executable],
    ):
        if subprocess.run([*pip, *options, *REQUIREMENTS], check=False).returncode == 0:
            new.rename(TOOLS)
            return
    raise NotToBeHad(f"pip cannot install {' and '.join(REQUIREMENTS)}")


def fetch_source(folder: Path, package: str) -> None:
    """From the suite of this system, or a newer one."""
    new = fresh(folder)
    suites = f"{codename()} stable testing sid".strip()
    command = [ROOT / "scripts" / "debian_source.sh", new, suites, package]
    if subprocess.run(command, check=False).returncode != 0:
        raise NotToBeHad(f"no source package {package} is to be had")
    new.rename(folder)


def fresh(folder: Path) -> Path:
    """The path of a folder until it is complete; nothing is there yet."""
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    return new


def codename() -> str:
    """Of the suite that this system is, if it says so."""
    try:
        release = Path("/etc/os-release").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    return found[1] if found else ""


def zlib() -> Path:
    """Its sources."""
    return KEPT / "zlib"


def cpython() -> Path:
    """The sources of this version, of which Windows' pyconfig.h is used."""
    return KEPT / f"python{VERSION}"


# -- compiling -------------------------------------------------------------------------


def build(target: Target, folder: Path) -> Path:
    """The extension, linked."""
    shutil.rmtree(folder, ignore_errors=True)
    headers, libraries = folder / "include", folder / "lib"
    libraries.mkdir(parents=True)
    copy_headers(headers, windows=target.platform.startswith("win"))
    compiler = f"{TOOLS}/ziglang/zig cc -target {target.triple} {target.flags}"
    if target.zlib:
        build_zlib(target, compiler, libraries)
    else:
        write_import_library(headers, libraries)
    write_settings(target, folder, f"{compiler} -I{headers} -I{zlib()}", libraries)
    build_ext(target, folder)
    return folder / "simple_ws" / f"_speedups{target.suffix}"


def copy_headers(headers: Path, windows: bool) -> None:
    """Those of this Python, which are the same everywhere except for pyconfig.h.

    All targets but Windows have the integers of this system (LP64), and so its file.
    """
    shutil.copytree(sysconfig.get_path("include"), headers)
    # Windows: a template from 3.13 on, changed only where a build has no GIL.
    of_windows = cpython().glob("PC/pyconfig.h*")
    shutil.copy(next(of_windows) if windows else own_pyconfig(), headers / "pyconfig.h")


def own_pyconfig() -> Path:
    """Of this Python. What Debian has in its place names a file for each processor."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    usual = Path(sysconfig.get_config_h_filename())
    debian = Path("/usr/include", str(multiarch), f"python{VERSION}", "pyconfig.h")
    return next(
        path
        for path in (usual, debian)
        if path.exists() and "SIZEOF_VOID_P" in path.read_text("utf-8")
    )


def build_zlib(target: Target, compiler: str, libraries: Path) -> None:
    """What stands for the library that systems of this kind have."""
    sources = [path for path in zlib().glob("*.c") if not path.name.startswith("gz")]
    options = ["-w", "-O1", "-shared", "-o", *target.zlib.split()]
    run(*compiler.split(), *options, *sources, cwd=libraries)


def write_import_library(headers: Path, libraries: Path) -> None:
    """What Python's DLL exports, by its headers; with anything else, linking fails."""
    lines = [f"LIBRARY python{CPYTHON}.dll", "EXPORTS", *exported(headers)]
    definition = libraries / "python.def"
    definition.write_text("\n".join(lines) + "\n")
    tool = [TOOLS / "ziglang" / "zig", "dlltool", "-m", "i386:x86-64"]
    run(*tool, "-d", definition, "-l", libraries / f"python{CPYTHON}.lib")


def exported(headers: Path) -> list[str]:
    """The lines of a definition file for all that the headers declare as exported."""
    pattern = re.compile(r"\bPyAPI_(FUNC|DATA)\([^()]*\)\s*(_?Py\w+)")
    found = {
        name: kind
        for path in sorted(headers.rglob("*.h"))
        for kind, name in pattern.findall(path.read_text("utf-8"))
    }
    return [
        f"{name} DATA" if kind == "DATA" else name
        for name, kind in sorted(found.items())
    ]


def write_settings(
    target: Target, folder: Path, compiler: str, libraries: Path
) -> None:
    """A module with what sysconfig says about the Python of the target."""
    windows = target.platform.startswith("win")
    ours = {
        name: value
        for name, value in sysconfig.get_config_vars().items()
        if isinstance(value, (str, int))
    }
    settings = ours | {
        "CC": compiler,
        "CXX": compiler,
        "CFLAGS": "-DNDEBUG -fwrapv -w",
        "OPT": "",
        "CCSHARED": "" if windows else "-fPIC",
        "LDSHARED": f"{compiler} {target.link} -L{libraries}",
        "EXT_SUFFIX": target.suffix,
        "SOABI": target.suffix.split(".")[1],
        "Py_ENABLE_SHARED": 0,
    }
    (folder / "_cross_settings.py").write_text(f"build_time_vars = {settings!r}\n")


def build_ext(target: Target, folder: Path) -> None:
    """As for a wheel, with the settings of the target."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in COMPILER_VARIABLES and not name.startswith("SIMPLE_WS_")
    }
    environment = inherited | {
        "SIMPLE_WS_EXTENSION": "1",
        "PYTHONPATH": str(folder),
        "_PYTHON_SYSCONFIGDATA_NAME": "_cross_settings",
        "_PYTHON_HOST_PLATFORM": target.platform,
    }
    if not target.zlib:
        environment["SIMPLE_WS_ZLIB"] = str(zlib())
    options = ["--build-lib", folder, "--build-temp", folder / "objects"]
    run(sys.executable, "setup.py", "-q", "build_ext", *options, env=environment)


def run(*command: Any, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a command, which must succeed."""
    subprocess.run(command, cwd=cwd, env=env, check=True)


# -- examining -------------------------------------------------------------------------


def examine(target: Target, extension: Path) -> list[str]:
    """What is wrong with it; prints its size and what it needs."""
    import lief  # installed by download()

    lief.logging.disable()  # of parts that are read by nobody here
    binary = lief.parse(str(extension))
    libraries = names(binary.libraries) - {str(extension)}  # macOS names it itself
    report(extension, imports(binary), libraries)
    faults = [
        f"needs {library}, which wheels must not"
        for library in sorted(libraries)
        if not re.fullmatch(target.libraries, library)
    ]
    processor = binary.abstract.header.architecture.name
    if processor != target.processor:
        faults.append(f"it is for {processor}")
    # macOS begins all with an underscore, and linkers add symbols of their own.
    exported = {name.lstrip("_") for name in names(binary.exported_functions)}
    if {name for name in exported if "py" in name.lower()} != {"PyInit__speedups"}:
        faults.append(f"it exports {', '.join(sorted(exported))}")
    return faults


def imports(binary: Any) -> set[str]:
    """The symbols that it takes from libraries, and from Python."""
    if hasattr(binary, "dynamic_symbols"):  # ELF: data of Python is left out otherwise
        return names(symbol for symbol in binary.dynamic_symbols if symbol.shndx == 0)
    if hasattr(binary, "imported_symbols"):
        return names(binary.imported_symbols)
    return names(binary.imported_functions)


def names(symbols: Iterable[Any]) -> set[str]:
    """Of symbols or libraries; in some formats a library is its name."""
    return {str(getattr(symbol, "name", symbol)) for symbol in symbols} - {""}


def report(extension: Path, imported: set[str], libraries: set[str]) -> None:
    """Print its size and what it needs, in full: what is new there is worth a look."""
    of_python = {name for name in imported if name.lstrip("_").startswith("Py")}
    others = sorted(imported - of_python)
    print(f"{extension.name}: {extension.stat().st_size:,} bytes, needs")
    print(f"  {', '.join(sorted(libraries))}")
    print(f"  {len(of_python)} symbols of Python")
    print(f"  {len(others)} others: {', '.join(others)}")


if __name__ == "__main__":
    sys.exit(main())
