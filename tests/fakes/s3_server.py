# SPDX-License-Identifier: Apache-2.0
"""Moto's S3 server on loopback, with one bucket and one user who may use it; unknown access keys
are refused.

A program for a virtual environment of its own, the one that has moto (`.venv/s3`): the client
library of AWS wants older packages than we do. Knows nothing of mounts. Objects are kept in memory;
what lies in DIRECTORY is put into the bucket at the start, so that a server that comes back has it.

`s3_server.py PORT BUCKET DIRECTORY KEYS`; the file KEYS holds one line, `ACCESS_KEY:SECRET_KEY`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from moto import settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.access_control import S3IAMRequest
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

_ALL = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


def main(words: list[str]) -> None:
    port, bucket, directory = int(words[0]), words[1], Path(words[2])
    access, _, secret = Path(words[3]).read_text().strip().partition(":")
    users = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    users.create_user("us-east-1", "tester")
    key = users.create_access_key("tester")
    key.access_key_id, key.secret_access_key = access, secret
    policy = json.dumps({"Version": "2012-10-17", "Statement": [_ALL]})
    users.put_user_policy("tester", "all", policy)
    buckets = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    buckets.create_bucket(bucket, "us-east-1")
    for path in directory.iterdir():
        buckets.put_object(bucket, path.name, path.read_bytes())
    # It computes signatures of queries in another form than s3fs does: the user counts, not them.
    S3IAMRequest.check_signature = lambda _: None
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0  # from now on every request has to be signed
    app = DomainDispatcherApplication(create_backend_app)
    make_server("127.0.0.1", port, app, True, request_handler=MotoRequestHandler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
