"""Kinds of objects that notebooks hold: each arrives equal, or is refused by name before anything is submitted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = """
import json, sys, time
from pathlib import Path
from timeshare.notebooks.capture import snapshot
from timeshare.notebooks.capture.preflight import judge, report
from timeshare.notebooks.capture.reach import reach
from timeshare.notebooks.capture.store import Store
source, folder = sys.argv[1:]
exec(compile(source, "<notebook>", "exec"), globals())
found = reach(["it"], globals()).found
began = time.monotonic()
verdicts = judge(found, globals())
took = time.monotonic() - began
refused = [v for v in verdicts if not v.goes]
if not refused:
    values = {name: reached.value for name, reached in found.items()}
    header = snapshot.write(values, globals(), Store(Path(folder))).header
    Path(folder, "header.json").write_text(header.to_json())
print(json.dumps({"refused": [[v.name, v.problem, v.fix] for v in refused], "took": took, "text": report(verdicts)}))
"""
JOB = """
import sys
from pathlib import Path
from timeshare.notebooks.capture import snapshot
from timeshare.notebooks.capture.store import Store
check, folder = sys.argv[1:]
header = snapshot.Header.from_json(Path(folder, "header.json").read_text())
globals().update(snapshot.read(header, Store(Path(folder)), globals()))
assert eval(check), it
"""

ARRIVES = {
    "int": ("it = 7", "it == 7"),
    "big int": ("it = 10**400", "it == 10**400"),
    "float nan": ("it = float('nan')", "it != it"),
    "text": ("it = 'ä𝄞'", "it == 'ä𝄞'"),
    "bytes": ("it = b'x' * 5_000_000", "it == b'x' * 5_000_000"),
    "bytearray": ("it = bytearray(b'ab')", "it == b'ab' and type(it) is bytearray"),
    "nested containers": ("it = {'a': [1, (2, {3})]}", "it == {'a': [1, (2, {3})]}"),
    "a list in itself": ("it = []; it.append(it)", "it[0] is it"),
    "range, slice": ("it = (range(3), slice(1, 2))", "it == (range(3), slice(1, 2))"),
    "lambda": ("it = lambda x: x + 1", "it(1) == 2"),
    "function with defaults": ("def it(a, *, b=[2]): return a + b[0]", "it(1) == 3"),
    "function that uses another": ("k = 2\ndef g(x): return k * x\ndef it(x): return g(x)", "it(3) == 6"),
    "recursive function": ("def it(n): return 1 if n < 2 else n * it(n - 1)", "it(5) == 120"),
    "closure": ("def make():\n  n = [0]\n  def f():\n    n[0] += 1\n    return n[0]\n  return f\nit = make(); it()", "it() == 2"),
    "decorated function": (
        "import functools\ndef d(f):\n  @functools.wraps(f)\n  def w(*a): return f(*a) + 1\n  return w\n@d\ndef it(x): return x",
        "it(1) == 2",
    ),
    "partial": ("from functools import partial\nit = partial(pow, 2)", "it(5) == 32"),
    "generator function": ("def it():\n  yield 1", "list(it()) == [1]"),
    "coroutine function": ("async def it(): return 1", "__import__('asyncio').run(it()) == 1"),
    "builtin": ("it = len", "it([1]) == 1"),
    "operator": ("import operator\nit = operator.itemgetter(1)", "it('ab') == 'b'"),
    "class": ("class C:\n  k = 1\n  def m(self): return self.k\nit = C", "it().m() == 1"),
    "instance": ("class C:\n  def __init__(self): self.a = 1\nit = C()", "it.a == 1 and type(it).__name__ == 'C'"),
    "subclass with super": (
        "class A:\n  def f(self): return 1\nclass B(A):\n  def f(self): return super().f() + 1\nit = B()",
        "it.f() == 2",
    ),
    "bound method": ("class C:\n  a = 5\n  def m(self): return self.a\nit = C().m", "it() == 5"),
    "property, static and class methods": (
        "class C:\n  @property\n  def p(self): return 1\n  @staticmethod\n  def s(): return 2\n  @classmethod\n  def c(cls): return 3\nit = C()",
        "(it.p, it.s(), it.c()) == (1, 2, 3)",
    ),
    "slots": ("class C:\n  __slots__ = ('a',)\nit = C(); it.a = 1", "it.a == 1"),
    "metaclass": ("class M(type):\n  def f(cls): return 1\nclass C(metaclass=M): pass\nit = C", "it.f() == 1"),
    "abstract class": ("import abc\nclass C(abc.ABC):\n  @abc.abstractmethod\n  def f(self): ...\nit = C", "it.__abstractmethods__"),
    "generic class": (
        "from typing import Generic, TypeVar\nT = TypeVar('T')\nclass C(Generic[T]): pass\nit = C[int]",
        "it.__args__ == (int,)",
    ),
    "protocol": ("from typing import Protocol\nclass it(Protocol):\n  def f(self) -> int: ...", "it._is_protocol"),
    "typed dict": ("from typing import TypedDict\nclass it(TypedDict):\n  a: int", "it(a=1) == {'a': 1}"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass C:\n  a: int\nit = C(1)", "it == type(it)(1)"),
    "named tuple": ("from collections import namedtuple\nC = namedtuple('C', 'a b')\nit = C(1, 2)", "it.b == 2"),
    "enum": ("from enum import Enum\nclass C(Enum):\n  A = 1\nit = C.A", "it is type(it).A"),
    "flag": ("from enum import Flag\nclass C(Flag):\n  A = 1\n  B = 2\nit = C.A | C.B", "type(it).B in it"),
    "collections": (
        "from collections import *\nit = (deque([1], 3), Counter('aa'), OrderedDict(a=1), ChainMap({'a': 1}))",
        "it[0].maxlen == 3 and it[1]['a'] == 2 and it[3]['a'] == 1",
    ),
    "default dict of a lambda": ("from collections import defaultdict\nit = defaultdict(lambda: 3)", "it['x'] == 3"),
    "dates": ("import datetime as d\nit = d.datetime(2026, 1, 2, tzinfo=d.timezone.utc)", "it.year == 2026"),
    "decimal, fraction": ("from decimal import *\nfrom fractions import *\nit = Decimal('0.1'), Fraction(1, 3)", "it[1] * 3 == 1"),
    "path": ("from pathlib import Path\nit = Path('/a/b')", "it.name == 'b'"),
    "regular expression": ("import re\nit = re.compile('a+')", "it.match('aa')"),
    "uuid": ("import uuid\nit = uuid.UUID(int=5)", "it.int == 5"),
    "random": ("import random\nit = random.Random(3); it.random()", "it.random() == 0.5442292252959519"),
    "module": ("import math\nit = math", "it.pi > 3"),
    "logger": ("import logging\nit = logging.getLogger('mine')", "it.name == 'mine'"),
    "memory files": ("import io\nit = io.BytesIO(b'ab'), io.StringIO('cd')", "it[0].read() + it[1].read().encode() == b'abcd'"),
    "exception": ("it = ValueError('x', 1)", "it.args == ('x', 1)"),
    "iterators": ("it = iter([1, 2]), zip('a', 'b'), enumerate('ab')", "list(it[0]) == [1, 2]"),
    "array": ("import numpy as np\nit = np.arange(6.0).reshape(2, 3)", "it.sum() == 15 and it.shape == (2, 3)"),
    "large array": ("import numpy as np\nit = np.arange(2_000_000)", "it[-1] == 1_999_999 and it.flags.writeable"),
    "masked array": ("import numpy as np\nit = np.ma.masked_less(np.arange(4), 2)", "it.sum() == 5"),
    "structured array": ("import numpy as np\nit = np.zeros(3, dtype=[('a', 'i4'), ('b', 'f8')])", "it['b'].sum() == 0"),
    "numpy scalars and types": ("import numpy as np\nit = np.float32(2.5), np.dtype('i4')", "it[0] == 2.5"),
    "numpy generator": ("import numpy as np\nit = np.random.default_rng(3)", "0 <= it.random() < 1"),
    "vectorized function": ("import numpy as np\nit = np.vectorize(lambda x: x + 1)", "list(it([1, 2])) == [2, 3]"),
    "frame": ("import pandas as pd\nit = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})", "it.a.sum() == 3 and it.b.isna().sum() == 1"),
    "series with dates": ("import pandas as pd\nit = pd.Series([1], index=pd.date_range('2026', periods=1, tz='UTC'))", "it.iloc[0] == 1"),
    "categories": ("import pandas as pd\nit = pd.Categorical(['a', 'b', 'a'])", "list(it.codes) == [0, 1, 0]"),
    "figure": (
        "import matplotlib\nmatplotlib.use('Agg')\nfrom matplotlib.figure import Figure\nit = Figure(); it.subplots().plot([1, 2])",
        "len(it.axes[0].lines) == 1",
    ),
    "function of an object of a class": (
        "class C:\n  def __call__(self, x): return h(x)\ndef h(x): return x * k\nk = 4\nit = C()",
        "it(2) == 8",
    ),
}  # fmt: skip

REFUSED = {
    "generator": ("it = (x for x in [1])", "it", "a generator"),
    "generator deep inside": ("it = {'a': [1, {'b': (x for x in [1])}]}", "it['a'][1]['b']", "a generator"),
    "coroutine": ("async def f(): ...\nit = f()", "it", "a generator"),
    "lock": ("import threading\nit = threading.Lock()", "it", "a lock"),
    "lock in an object": ("import threading\nclass C: pass\nit = C(); it.guard = threading.RLock()", "it.guard", "a lock"),
    "condition": ("import threading\nit = threading.Condition()", "it", "a lock"),
    "thread": ("import threading\nit = threading.Thread()", "it", "a thread"),
    "pool": ("from concurrent.futures import *\nit = ThreadPoolExecutor(1)", "it", "a thread or pool"),
    "file read as text": ("it = open('/etc/hostname')", "it", "an open file"),
    "file written": ("it = open('/dev/null', 'wb')", "it", "an open file"),
    "socket": ("import socket\nit = socket.socket()", "it", "an open connection"),
    "database": ("import sqlite3\nit = sqlite3.connect(':memory:')", "it", "an open connection"),
    "process": ("import subprocess\nit = subprocess.Popen(['true']); it.wait()", "it", "a process"),
    "weak reference": ("import weakref\nclass C: pass\nc = C()\nit = weakref.ref(c)", "it", "a weak reference"),
    "environment": ("import os\nit = os.environ", "it", "os.environ"),
    "environment in a function": ("import os\nenv = os.environ\ndef it(): return env", "env", "os.environ"),
    "standard output": ("import sys\nit = [sys.stdout]", "it[0]", "an output stream"),
    "memory view": ("it = memoryview(b'ab')", "it", "a memoryview"),
    "temporary folder": ("import tempfile\nit = tempfile.TemporaryDirectory()", "it", "a temporary folder"),
    "cached function": ("import functools\n@functools.lru_cache\ndef it(x): return x", "it", "a function with a cache"),
    "cached function that another uses": (
        "import functools\n@functools.cache\ndef g(x): return x\ndef it(x): return g(x)",
        "g",
        "a function with a cache",
    ),
    "context variable": ("import contextvars\nit = contextvars.ContextVar('v')", "it", "a part of running code"),
    "frame of the interpreter": ("import sys\nit = sys._getframe()", "it", "a part of running code"),
    "an exception that cannot be made again": (
        "class E(Exception):\n  def __init__(self, a, b): super().__init__(a)\nit = E(1, 2)",
        "it",
        "written but not read again",
    ),
    "what fails when it is read": (
        "def broken(): raise RuntimeError('no way back')\nclass C:\n  def __reduce__(self): return broken, ()\nit = C()",
        "it",
        "written but not read again: RuntimeError: no way back",
    ),
    "what kills who reads it": (
        "import os\nclass C:\n  def __reduce__(self): return os._exit, (3,)\nit = C()",
        "it",
        "did not come back",
    ),
    "what fails when it is written": (
        "class C:\n  def __reduce__(self): raise RuntimeError('not me')\nit = [0, C()]",
        "it[1]",
        "not me",
    ),
}  # fmt: skip


def run(script: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_list_is_long() -> None:
    assert len(ARRIVES) + len(REFUSED) >= 60


@pytest.mark.parametrize("kind", ARRIVES)
def test_it_arrives_equal(kind: str, tmp_path: Path) -> None:
    source, check = ARRIVES[kind]
    told = json_of(run(NOTEBOOK, source, str(tmp_path)))
    assert told["refused"] == []
    run(JOB, check, str(tmp_path))


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_by_name_with_what_to_do(kind: str, tmp_path: Path) -> None:
    source, part, why = REFUSED[kind]
    told = json_of(run(NOTEBOOK, source, str(tmp_path)))
    problems = {name: f"{problem}; {fix}" for name, problem, fix in told["refused"]}
    whole = " | ".join(f"{name}: {text}" for name, text in problems.items())
    assert why in whole
    assert part in whole
    assert "CANNOT GO" in told["text"]
    assert not list(tmp_path.iterdir()), "nothing was written"


def json_of(text: str) -> dict[str, list[tuple[str, str, str]]]:
    import json

    return dict(json.loads(text.splitlines()[-1]))
