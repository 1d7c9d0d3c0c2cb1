"""What a call gives back: echo, tracebacks, cut output, any bytes, bad programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        ("for i in range(2):\n    i", ""),
        ("", ""),
        ("# only a comment", ""),
        ("from sympy import *\nx = symbols('x')\nfactor(x**2 - 1)", "(x - 1)*(x + 1)\n"),
    ],
)
def test_the_value_of_a_last_bare_expression_is_echoed_as_in_a_notebook(run, code: str, stdout: str) -> None:
    result = run(code)
    assert (result.stdout, result.stderr, result.reason) == (stdout, "", "ok")


def test_a_traceback_shows_the_callers_lines_and_no_path_of_the_host(run) -> None:
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


def test_an_exception_inside_a_package_names_only_paths_of_the_sandbox(run) -> None:
    result = run("import sympy\nsympy.sympify('1 +')")
    files = [line.split('"')[1] for line in result.stderr.splitlines() if line.startswith("  File ")]
    assert len(files) > 2
    assert all(f.startswith(("<", "/packages/", "/usr/lib/python")) for f in files)


def test_a_syntax_error_is_a_result_with_its_line(run) -> None:
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
def test_every_end_of_a_program_is_a_result(run, code: str, reason: str, stderr: str) -> None:
    result = run(code)
    assert result.reason == reason
    assert stderr in result.stderr
    if stderr == "":
        assert result.stderr == ""


def test_code_longer_than_a_mebibyte_is_an_error_and_not_a_crash(run) -> None:
    result = run("#" * (1 << 21))
    assert result.reason == "error"
    assert "longer than" in result.stderr


def test_code_longer_than_a_pipe_runs_whole(run) -> None:
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
def test_any_bytes_survive(run, raw: bytes, text: str) -> None:
    assert run(f"import sys; sys.stdout.buffer.write({raw!r});").stdout == text


def test_non_ascii_code_and_output_pass_through_whatever_the_locale(run) -> None:
    assert run("π = '√2 ≈ 1.414 😀'\nprint(π)").stdout == "√2 ≈ 1.414 😀\n"


def test_the_echo_can_be_switched_off(run) -> None:
    assert run("print(1)\n2", echo=False).stdout == "1\n"


def test_endless_output_ends_the_call_and_keeps_its_beginning(run) -> None:
    limits = Limits(output_bytes=1000, wall_s=30.0)
    result: ExecutionResult = run("print('begin')\nwhile True: print('x' * 99)", limits)
    assert result.reason == "output"
    assert result.stdout.startswith("begin\n")
    assert "bytes cut ...]" in result.stdout
    assert len(result.stdout.encode()) < 1100


def test_output_up_to_the_limit_is_kept_whole(run) -> None:
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
def test_limits_refuse_bad_values_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"sandbox\.{field}="):
        Limits(**{field: value})


def test_limits_take_both_ends_of_every_bound() -> None:
    for end in (0, 1):
        ends: dict[str, Any] = {name: bounds[end] for name, bounds in BOUNDS.items()}
        assert asdict(Limits(**ends)) == ends
