"""Commands for a mirror: everything that is installed from elsewhere, in a folder of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipway.cli.output import Json, print_json
from slipway.errors import SlipwayError

mirror_app = typer.Typer(no_args_is_help=True, help="Charts, manifests and images for a site without the internet.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the mirror.")]
Images = Annotated[
    bool, typer.Option("--images/--no-images", help="Images, too; without them only their digests are looked up.")
]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(mirror_app, name="mirror")


@mirror_app.command("plan")
def show_plan(folder: Folder, as_json: Json = False) -> None:
    """Every chart, manifest and image: version, digest, source, and whether the folder has it."""
    from slipway.mirror.check import is_there
    from slipway.mirror.pins import read_pins

    rows = [
        {
            "item": pin.key,
            "version": pin.version,
            "state": "there" if is_there(folder, pin) else "to fetch",
            "digest": pin.digest or "not looked up yet",
            "source": pin.address,
        }
        for pin in read_pins(folder)
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['state']:<9} {row['item']:<32} {row['version']:<24} {row['digest']}")
        typer.echo(f"{'':<9} {row['source']}")


@mirror_app.command("pull")
def pull_all(folder: Folder, images: Images = True) -> None:
    """Fetch what is missing, checked by digest; what broke off goes on where it stopped."""
    from slipway.mirror.download import open_downloads
    from slipway.mirror.pins import read_pins
    from slipway.mirror.pull import pull

    pins = read_pins(folder)
    with open_downloads() as downloads:
        failures = pull(folder, pins, downloads, say=lambda text: typer.echo(f"  {text}"), images=images)
    if failures:
        lines = [f"{failure.pin.key}: {failure.error}" for failure in failures]
        raise SlipwayError("\n".join([f"{len(failures)} of {len(pins)} items were not fetched", *lines]))
    typer.echo(f"{folder} has all {len(pins)} items; next: [kubernetes.mirror] dir = {str(folder.absolute())!r}")
    if images:
        typer.echo(
            f"images:    skopeo copy --all oci:{folder}/images:NAME docker://REGISTRY/NAME, for each in the plan"
        )


@mirror_app.command("check")
def check_all(folder: Folder, images: Images = True, as_json: Json = False) -> None:
    """Read everything again; exit 1 when an item is missing, or is not what is pinned."""
    from slipway.mirror.check import check
    from slipway.mirror.pins import read_pins

    pins = read_pins(folder)
    faults = check(folder, pins, images=images)
    if as_json:
        print_json([{"item": fault.pin.key, "state": fault.state, "found": fault.found} for fault in faults])
    else:
        for fault in faults:
            typer.echo(f"{fault.state:<10} {fault.pin.key} {fault.pin.version}: {fault.found}")
        lacking = len({fault.pin.key for fault in faults})
        typer.echo(f"{lacking} of {len(pins)} items; slipway mirror pull {folder}" if faults else "All is there.")
    if faults:
        raise typer.Exit(1)
