"""Sixteen numbers at once: what numba cannot be made to vectorise, as LLVM vectors, which every processor has or splits.

A block holds 16 vectors' whole numbers, 16 coordinates of each: int32 (16,), by which half the squared norm grows with these
coordinates, then int16 (8, 16, 2), the coordinates in pairs. A pair is multiplied and summed by one instruction (vpdpwssd,
vpmaddwd) where there is one.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
WORDS = LANES + LANES * LANES // 2  # of 32 bits in a block

_BYTE, _SHORT, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


def _vector(kind, count=LANES):
    return ir.VectorType(kind, count)


def _splat(builder, value, count=LANES):
    nothing = ir.Constant(_vector(value.type, count), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_vector(_INT, count), [0] * count))


class _Arrays:
    """Loads and stores at items of the arguments that are arrays."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self._builder, self._start = builder, {}
        for number, (kind, value) in enumerate(zip(signature.args, arguments, strict=True)):
            if isinstance(kind, types.Array):
                self._start[number] = context.make_array(kind)(context, builder, value).data

    def pointer(self, number, item, kind, offset=0):
        """Where `kind` lies, `offset` bytes beyond an item."""
        start = self._builder.bitcast(self._builder.gep(self._start[number], [item]), _BYTE.as_pointer())
        return self._builder.bitcast(self._builder.gep(start, [ir.Constant(_LONG, offset)]), kind.as_pointer())

    def load(self, number, item, kind, offset=0):
        return self._builder.load(self.pointer(number, item, kind, offset), align=2)


def _mask(builder, flags):
    return builder.zext(builder.bitcast(flags, _SHORT), _LONG)


@intrinsic
def below(typing, blocks, at, ints, item, sums, begins, limit):
    """Add a block's part, at blocks[at], to the 16 sums (from 0 where it `begins`); bits of the lanes with sums <= limit.

    The part is half the squared norm plus the products with ints[item:item+16], which are the negated query.
    """

    def generate(context, builder, signature, arguments):
        arrays = _Arrays(context, builder, signature, arguments)
        _, at, _, item, _, begins, limit = arguments
        zero = ir.Constant(_LONG, 0)
        so_far = arrays.load(4, zero, _vector(_INT))
        total = builder.select(begins, ir.Constant(_vector(_INT), [0] * LANES), so_far)
        total = builder.add(total, arrays.load(0, at, _vector(_INT)))
        wide, nothing = _vector(_INT, 2 * LANES), ir.Constant(_vector(_INT, 2 * LANES), ir.Undefined)
        even, odd = (ir.Constant(_vector(_INT), list(range(first, 2 * LANES, 2))) for first in (0, 1))
        for k in range(LANES // 2):
            pair = _splat(builder, arrays.load(2, item, _INT, 4 * k))
            query = builder.sext(builder.bitcast(pair, _vector(_SHORT, 2 * LANES)), wide)
            stored = builder.sext(arrays.load(0, at, _vector(_SHORT, 2 * LANES), 4 * LANES * (k + 1)), wide)
            products = builder.mul(query, stored)
            halves = (builder.shuffle_vector(products, nothing, which) for which in (even, odd))
            total = builder.add(total, builder.add(*halves))
        builder.store(total, arrays.pointer(4, zero, _vector(_INT)), align=4)
        return _mask(builder, builder.icmp_signed("<=", total, _splat(builder, limit)))

    return types.int64(blocks, types.int64, ints, types.int64, sums, types.boolean, types.int32), generate


@intrinsic
def to_box(typing, low, high, node, points, reach, bounds, at):
    """Squared distances of 16 points (COORDS, 16) to a node's box, into bounds[at:at+16]; bits of those within reach."""

    def generate(context, builder, signature, arguments):
        arrays = _Arrays(context, builder, signature, arguments)
        _, _, node, _, _, _, at = arguments
        zero, total = ir.Constant(_LONG, 0), ir.Constant(_vector(_FLOAT), [0.0] * LANES)
        corner, none = builder.mul(node, ir.Constant(_LONG, LANES)), total

        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        for k in range(LANES):
            point = arrays.load(3, zero, _vector(_FLOAT), 4 * LANES * k)
            least, most = (_splat(builder, arrays.load(side, corner, _FLOAT, 4 * k)) for side in (0, 1))
            gap = larger(larger(builder.fsub(least, point), builder.fsub(point, most)), none)
            total = builder.fadd(total, builder.fmul(gap, gap, flags=("contract",)), flags=("contract",))
        builder.store(total, arrays.pointer(5, at, _vector(_FLOAT)), align=4)
        return _mask(builder, builder.fcmp_ordered("<=", total, arrays.load(4, zero, _vector(_FLOAT))))

    return types.int64(low, high, types.int64, points, reach, bounds, types.int64), generate


@intrinsic
def within(typing, bounds, at, reach):
    """Bits of the 16 lanes with bounds[at + lane] <= reach[lane]."""

    def generate(context, builder, signature, arguments):
        arrays = _Arrays(context, builder, signature, arguments)
        found = arrays.load(0, arguments[1], _vector(_FLOAT)), arrays.load(2, ir.Constant(_LONG, 0), _vector(_FLOAT))
        return _mask(builder, builder.fcmp_ordered("<=", *found))

    return types.int64(bounds, types.int64, reach), generate


@intrinsic
def lowest(typing, mask):
    """The number of the lowest bit that is set."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.int64(types.int64), generate
