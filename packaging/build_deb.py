"""Builds the Debian package: `python packaging/build_deb.py WHEEL DIRECTORY`, called by `scripts/package`.

One package serves every release in `PYTHONS`. The libraries that the lock file names are the same files for each Python, but for
extension modules, whose names say for which Python they are: all lie side by side in one directory, and each Python's `site-packages`
is a link to it. (docs/decisions/0030)

    /usr/lib/weft-swarm/    an environment of its own: bin, pyvenv.cfg, lib/python3.N/site-packages -> ../../site, site
    /usr/bin/weft           a link to its command

The same sources give the same package, byte by byte: times are those of the last commit (SOURCE_DATE_EPOCH).
"""

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from email.utils import formatdate
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "packaging"
NAME = "weft-swarm"
PYTHONS = ("3.11", "3.13")
"""Those of bookworm and trixie."""
PLATFORM = "x86_64-manylinux_2_34"
"""Wheels for a C library as old as this; bookworm's is 2.36."""
LIMIT = 40 << 20
"""Bytes that the package may take on a host, with what its installation compiles."""
BYTECODE = 1.0
"""Bytes of compiled code for a byte of source."""
NOT_AT_RUN_TIME = (
    "*.pyx",
    "*.pxd",
    "*.pxi",
    "*.pyi",
    "*.c",
    "*.h",
    "py.typed",
    "*_testcapi*.so",
    "__pycache__",
    ".*",
)
"""What compilers, type checkers and tests need."""
UNUSED_PACKAGES = (
    "pycparser",
    "bin",
    "aiohttp/pytest_plugin.py",
    "aiohttp/test_utils.py",
    "click/testing.py",
    "uvloop/_testbase.py",
)
"""cffi uses pycparser to make modules, not to run them."""
LICENSES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
APACHE = "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION"
FILES = (
    ("packaging/weft.service", "usr/lib/systemd/system/weft.service"),
    ("packaging/weft.socket", "usr/lib/systemd/system/weft.socket"),
    ("packaging/networkd.conf", "usr/lib/systemd/networkd.conf.d/50-weft.conf"),
    ("packaging/config.toml", "etc/weft/config.toml"),
)
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/weft",
    "zsh": "usr/share/zsh/vendor-completions/_weft",
    "fish": "usr/share/fish/vendor_completions.d/weft.fish",
}
DOCUMENTATION = Path("usr/share/doc", NAME)
SCRIPTS = ("postinst", "prerm", "postrm")
"""Of the maintainer: dpkg runs them."""


def main(wheel: Path, directory: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "tree")
        tree.mkdir()
        licenses = install_libraries(Path(scratch), tree / "usr/lib/weft-swarm/site")
        install_wheel(wheel, tree / "usr/lib/weft-swarm/site")
        make_environment(tree / "usr/lib/weft-swarm")
        install_files(tree)
        document(tree, version, licenses)
        control(tree, version)
        take_rights(tree)
        date(tree)
        package = directory / f"{NAME}_{version}_amd64.deb"
        sh("dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, package)
    print(package)


def install_libraries(scratch: Path, site: Path) -> dict[str, str]:
    """The locked libraries for all Pythons; gives the license of each."""
    locked = scratch / "locked"
    sh(
        "uv",
        "export",
        "--quiet",
        "--frozen",
        "--no-dev",
        "--no-emit-project",
        "--output-file",
        locked,
    )
    licenses: dict[str, str] = {}
    for python in PYTHONS:
        found = scratch / python
        sh(
            "uv", "pip", "install", "--quiet", "--no-progress", "--target", found, "--python", sys.executable,
            "--python-version", python, "--python-platform", PLATFORM, "--only-binary", ":all:", "--require-hashes", "--no-deps",
            "--link-mode", "copy", "-r", locked,
        )  # fmt: skip
        licenses |= {info.name: license_of(info) for info in sorted(found.glob("*.dist-info"))}
        for pattern in (
            *UNUSED_PACKAGES,
            *(f"**/{name}" for name in NOT_AT_RUN_TIME),
            "*.dist-info",
        ):
            remove(*found.glob(pattern))
        merge(found, site)
    for module in site.rglob("*.so"):
        if ".cpython-" not in module.name and ".abi3." not in module.name:
            raise SystemExit(
                f"cannot share {module.name}: its name does not say for which Python it is"
            )
    return licenses


def merge(source: Path, target: Path) -> None:
    """Puts files of one Python beside those of the others. Raises SystemExit if the same name stands for different things."""
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            continue
        copy = target / path.relative_to(source)
        if copy.exists() and copy.read_bytes() != path.read_bytes():
            raise SystemExit(
                f"cannot share {path.relative_to(source)} among {', '.join(PYTHONS)}: it differs"
            )
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def license_of(info: Path) -> str:
    metadata = (info / "METADATA").read_text()
    name, version = (
        re.search(rf"^{key}: (.*)$", metadata, re.MULTILINE) for key in ("Name", "Version")
    )
    assert name is not None
    assert version is not None
    files = sorted({path for pattern in LICENSES for path in info.rglob(pattern) if path.is_file()})
    texts = "\n\n".join(own_words(path.read_text(errors="replace").strip()) for path in files)
    return f"{name[1]} {version[1]}\n\n{texts}" if texts else ""


def own_words(text: str) -> str:
    """Debian has one copy of this license for all packages."""
    return (
        "Apache License, Version 2.0: /usr/share/common-licenses/Apache-2.0"
        if APACHE in text
        else text
    )


def install_wheel(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site, [name for name in archive.namelist() if ".dist-info/" not in name])
    sh("strip", "--strip-unneeded", *sorted(site.rglob("*.so")))


def make_environment(library: Path) -> None:
    """What `venv` makes, for several Pythons: the interpreter finds the one that its own number names."""
    (library / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (library / "bin").mkdir()
    (library / "bin/python3").symlink_to("../../../bin/python3")
    command = library / "bin/weft"
    command.write_text(
        "#!/usr/lib/weft-swarm/bin/python3 -I\nimport sys\n\nfrom weft.cli import main\n\nsys.exit(main())\n"
    )
    for python in PYTHONS:
        link = library / f"lib/python{python}/site-packages"
        link.parent.mkdir(parents=True)
        link.symlink_to("../../site")


def install_files(tree: Path) -> None:
    for source, target in FILES:
        copy(ROOT / source, tree / target)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/weft").symlink_to("../lib/weft-swarm/bin/weft")
    for shell, target in COMPLETIONS.items():
        path = tree / target
        path.parent.mkdir(parents=True)
        path.write_text(weft(_WEFT_COMPLETE=f"{shell}_source"))


def document(tree: Path, version: str, licenses: dict[str, str]) -> None:
    directory = tree / DOCUMENTATION
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        copy(path, directory / path.name)
    for path in sorted((PACKAGING / "monitoring").iterdir()):
        copy(path, directory / "examples" / path.name)
    pack(directory / "NEWS.md.gz", (ROOT / "CHANGELOG.md").read_bytes())
    pack(directory / "changelog.gz", changes(version).encode())
    own = (PACKAGING / "debian/copyright").read_text()
    others = ["It contains these libraries:", *(text for text in licenses.values() if text)]
    (directory / "copyright").write_text(own + "\n\n----\n\n".join(others) + "\n")
    overrides = tree / f"usr/share/lintian/overrides/{NAME}"
    copy(PACKAGING / "debian/lintian-overrides", overrides)
    pages = tree / "usr/share/man/man8"
    pages.mkdir(parents=True)
    page = subprocess.check_output([sys.executable, PACKAGING / "manual.py", version, str(epoch())])
    pack(pages / "weft.8.gz", page)


def changes(version: str) -> str:
    """Debian's changelog. What changed for users is in CHANGELOG.md."""
    maintainer = re.search(
        r"^Maintainer: (.*)$", (PACKAGING / "debian/control").read_text(), re.MULTILINE
    )
    assert maintainer is not None
    head = f"{NAME} ({version}) stable; urgency=medium\n\n  * See NEWS.md.gz beside this file.\n"
    return f"{head}\n -- {maintainer[1]}  {formatdate(epoch(), localtime=False)}\n"


def control(tree: Path, version: str) -> None:
    directory = tree / "DEBIAN"
    directory.mkdir()
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    files = [path for path in files if directory not in path.parents]
    size = sum(path.stat().st_size for path in files)
    compiled = sum(path.stat().st_size for path in files if path.suffix == ".py") * BYTECODE
    if size + compiled > LIMIT:
        raise SystemExit(
            f"the package is too large: {size} bytes, and {compiled:.0f} of compiled code"
        )
    template = (PACKAGING / "debian/control").read_text()
    text = template.replace("@VERSION@", version).replace("@SIZE@", str(-(-size // 1024)))
    (directory / "control").write_text(text)
    copy(PACKAGING / "debian/conffiles", directory / "conffiles")
    for name in SCRIPTS:
        copy(PACKAGING / "debian" / name, directory / name)
    sums = subprocess.check_output(
        ["md5sum", *(path.relative_to(tree) for path in files)], cwd=tree
    )
    (directory / "md5sums").write_bytes(
        b"".join(line for line in sums.splitlines(True) if b" etc/" not in line)
    )


def take_rights(tree: Path) -> None:
    """The same rights whatever the umask of this process is."""
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            runs = path.parent.name == "bin" or path.name in SCRIPTS
            path.chmod(0o755 if path.is_dir() or runs else 0o644)


def date(tree: Path) -> None:
    for path in (*tree.rglob("*"), tree):
        os.utime(path, (epoch(), epoch()), follow_symlinks=False)


# --- small things


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def pack(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def weft(**variables: str) -> str:
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'weft'; from weft.cli import main; main()",
    ]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    return done.stdout


def epoch() -> int:
    return int(os.environ["SOURCE_DATE_EPOCH"])


def sh(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
