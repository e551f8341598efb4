"""All of Ray, and DeepSpeed in one file: clusters, training workers, breadth actors, search.

Ray reads its environment at `import ray`: these settings come before any module of this package; set by the user, they
stay.
"""

from __future__ import annotations

import os
import sys

SETTINGS = {
    # 0 makes Ray keep 127.0.0.1 as the node's address on Linux too, instead of the network card's
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DEDUP_LOGS": "0",
    # a dead worker is noticed and a report returns in 0.2 s instead of 2 s
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # a trial of Tune stays in the folder where it was started, writes no files of Tune's, and leaves Ctrl-C to us
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is silent at verbose=0, the new one is not
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",  # a machine that is busy takes minutes
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # actors without a GPU keep the devices that the user made visible
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)

# Where there is a token it is shown: `ray.init` does so by itself, the client that submits jobs does not. Not where Ray
# has been imported before: it has looked by then. (Not by Path, which raises where nobody may look.)
TOKEN = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
if "ray" not in sys.modules and (os.environ.get("RAY_AUTH_TOKEN") or os.path.isfile(TOKEN)):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
