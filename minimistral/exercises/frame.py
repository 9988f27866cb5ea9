"""How an exercise works, in plain Python: check, why, hint, solution, use. None of them ever raises.

An exercise is declared by what it knows:

    double = Exercise("double", cases=lambda: [(1,), (21,)], hints=["Add it to itself."])

    @double.reference                   the library's answer
    def _(x): return 2 * x

    @double.right                       differently written right answers (tests: each must pass)
    def _(x): return x + x

    @double.mistake("It is squared.")   what people really write (tests: each must be rejected, and named by why())
    def _(x): return x * x

A mistake is recognised by what it computes, not by how it is written.
"""

import _thread
import copy
import inspect
import math
import re
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from fractions import Fraction

import torch

SECONDS = 10  # after which a learner's function is stopped
FORM = re.compile(r"(in result \d+ of \d+: )?expected (the shape|torch\.|a tensor|a number|a list|\d+ results)")  # not: other numbers


class Exercise:
    """One task and its judge.

    name     of the function that the learner writes, or of the value that they work out
    cases    () -> argument tuples, smallest first, the same ones every time; none: the answer is a value, not a function
    hints    opened one after the other
    allowed  modules of this library that an answer may call; anything else of it is "right, but not yours"
    forbid   names of calls outside the library that would skip the point, such as scaled_dot_product_attention
    within   () -> a context in which every answer runs; what it raises counts as raised by the answer
    """

    def __init__(self, name: str, *, cases: Callable | None = None, hints=(), allowed=(), forbid=(), tolerance=1e-4,
                 within: Callable = nullcontext):
        self.name, self.cases, self.hints, self.within = name, cases, list(hints), within
        self.allowed, self.forbid, self.tolerance = tuple(allowed), tuple(forbid), tolerance
        self.answer = None
        self.mistakes: list[tuple[str, Callable]] = []
        self.rights: list[Callable] = []
        self._yours = self._advice = self._complaint = None
        self._tried, self._failed = [], []  # (case, outcome): of all cases run; of the first one that failed
        self._passed = self._attempted = False
        self._opened = 0

    # --- declaring it -------------------------------------------------------------------------------------------------

    def reference(self, function):
        self.answer = function
        return function

    def right(self, function):
        self.rights.append(function)
        return function

    def mistake(self, sentence: str):
        def keep(function):
            self.mistakes.append((sentence, function))
            return function

        return keep

    # --- what the learner calls ---------------------------------------------------------------------------------------

    def check(self, yours=None):
        """Say in one line whether yours is right: the smallest failing case, or how many passed."""
        print(self._judge(yours))

    def why(self):
        """Name the mistake behind the last failed check, where it is a known one."""
        if not self._attempted:
            print(f"{self.name}: nothing to explain yet. If you did write an answer: does every way through it end in a return?")
        elif self._passed:
            print(f"{self.name}: yours is right; there is nothing to explain.")
        else:
            print(f"{self.name}: {self._likely()}")

    def hint(self):
        """Open the next hint."""
        if not self.hints:
            print(f"{self.name}: this one has no hints.")
            return
        self._opened = min(self._opened + 1, len(self.hints))
        print(f"{self.name}, hint {self._opened} of {len(self.hints)}: {self.hints[self._opened - 1]}")

    def solution(self, now: bool = False):
        """Show the library's answer, after an attempt or when asked for with now=True."""
        if not (now or self._attempted):
            print(f"{self.name}: try it first, and check it. To see the answer anyway: solution(now=True).")
        else:
            print(source(self.answer, self.name))

    def use(self, yours=None):
        """The function that later cells work with: yours if it is right, else the library's. Says which."""
        if yours is not None and yours is not self._yours and yours is not self.answer:
            self._judge(yours)
        if self._passed:
            print(f"{self.name}: from here on, yours is used.")
            return self._yours
        print(f"{self.name}: from here on, the library's is used, until yours passes its check.")
        return self.answer if self.cases else self.answer()

    # --- judging ------------------------------------------------------------------------------------------------------

    def _judge(self, yours) -> str:
        self._yours, self._tried, self._failed, self._passed, self._advice, self._complaint = yours, [], [], False, None, None
        if self.cases is None:
            return self._judge_value(yours)
        if yours is None:
            self._attempted = False
            return f"○ {self.name}: not attempted yet."
        if not callable(yours):
            self._attempted = True
            self._advice = "the check takes the function itself, without brackets behind its name."
            return f"✗ {self.name}: expected a function, got {show(yours)}."
        cases, borrowed = self.cases(), set()
        failure = None
        for n, case in enumerate(cases):
            outcome = run(yours, case, self._watch(borrowed), self.within)
            if n == 0 and outcome.returned_nothing:
                self._attempted = False
                return f"○ {self.name}: not attempted yet (it returns None)."
            self._attempted = True
            self._tried.append((case, outcome))
            complaint = outcome.trouble or self._complain(case, outcome.value)
            if complaint and failure is None:
                self._failed, self._complaint = [(case, outcome)], complaint
                failure = f"✗ {self.name}: {complaint}, for {self._arguments(case)}."
            if outcome.stopped:
                break
        if failure:
            return failure
        if borrowed:
            self._advice = f"the numbers are right, but {', '.join(sorted(borrowed))} made them. Write that part out yourself."
            return f"✗ {self.name}: right, but not yours: it calls {', '.join(sorted(borrowed))}. Write it out once yourself."
        self._passed = True
        return f"✓ {self.name}: correct, in all {len(cases)} cases."

    def _complain(self, case, value) -> str | None:
        """What is wrong with a result, or None. Where several answers are right, a subclass judges by what must hold."""
        return difference(self.answer(*copies(case)), value, self.tolerance)

    def _judge_value(self, yours) -> str:
        if yours is None or yours is ...:
            self._attempted = False
            return f"○ {self.name}: not attempted yet."
        self._attempted = True
        if complaint := difference(self.answer(), yours, self.tolerance, tell=False):
            return f"✗ {self.name}: {complaint}."
        self._passed = True
        return f"✓ {self.name}: correct."

    def _likely(self) -> str:
        unknown = "not one of the mistakes known here. Look at the smallest failing case, and work it out by hand."
        if self.cases is None:
            named = [s for s, wrong in self.mistakes if not difference(wrong(), self._yours, self.tolerance)]
            return named[0] if named else f"not one of the mistakes known here. {self._how_many()}" + (self.hints or ["Try once more."])[0]
        if self._advice or not self._failed:
            return self._advice or "the check did not come to its end. Run it once more."
        for sentence, wrong in self.mistakes:
            if self._behaves_like(wrong, self._tried):
                return sentence
        for sentence, wrong in self.mistakes:
            if self._behaves_like(wrong, self._failed):
                return f"perhaps this: {sentence}"
        if self._failed[0][1].trouble or FORM.match(self._complaint):
            return f"{self._complaint}. Mend that first."
        return unknown

    def _how_many(self) -> str:
        """Of a list of numbers: how many are right."""
        right, yours = self.answer(), self._yours
        if not isinstance(right, list | tuple) or not isinstance(yours, list | tuple) or len(right) != len(yours):
            return ""
        n = sum(not difference(one, other, self.tolerance) for one, other in zip(right, yours, strict=True))
        return f"Of your {len(right)} values, {n or 'none'} {'is' if n == 1 else 'are'} right. "

    def _behaves_like(self, wrong, tried) -> bool:
        """Does a known mistake give what yours gave, in each of these (case, outcome)?"""
        for case, outcome in tried:
            theirs = run(wrong, case, within=self.within)
            if theirs.trouble != outcome.trouble:
                return False
            if not theirs.trouble and difference(theirs.value, outcome.value, self.tolerance):
                return False
        return True

    def _arguments(self, case) -> str:
        names = list(inspect.signature(self.answer).parameters)
        return ", ".join(f"{name}={show(value)}" for name, value in zip(names, case, strict=False))

    def _watch(self, borrowed: set):
        """A profiler callback that notes calls which the learner's code makes into this library.

        It keeps people from borrowing by mistake, not from cheating themselves on purpose.
        """
        def note(frame, event, argument):
            if event == "c_call" and getattr(argument, "__name__", "") in self.forbid:
                borrowed.add(argument.__name__)
            elif event == "call":
                module, caller = frame.f_globals.get("__name__", ""), frame.f_back.f_globals.get("__name__", "")
                if frame.f_code is self.answer.__code__:
                    borrowed.add(f"the answer to {self.name}")
                elif frame.f_code.co_name in self.forbid and module.split(".")[0] == "torch":
                    borrowed.add(frame.f_code.co_name)
                elif module.startswith("minimistral.") and (caller == __name__ or not caller.startswith("minimistral.")):
                    if not module.startswith(("minimistral.exercises.", *self.allowed)):
                        borrowed.add(f"{module}.{frame.f_code.co_name}")

        return note


class Outcome:
    """What one call gave: a value, or the trouble it ended in."""

    def __init__(self, value=None, trouble: str | None = None, stopped: bool = False):
        self.value, self.trouble, self.stopped = value, trouble, stopped

    @property
    def returned_nothing(self):
        return self.value is None and self.trouble is None


def run(function, case, profile=None, within=nullcontext) -> Outcome:
    """Call a function on copies of a case's arguments; catch what it raises, stop it after SECONDS, notice changed inputs."""
    given = copies(case)
    before = copies(given)
    done, late = threading.Event(), threading.Event()

    def interrupt():
        if done.wait(SECONDS):
            return
        late.set()
        while not done.is_set():  # again and again: a bare "except:" swallows one
            _thread.interrupt_main()
            done.wait(0.5)

    threading.Thread(target=interrupt, daemon=True).start()
    previous = sys.getprofile()
    try:
        if profile:
            sys.setprofile(profile)
        with within():
            value = function(*given)
        done.set()
    except KeyboardInterrupt:
        done.set()
        sys.setprofile(previous)
        if not late.is_set():
            raise  # the learner pressed stop
    except BaseException as error:
        if type(error) is NotImplementedError and not error.args:
            return Outcome()  # the learner's own placeholder; torch's carries a text, and is an error like any other
        return Outcome(trouble=" ".join(f"raises {type(error).__name__}: {_text(error, str)[:160]}".split()).rstrip(":. "))
    finally:
        done.set()
        sys.setprofile(previous)
    if late.is_set():
        return Outcome(trouble=f"stopped after {SECONDS} seconds; a loop that never ends, or far too much work", stopped=True)
    for n, (old, new) in enumerate(zip(before, given, strict=True)):
        if not callable(old) and difference(old, new, 0):
            return Outcome(trouble=f"changes its input {_name(function, n)} in place; work on a copy")
    return Outcome(value)


def _name(function, n) -> str:
    try:
        return list(inspect.signature(function).parameters)[n]
    except (IndexError, TypeError, ValueError):  # *args, or a built-in without a signature
        return f"number {n + 1}"


def _text(value, how=repr) -> str:
    """One line, whatever the value's own repr does."""
    try:
        return " ".join(how(value).split())
    except Exception:
        return f"<{type(value).__name__}>"


def copies(case):
    """A case's arguments, copied: an answer may change what it was given, and the next one must not see it."""
    return tuple(x.clone() if isinstance(x, torch.Tensor) else x if callable(x) else copy.deepcopy(x) for x in case)


def difference(expected, got, tolerance, tell=True) -> str | None:
    """Where two results part, in one clause; None if they agree. tell=False keeps the expected value to itself."""
    try:
        return _difference(expected, got, tolerance, tell)
    except (Exception, RecursionError):
        return f"the result, of type {type(got).__name__}, cannot be compared with the right one"


def _difference(expected, got, tolerance, tell) -> str | None:
    wanted = both(expected, got) if tell else f"{show(got)} is not it"
    if isinstance(expected, torch.Tensor):
        return _tensor_difference(expected, got, tolerance)
    if isinstance(expected, bool) and str(getattr(got, "dtype", "")) in ("bool", "torch.bool") and got.ndim == 0:
        got = bool(got)  # NumPy's and PyTorch's own True and False
    if isinstance(expected, bool) or isinstance(expected, str) or expected is None:
        return None if type(got) is type(expected) and got == expected else wanted
    if isinstance(expected, int | float):
        if (type(got).__module__ == "numpy" or isinstance(got, torch.Tensor)) and got.ndim == 0:
            got = got.item()
        if isinstance(got, Fraction | Decimal):
            got = float(got)
        if isinstance(got, str | list | tuple):
            return f"expected a number, got {show(got)}"
        if isinstance(got, bool) or not isinstance(got, int | float):
            return wanted
        # Python compares a whole number with a float to the last digit; isclose makes both floats, which keep some 16.
        close = got == expected if tolerance == 0 else math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
        return None if close else wanted
    if isinstance(expected, list | tuple):
        several = any(isinstance(one, torch.Tensor) for one in expected)
        if several and isinstance(got, torch.Tensor):
            return f"expected {len(expected)} results, got {show(got)}"
        if isinstance(got, torch.Tensor) or type(got).__module__ == "numpy":
            got = got.tolist()
        if isinstance(got, Iterator):
            return f"expected a list, got a {type(got).__name__}: put list(...) around it"
        if not isinstance(got, list | tuple):
            return wanted
        if len(got) != len(expected):
            return f"expected {len(expected)} results, got {len(got)}" if several else wanted
        for n, (e, g) in enumerate(zip(expected, got, strict=True), 1):
            if inner := difference(e, g, tolerance):
                return f"in result {n} of {len(expected)}: {inner}" if isinstance(e, torch.Tensor) else wanted
        return None
    return None if expected == got else wanted


def _tensor_difference(expected, got, tolerance) -> str | None:
    if not isinstance(got, torch.Tensor):
        return f"expected a tensor of shape {tuple(expected.shape)}, got {show(got)}"
    if got.shape != expected.shape:
        return f"expected the shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    if got.dtype != expected.dtype:
        return f"expected {expected.dtype}, got {got.dtype}"
    e, g = expected.detach(), got.detach().as_subclass(torch.Tensor)  # a subclass could answer isclose() itself
    if g.is_floating_point():
        if g.isnan().any() and not e.isnan().any():
            return f"has NaN at {_first(g.isnan())}"
        wrong = ~torch.isclose(g, e, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        wrong = g != e
    if not wrong.any():
        return None
    at = _first(wrong)
    return f"differs first at {at}: {both(e[tuple(at)].item(), g[tuple(at)].item())}"


def _first(flags) -> list[int]:
    return flags.nonzero()[0].tolist()


def both(expected, got) -> str:
    """The two in one line, with more digits where they would look the same."""
    digits = next((n for n in (4, 8) if show(expected, n) != show(got, n)), 16)
    return f"expected {show(expected, digits)}, got {show(got, digits)}"


def show(value, digits: int = 4) -> str:
    """A value in a line: small ones whole, tensors by their shape when they are not."""
    if isinstance(value, torch.Tensor):
        if value.numel() > 12:
            return f"<tensor {tuple(value.shape)}>"
        return show(value.tolist(), digits)
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, list | tuple):
        inside = ", ".join(show(one, digits) for one in value[:12]) + (", …" if len(value) > 12 else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside},)" if len(value) == 1 else f"({inside})"
    if callable(value):
        return f"<{getattr(value, '__name__', 'function')}>"  # a case may name its functions by what they do
    text = _text(value)
    return text if len(text) <= 120 else text[:117] + "…"


def source(function, name: str) -> str:
    """A function's source as the learner would have written it: under the exercise's name, without decorators."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("def "))
    return re.sub(r"^def \w+\(", f"def {name}(", "\n".join(lines[start:]), count=1)
