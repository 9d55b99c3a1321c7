"""`inspector keys`: make the server's keys, let clients in, take that back, show who is let in."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from inspector.wire import keys


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `inspector keys`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    make = actions.add_parser("make", help="a new folder with the daemon's own keys")
    make.add_argument("folder", type=Path, metavar="DIR")
    make.add_argument("--replace", action="store_true", help="a new pair although there is one: shuts every client out")
    make.set_defaults(action=_make)

    add = actions.add_parser("add", help="let a client in")
    add.add_argument("folder", type=Path, metavar="DIR")
    add.add_argument("name", metavar="NAME", help="of the client, such as the program or the machine")
    add.add_argument(
        "--may", default=",".join(keys.DEFAULT_ROLES), metavar="ROLES", help="events (the default), control, or both"
    )
    add.add_argument("--public", metavar="KEY", help="public key of a client that made its own pair")
    add.add_argument("--replace", action="store_true", help="a new key for a client that there is: the old one ends")
    add.set_defaults(action=_add)

    remove = actions.add_parser("remove", help="let a client in no more; a running daemon cuts it off within seconds")
    remove.add_argument("folder", type=Path, metavar="DIR")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(action=_remove)

    show = actions.add_parser("list", help="who is let in, and to do what")
    show.add_argument("folder", type=Path, metavar="DIR")
    show.add_argument("--json", action="store_true", help="a JSON array")
    show.set_defaults(action=_list)


def run(options: argparse.Namespace) -> int:
    """Do what `arguments` parsed; returns the exit code.

    Raises:
        ConfigError: a name, a key, a role or a file is wrong.
    """
    return int(options.action(options))


def _make(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    keys.make(folder, replace=options.replace)
    print(f"{folder}/server.key_secret  the daemon's secret: only its user may read it")
    print(f"{folder}/server.key         the daemon's public key: give it to every client")
    print(f"Set `keys: {folder.absolute()}` beside an address; let clients in with: inspector keys add {folder} NAME")
    return 0


def _add(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    roles = keys.parse_roles(options.may, "--may")
    client = keys.add(folder, options.name, roles, options.public, replace=options.replace)
    print(f"{client.name} is let in, for {' and '.join(client.may)}.")
    pair = f"{client.name}.key_secret"
    if client.secret_path is not None:
        print("Take these two files to the client by a safe way, keep the first one secret, and delete it here:")
        print(f"    {client.secret_path}\n    {folder}/server.key")
    else:
        pair = "ITS OWN CERTIFICATE"
        print(f"Take this file to the client:\n    {folder}/server.key")
    print("The client:")
    if "events" in client.may:
        print(f'    subscribe("tcp://HOST:5570", keys="{pair}", server_key="server.key")')
    if "control" in client.may:
        print(f'    Control("tcp://HOST:PORT", keys="{pair}", server_key="server.key")')
    return 0


def _remove(options: argparse.Namespace) -> int:
    keys.remove(options.folder, options.name)
    print(f"{options.name} is let in no more; running daemons cut it off within seconds.")
    return 0


def _list(options: argparse.Namespace) -> int:
    clients = keys.listing(options.folder)
    if options.json:
        print(json.dumps([_row(client) for client in clients], indent=2))
        return 0
    table = Table(title=f"{options.folder}: {len(clients)} let in", title_justify="left")
    for heading in ("client", "may", "public key", "secret"):
        table.add_column(heading, no_wrap=True)
    for client in clients:
        table.add_row(client.name, ", ".join(client.may), client.public_key, _secret(client))
    Console(width=160, markup=False, emoji=False, highlight=False).print(table)
    return 0


def _row(client: keys.Client) -> dict[str, object]:
    secret = str(client.secret_path) if client.secret_path else None
    return {"name": client.name, "may": list(client.may), "public_key": client.public_key, "secret": secret}


def _secret(client: keys.Client) -> str:
    return "still here" if client.secret_path else "not here"
