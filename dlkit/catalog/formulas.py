"""Formulas: text read into functions of named values, and into LaTeX. Nothing is ever evaluated as Python.

The text is parsed by `ast`, each node is looked up in a white list, and what is not there is refused with its column.
The functions work on numpy's numbers and arrays, on jets, which carry derivatives, and on tensors, by the methods that
these have: this module needs no torch. A place where a formula is not defined gives nan or infinity, no exception.
Surfaces and update rules are written in the same language as the formula of a visitor, so that what is shown is what is
computed.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlkit.catalog.jets import Jet, raised
from dlkit.errors import FormulaError

LONGEST = 400  # characters
MOST_NODES = 250
DEEPEST = 40

Value = Any  # a float (of numpy, whose division by zero is no exception), an array, a jet or a tensor
Values = Mapping[str, Value]
Function = Callable[[Values], Value]

CONSTANTS = {"pi": math.pi, "e": math.e}
UNARY: dict[type[ast.unaryop], Callable[..., Value]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
BINARY: dict[type[ast.operator], Callable[..., Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: raised,
}
#: functions of one value: numpy's and the tensors' own of the same name
OF_ONE = ("sin", "cos", "tan", "exp", "log", "sqrt", "abs", "tanh", "sign")
OF_TWO = ("min", "max")
#: a letter right after a number, whose exponent it does not begin: 2x, and 1if, of which Python's parser warns
_STUCK = re.compile(r"(?<![A-Za-z0-9_])(?:\d[\d_.]*+|\.\d[\d_]*+)(?:[eE][+-]?\d++)?+([A-Za-z_])")
_NAME = re.compile(r"(?<![\w.])[A-Za-z]\w*", re.ASCII)
_FOREIGN = re.compile(r"[^A-Za-z0-9_.,+\-*/^() ]")
#: how tightly what is written in LaTeX holds together
_SUM, _PRODUCT, _POWER, _ATOM = 1, 2, 3, 4


@dataclass(frozen=True)
class Formula:
    """One formula that was read; call it with the values of its names. Of numpy's floats it makes no exception."""

    text: str
    tree: ast.expr = field(repr=False, compare=False)
    function: Function = field(repr=False, compare=False)

    def __call__(self, values: Values) -> Value:
        """Return the formula's value: a float of numpy, or what the values are. numpy's warnings are the caller's."""
        return self.function(values)

    def names(self) -> set[str]:
        """Return the names whose values it needs."""
        used = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        return used - FUNCTIONS.keys() - CONSTANTS.keys()

    def latex(self, symbols: Mapping[str, str] | None = None, *, are_numbers: bool = False) -> str:
        """Write the formula as LaTeX; `symbols` says what to write for a name: a Greek letter, or its number now."""
        return _Writer(LATEX, symbols or {}, are_numbers).write(self.tree)

    def mathml(self, symbols: Mapping[str, str] | None = None, *, are_numbers: bool = False) -> str:
        """Write the formula as MathML, to stand in a `<math>`; `symbols` as for `latex`."""
        return _Writer(MATHML, symbols or {}, are_numbers).write(self.tree)


def read_formula(text: str, names: Iterable[str] = ("x", "y")) -> Formula:
    """Read a formula of `names`; raise FormulaError, with the column where there is one.

    Allowed are numbers, the names, pi, e, + - * / ** (or ^), parentheses and the functions OF_ONE and OF_TWO.
    """
    if len(text) > LONGEST:
        raise FormulaError(f"A formula may have {LONGEST} characters; this one has {len(text):,}. Shorten it.")
    if not text.strip():
        raise FormulaError("The formula is empty. Write one of x and y, as in x^2 + 3*y^2.")
    plain = re.sub(r"\s", " ", text)
    found = _FOREIGN.search(plain)
    if found:
        hint = "Write abs(x) for |x|." if found.group() == "|" else "Use numbers, + - * / ^, parentheses and functions."
        raise FormulaError(f"{found.group()!r} is no part of a formula. {hint}", found.start() + 1)
    stuck = _STUCK.search(plain)
    if stuck:
        raise FormulaError("A number and a name stand together. Write products with *, as in 2*x.", stuck.start(1) + 1)
    reader = _Reader(plain, frozenset(names))
    tree = reader.parse()
    return Formula(text, tree, _as_function(reader.read(tree)))


def names_in(text: str) -> list[str]:
    """Return what in a text may be names of values, in their order, so that a formula may be read of them."""
    return list(dict.fromkeys(name for name in _NAME.findall(text) if name not in FUNCTIONS and name not in CONSTANTS))


class _Reader:
    """What reads one text, and knows the column of each of its characters in what was typed."""

    def __init__(self, typed: str, names: frozenset[str]) -> None:
        start = len(typed) - len(typed.lstrip())
        self.text = typed.strip().replace("^", "**")
        self.columns = [start + at for at, mark in enumerate(typed.strip(), 1) for _ in range(1 + (mark == "^"))]
        self.names = names
        self.nodes = 0

    def parse(self) -> ast.expr:
        try:
            return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            at = min(error.offset or len(self.text), len(self.text)) - 1
            problem = "The formula cannot be read here. Something is missing, or a parenthesis is not closed."
            raise FormulaError(problem, self.columns[at]) from None
        except (ValueError, RecursionError, MemoryError):
            raise FormulaError(f"The formula may be nested {DEEPEST} deep at most. Simplify it.") from None

    def read(self, node: ast.expr, depth: int = 0) -> Function | np.float64:
        """Return what computes `node`: a function, or a number where no name is in it."""
        self.nodes += 1
        if depth > DEEPEST:
            raise self._refused(node, f"The formula may be nested {DEEPEST} deep at most.")
        if self.nodes > MOST_NODES:
            raise self._refused(node, f"The formula may have {MOST_NODES} parts at most.")
        match node:
            case ast.Constant():
                return self._number(node)
            case ast.Name(id=name) if name in self.names:
                return operator.itemgetter(name)
            case ast.Name(id=name) if name in CONSTANTS:
                return np.float64(CONSTANTS[name])
            case ast.UnaryOp(op=sign) if type(sign) in UNARY:
                return _joined(UNARY[type(sign)], self.read(node.operand, depth + 1))
            case ast.BinOp(op=sign) if type(sign) in BINARY:
                left = self.read(node.left, depth)  # a long sum leans to the left, but is not nested
                return _joined(BINARY[type(sign)], left, self.read(node.right, depth + 1))
            case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS and not node.keywords:
                wanted = 1 if name in OF_ONE else 2
                if len(node.args) != wanted:
                    raise self._refused(node, f"{name} takes {wanted} value{'s' * (wanted > 1)}; got {len(node.args)}.")
                return _joined(FUNCTIONS[name], *(self.read(part, depth + 1) for part in node.args))
        raise self._refused(node, self._why_not(node))

    def _number(self, node: ast.Constant) -> np.float64:
        if type(node.value) not in (int, float):
            raise self._refused(node, f"{str(node.value)[:20]} is not a real number. Use some as 2 or 0.5.")
        try:
            value = float(node.value)  # type: ignore[arg-type]  # it is a number
        except OverflowError:
            value = math.inf
        if math.isinf(value):
            raise self._refused(node, "This number is too large: the largest is about 1.8e308.")
        return np.float64(value)

    def _why_not(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name) and node.id in FUNCTIONS:
            return f"{node.id} needs a value, as in {node.id}(x)."
        if isinstance(node, ast.Name):
            known = ", ".join(sorted(self.names))
            return f"{node.id[:20]!r} is not known here. Use {known}, pi, e or a number."
        if isinstance(node, ast.Call):
            return f"There is no such function. Use {', '.join(FUNCTIONS)}; write products with *, as in 2*(x + 1)."
        return "This is not allowed in a formula. Use numbers, + - * / ^, parentheses and functions."

    def _refused(self, node: ast.expr, problem: str) -> FormulaError:
        return FormulaError(problem, self.columns[node.col_offset])


def _joined(compute: Callable[..., Value], *parts: Function | np.float64) -> Function | np.float64:
    """Return `compute` of the parts: at once where all of them are numbers."""
    numbers = [part for part in parts if isinstance(part, np.float64)]
    if len(numbers) == len(parts):
        with np.errstate(all="ignore"):
            return np.float64(compute(*numbers))
    functions = [_as_function(part) for part in parts]
    if len(functions) == 1:
        (only,) = functions
        return lambda values: compute(only(values))
    left, right = functions
    return lambda values: compute(left(values), right(values))


def _as_function(part: Function | np.float64) -> Function:
    return (lambda values: part) if isinstance(part, np.float64) else part


def _of_one(name: str) -> Callable[[Value], Value]:
    of_numpy = getattr(np, name)
    return lambda value: of_numpy(value) if isinstance(value, float | np.ndarray) else getattr(value, name)()


def _smaller(left: Value, right: Value) -> Value:
    return _compared(left, right, np.minimum, "smaller", "max")


def _larger(left: Value, right: Value) -> Value:
    return _compared(left, right, np.maximum, "larger", "min")


def _compared(left: Value, right: Value, of_numpy: Callable[..., Value], of_jet: str, bound: str) -> Value:
    if isinstance(left, float | np.ndarray) and isinstance(right, float | np.ndarray):
        return of_numpy(left, right)
    if isinstance(left, float):
        left, right = right, left
    return getattr(left, of_jet)(right) if isinstance(left, Jet) else left.clamp(**{bound: right})


FUNCTIONS: dict[str, Callable[..., Value]] = {
    **{name: _of_one(name) for name in OF_ONE},
    "min": _smaller,
    "max": _larger,
}


@dataclass(frozen=True)
class Notation:
    """How the parts of a formula are written; each function takes what is written already."""

    number: Callable[[float], str]
    name: Callable[[str], str]
    negative: Callable[[str], str]
    fraction: Callable[[str, str], str]
    power: Callable[[str, str], str]
    product: Callable[[str, str, bool], str]  # a dot is needed: a number follows
    sum: Callable[[str, str, str], str]
    call: Callable[[str, list[str]], str]
    parentheses: Callable[[str], str]


def latex_number(value: float) -> str:
    """Write a number with six digits as LaTeX: 0.25, 1.5 \\cdot 10^{-8}."""
    digits, power = _digits(value)
    if not power:
        return digits
    times = "" if digits == "1" else rf"{digits} \cdot "
    return rf"{times}10^{{{power}}}"


def latex_held(value: float) -> str:
    """Write a number as LaTeX to stand behind a sign: in parentheses where it has one of its own."""
    return rf"\left({latex_number(value)}\right)" if value < 0 else latex_number(value)


def _digits(value: float) -> tuple[str, int]:
    digits, _, power = f"{value:.6g}".partition("e")
    return digits, int(power or 0)


def _latex_call(name: str, parts: list[str]) -> str:
    if name == "sqrt":
        return rf"\sqrt{{{parts[0]}}}"
    if name == "abs":
        return rf"\left|{parts[0]}\right|"
    command = r"\operatorname{sign}" if name == "sign" else rf"\{name}"
    return rf"{command}\left({', '.join(parts)}\right)"


LATEX = Notation(
    number=latex_number,
    name=lambda name: r"\pi" if name == "pi" else name,
    negative=lambda part: f"-{part}",
    fraction=lambda above, below: rf"\frac{{{above}}}{{{below}}}",
    power=lambda base, exponent: f"{base}^{{{exponent}}}",
    product=lambda left, right, dot: left + (r" \cdot " if dot else r" \, ") + right,
    sum=lambda left, sign, right: f"{left} {sign} {right}",
    call=_latex_call,
    parentheses=lambda part: rf"\left({part}\right)",
)


def _row(*parts: str) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"


def _mathml_number(value: float) -> str:
    digits, power = _digits(value)
    if not power:
        return f"<mn>{digits}</mn>"
    raised_ten = f"<msup><mn>10</mn><mn>{power}</mn></msup>"
    return raised_ten if digits == "1" else _row(f"<mn>{digits}</mn><mo>·</mo>", raised_ten)


def _mathml_call(name: str, parts: list[str]) -> str:
    if name == "sqrt":
        return f"<msqrt>{parts[0]}</msqrt>"
    if name == "abs":
        return _row("<mo>|</mo>", parts[0], "<mo>|</mo>")
    return _row(f"<mi>{name}</mi><mo>(</mo>", "<mo>,</mo>".join(parts), "<mo>)</mo>")


MATHML = Notation(
    number=_mathml_number,
    name=lambda name: f"<mi>{'π' if name == 'pi' else name}</mi>",
    negative=lambda part: _row("<mo>−</mo>", part),
    fraction=lambda above, below: f"<mfrac>{above}{below}</mfrac>",
    power=lambda base, exponent: f"<msup>{base}{exponent}</msup>",
    product=lambda left, right, dot: _row(left, "<mo>·</mo>" if dot else "<mspace width='0.2em'></mspace>", right),
    sum=lambda left, sign, right: _row(left, f"<mo>{'−' if sign == '-' else '+'}</mo>", right),
    call=_mathml_call,
    parentheses=lambda part: _row("<mo>(</mo>", part, "<mo>)</mo>"),
)


@dataclass(frozen=True)
class _Written:
    """A part as it is written; how tightly it holds together; and what it begins with."""

    text: str
    binds: int
    begins_with_number: bool = False
    is_negative: bool = False


class _Writer:
    """What writes formulas in one notation, with other words for some names."""

    def __init__(self, notation: Notation, symbols: Mapping[str, str], are_numbers: bool) -> None:
        self._notation, self._symbols, self._are_numbers = notation, symbols, are_numbers

    def write(self, node: ast.expr, binds: int = 0) -> str:
        """Write one node; in parentheses where it binds less than `binds`, what stands around it."""
        return self._held(self._part(node), binds).text

    def _held(self, part: _Written, binds: int) -> _Written:
        return _Written(self._notation.parentheses(part.text), _ATOM) if part.binds < binds else part

    def _part(self, node: ast.expr) -> _Written:
        put = self._notation
        match node:
            case ast.Constant(value=int() | float() as value):
                return _Written(put.number(value), _POWER if _digits(value)[1] else _ATOM, True)
            case ast.Name(id=name) if name in self._symbols:
                symbol = self._symbols[name]
                is_negative = symbol.startswith("-")
                own = _SUM if is_negative else _POWER if "^" in symbol else _ATOM
                return _Written(symbol, own, self._are_numbers, is_negative)
            case ast.Name(id=name):
                return _Written(put.name(name), _ATOM)
            case ast.UnaryOp(op=ast.USub()):
                return _Written(put.negative(self.write(node.operand, _PRODUCT)), _SUM, is_negative=True)
            case ast.UnaryOp():
                return self._part(node.operand)
            case ast.BinOp(op=ast.Div()):
                return _Written(put.fraction(self.write(node.left), self.write(node.right)), _PRODUCT)
            case ast.BinOp(op=ast.Pow()):
                base = self._part(node.left)
                power = put.power(self._held(base, _ATOM).text, self.write(node.right))
                return _Written(power, _POWER, base.begins_with_number)
            case ast.BinOp(op=ast.Mult()):
                is_signed = isinstance(node.left, ast.UnaryOp)
                left = self._held(self._part(node.left), _SUM if is_signed else _PRODUCT)
                inner = self._part(node.right)
                right = self._held(inner, _PRODUCT)
                dot = right.begins_with_number or (inner.is_negative and inner.begins_with_number)
                own = _SUM if is_signed else _PRODUCT
                return _Written(put.product(left.text, right.text, dot), own, left.begins_with_number, is_signed)
            case ast.BinOp(op=sign):
                left_text, right_text = self.write(node.left, _SUM), self.write(node.right, _PRODUCT)
                return _Written(put.sum(left_text, "+" if isinstance(sign, ast.Add) else "-", right_text), _SUM)
            case ast.Call(func=ast.Name(id=name)):
                return _Written(put.call(name, [self.write(part) for part in node.args]), _ATOM)
        raise TypeError(f"no formula has a {type(node).__name__}")
