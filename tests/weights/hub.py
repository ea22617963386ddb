"""A small server that answers as the Hugging Face hub does for repositories of small files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a hub whose ``owner/name`` repositories are the folders ``folder/owner/name``.

    They have the revision "main" alone, and its commit. A file ``.gated`` in one holds the status with which
    requests are refused; ``.cut`` holds how many answers stop in the middle of a file, and then continue.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_POST(self) -> None:
            """What an upload asks: a repository, how each file is to come, and the commit."""
            sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
            kind, *name = self.path.partition("?")[0].removeprefix("/api/").split("/")
            address = f"http://{self.headers['Host']}"
            if kind == "repos":
                given = json.loads(sent)
                repository = f"{given.get('organization') or 'someone'}/{given['name']}"
                folder.joinpath(repository).mkdir(parents=True, exist_ok=True)
                self._say({"url": f"{address}/{repository}"})
            elif name[2:3] == ["preupload"]:
                files = [file["path"] for file in json.loads(sent)["files"]]
                regular = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self._say({"files": [{"path": path, **regular} for path in files]})
            elif name[2:3] == ["commit"]:
                for line in map(json.loads, sent.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        folder.joinpath(*name[:2], line["value"]["path"]).write_bytes(content)
                url = f"{address}/{name[0]}/{name[1]}/commit/{COMMIT}"
                self._say({"commitUrl": url, "commitOid": COMMIT})
            else:
                self._say({})

        def _say(self, answer: Any) -> None:
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _answer(self, body: bool) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            repository = folder.joinpath(*parts[:2])
            file = repository.joinpath(*parts[4:]) if parts[2:3] == ["resolve"] else None
            status, missing = 404, "EntryNotFound" if repository.is_dir() else "RepoNotFound"
            if (gated := repository / ".gated").is_file():
                status, missing, file = int(gated.read_text()), "GatedRepo", None
            elif file is not None and repository.is_dir() and parts[3] not in ("main", COMMIT):
                missing, file = "RevisionNotFound", None
            if file is None or not file.is_file():
                self.send_response(status)
                self.send_header("X-Error-Code", missing)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = file.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            begin = int(re.sub(r"\D", "", self.headers.get("Range", "0")))
            self.send_response(206 if begin else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{digest}"')
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            if body:
                self.wfile.write(data[begin : self._find_end(repository / ".cut", begin, len(data))])

        def _find_end(self, marker: Path, begin: int, length: int) -> int:
            """The end of what is sent: the middle of the rest, as often as ``marker`` says."""
            left = int(marker.read_text()) if marker.is_file() else 0
            if not left:
                return length
            marker.write_text(str(left - 1))
            self.close_connection = True
            return (begin + length) // 2

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
