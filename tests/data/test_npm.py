"""Packages from a registry on this machine: none of these tests needs the network."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data import npm
from data.npm import Package


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry with the one package @tiny/pictures, version 1.0.0; npm is not installed."""
    root = tmp_path / "registry"
    root.mkdir()
    (root / "pictures.tgz").write_bytes(b"the bytes of a package")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root)) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        (root / "@tiny").mkdir()
        about = {"versions": {"1.0.0": {"dist": {"tarball": f"{url}/pictures.tgz"}}}}
        (root / "@tiny" / "pictures").write_text(json.dumps(about))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("npm_config_registry", raising=False)
        monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
        monkeypatch.chdir(tmp_path)
        (tmp_path / ".npmrc").write_text(f"fund = false\n@tiny:registry={url}/\n")
        yield root
        server.shutdown()


@pytest.fixture
def package(registry) -> Package:
    return Package("@tiny/pictures", "1.0.0", npm.integrity(registry / "pictures.tgz"))


def test_integrity_is_written_as_npm_writes_it(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert npm.integrity(tmp_path / "empty") == (
        "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
    )


def test_without_npm_the_registry_of_the_npmrc_is_asked(package, tmp_path):
    path = npm.fetch(package, tmp_path / "packages")
    assert path.name == "tiny-pictures-1.0.0.tgz" and path.read_bytes() == b"the bytes of a package"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_whole_package_is_not_fetched_again_and_a_damaged_one_is(package, registry, tmp_path):
    path = npm.fetch(package, tmp_path / "packages")
    path.write_bytes(b"half")
    assert npm.fetch(package, tmp_path / "packages").read_bytes() == b"the bytes of a package"
    (registry / "pictures.tgz").unlink()
    assert npm.fetch(package, tmp_path / "packages") == path


def test_other_bytes_than_promised_are_refused_and_not_kept(package, registry, tmp_path):
    (registry / "pictures.tgz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"arrived with the checksum sha512-.*, expected sha512-") as caught:
        npm.fetch(package, tmp_path / "packages")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "packages").iterdir()) == []


@pytest.mark.parametrize("name, version", [("@tiny/missing", "1.0.0"), ("@tiny/pictures", "2.0.0")])
def test_what_the_registry_does_not_have_is_one_line(registry, tmp_path, name, version):
    with pytest.raises(ValueError, match=r"could not be fetched from http://127.*\.npmrc") as caught:
        npm.fetch(Package(name, version, "sha512-"), tmp_path / "packages")
    assert "\n" not in str(caught.value)


def test_a_scopes_registry_comes_before_the_environments_and_that_before_the_files(registry, tmp_path, monkeypatch):
    assert npm.registry("other") == npm.DEFAULT
    (tmp_path / ".npmrc").write_text("registry=https://one.example\n@tiny:registry=https://two.example/npm/\n")
    assert npm.registry("other") == npm.registry("@other/thing") == "https://one.example/"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://three.example/")
    assert npm.registry("other") == "https://three.example/"
    assert npm.registry("@tiny/pictures") == "https://two.example/npm/"


def program(folder, lines: str) -> None:
    """An npm that does what the lines of shell say."""
    (folder / "npm").write_text(f"#!/bin/sh\n{lines}\n")
    (folder / "npm").chmod(0o755)


def test_with_npm_npm_is_asked(package, registry, tmp_path):
    program(
        tmp_path, 'test "$1 $2 $3" = "pack @tiny/pictures@1.0.0 --pack-destination" || exit 3\nprintf made >"$4/x.tgz"'
    )
    with pytest.raises(ValueError, match="arrived with the checksum"):
        npm.fetch(package, tmp_path / "packages")
    (registry / "made").write_bytes(b"made")
    made = Package("@tiny/pictures", "1.0.0", npm.integrity(registry / "made"))
    assert npm.fetch(made, tmp_path / "packages").read_bytes() == b"made"


def test_what_npm_says_becomes_one_line(package, tmp_path):
    program(tmp_path, 'echo "npm error code E404\nnpm error 404 Not Found" >&2\nexit 1')
    with pytest.raises(ValueError, match=r"npm could not fetch @tiny/pictures@1\.0\.0 \(E404\): check") as caught:
        npm.fetch(package, tmp_path / "packages")
    assert "\n" not in str(caught.value)
