"""Values together with their derivatives by x and y, which any formula then computes along: exact, no differences.

Forward-mode differentiation by truncated Taylor series: Griewank & Walther 2008, Evaluating derivatives, chapter 13.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: whole powers up to this are products, which is quicker than what the C library does
LARGEST_PRODUCT = 8


class Jet:
    """Values of N places: `value` (N,), `slope` (2, N) by x and y, `bend` (3, N) by xx, xy, yy or None: not wanted.

    It adds, multiplies and so on as an array does, and has the functions that formulas have as methods.
    """

    __slots__ = ("bend", "slope", "value")
    __array_ufunc__ = None  # a number of numpy on the left leaves the work to the methods below

    def __init__(self, value: Array, slope: Array, bend: Array | None = None) -> None:
        self.value, self.slope, self.bend = value, slope, bend

    @classmethod
    def variables(cls, points: Array, *, bends: bool = False) -> tuple[Self, Self]:
        """Return x and y at `points` (N, 2), each with its derivatives by both; with the second ones if `bends`."""
        count = len(points)
        none = np.zeros((3, count)) if bends else None
        across, up = np.zeros((2, count)), np.zeros((2, count))
        across[0], up[1] = 1.0, 1.0
        return cls(points[:, 0], across, none), cls(points[:, 1], up, none)

    def through(self, value: Array, first: Any, second: Any) -> "Jet":
        """Return a function of this: its values, and its first and second derivative by this."""
        if self.bend is None:
            return Jet(value, first * self.slope)
        return Jet(value, first * self.slope, first * self.bend + second * _products(self.slope, self.slope) / 2)

    def __add__(self, other: Any) -> "Jet":
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.slope, self.bend)
        bend = None if self.bend is None or other.bend is None else self.bend + other.bend
        return Jet(self.value + other.value, self.slope + other.slope, bend)

    __radd__ = __add__

    def __neg__(self) -> "Jet":
        return Jet(-self.value, -self.slope, None if self.bend is None else -self.bend)

    def __pos__(self) -> "Jet":
        return self

    def __sub__(self, other: Any) -> "Jet":
        if not isinstance(other, Jet):
            return Jet(self.value - other, self.slope, self.bend)
        bend = None if self.bend is None or other.bend is None else self.bend - other.bend
        return Jet(self.value - other.value, self.slope - other.slope, bend)

    def __rsub__(self, other: Any) -> "Jet":
        return -self + other

    def __mul__(self, other: Any) -> "Jet":
        if not isinstance(other, Jet):
            return Jet(self.value * other, self.slope * other, None if self.bend is None else self.bend * other)
        slope = self.value * other.slope + other.value * self.slope
        if self.bend is None or other.bend is None:
            return Jet(self.value * other.value, slope)
        bend = self.value * other.bend + other.value * self.bend + _products(self.slope, other.slope)
        return Jet(self.value * other.value, slope, bend)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Jet":
        if not isinstance(other, Jet):
            return Jet(self.value / other, self.slope / other, None if self.bend is None else self.bend / other)
        value = self.value / other.value
        slope = (self.slope - value * other.slope) / other.value
        if self.bend is None or other.bend is None:
            return Jet(value, slope)
        return Jet(value, slope, (self.bend - value * other.bend - _products(slope, other.slope)) / other.value)

    def __rtruediv__(self, other: Any) -> "Jet":
        value = other / self.value
        first = -value / self.value
        return self.through(value, first, -2 * first / self.value)

    def __pow__(self, power: Any) -> "Jet":
        if isinstance(power, Jet):
            return _power_of_two(self, power)
        first, second = power, power * (power - 1)
        return self.through(
            raised(self.value, power),
            first * raised(self.value, power - 1) if first else 0.0,
            second * raised(self.value, power - 2) if second else 0.0,
        )

    def __rpow__(self, base: Any) -> "Jet":
        value, factor = base**self.value, _logarithm(base, self.value)
        return self.through(value, factor * value, factor**2 * value)

    def sin(self) -> "Jet":
        value = np.sin(self.value)
        return self.through(value, np.cos(self.value), -value)

    def cos(self) -> "Jet":
        value = np.cos(self.value)
        return self.through(value, -np.sin(self.value), -value)

    def tan(self) -> "Jet":
        value = np.tan(self.value)
        first = 1 + value**2
        return self.through(value, first, 2 * value * first)

    def tanh(self) -> "Jet":
        value = np.tanh(self.value)
        first = 1 - value**2
        return self.through(value, first, -2 * value * first)

    def exp(self) -> "Jet":
        value = np.exp(self.value)
        return self.through(value, value, value)

    def log(self) -> "Jet":
        return self.through(np.log(self.value), 1 / self.value, -1 / self.value**2)

    def sqrt(self) -> "Jet":
        value = np.sqrt(self.value)
        return self.through(value, 0.5 / value, -0.25 / (value * self.value))

    def abs(self) -> "Jet":
        return self.through(np.abs(self.value), np.sign(self.value), 0.0)

    def sign(self) -> "Jet":
        return self.through(np.sign(self.value), 0.0, 0.0)

    def smaller(self, other: Any) -> "Jet":
        """Return the smaller of both at each place, with its derivatives; where they are equal, as torch takes them.

        That is half of each, and that of a number where one is a number.
        """
        if isinstance(other, Jet):
            return _chosen(self, other, np.sign(other.value - self.value))
        return _chosen(self, other, np.where(self.value < other, 1.0, -1.0))

    def larger(self, other: Any) -> "Jet":
        """Return the larger of both at each place, with its derivatives: see `smaller`."""
        if isinstance(other, Jet):
            return _chosen(self, other, np.sign(self.value - other.value))
        return _chosen(self, other, np.where(self.value > other, 1.0, -1.0))


def raised(base: Any, power: Any) -> Any:
    """Return a power of an array, a number or a tensor; small whole powers of arrays as products."""
    if not isinstance(base, np.ndarray) or not isinstance(power, float | int):
        return base**power
    if not float(power).is_integer() or not 0 <= power <= LARGEST_PRODUCT:
        return np.power(base, power)
    left, square, product = int(power), base, None
    while left:
        if left % 2:
            product = square if product is None else product * square
        left //= 2
        square = square * square if left else square
    return np.ones_like(base) if product is None else product


def _products(one: Array, other: Array) -> Array:
    """Return what two slopes (2, N) give to the second derivatives (3, N) of a product."""
    across, up = one[0] * other[0], one[1] * other[1]
    return np.stack((across + across, one[0] * other[1] + one[1] * other[0], up + up))


def _power_of_two(base: Jet, power: Jet) -> Jet:
    """Return a power whose exponent varies, too."""
    value, factor = np.power(base.value, power.value), _logarithm(base.value, power.value)
    by_base = power.value * np.power(base.value, power.value - 1)
    slope = by_base * base.slope + value * factor * power.slope
    if base.bend is None or power.bend is None:
        return Jet(value, slope)
    twice = power.value * (power.value - 1) * np.power(base.value, power.value - 2)
    mixed = np.power(base.value, power.value - 1) * (1 + power.value * factor)
    bend = (
        by_base * base.bend
        + value * factor * power.bend
        + twice * _products(base.slope, base.slope) / 2
        + mixed * _products(base.slope, power.slope)
        + value * factor**2 * _products(power.slope, power.slope) / 2
    )
    return Jet(value, slope, bend)


def _logarithm(base: Any, power: Array) -> Array:
    """Return the logarithm that a power's slope by its exponent has as a factor: 0 of base 0, as torch takes it."""
    return np.where((base == 0) & (power >= 0), 0.0, np.log(base))


def _chosen(one: Jet, other: Any, preferred: Array) -> Jet:
    """Return `one` where it is preferred (1), `other` where that is (−1), and their mean between (0)."""
    if not isinstance(other, Jet):
        none = np.zeros_like(one.slope)
        other = Jet(np.full_like(one.value, other), none, None if one.bend is None else np.zeros_like(one.bend))

    def mixed(left: Array, right: Array) -> Array:
        return np.where(preferred > 0, left, np.where(preferred < 0, right, (left + right) / 2))

    bend = None if one.bend is None or other.bend is None else mixed(one.bend, other.bend)
    return Jet(mixed(one.value, other.value), mixed(one.slope, other.slope), bend)
