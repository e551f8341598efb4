"""Datasets of the Hugging Face hub, by name: `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION`.

Only CSV, npy and JSON files of the train and test parts are fetched, into the hub client's own cache.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from eqr_ray.config.errors import UserError

# A lost connection raises the HTTP library's own error. Which library that is depends on the client's version (httpx,
# httpx2); its base error is the base of the client's.
TRANSPORT_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]

CSV_NAMES = ("train.csv", "test.csv", "train.csv.gz", "test.csv.gz")


def fetch(name: str) -> Path:
    """Download the dataset's files and return the folder that holds them, laid out as in the repository.

    UserError: no such dataset, no network, or nothing that this package reads.
    """
    repository, _, revision = name.partition("@")
    api = HfApi()
    try:
        files = api.list_repo_files(repository, repo_type="dataset", revision=revision or None)
        wanted = [file for file in files if file in CSV_NAMES or _is_npy_file(file)]
        if not wanted:
            has = ", ".join(sorted(files)[:8]) or "nothing"
            raise UserError(f"hub:{name} has neither train.csv nor train/*.npy; it has: {has}")
        at = revision or None
        return Path(api.snapshot_download(repository, repo_type="dataset", revision=at, allow_patterns=wanted))
    except HFValidationError as error:
        raise UserError(f"hub:{name}: not a name of the form OWNER/NAME ({error})") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(f"hub:{name}: no such dataset or revision, or it is private") from error
    except (TRANSPORT_ERROR, OSError) as error:
        detail = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"hub:{name}: cannot be fetched ({detail})") from error


def _is_npy_file(file: str) -> bool:
    folder, _, base = file.rpartition("/")
    return folder in ("train", "test") and (base == "dataset.json" or base.endswith(".npy"))
