"""What a cell reads and writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from timeshare.notebooks.capture.magics import names_of_transformed
from timeshare.notebooks.capture.names import names_of_code, names_of_source

CELLS = [
    ("x += 1", "x", "x"),
    ("y = x", "x", "y"),
    ("x = 1\nz = x + a", "a", "x z"),
    ("if a:\n  x = 1\ny = x", "a x", "x y"),
    ("for i in xs:\n  s = i\nt = s", "s xs", "i s t"),
    ("for i in xs:\n  s = i\n  t = s + i", "xs", "i s t"),
    ("if a:\n  x = 1\nelse:\n  x = 2\ny = x", "a", "x y"),
    ("while a:\n  x = 1\n  y = x\nz = x", "a x", "x y z"),
    ("try:\n  x = f()\nfinally:\n  y = x", "f x", "x y"),
    ("def f():\n  global c\n  c += 1", "c", "c f"),
    ("def f(a=d):\n  return a + g", "d g", "f"),
    ("class A(B):\n  k = q\n  def m(self): return self.k + z", "B q z", "A"),
    ("r = [i * f for i in xs if (w := i)]", "f xs", "r w"),
    ("r = {k: v for k, v in d.items()}", "d", "r"),
    ("try:\n  x = f()\nexcept E as e:\n  pass\ny = x", "E f x", "e x y"),
    ("match p:\n  case {'a': v, **rest}: pass", "p", "rest v"),
    ("with p as h:\n  t = h\nu = t", "p t", "h t u"),
    ("del x", "x", ""),
    ("x = 1\ndel x\ny = x", "x", "x y"),
    ("r = await g(h)", "g h", "r"),
    ("async for i in xs:\n  pass", "xs", "i"),
    ("import a.b as c\nfrom d import e as f\nr = c + f", "", "c f r"),
    ("@deco\ndef f() -> note: ...", "deco note", "f"),
    ("f = lambda q: q + r", "r", "f"),
    ("x = 1\ndef g(): return x + y\nv = g()", "y", "g v x"),
    ("a, *b = c", "c", "a b"),
    ("x.attr = y\nx[i] = 2", "i x y", ""),
    ("r = f'{x!r:>{w}}'", "w x", "r"),
    ("def outer():\n  n = 1\n  def inner():\n    nonlocal n\n    n += g\n  return inner", "g", "outer"),
    ("r = df.query('a > @cut and b < @top')", "cut df top", "r"),
]


@pytest.mark.parametrize(("cell", "reads", "writes"), CELLS)
def test_reads_and_writes_are_those_of_the_running_cell(cell: str, reads: str, writes: str) -> None:
    found = names_of_source(cell)
    known = set(dir(__builtins__)) | set(__builtins__ if isinstance(__builtins__, dict) else ())
    assert sorted(found.reads - known) == reads.split()
    assert sorted(found.writes) == writes.split()


@pytest.mark.parametrize(
    ("cell", "hidden"),
    [("from m import *", "import *"), ("eval(t)", "eval()"), ("def f():\n  return globals()[n]", "globals()")],
)
def test_what_hides_names_is_told(cell: str, hidden: str) -> None:
    assert names_of_source(cell).hidden == (hidden,)


MAGICS = [
    ("%time y = f(x)", "f x", "y"),
    ("%timeit -n 10 f(x)", "f x", ""),
    ("%%time\ny = x", "x", "y"),
    ("%%capture out\ny = x", "x", "out y"),
    ("!head {path} -n $count", "count path", ""),
    ("files = !ls {folder}", "folder", "files"),
    ("%matplotlib inline\ny = x", "x", "y"),
    ("!awk '{print $$1}' file", "", ""),
]


@pytest.mark.parametrize(("cell", "reads", "writes"), MAGICS)
def test_code_in_magics_and_shell_lines_counts(cell: str, reads: str, writes: str) -> None:
    found = names_of_transformed(TransformerManager().transform_cell(cell))
    assert (sorted(found.names.reads - {"print"}), sorted(found.names.writes)) == (reads.split(), writes.split())
    assert found.refused == ()


@pytest.mark.parametrize("cell", ["%run other.py", "%load_ext foo", "%%gpu_batch\nx = 1", "%debug"])
def test_a_magic_that_means_nothing_in_a_job_is_refused_with_what_to_do(cell: str) -> None:
    (why,) = names_of_transformed(TransformerManager().transform_cell(cell)).refused
    assert why.startswith(("%", "a batch cell"))
    assert len(why) > 30


NAME = st.sampled_from("abcde")
EXPRESSION = st.builds(lambda a, b: f"{a} + {b}", NAME, NAME)
STATEMENT = st.one_of(
    st.builds(lambda n, e: f"{n} = {e}", NAME, EXPRESSION),
    st.builds(lambda n, e: f"{n} += {e}", NAME, EXPRESSION),
    st.builds(lambda c, n, e: f"if {c}:\n  {n} = {e}", NAME, NAME, EXPRESSION),
    st.builds(lambda n, e: f"{n} = (lambda: {e})()", NAME, EXPRESSION),
    st.builds(lambda n: f"try:\n  {n} = 1 // 0\nexcept ZeroDivisionError:\n  pass", NAME),
)


@given(st.lists(STATEMENT, min_size=1, max_size=6), st.dictionaries(NAME, st.integers(0, 3), max_size=5))
def test_a_cell_runs_the_same_with_only_what_it_reads(statements: list[str], notebook: dict[str, int]) -> None:
    source = "\n".join(statements)
    whole, part = dict(notebook), {n: v for n, v in notebook.items() if n in names_of_source(source).reads}
    told = _run(source, whole)
    assert told == _run(source, part)
    if told == "done":
        written = names_of_source(source).writes
        assert {n: part[n] for n in written if n in part} == {n: whole[n] for n in written if n in part}


def _run(source: str, namespace: dict[str, int]) -> str:
    try:
        exec(compile(source, "<cell>", "exec"), namespace)  # type: ignore[arg-type]
    except NameError as error:
        return str(error)
    return "done"


def test_a_function_reads_its_globals() -> None:
    def f() -> object:
        return CELLS, MAGICS

    assert names_of_code(f.__code__).reads == {"CELLS", "MAGICS"}
