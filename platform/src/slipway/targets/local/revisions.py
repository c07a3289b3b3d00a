"""Which revisions this machine should run: the files in conf.d, which outlive a stop, and what the ledger says.

The controller starts and stops revisions; this module only makes `slipway up` bring back what was there, also after a
restore, where there is a ledger and no files yet.
"""

from __future__ import annotations

from slipway.environment import Environment
from slipway.files import write_atomically
from slipway.targets.local import processes
from slipway.targets.local.configuration import render_program, revision_file
from slipway.targets.local.processes import Process


def list_revisions(environment: Environment) -> list[tuple[str, int]]:
    """(model, version) of every revision that has a file, sorted."""
    folder = revision_file(environment, "any").parent
    names = [file.stem.removeprefix("revision-").rpartition("-") for file in folder.glob("revision-*-*.conf")]
    return sorted((model, int(version)) for model, _, version in names if version.isdigit())


def list_released(environment: Environment) -> list[tuple[str, int]]:
    """(model, version) that the ledger wants to run: champions, their predecessors kept warm, open challengers."""
    from slipway.ledger import open_ledger, releases, rollouts

    wanted: set[tuple[str, int]] = set()
    with open_ledger(environment).read() as session:
        for release in releases.list_all(session):
            if release.archived:
                continue
            rollout = rollouts.open_for(session, release.model)
            versions = (release.champion, release.previous, rollout.challenger if rollout else None)
            wanted.update((release.model, version) for version in versions if version is not None)
    return sorted(wanted)


def list_champions(environment: Environment) -> list[tuple[str, int]]:
    """(model, version) of every champion in the ledger."""
    from slipway.ledger import open_ledger, releases

    with open_ledger(environment).read() as session:
        rows = [(row.model, row.champion) for row in releases.list_all(session) if not row.archived]
    return [(model, champion) for model, champion in rows if champion is not None]


def list_revision_processes(environment: Environment) -> list[Process]:
    """The processes of `list_revisions`."""
    return [processes.revision_process(environment, model, version) for model, version in list_revisions(environment)]


def write_revision(environment: Environment, process: Process) -> None:
    """Write the file that makes supervisord keep this revision."""
    file = revision_file(environment, process.name)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(file, render_program(environment, process))


def renew_revisions(environment: Environment) -> None:
    """Write the files of all revisions that should run, with the settings in force now."""
    for model, version in sorted({*list_revisions(environment), *list_released(environment)}):
        write_revision(environment, processes.revision_process(environment, model, version))
