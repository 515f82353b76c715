"""Packages of the npm registry, by the user's own configuration, and no byte of them that was not promised.

Where npm is installed it is asked: it knows the user's registry, proxy, certificates and credentials. Elsewhere the
package comes over HTTPS from the registry that the environment or an ``.npmrc`` names, or else from npm's default.
"""

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

DEFAULT = "https://registry.npmjs.org/"  # npm's own


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    integrity: str  # as the registry states it: "sha512-" and the digest in base 64


def fetch(package: Package, folder: Path) -> Path:
    """The package's tarball in ``folder``; one that is there and whole is not fetched again.

    Raises ``ValueError`` where the registry cannot be reached, has no such package, or sends other bytes.
    """
    path = folder / f"{package.name.replace('@', '').replace('/', '-')}-{package.version}.tgz"
    if path.is_file() and integrity(path) == package.integrity:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        download = by_npm if shutil.which("npm") else by_https
        tarball = download(package, Path(partial))
        if (found := integrity(tarball)) != package.integrity:
            raise ValueError(
                f"{package.name}@{package.version} arrived with the checksum {found}, expected {package.integrity}: "
                "try again; if it stays so, the registry serves another package"
            )
        tarball.replace(path)
    return path


def by_npm(package: Package, folder: Path) -> Path:
    """Has npm put the tarball into ``folder``."""
    spec = f"{package.name}@{package.version}"
    command = [shutil.which("npm"), "pack", spec, "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode or not tarballs:
        said = re.search(r"\bcode (\w+)", done.stderr)
        why = said[1] if said else f"exit status {done.returncode}"
        raise ValueError(f"npm could not fetch {spec} ({why}): check the network and npm config get registry")
    return tarballs[0]


def by_https(package: Package, folder: Path) -> Path:
    """Fetches the tarball into ``folder`` without npm."""
    url = registry(package.name)
    path = folder / "package.tgz"
    try:
        with urllib.request.urlopen(f"{url}{package.name.replace('/', '%2f')}", timeout=60) as answer:
            tarball = json.load(answer)["versions"][package.version]["dist"]["tarball"]
        with urllib.request.urlopen(tarball, timeout=60) as answer, path.open("wb") as file:
            shutil.copyfileobj(answer, file)
    # no network or page, half a page; no JSON or URL; no such version
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise ValueError(
            f"{package.name}@{package.version} could not be fetched from {url} ({type(error).__name__}: {error}): "
            "check the network, or name your registry in ~/.npmrc, registry=https://..."
        ) from error
    return path


def registry(name: str) -> str:
    """The registry of a package without asking npm: that of its scope before the general one, and the environment's
    before those of ``.npmrc`` here and at home."""
    settings = {}
    for file in (Path.home() / ".npmrc", Path(".npmrc")):
        if file.is_file():
            lines = (line.partition("=") for line in file.read_text().splitlines() if "=" in line)
            settings |= {key.strip(): value.strip().strip("\"'") for key, _, value in lines}
    environment = {key.lower(): value for key, value in os.environ.items()}
    settings["registry"] = environment.get("npm_config_registry", settings.get("registry", DEFAULT))
    scope = name.partition("/")[0] if name.startswith("@") else ""
    return settings.get(f"{scope}:registry", settings["registry"]).rstrip("/") + "/"


def integrity(path: Path) -> str:
    """A file's checksum as the registry writes it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode()}"
