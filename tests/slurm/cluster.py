"""A Slurm of one node on loopback, from Debian's packages; all of it lies in one folder and goes with it.

    python tests/slurm/cluster.py start FOLDER      # prints the environment to use it with
    python tests/slurm/cluster.py stop FOLDER

As root on Debian or Ubuntu. The only file elsewhere is a link to the configuration, while the cluster runs: Snakemake
starts its steps without the variable SLURM_CONF.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = ("munge", "slurm-client", "slurmctld", "slurmd", "slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")
CONFIGURATION = Path("/etc/slurm/slurm.conf")
DAEMONS = ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged")  # in the order in which they are stopped


def unfit() -> str:
    """Why a cluster cannot be set up here, or nothing."""
    if os.geteuid() != 0:
        return "needs root, to start Slurm"
    if not Path("/etc/debian_version").exists() or not shutil.which("apt-get"):
        return "needs Debian or Ubuntu, whose packages it takes"
    if CONFIGURATION.exists():
        return f"leaves the Slurm of this machine alone ({CONFIGURATION})"
    return ""


def unpack(folder: Path) -> None:
    """Fetch Slurm's Debian packages with what they need, and unpack them into a folder of their own.

    They are not installed: Slurm's commands on the search path without a controller would make every start of Snakemake
    on this machine wait nine seconds.
    """
    archives = folder / "archives"
    (archives / "partial").mkdir(parents=True)
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "--download-only"]
    subprocess.run([*command, "-o", f"Dir::Cache::archives={archives}", *PACKAGES], check=True)
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg", "-x", archive, folder / "root"], check=True)
    for name in ("slurmctld", "slurmd", "slurmstepd"):  # they know what they are by the name they are called by
        (folder / f"root/usr/sbin/{name}").symlink_to(f"{name}-wlm")


class Cluster:
    """Controller, node and authentication, with all their files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "root/usr"
        (self.libraries,) = (self.programs / "lib").glob("*-linux-gnu") if self.programs.exists() else (folder,)
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{self.programs / 'bin'}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{self.libraries}:{self.libraries / 'slurm-wlm'}",
        }

    def start(self) -> None:
        """Write the configuration and start the daemons, each when the one before answers."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        host = socket.gethostname().partition(".")[0]
        filled = {"host": host, "folder": str(self.folder), "plugins": str(self.libraries / "slurm-wlm")}
        for name in ("slurm.conf", "gres.conf"):
            (self.folder / name).write_text((HERE / f"{name}.in").read_text().format_map(filled))
        CONFIGURATION.parent.mkdir(exist_ok=True)
        CONFIGURATION.symlink_to(self.folder / "slurm.conf")
        CONFIGURATION.with_name("gres.conf").symlink_to(self.folder / "gres.conf")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log",
                 "seed-file": "munged.seed"}  # fmt: skip
        options = [f"--{option}={self.folder / file}" for option, file in files.items()]
        daemons = self.programs / "sbin"
        self.run(daemons / "munged", "--force", *options)
        self._answers("munge", "-n", "-S", self.folder / "munge.socket")
        self.run(daemons / "slurmctld", "-f", self.folder / "slurm.conf")
        self._answers("scontrol", "ping", holds=lambda text: "UP" in text)
        self.run(daemons / "slurmd", "-f", self.folder / "slurm.conf", "-N", host, "-d", daemons / "slurmstepd")
        self._answers("sinfo", "-h", "-o", "%T", holds=lambda text: "idle" in text)

    def keep_accounts(self) -> None:
        """Let the running cluster keep accounts from now on, by slurmdbd and a MariaDB of its own."""
        maria, database = self.programs / "share/mysql", self.folder / "database"
        database.mkdir()
        places = {"datadir": database, "socket": database / "socket", "lc-messages-dir": maria,
                  "pid-file": self.folder / "mariadbd.pid", "log-error": self.folder / "mariadbd.log"}  # fmt: skip
        options = [f"--{option}={place}" for option, place in places.items()]
        options += ["--user=root", "--skip-grant-tables", "--bind-address=127.0.0.1", "--port=16820"]
        server = [self.programs / "sbin/mariadbd", "--no-defaults", *options]
        subprocess.Popen(server, env=self.environment, stderr=subprocess.DEVNULL)
        log = places["log-error"]
        self._answers("cat", log, holds=lambda text: "ready for connections" in text)
        settings = self.folder / "slurmdbd.conf"
        filled = {"folder": str(self.folder), "plugins": str(self.libraries / "slurm-wlm")}
        settings.write_text((HERE / "slurmdbd.conf.in").read_text().format_map(filled))
        settings.chmod(0o600)
        self.run(self.programs / "sbin/slurmdbd")
        configuration = self.folder / "slurm.conf"
        text = configuration.read_text().replace("accounting_storage/none", "accounting_storage/slurmdbd")
        accounts = {"Host": "127.0.0.1", "Port": 16819, "Pass": self.folder / "munge.socket"}
        configuration.write_text(text + "".join(f"AccountingStorage{key}={it}\n" for key, it in accounts.items()))
        self._answers("sacctmgr", "--immediate", "add", "cluster", "firstshot-test")
        self._end("slurmctld")
        self.run(self.programs / "sbin/slurmctld", "-f", configuration)
        self._answers("sinfo", "-h", "-o", "%T", holds=lambda text: "idle" in text)

    def run(self, *command: str | Path) -> str:
        """Standard output of a command that talks to this cluster."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def _answers(self, *command: str | Path, holds: Callable[[str], bool] = bool) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(subprocess.CalledProcessError):
                if holds(self.run(*command)):
                    return
            time.sleep(0.1)
        logs = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in self.folder.glob("*.log"))
        raise RuntimeError(f"{' '.join(command)} does not answer\n{logs}")

    def _end(self, daemon: str) -> None:
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            number = int((self.folder / f"{daemon}.pid").read_text())
            os.kill(number, signal.SIGTERM)
            for _ in range(100):
                os.kill(number, 0)
                time.sleep(0.1)

    def stop(self) -> None:
        """Cancel all jobs and end the daemons that this cluster started."""
        with suppress(subprocess.CalledProcessError, FileNotFoundError):
            self.run("scancel", "--user=root")
            time.sleep(1)
        for name in DAEMONS:
            self._end(name)
        if CONFIGURATION.is_symlink() and CONFIGURATION.readlink().parent == self.folder:
            CONFIGURATION.unlink()
            CONFIGURATION.with_name("gres.conf").unlink()
            with suppress(OSError):  # not ours, where something else lies in it
                CONFIGURATION.parent.rmdir()


if __name__ == "__main__":
    verb, folder = sys.argv[1], Path(sys.argv[2])
    if verb == "start" and not (folder / "root").exists():
        unpack(folder)
    cluster = Cluster(folder)
    cluster.start() if verb == "start" else cluster.stop()
    for name in ("SLURM_CONF", "PATH", "LD_LIBRARY_PATH") if verb == "start" else ():
        print(f"export {name}={cluster.environment[name]}")
