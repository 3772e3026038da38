"""The .tflite files of an exported folder as a browser takes them: their tensors, and why one may not run there."""

from dataclasses import dataclass
from pathlib import Path

from keras_resnet.archives import megabytes
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.export import tflite_file
from keras_resnet.export.formats import FORMATS

# LiteRT for the web has an address space of 2 GiB, which holds the file and its weights once more, rearranged.
MAX_MODEL_BYTES = 700_000_000
# Side by side where nothing else is asked for.
PREFERRED = ("float32", "int8")


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        dtype: Such as "float32" or "uint8".
        shape: Its shape; -1 where it is open.
        scale: What a step of a quantised tensor stands for; 1 where it is not quantised.
        zero_point: The number that stands for 0.
    """

    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int


@dataclass(frozen=True)
class ModelFile:
    """A .tflite file.

    Attributes:
        name: Its format, a key of `FORMATS`.
        path: The file.
        bytes: Its size.
        signature: The name of its signature.
        inputs: "images", and "target" where it explains the class that it is asked for.
        outputs: "probabilities", and "heatmap" where it has one.
    """

    name: str
    path: Path
    bytes: int
    signature: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def export_command(folder: Path, *flags: str) -> str:
    """Returns the command that writes an exported folder anew."""
    return " ".join(["python export.py", f"runs/{folder.name}", "--overwrite", "--with-heatmap input", *flags])


def find_model_files(folder: Path, names: tuple[str, ...] | None = None) -> tuple[list[ModelFile], list[str]]:
    """Finds the files of an exported folder that a page can run.

    Args:
        folder: A folder that `export` wrote.
        names: Which formats; default: those of `PREFERRED` that run, else the first that does.

    Returns:
        The files, at least one, and a sentence for each of `PREFERRED` that does not run in a browser.

    Raises:
        UserError: The folder is none of `export`, or holds no file that runs, or not all that are named.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Give one that export.py wrote, such as saved_models/NAME.")
    if (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is a run, and a browser runs .tflite files. Export it: {export_command(folder)}")
    known = [name for name, row in FORMATS.items() if row.runtime == "tflite"]
    present = [name for name in known if (folder / FORMATS[name].file).is_file()]
    if not present:
        inside = sorted({path.parent.name for path in folder.glob("*/*.tflite")})
        if inside:
            raise UserError(f"{folder} is no export itself. Name one that it holds: {', '.join(inside)}.")
        raise UserError(
            f"{folder} holds no .tflite file, which is what a browser runs. Write them: {export_command(folder)}"
        )
    for name in names or ():
        if name not in known:
            raise unknown_name("format of .tflite file", name, known)
        if name not in present:
            raise UserError(f"{folder} holds no {FORMATS[name].file}. It holds: {', '.join(present)}.")
    files, problems = [], []
    for name in names or sorted(present, key=lambda name: (name not in PREFERRED, known.index(name))):
        if names is None and name not in PREFERRED and files:
            break
        file = read_model_file(folder / FORMATS[name].file, name)
        problem = browser_problem(file)
        if problem is None:
            files.append(file)
        else:
            problems.append(problem)
    if not files or (names is not None and problems):
        raise UserError(problems[0])
    return files, problems


def read_model_file(path: Path, name: str) -> ModelFile:
    """Reads what a .tflite file takes and returns.

    Raises:
        UserError: It is damaged, or not a classifier that export.py wrote.
    """
    contents = path.read_bytes()
    try:
        model = tflite_file.parse(contents)
    except UserError as error:
        raise UserError(f"{path}: {error} Export it anew.") from None
    try:
        signature = (model.signatureDefs or [None])[0]
        inputs, outputs = (
            {name: _tensor(tensor) for name, tensor in tflite_file.named_tensors(model, entries)}
            for entries in ((signature.inputs, signature.outputs) if signature else ((), ()))
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: This is not a complete .tflite file: it was cut short or changed. Export it anew."
        ) from None
    if "images" not in inputs or "probabilities" not in outputs:
        raise UserError(
            f"{path} must take 'images' and return 'probabilities', as files of export.py do; it takes "
            f"{', '.join(inputs) or 'nothing by name'} and returns {', '.join(outputs) or 'nothing by name'}."
        )
    return ModelFile(name, path, len(contents), _text(signature.signatureKey), inputs, outputs)


def browser_problem(file: ModelFile) -> str | None:
    """Says why a file does not run in a browser and which command makes one that does; None where it runs."""
    batch = file.inputs["images"].shape[0]
    tensors = [*file.inputs.values(), *file.outputs.values()]
    if batch != 1:
        reason = "its batch is open" if batch < 0 else f"it takes {batch} images at a time"
        flags = ("--batch 1",)
    elif any(tensor.dtype not in ("float32", "uint8", "int32") for tensor in tensors):
        reason, flags = "it takes and returns int8", ("--io-type float32",)
    elif file.bytes > MAX_MODEL_BYTES:
        return (
            f"{file.path} does not run in a browser: its {megabytes(file.bytes)} are too large for one, which holds "
            f"{megabytes(MAX_MODEL_BYTES)}. Take a smaller format: --files int8"
        )
    else:
        return None
    command = export_command(file.path.parent, *flags)
    return f"{file.path} does not run in a browser: {reason}. Write one that does: {command}"


def _tensor(tensor: tflite_file.Tensor) -> Tensor:
    is_quantized = len(tensor.scale) == 1
    scale, zero_point = (tensor.scale[0], tensor.zero_point[0]) if is_quantized else (1.0, 0)
    return Tensor(tensor.dtype, tensor.shape, scale, zero_point)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
