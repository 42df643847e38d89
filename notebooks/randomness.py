"""Random numbers of a cell that runs elsewhere.

A single job goes on with the notebook's streams, and the notebook gets them back where the job left them. Everything
else has streams of its own: each point of a sweep, each trial, each rank, and the notebook itself while a job has its
former ones. These are seeded from a digest of the state that they leave and a label, as ``numpy.random.SeedSequence``
does for its children: the same state and label give the same stream, on every engine and at every run.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from blake3 import blake3

LEFT = "what the notebook goes on with"
"""The label of the streams that a notebook has once a job has its former ones."""
_MOST_BITS = 63
_OF_THE_PROCESS = (("random", "_inst"), ("numpy.random.mtrand", "_rand"), ("torch", "default_generator"))
_recorded: ContextVar[dict[int, Any] | None] = ContextVar("generators that a snapshot holds", default=None)


def states() -> dict[str, Any]:
    """Of every random generator that is a part of the process, as far as its package is in use."""
    found: dict[str, Any] = {"random": random.getstate()}
    if "numpy" in sys.modules:
        found["numpy"] = sys.modules["numpy"].random.get_state(legacy=False)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_rng_state"):
        found["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_states(found: dict[str, Any]) -> None:
    """As ``states`` gave them, whose packages are imported."""
    if "random" in found:
        random.setstate(found["random"])
    if "numpy" in found:
        _set_numpy(importlib.import_module("numpy").random, found["numpy"])
    if "torch" in found:
        importlib.import_module("torch").set_rng_state(found["torch"])
    if "cuda" in found:
        cuda = importlib.import_module("torch").cuda
        for number, state in enumerate(found["cuda"][: cuda.device_count()]):
            cuda.set_rng_state(state, number)


def _set_numpy(module: Any, state: Any) -> None:
    name = state["bit_generator"] if isinstance(state, dict) else state[0]
    if hasattr(module, "set_bit_generator") and type(module.get_bit_generator()).__name__ != name:
        module.set_bit_generator(getattr(module, name)())  # the notebook chose another one for the whole process
    module.set_state(state)


def derived(found: dict[str, Any], label: str) -> dict[str, Any]:
    """Streams that are independent of those in ``found``, and of those of every other label."""
    own: dict[str, Any] = {}
    if "random" in found:
        own["random"] = random.Random(seed(found["random"], label)).getstate()
    if "numpy" in found:
        own["numpy"] = _derived_numpy(found["numpy"], label)
    if "torch" in found:
        generator = importlib.import_module("torch").Generator()
        own["torch"] = generator.manual_seed(_short(seed(found["torch"], label))).get_state()
    if "cuda" in found:
        own["cuda"] = [_derived_cuda(state, f"{label}, device {number}") for number, state in enumerate(found["cuda"])]
    return own


def _derived_numpy(state: Any, label: str) -> Any:
    numpy = importlib.import_module("numpy").random
    name = state["bit_generator"] if isinstance(state, dict) else state[0]
    fresh = getattr(numpy, name)(numpy.SeedSequence(seed(state, label)))
    return {**fresh.state, "has_gauss": 0, "gauss": 0.0}


def _derived_cuda(state: Any, label: str) -> Any:
    """A Philox state ends with its seed and its offset, 8 bytes each (torch, CUDAGeneratorImpl.cpp)."""
    own = state.clone()
    words = _short(seed(state, label)).to_bytes(8, sys.byteorder) + bytes(8)
    own[-16:] = importlib.import_module("torch").tensor(list(words), dtype=own.dtype)
    return own


def seed(state: Any, label: str) -> int:
    """256 bits, from all of ``state`` and the label."""
    digest = blake3(label.encode())
    _update(digest, state)
    return int.from_bytes(digest.digest(), "big")


def digest(state: Any) -> str:
    """Equal states have equal ones."""
    found = blake3()
    _update(found, state)
    return str(found.hexdigest())


def _update(found: Any, state: Any) -> None:
    if isinstance(state, dict):
        for key in sorted(state):
            found.update(f"{key}:".encode())
            _update(found, state[key])
    elif isinstance(state, list | tuple):
        for part in state:
            _update(found, part)
    elif hasattr(state, "tobytes"):
        found.update(state.tobytes())
    elif hasattr(state, "numpy"):
        found.update(state.numpy().tobytes())
    else:
        found.update(f"{state!r},".encode())


def _short(number: int) -> int:
    return number & ((1 << _MOST_BITS) - 1)


# --- from the notebook to a job and back

_HANDED: dict[str, list[tuple[Any, str]]] = {}
"""By job: the generators of this process that went with it, and the digest of what each goes on with."""


@dataclass(frozen=True)
class Streams:
    """What went with a job: ``found`` of the process, and the ``generators`` that its variables hold."""

    found: dict[str, Any]
    generators: tuple[Any, ...]

    def left(self) -> dict[str, str]:
        """Digests of what the process goes on with."""
        return {name: digest(state) for name, state in derived(self.found, LEFT).items()}

    def move_on(self, job_id: str) -> None:
        """Gives this process streams of its own: those that went are the job's now."""
        set_states(derived(self.found, LEFT))
        derive(self.generators, LEFT)
        _HANDED[job_id] = [(generator, digest(state_of(generator))) for generator in self.generators]


def streams_of(generators: Sequence[Any]) -> dict[str, Any]:
    """In a job, at its end: what goes back."""
    return {"process": states(), "held": [state_of(generator) for generator in generators]}


def go_on(job_id: str, left: Mapping[str, str], back: Mapping[str, Any]) -> None:
    """In the notebook: goes on where the job has come to, with each stream that was not used here meanwhile."""
    here = states()
    for name, state in back.get("process", {}).items():
        if name in here and left.get(name) == digest(here[name]):
            set_states({name: state})
    for (generator, was), state in zip(_HANDED.pop(job_id, ()), back.get("held", ()), strict=False):
        if digest(state_of(generator)) == was:
            set_state(generator, state)


# --- generators that variables hold


@contextlib.contextmanager
def recording() -> Iterator[dict[int, Any]]:
    """The generators that are pickled or unpickled meanwhile, wherever they are held, by their number in the pickle."""
    found: dict[int, Any] = {}
    token = _recorded.set(found)
    try:
        yield found
    finally:
        _recorded.reset(token)


def reduced(item: Any) -> Any:
    """What pickles a generator so that loading it is recorded too; None for anything else.

    Functions such as ``random.random`` and ``numpy.random.normal`` are methods of the process's own generators, which
    go by name: there they are methods of those of the job's process.
    """
    if not is_generator(item):
        return None
    for module, name in _OF_THE_PROCESS:
        if item is getattr(sys.modules.get(module), name, None):
            return _of_the_process, (module, name)
    found = _recorded.get()
    number = 0 if found is None else len(found)
    if found is not None:
        found[number] = item
    made, arguments, *rest = item.__reduce_ex__(5)
    return (loaded, (number, made, arguments), *rest)


def _of_the_process(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def loaded(number: int, made: Any, arguments: tuple[Any, ...]) -> Any:
    """Makes a generator as its pickle says."""
    item = made(*arguments)
    found = _recorded.get()
    if found is not None:
        found[number] = item
    return item


def in_order(found: Mapping[int, Any]) -> list[Any]:
    """The generators of a recording, the same for writer and reader: one that is made of another is loaded after it."""
    return [found[number] for number in sorted(found)]


def is_generator(item: Any) -> bool:
    """Whether ``item`` draws from a stream of its own: of NumPy what is below a ``Generator``, too."""
    if isinstance(item, random.Random):
        return not isinstance(item, random.SystemRandom)
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(item, (numpy.random.BitGenerator, numpy.random.RandomState)):
        return True
    return torch is not None and isinstance(item, getattr(torch, "Generator", ()))


def state_of(generator: Any) -> Any:
    """Of one that a variable holds."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "get_state"):  # torch, or NumPy's RandomState
        return generator.get_state() if hasattr(generator, "manual_seed") else generator.get_state(legacy=False)
    return _Spawning(generator.state, getattr(generator, "seed_seq", None))


def set_state(generator: Any, state: Any) -> None:
    """As ``state_of`` gave it."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "set_state"):
        generator.set_state(state)
    else:
        _set_spawning(generator, state)


class _Spawning(NamedTuple):
    """Of what is below a NumPy ``Generator``: its state, and the seeds from which ``spawn`` makes its children."""

    state: Any
    seeds: Any

    def seed(self, label: str) -> int:
        """Not from all of ``seeds``: beside a state that was set, they may be of chance."""
        return seed((self.state, getattr(self.seeds, "n_children_spawned", 0)), label)


def _set_spawning(generator: Any, found: _Spawning) -> None:
    generator.state = found.state
    if found.seeds is not None:
        with contextlib.suppress(TypeError, AttributeError, KeyError, ValueError):  # a NumPy that keeps no seeds
            generator.__setstate__((found.state, found.seeds))


def derive(generators: Sequence[Any], label: str) -> None:
    """Gives each, in place, a stream that is independent of its own and of that of every other label."""
    found = [state_of(generator) for generator in generators]  # RandomState and what is below it share one
    for generator, state in zip(generators, found, strict=True):
        with contextlib.suppress(Exception):  # somebody's own kind, which cannot be seeded like those of its package
            _derive(generator, state, label)


def _derive(generator: Any, state: Any, label: str) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(random.Random(seed(state, label)).getstate())
    elif hasattr(generator, "manual_seed"):
        generator.manual_seed(_short(seed(state, label)))
    elif hasattr(generator, "get_state"):
        generator.set_state(_derived_numpy(state, label))
    else:
        numpy = importlib.import_module("numpy").random
        seeds = numpy.SeedSequence(state.seed(label))
        _set_spawning(generator, _Spawning(type(generator)(seeds).state, seeds))
