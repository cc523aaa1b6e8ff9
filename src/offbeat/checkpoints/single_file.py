"""A whole checkpoint in one ``.safetensors`` file, as A1111, ComfyUI and CivitAI have them.

Such a file holds weights in names of its own, and neither settings nor tokenizers: these come from
a pipeline folder of the same family. The names are translated by diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offbeat.checkpoints.pipeline import PipelineFolder, locate
from offbeat.checkpoints.trust import check_settings, component_class, refuse_broken
from offbeat.checkpoints.weights import refuse_variant
from offbeat.errors import CheckpointError, UnsafeWeightsError

SUFFIX = ".safetensors"
SETTINGS = ("model_index.json", "card.json", "*/*.json", "*/*.txt", "*/*.model")
"""What is fetched of the folder that brings the settings: no weights."""
T5_KEY = "text_encoders.t5xxl.transformer.shared.weight"
"""A weight that tells a file with SD3's T5 encoder."""


def is_single_file(source: str | Path) -> bool:
    """Return whether a source is a file, by its suffix or because it is there."""
    path = Path(source).expanduser()
    return path.suffix == SUFFIX or path.is_file()


@dataclass(frozen=True, slots=True)
class SingleFile(PipelineFolder):
    """A pipeline whose weights are in one file, its settings and tokenizers in a folder."""

    file: Path = Path()
    weights: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """All tensors of the file, read from the disk when they are used."""

    def load(self, name: str, **kwargs: Any) -> Any:
        """Load one component: from the file if it is a network that is in it.

        Raises:
            CheckpointError: If it is in neither the file nor the folder, or is incomplete.
        """
        if "dtype" not in kwargs or not self.has(name):  # tokenizers and schedulers
            return PipelineFolder.load(self, name, **kwargs)
        module = self._from_file(name, kwargs["dtype"])
        if module is None:
            try:
                return PipelineFolder.load(self, name, **kwargs)
            except UnsafeWeightsError:
                raise
            except CheckpointError as error:
                raise CheckpointError(
                    f"{self.file}: holds no {name}, and {self.path} has no weights of it; give a "
                    f"pipeline folder that has, beside the file and named like it without {SUFFIX} "
                    f"({error})"
                ) from error
        absent = [key for key, weight in module.state_dict().items() if weight.is_meta]
        if absent:
            raise CheckpointError(
                f"{self.file}: {len(absent)} weights of {name} are missing, such as {absent[0]}; "
                "the file is damaged or of another model"
            )
        refuse_broken(module, self.file)
        return module

    def _from_file(self, name: str, dtype: Any) -> Any:
        """Return a network that the file holds; None if it holds none of this name."""
        from diffusers import pipelines
        from diffusers.loaders import single_file_utils
        from diffusers.loaders.single_file import load_single_file_sub_model

        library, class_name = self.index[name]
        component = component_class(name, library, class_name)
        check_settings(self.where(name))
        if not hasattr(component, "from_single_file"):  # text encoders: the library asks the folder
            is_clip = single_file_utils.is_clip_model_in_single_file(component, self.weights)
            is_t5 = class_name == "T5EncoderModel" and T5_KEY in self.weights
            if not is_clip and not is_t5:
                return None
        try:
            return load_single_file_sub_model(
                library,
                class_name,
                name,
                self.weights,
                pipelines,
                is_pipeline_module=False,
                cached_model_config_path=str(self.path),
                local_files_only=True,
                torch_dtype=dtype,
            )
        except single_file_utils.SingleFileComponentError:
            return None
        except Exception as error:  # the libraries raise many kinds; each means the same here
            raise CheckpointError(
                f"{self.file}: its {name} cannot be read as {class_name} with the settings in "
                f"{self.path}; a weight is missing, or it is of another model ({error})"
            ) from error

    def paths(self) -> list[Path]:
        """Return the file, and the folders of settings and of what is not in the file."""
        return [self.file, *PipelineFolder.paths(self)]


def open_pipeline(
    source: str | Path, *, only: tuple[str, ...], config: str | Path | None = None
) -> PipelineFolder:
    """Return the pipeline of a folder, hub id or single file.

    Args:
        source: Which.
        only: Patterns of the files of a folder that are fetched from the hub.
        config: Folder or hub id with settings and tokenizers of a single file; None is the folder
            beside it that is named like it, or the published one of its family.

    Raises:
        CheckpointError: If there is none, or a single file's settings cannot be found.
        UnsafeWeightsError: If the file is a pickle.
    """
    if not is_single_file(source):
        if config is not None:
            raise CheckpointError(f"{source}: is no single file, so it takes no config")
        return PipelineFolder.open(locate(source, only=only))
    file = Path(source).expanduser()
    refuse_variant(file)
    if file.suffix != SUFFIX:
        raise UnsafeWeightsError(
            f"{file}: expected a {SUFFIX} file or a folder; other files of weights are pickles, "
            "which can run code when read"
        )
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file")
    weights = _read(file)
    beside = file.with_suffix("")
    wanted = config if config is not None else beside if beside.is_dir() else _published(weights)
    try:
        folder = PipelineFolder.open(locate(wanted, only=SETTINGS))
    except CheckpointError as error:
        raise CheckpointError(
            f"{file}: a single file holds no settings and no tokenizer. They were looked for in "
            f"{wanted}: {error}. Put a pipeline folder of the same family beside the file, as "
            f"{beside}"
        ) from error
    return SingleFile(folder.path, folder.index, file=file, weights=weights)


def _read(file: Path) -> dict[str, Any]:
    """Return the tensors of a file; they are mapped, not copied."""
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except Exception as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({error})") from error


def _published(weights: Mapping[str, Any]) -> str:
    """Return the hub id of the published checkpoint of this family, as diffusers knows them."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    return str(fetch_diffusers_config(weights)["pretrained_model_name_or_path"])
