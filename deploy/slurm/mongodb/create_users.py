"""Make the users of a new MongoDB server without docker: python create_users.py [PORT], on the server's machine.

Reads passwords.env beside it. A server that has no user yet lets a local client make the first one.
"""

import sys
from pathlib import Path

from pymongo import MongoClient

lines = Path(__file__).with_name("passwords.env").read_text().splitlines()
values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
port = int(sys.argv[1]) if len(sys.argv) > 1 else 27017

admin, secret = values["MONGO_INITDB_ROOT_USERNAME"], values["MONGO_INITDB_ROOT_PASSWORD"]
with MongoClient("127.0.0.1", port, serverSelectionTimeoutMS=10_000) as client:
    client["admin"].command("createUser", admin, pwd=secret, roles=["root"])
with MongoClient("127.0.0.1", port, username=admin, password=secret, authSource="admin") as client:
    name = values["ATOMFOUNDRY_DATABASE"]
    client[name].command(
        "createUser",
        values["ATOMFOUNDRY_USER"],
        pwd=values["ATOMFOUNDRY_PASSWORD"],
        roles=[{"role": "readWrite", "db": name}],
    )
