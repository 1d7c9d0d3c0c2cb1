"""What a call gives back: echo, tracebacks, cut output, any bytes, bad programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watching import Run

from ctpo.sandbox import ExecutionResult, Limits
from ctpo.sandbox.limits import BOUNDS
from ctpo.sandbox.results import cut_middle


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("1 + 2", "3\n"),
        ("x = 5\nx", "5\n"),
        ("x = 5", ""),
        ("print('a')\nNone", "a\n"),
        ("x = [\n 1,\n 2,\n]\nx", "[1, 2]\n"),
        ("'text'", "'text'\n"),
        ("1 + 2;", ""),
        ("1 + 2;  # quiet", ""),
        ("1 + 2  # not quiet;", "3\n"),
        ("'a;'", "'a;'\n"),
        ("(1 +\n 2) ;\n\n# end;", ""),
        ("x = 5; x", "5\n"),
        ("'π'; 'π' ;", ""),
        ("1 + 2\r\n", "3\n"),
        ("\ufeff1 + 2", "3\n"),
        ("for i in range(2):\n    i", ""),
        ("", ""),
        ("# only a comment", ""),
        ("from sympy import *\nx = symbols('x')\nfactor(x**2 - 1)", "(x - 1)*(x + 1)\n"),
    ],
)
def test_the_value_of_a_last_bare_expression_is_echoed_as_in_a_notebook(run: Run, code: str, stdout: str) -> None:
    result = run(code)
    assert (result.stdout, result.stderr, result.reason) == (stdout, "", "ok")


def test_a_traceback_shows_the_callers_lines_and_no_path_of_the_host(run: Run) -> None:
    result = run("def f(x):\n    return 1 / x\n\nf(0)")
    assert result.reason == "error"
    # Python 3.10 does not mark the failing part of a line.
    lines = [line for line in result.stderr.splitlines() if set(line) - set(" ~^")]
    assert lines == [
        "Traceback (most recent call last):",
        '  File "<code>", line 4, in <module>',
        "    f(0)",
        '  File "<code>", line 2, in f',
        "    return 1 / x",
        "ZeroDivisionError: division by zero",
    ]


def test_an_exception_inside_a_package_names_only_paths_of_the_sandbox(run: Run) -> None:
    result = run("import sympy\nsympy.sympify('1 +')")
    files = [line.split('"')[1] for line in result.stderr.splitlines() if line.startswith("  File ")]
    assert len(files) > 2
    assert all(f.startswith(("<", "/packages/", "/usr/lib/python")) for f in files)


def test_a_syntax_error_is_a_result_with_its_line(run: Run) -> None:
    result = run("x = 1\nprint(x")
    assert result.reason == "error"
    assert result.stdout == ""
    assert "line 2" in result.stderr
    assert result.stderr.endswith("SyntaxError: '(' was never closed\n")


@pytest.mark.parametrize(
    ("code", "reason", "stderr"),
    [
        ("import sys; sys.exit(0)", "ok", ""),
        ("exit()", "ok", ""),
        ("quit(3)", "error", ""),
        ("raise SystemExit('gave up')", "error", "gave up\n"),
        ("input()", "error", "EOFError"),
        ("import no_such_module", "error", "ModuleNotFoundError"),
        ("x = bytearray(10**12)", "memory", "MemoryError"),
        ("a\x00b", "error", "null bytes"),
        ("'\ud800'", "ok", ""),
        ("return 5", "error", "'return' outside function"),
        ("(" * 500, "error", "SyntaxError"),
        ("import atexit; atexit.register(print, 'bye')", "ok", ""),
    ],
)
def test_every_end_of_a_program_is_a_result(run: Run, code: str, reason: str, stderr: str) -> None:
    result = run(code)
    assert result.reason == reason
    assert stderr in result.stderr
    if stderr == "":
        assert result.stderr == ""


@pytest.mark.parametrize("written", ["print('π so far')", "print('π so far', end='')", "sys.stdout.write('π so far')"])
@pytest.mark.parametrize(
    ("end", "reason", "status"),
    [
        ("while True: pass", "timeout", None),
        ("time.sleep(60)", "timeout", None),
        ("x = []\nwhile True: x.append(bytes(b'x' * (16 << 20)))", "memory", None),
        ("while True: os.write(2, b'x' * 4096)", "output", None),
        ("os._exit(0)", "ok", 0),
        ("os._exit(137)", "error", 137),
        ("sys.exit(137)", "error", 137),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed", -9),
        ("signal.raise_signal(signal.SIGTERM)", "killed", -15),
        ("os.abort()", "killed", -6),
        ("ctypes.string_at(0)", "killed", -11),
        ("1 / 0", "error", 1),
    ],
)
def test_what_was_printed_is_kept_and_the_end_is_called_what_it_is(
    run: Run, written: str, end: str, reason: str, status: int | None
) -> None:
    limits = Limits(wall_s=1.0 if reason == "timeout" else 30.0, memory_mb=128)
    result = run(f"import ctypes, os, signal, sys, time\n{written}\n{end}", limits)
    assert (result.stdout.strip(), result.reason) == ("π so far", reason)
    assert status in (None, result.status)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise ValueError('two\\nlines')", "ValueError: two\nlines"),
        ("e = KeyError('k')\ne.add_note('a note')\nraise e", "KeyError: 'k'\na note"),
        (
            "raise ExceptionGroup('g', [OSError(2, 'x'), TypeError('t')])",
            "ExceptionGroup: g (2 sub-exceptions)\n  FileNotFoundError: [Errno 2] x\n  TypeError: t",
        ),
        ("try: 1 / 0\nexcept ZeroDivisionError as e: raise ValueError('outer') from e", "ValueError: outer"),
        (
            "import atexit, sys\natexit.register(print, 'late', file=sys.stderr)\n[][1]",
            "IndexError: list index out of range",
        ),
        ("class E(Exception):\n def __str__(self): raise TypeError\nraise E", "E: <exception str() failed>"),
        ("import sys\nsys.excepthook = lambda *a: print('hooked')\n1 / 0", "ZeroDivisionError: division by zero"),
        ("prnt(1)", "NameError: name 'prnt' is not defined. Did you mean: 'print'?"),
        ("x = 1\nx +", 'File "<code>", line 2\n    x +\n       ^\nSyntaxError: invalid syntax'),
        ("raise MemoryError('mine')", "MemoryError: mine"),
        ("import os\nif os.fork() == 0: raise ValueError('child')\nos.wait(); {}['x']", "KeyError: 'x'"),
        ("raise ValueError('x' * 9000)", "ValueError: " + "x" * 1988 + " ... " + "x" * 2000),
        ("import sys\nsys.exit('gave up')", ""),
        ("import sys\nprint('not an error: 5', file=sys.stderr)\nsys.exit(4)", ""),
    ],
)
def test_the_error_is_the_uncaught_exceptions_own_type_and_message(run: Run, code: str, error: str) -> None:
    result = run(code, Limits(wall_s=30.0))
    assert (result.error, result.reason) == (error, "error")
    assert "\0" not in result.stderr


def test_every_call_draws_its_own_random_numbers(run: Run) -> None:
    drawing = (
        "import random, numpy, sympy.core.random as s\n"
        "(random.random(), numpy.random.rand(), s.rng.random(), s._assumptions_rng.random())"
    )
    first, second = (eval(run(drawing).stdout) for _ in range(2))
    assert not set(first) & set(second)


def test_characters_torn_by_the_end_of_a_program_are_marked(run: Run) -> None:
    assert run("import os\nos.write(1, 'aé'.encode()[:2]); os._exit(0)").stdout == "a\ufffd"


def test_code_longer_than_a_mebibyte_is_an_error_and_not_a_crash(run: Run) -> None:
    result = run("#" * (1 << 21))
    assert result.reason == "error"
    assert "longer than" in result.stderr


def test_code_longer_than_a_pipe_runs_whole(run: Run) -> None:
    assert run("x = 0\n" + "x += 1\n" * 50_000 + "x").stdout == "50000\n"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x00\x1b[31mred\x07", "\x00\x1b[31mred\x07"),
        (b"\xff\xfe", "��"),
        (b"caf\xc3", "caf�"),
        (b"\xed\xa0\x80", "���"),
    ],
)
def test_any_bytes_survive(run: Run, raw: bytes, text: str) -> None:
    assert run(f"import sys; sys.stdout.buffer.write({raw!r});").stdout == text


def test_non_ascii_code_and_output_pass_through_whatever_the_locale(run: Run) -> None:
    assert run("π = '√2 ≈ 1.414 😀'\nprint(π)").stdout == "√2 ≈ 1.414 😀\n"


def test_the_echo_can_be_switched_off(run: Run) -> None:
    assert run("print(1)\n2", echo=False).stdout == "1\n"


def test_endless_output_ends_the_call_and_keeps_its_beginning(run: Run) -> None:
    limits = Limits(output_bytes=1000, wall_s=30.0)
    result: ExecutionResult = run("print('begin')\nwhile True: print('x' * 99)", limits)
    assert result.reason == "output"
    assert result.stdout.startswith("begin\n")
    assert "bytes cut ...]" in result.stdout
    assert len(result.stdout.encode()) < 1100


def test_output_up_to_the_limit_is_kept_whole(run: Run) -> None:
    limits = Limits(output_bytes=1000, wall_s=30.0)
    result = run("import sys; sys.stdout.write('x' * 1000); sys.stderr.write('y' * 1000);", limits)
    assert (result.stdout, result.stderr, result.reason) == ("x" * 1000, "y" * 1000, "ok")


@given(st.text(min_size=0, max_size=400), st.integers(8, 300))
def test_cut_text_is_a_beginning_and_an_end_of_the_original_on_character_boundaries(text: str, size: int) -> None:
    raw = text.encode("utf-8", "replace")
    text = raw.decode()
    cut = cut_middle(raw, size)
    if len(raw) <= size:
        assert cut == text
        return
    head, tail = cut.rsplit("\n[... ", 1)[0], cut.rsplit(" bytes cut ...]\n", 1)[1]
    gone = int(cut.rsplit("\n[... ", 1)[1].split(" ")[0])
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head.encode()) + len(tail.encode()) + gone == len(raw)
    assert size - 6 <= len(raw) - gone <= size


@given(st.binary(max_size=300), st.integers(8, 100))
def test_cutting_takes_any_bytes(raw: bytes, size: int) -> None:
    text = cut_middle(raw, size)
    assert text.encode("utf-8").decode("utf-8") == text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wall_s", 0),
        ("wall_s", float("inf")),
        ("cpu_s", float("nan")),
        ("memory_mb", 1),
        ("output_bytes", -1),
        ("processes", 0),
        ("processes", 1.5),
        ("file_mb", True),
        ("file_mb", "many"),
        ("files", 1),
        ("files", None),
        ("wall_s", 1e300),
        ("wall_s", 3601),
        pytest.param("cpu_s", 10**5000, id="cpu_s-huge"),
        ("memory_mb", 1 << 40),
        ("output_bytes", 1 << 62),
        ("processes", 10**9),
        pytest.param("file_mb", 10**4000, id="file_mb-huge"),
        ("files", [16]),
    ],
)
def test_limits_refuse_bad_values_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"sandbox\.{field}="):
        Limits(**{field: value})


def test_limits_take_both_ends_of_every_bound() -> None:
    for end in (0, 1):
        ends: dict[str, Any] = {name: bounds[end] for name, bounds in BOUNDS.items()}
        assert asdict(Limits(**ends)) == ends
