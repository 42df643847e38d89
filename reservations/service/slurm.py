"""The pools of a Slurm, as the service runs them."""

from __future__ import annotations

from ..engines.slurm.agents import MeetingAgents
from ..engines.slurm.config import SlurmPool, read_pools
from ..engines.slurm.engine import SlurmEngine
from ..engines.slurm.source import Sources
from ..engines.slurm.submissions import Ways
from .auth import jobagent_key
from .external import ExternalLoop
from .runtime import Runtime, is_gentle
from .settings import Settings


def slurm_loops(runtime: Runtime, settings: Settings) -> list[ExternalLoop]:
    """One for each pool that the site says, known to the runtime's pool from here on. Raises ConfigError."""
    pools = [] if settings.state_dir is None else read_pools(settings.state_dir)
    sources = Sources()
    return [_loop(runtime, settings, pool, sources) for pool in pools]


def _loop(runtime: Runtime, settings: Settings, pool: SlurmPool, sources: Sources) -> ExternalLoop:
    ways = Ways(
        service_url=pool.service_url or settings.public_url,
        hub_api_url=pool.hub_api_url or settings.public_hub_api_url,
        python=pool.python,
        log_folder=pool.log_folder,
        key=lambda reservation_id: jobagent_key(settings, reservation_id),
        ports=pool.ports,
        simulated=pool.simulated,
    )
    commands = pool.commands()
    addresses, tag = runtime.meeting.addresses, settings.tag(pool.name)
    source = sources.of(commands)
    engine = SlurmEngine(pool, commands, source, ways, tag, lambda: runtime.pool.limits, addresses)
    runtime.pool.engines[engine.name] = engine
    agents = MeetingAgents(runtime.meeting, runtime.pool, engine.holdings, is_gentle)
    for reservation in runtime.pool.live():
        if reservation.request.engine == engine.name:
            agents.expect(reservation)  # before any agent is heard: none may be let in that the ledger does not mean
    return ExternalLoop(runtime, engine, agents, tag)
