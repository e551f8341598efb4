"""An S3-compatible object store on loopback: moto's server in a process of its own. What it holds goes with it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

from pyarrow.fs import S3FileSystem

BUCKET = "bucket"


class S3:
    """The server; `environment` is what its clients need."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": "us-east-1"}
        self.environment |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Empty, but for a bucket."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.1)
        self.files().create_dir(BUCKET)

    @property
    def runs(self) -> bool:
        """Whether it has been started and not stopped since."""
        return self._process is not None

    def files(self) -> S3FileSystem:
        """What it holds."""
        keys = {"access_key": "x", "secret_key": "x"}
        return S3FileSystem(endpoint_override=self.url, allow_bucket_creation=True, region="us-east-1", **keys)

    def silence(self) -> None:
        """It takes connections and does not answer."""
        self._signal(signal.SIGSTOP)

    def speak(self) -> None:
        """It answers again, and has forgotten nothing."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """For good, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
