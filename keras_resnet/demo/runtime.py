"""LiteRT for the web: one pinned version, had from npm's registry on first use, its digest checked.

The page needs it, the package does not carry it: 39 MB. It is looked for beside this module (where whoever builds a
wheel may put it), then in the cache of downloads.
"""

import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from keras_resnet.errors import UserError
from keras_resnet.storage import atomic_file
from keras_resnet.weights.download import cache_directory, matches_digest

PACKAGE = "@litertjs/core"
VERSION = "2.5.3"
DIGEST = (
    "sha512:3e51a66cc3aaf568ad5fb14ed2385b749c3d1ad85ab6ccae0905e34edff0259a"
    "3414b6b0e3cab8b73f08c2a82a08892f8981abf4e1432f59029cde27cd6a3225"
)
FILENAME = f"litertjs-core-{VERSION}.tgz"
TIMEOUT_S = 300

# Loader and WebAssembly: for browsers with relaxed SIMD, for those without, and with threads.
PLAIN, COMPATIBLE, THREADED = "litert_wasm_internal", "litert_wasm_compat_internal", "litert_wasm_threaded_internal"


@dataclass(frozen=True)
class Runtime:
    """What the page needs of the package.

    Attributes:
        library: Its JavaScript module.
        files: Name → contents of loaders (.js) and WebAssembly (.wasm).
    """

    library: str
    files: dict[str, bytes]


def open_runtime(package: Path | None = None) -> Runtime:
    """Reads LiteRT for the web, fetching it where it is not there yet.

    Args:
        package: The package's file, where the user has it already.

    Returns:
        Its parts.

    Raises:
        UserError: It cannot be had (the message says how to bring it by hand), or is not the published one.
    """
    path = _given(package) if package is not None else _found() or _fetch()
    names = [f"{build}{suffix}" for build in (PLAIN, COMPATIBLE, THREADED) for suffix in (".js", ".wasm")]
    with tarfile.open(path) as archive:
        files = {name: archive.extractfile(f"package/wasm/{name}").read() for name in names}
        library = archive.extractfile("package/dist/index.js").read().decode()
    return Runtime(library, files)


def _given(package: Path) -> Path:
    if not package.is_file():
        raise UserError(f"There is no file {package}. Give the file of {PACKAGE} {VERSION}.")
    if not matches_digest(package, DIGEST):
        raise UserError(f"{package} is not {PACKAGE} {VERSION}: its digest is another. Give that version's file.")
    return package


def _found() -> Path | None:
    beside = Path(__file__).with_name(FILENAME)
    if beside.is_file():
        return _given(beside)
    cached = cache_directory() / FILENAME
    # A damaged one is fetched anew.
    return cached if cached.is_file() and matches_digest(cached, DIGEST) else None


def _fetch() -> Path:
    by_hand = f"Or bring the file of {PACKAGE} {VERSION} from elsewhere and name it by --runtime FILE.tgz."
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"The page runs models by {PACKAGE}, which npm fetches on first use, and there is no npm. Install Node.js "
            f"(apt-get install npm). {by_hand}"
        )
    path = cache_directory() / FILENAME
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder, "--silent"]
        try:
            # In a folder of its own: settings of a project around it are not for this.
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
            failure = None if done.returncode == 0 else _reason(done.stderr + done.stdout)
        except subprocess.TimeoutExpired:
            failure = f"no answer for {TIMEOUT_S} s"
        fetched = Path(folder) / FILENAME
        if failure is None and not fetched.is_file():
            failure = "npm wrote no file"
        if failure is not None:
            raise UserError(
                f"{PACKAGE} cannot be fetched: {failure}. Connect to the network and run it again. {by_hand}"
            )
        if not matches_digest(fetched, DIGEST):
            raise UserError(f"What npm fetched is not the published {PACKAGE} {VERSION}: its digest is another.")
        with atomic_file(path) as temporary:
            shutil.copyfile(fetched, temporary)
    return path


def _reason(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return (lines[0] if lines else "npm gave no reason").removesuffix(".")[:200]
