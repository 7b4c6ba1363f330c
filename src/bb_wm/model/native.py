"""What stands between matrix products, as C++ (`native.cpp`) built by the machine's own compiler.

Torch passes through memory once per operation, and between a GRU's two products there are twenty
of them. Here a row's gates, a draw of one-hots, a divergence with its gradient are one pass each.
`use_native()` builds them once per machine, in seconds, and switches them on for the whole process;
without it, and wherever `fits` says no, torch's own operations do the same. They know no autograd:
loops that walk back by hand (`bb_wm.model.tape`) and inference call them.

Rows are [N, .] with any distance from row to row. A `product` is float32, or bfloat16 where the
product was narrowed (`bb_wm.model.products`); everything else is float32.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LANES: Final = 16  # sizes must be multiples of it
MOST_CLASSES: Final = 256
_SUMMED: Final = 32  # rows of which a GRU's gradients are one sum
_FEW_ROWS: Final = 16  # calls cost more than they save below
_SOURCE: Final = Path(__file__).with_suffix(".cpp")
# What both sides count by, said once. Not -ffast-math: not a number must come out as not a number.
_FLAGS: Final = (
    *("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast"),
    *("-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-w"),
    *(f"-DLANES={LANES}", f"-DMOST_CLASSES={MOST_CLASSES}", f"-DROWS_PER_SUM={_SUMMED}"),
)
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_SHARE, _FLAG = ctypes.c_float, ctypes.c_int
_KINDS: Final = {"p": _POINTER, "i": _COUNT, "f": _SHARE, "n": _FLAG}
# The arguments in native.cpp: pointers, counts and strides, shares, flags; last the threads.
_SIGNATURES: Final = {
    "bb_add": "pnpipiiin",
    "bb_silu": "pinpippiniin",
    "bb_silu_slope": "pnppiin",
    "bb_gru": "pnpppipiiin",
    "bb_gru_slope": "pnpppippppiin",
    "bb_gru_entry": "pnppppiiin",
    "bb_heads": "pnppppiiin",
    "bb_draw": "pipfpipiiin",
    "bb_draw_slope": "pipipnpifpiiiin",
    "bb_mixed_kl": "ppfppfpfpiin",
}

_library: ctypes.CDLL | None = None


def use_native(on: bool = True) -> None:
    """Let C++ do what stands between products, in this process; `on=False` goes back to torch.

    The first time on a machine a C++ compiler builds it (CXX, or c++, g++, clang++; of GCC 12 or
    later), which takes seconds; the result is kept in the user's cache folder. The same numbers
    come out to float32's rounding, the same bits with any number of threads. Nothing of it is saved
    with a model. Raises ConfigError where there is no compiler, or it fails.
    """
    global _library
    _library = _open(_built()) if on else None


def fits(like: Tensor, *sizes: int) -> bool:
    """Whether tensors like this one, of rows of these sizes, are for the functions below."""
    return (
        _library is not None
        and like.dtype == torch.float32
        and like.device.type == "cpu"
        and not any(size % LANES for size in sizes)
        and not torch.is_autocast_enabled("cpu")  # products may then be of any kind
        and not torch.compiler.is_compiling()
    )


def classes_fit(like: Tensor, classes: int) -> bool:
    """`fits`, for groups of that many classes."""
    return classes <= MOST_CLASSES and fits(like, classes)


def ready(x: Tensor, *sizes: int) -> bool:
    """`fits`, of enough rows x [*, .] to pay, where no gradients are recorded."""
    return fits(x, *sizes) and not torch.is_grad_enabled() and x.numel() >= _FEW_ROWS * x.shape[-1]


# --- rows ---------------------------------------------------------------------------------------


def add(product: Tensor, added: Tensor, out: Tensor | None = None) -> Tensor:
    """product + added, rows or a vector, [N, S]."""
    found = _room(product, product.shape[1]) if out is None else out
    _call(
        *("bb_add", product, _narrow(product), added, _stride(added)),
        *(found, _stride(found), *product.shape),
    )
    return found


def silu(product: Tensor, added: Tensor, out: Tensor) -> None:
    """SiLU(product + added) into `out` [N, S], float32 or bfloat16."""
    _silu(product, added, out, None)


def silu_kept(product: Tensor, added: Tensor, out: Tensor) -> Tensor:
    """`silu`, and the sum itself [N, S] for the way back."""
    before = _room(product, product.shape[1])
    _silu(product, added, out, before)
    return before


def _silu(product: Tensor, added: Tensor, out: Tensor, before: Tensor | None) -> None:
    _call(
        *("bb_silu", product, _stride(product), _narrow(product), added, _stride(added)),
        *(before, out, _stride(out), _narrow(out), *product.shape),
    )


def silu_slope(slope: Tensor, before: Tensor) -> Tensor:
    """The gradient of what SiLU was taken of, `before`, like the `slope` [N, S] of its result."""
    found = torch.empty_like(slope)
    _call("bb_silu_slope", slope, _narrow(slope), before, found, *slope.shape)
    return found


def heads(product: Tensor, bias: Tensor, last: Tensor, last_bias: Tensor) -> Tensor:
    """Outputs [N, n] of n heads of one hidden layer of S: `product` [N, n S + n] holds their hidden
    layers side by side, then their linear paths, without `bias`; `last` [n, S] reads them."""
    found = _room(product, len(last))
    _call(
        *("bb_heads", product, _narrow(product), bias, last, last_bias, found),
        *(len(product), *last.shape),
    )
    return found


# --- a GRU between its products -----------------------------------------------------------------


def gru(
    gates: Tensor, weight: Tensor, bias: Tensor, h: Tensor, out: Tensor | None = None
) -> Tensor:
    """The next h [N, D] from the product `gates` [N, 3 D] (`bb_wm.model.cores.GRUModule`)."""
    h = _rows(h)
    found = _room(h, h.shape[1]) if out is None else out
    _call(
        *("bb_gru", gates, _narrow(gates), weight, bias, h, _stride(h)),
        *(found, _stride(found), *h.shape),
    )
    return found


def gru_slope(
    gates: Tensor, weight: Tensor, bias: Tensor, h: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From the `slope` [N, D] of the next h: the gradient of `gates`, the part of h's that goes
    past them, and the norm's weight's and bias's [blocks, 2, 3 D], to be summed."""
    h = _rows(h)
    rows, size = h.shape
    by_gates, rest = torch.empty_like(gates), _room(h, size)
    sums = h.new_zeros(-(-rows // _SUMMED), 2, 3 * size)
    _call(
        *("bb_gru_slope", gates, _narrow(gates), weight, bias, h, _stride(h)),
        *(slope.contiguous(), by_gates, rest, sums, rows, size),
    )
    return by_gates, rest, sums


def gru_entry_slope(product: Tensor, before: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient [N, U + D] of [SiLU(before), h]: `before`'s, and h's with its `rest`."""
    by_before, by_h = torch.empty_like(before), torch.empty_like(rest)
    sizes = len(before), before.shape[1], rest.shape[1]
    _call("bb_gru_entry", product, _narrow(product), before, rest, by_before, by_h, *sizes)
    return by_before, by_h


# --- one-hots of classes ------------------------------------------------------------------------


def draw(
    logits: Tensor,
    level: Tensor | None,
    uniform: float,
    groups: int,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One-hots [N, groups * C] of logits, and the rows [N, groups] of a table that they stand for
    (`bb_wm.model.lookup`): of the largest class, or of the one in whose share of the softmax, with
    `uniform` mixed in, the level [N, groups] lies."""
    logits = _rows(logits)
    rows, size = logits.shape
    hot = _room(logits, size) if out is None else out
    index = torch.empty(rows, groups, dtype=torch.int64)
    level = None if level is None else level.contiguous()
    _call(
        *("bb_draw", logits, _stride(logits), level, uniform),
        *(hot, _stride(hot), index, rows, groups, size // groups),
    )
    return hot, index


def draw_slope(
    logits: Tensor,
    slope: Tensor,
    later: Tensor,
    added: Tensor,
    share: float,
    groups: int,
    out: Tensor | None = None,
) -> Tensor:
    """The gradient of logits [N, S]: that `share` of the softmax's own from z's, slope + later
    (a product), straight through; and what is `added`."""
    rows, size = logits.shape
    found = _room(logits, size) if out is None else out
    _call(
        *("bb_draw_slope", logits, _stride(logits), slope, _stride(slope), later.contiguous()),
        *(_narrow(later), added, _stride(added), share, found, _stride(found)),
        *(rows, groups, size // groups),
    )
    return found


def mixed_kl(q: Tensor, p: Tensor, uniform: float) -> Tensor:
    """D_KL [*] of contiguous logits q and p [*, C] (`bb_wm.model.choices.mixed_kl`)."""
    found = q.new_empty(q.shape[:-1])
    parts = found, None, 0.0, None, 0.0, None
    _call("bb_mixed_kl", q, p, uniform, *parts, found.numel(), q.shape[-1])
    return found


def mixed_kl_slope(
    q: Tensor,
    p: Tensor,
    uniform: float,
    slope: Tensor,
    shares: Sequence[float],
    needed: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Those `shares` of q's and p's gradients, where they are needed, from the divergence's [*]."""
    by_q, by_p = (torch.empty_like(q) if one else None for one in needed)
    slope = slope.contiguous()
    parts = None, slope, shares[0], by_q, shares[1], by_p
    _call("bb_mixed_kl", q, p, uniform, *parts, slope.numel(), q.shape[-1])
    return by_q, by_p


# --- calling and building -----------------------------------------------------------------------


def _call(name: str, *given: object) -> None:
    passed = [one.data_ptr() if isinstance(one, torch.Tensor) else one for one in given]
    getattr(_library, name)(*passed, torch.get_num_threads())


def _room(like: Tensor, size: int) -> Tensor:
    return like.new_empty(len(like), size, dtype=torch.float32)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _narrow(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


def _stride(x: Tensor) -> int:
    """From row to row; a vector stands for every row."""
    return 0 if x.ndim == 1 else x.stride(0)


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, kinds in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [_KINDS[kind] for kind in kinds], None
    return library


def _built() -> Path:
    """The library's file, built where this machine has none of this source yet."""
    compiler = _compiler()
    name = f"native-{_fingerprint(compiler)}.so"
    folder = _cache()
    if not (folder / name).is_file():
        with tempfile.TemporaryDirectory(dir=folder) as room:
            fresh = Path(room) / name
            # Apple's clang has no OpenMP: one thread then does what all could.
            if _compile(compiler, fresh, "-fopenmp") and (error := _compile(compiler, fresh)):
                raise ConfigError(
                    "native",
                    expected=f"{compiler} to build {_SOURCE.name}",
                    actual=error[-400:],
                    hint="name another compiler in CXX: clang, or GCC 12 or later.",
                )
            os.replace(fresh, folder / name)  # whole, or not at all
    return folder / name


def _compile(compiler: str, target: Path, *flags: str) -> str:
    """What the compiler complained of; nothing where it built the target."""
    command = [compiler, *_FLAGS, *flags, str(_SOURCE), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit status {done.returncode}"


def _compiler() -> str:
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        if shutil.which(name):
            return name
    raise ConfigError(
        "native",
        expected="a C++ compiler",
        actual=f"no {named}" if named else "no c++, g++ or clang++",
        hint="install one (on Debian: apt-get install g++) or name it in CXX.",
    )


def _fingerprint(compiler: str) -> str:
    """Of all that the result depends on: homes are shared by machines, and compilers updated."""
    told = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    cpus = Path("/proc/cpuinfo")
    kind = cpus.read_text().partition("\nprocessor")[0] if cpus.is_file() else platform.processor()
    lines = [line for line in kind.splitlines() if line.startswith(("flags", "Features", "model"))]
    parts = [told, *map(str.encode, (platform.machine(), *lines, *_FLAGS)), _SOURCE.read_bytes()]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]


def _cache() -> Path:
    """The user's own cache folder, or a temporary one where that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "bb_wm"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="bb_wm-"))
