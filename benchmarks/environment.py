"""The files that the comparison needs, and a description of the machine.

Everything is put into ``.bench/`` in the root of the checkout: the compiled C programs,
one virtual environment for the Python peers, one for the old simple_ws (which has the
same name), and ``node_modules``. Existing files are reused. A peer that cannot be
installed is left out of the comparison, with the reason; nothing else fails.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = HERE / "peers"
BENCH = ROOT / ".bench"

#: Packages of the peers' environment; each is installed on its own, so that one that
#: does not build takes no other with it.
PYTHON_PEERS = ("uvloop", "picows", "websockets", "aiohttp", "tornado", "socketify")
#: What the clients of `clients.py` need.
CLIENT_PEERS = ("uvloop", "websockets", "aiohttp", "websocket_client")
#: What `engines.py` compares with.
ENGINE_PEERS = (
    *("redis", "hiredis", "uvloop", "aiohttp", "python_socketio"),
    *("uvicorn", "websockets", "channels", "channels_redis"),
)
NODE_PEERS = ("ws", "bun")
OLD = "simple_ws==0.3.1"

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

#: Seconds one installation may take.
_INSTALL_LIMIT = 300


def scrub(text: str) -> str:
    """Take this machine's paths out of a message that ends up in a report."""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def python(name: str) -> str:
    """The interpreter of a virtual environment ("venv" or "venv-old")."""
    return str(BENCH / f"{name}-{_VERSION}" / "bin" / "python")


def program(name: str) -> Path:
    """A compiled C program."""
    return BENCH / "build" / name


def bun() -> str:
    """Bun's executable; npm may leave it in either of two places."""
    modules = BENCH / "node" / "node_modules"
    places = [modules / "bun" / "bin" / "bun.exe"]
    places += modules.glob("@oven/bun-linux-*/bin/bun")
    working = [p for p in places if p.exists() and p.stat().st_size > 1 << 20]
    return str(working[0]) if working else "bun"


def node() -> str:
    """Node's executable."""
    return shutil.which("node") or "node"


# ---- building and installing ---------------------------------------------------------


def _run(*command: str, cwd: Path | None = None) -> str:
    """Run to the end; returns what went wrong in one line, or nothing."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=_INSTALL_LIMIT
        )
    except FileNotFoundError:
        return f"{Path(command[0]).name} is not installed"
    except subprocess.TimeoutExpired:
        return f"gave up after {_INSTALL_LIMIT} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines
    return scrub(errors[-1].strip()) if errors else f"exit code {done.returncode}"


def prepare() -> None:
    """Make ``.bench/``, which git ignores, and let us open as many files as allowed."""
    BENCH.mkdir(exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def compile_programs() -> None:
    """Compile what is older than its source, with TLS where OpenSSL's headers are.

    Raises:
        SystemExit: Without the load generator there is nothing to measure.
    """
    (BENCH / "build").mkdir(exist_ok=True)
    for name in ("loadgen", "echo_server"):
        target = program(name)
        sources = [HERE / f"{name}.c", HERE / "wire.h", HERE / "tls.h"]
        if target.exists() and all(
            target.stat().st_mtime > source.stat().st_mtime for source in sources
        ):
            continue
        compiler = os.environ.get("CC", "gcc")
        flags = ["-O3", "-std=gnu11", "-Wall", "-Wextra"]
        build = (compiler, *flags, "-o", str(target), str(sources[0]), "-lz")
        with_tls = _run(*build, "-DWITH_TLS", "-lssl", "-lcrypto")
        trouble = with_tls and _run(*build)
        if trouble:
            sys.exit(
                f"cannot compile {name}.c (needs a C compiler and zlib): {trouble}"
            )


def certificate() -> Path:
    """A certificate (ECDSA P-256) and its key in one file, made when first needed."""
    return BENCH / "tls.pem"


def tls_trouble() -> str:
    """Why nothing can be measured with TLS; empty if it can be."""
    probe = _run(str(program("loadgen")), "idle", "--tls", "--port", "0")
    if "without TLS" in probe:
        return "the load generator was built without OpenSSL's headers (libssl-dev)"
    file = certificate()
    if file.exists():
        return ""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    command += " -subj /CN=localhost -days 3650"
    return _run(*command.split(), "-keyout", str(file), "-out", str(file))


def install(wanted: set[str]) -> dict[str, str]:
    """Install the peers in `wanted`; returns the reason for each that is missing."""
    missing = {}
    packages = [name for name in PYTHON_PEERS if name in wanted]
    if packages:
        missing.update(_install_python("venv", packages))
    if "old" in wanted:
        missing.update(_install_old())
    packages = [name for name in NODE_PEERS if name in wanted]
    if packages:
        missing.update(_install_node(packages))
    return missing


def install_clients() -> dict[str, str]:
    """Install the clients that are compared; the reason for each that is missing."""
    return _install_python("venv", list(CLIENT_PEERS))


def install_engines() -> dict[str, str]:
    """Install what engines are compared with; the reason for each that is missing."""
    return _install_python("venv", list(ENGINE_PEERS))


def _make_venv(name: str) -> str:
    if Path(python(name)).exists():
        return ""
    return _run(sys.executable, "-m", "venv", str(BENCH / f"{name}-{_VERSION}"))


def _install_python(venv: str, packages: list[str]) -> dict[str, str]:
    trouble = _make_venv(venv)
    if trouble:
        return dict.fromkeys(packages, trouble)
    have = _installed(venv)
    missing = {}
    for package in packages:
        if package in have:
            continue
        print(f"installing {package} …", file=sys.stderr)
        trouble = _run(python(venv), "-m", "pip", "install", "--quiet", package)
        if trouble:
            missing[package] = trouble
    return missing


def _install_old() -> dict[str, str]:
    """Its setup script predates the checks of today's setuptools."""
    trouble = _make_venv("venv-old")
    if not trouble and "simple_ws" not in _installed("venv-old"):
        print(f"installing {OLD} …", file=sys.stderr)
        pip = (python("venv-old"), "-m", "pip", "install", "--quiet")
        trouble = _run(*pip, "setuptools<60", "wheel") or _run(
            *pip, "--no-build-isolation", "--no-deps", OLD
        )
    return {"old": trouble} if trouble else {}


def _install_node(packages: list[str]) -> dict[str, str]:
    folder = BENCH / "node"
    folder.mkdir(exist_ok=True)
    manifest = folder / "package.json"
    if not manifest.exists():
        manifest.write_text('{"private": true}\n')
    missing = {}
    for package in packages:
        if (folder / "node_modules" / package / "package.json").exists():
            continue
        print(f"installing {package} …", file=sys.stderr)
        trouble = _run("npm", "install", "--no-audit", "--no-fund", package, cwd=folder)
        if trouble:
            missing[package] = trouble
    return missing


def _installed(venv: str) -> dict[str, str]:
    library = BENCH / f"{venv}-{_VERSION}" / "lib" / f"python{_VERSION}"
    folder = library / "site-packages"
    found = importlib.metadata.distributions(path=[str(folder)])
    return {d.metadata["Name"].replace("-", "_"): d.version for d in found}


# ---- where we are --------------------------------------------------------------------


def versions() -> dict[str, str]:
    """The versions of everything that is compared."""
    known = {*PYTHON_PEERS, *CLIENT_PEERS, *ENGINE_PEERS}
    found = {k: v for k, v in _installed("venv").items() if k in known}
    old = _installed("venv-old").get("simple_ws")
    if old:
        found["old simple_ws"] = old
    for package in NODE_PEERS:
        manifest = BENCH / "node" / "node_modules" / package / "package.json"
        if manifest.exists():
            found[package] = json.loads(manifest.read_text())["version"]
    found["node"] = _output(node(), "--version").lstrip("v")
    found["gcc"] = _output("gcc", "-dumpfullversion")
    return {k: v for k, v in found.items() if v}


def machine(server_cpu: int, load_cpu: int) -> dict[str, object]:
    """What a reader needs to judge the figures; nothing that names the machine."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "server_cpu": server_cpu,
        "load_cpu": load_cpu,
        "cores_apart": load_cpu not in siblings(server_cpu),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_average_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }


def _commit() -> str:
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short", "--verify", "HEAD")
    status = ("git", "--no-optional-locks", "-C", str(ROOT), "status", "--porcelain")
    return commit + ("+changes" if commit and _output(*status) else "")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def siblings(cpu: int) -> set[int]:
    """The logical CPUs that share a core with this one, itself among them."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    if not path.exists():
        return {cpu}
    found: set[int] = set()
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def choose_cpus() -> tuple[int, int]:
    """A core for the server and another for the load: not two threads of one core."""
    cpus = sorted(os.sched_getaffinity(0))
    server = cpus[0]
    others = [cpu for cpu in cpus if cpu not in siblings(server)] or cpus[1:] or cpus
    return server, others[0]
