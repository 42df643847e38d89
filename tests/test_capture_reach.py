"""What a cell reaches, and why people are told that it travels."""

from __future__ import annotations

from typing import Any

from timeshare.notebooks.capture.preflight import judge, report, size_text
from timeshare.notebooks.capture.reach import reach


def notebook(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<notebook>", "exec"), namespace)
    return namespace


SOURCE = """
CFG = {"lr": 1}
unused = list(range(10))
def build(): return CFG
def train(x): return build(), x
class Base:
    def step(self): return helper()
class Model(Base):
    def fit(self): return train(1)
def helper(): return LIMIT
LIMIT = 5
model = Model()
table = {"f": [helper]}
"""


def test_what_functions_read_comes_with_the_way_to_it() -> None:
    found = reach(["train"], notebook(SOURCE)).found
    assert {name: reached.by for name, reached in found.items()} == {
        "train": (),
        "build": ("train",),
        "CFG": ("train", "build"),
    }
    assert (found["train"].why, found["CFG"].why) == ("the cell reads it", "train → build uses it")


def test_classes_bases_and_containers_are_looked_into() -> None:
    assert set(reach(["model"], notebook(SOURCE)).found) == {"model", "train", "helper", "build", "CFG", "LIMIT"}
    assert set(reach(["table"], notebook(SOURCE)).found) == {"table", "LIMIT"}


def test_names_that_nobody_defined_are_told_and_builtins_are_not() -> None:
    found = reach(["f", "print"], notebook("def f(): return missing + len([])"))
    assert (set(found.found), found.unknown) == ({"f"}, {"missing": ("f",)})


def test_functions_of_packages_bring_their_own() -> None:
    space = notebook("import json\nread = json.loads\nname = 'x'")
    assert set(reach(["read", "json"], space).found) == {"read", "json"}


def test_the_report_has_what_cannot_go_first_then_the_largest() -> None:
    space = notebook("small = 1\nlarge = b'x' * 3_000_000\nbad = (x for x in [])\nimport math")
    verdicts = judge(reach(["small", "large", "bad", "math"], space).found, space)
    names = [line.split()[0] for line in report(verdicts).splitlines()]
    assert names[:2] == ["bad", "large"]
    assert next(v for v in verdicts if v.name == "math").modules == ("math",)
    assert size_text(next(v for v in verdicts if v.name == "large").size) == "2.9 MiB"
