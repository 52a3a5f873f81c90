"""A loopback server that answers like Zenodo and the organisers' repository, with a small data set made here."""

import contextlib
import hashlib
import io
import json
import threading
import time
import wave
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from firstshot import dcase

YEAR = 2025
LICENCE = "cc-by-nc-sa-4.0"


def wav(seed: int, seconds: float = 1.0, tone: float = 200.0) -> bytes:
    """A wav file of 16 kHz mono PCM: a tone in noise; the seed makes each file different."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(16_000 * seconds)) / 16_000
    samples = 0.3 * np.sin(2 * np.pi * tone * time) + 0.05 * generator.standard_normal(len(time))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    """A zip of the given members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return buffer.getvalue()


@dataclass
class Sizes:
    """Clips per machine type: training clips of each domain, test clips of each domain and condition, supplements."""

    source: int = 6
    target: int = 3
    cell: int = 2
    supplemental: int = 3
    seconds: float = 0.25


def machine_files(machine: str, sizes: Sizes, hidden: bool) -> tuple[dict[str, bytes], dict[str, bytes], list[str]]:
    """(train and supplemental files, test files under their true names, lines of revealed attributes)."""
    seed = int.from_bytes(hashlib.sha256(machine.encode()).digest()[:4], "big")
    train: dict[str, bytes] = {}
    revealed = ["source_file_name,target_file_name"]
    for domain, count in (("source", sizes.source), ("target", sizes.target)):
        for i in range(count):
            stem = f"section_00_{domain}_train_normal_{i:04d}"
            true = f"{stem}_spd_{i % 2 + 1 + 2 * (domain == 'target')}"
            name = f"{stem}_noAttribute" if hidden else true
            seed += 1
            train[f"{machine}/train/{name}.wav"] = wav(seed, sizes.seconds, 200 + 100 * (i % 2))
            revealed.append(f"{true}.wav,{name}.wav")
    for i in range(sizes.supplemental):
        seed += 1
        train[f"{machine}/supplemental/section_00_machine_{i:04d}_.wav"] = wav(seed, sizes.seconds)
    train[f"{machine}/attributes_00.csv"] = b"file_name\n"
    test: dict[str, bytes] = {}
    index = 0
    for domain in ("source", "target"):
        for condition in ("normal", "anomaly"):
            for i in range(sizes.cell):
                seed += 1
                attributes = f"spd_{i % 2 + 1}"
                tone = 200 + 100 * (i % 2) + 500 * (condition == "anomaly")
                test[f"section_00_{domain}_test_{condition}_{index:04d}_{attributes}.wav"] = wav(
                    seed, sizes.seconds, tone
                )
                index += 1
    return train, test, revealed


@dataclass
class Site:
    """What the server offers; tests change it to misbehave."""

    files: dict[str, bytes] = field(default_factory=dict)  # path → content
    records: dict[int, dict[str, bytes]] = field(default_factory=dict)  # record → archive name → content
    wrong_md5: set[str] = field(default_factory=set)  # archive names described with another checksum
    cut_after: dict[str, int] = field(
        default_factory=dict
    )  # archive name → bytes after which the connection breaks, once
    status: dict[str, list[int]] = field(default_factory=dict)  # part of a path → statuses to answer first
    redirect: dict[str, str] = field(default_factory=dict)  # path → other path
    slow: set[str] = field(default_factory=set)  # archive names of which a thousandth comes at a time, in a minute
    ranges: bool = True  # False: a server that ignores Range
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range header)
    url: str = ""

    def describe(self, record: int) -> bytes:
        """The API's answer about a record."""
        described = [
            {
                "key": name,
                "size": len(content),
                "checksum": "md5:" + ("0" * 32 if name in self.wrong_md5 else hashlib.md5(content).hexdigest()),
            }
            for name, content in self.records[record].items()
        ]
        return json.dumps({"id": record, "files": described, "metadata": {"license": {"id": LICENCE}}}).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers GET from the server's site."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        site.requests.append((path, self.headers.get("Range")))
        for piece, statuses in site.status.items():
            if piece in path and statuses:
                return self.answer(statuses.pop(0), b"no")
        if path in site.redirect:
            return self.answer(302, b"", {"Location": site.redirect[path]})
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "records"] and int(parts[2]) in site.records:
            return self.answer(200, site.describe(int(parts[2])))
        if parts[0] == "records" and len(parts) == 4:
            content = site.records.get(int(parts[1]), {}).get(parts[3])
            return self.answer(404, b"") if content is None else self.send_archive(site, parts[3], content)
        return self.answer(200, site.files[path]) if path in site.files else self.answer(404, b"")

    def send_archive(self, site: Site, name: str, content: bytes) -> None:
        start, status, headers = 0, 200, {}
        wanted = self.headers.get("Range")
        if wanted and site.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.answer(416, b"")
            status, headers = 206, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        cut = site.cut_after.pop(name, None)
        return self.answer(status, content[start:], headers, cut, name in site.slow)

    def answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
        slow: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if cut is not None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if not slow:
            self.wfile.write(body[:cut])
            return
        with contextlib.suppress(OSError):  # the client may hang up
            for start in range(0, len(body), len(body) // 1000 + 1):
                self.wfile.write(body[start : start + len(body) // 1000 + 1])
                time.sleep(0.06)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Quiet about clients that hang up."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def small_site(machines: list[str], sizes: Sizes | None = None) -> Site:
    """A site with the archives, lists and revealed attributes of some DCASE 2025 machine types."""
    site, sizes = Site(), sizes or Sizes()
    listed = ""
    row = dcase.year_row(YEAR)
    for machine in machines:
        hidden = machine in row["hidden_attributes"]
        train, test, revealed = machine_files(machine, sizes, hidden)
        evaluation = dcase.set_of(YEAR, machine) == "evaluation"
        if evaluation:
            # Deal the true names out to anonymous ones in an order that says nothing.
            order = sorted(test, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
            anonymous = {name: f"section_00_{i:04d}.wav" for i, name in enumerate(order)}
            listed += f"{machine}\n" + "".join(f"{anonymous[name]},{name}\n" for name in order)
            parts = [train, {f"{machine}/test/{anonymous[name]}": content for name, content in test.items()}]
        else:
            named = {
                f"{machine}/test/{name.rsplit('_spd_')[0] + '_noAttribute.wav' if hidden else name}": content
                for name, content in test.items()
            }
            parts = [train | named]
        for entry, members in zip(dcase.archives(YEAR, machine), parts, strict=True):
            site.records.setdefault(entry.record, {})[entry.name] = archive(members)
        short = "eval" if evaluation else "dev"
        if hidden:
            path = row["revealed"].format(set=short, machine=machine)
            site.files[f"/{path}"] = ("\n".join(revealed) + "\n").encode()
    site.files[f"/{row['truth_list']}"] = listed.encode()
    return site


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve a site on loopback; `site.url` is its base address."""
    server = Server(("127.0.0.1", 0), Handler)
    server.site = site  # type: ignore[attr-defined]
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
