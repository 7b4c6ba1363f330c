"""Reading callgrind's dumps: whose instructions they are, each counted once."""

from __future__ import annotations

import pytest
from benchmarks.instructions import group_of, parse, spread

from bb_wm.errors import ConfigError

# The interpreter (10 + 5 of its own) calls matmul (7), which calls a kernel of MKL (100 + 50).
DUMP = """# callgrind format
version: 1
desc: Trigger: Client Request: update

positions: line
events: Ir
summary: 172

ob=(1) /usr/lib/libpython3.11.so.1.0
fl=(1) ???
fn=(1) _PyEval_EvalFrameDefault
0 10
+2 5
cob=(2) /torch/lib/libtorch_cpu.so
cfn=(2) at::_ops::matmul::call
calls=1 0
* 157

ob=(2)
fn=(2)
0 7
cfn=(3) mkl_blas_avx2_sgemm_kernel_0
calls=1 0
* 150

fn=(3)
0 100
-1 50

totals: 172
"""


def test_every_instruction_is_counted_once_and_for_its_own_group():
    task, found = parse(DUMP.splitlines())
    assert task == "update"
    assert found == {"python": 15, "dispatch": 7, "kernels": 150}


def test_a_torn_dump_is_refused():
    with pytest.raises(ConfigError, match="172"):
        parse(DUMP.replace("-1 50\n", "").splitlines())
    with pytest.raises(ConfigError):
        parse(DUMP.splitlines()[:-1])


@pytest.mark.parametrize(
    ("library", "function", "group"),
    [
        ("/x/torch/lib/libtorch_python.so", "THPVariable_add", "binding"),
        ("/x/torch/lib/libtorch_cpu.so", "at::native::AVX2::loop", "kernels"),
        ("/x/torch/lib/libtorch_cpu.so", "c10::impl::wrap_kernel_functor_unboxed_", "dispatch"),
        ("/x/torch/lib/libc10.so", "c10::TensorImpl::sizes", "dispatch"),
        ("/x/numpy/_core/_multiarray_umath.so", "PyArray_New", "python"),
        ("/usr/lib/libc.so.6", "malloc", "system"),
        ("???", "0x00000000049367a8", "kernels"),
    ],
)
def test_groups(library, function, group):
    assert group_of(library, function) == group


def test_runs_that_agree_lie_nothing_apart():
    assert spread([100, 100]) == 0
    assert spread([100, 101]) == pytest.approx(0.01)
