"""What is counted in compiled programs, against XLA's own count and against programs by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from melodi_plugin.bench.compiled import Collective, buffers, collectives, costs, products
from melodi_plugin.bench.hlo import Array, executed

N = 8


def compiled(function, *shapes):
  return jax.jit(function).lower(*(jnp.ones(shape) for shape in shapes)).compile()


def test_products_in_loops_are_counted_by_their_turns():
  def turns(x, w):
    inner = lambda x, _: (x @ w, None)  # noqa: E731
    outer = lambda x, _: (lax.scan(inner, jnp.sin(x), None, length=5)[0], None)  # noqa: E731
    return lax.scan(outer, x @ w, None, length=3)[0]

  found = costs(compiled(turns, (4, N), (N, N)), 0.0)
  assert found.products == (1 + 3 * 5) * 2 * 4 * N * N
  assert found.arguments == 4 * (4 * N + N * N)
  assert found.collectives == []


@pytest.mark.parametrize(
  "options",
  [
    dict(window_strides=(1, 1), padding=((0, 0), (0, 0))),
    dict(window_strides=(2, 1), padding=((2, 1), (0, 3))),
    dict(window_strides=(1, 2), padding=((1, 1), (2, 0)), lhs_dilation=(2, 3)),
    dict(window_strides=(1, 1), padding=((3, 2), (1, 0)), rhs_dilation=(2, 1)),
  ],
)
def test_convolutions_are_counted_as_xla_counts_them(options):
  def convolve(x, w):
    return lax.conv_general_dilated(x, w, **options)

  program = compiled(convolve, (2, 3, 9, 7), (5, 3, 3, 2))
  found = [products(own) for own in executed(program.as_text())]
  assert sum(found) == program.cost_analysis()["flops"] > 0


# As TPUs' compiler writes it: a loop of four turns that it has unrolled once (its count goes up by
# two), a collective spread over two fusions, and a kernel that is spelled out over lines.
PROGRAM = """HloModule jit_step, is_scheduled=true

%half (p: bf16[4,8]) -> bf16[8,8] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %ag.1 = bf16[8,8]{1,0} all-gather(%p), channel_id=3, dimensions={0}, \
frontend_attributes={chain_id="9"}
}

%other_half (q: bf16[4,8]) -> bf16[8,8] {
  %q = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %ag.2 = bf16[8,8]{1,0} all-gather(%q), channel_id=3, dimensions={0}, \
frontend_attributes={chain_id="9"}
}

%condition (c: (u32[], f32[16])) -> pred[] {
  %c = (u32[]{:T(128)}, f32[16]{0}) parameter(0)
  %limit = u32[]{:T(128)} constant(8)
  %count = u32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %limit), direction=LT
}

%body (b: (u32[], f32[16])) -> (u32[], f32[16]) {
  %b = (u32[]{:T(128)}, f32[16]{0}) parameter(0)
  %at = u32[]{:T(128)} get-tuple-element(%b), index=0
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%at, %two)
  %own = f32[16]{0} get-tuple-element(%b), index=1
  %send = (f32[16]{0}, f32[16]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%own), \
channel_id=1
  %sent = f32[16]{0} collective-permute-done(%send)
  ROOT %turn = (u32[]{:T(128)}, f32[16]{0}) tuple(%next, %sent)
}

ENTRY %main (x: f32[16], w: bf16[4,8]) -> (f32[8]) {
  %x = f32[16]{0} parameter(0)
  %w = bf16[4,8]{1,0} parameter(1)
  %kernel = f32[16]{0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"a":"
module {
}
"}
  %first = bf16[8,8]{1,0} fusion(%w), kind=kOutput, calls=%half
  %last = bf16[8,8]{1,0} fusion(%w), kind=kOutput, calls=%other_half
  %zero = u32[]{:T(128)} constant(0)
  %start = (u32[]{:T(128)}, f32[16]{0}) tuple(%zero, %kernel)
  %loop = (u32[]{:T(128)}, f32[16]{0}) while(%start), condition=%condition, body=%body
  %y = f32[16]{0} get-tuple-element(%loop), index=1
  %sum = f32[8]{0} reduce-scatter(%y), channel_id=2, dimensions={0}, to_apply=%add, \
metadata={op_name="jit(step)/sum"}
  ROOT %result = (f32[8]{0}) tuple(%sum)
}
"""


def test_collectives_are_counted_once_and_by_the_turns_of_loops():
  assert collectives(list(executed(PROGRAM))) == [
    Collective("all-gather", (), 1, 8 * 8 * 2),
    Collective("reduce-scatter", (), 1, 16 * 4),
    Collective("collective-permute", (4,), 4, 4 * 16 * 4),
  ]


def test_the_largest_arrays_that_are_written_are_named():
  found = buffers(list(executed(PROGRAM)))
  assert [(own.shape, own.bytes, own.count) for own in found] == [
    ("bf16[8,8]", 128, 2),
    ("f32[16]", 64, 2),  # the kernel's, and what is sent
    ("f32[8]", 32, 1),
  ]
  assert found[-1].source == "jit(step)/sum"


@pytest.mark.parametrize(
  "dtype, bytes", [("pred", 6), ("s4", 3), ("bf16", 12), ("f8e4m3fn", 6), ("f64", 48), ("c64", 48)]
)
def test_bytes_of_arrays(dtype, bytes):
  assert Array(dtype, (2, 3)).bytes == bytes
